"""migrate_pages(2): pairs of nodes, errnos, what it leaves alone."""

from mmigrate import MiB
from mmigrate.observe import Counters, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}


def _spread(machine, **options):
    """A process with 10 pages on node 0, 20 on node 1 and 30 on node 2."""
    app = machine.process("app", **options)
    heap = app.mmap(pages=60)
    app.mbind(heap[0:10], "bind", [0])
    app.mbind(heap[10:30], "bind", [1])
    app.mbind(heap[30:60], "bind", [2])
    app.touch(heap)
    app.mbind(heap, "default")
    return app, heap


def _pairs(machine, from_, to):
    app, heap = _spread(machine)
    counters = Counters(machine)
    return {
        "left": attempt(app.migrate_pages, from_, to),
        "at": app.placement(heap),
        "counters": counters.change(),
    }


def one_to_one(machine):
    """Node 0 to node 1."""
    return _pairs(machine, [0], [1])


def shifted(machine):
    """{0,1} to {1,2}: 1 to 2 first."""
    return _pairs(machine, [0, 1], [1, 2])


def onto_itself(machine):
    """{0,1} to {0,1}: every node maps to itself."""
    return _pairs(machine, [0, 1], [0, 1])


def two_to_one(machine):
    """{0,1} to {2}."""
    return _pairs(machine, [0, 1], [2])


def two_to_one_of_them(machine):
    """{0,1} to {1}: sizes differ, so node 1 stays."""
    return _pairs(machine, [0, 1], [1])


def all_to_one(machine):
    """{0,1,2} to {0}."""
    return _pairs(machine, [0, 1, 2], [0])


def one_to_many(machine):
    """{0} to {1,2}: the first of them."""
    return _pairs(machine, [0], [1, 2])


def rotated(machine):
    """{0,2} to {1,2}."""
    return _pairs(machine, [0, 2], [1, 2])


def all_to_two(machine):
    """{0,1,2} to {1,2}."""
    return _pairs(machine, [0, 1, 2], [1, 2])


def from_an_empty_node(machine):
    """A source without memory or without pages gives nothing."""
    app, heap = _spread(machine)
    return {
        "node 3": attempt(app.migrate_pages, [3], [0]),
        "node 9": attempt(app.migrate_pages, [9], [0]),
        "at": app.placement(heap),
    }


def to_nowhere(machine):
    """Empty masks."""
    app, heap = _spread(machine)
    return {
        "to none": attempt(app.migrate_pages, [0], []),
        "from none": attempt(app.migrate_pages, [], [1]),
        "neither": attempt(app.migrate_pages, [], []),
        "at": app.placement(heap),
    }


def to_nodes_without_memory(machine):
    """A destination that does not exist, or has no memory."""
    app, heap = _spread(machine)
    return {
        "node 3": attempt(app.migrate_pages, [0], [3]),
        "node 9": attempt(app.migrate_pages, [0], [9]),
        "one good": attempt(app.migrate_pages, [0], [1, 9]),
        "at": app.placement(heap),
    }


def to_nodes_without_memory_by_a_user(machine):
    """Without CAP_SYS_NICE the same asks for permission."""
    app, heap = _spread(machine, uid=1000)
    return {
        "node 3": attempt(app.migrate_pages, [0], [3]),
        "node 9": attempt(app.migrate_pages, [0], [9]),
        "one good": attempt(app.migrate_pages, [0], [1, 9]),
        "good": attempt(app.migrate_pages, [0], [1]),
        "at": app.placement(heap),
    }


def sizes_of_masks(machine):
    """maxnode is one more than the number of bits."""
    app, heap = _spread(machine)
    return {
        "2": [attempt(app.migrate_pages, [0], [1], maxnode=2), app.placement(heap)],
        "3": [attempt(app.migrate_pages, [0], [1], maxnode=3), app.placement(heap)],
        "1024": attempt(app.migrate_pages, [1], [0], maxnode=1024),
        "32769": attempt(app.migrate_pages, [1], [0], maxnode=32769),
        "32770": attempt(app.migrate_pages, [1], [0], maxnode=32770),
        "huge": attempt(app.migrate_pages, [1], [0], maxnode=1 << 40),
    }


def process_that_has_gone(machine):
    """No such process; masks are read before it is looked for."""
    app, _ = _spread(machine)
    other = machine.process("other")
    other.exit()
    return {
        "gone": attempt(app.migrate_pages, [0], [1], process=other),
        "bad mask": attempt(app.migrate_pages, [0], [1], process=other, maxnode=1 << 40),
    }


def process_of_another_user(machine):
    """Neither the same user nor CAP_SYS_NICE."""
    app, heap = _spread(machine)
    user = machine.process("user", uid=1000)
    return {
        "call": attempt(user.migrate_pages, [0], [1], process=app),
        "bad nodes": attempt(user.migrate_pages, [0], [9], process=app),
        "at": app.placement(heap),
    }


def same_user(machine):
    """Two processes of one user."""
    app, heap = _spread(machine, uid=1000)
    other = machine.process("other", uid=1000)
    return {
        "call": attempt(other.migrate_pages, [0], [1], process=app),
        "at": app.placement(heap),
    }


def shared_by_root(machine):
    """Root moves shared pages too."""
    app, heap = _spread(machine)
    child = app.fork()
    return {
        "call": attempt(app.migrate_pages, [0], [1]),
        "at": app.placement(heap),
        "child": child.placement(heap),
    }


def shared_by_a_user(machine):
    """A user moves exclusive pages only; what is left alone is not counted."""
    app, heap = _spread(machine, uid=1000)
    child = app.fork()
    child.touch(heap[0:4])
    return {
        "call": attempt(app.migrate_pages, [0], [1]),
        "at": app.placement(heap),
        "child": child.placement(heap),
    }


def pinned_pages_are_counted(machine):
    """What could not be moved is the result."""
    app, heap = _spread(machine)
    pin = app.pin(heap[2:5])
    counters = Counters(machine)
    seen = {
        "call": attempt(app.migrate_pages, [0], [1]),
        "at": app.placement(heap),
        "counters": counters.change(),
    }
    pin.release()
    return seen


def pinned_pages_of_two_pairs(machine):
    """The results of both pairs are added."""
    app, heap = _spread(machine)
    pins = [app.pin(heap[2:5]), app.pin(heap[12:14])]
    seen = {"call": attempt(app.migrate_pages, [0, 1], [1, 2]), "at": app.placement(heap)}
    for pin in pins:
        pin.release()
    return seen


def pages_in_swap_stay(machine):
    """They are not there to be moved, and come back where the policy says."""
    machine.swapon(MiB(16))
    app, heap = _spread(machine)
    machine.swap_out(app, heap[0:4])
    seen = {"call": attempt(app.migrate_pages, [0], [2]), "at": app.placement(heap)}
    app.touch(heap)
    return {**seen, "then": app.placement(heap)}


def locked_pages_move(machine):
    """mlock does not keep a page on its node."""
    app, heap = _spread(machine)
    app.mlock(heap)
    return {"call": attempt(app.migrate_pages, [0], [1]), "at": app.placement(heap)}


def contents_survive(machine):
    """Every page has what was written."""
    app, heap = _spread(machine)
    for number, address in enumerate(heap.pages()):
        app.write(address + number, b"%d" % number)
    app.migrate_pages([0, 1, 2], [1])
    wrong = [
        number
        for number, address in enumerate(heap.pages())
        if app.read(address + number, len(b"%d" % number)) != b"%d" % number
    ]
    return {"wrong": wrong, "at": app.placement(heap)}


def outside_the_cpuset_by_a_user(machine):
    """The target's cpuset limits what a user may ask for."""
    app, heap = _spread(machine, uid=1000)
    app.join(machine.cpuset("two", [0, 1]))
    return {
        "outside": attempt(app.migrate_pages, [0], [2]),
        "inside": attempt(app.migrate_pages, [0], [1]),
        "at": app.placement(heap),
    }


def policies_stay(machine):
    """The pages move, the policies do not."""
    app = machine.process("app", policy=("bind", [0]))
    heap = app.mmap(pages=4)
    app.mbind(heap, "preferred", [0])
    app.touch(heap)
    return {
        "call": attempt(app.migrate_pages, [0], [1]),
        "task": attempt(app.get_mempolicy),
        "area": attempt(app.get_mempolicy, heap.start, 2),
        "at": app.placement(heap),
    }
