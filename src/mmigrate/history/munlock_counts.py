"""70feee0e1ef3: munlock of a page that somebody has isolated."""

from typing import Any

from mmigrate.history.by_kernel import isolate
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import MUNLOCK_COUNTS
from mmigrate.linux.mm import migrate


def munlocked_while_isolated(machine: Any) -> dict[str, int]:
    """Somebody, such as a migration, has the page off its list when it is munlocked."""
    app = machine.process("app")
    area = app.mmap(pages=1, locked=True)
    app.touch(area)
    locked = machine.vmstat["nr_mlock"]
    with app.running():
        pagelist = isolate([machine.page_of(app, area.start)])
        app.munlock(area)
        migrate.putback_movable_pages(pagelist)
    machine.drain_pagevecs()
    return {"nr_mlock while locked": locked, "nr_mlock after": machine.vmstat["nr_mlock"]}


ROW = Row(
    MUNLOCK_COUNTS,
    "munlock clears PG_mlocked of a page that it cannot isolate, and does not count it off.",
    Kind.STATE,
    munlocked_while_isolated,
    ("nr_mlock stays one too high", "it is 0"),
    without={"nr_mlock while locked": 1, "nr_mlock after": 1},
    fixed={"nr_mlock while locked": 1, "nr_mlock after": 0},
    violations=("vmstat",),
)
