"""Cpusets: what they forbid, what follows them."""

from mmigrate import MiB
from mmigrate.observe import areas, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
MEMS_ALLOWED = 4


def _heap(machine, pages=4, **options):
    app = machine.process("app", **options)
    heap = app.mmap(pages=pages)
    app.touch(heap)
    return app, heap


def node_outside_the_cpuset(machine):
    """move_pages to a node that the target's cpuset forbids."""
    app, heap = _heap(machine)
    app.join(machine.cpuset("group", [0, 1]))
    return {
        "outside": attempt(app.move_pages, heap, 2),
        "inside": attempt(app.move_pages, heap, 1),
        "at": app.placement(heap),
    }


def callers_own_cpuset(machine):
    """The destination is allocated by the caller, within the caller's cpuset."""
    app, heap = _heap(machine)
    mover = machine.process("mover")
    mover.join(machine.cpuset("group", [0]))
    return {
        "move": attempt(mover.move_pages, heap, 1, process=app),
        "at": app.placement(heap),
        "migrate": attempt(mover.migrate_pages, [0], [1], process=app),
        "then": app.placement(heap),
    }


def new_pages_stay_inside(machine):
    """A cpuset decides where new pages come from."""
    app = machine.process("app")
    app.join(machine.cpuset("group", [1, 2]))
    heap = app.mmap(pages=4)
    app.touch(heap)
    return {"at": app.placement(heap), "allowed": attempt(app.get_mempolicy, 0, MEMS_ALLOWED)}


def joining_with_memory_migrate(machine):
    """Memory follows its process."""
    app, heap = _heap(machine)
    app.write(heap.start, b"follows")
    app.join(machine.cpuset("group", [1], memory_migrate=True))
    return {"at": app.placement(heap), "contents": attempt(app.read, heap.start, 7)}


def joining_without(machine):
    """Memory stays."""
    app, heap = _heap(machine)
    app.join(machine.cpuset("group", [1]))
    return {"at": app.placement(heap)}


def changing_with_memory_migrate(machine):
    """The cpuset gets other nodes, and memory follows."""
    app = machine.process("app")
    group = machine.cpuset("group", [0], memory_migrate=True)
    app.join(group)
    heap = app.mmap(pages=4)
    app.touch(heap)
    machine.set_mems(group, [2])
    return {"at": app.placement(heap), "allowed": attempt(app.get_mempolicy, 0, MEMS_ALLOWED)}


def _rebound(machine, mode, nodes, before, after):
    app = machine.process("app")
    group = machine.cpuset("group", before)
    app.join(group)
    heap = app.mmap(pages=2)
    seen = {
        "set": attempt(app.set_mempolicy, mode, nodes),
        "mbind": attempt(app.mbind, heap, mode, nodes),
    }
    machine.set_mems(group, after)
    return {
        **seen,
        "task": attempt(app.get_mempolicy),
        "area": attempt(app.get_mempolicy, heap.start, 2),
        "shown": areas(app, heap),
    }


def rebinding_bind(machine):
    """Nodes are mapped by their position."""
    return _rebound(machine, "bind", [0], [0, 1], [1, 2])


def rebinding_interleave(machine):
    """The same for interleaving."""
    return _rebound(machine, "interleave", [0, 1], [0, 1], [1, 2])


def rebinding_preferred(machine):
    """The same for a preferred node."""
    return _rebound(machine, "preferred", [1], [0, 1], [0, 2])


def rebinding_static(machine):
    """Static nodes are cut to what is allowed."""
    return _rebound(machine, "bind=static", [0, 1], [0, 1], [1, 2])


def rebinding_static_to_nothing(machine):
    """Static nodes of which none is allowed any more."""
    return _rebound(machine, "bind=static", [0], [0, 1], [1, 2])


def rebinding_relative(machine):
    """Relative nodes are laid over what is allowed."""
    return _rebound(machine, "bind=relative", [0, 3], [0, 1], [1, 2])


def rebinding_preferred_static(machine):
    """A preferred static node comes and goes."""
    return _rebound(machine, "preferred=static", [0], [0, 1], [1, 2])


def rebinding_to_more(machine):
    """From one node to three."""
    return _rebound(machine, "interleave", [0], [0], [0, 1, 2])


def policies_are_cut(machine):
    """A policy for nodes outside the cpuset."""
    app = machine.process("app")
    app.join(machine.cpuset("group", [0, 1]))
    return {
        "outside": attempt(app.set_mempolicy, "bind", [2]),
        "partly": attempt(app.set_mempolicy, "bind", [1, 2]),
        "get": attempt(app.get_mempolicy),
        "static": attempt(app.set_mempolicy, "bind=static", [1, 2]),
        "then": attempt(app.get_mempolicy),
    }
