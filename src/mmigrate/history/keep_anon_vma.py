"""dc386d4d1e98: the anon_vma of a page that nothing maps for the moment."""

from typing import Any

from mmigrate.history.by_kernel import move_by_kernel
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import KEEP_ANON_VMA


def unmapped_for_ever_while_it_moves(machine: Any) -> None:
    app = machine.process("app")
    page = app.mmap(pages=1)
    app.write(page.start, b"gone")
    machine.drain_pagevecs()
    moving = machine.page_of(app, page.start)
    machine.start(move_by_kernel, machine, [moving], cpu=0)
    machine.start(app.munmap, page, cpu=1)


ROW = Row(
    KEEP_ANON_VMA,
    "While a page has only migration entries, nothing keeps its anon_vma alive: if the process "
    "unmaps the area meanwhile, the walk that brings the ptes back goes through freed memory.",
    Kind.RACE,
    unmapped_for_ever_while_it_moves,
    (
        "the walk uses an anon_vma that has been freed",
        "migration holds on to it (in v3.19 by a reference)",
    ),
    finding="BUG",
    note="The commit kept it with an RCU section around the migration; references came later. "
    "Without the switch nothing keeps it.",
)
