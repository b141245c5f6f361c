"""70feee0e1ef3: munlock of a page that migration has isolated."""

from typing import Any

from mmigrate.history.by_kernel import try_once
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import MUNLOCK_COUNTS


def munlocked_while_it_moves(machine: Any) -> None:
    app = machine.process("app")
    area = app.mmap(pages=1, locked=True)
    app.touch(area)
    machine.drain_pagevecs()
    moving = machine.page_of(app, area.start)
    machine.start(try_once, machine, moving, cpu=0)
    machine.start(app.munlock, area, cpu=1)


ROW = Row(
    MUNLOCK_COUNTS,
    "munlock clears PG_mlocked of a page that it cannot isolate, because somebody else has, and "
    "does not count it off.",
    Kind.RACE,
    munlocked_while_it_moves,
    ("nr_mlock stays one too high for ever", "it is 0"),
    finding="vmstat",
    note="v3.19 has the defect. munmap and exit of locked memory meet it too.",
)
