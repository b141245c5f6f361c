"""nfs: a page with a request attached does not move  (fs/nfs/write.c, file.c).

A dirty page has a request: PG_private, the request in `private`, and a reference. It goes
when the server has the contents.
Differs: the server stores at once, so there is nothing to commit later.
"""

from __future__ import annotations

from errno import EBUSY
from typing import Any

from mmigrate.api import Reason
from mmigrate.linux.fs import buffer, libfs
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.migrate_mode import MigrateMode
from mmigrate.linux.include.mm import VM_FAULT_LOCKED, VM_FAULT_NOPAGE, VmFault
from mmigrate.linux.include.mm_types import (
    AddressSpace,
    AddressSpaceOperations,
    Page,
    Vma,
    VmOperations,
)
from mmigrate.linux.include.pgtable import PAGE_SIZE
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.page_flags import (
    ClearPagePrivate,
    PagePrivate,
    PageUptodate,
    SetPagePrivate,
    SetPageUptodate,
    lock_page,
    set_page_private,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import filemap, migrate, page_writeback, swap


class NfsPage:
    """A request to write a page  (struct nfs_page)."""

    __slots__ = ("wb_page",)

    def __init__(self, page: Page) -> None:
        self.wb_page = page

    def __repr__(self) -> str:
        return f"request for {self.wb_page!r}"


def nfs_inode_add_request(page: Page) -> None:
    """Attach a request to a locked page  (fs/nfs/write.c: nfs_inode_add_request).

    Differs: the private_lock of the mapping stands for i_lock.
    """
    mapping: AddressSpace = page.mapping
    with spin_lock(mapping.private_lock):
        if not PagePrivate(page):
            get_page(page)
            SetPagePrivate(page)
            set_page_private(page, NfsPage(page))


def nfs_inode_remove_request(page: Page) -> None:
    """Detach it; its reference is the caller's  (fs/nfs/write.c: nfs_inode_remove_request)."""
    mapping: AddressSpace = page.mapping
    with spin_lock(mapping.private_lock):
        set_page_private(page, 0)
        ClearPagePrivate(page)


def nfs_updatepage(page: Page) -> None:
    """A locked page has new contents for the server; an earlier request that is on its way
    must be answered first  (fs/nfs/write.c: nfs_updatepage)."""
    wait_on_page_writeback(page)
    nfs_inode_add_request(page)
    page_writeback.__set_page_dirty_nobuffers(page)


def nfs_writepage(page: Page, _wbc: Any) -> int:
    """fs/nfs/write.c: nfs_writepage."""
    if not PagePrivate(page):  # nothing for the server
        unlock_page(page)
        return 0

    def finished() -> None:
        nfs_inode_remove_request(page)
        page_writeback.end_page_writeback(page)
        swap.put_page(page)

    buffer.write_page(page, finished)
    return 0


def nfs_write_end(mapping: AddressSpace, position: int, copied: int, page: Page) -> None:
    """fs/nfs/file.c: nfs_write_end."""
    assert mapping.host is not None
    if not PageUptodate(page):
        SetPageUptodate(page)
    filemap.i_size_write(mapping.host, position + copied)
    nfs_updatepage(page)
    unlock_page(page)
    swap.put_page(page)


def nfs_vm_page_mkwrite(vma: Vma, vmf: VmFault) -> int:
    """fs/nfs/file.c: nfs_vm_page_mkwrite."""
    assert vma.vm_file is not None
    assert vmf.page is not None
    page = vmf.page
    lock_page(page)
    if READ_ONCE(page, "mapping") is not vma.vm_file.f_mapping or buffer.within_file(page) == 0:
        unlock_page(page)
        return VM_FAULT_NOPAGE
    nfs_updatepage(page)
    return VM_FAULT_LOCKED


def nfs_invalidate_page(page: Page, offset: int, length: int) -> None:
    """A whole page is cut off: cancel its request  (fs/nfs/file.c: nfs_invalidate_page)."""
    if offset == 0 and length == PAGE_SIZE and PagePrivate(page):
        wait_on_page_writeback(page)
        nfs_inode_remove_request(page)
        page_writeback.cancel_dirty_page(page)
        swap.put_page(page)


def nfs_release_page(page: Page, _gfp: int) -> int:
    """fs/nfs/file.c: nfs_release_page."""
    return int(not PagePrivate(page))


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
            writepage=nfs_writepage,
            set_page_dirty=page_writeback.__set_page_dirty_nobuffers,
            releasepage=nfs_release_page,
            invalidatepage=nfs_invalidate_page,
            migratepage=nfs_migrate_page,
            write_begin=libfs.reading_write_begin,
            write_end=nfs_write_end,
        ),
        VmOperations(
            "nfs",
            fault=filemap.filemap_fault,
            map_pages=filemap.filemap_map_pages,
            page_mkwrite=nfs_vm_page_mkwrite,
        ),
        device="net",
    )
