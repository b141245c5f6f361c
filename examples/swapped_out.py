"""Pages that have been in swap."""

from mmigrate import Machine, MiB, Reason

MACHINE = {"nodes": (MiB(64), MiB(64))}


def out_and_in_again(machine: Machine) -> None:
    """A swapped page is not there to be moved; read back it moves like any other."""
    machine.swapon(MiB(8))
    app = machine.process("app")
    heap = app.mmap(pages=4)
    app.write(heap.start, b"kept")
    app.touch(heap)
    assert machine.swap_out(app, heap) == 4

    result = app.move_pages(heap, node=1)
    assert result.reasons == {Reason.SWAPPED: 4}

    assert app.read(heap.start, 4) == b"kept"
    app.touch(heap)
    app.move_pages(heap, node=1)
    assert app.read(heap.start, 4) == b"kept"
