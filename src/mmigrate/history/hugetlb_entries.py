"""9fbc1f635fd0, a8bda28d87c3, 0f792cf949a0, 4e666314d286, e66f17ff7177, bcc54222309c: munmap,
mprotect, a fault and move_pages on a huge page of hugetlb that migrates.

In v3.19 they take a migration entry for a pte that maps a page, or a page that is free for one.
"""

from collections.abc import Callable
from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC
from mmigrate.linux.include.mm import FOLL_GET
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.switches import (
    ACTIVE_HUGE_PAGES,
    FOLLOW_HUGE_PMD_LOCKED,
    HUGE_FAULT_TRIES_LOCK,
    HUGE_PROTECT_KNOWS_ENTRIES,
    HUGE_SLOT_MAY_BE_ENTRY,
    HUGE_UNMAP_KNOWS_ENTRIES,
)
from mmigrate.linux.kernel.page_flags import lock_page, unlock_page
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.lib.list import ListHead
from mmigrate.linux.mm import gup, hugetlb_pool, migrate, swap
from mmigrate.units import MiB


def _meets_migration(machine: Any, start: Callable[[Any, Any], None]) -> None:
    machine.hugepages(1, node=0)
    machine.hugepages(1, node=1)
    app = machine.process("app")
    area = app.mmap(MiB(2), hugetlb=MiB(2), shared=True)
    app.write(area.start, b"huge")
    page = machine.page_of(app, area.start)

    def move_once() -> None:
        def get_new_page(_old: Any, _private: Any, _result: list[Any]) -> Any:
            h = hugetlb_pool.page_hstate(page)
            return hugetlb_pool.alloc_huge_page_node(machine.kernel, h, 1 - page.zone.nid)

        isolated = ListHead()
        if not hugetlb_pool.isolate_huge_page(page, isolated):
            return
        rc = migrate.unmap_and_move_huge_page(get_new_page, None, None, page, False, MIGRATE_ASYNC)
        if rc == -11:
            migrate.putback_movable_pages(isolated)

    machine.start(move_once, cpu=0)
    start(app, area)


def munmap_meets_migration(machine: Any) -> None:
    _meets_migration(machine, lambda app, area: machine.start(app.munmap, area, cpu=1))


def mprotect_meets_migration(machine: Any) -> None:
    _meets_migration(machine, lambda app, area: machine.start(app.mprotect, area, "r", cpu=1))


def fault_meets_migration(machine: Any) -> None:
    _meets_migration(machine, lambda app, area: machine.start(app.touch, area.start, cpu=1))


def lookup_meets_migration(machine: Any) -> None:
    """What move_pages does first: look a page up, which another migration is about to free."""

    def start(app: Any, area: Any) -> None:
        def look_up() -> None:
            with app.running() as task, down_read(task.mm.mmap_sem):
                page = gup.follow_page(task.mm.mmap[0], area.start, FOLL_GET)
                if isinstance(page, Page):
                    swap.put_page(page)

        machine.start(look_up, cpu=1)

    _meets_migration(machine, start)


def isolation_meets_isolation(machine: Any) -> None:
    """What two calls of move_pages do with a page before and after they migrate it."""
    machine.hugepages(1, node=0)
    app = machine.process("app")
    area = app.mmap(MiB(2), hugetlb=MiB(2), shared=True)
    app.write(area.start, b"huge")
    page = machine.page_of(app, area.start)

    def isolate_and_put_back() -> None:
        isolated = ListHead()
        hugetlb_pool.isolate_huge_page(page, isolated)
        lock_page(page)  # where it would migrate
        unlock_page(page)
        migrate.putback_movable_pages(isolated)

    machine.start(isolate_and_put_back, cpu=0)
    machine.start(isolate_and_put_back, cpu=1)


ROWS = (
    Row(
        HUGE_UNMAP_KNOWS_ENTRIES,
        "munmap of a huge page that is just being migrated takes the migration entry for a page.",
        Kind.RACE,
        munmap_meets_migration,
        (
            "a page is looked for that the entry does not name",
            "the entry goes, the page stays with who migrates it",
        ),
        finding="BUG",
        machine={"nodes": (MiB(32), MiB(32))},
    ),
    Row(
        HUGE_PROTECT_KNOWS_ENTRIES,
        "mprotect of a huge page that is just being migrated makes a pte of the migration entry.",
        Kind.RACE,
        mprotect_meets_migration,
        (
            "a pte that maps whatever frame the entry looks like",
            "the entry loses the right to write",
        ),
        finding="BUG",
        machine={"nodes": (MiB(32), MiB(32))},
    ),
    Row(
        HUGE_FAULT_TRIES_LOCK,
        "A fault looks at an entry twice without a lock, and at the second look takes what "
        "migration has put there meanwhile for a page.",
        Kind.RACE,
        fault_meets_migration,
        ("a page is looked for that the entry does not name", "the fault comes back later"),
        finding="BUG",
        machine={"nodes": (MiB(32), MiB(32)), "backports": (HUGE_SLOT_MAY_BE_ENTRY,)},
        note="With 4e666314d286 in both kernels, without which the same fault is a BUG elsewhere.",
    ),
    Row(
        HUGE_SLOT_MAY_BE_ENTRY,
        "A fault that has found a page looks again for its slot, and migration has put an entry "
        "there meanwhile: a BUG_ON expects an empty slot or a page.",
        Kind.RACE,
        fault_meets_migration,
        ("BUG_ON in huge_pte_alloc", "an entry is allowed there"),
        finding="BUG: app:touch: mm app: a slot is neither empty nor huge",
        machine={"nodes": (MiB(32), MiB(32)), "backports": (HUGE_FAULT_TRIES_LOCK,)},
        note="Found by searching v3.19. With 0f792cf949a0 in both kernels.",
    ),
    Row(
        FOLLOW_HUGE_PMD_LOCKED,
        "move_pages takes a reference on a huge page that it looked up without a lock, and that is "
        "free by then.",
        Kind.RACE,
        lookup_meets_migration,
        ("a reference on a free page", "the lock of the page table is held"),
        finding="BUG: look_up: pfn",
        machine={
            "nodes": (MiB(32), MiB(32)),
            "backports": (HUGE_FAULT_TRIES_LOCK, HUGE_SLOT_MAY_BE_ENTRY),
        },
    ),
    Row(
        ACTIVE_HUGE_PAGES,
        "A huge page that has been isolated can be isolated once more: it moves from one private "
        "list to the other.",
        Kind.RACE,
        isolation_meets_isolation,
        (
            "the reference of who was first is never dropped, or a list is not what it was",
            "the second finds that it is taken",
        ),
        finding="references",
        machine={"nodes": (MiB(32), MiB(32))},
        note="Found by searching v3.19.",
    ),
)
