"""68711a746345: what becomes of a destination that was not used."""

from typing import Any

from mmigrate.history.by_kernel import Destinations
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import DESTINATION_FREEING_CALLBACK

PINNED = 3


def destinations_of_pinned_pages(machine: Any) -> dict[str, int]:
    """Three pinned pages, and a list of forty destinations."""
    app = machine.process("app")
    heap = app.mmap(pages=PINNED)
    app.touch(heap)
    machine.drain_pagevecs()
    pin = app.pin(heap)
    pages = [machine.page_of(app, address) for address in heap.pages()]
    with app.running():
        destinations = Destinations(machine, 40)
        stayed = destinations.migrate(pages)
        left = sum(1 for _ in destinations.free)
        destinations.release()
    pin.release()
    machine.drain_pagevecs()
    return {"stayed": stayed, "drawn": destinations.drawn, "left": left}


ROW = Row(
    DESTINATION_FREEING_CALLBACK,
    "A caller with a list of destinations of its own could not get one back when a page did not "
    "move: each attempt freed it to the system, and the caller scanned for another.",
    Kind.COST,
    destinations_of_pinned_pages,
    (
        "ten passes over three pinned pages use up thirty destinations",
        "the same one is taken and given back each time",
    ),
    without={"stayed": PINNED, "drawn": 10 * PINNED, "left": 40 - 10 * PINNED},
    fixed={"stayed": PINNED, "drawn": 10 * PINNED, "left": 40},
)
