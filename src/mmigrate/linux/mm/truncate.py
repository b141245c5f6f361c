"""Cutting files short, and dropping cached pages  (mm/truncate.c)."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EBUSY, EIO
from typing import Final

from mmigrate.linux.fs import buffer
from mmigrate.linux.include.gfp import GFP_KERNEL
from mmigrate.linux.include.mm import PAGEVEC_SIZE
from mmigrate.linux.include.mm_types import AddressSpace, Inode, Page
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON
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
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import filemap, memcontrol, memory, page_writeback, swap, vmscan

EVERYTHING: Final = 1 << 62


def do_truncate(inode: Inode, size: int) -> None:
    """The system call truncate  (fs/open.c: do_truncate)."""
    with mutex_lock(inode.i_mutex):
        inode.fs.setattr(inode, size)


def truncate_setsize(inode: Inode, size: int) -> None:
    """Change the size, then drop what is behind it, in memory and on the disk
    (mm/truncate.c: truncate_setsize)."""
    WRITE_ONCE(inode, "i_size", size)
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


def truncate_inode_pages_range(mapping: AddressSpace, lstart: int, lend: int) -> None:
    """Remove the pages between two bytes, @lend inclusive: first those that can be had at
    once, then the others; what is left of pages that are cut in two becomes zeroes
    (mm/truncate.c: truncate_inode_pages_range)."""
    start = (lstart + PAGE_SIZE - 1) >> PAGE_SHIFT
    end = (lend + 1) >> PAGE_SHIFT
    _truncate_idle_pages(mapping, start, end)
    for index, first, last in partial_pages(lstart, lend):
        page = filemap.find_lock_page(mapping, index)
        if page is not None:
            wait_on_page_writeback(page)
            copy_to_page(page, first, bytes(last - first))
            if page_has_private(page):
                do_invalidatepage(page, first, last - first)
            unlock_page(page)
            swap.put_page(page)
    while _truncate_busy_pages(mapping, start, end):
        pass


def partial_pages(lstart: int, lend: int) -> list[tuple[int, int, int]]:
    """The pages of which only a part is between two bytes: (index, first, last), the last
    offset exclusive."""
    start, end = lstart >> PAGE_SHIFT, (lend + 1) >> PAGE_SHIFT
    partial_start, partial_end = lstart & (PAGE_SIZE - 1), (lend + 1) & (PAGE_SIZE - 1)
    if start == end:  # inside one page
        return [(start, partial_start, partial_end)]
    found = []
    if partial_start:
        found.append((start, partial_start, PAGE_SIZE))
    if partial_end:
        found.append((end, 0, partial_end))
    return found


def _truncate_idle_pages(mapping: AddressSpace, start: int, end: int) -> None:
    for indices in batches(mapping, start, end):
        pages = filemap.find_get_pages(mapping, indices)
        for page in pages:
            if trylock_page(page):
                if not PageWriteback(page):
                    truncate_inode_page(mapping, page)
                unlock_page(page)
        swap.release_pages(pages)


def _truncate_busy_pages(mapping: AddressSpace, start: int, end: int) -> bool:
    """One pass that waits for each page; whether there was any."""
    found = False
    for indices in batches(mapping, start, end):
        pages = filemap.find_get_pages(mapping, indices)
        for page in pages:
            found = True
            lock_page(page)
            wait_on_page_writeback(page)
            truncate_inode_page(mapping, page)
            unlock_page(page)
        swap.release_pages(pages)
    return found


def batches(mapping: AddressSpace, start: int, end: int) -> Iterator[list[int]]:
    """The used slots from @start on, before @end, a vector of them at a time."""
    indices = list(mapping.page_tree.indices(start, end - 1))
    for first in range(0, len(indices), PAGEVEC_SIZE):
        yield indices[first : first + PAGEVEC_SIZE]


def do_invalidatepage(page: Page, offset: int, length: int) -> None:
    """Part of a page with private data is cut off  (mm/truncate.c: do_invalidatepage)."""
    mapping: AddressSpace = page.mapping
    (mapping.a_ops.invalidatepage or buffer.block_invalidatepage)(page, offset, length)


def truncate_inode_page(mapping: AddressSpace, page: Page) -> int:
    """Unmap and remove one locked page; 0, or -EIO if it is not the mapping's any more
    (mm/truncate.c: truncate_inode_page, truncate_complete_page)."""
    if page_mapped(page):
        memory.unmap_mapping_range(mapping, page.index << PAGE_SHIFT, PAGE_SIZE, False)
    if READ_ONCE(page, "mapping") is not mapping:
        return -EIO
    if page_has_private(page):
        do_invalidatepage(page, 0, PAGE_SIZE)
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
    dropped = 0
    for indices in batches(mapping, start, EVERYTHING if end < 0 else end + 1):
        pages = filemap.find_get_pages(mapping, indices)
        for page in pages:
            if not trylock_page(page):
                continue
            done = invalidate_inode_page(page)
            unlock_page(page)
            if not done:
                swap.deactivate_page(page)
            dropped += done
        swap.release_pages(pages)
    return dropped


def invalidate_inode_pages2(mapping: AddressSpace) -> int:
    """Drop all pages, unmapping them; 0, or -EBUSY if one could not be dropped
    (mm/truncate.c: invalidate_inode_pages2_range)."""
    result = 0
    unmapped = False
    for indices in batches(mapping, 0, EVERYTHING):
        pages = filemap.find_get_pages(mapping, indices)
        for page in pages:
            lock_page(page)
            if READ_ONCE(page, "mapping") is mapping:
                wait_on_page_writeback(page)
                if page_mapped(page):
                    # All that follow at once, and then only those mapped anew.
                    length = PAGE_SIZE if unmapped else 0
                    memory.unmap_mapping_range(mapping, page.index << PAGE_SHIFT, length, False)
                    unmapped = True
                BUG_ON(page_mapped(page), "is mapped after it was unmapped", page)
                if not _invalidate_complete_page2(mapping, page):
                    result = -EBUSY
            unlock_page(page)
        swap.release_pages(pages)
    return result


def _invalidate_complete_page2(mapping: AddressSpace, page: Page) -> bool:
    """Remove a locked, unmapped page however many references it has, unless it is dirty
    (mm/truncate.c: invalidate_complete_page2)."""
    if READ_ONCE(page, "mapping") is not mapping:
        return False
    if page_has_private(page) and not filemap.try_to_release_page(page, GFP_KERNEL):
        return False
    with spin_lock(mapping.tree_lock):
        if PageDirty(page):
            return False
        BUG_ON(page_has_private(page) != 0, "has private data after it was released", page)
        filemap.__delete_from_page_cache(page, None)
    memcontrol.page_left_cache(page)
    swap.put_page(page)
    return True
