"""8bdd63809160: a destination that came back marked as swap-backed."""

from typing import Any

from mmigrate.history.by_kernel import Destinations
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.page_flags import PG_swapbacked
from mmigrate.linux.include.switches import CLEAR_SWAPBACKED_OF_DESTINATION


def file_page_in_a_used_destination(machine: Any) -> dict[str, Any]:
    """A pinned anonymous page fails to move; a page of a file takes its destination, is
    dirtied, and direct reclaim comes along."""
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.write(heap.start, b"anonymous")
    file = machine.file("data", 4096, fs="xfs")
    view = app.mmap(pages=1, file=file, shared=True)
    app.touch(view)
    machine.drain_pagevecs()
    pin = app.pin(heap)
    with app.running():
        destinations = Destinations(machine, 1)
        stayed = [destinations.migrate([machine.page_of(app, area.start)]) for area in (heap, view)]
        destinations.release()
    pin.release()
    machine.drain_pagevecs()
    app.write(view.start, b"dirty")
    moved = machine.page_of(app, view.start)
    marked = bool(moved.flags & PG_swapbacked)
    written = machine.vmstat["nr_vmscan_write"]
    machine.swap_out(app, view)
    machine.finish_io()
    return {
        "stayed": stayed,
        "swap-backed": marked,
        "written by direct reclaim": machine.vmstat["nr_vmscan_write"] > written,
    }


ROW = Row(
    CLEAR_SWAPBACKED_OF_DESTINATION,
    "Since destinations are given back to be used again, one that was meant for an anonymous "
    "page keeps PG_swapbacked and becomes a page of a file with it.",
    Kind.STATE,
    file_page_in_a_used_destination,
    (
        "direct reclaim takes it for anonymous and calls writepage of a regular file, which warns",
        "reclaim leaves the dirty page to the flusher",
    ),
    without={"stayed": [1, 0], "swap-backed": True, "written by direct reclaim": True},
    fixed={"stayed": [1, 0], "swap-backed": False, "written by direct reclaim": False},
    violations=("direct writepage", "vmstat", "warnings"),
)
