"""Statistics equal a recount."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Final

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.page_flags import (
    PG_dirty,
    PG_head,
    PG_hugetlb,
    PG_mlocked,
    PG_swapbacked,
    PG_swapcache,
    PG_writeback,
)
from mmigrate.linux.include.pgtable import HPAGE_PMD_NR, is_migration_entry, swp_offset
from mmigrate.linux.include.vmstat import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SWAPENTS,
    NR_ANON_PAGES,
    NR_ANON_TRANSPARENT_HUGEPAGES,
    NR_FILE_DIRTY,
    NR_FILE_MAPPED,
    NR_FILE_PAGES,
    NR_MLOCK,
    NR_SHMEM,
    NR_VM_ZONE_STAT_ITEMS,
    NR_WRITEBACK,
    ZONE_STAT_NAMES,
)

RSS: Final = ((MM_FILEPAGES, "file"), (MM_ANONPAGES, "anon"), (MM_SWAPENTS, "swap"))
RECOUNTED: Final = (
    NR_ANON_PAGES,
    NR_FILE_MAPPED,
    NR_FILE_PAGES,
    NR_SHMEM,
    NR_FILE_DIRTY,
    NR_WRITEBACK,
    NR_MLOCK,
    NR_ANON_TRANSPARENT_HUGEPAGES,
)


_recounted: Final[Callable[[list[int]], tuple[int, ...]]] = itemgetter(*RECOUNTED)


def _anon(page: Page) -> bool:
    return page.mapping is not None and bool(page.mapping.anon)


def vmstat(view: View) -> Iterator[Violation]:
    stats = {zone: [0] * NR_VM_ZONE_STAT_ITEMS for zone in view.zones}
    for page in view.used:
        found, flags = stats[page.zone], page.flags
        size = HPAGE_PMD_NR if flags & PG_head else 1
        if page.pfn in view.mapped and not flags & PG_hugetlb:
            found[NR_ANON_PAGES if _anon(page) else NR_FILE_MAPPED] += size
            found[NR_ANON_TRANSPARENT_HUGEPAGES] += size > 1
        for mapping, _ in view.slots.get(page.pfn, ()):
            found[NR_FILE_PAGES] += 1
            if flags & PG_hugetlb:
                continue
            if flags & PG_swapbacked and not flags & PG_swapcache:
                found[NR_SHMEM] += 1
            if flags & PG_dirty and mapping.backing_dev_info.accounts_dirty:
                found[NR_FILE_DIRTY] += 1
        if flags & PG_writeback:
            found[NR_WRITEBACK] += 1
        if flags & PG_mlocked:
            found[NR_MLOCK] += size
    # Known defect of v3.19: migration of a page of a file of hugetlb leaves nr_file_pages of its
    # zone as it was, so once there are pools only the sum is right.
    if view.kernel.hugetlb.hstates[0].nr_huge_pages or view.kernel.hugetlb.files:
        counted = sum(zone.vm_stat[NR_FILE_PAGES] for zone in view.zones)
        total = sum(found[NR_FILE_PAGES] for found in stats.values())
        if counted != total:
            yield Violation("vmstat", "all zones", f"nr_file_pages {counted}, found {total}")
        for zone, found in stats.items():
            found[NR_FILE_PAGES] = zone.vm_stat[NR_FILE_PAGES]
    for zone, found in stats.items():
        if _recounted(zone.vm_stat) != _recounted(found):
            for item in RECOUNTED:
                if zone.vm_stat[item] != found[item]:
                    yield Violation(
                        "vmstat",
                        repr(zone),
                        f"{ZONE_STAT_NAMES[item]} {zone.vm_stat[item]}, found {found[item]}",
                    )


def rss(view: View) -> Iterator[Violation]:
    stats = {mm: [0, 0, 0] for mm in view.kernel.mms}
    page_of = view.kernel.page_of
    for pfn, places in view.mapped.items():
        page = page_of(pfn)
        if page.flags & PG_hugetlb:
            continue
        kind = MM_ANONPAGES if _anon(page) else MM_FILEPAGES
        size = HPAGE_PMD_NR if page.flags & PG_head else 1
        for mm, _, _ in places:
            stats[mm][kind] += size
    for mm, _, entry in view.entries:
        if is_migration_entry(entry):
            named = page_of(swp_offset(entry))
            if named.flags & PG_hugetlb:
                continue
            stats[mm][MM_ANONPAGES if _anon(named) else MM_FILEPAGES] += 1
        else:
            stats[mm][MM_SWAPENTS] += 1
    for mm, found in stats.items():
        if mm.rss_stat != found:
            for kind, name in RSS:
                if mm.rss_stat[kind] != found[kind]:
                    yield Violation(
                        "rss", repr(mm), f"{name} rss {mm.rss_stat[kind]}, found {found[kind]}"
                    )
