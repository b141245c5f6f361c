"""Blocks that are taken out of the buddy allocator by their place, not by their size
(mm/page_alloc.c).

Interface: `__isolate_free_page` and `split_free_page` for who wants a range, `take_free_block_out`
for memory that leaves, `take_page_off_buddy` for a page that is bad.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.gfp import MIGRATE_CMA, MIGRATE_ISOLATE, MIGRATE_MOVABLE
from mmigrate.linux.include.mm_types import ZERO_BYTES, Page
from mmigrate.linux.include.mmzone import (
    MAX_ORDER,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    SECTION_SHIFT,
    SECTION_SIZE,
    WMARK_LOW,
    Zone,
)
from mmigrate.linux.include.page_flags import PAGE_BUDDY_MAPCOUNT_VALUE
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import page_alloc

_NOBODY: Final[list[Page | None]] = [None] * SECTION_SIZE


def __isolate_free_page(zone: Zone, page: Page, order: int) -> int:
    """Take a free block out, by its place; zone->lock is held.  How many pages, 0 if the zone
    would fall below its watermark  (mm/page_alloc.c: __isolate_free_page)."""
    migratetype = page_alloc.get_pageblock_migratetype(zone, page.pfn)
    if migratetype != MIGRATE_ISOLATE:
        mark = zone.watermark[WMARK_LOW] + (1 << order)
        if not page_alloc.zone_watermark_ok(zone, 0, mark, 0, 0):
            return 0
        page_alloc.count_freepages(zone, -(1 << order), migratetype)
    page_alloc.remove_free_block(zone, page, order)
    if order >= PAGEBLOCK_ORDER - 1:
        for pfn in range(page.pfn, page.pfn + (1 << order), PAGEBLOCK_NR_PAGES):
            block = page_alloc.get_pageblock_migratetype(zone, pfn)
            if block not in (MIGRATE_ISOLATE, MIGRATE_CMA):
                page_alloc.set_pageblock_migratetype(zone, pfn, MIGRATE_MOVABLE)
    return 1 << order


def is_free_buddy_page(page: Page) -> bool:
    """Whether a page lies in a free block  (mm/page_alloc.c: is_free_buddy_page)."""
    with spin_lock(page.zone.lock):
        return _free_block_of(page) is not None


def _free_block_of(page: Page) -> Page | None:
    """The head of the free block that a page lies in; None if it is not free.  zone->lock is
    held."""
    zone = page.zone
    mem_map = zone.kernel.mem_map
    for order in range(MAX_ORDER):
        pfn = page.pfn & ~((1 << order) - 1)
        head = mem_map.get(pfn >> SECTION_SHIFT, _NOBODY)[pfn & (SECTION_SIZE - 1)]
        if (
            head is not None
            and head.zone is zone
            and head._mapcount == PAGE_BUDDY_MAPCOUNT_VALUE
            and head.private >= order
        ):
            return head
    return None


def take_free_block_out(zone: Zone, page: Page) -> int:
    """For memory that leaves: off the lists without a reference; the order of the block.
    zone->lock is held."""
    order: int = page.private
    page_alloc.remove_free_block(zone, page, order)
    return order


def take_page_off_buddy(page: Page) -> None:
    """For later kernels: a page leaves its free block, whose other parts stay free
    (mm/page_alloc.c: take_page_off_buddy, break_down_buddy_pages)."""
    zone = page.zone
    with spin_lock(zone.lock):
        head = _free_block_of(page)
        if head is None:
            return
        block, migratetype = head.private, head.index
        page_alloc.remove_free_block(zone, head, block)
        start = head.pfn
        while block:
            block -= 1
            half = start + (1 << block)
            rest, start = (half, start) if page.pfn < half else (start, half)
            kind = migratetype
            if block >= PAGEBLOCK_ORDER:
                kind = page_alloc.get_pageblock_migratetype(zone, rest)
                if migratetype == MIGRATE_ISOLATE != kind:
                    page_alloc.count_freepages(zone, 1 << block, kind)
            page_alloc.add_free_block(zone, rest, block, kind)
        page_alloc.count_freepages(zone, -1, migratetype)


def split_free_page(zone: Zone, page: Page) -> int:
    """Take a free block out as single pages with a reference each; how many
    (mm/page_alloc.c: split_free_page)."""
    order: int = page.private
    taken = __isolate_free_page(zone, page, order)
    for pfn in range(page.pfn, page.pfn + taken):
        part = page_alloc.page_of_frame(zone, pfn)
        part._count = 1
        part.private = 0
        part.data = ZERO_BYTES
    return taken
