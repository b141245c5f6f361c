"""mbind(2): errnos in their order, every combination of flags, what is moved and where."""

from mmigrate import MiB
from mmigrate.observe import Counters, areas, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
STRICT, MOVE, MOVE_ALL, LAZY = 1, 2, 4, 8


def _heap(machine, pages=4, **options):
    app = machine.process("app", **options)
    heap = app.mmap(pages=pages)
    app.touch(heap)
    return app, heap


def _flags(machine, flags, mode="bind", nodes=(1,)):
    """mbind of three pages on node 0: one of its own, one shared, one pinned."""
    app, heap = _heap(machine, 3)
    app.fork()
    app.write(heap.start, b"own")
    app.write(heap.start + 8192, b"own")
    pin = app.pin(heap[2:3])
    counters = Counters(machine)
    seen = {
        "call": attempt(app.mbind, heap, mode, nodes, flags=flags),
        "at": app.placement(heap),
        "policy": attempt(app.get_mempolicy, heap.start, 2),
        "counters": counters.change(),
    }
    pin.release()
    return seen


def flags_none(machine):
    """Nothing is looked at."""
    return _flags(machine, 0)


def flags_strict(machine):
    """A misplaced page is -EIO and the policy is not applied."""
    return _flags(machine, STRICT)


def flags_move(machine):
    """What is exclusive moves; the rest stays silently."""
    return _flags(machine, MOVE)


def flags_move_all(machine):
    """Shared pages move too."""
    return _flags(machine, MOVE_ALL)


def flags_move_strict(machine):
    """A pinned page is -EIO, and the policy is applied."""
    return _flags(machine, MOVE | STRICT)


def flags_move_all_strict(machine):
    """The same with shared pages."""
    return _flags(machine, MOVE_ALL | STRICT)


def flags_all(machine):
    """All three."""
    return _flags(machine, MOVE | MOVE_ALL | STRICT)


def flags_default_move(machine):
    """MPOL_DEFAULT with MOVE: every exclusive page is allocated anew, here on the same node."""
    return _flags(machine, MOVE, "default", ())


def flags_default_strict(machine):
    """MPOL_DEFAULT drops STRICT."""
    return _flags(machine, STRICT, "default", ())


def flags_local_strict(machine):
    """An empty mask makes every page misplaced."""
    return _flags(machine, STRICT, "local", ())


def flags_local_move(machine):
    """To the node of the CPU."""
    return _flags(machine, MOVE, "local", ())


def flags_preferred_move(machine):
    """Preferred node 2."""
    return _flags(machine, MOVE, "preferred", (2,))


def strict_and_well_placed(machine):
    """STRICT is content with what is where it should be."""
    app, heap = _heap(machine)
    return {
        "bind": attempt(app.mbind, heap, "bind", [0], flags=STRICT),
        "interleave": attempt(app.mbind, heap, "interleave", [0, 1], flags=STRICT),
        "move too": attempt(app.mbind, heap, "bind", [0, 2], flags=STRICT | MOVE),
        "at": app.placement(heap),
    }


def strict_move_of_a_shared_page(machine):
    """One shared page that is skipped."""
    app, heap = _heap(machine, 1)
    app.fork()
    return {
        "call": attempt(app.mbind, heap, "bind", [1], flags=STRICT | MOVE),
        "policy": attempt(app.get_mempolicy, heap.start, 2),
        "at": app.placement(heap),
    }


def strict_move_of_a_pinned_page(machine):
    """One pinned page."""
    app, heap = _heap(machine, 1)
    pin = app.pin(heap)
    seen = {
        "call": attempt(app.mbind, heap, "bind", [1], flags=STRICT | MOVE),
        "policy": attempt(app.get_mempolicy, heap.start, 2),
    }
    pin.release()
    return seen


def strict_with_a_zero_page(machine):
    """The page of zeroes is nobody's business."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap, write=False)
    return {
        "strict": attempt(app.mbind, heap, "bind", [1], flags=STRICT),
        "move": attempt(app.mbind, heap, "bind", [2], flags=STRICT | MOVE),
    }


def strict_with_pages_in_swap(machine):
    """Not present, so not misplaced."""
    machine.swapon(MiB(16))
    app, heap = _heap(machine, 2)
    out = machine.swap_out(app, heap)
    return {
        "out": out,
        "strict": attempt(app.mbind, heap, "bind", [1], flags=STRICT),
        "touched": attempt(app.touch, heap),
        "at": app.placement(heap),
    }


def unknown_flags(machine):
    """LAZY and bits that do not exist."""
    app, heap = _heap(machine)
    return {
        "lazy": attempt(app.mbind, heap, "bind", [1], flags=LAZY),
        "move lazy": attempt(app.mbind, heap, "bind", [1], flags=LAZY | MOVE),
        "16": attempt(app.mbind, heap, "bind", [1], flags=16),
        "32": attempt(app.mbind, heap, "bind", [1], flags=32),
        "1<<20": attempt(app.mbind, heap, "bind", [1], flags=1 << 20),
    }


def move_all_by_a_user(machine):
    """Needs CAP_SYS_NICE."""
    app, heap = _heap(machine, uid=1000)
    return {
        "move all": attempt(app.mbind, heap, "bind", [1], flags=MOVE_ALL),
        "unaligned": attempt(app.mbind, heap.start + 1, "bind", [1], length=4096, flags=MOVE_ALL),
        "bad flags": attempt(app.mbind, heap, "bind", [1], flags=MOVE_ALL | 64),
        "move": attempt(app.mbind, heap, "bind", [1], flags=MOVE),
    }


def modes_that_do_not_exist(machine):
    """Modes from 5 on, and both mode flags."""
    app, heap = _heap(machine)
    return {
        **{str(mode): attempt(app.mbind, heap, mode, [1]) for mode in (5, 6, 7, 8, 100, 1 << 13)},
        "both": attempt(app.mbind, heap, 2 | 3 << 14, [1]),
        "negative": attempt(app.mbind, heap, (1 << 31) | 2, [1]),
    }


def masks_and_modes(machine):
    """Which modes need nodes, and which must have none."""
    app, heap = _heap(machine)
    seen = {}
    for mode in ("default", "preferred", "bind", "interleave", "local"):
        for flag in ("", "=static", "=relative"):
            seen[f"{mode}{flag} none"] = attempt(app.mbind, heap, mode + flag, [])
            seen[f"{mode}{flag} 1"] = attempt(app.mbind, heap, mode + flag, [1])
    return seen


def nodes_that_are_none(machine):
    """Without memory, absent, beyond what the kernel knows."""
    app, heap = _heap(machine)
    return {
        "3": attempt(app.mbind, heap, "bind", [3]),
        "9": attempt(app.mbind, heap, "bind", [9]),
        "1 and 9": attempt(app.mbind, heap, "bind", [1, 9]),
        "then": areas(app, heap),
        "1023": attempt(app.mbind, heap, "bind", [1023]),
        "1024": attempt(app.mbind, heap, "bind", [1024]),
        "1 and 2000": attempt(app.mbind, heap, "bind", [1, 2000]),
        "preferred 9": attempt(app.mbind, heap, "preferred", [9]),
        "relative 9": attempt(app.mbind, heap, "bind=relative", [9]),
        "and": areas(app, heap),
    }


def sizes_of_masks(machine):
    """maxnode is one more than the number of bits."""
    app, heap = _heap(machine)
    return {
        str(maxnode): attempt(app.mbind, heap, "bind", [1], maxnode=maxnode)
        for maxnode in (1, 2, 3, 64, 65, 1024, 1025, 2048, 32768, 32769, 32770, 1 << 40)
    }


def addresses_that_make_no_sense(machine):
    """Unaligned, empty, wrapping around."""
    app, heap = _heap(machine)
    top = (1 << 64) - 4096
    return {
        "unaligned": attempt(app.mbind, heap.start + 1, "bind", [1], length=4096),
        "empty": attempt(app.mbind, heap.start, "bind", [1], length=0),
        "empty hole": attempt(app.mbind, 0x10000, "bind", [1], length=0),
        "empty bad mask": attempt(app.mbind, heap.start, "bind", [], length=0),
        "wraps": attempt(app.mbind, heap.start, "bind", [1], length=top),
        "to the top": attempt(app.mbind, top, "bind", [1], length=4096),
        "part of a page": attempt(app.mbind, heap.start, "bind", [1], length=1),
        "then": areas(app, heap),
    }


def _holes(machine, mode, nodes, flags=0):
    """Six pages, of which the third is unmapped."""
    app, heap = _heap(machine, 6)
    app.munmap(heap[2:3])
    app.munmap(heap[5:6])
    ranges = {
        "in the middle": heap[0:5],
        "at the start": heap[2:5],
        "at the end": heap[3:6],
        "nothing but hole": heap[2:3],
    }
    seen = {}
    for name, where in ranges.items():
        seen[name] = attempt(app.mbind, where, mode, nodes, flags=flags)
    return {**seen, "areas": areas(app, heap), "at": app.placement(heap)}


def holes(machine):
    """Holes in the range, with a policy."""
    return _holes(machine, "bind", [1])


def holes_and_move(machine):
    """Holes in the range, and pages to move."""
    return _holes(machine, "bind", [1], MOVE)


def holes_and_default(machine):
    """MPOL_DEFAULT does not mind."""
    return _holes(machine, "default", [])


def holes_and_strict(machine):
    """STRICT looks at everything."""
    return _holes(machine, "bind", [0], STRICT)


def hole_before_another_area(machine):
    """A hole at the end of the range, and an area beyond it."""
    app, heap = _heap(machine, 6)
    app.munmap(heap[3:5])
    return {
        "call": attempt(app.mbind, heap[0:4], "bind", [1], flags=MOVE),
        "areas": areas(app, heap),
    }


def beyond_everything(machine):
    """Nothing is mapped at or after start."""
    app = machine.process("app")
    return {
        "bind": attempt(app.mbind, (1 << 47) - 4096, "bind", [1], length=4096),
        "default": attempt(app.mbind, (1 << 47) - 4096, "default", length=4096),
    }


def areas_are_split_and_merged(machine):
    """A policy in the middle of an area, and gone again."""
    app, heap = _heap(machine, 6)
    seen = {"middle": attempt(app.mbind, heap[2:4], "bind", [1]), "three": areas(app, heap)}
    seen["same"] = attempt(app.mbind, heap[4:6], "bind", [1])
    seen["two"] = areas(app, heap)
    seen["default"] = attempt(app.mbind, heap, "default")
    return {**seen, "one": areas(app, heap)}


def interleave_and_move(machine):
    """Pages not on the nodes are spread by their place in the area."""
    app = machine.process("app")
    heap = app.mmap(pages=8, at=3 << 32)  # interleaving goes by the address
    app.touch(heap)
    return {
        "call": attempt(app.mbind, heap, "interleave", [1, 2], flags=MOVE),
        "at": [attempt(app.move_pages, heap), app.placement(heap)],
    }


def bind_to_several_and_move(machine):
    """The nearest to the CPU of those allowed."""
    app, heap = _heap(machine, 4)
    app.on_cpu(2)
    return {
        "call": attempt(app.mbind, heap, "bind", [1, 2], flags=MOVE),
        "at": app.placement(heap),
    }


def default_moves_to_the_cpu(machine):
    """MPOL_DEFAULT with MOVE follows the CPU that calls."""
    app, heap = _heap(machine, 4)
    app.on_cpu(1)
    return {
        "call": attempt(app.mbind, heap, "default", flags=MOVE),
        "at": app.placement(heap),
    }


def static_and_relative_and_move(machine):
    """What is misplaced is judged by the user's mask."""
    app, heap = _heap(machine, 4)
    return {
        "static": attempt(app.mbind, heap, "bind=static", [1], flags=MOVE),
        "one": app.placement(heap),
        "relative": attempt(app.mbind, heap, "bind=relative", [5], flags=MOVE),
        "two": app.placement(heap),
        "policy": attempt(app.get_mempolicy, heap.start, 2),
        "areas": areas(app, heap),
    }


def touched_later(machine):
    """A policy is for what is not there yet."""
    app = machine.process("app")
    heap = app.mmap(pages=6, at=3 << 32)  # interleaving goes by the address
    app.mbind(heap[0:3], "bind", [1])
    app.mbind(heap[3:6], "interleave", [0, 2])
    app.touch(heap)
    return {"at": attempt(app.move_pages, heap), "areas": areas(app, heap)}


def children_have_it_too(machine):
    """fork copies the policies of areas and of the task."""
    app = machine.process("app", policy=("interleave", [0, 1]))
    heap = app.mmap(pages=4)
    app.mbind(heap, "bind=static", [1, 2])
    child = app.fork()
    child.touch(heap)
    return {
        "task": attempt(child.get_mempolicy),
        "area": attempt(child.get_mempolicy, heap.start, 2),
        "at": child.placement(heap),
    }


def write_protected_pages(machine):
    """Read-only areas move as well and stay read-only."""
    app, heap = _heap(machine, 2)
    app.mprotect(heap, "r")
    return {
        "call": attempt(app.mbind, heap, "bind", [1], flags=MOVE),
        "at": app.placement(heap),
        "store": attempt(app.touch, heap),
        "load": attempt(app.read, heap.start, 1),
    }
