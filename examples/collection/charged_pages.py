"""Memory cgroups: what is charged while pages move, are swapped out, pinned and freed."""

from mmigrate import MiB
from mmigrate.observe import attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}


def _member(machine, limit=None):
    group = machine.cgroup("group", limit=limit)
    app = machine.process("app")
    app.join(group)
    return group, app


def _contents(app, heap, step):
    return [attempt(app.read, address, 8) for address in list(heap.pages())[::step]]


def charged_when_touched(machine):
    """Mapping costs nothing; the first store does."""
    group, app = _member(machine)
    heap = app.mmap(MiB(2))
    mapped = group.usage >= MiB(2)
    app.touch(heap)
    return {"mapped": mapped, "touched": group.usage >= MiB(2)}


def charged_while_moved(machine):
    """Migration neither charges nor uncharges."""
    group, app = _member(machine)
    heap = app.mmap(MiB(2))
    app.touch(heap)
    moved = attempt(app.move_pages, heap, 1)
    return {"move": moved, "at": app.placement(heap), "charged": group.usage >= MiB(2)}


def uncharged_when_unmapped(machine):
    """The last reference ends the charge."""
    group, app = _member(machine)
    heap = app.mmap(MiB(2))
    app.touch(heap)
    app.munmap(heap)
    return {"charged": group.usage >= MiB(2)}


def charged_while_pinned(machine):
    """An unmapped page that is pinned counts until it is let go."""
    group, app = _member(machine)
    heap = app.mmap(pages=8)
    app.touch(heap)
    pin = app.pin(heap)
    app.munmap(heap)
    pinned = group.usage >= 8 * 4096
    pin.release()
    return {"pinned": pinned}


def swapped_out_at_the_limit(machine):
    """A group uses twice what it may have in memory; nothing is lost."""
    machine.swapon(MiB(16))
    group, app = _member(machine, limit=MiB(4))
    heap = app.mmap(MiB(8))
    for number, address in enumerate(heap.pages()):
        app.write(address, b"%08d" % number)
    return {
        "within the limit": group.usage <= MiB(4),
        "swapped out": app.placement(heap) != {0: 2048},
        "contents": _contents(app, heap, 256),
    }


def moved_at_the_limit(machine):
    """Migration needs no room in the group."""
    machine.swapon(MiB(16))
    group, app = _member(machine, limit=MiB(8))
    heap = app.mmap(MiB(4))
    app.touch(heap)
    group.limit = MiB(6)
    return {"move": attempt(app.move_pages, heap, 1), "at": app.placement(heap)}


def a_limit_below_what_is_used(machine):
    """Setting it reclaims."""
    machine.swapon(MiB(16))
    group, app = _member(machine)
    heap = app.mmap(MiB(4))
    for number, address in enumerate(heap.pages()):
        app.write(address, b"%08d" % number)
    error = attempt(setattr, group, "limit", MiB(2))
    return {
        "error": error,
        "within the limit": group.usage <= MiB(2),
        "contents": _contents(app, heap, 128),
    }
