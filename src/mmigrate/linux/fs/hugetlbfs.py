"""hugetlbfs: files made of huge pages  (fs/hugetlbfs/inode.c).

A file lives in the page cache only, at offsets in huge pages.  A mapping of MAP_HUGETLB is a file
without a name, which goes with the last area that maps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, ENOMEM

from mmigrate.linux.fs import inode as inodes
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.hugetlb import Hstate, ResvMap, Subpool
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.migrate_mode import MIGRATEPAGE_SUCCESS, MigrateMode
from mmigrate.linux.include.mm import VM_DONTEXPAND, VM_HUGETLB, VM_WRITE
from mmigrate.linux.include.mm_types import (
    AddressSpace,
    AddressSpaceOperations,
    File,
    FileOperations,
    Inode,
    Page,
    Vma,
    VmOperations,
)
from mmigrate.linux.include.pgtable import PAGE_SHIFT
from mmigrate.linux.include.switches import SUBPOOL_COMES_ALONG
from mmigrate.linux.kernel.atomic import WRITE_ONCE, atomic_dec_and_test, atomic_inc
from mmigrate.linux.kernel.page_flags import SetPageDirty, page_private, set_page_private
from mmigrate.linux.kernel.page_ref import compound_head
from mmigrate.linux.kernel.rwsem import mutex_lock
from mmigrate.linux.mm import filemap, hugetlb, hugetlb_pool, migrate


class Users:
    """The areas that map a file without a name."""

    __slots__ = ("count", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 1  # atomic

    def __repr__(self) -> str:
        return f"users of {self.name}"


@dataclass(frozen=True)
class HugetlbFilesystem(Filesystem):
    """The filesystem as one file sees it: its pool, its promises, the limit of its mount.
    @users: of a file without a name."""

    resv_map: ResvMap | None = None
    spool: Subpool | None = None
    users: Users | None = None

    def get_page(self, inode: Inode, index: int) -> Page | int | None:
        """For read(2): the base page at an offset; None for a hole
        (fs/hugetlbfs/inode.c: hugetlbfs_read)."""
        assert self.hstate is not None
        order = self.hstate.order
        head = filemap.find_get_page(inode.i_mapping, index >> order)
        return None if head is None else hugetlb_pool.first_of(head, index & ((1 << order) - 1))

    def setattr(self, inode: Inode, size: int) -> None:
        """For truncate(2), to whole huge pages  (fs/hugetlbfs/inode.c: hugetlbfs_setattr)."""
        hugetlb.hugetlb_vmtruncate(inode, size)


def hugetlbfs_file_mmap(file: File, vma: Vma) -> int:
    """Promise an area its pages; 0, -EINVAL or -ENOMEM  (fs/hugetlbfs/inode.c:
    hugetlbfs_file_mmap)."""
    inode = file.f_inode
    h: Hstate = inode.fs.hstate
    WRITE_ONCE(vma, "vm_flags", vma.vm_flags | VM_HUGETLB | VM_DONTEXPAND)
    vma.vm_ops = inode.fs.vm_ops
    if vma.vm_pgoff & (h.pages - 1):
        return -EINVAL
    end = vma.vm_end - vma.vm_start + (vma.vm_pgoff << PAGE_SHIFT)
    with mutex_lock(inode.i_mutex):
        first = vma.vm_pgoff >> h.order
        if hugetlb.hugetlb_reserve_pages(inode, first, end >> h.shift, vma, vma.vm_flags):
            return -ENOMEM
        if vma.vm_flags & VM_WRITE and inode.i_size < end:
            WRITE_ONCE(inode, "i_size", end)
    return 0


def hugetlbfs_set_page_dirty(page: Page) -> int:
    """fs/hugetlbfs/inode.c: hugetlbfs_set_page_dirty."""
    SetPageDirty(compound_head(page))
    return 0


def hugetlbfs_migrate_page(
    mapping: AddressSpace, newpage: Page, page: Page, mode: MigrateMode
) -> int:
    """fs/hugetlbfs/inode.c: hugetlbfs_migrate_page.

    Known defect of v3.19: the new page does not know the limit of its mount, which so counts a
    page for ever.
    """
    rc = migrate.migrate_huge_page_move_mapping(mapping, newpage, page)
    if rc != MIGRATEPAGE_SUCCESS:
        return rc
    if page.zone.kernel.has(SUBPOOL_COMES_ALONG):
        set_page_private(newpage, page_private(page))
        set_page_private(page, 0)
    migrate.migrate_page_copy(newpage, page)
    return MIGRATEPAGE_SUCCESS


def hugetlbfs_write_begin(mapping: AddressSpace, position: int, length: int) -> int:
    """There is no write(2)  (fs/hugetlbfs/inode.c: hugetlbfs_write_begin)."""
    return -EINVAL


def _open(vma: Vma) -> None:
    assert vma.vm_file is not None
    users = vma.vm_file.f_inode.fs.users
    if users is not None:
        atomic_inc(users, "count")
    hugetlb.hugetlb_vm_op_open(vma)


def _close(vma: Vma) -> None:
    """The end of an area, and of its file if it was the last that could name it."""
    assert vma.vm_file is not None
    inode = vma.vm_file.f_inode
    hugetlb.hugetlb_vm_op_close(vma)
    if inode.fs.users is not None and atomic_dec_and_test(inode.fs.users, "count"):
        hugetlbfs_evict_inode(inode)


def hugetlbfs_evict_inode(inode: Inode) -> None:
    """fs/hugetlbfs/inode.c: hugetlbfs_evict_inode."""
    hugetlb.truncate_hugepages(inode, 0)
    inode.kernel.inodes.remove(inode)


A_OPS = AddressSpaceOperations(
    "hugetlbfs",
    set_page_dirty=hugetlbfs_set_page_dirty,
    migratepage=hugetlbfs_migrate_page,
    write_begin=hugetlbfs_write_begin,
)
VM_OPS = VmOperations("hugetlbfs", open=_open, close=_close)
FILE_OPS = FileOperations(mmap=hugetlbfs_file_mmap)


def hugetlbfs_fill_super(kernel: Kernel, h: Hstate, size: int | None) -> Subpool | None:
    """The limit of a mount, from its option size=; None if it has none
    (fs/hugetlbfs/inode.c: hugetlbfs_fill_super)."""
    if size is None:
        return None
    spool = hugetlb_pool.hugepage_new_subpool(size >> h.shift)
    kernel.hugetlb.subpools.append(spool)
    return spool


def hugetlbfs_file(
    kernel: Kernel, name: str, size: int, h: Hstate, *, spool: Subpool | None, nameless: bool
) -> Inode:
    """A file of @size bytes  (fs/hugetlbfs/inode.c: hugetlbfs_get_inode)."""
    filesystem = HugetlbFilesystem(
        "hugetlbfs",
        A_OPS,
        VM_OPS,
        device="none",
        accounts_dirty=False,
        file_ops=FILE_OPS,
        hstate=h,
        resv_map=hugetlb.resv_map_alloc(name),
        spool=spool,
        users=Users(name) if nameless else None,
    )
    inode = inodes.inode_of(kernel, name, filesystem, size)
    inode.i_mapping.gfp_mask = hugetlb_pool.htlb_alloc_mask(kernel, h)
    return inode


def hugetlb_file_setup(kernel: Kernel, size: int, h: Hstate) -> Inode:
    """The file behind an anonymous mapping  (fs/hugetlbfs/inode.c: hugetlb_file_setup)."""
    hugetlb_state = hugetlb_pool.state(kernel)
    hugetlb_state.files += 1
    name = f"anon_hugepage {hugetlb_state.files}"
    return hugetlbfs_file(kernel, name, size, h, spool=None, nameless=True)
