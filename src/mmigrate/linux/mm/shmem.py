"""Shared memory and tmpfs: files whose pages go to swap  (mm/shmem.c).

A slot of the tree holds a page, or the swap entry of one that was written out (an integer,
entry << 2 | 2).  Pages are SwapBacked although they have a mapping.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC
from typing import Any

from mmigrate.linux.fs import inode as inodes
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mempolicy import Mempolicy
from mmigrate.linux.include.mm import (
    AOP_WRITEPAGE_ACTIVATE,
    VM_FAULT_LOCKED,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_READ,
    VM_WRITE,
    VmFault,
)
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
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmigrate.linux.include.vmstat import NR_FILE_PAGES, NR_SHMEM
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.highmem import clear_highpage
from mmigrate.linux.kernel.page_flags import (
    PageLocked,
    PageSwapCache,
    PageUptodate,
    SetPageSwapBacked,
    SetPageUptodate,
    lock_page,
    page_private,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import get_page, page_mapped
from mmigrate.linux.kernel.rcu import radix_tree_lookup, radix_tree_store
from mmigrate.linux.kernel.rwsem import mutex_lock
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import (
    filemap,
    mempolicy,
    migrate,
    page_io,
    page_writeback,
    swap,
    swap_state,
    swapfile,
    truncate,
)


def swp_to_radix_entry(entry: int) -> int:
    return entry << 2 | 2


def radix_to_swp_entry(item: int) -> int:
    return item >> 2


class ShmemFilesystem(Filesystem):
    """tmpfs: its pages may be in swap."""

    def get_page(self, inode: Inode, index: int) -> Page | int:
        page = shmem_getpage(inode, index)
        if isinstance(page, Page):
            unlock_page(page)
        return page

    def lock_page(self, inode: Inode, index: int) -> Page | None:
        page = shmem_getpage(inode, index)
        return page if isinstance(page, Page) else None


def shmem_file_setup(kernel: Kernel, name: str, size: int) -> Inode:
    """A new file of @size bytes in shared memory  (mm/shmem.c: shmem_file_setup)."""
    inode = inodes.inode_of(kernel, name, _filesystem(), size)
    inode.policy = mempolicy.mpol_shared_policy_init()
    return inode


def shmem_zero_setup(vma: Vma) -> int:
    """Back a shared anonymous mapping by a file of its own
    (mm/shmem.c: shmem_zero_setup)."""
    kernel = vma.vm_mm.kernel
    number = sum(1 for inode in kernel.inodes if inode.name.startswith("dev/zero"))
    inode = shmem_file_setup(kernel, f"dev/zero {number}", vma.vm_end - vma.vm_start)
    vma.vm_file = File(inode, VM_READ | VM_WRITE, inode.fs.file_ops)
    vma.vm_ops = inode.fs.vm_ops
    return 0


# --- pages in the tree ---


def shmem_add_to_page_cache(
    page: Page, mapping: AddressSpace, index: int, expected: int | None
) -> int:
    """Put a locked page where @expected, a swap entry or nothing, is; 0 or -EEXIST, -ENOENT
    (mm/shmem.c: shmem_add_to_page_cache)."""
    BUG_ON(not PageLocked(page), "added to shmem unlocked", page)
    get_page(page)
    WRITE_ONCE(page, "mapping", mapping)
    page.index = index
    with spin_lock(mapping.tree_lock):
        found = radix_tree_lookup(mapping.page_tree, index)
        if found == expected:
            radix_tree_store(mapping.page_tree, index, page)
            mapping.nrpages += 1
            page.zone.vm_stat[NR_FILE_PAGES] += 1
            page.zone.vm_stat[NR_SHMEM] += 1
            return 0
    WRITE_ONCE(page, "mapping", None)
    swap.put_page(page)
    return -EEXIST if expected is None else -ENOENT


def _shmem_delete_from_page_cache(page: Page, radswap: int) -> None:
    """Let a swap entry take the place of a page  (mm/shmem.c: shmem_delete_from_page_cache)."""
    mapping: AddressSpace = page.mapping
    with spin_lock(mapping.tree_lock):
        radix_tree_store(mapping.page_tree, page.index, radswap)
        WRITE_ONCE(page, "mapping", None)
        mapping.nrpages -= 1
        page.zone.vm_stat[NR_FILE_PAGES] -= 1
        page.zone.vm_stat[NR_SHMEM] -= 1
    swap.put_page(page)


def shmem_getpage(inode: Inode, index: int) -> Page | int:
    """The page of a slot, locked and up to date, with a reference: found, brought back from
    swap, or new; or -EINVAL beyond the end, -ENOMEM  (mm/shmem.c: shmem_getpage_gfp)."""
    mapping = inode.i_mapping
    while True:
        entry = filemap.find_lock_entry(mapping, index)
        if index << PAGE_SHIFT >= READ_ONCE(inode, "i_size"):
            if isinstance(entry, Page):
                unlock_page(entry)
                swap.put_page(entry)
            return -EINVAL
        if isinstance(entry, Page):
            BUG_ON(not PageUptodate(entry), "shmem page without contents", entry)
            return entry
        page = (
            _new_page(inode, index)
            if entry is None
            else _swap_in(inode, index, radix_to_swp_entry(entry))
        )
        if page != -EEXIST:
            return page


def _new_page(inode: Inode, index: int) -> Page | int:
    page = mempolicy.shmem_alloc_page(inode, GFP_HIGHUSER_MOVABLE, index)
    if page is None:
        return -ENOMEM
    SetPageSwapBacked(page)
    lock_page(page)
    error = shmem_add_to_page_cache(page, inode.i_mapping, index, None)
    if error:
        unlock_page(page)
        swap.put_page(page)
        return -EEXIST
    swap.lru_cache_add(page)
    clear_highpage(page)
    SetPageUptodate(page)
    return page


def _swap_in(inode: Inode, index: int, entry: int) -> Page | int:
    page = swap_state.lookup_swap_cache(entry)
    if page is None:
        page = swap_state.read_swap_cache_async(entry, GFP_HIGHUSER_MOVABLE, None, 0)
        if page is None:
            slot = inode.i_mapping.page_tree.slots.get(index)
            return -ENOMEM if slot == swp_to_radix_entry(entry) else -EEXIST
    lock_page(page)
    if not PageSwapCache(page) or page_private(page) != entry:
        unlock_page(page)
        swap.put_page(page)
        return -EEXIST
    wait_on_page_writeback(page)
    if not PageUptodate(page):
        unlock_page(page)
        swap.put_page(page)
        return -ENOMEM
    if shmem_add_to_page_cache(page, inode.i_mapping, index, swp_to_radix_entry(entry)):
        unlock_page(page)
        swap.put_page(page)
        return -EEXIST
    swap_state.delete_from_swap_cache(page)
    page_writeback.set_page_dirty(page)
    swapfile.swap_free(entry)
    return page


def shmem_unuse(kernel: Kernel, entry: int, page: Page) -> int:
    """swapoff: give a swap-cache page back to the file it belongs to; whether there was one
    (mm/shmem.c: shmem_unuse)."""
    wanted = swp_to_radix_entry(entry)
    for inode in kernel.inodes:
        if inode.fs.name != "tmpfs":
            continue
        for index, item in list(inode.i_mapping.page_tree.slots.items()):
            if item == wanted and not shmem_add_to_page_cache(page, inode.i_mapping, index, wanted):
                swap_state.delete_from_swap_cache(page)
                page_writeback.set_page_dirty(page)
                swapfile.swap_free(entry)
                return 1
    return 0


# --- methods ---


def shmem_writepage(page: Page, wbc: Any) -> int:
    """Move a locked, unmapped page to the swap cache and start writing it; it is unlocked
    unless AOP_WRITEPAGE_ACTIVATE is returned  (mm/shmem.c: shmem_writepage)."""
    BUG_ON(not PageLocked(page), "shmem_writepage of an unlocked page", page)
    entry = swapfile.get_swap_page(page.zone.kernel) if wbc.for_reclaim else 0
    if not entry or swap_state.__add_to_swap_cache(page, entry):
        if entry:
            swapfile.swapcache_free(entry)
        page_writeback.set_page_dirty(page)
        if wbc.for_reclaim:
            return AOP_WRITEPAGE_ACTIVATE
        unlock_page(page)
        return 0
    swapfile.swap_shmem_alloc(entry)
    _shmem_delete_from_page_cache(page, swp_to_radix_entry(entry))
    BUG_ON(page_mapped(page), "shmem page is written while mapped", page)
    page_io.swap_writepage(page, wbc)
    return 0


def shmem_fault(vma: Vma, vmf: VmFault) -> int:
    """mm/shmem.c: shmem_fault."""
    assert vma.vm_file is not None
    page = shmem_getpage(vma.vm_file.f_inode, vmf.pgoff)
    if isinstance(page, int):
        return VM_FAULT_OOM if page in (-ENOMEM, -ENOSPC) else VM_FAULT_SIGBUS
    vmf.page = page
    return VM_FAULT_LOCKED


def _set_policy(vma: Vma, policy: Mempolicy | None) -> int:
    """A policy of the file, for everybody  (mm/shmem.c: shmem_set_policy)."""
    assert vma.vm_file is not None
    return mempolicy.mpol_set_shared_policy(vma.vm_file.f_inode.policy, vma, policy)


def _get_policy(vma: Vma, address: int) -> Mempolicy | None:
    """mm/shmem.c: shmem_get_policy."""
    assert vma.vm_file is not None
    index = ((address - vma.vm_start) >> PAGE_SHIFT) + vma.vm_pgoff
    return mempolicy.mpol_shared_policy_lookup(vma.vm_file.f_inode.policy, index)


def shmem_truncate_range(inode: Inode, start: int, end: int) -> None:
    """Remove pages and swap entries between two bytes, @end inclusive
    (mm/shmem.c: shmem_undo_range)."""
    mapping = inode.i_mapping
    truncate.truncate_inode_pages_range(mapping, start, end)
    first = (start + PAGE_SIZE - 1) >> PAGE_SHIFT
    last = ((end + 1) >> PAGE_SHIFT) - 1
    for index in list(mapping.page_tree.indices(first, last)):
        with spin_lock(mapping.tree_lock):
            item = radix_tree_lookup(mapping.page_tree, index)
            if not isinstance(item, int):
                continue
            mapping.page_tree.delete(index)
        swapfile.free_swap_and_cache(radix_to_swp_entry(item))


def _punch_hole(inode: Inode, start: int, length: int) -> int:
    """fallocate with FALLOC_FL_PUNCH_HOLE  (mm/shmem.c: shmem_fallocate)."""
    with mutex_lock(inode.i_mutex):
        truncate.truncate_pagecache_range(inode, start, start + length - 1)
        shmem_truncate_range(inode, start, start + length - 1)
        truncate.truncate_pagecache_range(inode, start, start + length - 1)
    return 0


def _shmem_mmap(file: File, vma: Vma) -> int:
    vma.vm_ops = file.f_inode.fs.vm_ops
    return 0


def _filesystem() -> Filesystem:
    return ShmemFilesystem(
        "tmpfs",
        AddressSpaceOperations(
            "tmpfs",
            writepage=shmem_writepage,
            set_page_dirty=page_writeback.__set_page_dirty_no_writeback,
            migratepage=migrate.migrate_page,
        ),
        VmOperations(
            "shmem",
            fault=shmem_fault,
            map_pages=filemap.filemap_map_pages,
            set_policy=_set_policy,
            get_policy=_get_policy,
        ),
        device="none",
        accounts_dirty=False,
        file_ops=FileOperations(mmap=_shmem_mmap, fallocate=_punch_hole),
    )
