"""Cutting files short, and dropping cached pages  (mm/truncate.c)."""

from __future__ import annotations

from errno import EBUSY, EIO

from mmigrate.linux.fs import buffer
from mmigrate.linux.include.gfp import GFP_KERNEL
from mmigrate.linux.include.mm_types import AddressSpace, Inode, Page
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.highmem import copy_to_page
from mmigrate.linux.kernel.page_flags import (
    ClearPageMappedToDisk,
    PageDirty,
    PageWriteback,
    lock_page,
    page_has_private,
    trylock_page,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import page_mapped
from mmigrate.linux.kernel.rwsem import mutex_lock
from mmigrate.linux.mm import filemap, memory, page_writeback, swap, vmscan

EVERYTHING = 1 << 62


def do_truncate(inode: Inode, size: int) -> None:
    """The system call truncate."""
    with mutex_lock(inode.i_mutex):
        truncate_setsize(inode, size)


def truncate_setsize(inode: Inode, size: int) -> None:
    """Change the size, then drop what is behind it  (mm/truncate.c: truncate_setsize)."""
    shrinks = size < inode.i_size
    WRITE_ONCE(inode, "i_size", size)
    if shrinks:
        truncate_pagecache(inode, size)
    for index in [index for index in inode.blocks if index << PAGE_SHIFT >= size]:
        del inode.blocks[index]
    last, offset = size >> PAGE_SHIFT, size & (PAGE_SIZE - 1)
    if offset and last in inode.blocks:
        inode.blocks[last] = inode.blocks[last][:offset].ljust(PAGE_SIZE, b"\0")


def truncate_pagecache(inode: Inode, size: int) -> None:
    """Unmap, remove, and unmap once more what copies were made meanwhile
    (mm/truncate.c: truncate_pagecache)."""
    mapping = inode.i_mapping
    hole = (size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
    memory.unmap_mapping_range(mapping, hole, 0, True)
    truncate_inode_pages_range(mapping, size, EVERYTHING)
    memory.unmap_mapping_range(mapping, hole, 0, True)


def truncate_pagecache_range(inode: Inode, start: int, end: int) -> None:
    """Punch a hole of whole pages, in bytes, @end inclusive
    (mm/truncate.c: truncate_pagecache_range)."""
    first = (start + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
    behind = (end + 1) & ~(PAGE_SIZE - 1)
    if behind > first:
        memory.unmap_mapping_range(inode.i_mapping, first, behind - first, False)
    truncate_inode_pages_range(inode.i_mapping, start, end)


def truncate_inode_pages(mapping: AddressSpace, start: int) -> None:
    """Remove all pages from byte @start on  (mm/truncate.c: truncate_inode_pages)."""
    truncate_inode_pages_range(mapping, start, EVERYTHING)


def truncate_inode_pages_range(mapping: AddressSpace, start: int, end: int) -> None:
    """Remove the pages between two bytes, @end inclusive; first those that can be locked at
    once  (mm/truncate.c: truncate_inode_pages_range)."""
    first = (start + PAGE_SIZE - 1) >> PAGE_SHIFT
    last = ((end + 1) >> PAGE_SHIFT) - 1
    for index in list(mapping.page_tree.indices(first, last)):
        page = filemap.find_get_page(mapping, index)
        if page is None:
            continue
        if trylock_page(page):
            if not PageWriteback(page):
                truncate_inode_page(mapping, page)
            unlock_page(page)
        swap.put_page(page)
    if start & (PAGE_SIZE - 1):
        _zero_rest(mapping, start)
    while True:
        indices = list(mapping.page_tree.indices(first, last))
        pages = [page for index in indices if (page := filemap.find_get_page(mapping, index))]
        if not pages:
            return
        for page in pages:
            lock_page(page)
            wait_on_page_writeback(page)
            truncate_inode_page(mapping, page)
            unlock_page(page)
            swap.put_page(page)


def _zero_rest(mapping: AddressSpace, start: int) -> None:
    """Zero the page that is cut in two, behind the cut."""
    page = filemap.find_lock_page(mapping, start >> PAGE_SHIFT)
    if page is not None:
        wait_on_page_writeback(page)
        offset = start & (PAGE_SIZE - 1)
        copy_to_page(page, offset, bytes(PAGE_SIZE - offset))
        unlock_page(page)
        swap.put_page(page)


def truncate_inode_page(mapping: AddressSpace, page: Page) -> int:
    """Unmap and remove one locked page; 0, or -EIO if it is not the mapping's any more
    (mm/truncate.c: truncate_inode_page)."""
    if page_mapped(page):
        memory.unmap_mapping_range(mapping, page.index << PAGE_SHIFT, PAGE_SIZE, False)
    if READ_ONCE(page, "mapping") is not mapping:
        return -EIO
    if page_has_private(page):
        buffer.discard_buffers(page)
        filemap.try_to_release_page(page, 0)
    page_writeback.cancel_dirty_page(page)
    ClearPageMappedToDisk(page)
    filemap.delete_from_page_cache(page)
    return 0


def invalidate_inode_page(page: Page) -> int:
    """Drop a locked page if it is clean and unused; whether that was done
    (mm/truncate.c: invalidate_inode_page)."""
    mapping = READ_ONCE(page, "mapping")
    if not isinstance(mapping, AddressSpace):
        return 0
    if PageDirty(page) or PageWriteback(page) or page_mapped(page):
        return 0
    if page_has_private(page) and not filemap.try_to_release_page(page, 0):
        return 0
    return vmscan.remove_mapping(mapping, page)


def invalidate_mapping_pages(mapping: AddressSpace, start: int, end: int) -> int:
    """Drop the clean, unused pages from index @start to @end (-1: all); how many
    (mm/truncate.c: invalidate_mapping_pages)."""
    last = EVERYTHING if end < 0 else end
    dropped = 0
    for index in list(mapping.page_tree.indices(start, last)):
        page = filemap.find_get_page(mapping, index)
        if page is None:
            continue
        if trylock_page(page):
            done = invalidate_inode_page(page)
            unlock_page(page)
            if not done:
                swap.deactivate_page(page)
            dropped += done
        swap.put_page(page)
    return dropped


def invalidate_inode_pages2(mapping: AddressSpace) -> int:
    """Drop all pages, unmapping them; 0, or -EBUSY if one could not be dropped
    (mm/truncate.c: invalidate_inode_pages2_range)."""
    result = 0
    for index in list(mapping.page_tree.indices(0, EVERYTHING)):
        page = filemap.find_get_page(mapping, index)
        if page is None:
            continue
        lock_page(page)
        if READ_ONCE(page, "mapping") is mapping:
            wait_on_page_writeback(page)
            if page_mapped(page):
                memory.unmap_mapping_range(mapping, page.index << PAGE_SHIFT, PAGE_SIZE, False)
            released = not page_has_private(page) or filemap.try_to_release_page(page, GFP_KERNEL)
            if PageDirty(page) or not released:
                result = -EBUSY
            else:
                filemap.delete_from_page_cache(page)
        unlock_page(page)
        swap.put_page(page)
    return result
