"""Areas that lend their memory to movable pages until they need it themselves  (mm/cma.c).

Interface: `cma_init_area` sets one aside, `cma_alloc` and `cma_release` take and give frames.
Differs: an area is taken from the free memory of a running machine, not at boot.
"""

from __future__ import annotations

from errno import EBUSY
from typing import Final

from mmigrate.linux.include.gfp import MIGRATE_CMA, MIGRATE_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import MAX_ORDER, PAGEBLOCK_NR_PAGES, Zone
from mmigrate.linux.kernel.page_ref import PageBuddy
from mmigrate.linux.kernel.rwsem import RwSemaphore, down_write
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import alloc_contig, page_alloc, page_boot, page_isolation

ALIGN: Final = 1 << (MAX_ORDER - 1)


class Cma:
    """One area  (struct cma, with a bit for each page)."""

    __slots__ = ("base_pfn", "bitmap", "cma_mutex", "count", "kernel", "lock")

    def __init__(self, kernel: Kernel, base_pfn: int, count: int) -> None:
        # fixed
        self.kernel = kernel
        self.base_pfn = base_pfn
        self.count = count
        # lock: which pages are taken; bit n is page n
        self.lock = RwSemaphore("cma->lock", f"cma at {base_pfn} lock")
        self.bitmap = 0
        # one allocation of frames at a time
        self.cma_mutex = RwSemaphore("cma_mutex", f"cma at {base_pfn} cma_mutex")

    def __repr__(self) -> str:
        return f"cma area at pfn {self.base_pfn}"


def cma_init_area(zone: Zone, count: int) -> Cma | None:
    """Make an area of @count pages out of free memory, as high up as can be found; None if there
    is none.  @count: a multiple of the largest block
    (mm/cma.c: cma_init_reserved_mem, mm/page_alloc.c: init_cma_reserved_pageblock)."""
    if count <= 0 or count % ALIGN:
        return None
    with spin_lock(zone.lock):
        last = (zone.end_pfn - count) & ~(ALIGN - 1)
        for base in range(last, zone.zone_start_pfn - 1, -ALIGN):
            if not _is_free(zone, base, base + count):
                continue
            page_boot.realise_range(zone, base, base + count)
            for pfn in range(base, base + count, PAGEBLOCK_NR_PAGES):
                page_alloc.set_pageblock_migratetype(zone, pfn, MIGRATE_CMA)
                moved = page_alloc.move_freepages_block(zone, pfn, MIGRATE_CMA)
                page_alloc.count_freepages(zone, -moved, MIGRATE_MOVABLE)
                page_alloc.count_freepages(zone, moved, MIGRATE_CMA)
            return Cma(zone.kernel, base, count)
    return None


def _is_free(zone: Zone, start: int, end: int) -> bool:
    """Whether a range is made of largest free blocks of the ordinary type."""
    for pfn in range(start, end, ALIGN):
        if any(first <= pfn and pfn + ALIGN <= last for first, last in zone.untouched):
            continue
        page = page_isolation.page_or_none(zone.kernel, pfn)
        if page is None or not PageBuddy(page) or page.private != MAX_ORDER - 1:
            return False
        if page_alloc.get_pageblock_migratetype(zone, pfn) == MIGRATE_CMA:
            return False
    return True


def cma_alloc(cma: Cma, count: int, align: int = 0) -> Page | None:
    """The first of @count contiguous frames at a multiple of 2**@align within the area, or None.
    A place that is busy is passed over; any other failure ends it  (mm/cma.c: cma_alloc)."""
    if count <= 0:
        return None
    start = 0
    while True:
        with down_write(cma.lock):
            found = _next_zero_area(cma, start, count, align)
            if found < 0:
                return None
            cma.bitmap |= ((1 << count) - 1) << found
        pfn = cma.base_pfn + found
        with down_write(cma.cma_mutex):
            ret = alloc_contig.alloc_contig_range(cma.kernel, pfn, pfn + count, MIGRATE_CMA)
        if ret == 0:
            return cma.kernel.page_of(pfn)
        with down_write(cma.lock):
            cma.bitmap &= ~(((1 << count) - 1) << found)
        if ret != -EBUSY:
            return None
        start = found + (1 << align)


def _next_zero_area(cma: Cma, start: int, count: int, align: int) -> int:
    """lib/bitmap.c: bitmap_find_next_zero_area; -1 if there is none."""
    mask = (1 << count) - 1
    step = 1 << align
    first = (start + step - 1) & ~(step - 1)
    for position in range(first, cma.count - count + 1, step):
        if not cma.bitmap >> position & mask:
            return position
    return -1


def cma_release(cma: Cma, page: Page, count: int) -> bool:
    """Give frames back; False if they are not the area's  (mm/cma.c: cma_release)."""
    if not cma.base_pfn <= page.pfn or page.pfn + count > cma.base_pfn + cma.count:
        return False
    alloc_contig.free_contig_range(cma.kernel, page.pfn, count)
    with down_write(cma.lock):
        cma.bitmap &= ~(((1 << count) - 1) << (page.pfn - cma.base_pfn))
    return True
