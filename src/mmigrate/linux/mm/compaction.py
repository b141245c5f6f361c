"""Memory compaction: used pages go up, so that free ones make large blocks  (mm/compaction.c).

Two scanners of a zone approach each other: one takes movable pages from the bottom, the other
free ones from the top, and the first move into the second. Interface: `compact_memory`,
`compact_node`, `compact_pgdat`, `try_to_compact_pages`; `isolate_migratepages_range` and
`isolate_freepages_range` for those who want a range of frames.

Differs: nobody needs rescheduling and no signal is fatal, so a run is only ever cut short by a
contended lock; a task that waits because too much is isolated waits for that to change, not
for 100 ms.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.gfp import (
    __GFP_FS,
    __GFP_IO,
    MIGRATE_CMA,
    MIGRATE_MOVABLE,
)
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.migrate_mode import (
    MIGRATE_ASYNC,
    MIGRATE_SYNC,
    MR_COMPACTION,
    MigrateMode,
)
from mmigrate.linux.include.mm import ISOLATE_ASYNC_MIGRATE, ISOLATE_UNEVICTABLE
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import (
    MAX_ORDER,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    SECTION_SHIFT,
    SECTION_SIZE,
    PglistData,
    Zone,
)
from mmigrate.linux.include.switches import BALLOON_REDESIGN
from mmigrate.linux.include.vmstat import (
    COMPACTFREE_SCANNED,
    COMPACTISOLATED,
    COMPACTMIGRATE_SCANNED,
    NR_ISOLATED_ANON,
    NR_ISOLATED_FILE,
    NR_LRU_BASE,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_flags import (
    PageLRU,
    PageTransHuge,
    page_is_file_cache,
    page_lru,
    page_mapping,
)
from mmigrate.linux.kernel.page_ref import PageBuddy, page_count, page_mapcount
from mmigrate.linux.kernel.sched import READ
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_trylock, spin_unlock
from mmigrate.linux.kernel.straight import hot
from mmigrate.linux.lib.list import ListHead, list_add, list_del, list_empty
from mmigrate.linux.mm import (
    balloon_compaction,
    migrate,
    page_alloc,
    swap,
    taken_blocks,
    vmscan,
    vmstat,
)

COMPACT_DEFERRED: Final = 0
COMPACT_SKIPPED: Final = 1
COMPACT_CONTINUE: Final = 2
COMPACT_PARTIAL: Final = 3
COMPACT_COMPLETE: Final = 4
COMPACT_NAMES: Final = ("deferred", "skipped", "continue", "partial", "complete")

COMPACT_CONTENDED_NONE: Final = 0
COMPACT_CONTENDED_SCHED: Final = 1
COMPACT_CONTENDED_LOCK: Final = 2

COMPACT_CLUSTER_MAX: Final = 32
COMPACT_MAX_DEFER_SHIFT: Final = 6
EXTFRAG_THRESHOLD: Final = 500  # sysctl_extfrag_threshold
PAGEBLOCK_MASK: Final = ~(PAGEBLOCK_NR_PAGES - 1)

_ISOLATE_ABORT: Final = 0
_ISOLATE_NONE: Final = 1
_ISOLATE_SUCCESS: Final = 2


class CompactControl:
    """One run  (struct compact_control).  @order: what is wanted; -1: compact everything."""

    __slots__ = (
        "alloc_flags",
        "classzone_idx",
        "contended",
        "free_pfn",
        "freepages",
        "ignore_skip_hint",
        "last_migrated_pfn",
        "migrate_pfn",
        "migratepages",
        "migratetype",
        "mode",
        "nr_freepages",
        "nr_migratepages",
        "order",
        "zone",
    )

    def __init__(
        self,
        zone: Zone,
        order: int,
        mode: MigrateMode,
        *,
        migratetype: int = MIGRATE_MOVABLE,
        alloc_flags: int = 0,
        classzone_idx: int = 0,
        ignore_skip_hint: bool = False,
    ) -> None:
        self.zone = zone
        self.order = order
        self.mode = mode
        self.migratetype = migratetype
        self.alloc_flags = alloc_flags
        self.classzone_idx = classzone_idx
        self.ignore_skip_hint = ignore_skip_hint
        self.freepages = ListHead()
        self.nr_freepages = 0
        self.migratepages = ListHead()
        self.nr_migratepages = 0
        self.free_pfn = 0
        self.migrate_pfn = 0
        self.last_migrated_pfn = 0
        self.contended = COMPACT_CONTENDED_NONE


# --- pages by frame ---


def _page_or_none(zone: Zone, pfn: int) -> Page | None:
    """The page of a frame; None if it has never been in use, so is inside a free block."""
    section = zone.kernel.mem_map.get(pfn >> SECTION_SHIFT)
    return None if section is None else section[pfn & (SECTION_SIZE - 1)]


def _is_untouched(zone: Zone, pfn: int) -> bool:
    """Whether a frame is in memory that nobody has asked for yet."""
    return any(start <= pfn < end for start, end in zone.untouched)


# --- deferral ---


def defer_compaction(zone: Zone, order: int) -> None:
    """It ran to its end and did not help: pass over the next 2**n requests
    (mm/compaction.c: defer_compaction)."""
    zone.compact_considered = 0
    zone.compact_defer_shift = min(zone.compact_defer_shift + 1, COMPACT_MAX_DEFER_SHIFT)
    zone.compact_order_failed = min(zone.compact_order_failed, order)


def compaction_deferred(zone: Zone, order: int) -> bool:
    """Whether to pass over a request  (mm/compaction.c: compaction_deferred)."""
    limit = 1 << zone.compact_defer_shift
    if order < zone.compact_order_failed:
        return False
    zone.compact_considered = min(zone.compact_considered + 1, limit)
    return zone.compact_considered < limit


def compaction_defer_reset(zone: Zone, order: int, alloc_success: bool) -> None:
    """It helped  (mm/compaction.c: compaction_defer_reset)."""
    if alloc_success:
        zone.compact_considered = 0
        zone.compact_defer_shift = 0
    zone.compact_order_failed = max(zone.compact_order_failed, order + 1)


def compaction_restarting(zone: Zone, order: int) -> bool:
    """Whether it was deferred to the utmost and starts anew
    (mm/compaction.c: compaction_restarting)."""
    return (
        order >= zone.compact_order_failed
        and zone.compact_defer_shift == COMPACT_MAX_DEFER_SHIFT
        and zone.compact_considered >= 1 << zone.compact_defer_shift
    )


# --- blocks to pass over, and where to begin ---


def _isolation_suitable(cc: CompactControl, pfn: int) -> bool:
    return cc.ignore_skip_hint or pfn >> PAGEBLOCK_ORDER not in cc.zone.pageblock_skip


def _reset_cached_positions(zone: Zone) -> None:
    zone.compact_cached_migrate_pfn = [zone.zone_start_pfn, zone.zone_start_pfn]
    zone.compact_cached_free_pfn = zone.end_pfn


def __reset_isolation_suitable(zone: Zone) -> None:
    """mm/compaction.c: __reset_isolation_suitable."""
    zone.compact_blockskip_flush = False
    _reset_cached_positions(zone)
    zone.pageblock_skip.clear()


def reset_isolation_suitable(pgdat: PglistData) -> None:
    """Before kswapd sleeps: look at all blocks again if a whole run has ended
    (mm/compaction.c: reset_isolation_suitable)."""
    for zone in pgdat.node_zones:
        if zone.compact_blockskip_flush:
            __reset_isolation_suitable(zone)


def _update_pageblock_skip(
    cc: CompactControl, page: Page | None, nr_isolated: int, migrate_scanner: bool
) -> None:
    """Remember a block that gave nothing  (mm/compaction.c: update_pageblock_skip)."""
    if cc.ignore_skip_hint or page is None or nr_isolated:
        return
    zone, pfn = cc.zone, page.pfn
    zone.pageblock_skip.add(pfn >> PAGEBLOCK_ORDER)
    if migrate_scanner:
        cached = zone.compact_cached_migrate_pfn
        cached[0] = max(cached[0], pfn)
        if cc.mode != MIGRATE_ASYNC:
            cached[1] = max(cached[1], pfn)
    else:
        zone.compact_cached_free_pfn = min(zone.compact_cached_free_pfn, pfn)


# --- locks ---


def _compact_trylock(lock: SpinLock, cc: CompactControl) -> bool:
    """Take a lock, asynchronously only if it is free
    (mm/compaction.c: compact_trylock_irqsave)."""
    if cc.mode == MIGRATE_ASYNC:
        if not spin_trylock(lock):
            cc.contended = COMPACT_CONTENDED_LOCK
            return False
    else:
        spin_lock(lock)
    return True


def too_many_isolated(zone: Zone) -> bool:
    """mm/compaction.c: too_many_isolated."""
    stat = zone.vm_stat
    isolated = stat[NR_ISOLATED_FILE] + stat[NR_ISOLATED_ANON]
    return isolated > sum(stat[NR_LRU_BASE : NR_LRU_BASE + 4]) // 2


# --- the migration scanner ---


@hot
def isolate_migratepages_block(
    cc: CompactControl, low_pfn: int, end_pfn: int, isolate_mode: int
) -> int:
    """Take the movable pages of a block, or of part of one, to `cc.migratepages`; where it
    stopped, 0 if it was cut short  (mm/compaction.c: isolate_migratepages_block).

    Differs: the test whether too much is isolated already is made with nothing in between,
    so nobody waits who is alone.
    """
    zone = cc.zone
    if too_many_isolated(zone):
        if cc.mode == MIGRATE_ASYNC:
            return 0
        sched.block(
            zone, "isolated", READ, lambda: not too_many_isolated(zone), "less isolated memory"
        )
    redesigned = zone.kernel.has(BALLOON_REDESIGN)
    lru_lock = zone.lru_lock
    mem_map = zone.kernel.mem_map
    locked = False
    nr_scanned = nr_isolated = 0
    valid_page: Page | None = None
    pfn = low_pfn
    while pfn < end_pfn:
        if pfn & 31 == 0 and locked:
            spin_unlock(lru_lock)
            locked = False
        section = mem_map.get(pfn >> SECTION_SHIFT)
        page = None if section is None else section[pfn & (SECTION_SIZE - 1)]
        nr_scanned += 1
        if page is None:  # inside a free block
            pfn += 1
            continue
        if valid_page is None:
            valid_page = page
        if PageBuddy(page):
            order = page.private  # without the lock: it may be anything by now
            if type(order) is int and 0 < order < MAX_ORDER:
                pfn += 1 << order
            else:
                pfn += 1
            continue
        if not PageLRU(page):
            if redesigned:
                taken = balloon_compaction.balloon_page_movable(
                    page
                ) and balloon_compaction.balloon_page_isolate(page)
            else:
                taken = (
                    balloon_compaction.v317_balloon_page_movable(page)
                    and locked
                    and balloon_compaction.v317_balloon_page_isolate(page)
                )
            if not taken:
                pfn += 1
                continue
        else:
            if PageTransHuge(page):
                if locked:
                    pfn += 1 << page_alloc.compound_order(page)
                else:
                    pfn = (pfn | (PAGEBLOCK_NR_PAGES - 1)) + 1
                continue
            # A pinned anonymous page cannot move.
            if page_mapping(page) is None and page_count(page) > page_mapcount(page):
                pfn += 1
                continue
            if not locked:
                if not _compact_trylock(lru_lock, cc):
                    break
                locked = True
                if not PageLRU(page):
                    pfn += 1
                    continue
                if PageTransHuge(page):
                    pfn += 1 << page_alloc.compound_order(page)
                    continue
            if vmscan.__isolate_lru_page(page, isolate_mode) != 0:
                pfn += 1
                continue
            swap.del_page_from_lru_list(page, zone, page_lru(page))
        list_add(page, cc.migratepages)
        cc.nr_migratepages += 1
        nr_isolated += 1
        pfn += 1
        if cc.nr_migratepages == COMPACT_CLUSTER_MAX:
            break
    pfn = min(pfn, end_pfn)
    if locked:
        spin_unlock(lru_lock)
    if pfn == end_pfn:
        _update_pageblock_skip(cc, valid_page, nr_isolated, True)
    kernel = zone.kernel
    kernel.trace("mm_compaction_isolate_migratepages", nr_scanned=nr_scanned, nr_taken=nr_isolated)
    kernel.vm_events[COMPACTMIGRATE_SCANNED] += nr_scanned
    kernel.vm_events[COMPACTISOLATED] += nr_isolated
    return pfn


def acct_isolated(zone: Zone, cc: CompactControl) -> None:
    """Count what was isolated  (mm/compaction.c: acct_isolated)."""
    if not cc.nr_migratepages:
        return
    count = [0, 0]
    for page in cc.migratepages:
        count[page_is_file_cache(page)] += 1
    zone.vm_stat[NR_ISOLATED_ANON] += count[0]
    zone.vm_stat[NR_ISOLATED_FILE] += count[1]


def _isolate_migratepages(zone: Zone, cc: CompactControl) -> int:
    """Find the next block that gives something  (mm/compaction.c: isolate_migratepages).

    Known defect of v3.19: pages that were isolated before the lock turned out to be contended are
    put back without having been counted, so NR_ISOLATED_* falls by one for each.
    """
    isolate_mode = ISOLATE_ASYNC_MIGRATE if cc.mode == MIGRATE_ASYNC else 0
    low_pfn = cc.migrate_pfn
    end_pfn = (low_pfn & PAGEBLOCK_MASK) + PAGEBLOCK_NR_PAGES
    while end_pfn <= cc.free_pfn:
        if not _in_zone(zone, low_pfn, end_pfn) or not _isolation_suitable(cc, low_pfn):
            low_pfn, end_pfn = end_pfn, end_pfn + PAGEBLOCK_NR_PAGES
            continue
        if cc.mode == MIGRATE_ASYNC and not _movable_block(zone, low_pfn):
            low_pfn, end_pfn = end_pfn, end_pfn + PAGEBLOCK_NR_PAGES
            continue
        low_pfn = isolate_migratepages_block(cc, low_pfn, end_pfn, isolate_mode)
        if not low_pfn or cc.contended:
            return _ISOLATE_ABORT
        break
    acct_isolated(zone, cc)
    # In the last block the scanners meet.
    cc.migrate_pfn = low_pfn if end_pfn <= cc.free_pfn else cc.free_pfn
    return _ISOLATE_SUCCESS if cc.nr_migratepages else _ISOLATE_NONE


def isolate_migratepages_range(cc: CompactControl, start_pfn: int, end_pfn: int) -> int:
    """For who wants a range of frames, unevictable pages too; where it stopped, 0 if it was cut
    short, with all put back  (mm/compaction.c: isolate_migratepages_range)."""
    pfn = start_pfn
    block_end = (pfn & PAGEBLOCK_MASK) + PAGEBLOCK_NR_PAGES
    while pfn < end_pfn:
        block_end = min(block_end, end_pfn)
        if _in_zone(cc.zone, pfn, block_end):
            pfn = isolate_migratepages_block(cc, pfn, block_end, ISOLATE_UNEVICTABLE)
            if not pfn:
                migrate.putback_movable_pages(cc.migratepages)
                cc.nr_migratepages = 0
                break
            if cc.nr_migratepages == COMPACT_CLUSTER_MAX:
                break
        pfn = block_end
        block_end += PAGEBLOCK_NR_PAGES
    acct_isolated(cc.zone, cc)
    return pfn


def _in_zone(zone: Zone, start_pfn: int, end_pfn: int) -> bool:
    """Whether first and last frame belong to the zone
    (mm/compaction.c: pageblock_pfn_to_page)."""
    return zone.zone_start_pfn <= start_pfn and end_pfn <= zone.end_pfn


def _movable_block(zone: Zone, pfn: int) -> bool:
    return page_alloc.get_pageblock_migratetype(zone, pfn) in (MIGRATE_MOVABLE, MIGRATE_CMA)


# --- the free scanner ---


def isolate_freepages_block(
    cc: CompactControl, start_pfn: int, end_pfn: int, freelist: ListHead, strict: bool
) -> tuple[int, int]:
    """Take the free pages of a block; (how many, where it stopped).  @strict: all or 0
    (mm/compaction.c: isolate_freepages_block)."""
    zone = cc.zone
    pfn = start_pfn
    nr_scanned = total = 0
    valid_page: Page | None = None
    locked = False
    while pfn < end_pfn:
        if pfn & 31 == 0 and locked:
            spin_unlock(zone.lock)
            locked = False
        nr_scanned += 1
        page = _page_or_none(zone, pfn)
        if page is not None and valid_page is None:
            valid_page = page
        isolated = 0
        if page is not None and PageBuddy(page):
            if not locked:
                if not _compact_trylock(zone.lock, cc):
                    break
                locked = True
            if PageBuddy(page):
                isolated = taken_blocks.split_free_page(zone, page)
        if not isolated:
            if strict:
                break
            pfn += 1
            continue
        for offset in range(isolated):
            list_add(zone.kernel.page_of(pfn + offset), freelist)
        total += isolated
        cc.nr_freepages += isolated
        pfn += isolated
        if not strict and cc.nr_migratepages <= cc.nr_freepages:
            break
    if locked:
        spin_unlock(zone.lock)
    kernel = zone.kernel
    kernel.trace("mm_compaction_isolate_freepages", nr_scanned=nr_scanned, nr_taken=total)
    whole = pfn >= end_pfn
    if strict and not whole:
        total = 0
    if whole:
        _update_pageblock_skip(cc, valid_page, total, False)
    kernel.vm_events[COMPACTFREE_SCANNED] += nr_scanned
    if total:
        kernel.vm_events[COMPACTISOLATED] += total
    return total, pfn


def isolate_freepages_range(cc: CompactControl, start_pfn: int, end_pfn: int) -> int:
    """Take all frames of a range, which must be free; where that ended, 0 if one was not
    (mm/compaction.c: isolate_freepages_range)."""
    freelist = ListHead()
    pfn = start_pfn
    while pfn < end_pfn:
        block_end = min((pfn & PAGEBLOCK_MASK) + PAGEBLOCK_NR_PAGES, end_pfn)
        isolated, _ = isolate_freepages_block(cc, pfn, block_end, freelist, True)
        if not isolated:
            break
        pfn += isolated  # a free block may reach beyond this one
    if pfn < end_pfn:
        release_freepages(freelist)
        return 0
    return pfn


def release_freepages(freelist: ListHead) -> int:
    """Free the pages of a list; the highest frame  (mm/compaction.c: release_freepages)."""
    high_pfn = 0
    for page in freelist:
        list_del(page)
        high_pfn = max(high_pfn, page.pfn)
        page_alloc.__free_pages(page, 0)
    return high_pfn


def _isolate_freepages(cc: CompactControl) -> None:
    """Take free pages from the top until there are as many as pages to move
    (mm/compaction.c: isolate_freepages)."""
    zone = cc.zone
    isolate_start_pfn = cc.free_pfn
    block_start_pfn = cc.free_pfn & PAGEBLOCK_MASK
    block_end_pfn = min(block_start_pfn + PAGEBLOCK_NR_PAGES, zone.end_pfn)
    low_pfn = (cc.migrate_pfn + PAGEBLOCK_NR_PAGES - 1) & PAGEBLOCK_MASK
    while block_start_pfn >= low_pfn and cc.nr_migratepages > cc.nr_freepages:
        stop = False
        if _suitable_target(cc, block_start_pfn, block_end_pfn):
            _, isolate_start_pfn = isolate_freepages_block(
                cc, isolate_start_pfn, block_end_pfn, cc.freepages, False
            )
            cc.free_pfn = (
                isolate_start_pfn
                if isolate_start_pfn < block_end_pfn
                else block_start_pfn - PAGEBLOCK_NR_PAGES
            )
            stop = cc.contended != COMPACT_CONTENDED_NONE
        if stop:
            break
        block_end_pfn = block_start_pfn
        block_start_pfn -= PAGEBLOCK_NR_PAGES
        isolate_start_pfn = block_start_pfn
    if block_start_pfn < low_pfn:
        cc.free_pfn = cc.migrate_pfn


def _suitable_target(cc: CompactControl, start_pfn: int, end_pfn: int) -> bool:
    """Whether free pages of a block may be taken: it is movable, and not free as a whole already
    (mm/compaction.c: suitable_migration_target)."""
    zone = cc.zone
    if not zone.zone_start_pfn <= start_pfn < end_pfn <= zone.end_pfn:
        return False
    if _is_untouched(zone, start_pfn):
        return False
    page = _page_or_none(zone, start_pfn)
    if page is not None and PageBuddy(page):
        order = page.private
        if type(order) is int and order >= PAGEBLOCK_ORDER:
            return False
    if not _movable_block(zone, start_pfn):
        return False
    return _isolation_suitable(cc, start_pfn)


# --- destinations ---


def compaction_alloc(_page: Page, cc: CompactControl, _result: list[object]) -> Page | None:
    """A free page of the run's own, which the free scanner fetches
    (mm/compaction.c: compaction_alloc)."""
    if list_empty(cc.freepages):
        if cc.contended == COMPACT_CONTENDED_NONE:
            _isolate_freepages(cc)
        if list_empty(cc.freepages):
            return None
    freepage: Page = cc.freepages.next
    list_del(freepage)
    cc.nr_freepages -= 1
    return freepage


def compaction_free(page: Page, cc: CompactControl) -> None:
    """One that was not needed after all  (mm/compaction.c: compaction_free)."""
    list_add(page, cc.freepages)
    cc.nr_freepages += 1


# --- a run ---


def compaction_suitable(zone: Zone, order: int, alloc_flags: int, classzone_idx: int) -> int:
    """Whether a run could help  (mm/compaction.c: compaction_suitable)."""
    if order == -1:
        return COMPACT_CONTINUE
    watermark = zone.watermark[page_alloc.ALLOC_WMARK_LOW]
    if page_alloc.zone_watermark_ok(zone, order, watermark, classzone_idx, alloc_flags):
        return COMPACT_PARTIAL
    # Copying takes pages for a while.
    watermark += 2 << order
    if not page_alloc.zone_watermark_ok(zone, 0, watermark, classzone_idx, alloc_flags):
        return COMPACT_SKIPPED
    if 0 <= vmstat.fragmentation_index(zone, order) <= EXTFRAG_THRESHOLD:
        return COMPACT_SKIPPED
    return COMPACT_CONTINUE


def _compact_finished(cc: CompactControl) -> int:
    """mm/compaction.c: compact_finished."""
    zone = cc.zone
    if cc.contended:
        return COMPACT_PARTIAL
    if cc.free_pfn <= cc.migrate_pfn:
        _reset_cached_positions(zone)
        if not vmscan.current_is_kswapd():
            zone.compact_blockskip_flush = True
        return COMPACT_COMPLETE
    if cc.order == -1:
        return COMPACT_CONTINUE
    watermark = zone.watermark[page_alloc.ALLOC_WMARK_LOW]
    if not page_alloc.zone_watermark_ok(
        zone, cc.order, watermark, cc.classzone_idx, cc.alloc_flags
    ):
        return COMPACT_CONTINUE
    if zone.untouched:
        return COMPACT_PARTIAL
    for area in zone.free_area[cc.order :]:
        head = area.free_list.get(cc.migratetype)
        if head is not None and not list_empty(head):
            return COMPACT_PARTIAL
        # Known defect of v3.19: it is the wanted order that is compared, not that of the block.
        if cc.order >= PAGEBLOCK_ORDER and area.nr_free:
            return COMPACT_PARTIAL
    return COMPACT_CONTINUE


def compact_zone(zone: Zone, cc: CompactControl) -> int:
    """One run over a zone; a COMPACT_* value  (mm/compaction.c: compact_zone)."""
    suitable = compaction_suitable(zone, cc.order, cc.alloc_flags, cc.classzone_idx)
    if suitable != COMPACT_CONTINUE:
        return suitable
    if compaction_restarting(zone, cc.order) and not vmscan.current_is_kswapd():
        __reset_isolation_suitable(zone)
    sync = cc.mode != MIGRATE_ASYNC
    start_pfn, end_pfn = zone.zone_start_pfn, zone.end_pfn
    cc.migrate_pfn = zone.compact_cached_migrate_pfn[sync]
    cc.free_pfn = zone.compact_cached_free_pfn
    if not start_pfn <= cc.free_pfn < end_pfn:
        cc.free_pfn = zone.compact_cached_free_pfn = (end_pfn - 1) & PAGEBLOCK_MASK
    if not start_pfn <= cc.migrate_pfn < end_pfn:
        cc.migrate_pfn = start_pfn
        zone.compact_cached_migrate_pfn = [start_pfn, start_pfn]
    cc.last_migrated_pfn = 0
    kernel = zone.kernel
    kernel.trace(
        "mm_compaction_begin",
        zone_start=start_pfn,
        migrate_pfn=cc.migrate_pfn,
        free_pfn=cc.free_pfn,
        zone_end=end_pfn,
    )
    migrate.migrate_prep_local()
    while (ret := _compact_finished(cc)) == COMPACT_CONTINUE:
        isolate_start_pfn = cc.migrate_pfn
        isolated = _isolate_migratepages(zone, cc)
        if isolated == _ISOLATE_ABORT:
            ret = COMPACT_PARTIAL
            migrate.putback_movable_pages(cc.migratepages)
            cc.nr_migratepages = 0
            break
        if isolated == _ISOLATE_SUCCESS and not _migrate_isolated(cc, isolate_start_pfn):
            ret = COMPACT_PARTIAL
            break
        _flush_what_was_freed(cc)
    if cc.nr_freepages:
        free_pfn = release_freepages(cc.freepages)
        cc.nr_freepages = 0
        free_pfn &= PAGEBLOCK_MASK
        zone.compact_cached_free_pfn = max(zone.compact_cached_free_pfn, free_pfn)
    kernel.trace("mm_compaction_end", status=COMPACT_NAMES[ret])
    return ret


def _migrate_isolated(cc: CompactControl, isolate_start_pfn: int) -> bool:
    """Move what was isolated; False if the run must end for lack of destinations."""
    taken = cc.nr_migratepages
    err = migrate.migrate_pages(
        cc.migratepages, compaction_alloc, compaction_free, cc, cc.mode, MR_COMPACTION
    )
    left = sum(1 for _ in cc.migratepages) if err < 0 else err
    cc.zone.kernel.trace("mm_compaction_migratepages", nr_migrated=taken - left, nr_failed=left)
    cc.nr_migratepages = 0
    if err:
        migrate.putback_movable_pages(cc.migratepages)
        if err < 0 and cc.free_pfn > cc.migrate_pfn:
            return False
    if cc.last_migrated_pfn == 0:
        cc.last_migrated_pfn = isolate_start_pfn
    return True


def _flush_what_was_freed(cc: CompactControl) -> None:
    """When the scanner has left the block it wants, let freed pages leave the vectors and the
    CPU's own lists, so that they can merge."""
    if cc.order <= 0 or not cc.last_migrated_pfn:
        return
    current_block_start = cc.migrate_pfn & ~((1 << cc.order) - 1)
    if cc.last_migrated_pfn < current_block_start:
        swap.lru_add_drain()
        page_alloc.drain_local_pages(cc.zone)
        cc.last_migrated_pfn = 0


# --- who starts it ---


def try_to_compact_pages(
    gfp_mask: int,
    order: int,
    zonelist: list[Zone],
    nodemask: int | None,
    mode: MigrateMode,
    alloc_flags: int,
    high_zoneidx: int,
) -> tuple[int, int]:
    """For an allocation that failed: compact the zones it may use, until one has a block.
    (COMPACT_*, contended)  (mm/compaction.c: try_to_compact_pages)."""
    if not order or not gfp_mask & __GFP_FS or not gfp_mask & __GFP_IO:
        return COMPACT_SKIPPED, COMPACT_CONTENDED_NONE
    rc = COMPACT_DEFERRED
    all_zones_contended = COMPACT_CONTENDED_LOCK
    migratetype = page_alloc.gfpflags_to_migratetype(gfp_mask)
    classzone_idx = high_zoneidx
    for zone in zonelist:
        if zone.zone_idx > high_zoneidx or (nodemask is not None and not nodemask >> zone.nid & 1):
            continue
        if compaction_deferred(zone, order):
            continue
        cc = CompactControl(
            zone,
            order,
            mode,
            migratetype=migratetype,
            alloc_flags=alloc_flags,
            classzone_idx=classzone_idx,
        )
        status = compact_zone(zone, cc)
        rc = max(rc, status)
        watermark = zone.watermark[page_alloc.ALLOC_WMARK_LOW]
        if page_alloc.zone_watermark_ok(zone, order, watermark, classzone_idx, alloc_flags):
            compaction_defer_reset(zone, order, False)
            all_zones_contended = COMPACT_CONTENDED_NONE
            break
        if mode != MIGRATE_ASYNC and status == COMPACT_COMPLETE:
            defer_compaction(zone, order)
        all_zones_contended = min(all_zones_contended, cc.contended)
    if rc <= COMPACT_SKIPPED:
        all_zones_contended = COMPACT_CONTENDED_NONE
    return rc, all_zones_contended


def _compact_zones(pgdat: PglistData, order: int, mode: MigrateMode, ignore: bool) -> None:
    """mm/compaction.c: __compact_pgdat."""
    for zone in pgdat.node_zones:
        cc = CompactControl(zone, order, mode, ignore_skip_hint=ignore)
        if order == -1 or not compaction_deferred(zone, order):
            compact_zone(zone, cc)
        if order > 0:
            watermark = zone.watermark[page_alloc.ALLOC_WMARK_LOW]
            if page_alloc.zone_watermark_ok(zone, order, watermark, 0, 0):
                compaction_defer_reset(zone, order, False)


def compact_pgdat(pgdat: PglistData, order: int) -> None:
    """What kswapd does behind reclaim  (mm/compaction.c: compact_pgdat)."""
    if order:
        _compact_zones(pgdat, order, MIGRATE_ASYNC, False)


def compact_node(kernel: Kernel, nid: int) -> None:
    """A write to /sys/devices/system/node/node*/compact  (mm/compaction.c: compact_node)."""
    swap.lru_add_drain_all(kernel)
    _compact_zones(kernel.nodes[nid], -1, MIGRATE_SYNC, True)


def compact_memory(kernel: Kernel) -> None:
    """A write to /proc/sys/vm/compact_memory  (mm/compaction.c: compact_nodes)."""
    swap.lru_add_drain_all(kernel)
    for pgdat in kernel.nodes:
        if pgdat.node_zones:
            _compact_zones(pgdat, -1, MIGRATE_SYNC, True)
