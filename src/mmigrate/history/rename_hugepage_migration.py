"""100873d7a777: another name for the question whether huge pages of a size can migrate."""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_SYSCALL
from mmigrate.linux.include.switches import RENAME_HUGEPAGE_MIGRATION_SUPPORT
from mmigrate.linux.lib.list import ListHead, list_empty
from mmigrate.linux.mm import hugetlb_pool, migrate
from mmigrate.units import GiB, MiB


def huge_pages_of_both_sizes(machine: Any) -> dict[str, Any]:
    """One of 2 MiB moves; one of 1 GiB is refused before anybody asks for a destination."""
    machine.hugepages(1, node=0)
    machine.hugepages(1, node=1)
    machine.hugepages(1, size=GiB(1))
    app = machine.process("app")
    small = app.mmap(MiB(2), hugetlb=MiB(2))
    large = app.mmap(GiB(1), hugetlb=GiB(1))
    for area in (small, large):
        app.write(area.start, b"huge")
    asked: list[Any] = []
    stayed = []

    def move(page: Any) -> None:
        def get_new_page(old: Any, _private: Any, _result: list[Any]) -> Any:
            asked.append(old)
            return hugetlb_pool.alloc_huge_page_node(
                machine.kernel, hugetlb_pool.page_hstate(old), 1 - old.zone.nid
            )

        isolated = ListHead()
        hugetlb_pool.isolate_huge_page(page, isolated)
        stayed.append(
            migrate.migrate_pages(isolated, get_new_page, None, None, MIGRATE_SYNC, MR_SYSCALL)
        )
        if not list_empty(isolated):
            migrate.putback_movable_pages(isolated)

    for area in (small, large):
        machine.start(move, machine.page_of(app, area.start), cpu=0)
        machine.run(seed=1)  # so that every access is in the log
    return {
        "stayed": stayed,
        "destinations asked for": len(asked),
        "pgmigrate_success": machine.vmstat["pgmigrate_success"],
        "pgmigrate_fail": machine.vmstat["pgmigrate_fail"],
    }


SEEN = {"stayed": [0, 1], "destinations asked for": 1, "pgmigrate_success": 1, "pgmigrate_fail": 1}

ROW = Row(
    RENAME_HUGEPAGE_MIGRATION_SUPPORT,
    "hugepage_migration_support() had a name too much like hugepages_supported().",
    Kind.NONE,
    huge_pages_of_both_sizes,
    (
        "2 MiB move; 1 GiB is refused before a destination is asked for, and put back once",
        "the same, access for access",
    ),
    without=SEEN,
    fixed=SEEN,
    machine={"nodes": (GiB(3), MiB(64))},
)
