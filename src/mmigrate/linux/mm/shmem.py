"""Shared memory and tmpfs: files whose pages go to swap  (mm/shmem.c).

A slot of the tree holds a page, or the swap entry of one that was written out (an integer,
entry << 2 | 2).  Pages are SwapBacked although they have a mapping.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, EIO, ENOENT, ENOMEM
from typing import Any, Final

from mmigrate.linux.fs import inode as inodes
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mempolicy import Mempolicy
from mmigrate.linux.include.mm import (
    AOP_WRITEPAGE_ACTIVATE,
    AS_UNEVICTABLE,
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
from mmigrate.linux.include.vmstat import NR_FILE_PAGES, NR_SHMEM, PGMAJFAULT
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON, VM_BUG_ON_PAGE, WARN_ON_ONCE
from mmigrate.linux.kernel.highmem import clear_highpage, copy_to_page
from mmigrate.linux.kernel.page_flags import (
    ClearPageDirty,
    PageLocked,
    PageSwapCache,
    PageUnevictable,
    PageUptodate,
    PageWriteback,
    SetPageReferenced,
    SetPageSwapBacked,
    SetPageUptodate,
    lock_page,
    page_private,
    trylock_page,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import get_page, page_mapped
from mmigrate.linux.kernel.rcu import radix_tree_delete, radix_tree_lookup, radix_tree_store
from mmigrate.linux.kernel.rwsem import mutex_lock
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import (
    filemap,
    memcontrol,
    memory,
    mempolicy,
    migrate,
    page_io,
    page_writeback,
    swap,
    swap_state,
    swapfile,
    truncate,
    vmscan,
)
from mmigrate.linux.mm.vmstat import count_vm_event

SGP_READ: Final = 0
SGP_CACHE: Final = 1
SGP_WRITE: Final = 3


def swp_to_radix_entry(entry: int) -> int:
    return entry << 2 | 2


def radix_to_swp_entry(item: int) -> int:
    return item >> 2


class ShmemFilesystem(Filesystem):
    """tmpfs: its pages may be in swap."""

    def get_page(self, inode: Inode, index: int) -> Page | int | None:
        page = shmem_getpage(inode, index, SGP_READ)
        if isinstance(page, Page):
            unlock_page(page)
        return page

    def setattr(self, inode: Inode, size: int) -> None:
        shmem_setattr(inode, size)


def shmem_file_setup(kernel: Kernel, name: str, size: int) -> Inode:
    """A new file of @size bytes in shared memory  (mm/shmem.c: shmem_file_setup)."""
    inode = inodes.inode_of(kernel, name, filesystem(), size)
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


def shmem_lock(inode: Inode, lock: bool) -> None:
    """SHM_LOCK and SHM_UNLOCK: pages of the file are not reclaimed
    (mm/shmem.c: shmem_lock; ipc/shm.c: shmctl_do_lock)."""
    mapping = inode.i_mapping
    if lock:
        WRITE_ONCE(mapping, "flags", mapping.flags | AS_UNEVICTABLE)
        return
    WRITE_ONCE(mapping, "flags", mapping.flags & ~AS_UNEVICTABLE)
    shmem_unlock_mapping(mapping)


def shmem_unlock_mapping(mapping: AddressSpace) -> None:
    """Put its pages where they belong now  (mm/shmem.c: shmem_unlock_mapping).

    Differs: by isolation and putback; the kernel moves them under lru_lock.
    """
    swap.lru_add_drain()
    for indices in truncate.batches(mapping, 0, truncate.EVERYTHING):
        pages = filemap.find_get_pages(mapping, indices)
        for page in pages:
            if PageUnevictable(page) and vmscan.isolate_lru_page(page) == 0:
                vmscan.putback_lru_page(page)
        swap.release_pages(pages)


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


def shmem_getpage(inode: Inode, index: int, sgp: int) -> Page | int | None:
    """The page of a slot, locked and up to date, with a reference: found, brought back from
    swap, or new; None if there is none and @sgp is SGP_READ.  -EINVAL beyond the end unless
    SGP_WRITE; -ENOMEM, -EIO  (mm/shmem.c: shmem_getpage_gfp)."""
    mapping = inode.i_mapping
    while True:
        entry = filemap.find_lock_entry(mapping, index)
        if sgp != SGP_WRITE and _beyond_end(inode, index):
            if isinstance(entry, Page):
                unlock_page(entry)
                swap.put_page(entry)
            return -EINVAL
        if isinstance(entry, Page):
            BUG_ON(not PageUptodate(entry), "shmem page without contents", entry)
            if sgp == SGP_WRITE:
                swap.mark_page_accessed(entry)
            return entry
        if entry is None and sgp == SGP_READ:
            return None
        page = (
            _new_page(inode, index, sgp)
            if entry is None
            else _swap_in(inode, index, radix_to_swp_entry(entry), sgp)
        )
        if page == -EEXIST:
            continue
        # The file may have been cut before the page was in its slot.
        if isinstance(page, Page) and sgp != SGP_WRITE and _beyond_end(inode, index):
            if entry is None:
                ClearPageDirty(page)
                filemap.delete_from_page_cache(page)
            unlock_page(page)
            swap.put_page(page)
            return -EINVAL
        return page


def _beyond_end(inode: Inode, index: int) -> bool:
    return index << PAGE_SHIFT >= int(READ_ONCE(inode, "i_size"))


def _new_page(inode: Inode, index: int, sgp: int) -> Page | int:
    page = mempolicy.shmem_alloc_page(inode, GFP_HIGHUSER_MOVABLE, index)
    if page is None:
        return -ENOMEM
    SetPageSwapBacked(page)
    lock_page(page)
    if sgp == SGP_WRITE:
        SetPageReferenced(page)
    memcg = memcontrol.mem_cgroup_try_charge(page, sched.task.mm, GFP_KERNEL)
    if isinstance(memcg, int):
        unlock_page(page)
        swap.put_page(page)
        return memcg
    if shmem_add_to_page_cache(page, inode.i_mapping, index, None):
        memcontrol.mem_cgroup_cancel_charge(page, memcg)
        unlock_page(page)
        swap.put_page(page)
        return -EEXIST
    memcontrol.mem_cgroup_commit_charge(page, memcg, False)
    swap.lru_cache_add(page)
    clear_highpage(page)
    SetPageUptodate(page)
    return page


def _swap_in(inode: Inode, index: int, entry: int, sgp: int) -> Page | int:
    """-EEXIST: the slot has changed, look again."""
    mapping = inode.i_mapping
    page = swap_state.lookup_swap_cache(entry)
    if page is None:
        count_vm_event(PGMAJFAULT)
        page = swap_state.read_swap_cache_async(entry, GFP_HIGHUSER_MOVABLE, None, 0)
        if page is None:
            return -ENOMEM if _confirm_swap(mapping, index, entry) else -EEXIST
    lock_page(page)
    error = 0
    if (
        not PageSwapCache(page)
        or page_private(page) != entry
        or not _confirm_swap(mapping, index, entry)
    ):
        error = -EEXIST
    elif not PageUptodate(page):
        error = -EIO
    else:
        wait_on_page_writeback(page)
        memcg = memcontrol.mem_cgroup_try_charge(page, sched.task.mm, GFP_KERNEL)
        if isinstance(memcg, int):
            error = memcg
        elif shmem_add_to_page_cache(page, mapping, index, swp_to_radix_entry(entry)):
            error = -EEXIST  # truncation has freed the entry
            memcontrol.mem_cgroup_cancel_charge(page, memcg)
        else:
            memcontrol.mem_cgroup_commit_charge(page, memcg, True)
    if error:
        unlock_page(page)
        swap.put_page(page)
        return error
    if sgp == SGP_WRITE:
        swap.mark_page_accessed(page)
    swap_state.delete_from_swap_cache(page)
    page_writeback.set_page_dirty(page)
    swapfile.swap_free(entry)
    return page


def _confirm_swap(mapping: AddressSpace, index: int, entry: int) -> bool:
    """Whether the slot still names the swap entry  (mm/shmem.c: shmem_confirm_swap)."""
    item = radix_tree_lookup(mapping.page_tree, index)
    return isinstance(item, int) and item == swp_to_radix_entry(entry)


def shmem_unuse(kernel: Kernel, entry: int, page: Page) -> int:
    """swapoff: give a swap-cache page back to the file it belongs to; 1, 0 if there is
    none, -ENOMEM if its group may not have the page
    (mm/shmem.c: shmem_unuse)."""
    wanted = swp_to_radix_entry(entry)
    for inode in kernel.inodes:
        if inode.fs.name != "tmpfs":
            continue
        for index, item in list(inode.i_mapping.page_tree.slots.items()):
            if item != wanted:
                continue
            memcg = memcontrol.mem_cgroup_try_charge(page, sched.task.mm, GFP_KERNEL)
            if isinstance(memcg, int):
                return memcg
            if shmem_add_to_page_cache(page, inode.i_mapping, index, wanted):
                memcontrol.mem_cgroup_cancel_charge(page, memcg)
            else:
                memcontrol.mem_cgroup_commit_charge(page, memcg, True)
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
    mapping: AddressSpace = page.mapping
    entry = 0
    # Only reclaim may write it: fsync of a tmpfs file has nothing to do.
    if not mapping.flags & AS_UNEVICTABLE and not WARN_ON_ONCE(
        not wbc.for_reclaim, f"shmem_writepage of {page!r}, not for reclaim"
    ):
        entry = swapfile.get_swap_page(page.zone.kernel)
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
    page = shmem_getpage(vma.vm_file.f_inode, vmf.pgoff, SGP_CACHE)
    if not isinstance(page, Page):
        return VM_FAULT_OOM if page == -ENOMEM else VM_FAULT_SIGBUS
    vmf.page = page
    return VM_FAULT_LOCKED


def shmem_write_begin(mapping: AddressSpace, position: int, _length: int) -> Page | int:
    """mm/shmem.c: shmem_write_begin."""
    assert mapping.host is not None
    page = shmem_getpage(mapping.host, position >> PAGE_SHIFT, SGP_WRITE)
    assert page is not None
    return page


def shmem_write_end(mapping: AddressSpace, position: int, copied: int, page: Page) -> None:
    """mm/shmem.c: shmem_write_end."""
    assert mapping.host is not None
    filemap.i_size_write(mapping.host, position + copied)
    page_writeback.set_page_dirty(page)
    unlock_page(page)
    swap.put_page(page)


def _set_policy(vma: Vma, policy: Mempolicy | None) -> int:
    """A policy of the file, for everybody  (mm/shmem.c: shmem_set_policy)."""
    assert vma.vm_file is not None
    return mempolicy.mpol_set_shared_policy(vma.vm_file.f_inode.policy, vma, policy)


def _get_policy(vma: Vma, address: int) -> Mempolicy | None:
    """mm/shmem.c: shmem_get_policy."""
    assert vma.vm_file is not None
    index = ((address - vma.vm_start) >> PAGE_SHIFT) + vma.vm_pgoff
    return mempolicy.mpol_shared_policy_lookup(vma.vm_file.f_inode.policy, index)


def shmem_setattr(inode: Inode, size: int) -> None:
    """Change the size, then unmap and remove what is behind it, and unmap once more what
    copies were made meanwhile  (mm/shmem.c: shmem_setattr)."""
    shrinks = size < inode.i_size
    WRITE_ONCE(inode, "i_size", size)
    if shrinks:
        hole = (size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
        memory.unmap_mapping_range(inode.i_mapping, hole, 0, True)
        shmem_truncate_range(inode, size, truncate.EVERYTHING - 1)
        memory.unmap_mapping_range(inode.i_mapping, hole, 0, True)


def shmem_truncate_range(inode: Inode, lstart: int, lend: int) -> None:
    """Remove pages and swap entries between two bytes, @lend inclusive: first what can be
    had at once, then the others; what is left of pages that are cut in two becomes zeroes
    (mm/shmem.c: shmem_undo_range)."""
    mapping = inode.i_mapping
    start = (lstart + PAGE_SIZE - 1) >> PAGE_SHIFT
    end = (lend + 1) >> PAGE_SHIFT
    _undo(mapping, start, end, False)
    for index, first, last in truncate.partial_pages(lstart, lend):
        page = shmem_getpage(inode, index, SGP_READ)
        if isinstance(page, Page):
            copy_to_page(page, first, bytes(last - first))
            page_writeback.set_page_dirty(page)
            unlock_page(page)
            swap.put_page(page)
    while start < end and _undo(mapping, start, end, True):
        pass


def _undo(mapping: AddressSpace, start: int, end: int, wait: bool) -> bool:
    """One pass over the slots; whether one was in use.  With @wait every page is locked,
    without it only those that can be locked at once."""
    found = False
    for indices in truncate.batches(mapping, start, end):
        entries = [(index, filemap.find_get_entry(mapping, index)) for index in indices]
        for index, entry in entries:
            found = found or entry is not None
            if isinstance(entry, int):
                _free_swap(mapping, index, entry)
            elif entry is not None and (wait or trylock_page(entry)):
                if wait:
                    lock_page(entry)
                if READ_ONCE(entry, "mapping") is mapping:
                    VM_BUG_ON_PAGE(PageWriteback(entry), entry, "shmem page under writeback")
                    truncate.truncate_inode_page(mapping, entry)
                unlock_page(entry)
        swap.release_pages([entry for _, entry in entries if isinstance(entry, Page)])
    return found


def _free_swap(mapping: AddressSpace, index: int, radswap: int) -> None:
    """Forget a swap entry, if it is still in its slot  (mm/shmem.c: shmem_free_swap)."""
    with spin_lock(mapping.tree_lock):
        item = radix_tree_lookup(mapping.page_tree, index)
        if item != radswap:
            return
        radix_tree_delete(mapping.page_tree, index)
    swapfile.free_swap_and_cache(radix_to_swp_entry(radswap))


def shmem_punch_hole(inode: Inode, offset: int, length: int) -> int:
    """fallocate with FALLOC_FL_PUNCH_HOLE  (mm/shmem.c: shmem_fallocate).

    Differs: a fault in the hole does not wait until it is punched.
    """
    mapping = inode.i_mapping
    with mutex_lock(inode.i_mutex):
        first = (offset + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
        behind = (offset + length) & ~(PAGE_SIZE - 1)
        if behind > first:
            memory.unmap_mapping_range(mapping, first, behind - first, False)
        shmem_truncate_range(inode, offset, offset + length - 1)
    return 0


def _shmem_mmap(file: File, vma: Vma) -> int:
    vma.vm_ops = file.f_inode.fs.vm_ops
    return 0


def filesystem() -> Filesystem:
    return ShmemFilesystem(
        "tmpfs",
        AddressSpaceOperations(
            "tmpfs",
            writepage=shmem_writepage,
            set_page_dirty=page_writeback.__set_page_dirty_no_writeback,
            migratepage=migrate.migrate_page,
            write_begin=shmem_write_begin,
            write_end=shmem_write_end,
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
        file_ops=FileOperations(mmap=_shmem_mmap, fallocate=shmem_punch_hole),
    )
