"""ramfs: files that exist in the page cache only, so never leave it  (fs/ramfs)."""

from __future__ import annotations

from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.mm import AS_UNEVICTABLE
from mmigrate.linux.include.mm_types import ZERO_BYTES, AddressSpaceOperations, Page
from mmigrate.linux.kernel.page_flags import SetPageUptodate, unlock_page
from mmigrate.linux.mm import filemap, page_writeback


def simple_readpage(page: Page) -> int:
    """A hole: zeroes  (fs/libfs.c: simple_readpage)."""
    page.data = page.mapping.host.blocks.get(page.index, ZERO_BYTES)
    SetPageUptodate(page)
    unlock_page(page)
    return 0


def filesystem() -> Filesystem:
    return Filesystem(
        "ramfs",
        AddressSpaceOperations(
            "ramfs",
            readpage=simple_readpage,
            set_page_dirty=page_writeback.__set_page_dirty_no_writeback,
        ),
        filemap.ram_vm_ops,
        device="none",
        accounts_dirty=False,
        mapping_flags=AS_UNEVICTABLE,
    )
