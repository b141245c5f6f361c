"""set_mempolicy(2) and get_mempolicy(2): modes, flags, masks, and where pages come from."""

from mmigrate import MiB
from mmigrate.observe import areas, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
NODE, ADDR, MEMS_ALLOWED = 1, 2, 4
PLACE = 3 << 32  # interleaving goes by the address


def _set_and_get(machine, mode, nodes):
    app = machine.process("app")
    heap = app.mmap(pages=6, at=PLACE)
    seen = {"set": attempt(app.set_mempolicy, mode, nodes), "get": attempt(app.get_mempolicy)}
    app.touch(heap)
    return {**seen, "at": attempt(app.move_pages, heap), "areas": areas(app, heap)}


def default(machine):
    """No policy."""
    return _set_and_get(machine, "default", [])


def local(machine):
    """The node of the CPU."""
    return _set_and_get(machine, "local", [])


def preferred(machine):
    """One node."""
    return _set_and_get(machine, "preferred", [1])


def preferred_of_several(machine):
    """The lowest of them."""
    return _set_and_get(machine, "preferred", [1, 2])


def preferred_none(machine):
    """An empty mask means local."""
    return _set_and_get(machine, "preferred", [])


def preferred_static(machine):
    """The user's mask is kept."""
    return _set_and_get(machine, "preferred=static", [2])


def preferred_relative(machine):
    """The mask is laid over what is allowed."""
    return _set_and_get(machine, "preferred=relative", [4])


def bind_one(machine):
    """One node."""
    return _set_and_get(machine, "bind", [2])


def bind_several(machine):
    """The nearest first."""
    return _set_and_get(machine, "bind", [1, 2])


def bind_static(machine):
    """The user's mask is kept, even what is not there."""
    return _set_and_get(machine, "bind=static", [1, 9])


def bind_relative(machine):
    """Bits 3 and 4 of three nodes are 0 and 1."""
    return _set_and_get(machine, "bind=relative", [3, 4])


def interleave(machine):
    """In turn."""
    return _set_and_get(machine, "interleave", [0, 1, 2])


def interleave_static(machine):
    """In turn over what is there."""
    return _set_and_get(machine, "interleave=static", [1, 2, 9])


def interleave_relative(machine):
    """Laid over what is allowed."""
    return _set_and_get(machine, "interleave=relative", [1, 5])


def what_set_refuses(machine):
    """Every errno of set_mempolicy."""
    app = machine.process("app")
    seen = {}
    for mode in ("default", "preferred", "bind", "interleave", "local"):
        for flag in ("", "=static", "=relative"):
            for nodes in ([], [1], [9]):
                seen[f"{mode}{flag} {nodes}"] = attempt(app.set_mempolicy, mode + flag, nodes)
    for mode in (7, 8, 255, 1 << 13, 2 | 3 << 14):
        seen[f"mode {mode}"] = attempt(app.set_mempolicy, mode, [1])
    return seen


def sizes_of_masks(machine):
    """maxnode is one more than the number of bits."""
    app = machine.process("app")
    return {
        str(maxnode): [
            attempt(app.set_mempolicy, "bind", [0, 1], maxnode=maxnode),
            attempt(app.get_mempolicy),
        ]
        for maxnode in (1, 2, 3, 65, 1025, 32769, 32770, 1 << 40)
    }


def sizes_of_the_answer(machine):
    """How much room get_mempolicy asks for."""
    app = machine.process("app")
    return {
        str(maxnode): attempt(app.get_mempolicy, maxnode=maxnode)
        for maxnode in (1, 3, 63, 64, 1023, 1024, 1025, 2048)
    }


def flags_of_get(machine):
    """Every combination of flags, with and without an address."""
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    seen = {}
    for flags in range(16):
        seen[f"{flags} none"] = attempt(app.get_mempolicy, 0, flags)
        seen[f"{flags} heap"] = attempt(app.get_mempolicy, heap.start, flags)
    return seen


def flags_of_get_with_policies(machine):
    """The same where task and area have policies."""
    app = machine.process("app", policy=("interleave", [1, 2]))
    heap = app.mmap(pages=2, at=PLACE)
    app.mbind(heap, "preferred=static", [2])
    seen = {}
    for flags in (0, NODE, ADDR, NODE | ADDR, MEMS_ALLOWED):
        seen[f"{flags} none"] = attempt(app.get_mempolicy, 0, flags)
        seen[f"{flags} heap"] = attempt(app.get_mempolicy, heap.start, flags)
    return {**seen, "at": app.placement(heap)}


def node_of_an_address_faults_it_in(machine):
    """NODE and ADDR: the page comes by being asked for, as the page of zeroes."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    return {
        "node": attempt(app.get_mempolicy, heap.start, NODE | ADDR),
        "at": app.placement(heap),
        "mincore": attempt(app.mincore, heap),
        "nothing there": attempt(app.get_mempolicy, 0x10000, NODE | ADDR),
    }


def node_of_a_moved_page(machine):
    """It tells the truth after a move."""
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    seen = [attempt(app.get_mempolicy, heap.start, NODE | ADDR)]
    for node in (1, 2):
        app.move_pages(heap, node)
        seen.append(attempt(app.get_mempolicy, heap.start, NODE | ADDR))
    return {"nodes": seen}


def node_without_access(machine):
    """PROT_NONE cannot be faulted in."""
    app = machine.process("app")
    heap = app.mmap(pages=1, prot="")
    return {"node": attempt(app.get_mempolicy, heap.start, NODE | ADDR)}


def next_node_of_interleaving(machine):
    """NODE alone tells where the next page goes."""
    app = machine.process("app")
    heap = app.mmap(pages=2, at=PLACE)
    app.touch(heap[0:1])  # the page table is there, too
    app.set_mempolicy("interleave", [0, 2])
    seen = [attempt(app.get_mempolicy, 0, NODE)]
    app.touch(heap)
    seen.append(attempt(app.get_mempolicy, 0, NODE))
    attempt(app.set_mempolicy, "interleave", [1])
    seen.append(attempt(app.get_mempolicy, 0, NODE))
    attempt(app.set_mempolicy, "bind", [1])
    return {"next": seen, "other": attempt(app.get_mempolicy, 0, NODE)}


def addresses_of_get(machine):
    """Where there is no area."""
    app = machine.process("app")
    return {
        "addr": attempt(app.get_mempolicy, 0x10000, ADDR),
        "top": attempt(app.get_mempolicy, (1 << 64) - 4096, ADDR),
        "no flag": attempt(app.get_mempolicy, 0x10000, 0),
    }


def area_goes_before_task(machine):
    """The policy of an area wins over the task's."""
    app = machine.process("app", policy=("bind", [1]))
    heap = app.mmap(pages=4)
    app.mbind(heap[0:2], "bind", [2])
    app.touch(heap)
    return {"at": attempt(app.move_pages, heap), "areas": areas(app, heap)}


def policy_changes_nothing_that_is_there(machine):
    """set_mempolicy moves nothing."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap)
    app.set_mempolicy("bind", [1])
    return {"at": app.placement(heap), "areas": areas(app, heap)}


def shared_memory_keeps_its_policy(machine):
    """The policy of shared memory belongs to the object, for all who map it."""
    shm = machine.shmem("segment", 6 * 4096)
    one, two = machine.process("one"), machine.process("two")
    here = one.mmap(pages=6, file=shm, shared=True)
    there = two.mmap(pages=6, file=shm, shared=True)
    one.mbind(here[0:3], "bind", [1])
    two.touch(there)
    return {
        "at": attempt(two.move_pages, there),
        "one": attempt(one.get_mempolicy, here.start, ADDR),
        "two": attempt(two.get_mempolicy, there.start, ADDR),
        "the rest": attempt(two.get_mempolicy, there.start + 5 * 4096, ADDR),
    }


def files_take_the_policy_of_the_task(machine):
    """A policy on a mapping of a file does not count for the page cache."""
    file = machine.file("data", 4 * 4096, fs="ext4", data=b"x" * 4 * 4096)
    app = machine.process("app")
    view = app.mmap(pages=4, file=file, shared=True, prot="r")
    app.mbind(view, "bind", [2])
    app.touch(view, write=False)
    return {"at": app.placement(view)}


def copies_on_write_follow_the_policy(machine):
    """A copy is a new page."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.write(heap.start, b"original")
    child = app.fork()
    child.mbind(heap, "bind", [2])
    child.write(heap.start + 8, b" copied")
    return {
        "child": child.placement(heap),
        "parent": app.placement(heap),
        "contents": attempt(child.read, heap.start, 15),
    }
