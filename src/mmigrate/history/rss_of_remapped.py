"""887843961c4b: remap_file_pages overwrites a migration entry."""

from typing import Any

from mmigrate.history.by_kernel import move_by_kernel
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import RSS_OF_REMAPPED


def remapped_while_it_moves(machine: Any) -> None:
    file = machine.shmem("shm", 2 * 4096)
    app = machine.process("app")
    view = app.mmap(pages=2, file=file, shared=True)
    app.write(view.start, b"kept")
    machine.drain_pagevecs()
    moving = machine.page_of(app, view.start)
    machine.start(move_by_kernel, machine, [moving], cpu=0)
    machine.start(app.remap_file_pages, view[0:1], 1, cpu=1)


ROW = Row(
    RSS_OF_REMAPPED,
    "A migration entry stands for a page that is counted in the process' resident set; "
    "remap_file_pages put another pte in its place and left the count.",
    Kind.RACE,
    remapped_while_it_moves,
    ("the resident set is one page too large for ever", "it is right"),
    finding="rss",
)
