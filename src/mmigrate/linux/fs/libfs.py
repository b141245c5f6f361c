"""Methods for simple filesystems  (fs/libfs.c)."""

from __future__ import annotations

from errno import ENOMEM

from mmigrate.linux.include.mm_types import ZERO_BYTES, AddressSpace, Page
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmigrate.linux.kernel.page_flags import PageUptodate, SetPageUptodate, unlock_page
from mmigrate.linux.mm import filemap, page_writeback, swap


def simple_readpage(page: Page) -> int:
    """There is no device: zeroes  (fs/libfs.c: simple_readpage).

    Differs: a file may begin with contents that the scenario gave it.
    """
    _fill(page)
    SetPageUptodate(page)
    unlock_page(page)
    return 0


def simple_write_begin(mapping: AddressSpace, position: int, length: int) -> Page | int:
    """fs/libfs.c: simple_write_begin."""
    page = filemap.grab_cache_page_write_begin(mapping, position >> PAGE_SHIFT)
    if page is None:
        return -ENOMEM
    if not PageUptodate(page) and length < PAGE_SIZE:
        _fill(page)
    return page


def _fill(page: Page) -> None:
    page.data = page.mapping.host.blocks.get(page.index, ZERO_BYTES)


def reading_write_begin(mapping: AddressSpace, position: int, length: int) -> Page | int:
    """The page for write(2), locked, and read first unless all of it will be overwritten:
    the common part of exofs_write_begin and nfs_write_begin."""
    while True:
        page = filemap.grab_cache_page_write_begin(mapping, position >> PAGE_SHIFT)
        if page is None:
            return -ENOMEM
        if PageUptodate(page) or length == PAGE_SIZE:
            return page
        unlock_page(page)
        swap.put_page(page)
        ready = filemap.read_mapping_page(mapping, position >> PAGE_SHIFT)
        if isinstance(ready, int):
            return ready
        swap.put_page(ready)


def simple_write_end(mapping: AddressSpace, position: int, copied: int, page: Page) -> None:
    """fs/libfs.c: simple_write_end."""
    assert mapping.host is not None
    if not PageUptodate(page):
        SetPageUptodate(page)
    filemap.i_size_write(mapping.host, position + copied)
    page_writeback.set_page_dirty(page)
    unlock_page(page)
    swap.put_page(page)
