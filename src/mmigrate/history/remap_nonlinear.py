"""7e09e738afd2: an area becomes nonlinear between unmapping and restoring."""

from typing import Any

from mmigrate.history.by_kernel import move_by_kernel
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import REMAP_NONLINEAR


def area_becomes_nonlinear(machine: Any) -> None:
    file = machine.shmem("shm", 3 * 4096)
    app = machine.process("app")
    view = app.mmap(pages=2, file=file, shared=True)
    app.write(view.start, b"kept")
    machine.drain_pagevecs()
    moving = machine.page_of(app, view.start)
    machine.start(move_by_kernel, machine, [moving], cpu=0)
    machine.start(app.remap_file_pages, view[1:2], 2, cpu=1)


ROW = Row(
    REMAP_NONLINEAR,
    "remap_file_pages takes the area out of the tree in which migration found it, so the walk that "
    "brings the ptes back does not find the entry that it left there.",
    Kind.RACE,
    area_becomes_nonlinear,
    (
        "a migration entry is left behind, and whoever meets it is a BUG",
        "the list of nonlinear areas is searched as well, at the linear place",
    ),
    finding="migration entries",
)
