"""The page cache  (mm/filemap.c).

Lookups take no lock: a page whose count is 0 is frozen or dying, and one that left its slot
meanwhile was the wrong one; both mean: look again.
"""

from __future__ import annotations

from errno import EEXIST, EIO, ENOMEM
from typing import Any

from mmigrate.linux.fs import buffer
from mmigrate.linux.include.gfp import __GFP_COLD, GFP_KERNEL
from mmigrate.linux.include.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_RETRY_NOWAIT,
    VM_FAULT_LOCKED,
    VM_FAULT_MAJOR,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VmFault,
)
from mmigrate.linux.include.mm_types import AddressSpace, Inode, Mm, Page, Vma, VmOperations
from mmigrate.linux.include.page_flags import PG_hugetlb
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmigrate.linux.include.vmstat import NR_FILE_PAGES, NR_SHMEM, PGMAJFAULT
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.highmem import copy_from_page, copy_to_page
from mmigrate.linux.kernel.page_flags import (
    ClearPageError,
    PageDirty,
    PageHWPoison,
    PageLocked,
    PageSwapBacked,
    PageUptodate,
    PageWriteback,
    SetPageReferenced,
    lock_page,
    trylock_page,
    unlock_page,
    wait_on_page_locked,
)
from mmigrate.linux.kernel.page_ref import (
    get_page,
    get_page_unless_zero,
    page_mapped,
    wait_until_unfrozen,
)
from mmigrate.linux.kernel.pgtable import ptep_get
from mmigrate.linux.kernel.rcu import radix_tree_delete, radix_tree_lookup, radix_tree_store
from mmigrate.linux.kernel.rwsem import mutex_lock, up_read
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import memcontrol, memory, mempolicy, page_writeback, swap

# --- lookup ---


def find_get_entry(mapping: AddressSpace, offset: int) -> Page | int | None:
    """What is in a slot: a page with a reference, an exceptional entry, or None
    (mm/filemap.c: find_get_entry)."""
    tree = mapping.page_tree
    while True:
        page = radix_tree_lookup(tree, offset)
        if page is None or isinstance(page, int):
            return page
        if not get_page_unless_zero(page):
            _wait_until_unfrozen(mapping, offset, page)
            continue
        if radix_tree_lookup(tree, offset) is not page:
            swap.put_page(page)
            continue
        found: Page = page
        return found


def _wait_until_unfrozen(mapping: AddressSpace, offset: int, page: Page) -> None:
    slots = mapping.page_tree.slots
    wait_until_unfrozen(page, lambda: slots.get(offset) is not page)


def find_get_page(mapping: AddressSpace, offset: int) -> Page | None:
    """The page of a slot, with a reference  (include/linux/pagemap.h: find_get_page)."""
    entry = find_get_entry(mapping, offset)
    return entry if isinstance(entry, Page) else None


def find_lock_entry(mapping: AddressSpace, offset: int) -> Page | int | None:
    """The same, and a page is locked and still in its slot  (mm/filemap.c: find_lock_entry)."""
    while True:
        page = find_get_entry(mapping, offset)
        if not isinstance(page, Page):
            return page
        lock_page(page)
        if READ_ONCE(page, "mapping") is mapping:
            return page
        unlock_page(page)
        swap.put_page(page)


def find_lock_page(mapping: AddressSpace, offset: int) -> Page | None:
    entry = find_lock_entry(mapping, offset)
    return entry if isinstance(entry, Page) else None


def find_get_pages(mapping: AddressSpace, indices: list[int]) -> list[Page]:
    """Those of the slots' pages that are there, each with a reference
    (mm/filemap.c: find_get_pages; mm/swap.c: pagevec_lookup).  Callers ask for no more than
    a vector of them at a time: a page that somebody holds does not migrate."""
    return [page for index in indices if (page := find_get_page(mapping, index)) is not None]


def find_or_create_page(mapping: AddressSpace, offset: int, gfp: int) -> Page | None:
    """The locked page of a slot, marked as used, a new one if it was empty; None without
    memory  (mm/filemap.c: pagecache_get_page)."""
    while True:
        page = find_lock_page(mapping, offset)
        if page is not None:
            swap.mark_page_accessed(page)
            return page
        page = mempolicy.alloc_pages_current(gfp, 0)
        if page is None:
            return None
        SetPageReferenced(page)
        error = add_to_page_cache_lru(page, mapping, offset, gfp)
        if error == 0:
            return page
        swap.put_page(page)
        if error != -EEXIST:
            return None


def grab_cache_page_write_begin(mapping: AddressSpace, index: int) -> Page | None:
    """The locked page that write(2) is about to change
    (mm/filemap.c: grab_cache_page_write_begin)."""
    page = find_or_create_page(mapping, index, mapping.gfp_mask)
    if page is not None:
        page_writeback.wait_for_stable_page(page)
    return page


# --- insertion, removal, replacement ---


def add_to_page_cache_locked(page: Page, mapping: AddressSpace, offset: int, gfp: int) -> int:
    """Insert a locked page; 0, -EEXIST or -ENOMEM
    (mm/filemap.c: add_to_page_cache_locked)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "added to the page cache unlocked")
    VM_BUG_ON_PAGE(PageSwapBacked(page), page, "added to a file, but swap-backed")
    # hugetlb pages are nobody's
    memcg: memcontrol.MemCgroup | int | None = None
    if not page.flags & PG_hugetlb:
        memcg = memcontrol.mem_cgroup_try_charge(page, sched.task.mm, gfp)
    if isinstance(memcg, int):
        return memcg
    get_page(page)
    WRITE_ONCE(page, "mapping", mapping)
    page.index = offset
    with spin_lock(mapping.tree_lock):
        old = radix_tree_lookup(mapping.page_tree, offset)
        if old is None:
            radix_tree_store(mapping.page_tree, offset, page)
            mapping.nrpages += 1
            page.zone.vm_stat[NR_FILE_PAGES] += 1
        else:
            WRITE_ONCE(page, "mapping", None)  # and the index stays
    if old is None:
        memcontrol.mem_cgroup_commit_charge(page, memcg, False)
        return 0
    memcontrol.mem_cgroup_cancel_charge(page, memcg)
    swap.put_page(page)
    return -EEXIST


def add_to_page_cache_lru(page: Page, mapping: AddressSpace, offset: int, gfp: int) -> int:
    """Insert a new page, locked, and put it on the LRU
    (mm/filemap.c: add_to_page_cache_lru)."""
    lock_page(page)
    error = add_to_page_cache_locked(page, mapping, offset, gfp)
    if error:
        unlock_page(page)
    else:
        swap.lru_cache_add(page)
    return error


def __delete_from_page_cache(page: Page, shadow: Any) -> None:
    """Take a page out of its tree, under tree_lock; the cache's reference is the caller's
    (mm/filemap.c: __delete_from_page_cache).  Differs: no shadow entries are left."""
    assert shadow is None
    mapping: AddressSpace = page.mapping
    radix_tree_delete(mapping.page_tree, page.index)
    WRITE_ONCE(page, "mapping", None)
    mapping.nrpages -= 1
    page.zone.vm_stat[NR_FILE_PAGES] -= 1
    if PageSwapBacked(page):
        page.zone.vm_stat[NR_SHMEM] -= 1
    BUG_ON(page_mapped(page), "removed from the page cache while mapped", page)
    if PageDirty(page) and mapping.backing_dev_info.accounts_dirty:
        page_writeback.account_page_cleaned(page, mapping)


def delete_from_page_cache(page: Page) -> None:
    """Take a locked page out of the cache  (mm/filemap.c: delete_from_page_cache)."""
    BUG_ON(not PageLocked(page), "removed from the page cache unlocked", page)
    mapping: AddressSpace = page.mapping
    with spin_lock(mapping.tree_lock):
        __delete_from_page_cache(page, None)
    memcontrol.page_left_cache(page)
    swap.put_page(page)


def replace_page_cache_page(old: Page, new: Page) -> int:
    """Let @new, filled and locked, take the place of @old, which no pte maps; 0
    (mm/filemap.c: replace_page_cache_page)."""
    VM_BUG_ON_PAGE(not PageLocked(old) or not PageLocked(new), old, "replaced unlocked")
    VM_BUG_ON_PAGE(new.mapping is not None, new, "has a mapping already")
    mapping: AddressSpace = old.mapping
    offset = old.index
    get_page(new)
    WRITE_ONCE(new, "mapping", mapping)
    new.index = offset
    with spin_lock(mapping.tree_lock):
        __delete_from_page_cache(old, None)
        radix_tree_store(mapping.page_tree, offset, new)
        mapping.nrpages += 1
        new.zone.vm_stat[NR_FILE_PAGES] += 1
        if PageSwapBacked(new):
            new.zone.vm_stat[NR_SHMEM] += 1
    memcontrol.mem_cgroup_migrate(old, new, True)
    swap.put_page(old)
    return 0


def try_to_release_page(page: Page, gfp: int) -> int:
    """Ask the filesystem to give up its private data of a locked page
    (mm/filemap.c: try_to_release_page)."""
    BUG_ON(not PageLocked(page), "try_to_release_page of an unlocked page", page)
    if PageWriteback(page):
        return 0
    mapping = READ_ONCE(page, "mapping")
    if isinstance(mapping, AddressSpace) and mapping.a_ops.releasepage is not None:
        return mapping.a_ops.releasepage(page, gfp)
    return buffer.try_to_free_buffers(page)


# --- faults ---


def lock_page_or_retry(page: Page, mm: Mm, flags: int) -> bool:
    """Lock a page for a fault. If that must wait and the fault may be retried, mmap_sem is
    given up, the wait is done, and False returned  (mm/filemap.c: __lock_page_or_retry)."""
    if trylock_page(page):
        return True
    if flags & FAULT_FLAG_ALLOW_RETRY:
        if flags & FAULT_FLAG_RETRY_NOWAIT:
            return False
        up_read(mm.mmap_sem)
        wait_on_page_locked(page)
        return False
    lock_page(page)
    return True


def filemap_fault(vma: Vma, vmf: VmFault) -> int:
    """Bring in the page of a file mapping, locked: VM_FAULT_LOCKED, or an error
    (mm/filemap.c: filemap_fault)."""
    assert vma.vm_file is not None
    inode = vma.vm_file.f_inode
    mapping = inode.i_mapping
    result = 0
    if vmf.pgoff >= _pages_in(inode):
        return VM_FAULT_SIGBUS
    page = find_get_page(mapping, vmf.pgoff)
    if page is None:
        sched.task.kernel.vm_events[PGMAJFAULT] += 1
        result = VM_FAULT_MAJOR
    while True:
        if page is None:
            page = find_get_page(mapping, vmf.pgoff)
        if page is None:
            error = _page_cache_read(mapping, vmf.pgoff)
            if error < 0:
                return VM_FAULT_OOM if error == -ENOMEM else VM_FAULT_SIGBUS
            continue
        if not lock_page_or_retry(page, vma.vm_mm, vmf.flags):
            swap.put_page(page)
            return result | VM_FAULT_RETRY
        if READ_ONCE(page, "mapping") is not mapping:  # truncated
            unlock_page(page)
            swap.put_page(page)
            page = None
            continue
        VM_BUG_ON_PAGE(page.index != vmf.pgoff, page, "found in the wrong slot")
        if not PageUptodate(page):
            error = _read_again(page, mapping)
            swap.put_page(page)
            if error:
                return VM_FAULT_SIGBUS
            page = None
            continue
        if vmf.pgoff >= _pages_in(inode):
            unlock_page(page)
            swap.put_page(page)
            return VM_FAULT_SIGBUS
        vmf.page = page
        return result | VM_FAULT_LOCKED


def _read_again(page: Page, mapping: AddressSpace) -> int:
    """Read a locked page whose first read failed; it is unlocked; 0 or -EIO."""
    ClearPageError(page)
    assert mapping.a_ops.readpage is not None
    error = mapping.a_ops.readpage(page)
    if error == 0:
        wait_on_page_locked(page)
        if not PageUptodate(page):
            error = -EIO
    return error


def _pages_in(inode: Inode) -> int:
    return (int(READ_ONCE(inode, "i_size")) + PAGE_SIZE - 1) >> PAGE_SHIFT


def _page_cache_read(mapping: AddressSpace, offset: int) -> int:
    """Start reading a page that is not cached; 0 also if somebody else was faster
    (mm/filemap.c: page_cache_read)."""
    page = mempolicy.alloc_pages_current(mapping.gfp_mask | __GFP_COLD, 0)
    if page is None:
        return -ENOMEM
    error = add_to_page_cache_lru(page, mapping, offset, GFP_KERNEL)
    if error == 0:
        assert mapping.a_ops.readpage is not None
        error = mapping.a_ops.readpage(page)
    elif error == -EEXIST:
        error = 0
    swap.put_page(page)
    return error


def filemap_map_pages(vma: Vma, vmf: VmFault) -> None:
    """Map what is cached around a read fault; the pte lock is held
    (mm/filemap.c: filemap_map_pages)."""
    assert vma.vm_file is not None
    assert vmf.pt is not None
    inode = vma.vm_file.f_inode
    mapping = inode.i_mapping
    for index in range(vmf.pgoff, vmf.max_pgoff + 1):
        address = vmf.virtual_address + ((index - vmf.pgoff) << PAGE_SHIFT)
        page = find_get_page(mapping, index)
        if page is None:
            continue
        if PageUptodate(page) and not PageHWPoison(page) and trylock_page(page):
            if (
                READ_ONCE(page, "mapping") is mapping
                and PageUptodate(page)
                and index < _pages_in(inode)
                and ptep_get(vmf.pt, address) == 0
            ):
                memory.do_set_pte(vma, address, page, vmf.pt, False, False)
                unlock_page(page)
                continue  # the pte has the reference
            unlock_page(page)
        swap.put_page(page)


def filemap_page_mkwrite(vma: Vma, vmf: VmFault) -> int:
    """A page of a shared mapping is about to be written: dirty it, locked
    (mm/filemap.c: filemap_page_mkwrite)."""
    assert vma.vm_file is not None
    assert vmf.page is not None
    page = vmf.page
    lock_page(page)
    if READ_ONCE(page, "mapping") is not vma.vm_file.f_mapping:
        unlock_page(page)
        return VM_FAULT_NOPAGE
    page_writeback.set_page_dirty(page)
    page_writeback.wait_for_stable_page(page)
    return VM_FAULT_LOCKED


generic_file_vm_ops = VmOperations(
    "file",
    fault=filemap_fault,
    map_pages=filemap_map_pages,
    page_mkwrite=filemap_page_mkwrite,
)


# --- read(2) and write(2) ---


def read_mapping_page(mapping: AddressSpace, index: int) -> Page | int:
    """The page of a slot with its contents and a reference, or -ENOMEM, -EIO
    (mm/filemap.c: do_generic_file_read)."""
    while True:
        page = find_get_page(mapping, index)
        if page is None:
            error = _page_cache_read(mapping, index)
            if error:
                return error
            continue
        if PageUptodate(page):
            return page
        lock_page(page)
        if READ_ONCE(page, "mapping") is not mapping:
            unlock_page(page)
            swap.put_page(page)
            continue
        if PageUptodate(page):
            unlock_page(page)
            return page
        error = _read_again(page, mapping)
        if error == 0:
            return page
        swap.put_page(page)
        return error


def generic_file_read(inode: Inode, offset: int, length: int) -> bytes | int:
    """The system call pread: up to @length bytes from @offset, or -ENOMEM, -EIO
    (mm/filemap.c: generic_file_read_iter, mm/shmem.c: shmem_file_read_iter)."""
    end = offset + length
    found = bytearray()
    while offset < min(end, int(READ_ONCE(inode, "i_size"))):
        start = offset & (PAGE_SIZE - 1)
        page = inode.fs.get_page(inode, offset >> PAGE_SHIFT)
        if isinstance(page, int):
            return bytes(found) or page
        # The size once more: it was not ours to read if the file was cut meanwhile.
        size = min(PAGE_SIZE - start, end - offset, int(READ_ONCE(inode, "i_size")) - offset)
        if page is None:
            found += bytes(max(size, 0))
        else:
            swap.mark_page_accessed(page)
            if size > 0:
                found += copy_from_page(page, start, size)
            swap.put_page(page)
        offset += max(size, 0)
    return bytes(found)


def generic_file_write(inode: Inode, offset: int, data: bytes) -> int:
    """The system call pwrite: how many bytes, or -ENOMEM, -EIO
    (mm/filemap.c: generic_perform_write)."""
    written = 0
    mapping = inode.i_mapping
    assert mapping.a_ops.write_begin is not None
    assert mapping.a_ops.write_end is not None
    with mutex_lock(inode.i_mutex):
        while written < len(data):
            position = offset + written
            start = position & (PAGE_SIZE - 1)
            part = data[written : written + PAGE_SIZE - start]
            page = mapping.a_ops.write_begin(mapping, position, len(part))
            if isinstance(page, int):
                return written or page
            copy_to_page(page, start, part)
            mapping.a_ops.write_end(mapping, position, len(part), page)
            written += len(part)
    return written


def i_size_write(inode: Inode, end: int) -> None:
    """A write went up to @end; the page is still locked, or writeback would take it for one
    behind the end of the file  (fs/buffer.c: generic_write_end)."""
    if end > inode.i_size:
        WRITE_ONCE(inode, "i_size", end)
