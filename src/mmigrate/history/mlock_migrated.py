"""51afb12ba809: a locked page that has migrated."""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.page_flags import PG_mlocked
from mmigrate.linux.include.switches import MLOCK_MIGRATED


def locked_pages_moved(machine: Any) -> dict[str, int]:
    app = machine.process("app")
    area = app.mmap(pages=4, locked=True)
    app.touch(area)
    before = machine.vmstat["nr_mlock"]
    app.move_pages(area, node=1)
    machine.drain_pagevecs()
    pages = [machine.page_of(app, address) for address in area.pages()]
    return {
        "nr_mlock before": before,
        "nr_mlock after": machine.vmstat["nr_mlock"],
        "pages with PG_mlocked": sum(bool(page.flags & PG_mlocked) for page in pages),
        "moved": app.placement(area).get(1, 0),
    }


ROW = Row(
    MLOCK_MIGRATED,
    "The last pte of a locked page takes PG_mlocked with it, and nothing sets it again when "
    "migration brings the ptes back.",
    Kind.STATE,
    locked_pages_moved,
    (
        "nr_mlock falls to nothing although the area is still locked",
        "the moved pages are mlocked again",
    ),
    without={
        "nr_mlock before": 4,
        "nr_mlock after": 0,
        "pages with PG_mlocked": 0,
        "moved": 4,
    },
    fixed={"nr_mlock before": 4, "nr_mlock after": 4, "pages with PG_mlocked": 4, "moved": 4},
)
