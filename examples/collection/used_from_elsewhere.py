"""NUMA balancing: memory follows who uses it."""

from mmigrate import MiB
from mmigrate.observe import areas, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0), "numa_balancing": True}


def _used_from(machine, node, part):
    """What becomes of memory on node 0 of which a process on @node uses @part."""
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=8)
    app.write(heap.start, b"followed")
    app.touch(heap)
    machine.drain_pagevecs()
    app.on_cpu(node)
    for _ in range(3):
        app.numa_scan()
        app.touch(heap[part])
    return {
        "at": areas(app, heap),  # move_pages of some kernels does not see marked pages
        "contents": attempt(app.read, heap.start, 8),
        "(migrations)": "pages of others follow them too",
    }


def memory_follows(machine):
    """Pages that are used go on to where they are used from; the others stay."""
    return _used_from(machine, 1, slice(0, 3))


def memory_stays_with_its_user(machine):
    """Who stays where his memory is keeps it there."""
    return _used_from(machine, 0, slice(0, 8))
