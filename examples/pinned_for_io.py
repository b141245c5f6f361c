"""Pages that a device may write to at any moment cannot be moved."""

from mmigrate import Machine, MiB, Reason

MACHINE = {"nodes": (MiB(64), MiB(64))}


def direct_io_buffer(machine: Machine) -> None:
    """A pinned page fails all ten passes with EAGAIN, and moves once the pin is gone."""
    app = machine.process("app")
    buffer = app.mmap(pages=4)
    app.touch(buffer)
    io = app.pin(buffer[1:2])

    result = app.move_pages(buffer, node=1)
    assert result.status == (1, -11, 1, 1)
    assert result.reasons == {Reason.PINNED: 1}

    io.release()
    assert app.move_pages(buffer, node=1).status == (1, 1, 1, 1)
