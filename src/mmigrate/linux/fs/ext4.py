"""ext4: written pages have buffers, and move with them  (fs/ext4/inode.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmigrate.linux.fs import buffer
from mmigrate.linux.fs.filesystem import Filesystem, generic_file_mmap
from mmigrate.linux.include.mm_types import (
    AddressSpaceOperations,
    FileOperations,
    Inode,
    Page,
    VmOperations,
)
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmigrate.linux.kernel.page_flags import PageChecked
from mmigrate.linux.kernel.rwsem import mutex_lock
from mmigrate.linux.mm import filemap, migrate, page_writeback, truncate

if TYPE_CHECKING:
    from mmigrate.linux.mm.page_writeback import WritebackControl


def ext4_writepage(page: Page, wbc: WritebackControl) -> int:
    """All blocks are allocated here, so it writes whoever asks  (fs/ext4: ext4_writepage)."""
    return buffer.block_write_full_page(page, wbc)


def ext4_releasepage(page: Page, _gfp: int) -> int:
    """fs/ext4/inode.c: ext4_releasepage."""
    return 0 if PageChecked(page) else buffer.try_to_free_buffers(page)


def ext4_punch_hole(inode: Inode, offset: int, length: int) -> int:
    """fallocate with FALLOC_FL_PUNCH_HOLE: write what is dirty, drop the cache, free the
    blocks  (fs/ext4/inode.c: ext4_punch_hole)."""
    error = page_writeback.filemap_write_and_wait(inode.i_mapping)
    if error:
        return error
    with mutex_lock(inode.i_mutex):
        end = min(offset + length, (inode.i_size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))
        if end > offset:
            truncate.truncate_pagecache_range(inode, offset, end - 1)
            _free_blocks(inode, offset, end)
    return 0


def _free_blocks(inode: Inode, offset: int, end: int) -> None:
    """The disk holds zeroes between two bytes."""
    for index in range(offset >> PAGE_SHIFT, ((end - 1) >> PAGE_SHIFT) + 1):
        start = max(offset - (index << PAGE_SHIFT), 0)
        stop = min(end - (index << PAGE_SHIFT), PAGE_SIZE)
        if index not in inode.blocks:
            continue
        if stop - start == PAGE_SIZE:
            del inode.blocks[index]
        else:
            old = inode.blocks[index]
            inode.blocks[index] = old[:start] + bytes(stop - start) + old[stop:]


def filesystem() -> Filesystem:
    return Filesystem(
        "ext4",
        AddressSpaceOperations(
            "ext4",
            readpage=buffer.mpage_readpage,
            writepage=ext4_writepage,
            releasepage=ext4_releasepage,
            migratepage=migrate.buffer_migrate_page,
            write_begin=buffer.block_write_begin,
            write_end=buffer.generic_write_end,
        ),
        VmOperations(
            "ext4",
            fault=filemap.filemap_fault,
            map_pages=filemap.filemap_map_pages,
            page_mkwrite=buffer.block_page_mkwrite,
        ),
        device="disk",
        file_ops=FileOperations(mmap=generic_file_mmap, fallocate=ext4_punch_hole),
    )
