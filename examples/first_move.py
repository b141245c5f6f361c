"""Moving memory from one node to another with move_pages(2)."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(64), MiB(64))}


def whole_heap(machine: Machine) -> None:
    """A heap that its process has touched follows it to the other node."""
    app = machine.process("app", cpu=0)
    heap = app.mmap(MiB(4))
    app.touch(heap)
    assert app.placement(heap) == {0: 1024}

    result = app.move_pages(heap, node=1)

    assert str(result) == "1024 pages: 1024 on node 1"
    assert app.placement(heap) == {1: 1024}


def contents_come_along(machine: Machine) -> None:
    """What was written before the move is read after it, and the old frames are free."""
    app = machine.process("app")
    page = app.mmap(pages=1)
    app.write(page.start, b"hello")
    old = machine.page_of(app, page.start)

    app.move_pages(page, node=1)
    machine.drain_pagevecs()

    assert app.read(page.start, 5) == b"hello"
    assert machine.page_of(app, page.start) is not old
    assert old.data is None  # free again


def asking_where(machine: Machine) -> None:
    """Without a target node move_pages only says where each page is."""
    app = machine.process("app", cpu=1)
    buffer = app.mmap(pages=3)
    app.touch(buffer[0:2])

    result = app.move_pages(buffer)

    assert result.status == (1, 1, -2)  # the third was never touched: ENOENT
