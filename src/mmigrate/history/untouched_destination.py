"""cf4b769abb8a: a destination is not touched before it is sure to be used."""

from typing import Any

from mmigrate.history.by_kernel import Destinations
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.page_flags import PG_swapbacked
from mmigrate.linux.include.switches import UNTOUCHED_DESTINATION


def destination_of_a_pinned_page(machine: Any) -> dict[str, bool]:
    """What a failed migration leaves on its destination."""
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    machine.drain_pagevecs()
    pin = app.pin(heap)
    page = machine.page_of(app, heap.start)
    with app.running():
        destinations = Destinations(machine, 1)
        destination = destinations.free.next
        before = destination.index
        destinations.migrate([page])
        seen = {
            "index of the page": destination.index == page.index != before,
            "swap-backed": bool(destination.flags & PG_swapbacked),
        }
        destinations.release()
    pin.release()
    machine.drain_pagevecs()
    return seen


ROW = Row(
    UNTOUCHED_DESTINATION,
    "The destination gets mapping, index and PG_swapbacked before it is known whether the page can "
    "move at all, and every failure has to clean it.",
    Kind.STATE,
    destination_of_a_pinned_page,
    ("a failed destination has the index of the page", "nothing of the page is on it"),
    without={"index of the page": True, "swap-backed": False},
    fixed={"index of the page": False, "swap-backed": False},
)
