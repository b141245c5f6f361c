"""nfs: a page with a request attached does not move  (fs/nfs/write.c)."""

from __future__ import annotations

from errno import EBUSY

from mmigrate.api import Reason
from mmigrate.linux.fs import buffer
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.migrate_mode import MigrateMode
from mmigrate.linux.include.mm_types import AddressSpace, AddressSpaceOperations, Page
from mmigrate.linux.kernel.page_flags import PagePrivate
from mmigrate.linux.mm import filemap, migrate, page_writeback


def nfs_migrate_page(mapping: AddressSpace, newpage: Page, page: Page, mode: MigrateMode) -> int:
    """fs/nfs/write.c: nfs_migrate_page."""
    if PagePrivate(page):
        page.zone.kernel.reasons[page.pfn] = Reason.METHOD_REFUSED
        return -EBUSY
    return migrate.migrate_page(mapping, newpage, page, mode)


def filesystem() -> Filesystem:
    return Filesystem(
        "nfs",
        AddressSpaceOperations(
            "nfs",
            readpage=buffer.read_page,
            writepage=buffer.write_page,
            set_page_dirty=page_writeback.__set_page_dirty_nobuffers,
            migratepage=nfs_migrate_page,
        ),
        filemap.generic_file_vm_ops,
        device="net",
    )
