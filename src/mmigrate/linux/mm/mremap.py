"""Growing and moving mappings  (mm/mremap.c).

Ptes move without the locks of the reverse map where the walks come to the new place after
the old one; where they do not, those locks are taken.
"""

from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM
from typing import Final

from mmigrate.linux.include.mm import (
    MADV_UNMERGEABLE,
    MAP_FIXED,
    MAP_SHARED,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    VM_ACCOUNT,
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
)
from mmigrate.linux.include.mm_types import PageTable, Vma
from mmigrate.linux.include.pgtable import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    TASK_SIZE,
    is_swap_pte,
    pmd_trans_huge,
    pte_file,
    pte_file_mksoft_dirty,
    pte_mksoft_dirty,
    pte_present,
    pte_swp_mksoft_dirty,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.include.switches import FLUSH_BEFORE_UNLOCK
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.pgtable import (
    find_pmds,
    pmd_get,
    ptep_get,
    ptep_get_and_clear,
    set_pte_at,
)
from mmigrate.linux.kernel.rwsem import down_write, up_write
from mmigrate.linux.kernel.sched import cond_resched
from mmigrate.linux.kernel.spinlock import spin_lock, spin_lock_nested, spin_unlock
from mmigrate.linux.kernel.tlb import flush_tlb_range
from mmigrate.linux.mm import gup, huge_memory, huge_split, ksm, memory, mmap, mmu_notifier, rmap

LATENCY_LIMIT: Final = 64 * PAGE_SIZE  # how much is moved with locks held


def move_soft_dirty_pte(pte: int) -> int:
    """A moved page counts as written, whatever stands for it
    (mm/mremap.c: move_soft_dirty_pte)."""
    if pte_present(pte):
        return pte_mksoft_dirty(pte)
    if is_swap_pte(pte):
        return pte_swp_mksoft_dirty(pte)
    return pte_file_mksoft_dirty(pte) if pte_file(pte) else pte


def move_ptes(
    vma: Vma,
    old_pt: PageTable,
    old_addr: int,
    old_end: int,
    new_vma: Vma,
    new_pt: PageTable,
    new_addr: int,
    need_rmap_locks: bool,
) -> None:
    """Move what stands in one table to another: ptes, swap and migration entries alike
    (mm/mremap.c: move_ptes)."""
    mm = vma.vm_mm
    mapping = anon_vma = None
    if need_rmap_locks:
        if vma.vm_file is not None:
            mapping = vma.vm_file.f_mapping
            down_write(mapping.i_mmap_rwsem)
        if vma.anon_vma is not None:
            anon_vma = vma.anon_vma
            rmap.anon_vma_lock_write(anon_vma)

    # mmap_sem held for write keeps others from locking two tables the other way round.
    old_ptl = old_pt.ptl
    new_ptl = new_pt.ptl
    spin_lock(old_ptl)
    if new_ptl is not old_ptl:
        spin_lock_nested(new_ptl)
    delta = new_addr - old_addr
    force_flush = False
    for addr in range(old_addr, old_end, PAGE_SIZE):
        if not ptep_get(old_pt, addr):
            continue
        pte = ptep_get_and_clear(mm, addr, old_pt)
        force_flush |= pte_present(pte)
        set_pte_at(mm, addr + delta, new_pt, move_soft_dirty_pte(pte))
    # Known defect of v3.19: who finds a page at its new place flushes that place only, and may
    # have copied or freed it before the flush of the old place in move_page_tables.
    if force_flush and mm.kernel.has(FLUSH_BEFORE_UNLOCK):
        flush_tlb_range(vma, old_addr, old_end)
    if new_ptl is not old_ptl:
        spin_unlock(new_ptl)
    spin_unlock(old_ptl)

    if anon_vma is not None:
        rmap.anon_vma_unlock_write(anon_vma)
    if mapping is not None:
        up_write(mapping.i_mmap_rwsem)


def move_page_tables(
    vma: Vma, old_addr: int, new_vma: Vma, new_addr: int, length: int, need_rmap_locks: bool
) -> int:
    """Move the ptes of a range; how much of it was moved: all, as page tables take no
    memory here  (mm/mremap.c: move_page_tables)."""
    mm = vma.vm_mm
    start, end = old_addr, old_addr + length
    need_flush = False
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, start, end)
    while old_addr < end:
        cond_resched()
        extent = min(((old_addr + PMD_SIZE) & PMD_MASK) - old_addr, end - old_addr)
        old_pmds = find_pmds(mm, old_addr)
        old_pt = None if old_pmds is None else pmd_get(old_pmds, old_addr)
        if old_pmds is not None and pmd_trans_huge(old_pt):
            if _move_huge(vma, new_vma, old_pmds, old_addr, new_addr, end, extent, need_rmap_locks):
                need_flush = True
                old_addr += extent
                new_addr += extent
                continue
            old_pt = pmd_get(old_pmds, old_addr)
        if type(old_pt) is PageTable:
            new_pt = memory.pte_alloc_map(mm, new_vma, new_addr)
            extent = min(extent, ((new_addr + PMD_SIZE) & PMD_MASK) - new_addr, LATENCY_LIMIT)
            move_ptes(
                vma,
                old_pt,
                old_addr,
                old_addr + extent,
                new_vma,
                new_pt,
                new_addr,
                need_rmap_locks,
            )
            need_flush = True
        old_addr += extent
        new_addr += extent
    if need_flush:
        flush_tlb_range(vma, start, old_addr)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, start, end)
    return length + old_addr - end


def _move_huge(
    vma: Vma,
    new_vma: Vma,
    old_pmds: PageTable,
    old_addr: int,
    new_addr: int,
    old_end: int,
    extent: int,
    need_rmap_locks: bool,
) -> bool:
    """The huge part of move_page_tables: the whole pmd is moved; False: its ptes must be, it has
    been split."""
    moved = 0
    if extent == PMD_SIZE:
        BUG_ON(vma.vm_file is not None or vma.anon_vma is None, "huge, not anonymous", vma)
        assert vma.anon_vma is not None
        new_pmds = memory.pmd_alloc(vma.vm_mm, new_addr)
        if need_rmap_locks:
            rmap.anon_vma_lock_write(vma.anon_vma)
        moved = huge_memory.move_huge_pmd(
            vma, new_vma, old_addr, new_addr, old_end, old_pmds, new_pmds
        )
        if need_rmap_locks:
            rmap.anon_vma_unlock_write(vma.anon_vma)
    if moved == 0:
        huge_split.split_huge_page_pmd(vma, old_addr, old_pmds)
    if moved <= 0:
        BUG_ON(pmd_trans_huge(pmd_get(old_pmds, old_addr)), "huge after the split", vma)
    return moved > 0


def move_vma(
    task: Task, vma: Vma, old_addr: int, old_len: int, new_len: int, new_addr: int
) -> tuple[int, bool]:
    """Move part of an area to @new_addr.  (that address or -errno, whether it is locked)
    (mm/mremap.c: move_vma)."""
    mm = vma.vm_mm
    vm_flags = vma.vm_flags
    # A hole in the old place and two merges that do not happen cost up to three areas.
    if mm.map_count >= mmap.sysctl_max_map_count - 3:
        return -ENOMEM, False
    # The stable node knows its pages by their old addresses, and a walk shall not miss one.
    error, vm_flags = ksm.ksm_madvise(vma, old_addr, old_addr + old_len, MADV_UNMERGEABLE, vm_flags)
    if error:
        return error, False
    new_pgoff = vma.vm_pgoff + ((old_addr - vma.vm_start) >> PAGE_SHIFT)
    new_vma, vma, need_rmap_locks = mmap.copy_vma(vma, new_addr, new_len, new_pgoff)
    if new_vma is None:
        return -ENOMEM, False
    ret = new_addr
    moved_len = move_page_tables(vma, old_addr, new_vma, new_addr, old_len, need_rmap_locks)
    if moved_len < old_len:
        # Back again, towards what the walks have passed already.
        move_page_tables(new_vma, new_addr, vma, old_addr, moved_len, True)
        vma, old_len, old_addr, ret = new_vma, new_len, new_addr, -ENOMEM

    # What is unmapped now has been accounted for the new place.
    keeps_account = split = False
    if vm_flags & VM_ACCOUNT:
        vma.vm_flags &= ~VM_ACCOUNT
        keeps_account = vma.vm_end - vma.vm_start > old_len
        split = old_addr > vma.vm_start and old_addr + old_len < vma.vm_end
    mm.total_vm += new_len >> PAGE_SHIFT
    if mmap.do_munmap(mm, old_addr, old_len) < 0:
        keeps_account = False
    if keeps_account:
        vma.vm_flags |= VM_ACCOUNT
        if split:
            upper = mmap.vma_next(vma)
            assert upper is not None
            upper.vm_flags |= VM_ACCOUNT
    if vm_flags & VM_LOCKED:
        mm.locked_vm += new_len >> PAGE_SHIFT
    return ret, bool(vm_flags & VM_LOCKED)


def vma_to_resize(task: Task, addr: int, old_len: int, new_len: int) -> tuple[int, Vma | None]:
    """(0, the area that can be resized), or (-errno, None)  (mm/mremap.c: vma_to_resize)."""
    mm = task.mm
    assert mm is not None
    vma = mmap.find_vma(mm, addr)
    if vma is None or vma.vm_start > addr:
        return -EFAULT, None
    if vma.vm_flags & VM_HUGETLB:
        return -EINVAL, None
    if old_len > vma.vm_end - addr:
        return -EFAULT, None
    grow = (new_len - old_len) >> PAGE_SHIFT
    if new_len > old_len:
        if vma.vm_flags & (VM_DONTEXPAND | VM_PFNMAP):
            return -EFAULT, None
        pgoff = ((addr - vma.vm_start) >> PAGE_SHIFT) + vma.vm_pgoff
        if pgoff + (new_len >> PAGE_SHIFT) >= 1 << 64:
            return -EINVAL, None
    if vma.vm_flags & VM_LOCKED and not mmap.may_lock_more(task, mm.locked_vm + grow):
        return -EAGAIN, None
    if not mmap.may_expand_vm(mm, grow):
        return -ENOMEM, None
    return 0, vma


def mremap_to(task: Task, addr: int, old_len: int, new_addr: int, new_len: int) -> tuple[int, bool]:
    """MREMAP_FIXED: move to @new_addr, over whatever is there
    (mm/mremap.c: mremap_to)."""
    mm = task.mm
    assert mm is not None
    if new_addr & ~PAGE_MASK or new_len > TASK_SIZE or new_addr > TASK_SIZE - new_len:
        return -EINVAL, False
    if new_addr <= addr < new_addr + new_len or addr <= new_addr < addr + old_len:
        return -EINVAL, False
    ret = mmap.do_munmap(mm, new_addr, new_len)
    if ret:
        return ret, False
    if old_len >= new_len:
        ret = mmap.do_munmap(mm, addr + new_len, old_len - new_len)
        if ret and old_len != new_len:
            return ret, False
        old_len = new_len
    ret, vma = vma_to_resize(task, addr, old_len, new_len)
    if vma is None:
        return ret, False
    ret = _place_for(vma, addr, new_addr, new_len, MAP_FIXED)
    if mmap.is_error(ret):
        return ret, False
    return move_vma(task, vma, addr, old_len, new_len, new_addr)


def _place_for(vma: Vma, addr: int, new_addr: int, new_len: int, map_flags: int) -> int:
    if vma.vm_flags & VM_MAYSHARE:
        map_flags |= MAP_SHARED
    pgoff = vma.vm_pgoff + ((addr - vma.vm_start) >> PAGE_SHIFT)
    return mmap.get_unmapped_area(vma.vm_file, new_addr, new_len, pgoff, map_flags)


def vma_expandable(vma: Vma, delta: int) -> bool:
    """Whether nothing is in the way  (mm/mremap.c: vma_expandable)."""
    end = vma.vm_end + delta
    following = mmap.vma_next(vma)
    if following is not None and following.vm_start < end:
        return False
    length = end - vma.vm_start
    return not mmap.is_error(mmap.get_unmapped_area(None, vma.vm_start, length, 0, MAP_FIXED))


def sys_mremap(task: Task, addr: int, old_len: int, new_len: int, flags: int, new_addr: int) -> int:
    """The system call mremap: where the mapping is now, or -errno
    (mm/mremap.c: sys_mremap)."""
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE):
        return -EINVAL
    if flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE:
        return -EINVAL
    if addr & ~PAGE_MASK:
        return -EINVAL
    old_len, new_len = mmap.page_align(old_len), mmap.page_align(new_len)
    if not new_len:
        return -EINVAL
    mm = task.mm
    assert mm is not None
    with down_write(mm.mmap_sem):
        if flags & MREMAP_FIXED:
            ret, locked = mremap_to(task, addr, old_len, new_addr, new_len)
        elif old_len >= new_len:
            ret, locked = _shrink(task, addr, old_len, new_len), False
        else:
            ret, locked = _grow(task, addr, old_len, new_len, flags)
    if locked and new_len > old_len and not mmap.is_error(ret):
        gup.__mm_populate(ret + old_len, new_len - old_len, True)
    return ret


def _shrink(task: Task, addr: int, old_len: int, new_len: int) -> int:
    mm = task.mm
    assert mm is not None
    ret = mmap.do_munmap(mm, addr + new_len, old_len - new_len)
    return ret if ret and old_len != new_len else addr


def _grow(task: Task, addr: int, old_len: int, new_len: int, flags: int) -> tuple[int, bool]:
    mm = task.mm
    assert mm is not None
    ret, vma = vma_to_resize(task, addr, old_len, new_len)
    if vma is None:
        return ret, False
    if old_len == vma.vm_end - addr and vma_expandable(vma, new_len - old_len):
        pages = (new_len - old_len) >> PAGE_SHIFT
        if mmap.vma_adjust(vma, vma.vm_start, addr + new_len, vma.vm_pgoff, None):
            return -ENOMEM, False
        mm.total_vm += pages
        if vma.vm_flags & VM_LOCKED:
            mm.locked_vm += pages
        return addr, bool(vma.vm_flags & VM_LOCKED)
    if not flags & MREMAP_MAYMOVE:
        return -ENOMEM, False
    new_addr = _place_for(vma, addr, 0, new_len, 0)
    if mmap.is_error(new_addr):
        return new_addr, False
    return move_vma(task, vma, addr, old_len, new_len, new_addr)
