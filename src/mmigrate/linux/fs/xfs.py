"""xfs: as ext4, but it refuses to write for direct reclaim  (fs/xfs/xfs_aops.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmigrate.linux.fs import buffer, ext4
from mmigrate.linux.fs.filesystem import Filesystem, generic_file_mmap
from mmigrate.linux.include.mm import PF_KSWAPD, PF_MEMALLOC
from mmigrate.linux.include.mm_types import (
    AddressSpaceOperations,
    FileOperations,
    Page,
    VmOperations,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import WARN_ON_ONCE
from mmigrate.linux.kernel.page_flags import unlock_page
from mmigrate.linux.mm import filemap, migrate, page_writeback

if TYPE_CHECKING:
    from mmigrate.linux.mm.page_writeback import WritebackControl


def xfs_vm_writepage(page: Page, wbc: WritebackControl) -> int:
    """Direct reclaim has too little stack left for it: complain, and leave the page dirty
    (fs/xfs/xfs_aops.c: xfs_vm_writepage)."""
    direct = sched.task.flags & (PF_MEMALLOC | PF_KSWAPD) == PF_MEMALLOC
    if WARN_ON_ONCE(direct, "xfs_vm_writepage called from direct reclaim"):
        page_writeback.redirty_page_for_writepage(page)
        unlock_page(page)
        return 0
    return buffer.block_write_full_page(page, wbc)


def filesystem() -> Filesystem:
    return Filesystem(
        "xfs",
        AddressSpaceOperations(
            "xfs",
            readpage=buffer.mpage_readpage,
            writepage=xfs_vm_writepage,
            releasepage=lambda page, gfp: buffer.try_to_free_buffers(page),
            migratepage=migrate.buffer_migrate_page,
            write_begin=buffer.block_write_begin,
            write_end=buffer.generic_write_end,
        ),
        VmOperations(
            "xfs",
            fault=filemap.filemap_fault,
            map_pages=filemap.filemap_map_pages,
            page_mkwrite=buffer.block_page_mkwrite,
        ),
        device="disk",
        file_ops=FileOperations(mmap=generic_file_mmap, fallocate=ext4.ext4_punch_hole),
    )
