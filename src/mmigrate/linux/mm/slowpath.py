"""What an allocation does when no zone can spare a block: the slow half of mm/page_alloc.c.

Interface: `wake_all_kswapds`, and `reclaim_and_retry` for who may wait.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.gfp import (
    __GFP_NOFAIL,
    __GFP_NORETRY,
    __GFP_REPEAT,
    GFP_TRANSHUGE,
)
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC, MIGRATE_SYNC_LIGHT, MigrateMode
from mmigrate.linux.include.mm import PF_KTHREAD, PF_MEMALLOC
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import Zone
from mmigrate.linux.include.vmstat import COMPACTFAIL, COMPACTSTALL, COMPACTSUCCESS
from mmigrate.linux.kernel import sched
from mmigrate.linux.mm import compaction, kswapd, page_alloc, reclaim

PAGE_ALLOC_COSTLY_ORDER: Final = 3


def wake_all_kswapds(
    order: int, zonelist: list[Zone], high_zoneidx: int, preferred: Zone, nodemask: int | None
) -> None:
    """mm/page_alloc.c: wake_all_kswapds."""
    for zone in zonelist:
        if zone.zone_idx <= high_zoneidx and (nodemask is None or nodemask >> zone.nid & 1):
            kswapd.wakeup_kswapd(zone, order, preferred.zone_idx)


def reclaim_and_retry(
    gfp: int,
    order: int,
    zonelist: list[Zone],
    nodemask: int | None,
    preferred: Zone,
    alloc_flags: int,
    high_zoneidx: int,
    migratetype: int,
) -> Page | None:
    """Compact, reclaim, and try again, until nothing can be gained
    (mm/page_alloc.c: __alloc_pages_slowpath).

    Differs: nobody is killed here; whoever cannot do without the page is.
    """
    task = sched.task
    kernel = task.kernel
    is_thp = gfp & GFP_TRANSHUGE == GFP_TRANSHUGE and not task.flags & PF_KTHREAD
    mode: MigrateMode = MIGRATE_ASYNC
    reclaimed = 0
    while True:
        if order:
            page, result = __alloc_pages_direct_compact(
                gfp, order, zonelist, nodemask, preferred, alloc_flags, high_zoneidx, mode
            )
            if page is not None or (is_thp and result <= compaction.COMPACT_SKIPPED):
                return page
            if not is_thp:
                mode = MIGRATE_SYNC_LIGHT
        task.flags |= PF_MEMALLOC
        progress = reclaim.try_to_free_pages(kernel, zonelist, order, gfp, nodemask)
        task.flags &= ~PF_MEMALLOC
        for drained in (False, True):
            if drained:
                page_alloc.drain_all_pages(kernel)  # what was freed may be on a CPU's list
            page = page_alloc.get_page_from_freelist(
                gfp, order, zonelist, nodemask, preferred, alloc_flags, high_zoneidx, migratetype
            )
            if page is not None or not progress:
                break
        if page is not None:
            return page
        reclaimed += progress
        if not progress or not should_alloc_retry(gfp, order, reclaimed):
            break
        reclaim.congestion_wait(kernel)
    if order:
        page, _ = __alloc_pages_direct_compact(
            gfp, order, zonelist, nodemask, preferred, alloc_flags, high_zoneidx, mode
        )
    return page


def should_alloc_retry(gfp: int, order: int, reclaimed: int) -> bool:
    """mm/page_alloc.c: should_alloc_retry."""
    if gfp & __GFP_NORETRY:
        return False
    if gfp & __GFP_NOFAIL or order <= PAGE_ALLOC_COSTLY_ORDER:
        return True
    return bool(gfp & __GFP_REPEAT) and reclaimed < 1 << order


def __alloc_pages_direct_compact(
    gfp: int,
    order: int,
    zonelist: list[Zone],
    nodemask: int | None,
    preferred: Zone,
    alloc_flags: int,
    high_zoneidx: int,
    mode: MigrateMode,
) -> tuple[Page | None, int]:
    """Compact, and try again; what came of the compaction too
    (mm/page_alloc.c: __alloc_pages_direct_compact)."""
    task = sched.task
    task.flags |= PF_MEMALLOC
    result, _contended = compaction.try_to_compact_pages(
        gfp, order, zonelist, nodemask, mode, alloc_flags, high_zoneidx
    )
    task.flags &= ~PF_MEMALLOC
    if result <= compaction.COMPACT_SKIPPED:
        return None, result
    events = task.kernel.vm_events
    events[COMPACTSTALL] += 1
    page = page_alloc.get_page_from_freelist(
        gfp,
        order,
        zonelist,
        nodemask,
        preferred,
        alloc_flags & ~page_alloc.ALLOC_NO_WATERMARKS,
        high_zoneidx,
        page_alloc.gfpflags_to_migratetype(gfp),
    )
    if page is not None:
        page.zone.compact_blockskip_flush = False
        compaction.compaction_defer_reset(page.zone, order, True)
        events[COMPACTSUCCESS] += 1
        return page, result
    events[COMPACTFAIL] += 1
    return None, result
