"""A given range of frames, emptied and handed over  (mm/page_alloc.c: alloc_contig_range)."""

from __future__ import annotations

from errno import EBUSY, EINTR
from typing import Final

from mmigrate.linux.include.gfp import MIGRATE_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_CMA
from mmigrate.linux.include.mmzone import MAX_ORDER
from mmigrate.linux.kernel.page_ref import PageBuddy, page_count
from mmigrate.linux.lib.list import list_empty
from mmigrate.linux.mm import compaction, migrate, page_alloc, page_isolation, swap, vmscan
from mmigrate.linux.mm.compaction import CompactControl
from mmigrate.linux.mm.page_isolation import page_or_none

ALIGN: Final = 1 << (MAX_ORDER - 1)  # pageblocks are isolated in units of the largest block
TRIES: Final = 5


def _outer(start: int, end: int) -> tuple[int, int]:
    """The range that is isolated  (mm/page_alloc.c: pfn_max_align_down, pfn_max_align_up)."""
    return start & ~(ALIGN - 1), (end + ALIGN - 1) & ~(ALIGN - 1)


def _alloc_contig_migrate_range(cc: CompactControl, start: int, end: int) -> int:
    """Move away what is in use; 0, or -EBUSY, -ENOMEM, -EINTR.  A page that has failed for good
    is not noticed here, but by who looks whether the range is free
    (mm/page_alloc.c: __alloc_contig_migrate_range)."""
    zone = cc.zone
    migrate.migrate_prep(zone.kernel)
    pfn = start
    tries = ret = 0
    while pfn < end or not list_empty(cc.migratepages):
        if list_empty(cc.migratepages):
            cc.nr_migratepages = 0
            pfn = compaction.isolate_migratepages_range(cc, pfn, end)
            if not pfn:
                ret = -EINTR
                break
            tries = 0
        else:
            tries += 1
            if tries == TRIES:
                ret = ret if ret < 0 else -EBUSY
                break
        reclaimed = vmscan.reclaim_clean_pages_from_list(zone, cc.migratepages)
        cc.nr_migratepages -= reclaimed
        ret = migrate.migrate_pages(
            cc.migratepages, page_isolation.alloc_migrate_target, None, 0, cc.mode, MR_CMA
        )
    if ret < 0:
        migrate.putback_movable_pages(cc.migratepages)
        return ret
    return 0


def alloc_contig_range(
    kernel: Kernel, start: int, end: int, migratetype: int = MIGRATE_MOVABLE
) -> int:
    """Take the frames from @start to @end, with a reference each; 0, or -EBUSY, -ENOMEM, -EINTR.
    @migratetype: what the pageblocks are, and are again afterwards
    (mm/page_alloc.c: alloc_contig_range)."""
    zone = page_isolation.zone_of_frame(kernel, start)
    if zone is None or end > zone.end_pfn:
        return -EBUSY  # Differs: the kernel's callers never ask for frames of two zones
    cc = CompactControl(zone, -1, MIGRATE_SYNC, ignore_skip_hint=True)
    outer = _outer(start, end)
    ret = page_isolation.start_isolate_page_range(kernel, *outer, migratetype, False)
    if ret:
        return ret
    ret = _alloc_contig_migrate_range(cc, start, end)
    if not ret:
        swap.lru_add_drain_all(kernel)
        page_alloc.drain_all_pages(kernel, zone)
        ret = _grab(cc, start, end)
    page_isolation.undo_isolate_page_range(kernel, *outer, migratetype)
    return ret


def _grab(cc: CompactControl, start: int, end: int) -> int:
    """Take the free blocks that the range lies in, and give back what sticks out of it."""
    kernel = cc.zone.kernel
    order, outer_start = 0, start
    while True:
        page = page_or_none(kernel, outer_start)
        if page is not None and PageBuddy(page):
            break
        order += 1
        if order >= MAX_ORDER:
            return -EBUSY
        outer_start &= ~((1 << order) - 1)
    if page_isolation.test_pages_isolated(kernel, outer_start, end, False):
        return -EBUSY
    outer_end = compaction.isolate_freepages_range(cc, outer_start, end)
    if not outer_end:
        return -EBUSY
    free_contig_range(kernel, outer_start, start - outer_start)
    free_contig_range(kernel, end, outer_end - end)
    return 0


def free_contig_range(kernel: Kernel, pfn: int, nr_pages: int) -> int:
    """Free so many frames; how many were in use by somebody else too
    (mm/page_alloc.c: free_contig_range)."""
    count = 0
    for number in range(pfn, pfn + nr_pages):
        page = kernel.page_of(number)
        count += page_count(page) != 1
        page_alloc.__free_pages(page, 0)
    return count
