"""Pageblocks that hand out nothing: MIGRATE_ISOLATE  (mm/page_isolation.c).

Free pages of an isolated pageblock cannot be allocated, and what is freed into it stays there.
Who wants a range of frames isolates it, moves away what is in use, and tests whether all of it
is free. Interface: `start_isolate_page_range`, `undo_isolate_page_range`, `test_pages_isolated`,
and for single pageblocks `set_migratetype_isolate`, `unset_migratetype_isolate`.
"""

from __future__ import annotations

from errno import EBUSY
from typing import Final

from mmigrate.linux.include.gfp import (
    __GFP_MOVABLE,
    GFP_USER,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
)
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import (
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    SECTION_SHIFT,
    SECTION_SIZE,
    ZONE_MOVABLE,
    Zone,
)
from mmigrate.linux.include.page_flags import PG_hugetlb
from mmigrate.linux.include.switches import ISOLATE_ONCE
from mmigrate.linux.kernel.page_flags import PageHWPoison, PageLRU
from mmigrate.linux.kernel.page_ref import PageBuddy, page_count
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.lib.nodemask import next_node_in
from mmigrate.linux.mm import hugetlb_pool, mempolicy, page_alloc, page_boot, taken_blocks

GFP_TARGET: Final = GFP_USER | __GFP_MOVABLE


def zone_of_frame(kernel: Kernel, pfn: int) -> Zone | None:
    """The zone whose span a frame lies in."""
    for node in kernel.nodes:
        for zone in node.node_zones:
            if zone.zone_start_pfn <= pfn < zone.end_pfn:
                return zone
    return None


def page_or_none(kernel: Kernel, pfn: int) -> Page | None:
    """The page of a frame; None if it has never been in use."""
    section = kernel.mem_map.get(pfn >> SECTION_SHIFT)
    return None if section is None else section[pfn & (SECTION_SIZE - 1)]


def has_unmovable_pages(zone: Zone, start: int, count: int, skip_hwpoisoned: bool) -> bool:
    """Whether more than @count pages of a pageblock are in use and not on an LRU list.  Nobody
    looks where the type of the block promises that they move
    (mm/page_alloc.c: has_unmovable_pages)."""
    if zone.zone_idx == ZONE_MOVABLE:
        return False
    if page_alloc.get_pageblock_migratetype(zone, start) in (MIGRATE_MOVABLE, MIGRATE_CMA):
        return False
    found = 0
    pfn = start
    while pfn < start + PAGEBLOCK_NR_PAGES:
        page = page_or_none(zone.kernel, pfn)
        pfn += 1
        if page is None:
            continue
        if page.flags & PG_hugetlb:
            pfn = page.pfn + (1 << page_alloc.compound_order(page))
            continue
        if not page_count(page):
            if PageBuddy(page):
                pfn += (1 << page.private) - 1
            continue
        if skip_hwpoisoned and PageHWPoison(page):
            continue
        if not PageLRU(page):
            found += 1
        if found > count:
            return True
    return False


def set_migratetype_isolate(zone: Zone, pfn: int, skip_hwpoisoned: bool) -> int:
    """Isolate the pageblock of a frame; 0 or -EBUSY
    (mm/page_isolation.c: set_migratetype_isolate).

    Known defect of v3.19: two may isolate the same block, which the zone then counts twice.
    """
    kernel = zone.kernel
    start = pfn & ~(PAGEBLOCK_NR_PAGES - 1)
    with spin_lock(zone.lock):
        isolated = page_alloc.get_pageblock_migratetype(zone, pfn) == MIGRATE_ISOLATE
        if isolated and kernel.has(ISOLATE_ONCE):
            return -EBUSY  # it is somebody else's
        page_boot.realise_range(zone, start, start + PAGEBLOCK_NR_PAGES)
        offered = sum(offer(start, PAGEBLOCK_NR_PAGES) for offer in kernel.memory_isolate_chain)
        if has_unmovable_pages(zone, start, offered, skip_hwpoisoned):
            return -EBUSY
        migratetype = page_alloc.get_pageblock_migratetype(zone, pfn)
        page_alloc.set_pageblock_migratetype(zone, pfn, MIGRATE_ISOLATE)
        zone.nr_isolate_pageblock += 1
        moved = page_alloc.move_freepages_block(zone, pfn, MIGRATE_ISOLATE)
        page_alloc.count_freepages(zone, -moved, migratetype)
    page_alloc.drain_all_pages(kernel, zone)
    return 0


def unset_migratetype_isolate(zone: Zone, pfn: int, migratetype: int) -> None:
    """Give the pageblock of a frame a type under which it is used again
    (mm/page_isolation.c: unset_migratetype_isolate).

    Known defect of v3.19: a bad page at the head of a free block of at least a pageblock takes the
    whole block with it, because the block is freed once more and is then refused.
    """
    start = pfn & ~(PAGEBLOCK_NR_PAGES - 1)
    with spin_lock(zone.lock):
        if page_alloc.get_pageblock_migratetype(zone, start) != MIGRATE_ISOLATE:
            return
        whole = _whole_block(zone, pfn)
        if whole is not None:
            order: int = whole.private
            taken_blocks.__isolate_free_page(zone, whole, order)
        else:
            moved = page_alloc.move_freepages_block(zone, start, migratetype)
            page_alloc.count_freepages(zone, moved, migratetype)
        page_alloc.set_pageblock_migratetype(zone, start, migratetype)
        zone.nr_isolate_pageblock -= 1
    if whole is not None:  # freed, it merges with what is around it
        page_alloc.free_block(whole, order)


def _whole_block(zone: Zone, pfn: int) -> Page | None:
    """A free block of at least a pageblock that begins there and that the isolation alone has
    kept from merging."""
    page = page_or_none(zone.kernel, pfn)
    if page is None or not PageBuddy(page) or page.private < PAGEBLOCK_ORDER:
        return None
    buddy = pfn ^ (1 << page.private)
    if page_alloc.get_pageblock_migratetype(zone, buddy) == MIGRATE_ISOLATE:
        return None
    return page


def start_isolate_page_range(
    kernel: Kernel, start_pfn: int, end_pfn: int, migratetype: int, skip_hwpoisoned: bool
) -> int:
    """Isolate the pageblocks of a range, all or none; 0 or -EBUSY.  @migratetype: what those
    become that must be given back  (mm/page_isolation.c: start_isolate_page_range)."""
    for pfn in range(start_pfn, end_pfn, PAGEBLOCK_NR_PAGES):
        zone = zone_of_frame(kernel, pfn)
        if zone is not None and set_migratetype_isolate(zone, pfn, skip_hwpoisoned):
            undo_isolate_page_range(kernel, start_pfn, pfn, migratetype)
            return -EBUSY
    return 0


def undo_isolate_page_range(kernel: Kernel, start_pfn: int, end_pfn: int, migratetype: int) -> None:
    """mm/page_isolation.c: undo_isolate_page_range."""
    for pfn in range(start_pfn, end_pfn, PAGEBLOCK_NR_PAGES):
        zone = zone_of_frame(kernel, pfn)
        if zone is not None:
            unset_migratetype_isolate(zone, pfn, migratetype)


def test_pages_isolated(kernel: Kernel, start_pfn: int, end_pfn: int, skip_hwpoisoned: bool) -> int:
    """Whether all of a range is isolated and free: 0, else -EBUSY
    (mm/page_isolation.c: test_pages_isolated)."""
    zone = zone_of_frame(kernel, start_pfn)
    if zone is None:
        return -EBUSY
    for pfn in range(start_pfn & ~(PAGEBLOCK_NR_PAGES - 1), end_pfn, PAGEBLOCK_NR_PAGES):
        if page_alloc.get_pageblock_migratetype(zone, pfn) != MIGRATE_ISOLATE:
            return -EBUSY
    with spin_lock(zone.lock):
        pfn = start_pfn
        while pfn < end_pfn:
            page = page_or_none(kernel, pfn)
            if page is None:
                return -EBUSY
            if PageBuddy(page):
                order: int = page.private
                if page.index != MIGRATE_ISOLATE:  # it was allocated and freed in between
                    page_alloc.move_free_block(zone, page, MIGRATE_ISOLATE)
                pfn += 1 << order
            elif (page_count(page) == 0 and page.index == MIGRATE_ISOLATE) or (
                skip_hwpoisoned and PageHWPoison(page)
            ):
                pfn += 1
            else:
                return -EBUSY
    return 0


def alloc_migrate_target(page: Page, _private: int, _result: list[object]) -> Page | None:
    """Where the pages of a range go that somebody wants: anywhere that the policy of the
    running task allows; those of hugetlb to the next node
    (mm/page_isolation.c: alloc_migrate_target).

    Differs: v3.19 looks for that node in a mask of the page's own, and so for a node that no
    machine has.
    """
    if hugetlb_pool.PageHuge(page):
        kernel = page.zone.kernel
        h = hugetlb_pool.page_hstate(page)
        following = next_node_in(page.zone.nid, kernel.node_states_memory)
        return hugetlb_pool.alloc_huge_page_node(kernel, h, following)
    return mempolicy.alloc_pages_current(GFP_TARGET, 0)
