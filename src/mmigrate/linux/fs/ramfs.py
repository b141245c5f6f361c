"""ramfs: files that exist in the page cache only, so never leave it  (fs/ramfs)."""

from __future__ import annotations

from mmigrate.linux.fs import libfs
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.mm import AS_UNEVICTABLE
from mmigrate.linux.include.mm_types import AddressSpaceOperations
from mmigrate.linux.mm import filemap, page_writeback


def filesystem() -> Filesystem:
    return Filesystem(
        "ramfs",
        AddressSpaceOperations(
            "ramfs",
            readpage=libfs.simple_readpage,
            set_page_dirty=page_writeback.__set_page_dirty_no_writeback,
            write_begin=libfs.simple_write_begin,
            write_end=libfs.simple_write_end,
        ),
        filemap.generic_file_vm_ops,
        device="none",
        accounts_dirty=False,
        mapping_flags=AS_UNEVICTABLE,
    )
