"""Emptying a node of one process, as migratepages(8) does with migrate_pages(2)."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64))}


def everything_but_the_pinned(machine: Machine) -> None:
    """All that can move moves; the number that could not is what the call returns."""
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=100)
    app.touch(heap)
    io = app.pin(heap[0:3])

    left = app.migrate_pages([0], [2])

    assert left == 3
    assert app.placement(heap) == {0: 3, 2: 97}
    io.release()


def rotate(machine: Machine) -> None:
    """With several pairs of nodes no page moves twice."""
    app = machine.process("app")
    where = {}
    for node in range(3):
        where[node] = app.mmap(pages=10)
        app.mbind(where[node], "bind", [node])
        app.touch(where[node])

    assert app.migrate_pages([0, 1], [1, 2]) == 0

    assert app.placement(where[0]) == {1: 10}
    assert app.placement(where[1]) == {2: 10}
    assert app.placement(where[2]) == {2: 10}
