"""The buddy allocator: blocks of 2**order frames, by zone and migrate type
(mm/page_alloc.c).

Interface: `alloc_pages_nodemask` and what is built on it, `__free_pages`,
`free_hot_cold_page`; `free_blocks` for observers.

A zone's memory that nobody has asked for yet is in `zone.untouched` and has no `Page`
objects; `_realise` turns one largest block of it into a block on a list.
Differs: behind a failed allocation there is no OOM killer, but there is one behind a failed
page fault (`oom_kill.py`); a new page reads as zeroes even where the kernel would leave the old
contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from mmigrate.linux.include.gfp import (
    __GFP_COLD,
    __GFP_COMP,
    __GFP_DMA,
    __GFP_DMA32,
    __GFP_HIGH,
    __GFP_HIGHMEM,
    __GFP_MEMALLOC,
    __GFP_MOVABLE,
    __GFP_NO_KSWAPD,
    __GFP_NOMEMALLOC,
    __GFP_OTHER_NODE,
    __GFP_RECLAIMABLE,
    __GFP_THISNODE,
    __GFP_WAIT,
    GFP_THISNODE,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_RECLAIMABLE,
    MIGRATE_RESERVE,
    MIGRATE_UNMOVABLE,
)
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import PF_MEMALLOC
from mmigrate.linux.include.mm_types import ZERO_BYTES, Page
from mmigrate.linux.include.mmzone import (
    MAX_ORDER,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    SECTION_SHIFT,
    SECTION_SIZE,
    WMARK_LOW,
    WMARK_MIN,
    ZONE_DMA,
    ZONE_DMA32,
    ZONE_MOVABLE,
    ZONE_NORMAL,
    PerCpuPages,
    Zone,
)
from mmigrate.linux.include.page_flags import (
    PAGE_BUDDY_MAPCOUNT_VALUE,
    PAGE_FLAGS_CHECK_AT_FREE,
    PG_head,
    PG_hwpoison,
    PG_tail,
    page_flag_names,
)
from mmigrate.linux.include.sched import Cpu
from mmigrate.linux.include.vmstat import (
    NR_FREE_CMA_PAGES,
    NR_FREE_PAGES,
    NR_PAGES_SCANNED,
    NUMA_FOREIGN,
    NUMA_HIT,
    NUMA_LOCAL,
    NUMA_MISS,
    NUMA_OTHER,
    PGALLOC_DMA,
    PGFREE,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.cpuset import cpuset_zone_allowed
from mmigrate.linux.kernel.page_ref import put_page_testzero
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.kernel.straight import hot, small
from mmigrate.linux.kernel.workqueue import run_on_cpus
from mmigrate.linux.lib.list import ListHead, list_add, list_add_tail, list_del
from mmigrate.linux.mm import slowpath
from mmigrate.linux.mm.page_boot import init_memory as init_memory

_CHECK_AT_FREE: Final = PAGE_FLAGS_CHECK_AT_FREE
ALLOC_WMARK_MIN: Final = WMARK_MIN
ALLOC_WMARK_LOW: Final = WMARK_LOW
ALLOC_WMARK_MASK: Final = 0x03
ALLOC_NO_WATERMARKS: Final = 0x04
ALLOC_HARDER: Final = 0x10
ALLOC_HIGH: Final = 0x20
ALLOC_CMA: Final = 0x80  # free pages of CMA areas count too

# Where to steal, in this order, when a migrate type has no free block.
FALLBACKS: Final = {
    MIGRATE_UNMOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE),
    MIGRATE_RECLAIMABLE: (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE),
    MIGRATE_MOVABLE: (MIGRATE_CMA, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE),
}


# --- frames and their pages ---


@small
def _page(zone: Zone, pfn: int) -> Page:
    """The page of a frame, made on its first use."""
    mem_map = zone.kernel.mem_map
    section = mem_map.get(pfn >> SECTION_SHIFT)
    if section is None:
        section = mem_map[pfn >> SECTION_SHIFT] = [None] * SECTION_SIZE
    page = section[pfn & (SECTION_SIZE - 1)]
    if page is None:
        page = section[pfn & (SECTION_SIZE - 1)] = Page(pfn, zone)
    return page


def page_of_frame(zone: Zone, pfn: int) -> Page:
    """The page of a frame of the zone, whether it has ever been in use or not."""
    return _page(zone, pfn)


def get_pageblock_migratetype(zone: Zone, pfn: int) -> int:
    return zone.pageblock_type.get(pfn >> PAGEBLOCK_ORDER, MIGRATE_MOVABLE)


def set_pageblock_migratetype(zone: Zone, pfn: int, migratetype: int) -> None:
    if migratetype == MIGRATE_MOVABLE:
        zone.pageblock_type.pop(pfn >> PAGEBLOCK_ORDER, None)
    else:
        zone.pageblock_type[pfn >> PAGEBLOCK_ORDER] = migratetype


@cache
@small
def gfpflags_to_migratetype(gfp: int) -> int:
    """include/linux/gfp.h: gfpflags_to_migratetype."""
    return (2 if gfp & __GFP_MOVABLE else 0) | (1 if gfp & __GFP_RECLAIMABLE else 0)


@cache
@small
def gfp_zone(gfp: int) -> int:
    """The highest zone an allocation may use  (include/linux/gfp.h: gfp_zone)."""
    if gfp & __GFP_DMA:
        return ZONE_DMA
    if gfp & __GFP_DMA32:
        return ZONE_DMA32
    if gfp & __GFP_MOVABLE and gfp & __GFP_HIGHMEM:
        return ZONE_MOVABLE
    return ZONE_NORMAL


def node_zonelist(kernel: Kernel, nid: int, gfp: int) -> list[Zone]:
    """The zones to try for an allocation on @nid, in order."""
    return kernel.nodes[nid].node_zonelists[1 if gfp & __GFP_THISNODE else 0]


# --- free blocks; zone->lock is held ---


@small
def add_free_block(zone: Zone, pfn: int, order: int, migratetype: int, tail: bool = False) -> None:
    """Put a block on its free list; the counter of free pages is the caller's."""
    _link_free_block(zone, _page(zone, pfn), order, migratetype, tail)


@small
def _link_free_block(zone: Zone, page: Page, order: int, migratetype: int, tail: bool) -> None:
    page.private = order
    page._mapcount = PAGE_BUDDY_MAPCOUNT_VALUE
    page.index = migratetype
    area = zone.free_area[order]
    if tail:
        list_add_tail(page, area.free_list[migratetype])
    else:
        list_add(page, area.free_list[migratetype])
    area.nr_free += 1


@small
def remove_free_block(zone: Zone, page: Page, order: int) -> None:
    list_del(page)
    page.private = 0
    page._mapcount = -1
    zone.free_area[order].nr_free -= 1


def _realise(zone: Zone) -> bool:
    """Turn the lowest untouched block into one on a list; whether there was one."""
    if not zone.untouched:
        return False
    start, end = zone.untouched[0]
    largest = MAX_ORDER - 1
    if start + (1 << largest) < end:
        zone.untouched[0] = (start + (1 << largest), end)
    else:
        del zone.untouched[0]
    add_free_block(zone, start, largest, MIGRATE_MOVABLE)
    return True


def count_freepages(zone: Zone, number: int, migratetype: int) -> None:
    """Change the counters of free pages; those of isolated pageblocks are not counted
    (include/linux/vmstat.h: __mod_zone_freepage_state)."""
    if migratetype != MIGRATE_ISOLATE:
        zone.vm_stat[NR_FREE_PAGES] += number
        if migratetype == MIGRATE_CMA:
            zone.vm_stat[NR_FREE_CMA_PAGES] += number


def _expand(zone: Zone, page: Page, low: int, high: int, migratetype: int) -> None:
    """Give back the upper halves of a block that is too large  (mm/page_alloc.c: expand)."""
    while high > low:
        high -= 1
        add_free_block(zone, page.pfn + (1 << high), high, migratetype)


@hot
def __rmqueue_smallest(zone: Zone, order: int, migratetype: int) -> Page | None:
    """The smallest free block of the type that is large enough
    (mm/page_alloc.c: __rmqueue_smallest)."""
    free_area = zone.free_area
    for current_order in range(order, MAX_ORDER):
        area = free_area[current_order]
        if not area.nr_free:
            continue
        head = area.free_list[migratetype]
        page = head.next
        if page is head:
            continue
        remove_free_block(zone, page, current_order)
        if current_order > order:
            _expand(zone, page, order, current_order, migratetype)
        page.index = migratetype
        found: Page = page
        return found
    return None


def __rmqueue_fallback(zone: Zone, order: int, start_type: int) -> Page | None:
    """Steal from another type, the largest block first so that types stay apart
    (mm/page_alloc.c: __rmqueue_fallback)."""
    for current_order in range(MAX_ORDER - 1, order - 1, -1):
        area = zone.free_area[current_order]
        for fallback in FALLBACKS[start_type]:
            head = area.free_list.get(fallback)
            if head is None or head.next is head:
                continue
            page: Page = head.next
            new_type = _try_to_steal(zone, page, start_type, fallback, current_order)
            remove_free_block(zone, page, current_order)
            _expand(zone, page, order, current_order, new_type)
            page.index = new_type
            return page
    return None


def _try_to_steal(
    zone: Zone, page: Page, start_type: int, fallback: int, current_order: int
) -> int:
    """Convert the whole pageblock if that pays; the type the rest gets
    (mm/page_alloc.c: try_to_steal_freepages)."""
    if fallback == MIGRATE_CMA:  # stays what it is
        return fallback
    if current_order >= PAGEBLOCK_ORDER:
        for pfn in range(page.pfn, page.pfn + (1 << current_order), PAGEBLOCK_NR_PAGES):
            set_pageblock_migratetype(zone, pfn, start_type)
        return start_type
    if current_order >= PAGEBLOCK_ORDER // 2 or start_type == MIGRATE_RECLAIMABLE:
        if move_freepages_block(zone, page.pfn, start_type) >= 1 << (PAGEBLOCK_ORDER - 1):
            set_pageblock_migratetype(zone, page.pfn, start_type)
            return start_type
    return fallback


def move_freepages_block(zone: Zone, pfn: int, migratetype: int) -> int:
    """Move the free blocks that begin in a pageblock to the lists of another type; how many
    pages  (mm/page_alloc.c: move_freepages_block)."""
    first = pfn & ~(PAGEBLOCK_NR_PAGES - 1)
    section = zone.kernel.mem_map.get(first >> SECTION_SHIFT, ())
    moved = 0
    position = first
    for page in section:
        if page is None or page.pfn < position or page._mapcount != PAGE_BUDDY_MAPCOUNT_VALUE:
            continue
        if page.zone is zone:
            moved += move_free_block(zone, page, migratetype)
            position = page.pfn + (1 << page.private)
    return moved


def move_free_block(zone: Zone, page: Page, migratetype: int) -> int:
    """Move one free block; how many pages  (mm/page_alloc.c: move_freepages)."""
    order: int = page.private
    list_del(page)
    list_add(page, zone.free_area[order].free_list[migratetype])
    page.index = migratetype
    return 1 << order


@small
def __rmqueue(zone: Zone, order: int, migratetype: int) -> Page | None:
    """A free block from the lists, untouched memory, or another type
    (mm/page_alloc.c: __rmqueue)."""
    page = __rmqueue_smallest(zone, order, migratetype)
    if page is None and zone.untouched:
        if migratetype == MIGRATE_MOVABLE:
            _realise(zone)
            return __rmqueue_smallest(zone, order, migratetype)
        largest = zone.free_area[MAX_ORDER - 1].free_list[MIGRATE_MOVABLE]
        if largest.next is largest:
            _realise(zone)
    page = page or __rmqueue_fallback(zone, order, migratetype)
    # Rather than to fail, take what is kept for others.
    return page or __rmqueue_smallest(zone, order, MIGRATE_RESERVE)


@hot
def __free_one_page(zone: Zone, page: Page, order: int, migratetype: int) -> None:
    """Free a block and merge it with its buddies as far as they are free, that of an isolated
    pageblock not beyond it; the caller counts it  (mm/page_alloc.c: __free_one_page).

    Known defect of v3.19: the type of the buddy is not looked at, so a pageblock can merge with
    one that is isolated, whose pages are then missing from the counters.
    """
    mem_map = zone.kernel.mem_map
    pfn = page.pfn
    start, end = zone.zone_start_pfn, zone.zone_start_pfn + zone.spanned_pages
    max_order = PAGEBLOCK_ORDER if migratetype == MIGRATE_ISOLATE else MAX_ORDER - 1
    while order < max_order:
        buddy_pfn = pfn ^ (1 << order)
        if not start <= buddy_pfn < end:
            break
        section = mem_map.get(buddy_pfn >> SECTION_SHIFT)
        buddy = section[buddy_pfn & (SECTION_SIZE - 1)] if section is not None else None
        if buddy is None or buddy._mapcount != PAGE_BUDDY_MAPCOUNT_VALUE or buddy.private != order:
            break
        remove_free_block(zone, buddy, order)
        if buddy_pfn < pfn:
            pfn, page = buddy_pfn, buddy
        order += 1
    tail = _buddy_of_next_is_free(zone, pfn, order)
    _link_free_block(zone, page, order, migratetype, tail)


@small
def _buddy_of_next_is_free(zone: Zone, pfn: int, order: int) -> bool:
    """Whether the block would merge further if its own buddy were freed: then it is put
    last, to be used late."""
    if order >= MAX_ORDER - 2:
        return False
    next_pfn = (pfn & ~(1 << order)) ^ (1 << (order + 1))
    section = zone.kernel.mem_map.get(next_pfn >> SECTION_SHIFT)
    buddy = section[next_pfn & (SECTION_SIZE - 1)] if section is not None else None
    return (
        buddy is not None
        and buddy.zone is zone
        and buddy._mapcount == PAGE_BUDDY_MAPCOUNT_VALUE
        and buddy.private == order + 1
    )


# --- per-CPU lists ---


def _smallest_block(zone: Zone, migratetype: int) -> tuple[Page | None, int]:
    """The block that a single page of the type would come from, and its order."""
    for order, area in enumerate(zone.free_area):
        if area.nr_free:
            head = area.free_list[migratetype]
            if head.next is not head:
                return head.next, order
    return None, 0


def _take_front(
    zone: Zone, block: Page, order: int, count: int, migratetype: int, before: ListHead
) -> ListHead:
    """Link the first @count pages of a free block behind @before, as if they were taken one by
    one, which splits the block, and then what is left of it, again and again; the last of them.
    There must be no smaller block of the type  (explore_kernel_per_s)."""
    remove_free_block(zone, block, order)
    pfn = block.pfn
    end, left = pfn + (1 << order), (1 << order) - count
    while left:  # the largest of what stays first, as if it was split off
        order = left.bit_length() - 1
        end -= 1 << order
        left -= 1 << order
        add_free_block(zone, end, order, migratetype)
    section = zone.kernel.mem_map[pfn >> SECTION_SHIFT]
    first = pfn & (SECTION_SIZE - 1)
    for place in range(first, first + count):
        page = section[place]
        if page is None:
            page = section[place] = Page(pfn - first + place, zone)
        else:
            page.private = 0
            page._mapcount = -1
        page.index = migratetype
        page.prev = before
        before.next = page
        before = page
    return before


def _rmqueue_bulk(zone: Zone, pcp: PerCpuPages, migratetype: int, cold: bool) -> None:
    """Refill a per-CPU list; no other task of this CPU may come in between
    (mm/page_alloc.c: rmqueue_bulk, with interrupts off)."""
    head: ListHead = pcp.lists[migratetype]
    sched.preempt_disable()
    with spin_lock(zone.lock):
        batch = pcp.batch
        before, after = (head.prev, head) if cold else (head, head.next)
        taken = of_cma = 0
        while taken < batch:
            block, order = _smallest_block(zone, migratetype)
            if block is not None:
                count = min(batch - taken, 1 << order)
                before = _take_front(zone, block, order, count, migratetype, before)
                taken += count
            elif migratetype == MIGRATE_MOVABLE and zone.untouched:
                _realise(zone)
            else:
                page = __rmqueue(zone, 0, migratetype)
                if page is None:
                    break
                if page.index == MIGRATE_CMA:
                    of_cma += 1
                page.prev = before
                before.next = page
                before = page
                taken += 1
        before.next = after
        after.prev = before
        zone.vm_stat[NR_FREE_PAGES] -= taken
        zone.vm_stat[NR_FREE_CMA_PAGES] -= of_cma
        pcp.count += taken
    sched.preempt_enable()


@hot
def _free_pcppages_bulk(zone: Zone, count: int, pcp: PerCpuPages) -> None:
    """Give pages of a per-CPU list back, from the lists in turn; no other task of this CPU
    may come in between  (mm/page_alloc.c: free_pcppages_bulk, with interrupts off)."""
    sched.preempt_disable()
    with spin_lock(zone.lock):
        migratetype = batch_free = 0
        isolating = zone.nr_isolate_pageblock
        to_free = count
        while to_free:
            while True:
                batch_free += 1
                migratetype = (migratetype + 1) % MIGRATE_PCPTYPES
                head = pcp.lists[migratetype]
                if head.next is not head:
                    break
            if batch_free == MIGRATE_PCPTYPES:
                batch_free = to_free
            while True:
                page: Page = head.prev
                list_del(page)
                freed_as = page.index
                if isolating:
                    freed_as = get_pageblock_migratetype(zone, page.pfn)
                __free_one_page(zone, page, 0, freed_as)
                if freed_as > MIGRATE_RESERVE:  # counted below as if it were an ordinary one
                    count_freepages(zone, 1, freed_as)
                    zone.vm_stat[NR_FREE_PAGES] -= 1
                to_free -= 1
                batch_free -= 1
                if not to_free or not batch_free or head.next is head:
                    break
        zone.vm_stat[NR_FREE_PAGES] += count
        zone.vm_stat[NR_PAGES_SCANNED] = 0  # reclaim is of use
        pcp.count -= count
    sched.preempt_enable()


def drain_pages(kernel: Kernel, cpu: Cpu, only: Zone | None = None) -> None:
    """Empty the lists of a CPU, those of all zones or of one
    (mm/page_alloc.c: drain_pages, drain_pages_zone)."""
    for node in kernel.nodes:
        for zone in node.node_zones:
            if only is not None and zone is not only:
                continue
            pcp = zone.pageset[cpu.number]
            if pcp.count:
                _free_pcppages_bulk(zone, pcp.count, pcp)


def drain_all_pages(kernel: Kernel, only: Zone | None = None) -> None:
    """The same on all CPUs  (mm/page_alloc.c: drain_all_pages)."""
    run_on_cpus(kernel.cpus, lambda cpu: drain_pages(kernel, cpu, only), "drain_pages")


# --- allocation ---


def zone_watermark_ok(
    zone: Zone, order: int, mark: int, classzone_idx: int, alloc_flags: int
) -> bool:
    """Whether a block may be taken and @mark pages stay free
    (mm/page_alloc.c: __zone_watermark_ok)."""
    free_pages = zone.vm_stat[NR_FREE_PAGES] - (1 << order) + 1
    if alloc_flags & ALLOC_HIGH:
        mark -= mark // 2
    if alloc_flags & ALLOC_HARDER:
        mark -= mark // 4
    of_cma = 0 if alloc_flags & ALLOC_CMA else zone.vm_stat[NR_FREE_CMA_PAGES]
    if free_pages - of_cma <= mark + zone.lowmem_reserve[classzone_idx]:
        return False
    for lower in range(order):
        free_pages -= zone.free_area[lower].nr_free << lower
        mark >>= 1
        if free_pages <= mark:
            return False
    return True


@small
def _buffered_rmqueue(
    preferred: Zone, zone: Zone, order: int, gfp: int, migratetype: int
) -> Page | None:
    """Take a block: a single page from the CPU's own list
    (mm/page_alloc.c: buffered_rmqueue)."""
    if order == 0:
        page = _take_page(zone, migratetype, gfp & __GFP_COLD)
    else:
        page = _take_block(zone, order, migratetype)
    if page is None:
        return None
    stat = zone.vm_stat
    if zone.nid == preferred.nid:
        stat[NUMA_HIT] += 1
    else:
        stat[NUMA_MISS] += 1
        preferred.vm_stat[NUMA_FOREIGN] += 1
    here = preferred.nid if gfp & __GFP_OTHER_NODE else sched.task.cpu.node
    stat[NUMA_LOCAL if zone.nid == here else NUMA_OTHER] += 1
    zone.kernel.vm_events[PGALLOC_DMA + zone.zone_idx] += 1 << order
    if order:
        if not prep_block(zone, page, order, gfp):
            return _buffered_rmqueue(preferred, zone, order, gfp, migratetype)
    elif page._count or page.mapping is not None or page.flags:
        bad_page(page, "not clean when it was allocated")  # dropped; another one
        return _buffered_rmqueue(preferred, zone, order, gfp, migratetype)
    else:
        page._count = 1
        page.private = 0
        page.data = ZERO_BYTES
    return page


@small
def _take_page(zone: Zone, migratetype: int, cold: int) -> Page | None:
    """From the CPU's own list."""
    pcp = zone.pageset[sched.task.cpu.number]
    head = pcp.lists[migratetype]
    if head.next is head:
        _rmqueue_bulk(zone, pcp, migratetype, bool(cold))
        if head.next is head:
            return None
    page: Page = head.prev if cold else head.next
    list_del(page)
    pcp.count -= 1
    return page


def _take_block(zone: Zone, order: int, migratetype: int) -> Page | None:
    with spin_lock(zone.lock):
        block = __rmqueue(zone, order, migratetype)
        if block is not None:
            count_freepages(zone, -(1 << order), block.index)
    return block


def prep_block(zone: Zone, page: Page, order: int, gfp: int) -> bool:
    """Set up the pages of a larger block; False if one is bad, and the block is dropped
    (mm/page_alloc.c: prep_new_page)."""
    parts: list[Page] = []
    for part in _parts(page, order):
        if part._count or part.mapping is not None or part.flags:
            bad_page(part, "not clean when it was allocated")
            return False
        parts.append(part)
    page._count = 1
    page.private = 0
    for part in parts:
        part.data = ZERO_BYTES
        if gfp & __GFP_COMP and part is not page:
            part.flags |= PG_tail
            part.first_page = page
    if gfp & __GFP_COMP:
        page.flags |= PG_head
        _page(zone, page.pfn + 1).index = order
    return True


def compound_order(page: Page) -> int:
    """The order of the block of a compound head; 0 for other pages."""
    if not page.flags & PG_head:
        return 0
    return int(_page(page.zone, page.pfn + 1).index)


@hot
def get_page_from_freelist(
    gfp: int,
    order: int,
    zonelist: list[Zone],
    nodemask: int | None,
    preferred: Zone,
    alloc_flags: int,
    high_zoneidx: int,
    migratetype: int,
) -> Page | None:
    """The first zone that can spare a block  (mm/page_alloc.c: get_page_from_freelist)."""
    classzone_idx = preferred.zone_idx
    confined = preferred.kernel.cpusets is not None
    for zone in zonelist:
        if zone.zone_idx > high_zoneidx:
            continue
        if nodemask is not None and not nodemask >> zone.nid & 1:
            continue
        if confined and not cpuset_zone_allowed(zone, gfp):
            continue
        if not alloc_flags & ALLOC_NO_WATERMARKS:
            mark = zone.watermark[alloc_flags & ALLOC_WMARK_MASK]
            stat = zone.vm_stat
            spare = stat[NR_FREE_PAGES] - stat[NR_FREE_CMA_PAGES]
            spare -= mark + zone.lowmem_reserve[classzone_idx]
            # far above the mark there is nothing to look at
            if (order or spare <= 0) and not zone_watermark_ok(
                zone, order, mark, classzone_idx, alloc_flags
            ):
                continue
        page = _buffered_rmqueue(preferred, zone, order, gfp, migratetype)
        if page is not None:
            return page
    return None


@hot
def alloc_pages_nodemask(
    gfp: int, order: int, zonelist: list[Zone], nodemask: int | None
) -> Page | None:
    """A block of 2**order pages from the first zone of the list that can spare it; None
    if none can  (mm/page_alloc.c: __alloc_pages_nodemask).

    @nodemask: nodes that may be used, as a bit mask; None for all.
    """
    task = sched.task
    if gfp & __GFP_WAIT and task.preempt_count:
        sched.might_sleep()
    high_zoneidx = gfp_zone(gfp)
    migratetype = gfpflags_to_migratetype(gfp)
    preferred = None
    allowed = nodemask
    if nodemask is None and task.kernel.cpusets is not None:
        allowed = task.mems_allowed  # the preferred zone is one of the task's own
    for zone in zonelist:
        if zone.zone_idx <= high_zoneidx and (allowed is None or allowed >> zone.nid & 1):
            preferred = zone
            break
    if preferred is None:
        return None
    cma = ALLOC_CMA if migratetype == MIGRATE_MOVABLE else 0
    page = get_page_from_freelist(
        gfp, order, zonelist, nodemask, preferred, ALLOC_WMARK_LOW | cma, high_zoneidx, migratetype
    )
    if page is not None:
        return page
    if gfp & GFP_THISNODE == GFP_THISNODE:
        return None  # who asks so has other nodes to turn to, and wants nobody to reclaim
    if task.kernel.kswapd_started and not gfp & __GFP_NO_KSWAPD:
        slowpath.wake_all_kswapds(order, zonelist, high_zoneidx, preferred, nodemask)
    # then once more down to the lowest mark
    alloc_flags = ALLOC_WMARK_MIN | cma
    if gfp & __GFP_HIGH:
        alloc_flags |= ALLOC_HIGH
    if not gfp & __GFP_WAIT and not gfp & __GFP_NOMEMALLOC:
        alloc_flags |= ALLOC_HARDER
    if not gfp & __GFP_NOMEMALLOC and (gfp & __GFP_MEMALLOC or task.flags & PF_MEMALLOC):
        alloc_flags |= ALLOC_NO_WATERMARKS
    page = get_page_from_freelist(
        gfp, order, zonelist, nodemask, preferred, alloc_flags, high_zoneidx, migratetype
    )
    if page is not None or not gfp & __GFP_WAIT or task.flags & PF_MEMALLOC:
        return page
    return slowpath.reclaim_and_retry(
        gfp, order, zonelist, nodemask, preferred, alloc_flags, high_zoneidx, migratetype
    )


def alloc_pages_node(kernel: Kernel, nid: int, gfp: int, order: int) -> Page | None:
    """From @nid if possible; a negative one means the node of this CPU."""
    if nid < 0:
        nid = sched.task.cpu.node
    return alloc_pages_nodemask(gfp, order, node_zonelist(kernel, nid, gfp), None)


@small
def alloc_pages_exact_node(kernel: Kernel, nid: int, gfp: int, order: int) -> Page | None:
    """The same for a node that is known to exist; with __GFP_THISNODE from it only."""
    zonelist = kernel.nodes[nid].node_zonelists[1 if gfp & __GFP_THISNODE else 0]
    return alloc_pages_nodemask(gfp, order, zonelist, None)


# --- freeing ---


def bad_page(page: Page, why: str) -> None:
    """Complain about a page whose state is wrong, unless its memory is known to be bad: then
    it is dropped in silence  (mm/page_alloc.c: bad_page)."""
    if page.flags & PG_hwpoison:
        page._mapcount = -1
        return
    sched.warn(
        f"bad page {page!r}: {why} (flags {page_flag_names(page.flags)}, count {page._count}, "
        f"mapcount {page._mapcount + 1}, mapping {page.mapping!r})"
    )


@small
def _is_clean(page: Page) -> bool:
    return page._mapcount == -1 and page._count == 0 and not page.flags & _CHECK_AT_FREE


def free_pages_prepare(page: Page, order: int) -> bool:
    """Check and clean a block that is about to be freed; False if it is bad and must
    not be  (mm/page_alloc.c: free_pages_prepare)."""
    for part in _parts(page, order):
        mapping = part.mapping
        if mapping is not None and mapping.anon:
            part.mapping = mapping = None
        if mapping is not None or not _is_clean(part):
            bad_page(part, "freed in use")
            return False
        part.flags = 0
        part.first_page = None
        part._last_cpupid = -1
        part.private = 0
        part.data = None
    return True


def _parts(page: Page, order: int) -> Iterator[Page]:
    zone = page.zone
    for first in range(page.pfn, page.pfn + (1 << order), SECTION_SIZE):
        yield _page(zone, first)  # with its section
        section = zone.kernel.mem_map[first >> SECTION_SHIFT]
        start = first & (SECTION_SIZE - 1)
        for place in range(start + 1, min(start + (1 << order), SECTION_SIZE)):
            part = section[place]
            if part is None:
                part = section[place] = Page(first - start + place, zone)
            yield part


def _free_one_page(zone: Zone, page: Page, order: int, migratetype: int) -> None:
    """Free a block to the lists of the zone and count it  (mm/page_alloc.c: free_one_page)."""
    with spin_lock(zone.lock):
        if zone.nr_isolate_pageblock or migratetype == MIGRATE_ISOLATE:
            migratetype = get_pageblock_migratetype(zone, page.pfn)
        __free_one_page(zone, page, order, migratetype)
        count_freepages(zone, 1 << order, migratetype)


@hot
def free_hot_cold_page(page: Page, cold: bool = False) -> None:
    """Free a single page to the CPU's own list  (mm/page_alloc.c: free_hot_cold_page)."""
    mapping = page.mapping
    if (mapping is not None and not mapping.anon) or not _is_clean(page):
        bad_page(page, "freed in use")
        return
    page.mapping = page.data = None
    page.flags = page.private = 0
    page._last_cpupid = -1
    zone = page.zone
    migratetype = zone.pageblock_type.get(page.pfn >> PAGEBLOCK_ORDER, MIGRATE_MOVABLE)
    page.index = migratetype
    zone.kernel.vm_events[PGFREE] += 1
    if migratetype >= MIGRATE_PCPTYPES:
        if migratetype == MIGRATE_ISOLATE:
            _free_one_page(zone, page, 0, migratetype)
            return
        migratetype = MIGRATE_MOVABLE  # of the list; the page remembers its own
    pcp = zone.pageset[sched.task.cpu.number]
    head = pcp.lists[migratetype]
    if cold:
        list_add_tail(page, head)
    else:
        list_add(page, head)
    pcp.count += 1
    if pcp.count >= pcp.high:
        _free_pcppages_bulk(zone, min(pcp.batch, pcp.count), pcp)


@hot
def free_hot_cold_page_list(pages: ListHead, cold: bool = False) -> None:
    """Free the pages of a list  (mm/page_alloc.c: free_hot_cold_page_list)."""
    for page in pages:
        list_del(page)
        free_hot_cold_page(page, cold)


def __free_pages(page: Page, order: int) -> None:
    """Drop the reference of an allocated block, and free it with the last
    (mm/page_alloc.c: __free_pages)."""
    if not put_page_testzero(page):
        return
    if page.mem_cgroup is not None:
        bad_page(page, "still charged")
    if order == 0:
        free_hot_cold_page(page)
        return
    free_block(page, order)


def free_block(page: Page, order: int) -> None:
    """Free a block without references  (mm/page_alloc.c: __free_pages_ok)."""
    zone = page.zone
    if not free_pages_prepare(page, order):
        return
    zone.kernel.vm_events[PGFREE] += 1 << order
    _free_one_page(zone, page, order, get_pageblock_migratetype(zone, page.pfn))


def split_page(page: Page, order: int) -> None:
    """Make single pages of an allocated block that is not compound
    (mm/page_alloc.c: split_page)."""
    BUG_ON(bool(page.flags & PG_head), "split_page of a compound page", page)
    for part in _parts(page, order):
        if part is not page:
            part._count = 1


def drain_local_pages(zone: Zone) -> None:
    """Empty this CPU's list of a zone  (mm/page_alloc.c: drain_local_pages)."""
    pcp = zone.pageset[sched.task.cpu.number]
    if pcp.count:
        _free_pcppages_bulk(zone, pcp.count, pcp)


# --- for observers ---


def free_blocks(zone: Zone) -> list[tuple[int, int, int]]:
    """(first frame, order, migrate type) of every block on a free list."""
    found = []
    order = -1
    for area in zone.free_area:  # by hand: every check of a machine does this
        order += 1
        for migratetype, head in area.free_list.items():
            page = head.next
            while page is not head:
                found.append((page.pfn, order, migratetype))
                page = page.next
    return found
