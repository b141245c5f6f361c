"""exofs: has no migratepage, so the fallback moves its pages  (fs/exofs/inode.c)."""

from __future__ import annotations

from mmigrate.linux.fs import buffer
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.mm_types import AddressSpaceOperations
from mmigrate.linux.mm import filemap, page_writeback


def filesystem() -> Filesystem:
    return Filesystem(
        "exofs",
        AddressSpaceOperations(
            "exofs",
            readpage=buffer.read_page,
            writepage=buffer.write_page,
            set_page_dirty=page_writeback.__set_page_dirty_nobuffers,
        ),
        filemap.generic_file_vm_ops,
        device="disk",
    )
