"""exofs: has no migratepage, so the fallback moves its pages  (fs/exofs/inode.c)."""

from __future__ import annotations

from functools import partial
from typing import Any

from mmigrate.linux.fs import buffer, libfs
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.mm_types import AddressSpaceOperations, Page
from mmigrate.linux.mm import filemap, page_writeback


def exofs_writepage(page: Page, _wbc: Any) -> int:
    """fs/exofs/inode.c: exofs_writepage."""
    buffer.write_page(page, partial(page_writeback.end_page_writeback, page))
    return 0


def filesystem() -> Filesystem:
    return Filesystem(
        "exofs",
        AddressSpaceOperations(
            "exofs",
            readpage=buffer.read_page,
            writepage=exofs_writepage,
            set_page_dirty=page_writeback.__set_page_dirty_nobuffers,
            write_begin=libfs.reading_write_begin,
            write_end=libfs.simple_write_end,
        ),
        filemap.generic_file_vm_ops,
        device="disk",
    )
