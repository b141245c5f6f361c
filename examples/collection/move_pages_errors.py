"""move_pages(2): every errno of the call as a whole, and what has moved when it ends with one."""

from mmigrate import MiB
from mmigrate.observe import Counters, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
MOVE, MOVE_ALL = 2, 4


def _heap(machine, pages, **options):
    app = machine.process("app", **options)
    heap = app.mmap(pages=pages)
    app.touch(heap)
    return app, heap


def flags_that_do_not_exist(machine):
    """MPOL_MF_STRICT, MPOL_MF_LAZY and unknown bits."""
    app, heap = _heap(machine, 1)
    return {
        str(flags): attempt(app.move_pages, heap, 1, flags=flags)
        for flags in (1, 8, 16, 1 << 20, 1 << 30)
    }


def no_flags_at_all(machine):
    """Flags 0 mean MPOL_MF_MOVE."""
    app, heap = _heap(machine, 2)
    app.fork()
    return {"shared": attempt(app.move_pages, heap, 1, flags=0), "at": app.placement(heap)}


def both_flags(machine):
    """MOVE and MOVE_ALL together mean MOVE_ALL."""
    app, heap = _heap(machine, 2)
    app.fork()
    return {"shared": attempt(app.move_pages, heap, 1, flags=MOVE | MOVE_ALL)}


def move_all_needs_a_capability(machine):
    """MOVE_ALL without CAP_SYS_NICE."""
    app, heap = _heap(machine, 1, uid=1000)
    return {
        "move all": attempt(app.move_pages, heap, 1, flags=MOVE_ALL),
        "move": attempt(app.move_pages, heap, 1, flags=MOVE),
    }


def move_all_with_bad_flags(machine):
    """The flags are looked at before the capability."""
    app, heap = _heap(machine, 1, uid=1000)
    return {"both": attempt(app.move_pages, heap, 1, flags=MOVE_ALL | 64)}


def process_that_has_gone(machine):
    """No task has this number any more."""
    app, heap = _heap(machine, 1)
    other = machine.process("other")
    other.exit()
    return {
        "move": attempt(app.move_pages, heap, 1, process=other),
        "query": attempt(app.move_pages, heap, process=other),
        "bad flags first": attempt(app.move_pages, heap, 1, process=other, flags=32),
    }


def process_of_another_user(machine):
    """Neither the same user nor CAP_SYS_NICE."""
    app, heap = _heap(machine, 1)
    user = machine.process("user", uid=1000)
    return {
        "move": attempt(user.move_pages, heap, 1, process=app),
        "query": attempt(user.move_pages, heap, process=app),
        "at": app.placement(heap),
    }


def two_processes_of_one_user(machine):
    """The same user may."""
    app, heap = _heap(machine, 2, uid=1000)
    other = machine.process("other", uid=1000)
    return {"move": attempt(other.move_pages, heap, 1, process=app), "at": app.placement(heap)}


def root_moves_for_a_user(machine):
    """Root may, with or without MOVE_ALL."""
    app, heap = _heap(machine, 2, uid=1000)
    root = machine.process("root")
    return {
        "move": attempt(root.move_pages, heap, 1, process=app),
        "move all": attempt(root.move_pages, heap, 2, process=app, flags=MOVE_ALL),
    }


def no_pages(machine):
    """An empty list is no error."""
    app = machine.process("app")
    return {"move": attempt(app.move_pages, [], []), "query": attempt(app.move_pages, [])}


def nodes_that_do_not_exist(machine):
    """Negative, too large, possible but absent."""
    app, heap = _heap(machine, 1)
    return {
        str(node): attempt(app.move_pages, heap, node)
        for node in (-1, -(1 << 31), 7, 63, 64, 1023, 1024, 1 << 20)
    }


def node_without_memory(machine):
    """A node that has CPUs only."""
    app, heap = _heap(machine, 1)
    return {"node 3": attempt(app.move_pages, heap, 3), "at": app.placement(heap)}


def bad_node_in_the_middle(machine):
    """Which pages before a bad node have moved."""
    app, heap = _heap(machine, 4)
    return {"call": attempt(app.move_pages, heap, [1, 1, 9, 1]), "at": app.placement(heap)}


def bad_node_first(machine):
    """Nothing has moved."""
    app, heap = _heap(machine, 3)
    return {"call": attempt(app.move_pages, heap, [9, 1, 1]), "at": app.placement(heap)}


def bad_node_after_a_chunk(machine):
    """170 pages, the last of which has a bad node: the first chunk has moved."""
    app, heap = _heap(machine, 170)
    nodes = [1] * 169 + [9]
    return {"call": attempt(app.move_pages, heap, nodes), "at": app.placement(heap)}


def bad_node_and_bad_address(machine):
    """A node that is none is told even where no memory is."""
    app = machine.process("app")
    return {"call": attempt(app.move_pages, [0x10000], 9)}


def more_than_a_chunk(machine):
    """170 pages in one call."""
    app, heap = _heap(machine, 170)
    counters = Counters(machine)
    return {
        "call": attempt(app.move_pages, heap, 1),
        "at": app.placement(heap),
        "counters": counters.change(),
    }


def several_chunks_of_two_nodes(machine):
    """400 pages, every other to another node."""
    app, heap = _heap(machine, 400)
    return {
        "call": attempt(app.move_pages, heap, [1 + page % 2 for page in range(400)]),
        "at": app.placement(heap),
    }


def capability_without_root(machine):
    """CAP_SYS_NICE alone allows MOVE_ALL."""
    app, heap = _heap(machine, 1, uid=1000, capabilities=["CAP_SYS_NICE"])
    app.fork()
    return {"move all": attempt(app.move_pages, heap, 1, flags=MOVE_ALL)}


def root_without_the_capability(machine):
    """User 0 without CAP_SYS_NICE may not MOVE_ALL."""
    app, heap = _heap(machine, 1, capabilities=[])
    return {
        "move all": attempt(app.move_pages, heap, 1, flags=MOVE_ALL),
        "move": attempt(app.move_pages, heap, 1),
    }
