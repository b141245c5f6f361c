"""foll-migration-waits: merged pages are taken apart while one of them migrates."""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.mm import (
    MADV_MERGEABLE,
    TTU_IGNORE_ACCESS,
    TTU_IGNORE_MLOCK,
    TTU_MIGRATION,
)
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.switches import FOLL_MIGRATION_WAITS
from mmigrate.linux.kernel.page_flags import PageKsm, lock_page, unlock_page
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.mm import migrate, rmap, swap


def taken_apart_in_the_middle(machine: Any) -> dict[str, bool]:
    """The migration has put its entries, and gives up after the others have looked."""
    apps = [machine.process(name) for name in ("one", "two")]
    area, _ = (app.mmap(pages=1) for app in apps)
    for app in apps:
        app.write(area.start, b"the same")
        app.madvise(area, MADV_MERGEABLE)
    machine.ksm_scan()
    machine.drain_pagevecs()
    page = machine.page_of(apps[0], area.start)
    with apps[0].running():
        get_page(page)  # as isolation does
        lock_page(page)
        rmap.try_to_unmap(page, TTU_MIGRATION | TTU_IGNORE_MLOCK | TTU_IGNORE_ACCESS)

    def give_up() -> None:
        migrate.remove_migration_ptes(page, page)
        unlock_page(page)
        swap.put_page(page)

    machine.start(machine.ksm_run, 2, cpu=0)
    machine.start(give_up, cpu=1)
    machine.run()
    return {app.name: _is_merged(machine.page_of(app, area.start)) for app in apps}


def _is_merged(page: Page | None) -> bool:
    return page is not None and PageKsm(page)


ROW = Row(
    FOLL_MIGRATION_WAITS,
    "Who takes merged pages apart finds no page where there is the entry of a migration, and "
    "goes on.",
    Kind.STATE,
    taken_apart_in_the_middle,
    (
        "the page stays merged where none may be, and nobody finds its ptes any more",
        "migration is waited for",
    ),
    without={"one": True, "two": False},
    fixed={"one": False, "two": False},
    violations=("reverse map",),
    note="The id of the commit is not known here for sure.",
)
