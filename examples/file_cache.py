"""Pages of files: clean, dirty, with buffers, and filesystems that cannot move them."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(64), MiB(64))}


def dirty_page_of_ext4(machine: Machine) -> None:
    """A dirty page moves dirty, buffers and all, and is written from its new frame."""
    database = machine.file("database", MiB(1), fs="ext4", data=b"old contents")
    app = machine.process("app")
    view = app.mmap(MiB(1), file=database, shared=True)
    app.write(view.start, b"new")

    assert app.move_pages(view[0:1], node=1).status == (1,)
    assert machine.vmstat["nr_dirty"] == 1

    machine.fsync(database)
    assert machine.vmstat["nr_dirty"] == 0
    assert database.blocks[0].startswith(b"new contents")


def dirty_page_without_method(machine: Machine) -> None:
    """A filesystem without migratepage must write a dirty page first: a later pass moves it."""
    image = machine.file("image", MiB(1), fs="exofs")
    app = machine.process("app")
    view = app.mmap(MiB(1), file=image, shared=True)
    app.write(view.start, b"written on the way")

    assert app.move_pages(view[0:1], node=1).status == (1,)

    assert machine.vmstat["nr_dirty"] == 0
    assert image.blocks[0].startswith(b"written on the way")
