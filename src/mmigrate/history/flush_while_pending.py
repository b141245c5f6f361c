"""20841405940e: a store through a translation that mprotect has not flushed yet."""

from typing import Any

from mmigrate.history.by_kernel import store_once, try_once
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import FLUSH_WHILE_PENDING


def store_through_a_stale_translation(machine: Any) -> None:
    """Three CPUs: one takes all rights away, one migrates, one still writes."""
    app = machine.process("app", cpu=2)
    page = app.mmap(pages=1)
    app.write(page.start, b"first")
    machine.drain_pagevecs()
    moving = machine.page_of(app, page.start)
    machine.start(try_once, machine, moving, cpu=0)
    machine.start(app.mprotect, page, "", cpu=1)
    machine.start(store_once, app, page.start, b"second", cpu=2)


ROW = Row(
    FLUSH_WHILE_PENDING,
    "Between the moment in which a pte loses its rights and the flush of the TLBs another CPU may "
    "still write; migration took such a pte for one that no CPU can know, did not flush it, "
    "and copied the page under that store.",
    Kind.RACE,
    store_through_a_stale_translation,
    (
        "a store goes to the old page after its contents were copied, and is lost",
        "migration flushes as long as mprotect's own flush is pending",
    ),
    finding="contents",
    machine={"cpus": (0, 0, 0)},
)
