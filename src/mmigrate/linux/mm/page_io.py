"""Reading and writing swap  (mm/page_io.c)."""

from __future__ import annotations

from typing import Any

from mmigrate.linux.drivers import block
from mmigrate.linux.include.mm_types import ZERO_BYTES, Page
from mmigrate.linux.include.pgtable import PAGE_SIZE, swp_offset
from mmigrate.linux.include.vmstat import PSWPIN, PSWPOUT
from mmigrate.linux.kernel.bug import VM_BUG_ON_PAGE
from mmigrate.linux.kernel.highmem import copy_from_page
from mmigrate.linux.kernel.page_flags import (
    ClearPageReclaim,
    ClearPageUptodate,
    PageLocked,
    PageSwapCache,
    PageUptodate,
    SetPageError,
    SetPageUptodate,
    page_private,
    unlock_page,
)
from mmigrate.linux.mm import page_writeback, swapfile


def swap_writepage(page: Page, _wbc: Any) -> int:
    """Write a locked swap-cache page to its place, unless nobody needs it any more; 0, and
    the page is unlocked  (mm/page_io.c: swap_writepage)."""
    if swapfile.try_to_free_swap(page):
        unlock_page(page)
        return 0
    area = swapfile.page_swap_info(page)
    entry: Any = page_private(page)
    kernel = page.zone.kernel
    kernel.vm_events[PSWPOUT] += 1
    page_writeback.set_page_writeback(page)
    unlock_page(page)

    def end_swap_bio_write(error: bool) -> None:
        if error:
            # It is the only copy: dirty again it stays, and at its place on the LRU.
            SetPageError(page)
            page_writeback.set_page_dirty(page)
            ClearPageReclaim(page)
        else:
            area.data[swp_offset(entry)] = copy_from_page(page, 0, PAGE_SIZE)
        page_writeback.end_page_writeback(page)

    block.submit_bio(kernel, area.device, True, end_swap_bio_write)
    return 0


def swap_readpage(page: Page) -> None:
    """Read a locked swap-cache page from its place; it is unlocked when that is done
    (mm/page_io.c: swap_readpage)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "swap_readpage of an unlocked page")
    VM_BUG_ON_PAGE(not PageSwapCache(page), page, "is not in the swap cache")
    VM_BUG_ON_PAGE(PageUptodate(page), page, "is up to date already")
    area = swapfile.page_swap_info(page)
    entry: Any = page_private(page)
    kernel = page.zone.kernel
    kernel.vm_events[PSWPIN] += 1

    def end_swap_bio_read(error: bool) -> None:
        if error:
            SetPageError(page)
            ClearPageUptodate(page)
        else:
            page.data = area.data.get(swp_offset(entry), ZERO_BYTES)
            SetPageUptodate(page)
        unlock_page(page)

    block.submit_bio(kernel, area.device, False, end_swap_bio_read)
