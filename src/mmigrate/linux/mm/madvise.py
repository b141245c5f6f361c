"""Advice about the use of memory  (mm/madvise.c).

Differs: no kernel samepage merging yet, and no hard memory failure: their advices are unknown
(-EINVAL).
"""

from __future__ import annotations

from errno import EACCES, EAGAIN, EINVAL, ENOMEM, EOPNOTSUPP
from typing import Final

from mmigrate.linux.include.gfp import (
    __GFP_COLD,
    __GFP_NORETRY,
    __GFP_NOWARN,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
)
from mmigrate.linux.include.mm import (
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_SOFT_OFFLINE,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_NOHUGEPAGE,
    VM_NONLINEAR,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import AddressSpace, Inode, Mm, Page, Vma
from mmigrate.linux.include.pgtable import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    is_swap_pte,
    non_swap_entry,
    pte_to_swp_entry,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.pgtable import find_leaf, ptep_get
from mmigrate.linux.kernel.rcu import radix_tree_lookup
from mmigrate.linux.kernel.rwsem import down_read, down_write, up_read, up_write
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import (
    filemap,
    khugepaged,
    ksm,
    memory,
    memory_failure,
    mempolicy,
    mmap,
    shmem,
    swap,
    swap_state,
)

VM_NO_THP: Final = VM_SPECIAL | VM_HUGETLB | VM_SHARED | VM_MAYSHARE

# Flags that an advice clears, and those that it sets.
BEHAVIOURS: Final = {
    MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV_DONTFORK: (0, VM_DONTCOPY),
    MADV_DOFORK: (VM_DONTCOPY, 0),
    MADV_DONTDUMP: (0, VM_DONTDUMP),
    MADV_DODUMP: (VM_DONTDUMP, 0),
    MADV_HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV_NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
    MADV_MERGEABLE: (0, 0),  # as ksm_madvise says
    MADV_UNMERGEABLE: (0, 0),
}
# An area with one of these flags refuses the advice.
REFUSED_BY: Final = {
    MADV_DOFORK: VM_IO,
    MADV_DODUMP: VM_SPECIAL,
    MADV_HUGEPAGE: VM_HUGEPAGE | VM_NO_THP,
    MADV_NOHUGEPAGE: VM_NOHUGEPAGE | VM_NO_THP,
}
# These look at pages and leave the areas alone: mmap_sem for read is enough.
READERS: Final = (MADV_REMOVE, MADV_WILLNEED, MADV_DONTNEED)


def madvise_behavior(
    vma: Vma, prev: Vma | None, start: int, end: int, behavior: int
) -> tuple[int, Vma]:
    """An advice that is a flag of the area.  (0 or -errno, the area to go on from)
    (mm/madvise.c: madvise_behavior)."""
    mm = vma.vm_mm
    if vma.vm_flags & REFUSED_BY.get(behavior, 0):
        return -EINVAL, vma
    cleared, added = BEHAVIOURS[behavior]
    new_flags = vma.vm_flags & ~cleared | added
    if behavior in (MADV_MERGEABLE, MADV_UNMERGEABLE):
        failed, new_flags = ksm.ksm_madvise(vma, start, end, behavior, vma.vm_flags)
        if failed:
            return -EAGAIN if failed == -ENOMEM else failed, vma
    if behavior == MADV_HUGEPAGE:
        khugepaged.khugepaged_enter_vma_merge(vma, new_flags)
    if new_flags == vma.vm_flags:
        return 0, vma
    pgoff = vma.vm_pgoff + ((start - vma.vm_start) >> PAGE_SHIFT)
    merged = mmap.vma_merge(
        mm, prev, start, end, new_flags, vma.anon_vma, vma.vm_file, pgoff, vma.vm_policy
    )
    if merged is not None:
        vma = merged
    else:
        error = 0
        if start != vma.vm_start:
            error = mmap.split_vma(mm, vma, start, True)
        if not error and end != vma.vm_end:
            error = mmap.split_vma(mm, vma, end, False)
        if error:
            return -EAGAIN if error == -ENOMEM else error, vma
    WRITE_ONCE(vma, "vm_flags", new_flags)
    return 0, vma


def madvise_willneed(vma: Vma, start: int, end: int) -> int:
    """Start reading what will be needed, from swap or from the file
    (mm/madvise.c: madvise_willneed)."""
    if vma.vm_file is None:
        _force_swapin_readahead(vma, start, end)
        return 0
    mapping = vma.vm_file.f_mapping
    first = ((start - vma.vm_start) >> PAGE_SHIFT) + vma.vm_pgoff
    count = (end - start) >> PAGE_SHIFT
    if _mapping_cap_swap_backed(mapping):
        _force_shm_swapin_readahead(mapping, first, first + count)
    else:
        _force_page_cache_readahead(mapping, first, count)
    return 0


def _mapping_cap_swap_backed(mapping: AddressSpace) -> bool:
    host = mapping.host
    return host is not None and isinstance(host.fs, shmem.ShmemFilesystem)


def _force_swapin_readahead(vma: Vma, start: int, end: int) -> None:
    """mm/madvise.c: force_swapin_readahead."""
    for addr in range(start, end, PAGE_SIZE):
        pt = find_leaf(vma.vm_mm, addr)
        if pt is None:
            continue
        ptl = pt.ptl
        with spin_lock(ptl):
            pte = ptep_get(pt, addr)
        if not is_swap_pte(pte):
            continue
        entry = pte_to_swp_entry(pte)
        if non_swap_entry(entry):
            continue
        _drop(swap_state.read_swap_cache_async(entry, GFP_HIGHUSER_MOVABLE, vma, addr))
    swap.lru_add_drain()


def _force_shm_swapin_readahead(mapping: AddressSpace, first: int, last: int) -> None:
    """mm/madvise.c: force_shm_swapin_readahead."""
    for index in range(first, last):
        found = filemap.find_get_entry(mapping, index)
        if isinstance(found, int):
            entry = shmem.radix_to_swp_entry(found)
            found = swap_state.read_swap_cache_async(entry, GFP_HIGHUSER_MOVABLE, None, 0)
        _drop(found)
    swap.lru_add_drain()


def _drop(page: Page | None) -> None:
    if page is not None:
        swap.put_page(page)


def _force_page_cache_readahead(mapping: AddressSpace, first: int, count: int) -> None:
    """mm/readahead.c: force_page_cache_readahead."""
    host = mapping.host
    readpage = mapping.a_ops.readpage
    if host is None or readpage is None:
        return
    end = (int(READ_ONCE(host, "i_size")) + PAGE_SIZE - 1) >> PAGE_SHIFT
    gfp = mapping.gfp_mask | __GFP_COLD | __GFP_NORETRY | __GFP_NOWARN
    for index in range(first, min(first + count, end)):
        if isinstance(radix_tree_lookup(mapping.page_tree, index), Page):
            continue
        page = mempolicy.alloc_pages_current(gfp, 0)
        if page is None:
            return
        if filemap.add_to_page_cache_lru(page, mapping, index, GFP_KERNEL) == 0:
            readpage(page)
        swap.put_page(page)


def madvise_dontneed(vma: Vma, start: int, end: int) -> int:
    """Drop the pages of a range now; private ones lose their contents
    (mm/madvise.c: madvise_dontneed)."""
    if vma.vm_flags & (VM_LOCKED | VM_HUGETLB | VM_PFNMAP):
        return -EINVAL
    details = None
    if vma.vm_flags & VM_NONLINEAR:
        details = memory.ZapDetails(nonlinear_vma=vma, first_index=0, last_index=1 << 64)
    memory.zap_page_range(vma, start, end - start, details)
    return 0


def madvise_remove(vma: Vma, start: int, end: int) -> int:
    """Punch a hole into the file behind a shared mapping.  mmap_sem is let go meanwhile,
    because it ranks below the inode's mutex  (mm/madvise.c: madvise_remove)."""
    if vma.vm_flags & (VM_LOCKED | VM_HUGETLB) or vma.vm_file is None:
        return -EINVAL
    if vma.vm_flags & (VM_SHARED | VM_WRITE) != VM_SHARED | VM_WRITE:
        return -EACCES
    inode = vma.vm_file.f_inode
    offset = start - vma.vm_start + (vma.vm_pgoff << PAGE_SHIFT)
    sem = vma.vm_mm.mmap_sem
    up_read(sem)
    error = _punch_hole(inode, offset, end - start)
    down_read(sem)
    return error


def _punch_hole(inode: Inode, offset: int, length: int) -> int:
    """fallocate with FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE."""
    fallocate = inode.fs.file_ops.fallocate
    return -EOPNOTSUPP if fallocate is None else int(fallocate(inode, offset, length))


def _madvise_vma(
    vma: Vma, prev: Vma | None, start: int, end: int, behavior: int
) -> tuple[int, Vma | None]:
    """mm/madvise.c: madvise_vma.  No area to go on from if mmap_sem was let go."""
    if behavior == MADV_REMOVE:
        return madvise_remove(vma, start, end), None
    if behavior == MADV_WILLNEED:
        return madvise_willneed(vma, start, end), vma
    if behavior == MADV_DONTNEED:
        return madvise_dontneed(vma, start, end), vma
    return madvise_behavior(vma, prev, start, end, behavior)


def sys_madvise(task: Task, start: int, length: int, behavior: int) -> int:
    """The system call madvise.  Holes in the range are passed over and make it -ENOMEM in
    the end  (mm/madvise.c: sys_madvise)."""
    if behavior == MADV_SOFT_OFFLINE:
        return memory_failure.madvise_hwpoison(task, start, start + length)
    if behavior not in BEHAVIOURS and behavior not in READERS:
        return -EINVAL
    if start & ~PAGE_MASK:
        return -EINVAL
    end = start + mmap.page_align(length)
    if end > 1 << 64:
        return -EINVAL
    if end == start:
        return 0
    mm = task.mm
    assert mm is not None
    if behavior in READERS:
        down_read(mm.mmap_sem)
        error = _madvise_range(mm, start, end, behavior)
        up_read(mm.mmap_sem)
    else:
        down_write(mm.mmap_sem)
        error = _madvise_range(mm, start, end, behavior)
        up_write(mm.mmap_sem)
    return error


def _madvise_range(mm: Mm, start: int, end: int, behavior: int) -> int:
    unmapped_error = 0
    vma, prev = mmap.find_vma_prev(mm, start)
    if vma is not None and start > vma.vm_start:
        prev = vma
    while True:
        if vma is None:
            return -ENOMEM
        if start < vma.vm_start:
            unmapped_error = -ENOMEM
            start = vma.vm_start
            if start >= end:
                return -ENOMEM
        stop = min(vma.vm_end, end)
        error, prev = _madvise_vma(vma, prev, start, stop, behavior)
        if error:
            return error
        start = stop
        if prev is not None and start < prev.vm_end:
            start = prev.vm_end
        if start >= end:
            return unmapped_error
        vma = mmap.find_vma(mm, start) if prev is None else mmap.vma_next(prev)
