"""ext4: pages have buffers, and move with them  (fs/ext4/inode.c)."""

from __future__ import annotations

from typing import Any

from mmigrate.linux.fs import buffer
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.mm_types import AddressSpaceOperations, Page
from mmigrate.linux.mm import filemap, migrate


def ext4_writepage(page: Page, wbc: Any) -> int:
    """All blocks are allocated here, so it writes whoever asks  (fs/ext4: ext4_writepage)."""
    return buffer.block_write_full_page(page, wbc)


def filesystem() -> Filesystem:
    return Filesystem(
        "ext4",
        AddressSpaceOperations(
            "ext4",
            readpage=buffer.block_read_full_page,
            writepage=ext4_writepage,
            releasepage=lambda page, gfp: buffer.try_to_free_buffers(page),
            migratepage=migrate.buffer_migrate_page,
        ),
        filemap.generic_file_vm_ops,
        device="disk",
        buffers=True,
    )
