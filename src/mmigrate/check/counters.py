"""Statistics equal a recount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm_types import Mm, Page
from mmigrate.linux.include.mmzone import Zone
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
    NR_WRITEBACK,
    ZONE_STAT_NAMES,
)

RECOUNTED = (
    NR_ANON_PAGES,
    NR_FILE_MAPPED,
    NR_FILE_PAGES,
    NR_SHMEM,
    NR_FILE_DIRTY,
    NR_WRITEBACK,
    NR_MLOCK,
    NR_ANON_TRANSPARENT_HUGEPAGES,
)


def _anon(page: Page) -> bool:
    return page.mapping is not None and bool(page.mapping.anon)


def vmstat(view: View) -> Iterator[Violation]:
    found: Counter[tuple[Zone, int]] = Counter()
    for page in view.used():
        zone, flags = page.zone, page.flags
        size = HPAGE_PMD_NR if flags & PG_head else 1
        if page.pfn in view.mapped and not flags & PG_hugetlb:
            anon = _anon(page)
            found[zone, NR_ANON_PAGES if anon else NR_FILE_MAPPED] += size
            found[zone, NR_ANON_TRANSPARENT_HUGEPAGES] += size > 1
        for mapping, _ in view.slots.get(page.pfn, ()):
            found[zone, NR_FILE_PAGES] += 1
            if flags & PG_hugetlb:
                continue
            if flags & PG_swapbacked and not flags & PG_swapcache:
                found[zone, NR_SHMEM] += 1
            if flags & PG_dirty and mapping.backing_dev_info.accounts_dirty:
                found[zone, NR_FILE_DIRTY] += 1
        if flags & PG_writeback:
            found[zone, NR_WRITEBACK] += 1
        if flags & PG_mlocked:
            found[zone, NR_MLOCK] += size
    # Known defect of v3.19: migration of a page of a file of hugetlb leaves nr_file_pages of its
    # zone as it was, so once there are pools only the sum is right.
    if view.kernel.hugetlb.hstates[0].nr_huge_pages or view.kernel.hugetlb.files:
        counted = sum(zone.vm_stat[NR_FILE_PAGES] for zone in view.zones)
        total = sum(found[zone, NR_FILE_PAGES] for zone in view.zones)
        if counted != total:
            yield Violation("vmstat", "all zones", f"nr_file_pages {counted}, found {total}")
        for zone in view.zones:
            found[zone, NR_FILE_PAGES] = zone.vm_stat[NR_FILE_PAGES]
    for zone in view.zones:
        for item in RECOUNTED:
            if zone.vm_stat[item] != found[zone, item]:
                yield Violation(
                    "vmstat",
                    repr(zone),
                    f"{ZONE_STAT_NAMES[item]} {zone.vm_stat[item]}, found {found[zone, item]}",
                )


def rss(view: View) -> Iterator[Violation]:
    found: Counter[tuple[Mm, int]] = Counter()
    page_of = view.kernel.page_of
    for pfn, places in view.mapped.items():
        page = page_of(pfn)
        if page.flags & PG_hugetlb:
            continue
        kind = MM_ANONPAGES if _anon(page) else MM_FILEPAGES
        for mm, _, _ in places:
            found[mm, kind] += HPAGE_PMD_NR if page.flags & PG_head else 1
    for mm, _, entry in view.entries:
        if is_migration_entry(entry):
            named = page_of(swp_offset(entry))
            if named.flags & PG_hugetlb:
                continue
            anon = _anon(named)
            found[mm, MM_ANONPAGES if anon else MM_FILEPAGES] += 1
        else:
            found[mm, MM_SWAPENTS] += 1
    for mm in view.kernel.mms:
        for kind, name in ((MM_FILEPAGES, "file"), (MM_ANONPAGES, "anon"), (MM_SWAPENTS, "swap")):
            if mm.rss_stat[kind] != found[mm, kind]:
                yield Violation(
                    "rss", repr(mm), f"{name} rss {mm.rss_stat[kind]}, found {found[mm, kind]}"
                )
