"""eb66ae030829: a page that mremap has moved, and migration has taken away since.

Found by searching plain v3.19 with three tasks: migration, mremap, and a store.
"""

from typing import Any

from mmigrate.history.by_kernel import store_once, try_once
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import FLUSH_BEFORE_UNLOCK


def store_at_the_old_place(machine: Any) -> None:
    """Three CPUs: one migrates, one moves the mapping, one still writes to its old place."""
    app = machine.process("app", cpu=2)
    page = app.mmap(pages=1)
    app.write(page.start, b"first")
    machine.drain_pagevecs()
    moving = machine.page_of(app, page.start)
    machine.start(try_once, machine, moving, cpu=0)
    machine.start(app.mremap, page, page.length, at=page.start - (1 << 30), cpu=1)
    machine.start(store_once, app, page.start, b"second", cpu=2)


ROW = Row(
    FLUSH_BEFORE_UNLOCK,
    "mremap lets go of the page tables before it flushes the old place, so somebody may find "
    "the page at its new place, flush only that, and be done with it while another CPU "
    "still writes to it.",
    Kind.RACE,
    store_at_the_old_place,
    (
        "a store through the old place goes to a page that migration has copied already",
        "the old place is flushed before anybody can see the new one",
    ),
    finding="contents",
    machine={"cpus": (0, 0, 0)},
    note="v3.19 has the defect (CVE-2018-18281 is the same with truncation in place of migration).",
)
