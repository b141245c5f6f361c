"""Changing what a process may do with its memory  (mm/mprotect.c).

Migration holds no mmap_sem, so it may put a pte back between any two steps here. Therefore
the area changes first and the ptes after it: whoever has the pte lock second sees what the
other has done.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, ENOMEM
from typing import Final

from mmigrate.linux.include.mm import (
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import Mm, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    HPAGE_PMD_NR,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    PUD_SIZE,
    is_write_migration_entry,
    make_migration_entry_read,
    pmd_trans_huge,
    pte_dirty,
    pte_file,
    pte_mknonnuma,
    pte_mknuma,
    pte_mkwrite,
    pte_modify,
    pte_numa,
    pte_present,
    pte_soft_dirty,
    pte_swp_mksoft_dirty,
    pte_swp_soft_dirty,
    pte_to_swp_entry,
    swp_entry_to_pte,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.include.switches import (
    KEEP_SOFT_DIRTY,
    MPROTECT_POPULATES_LOCKED,
    ONE_LOOK_AT_PMD,
    UNTOUCHED_UNACCOUNTED,
)
from mmigrate.linux.include.vmstat import NUMA_HUGE_PTE_UPDATES, NUMA_PTE_UPDATES
from mmigrate.linux.kernel.atomic import WRITE_ONCE
from mmigrate.linux.kernel.page_flags import PageKsm
from mmigrate.linux.kernel.pgtable import (
    find_pmds,
    pmd_get,
    pte_lockptr_of,
    ptep_get,
    ptep_get_and_clear,
    set_pte_at,
)
from mmigrate.linux.kernel.rwsem import down_write
from mmigrate.linux.kernel.sched import cond_resched
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.kernel.tlb import flush_tlb_range
from mmigrate.linux.mm import (
    gup,
    huge_memory,
    huge_split,
    hugetlb,
    memory,
    mmap,
    mmu_notifier,
    page_tables,
)

PROT_SEM: Final = 0x8
PROT_GROWSDOWN: Final = 0x01000000
PROT_GROWSUP: Final = 0x02000000


def change_pte_range(
    vma: Vma,
    pt: PageTable,
    addr: int,
    end: int,
    newprot: int,
    dirty_accountable: bool,
    prot_numa: bool,
) -> int:
    """Bring the ptes of one table in line; how many changed
    (mm/mprotect.c: change_pte_range)."""
    mm = vma.vm_mm
    pages = 0
    ptl = pt.ptl
    with spin_lock(ptl):
        for address in range(addr, end, PAGE_SIZE):
            oldpte = ptep_get(pt, address)
            if pte_present(oldpte):
                if prot_numa:
                    pages += _mark_numa(vma, pt, address, oldpte)
                    continue
                # Away for a moment, so that the hardware cannot set a bit in between.
                pte = ptep_get_and_clear(mm, address, pt)
                if pte_numa(pte):
                    pte = pte_mknonnuma(pte)
                pte = pte_modify(pte, newprot)
                # The first store has been counted already: no need to fault once more.
                if (
                    dirty_accountable
                    and pte_dirty(pte)
                    and (pte_soft_dirty(pte) or not vma.vm_flags & VM_SOFTDIRTY)
                ):
                    pte = pte_mkwrite(pte)
                set_pte_at(mm, address, pt, pte)
                pages += 1
            elif oldpte and not pte_file(oldpte):
                entry = pte_to_swp_entry(oldpte)
                if is_write_migration_entry(entry):
                    # Whatever the new protection allows: a read entry is always safe, and
                    # costs at most one more fault.
                    newpte = swp_entry_to_pte(make_migration_entry_read(entry))
                    if pte_swp_soft_dirty(oldpte) and vma.vm_mm.kernel.has(KEEP_SOFT_DIRTY):
                        newpte = pte_swp_mksoft_dirty(newpte)
                    set_pte_at(mm, address, pt, newpte)
                    pages += 1
    return pages


def _mark_numa(vma: Vma, pt: PageTable, address: int, oldpte: int) -> int:
    """Let the next access fault, to learn from which node it comes; 1 if changed."""
    page = memory.vm_normal_page(vma, address, oldpte)
    if page is None or PageKsm(page) or pte_numa(oldpte):
        return 0
    pte = ptep_get_and_clear(vma.vm_mm, address, pt)
    set_pte_at(vma.vm_mm, address, pt, pte_mknuma(pte))
    return 1


def change_protection(
    vma: Vma, start: int, end: int, newprot: int, dirty_accountable: bool, prot_numa: bool
) -> int:
    """Bring all ptes of a range of @vma in line; how many changed
    (mm/mprotect.c: change_protection_range).

    Between the change of a pte and the flush another CPU may still write through its TLB:
    `tlb_flush_pending` tells those who would not flush a pte without access rights.
    """
    if vma.vm_flags & VM_HUGETLB:
        return hugetlb.hugetlb_change_protection(vma, start, end, newprot)
    mm = vma.vm_mm
    pages = 0
    WRITE_ONCE(mm, "tlb_flush_pending", True)
    for pud_start in range(start & ~(PUD_SIZE - 1), end, PUD_SIZE):
        pages += _change_pmd_range(
            vma,
            max(start, pud_start),
            min(end, pud_start + PUD_SIZE),
            newprot,
            dirty_accountable,
            prot_numa,
        )
    if pages:
        flush_tlb_range(vma, start, end)
    WRITE_ONCE(mm, "tlb_flush_pending", False)
    return pages


def _change_pmd_range(
    vma: Vma, start: int, end: int, newprot: int, dirty_accountable: bool, prot_numa: bool
) -> int:
    """The part of a range under one pud entry  (mm/mprotect.c: change_pmd_range)."""
    mm = vma.vm_mm
    pmds = find_pmds(mm, start)
    if pmds is None:
        return 0
    pages = nr_huge_updates = 0
    notified_from: int | None = None
    addr = start
    while addr < end:
        here, addr = addr, min((addr + PMD_SIZE) & PMD_MASK, end)
        pmd = pmd_get(pmds, here)
        # Known defect of v3.19: a pmd that is empty at this look and huge at the next counts as
        # bad, and is wiped.  Only where mmap_sem is held for read: NUMA balancing against a
        # fault that copies or moves the huge page.  Linux kernel commit 8b272b3cbbb5 ("mm, numa:
        # fix bad pmd by atomically check for pmd_trans_huge when marking page tables
        # prot_numa") (in v5.6).
        if type(pmd) is not PageTable:
            if not pmd_trans_huge(pmd):
                if not mm.kernel.has(ONE_LOOK_AT_PMD):
                    bad = page_tables.pmd_none_or_clear_bad(pmds, here)
                else:
                    bad = page_tables.pmd_none_or_clear_bad_unless_trans_huge(pmds, here)
                if bad:
                    continue
            pmd = pmd_get(pmds, here)
        if notified_from is None:
            notified_from = here
            mmu_notifier.mmu_notifier_invalidate_range_start(mm, here, end)
        if pmd_trans_huge(pmd):
            changed = _change_huge(vma, pmds, here, addr, newprot, prot_numa)
            if changed:
                if changed == HPAGE_PMD_NR:
                    pages += changed
                    nr_huge_updates += 1
                continue
        pt = _lock_pte_protection(pmds, here, prot_numa)
        if pt is not None:
            pages += change_pte_range(vma, pt, here, addr, newprot, dirty_accountable, prot_numa)
    if notified_from is not None:
        mmu_notifier.mmu_notifier_invalidate_range_end(mm, notified_from, end)
    if nr_huge_updates:
        mm.kernel.vm_events[NUMA_HUGE_PTE_UPDATES] += nr_huge_updates
    return pages


def _change_huge(
    vma: Vma, pmds: PageTable, addr: int, end: int, newprot: int, prot_numa: bool
) -> int:
    """As change_huge_pmd; a huge page that reaches beyond the range is split."""
    if end - addr != PMD_SIZE:
        huge_split.split_huge_page_pmd(vma, addr, pmds)
        return 0
    return huge_memory.change_huge_pmd(vma, pmds, addr, newprot, prot_numa)


def _lock_pte_protection(pmds: PageTable, addr: int, prot_numa: bool) -> PageTable | None:
    """The table of ptes, which the caller locks; None if there is none (any more).  For
    mprotect mmap_sem keeps it there  (mm/mprotect.c: lock_pte_protection).

    Differs: the pmd lock is let go before the pte lock is taken; a table of ptes stays while
    mmap_sem is held.
    """
    if not prot_numa:
        return pte_lockptr_of(pmd_get(pmds, addr), addr)
    with spin_lock(pmds.ptl):
        pmd = pmd_get(pmds, addr)
    return pmd if type(pmd) is PageTable else None


def change_prot_numa(vma: Vma, addr: int, end: int) -> int:
    """Mark a range for NUMA hinting faults; how many ptes  (mm/mempolicy.c: change_prot_numa)."""
    updated = change_protection(vma, addr, end, vma.vm_page_prot, False, True)
    if updated:
        vma.vm_mm.kernel.vm_events[NUMA_PTE_UPDATES] += updated
    return updated


def mprotect_fixup(
    vma: Vma, prev: Vma | None, start: int, end: int, newflags: int
) -> tuple[int, Vma | None]:
    """Give the part of @vma from @start to @end new flags.  (0 or -errno, the area that
    ends where the next step begins)  (mm/mprotect.c: mprotect_fixup)."""
    mm = vma.vm_mm
    oldflags = vma.vm_flags
    if newflags == oldflags:
        return 0, vma
    # Memory that could never be written is not accounted until now.
    accounted = VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE
    if newflags & VM_WRITE and not oldflags & accounted:
        newflags |= VM_ACCOUNT
    elif not newflags & VM_WRITE and vma.vm_ops is None and vma.anon_vma is None:
        if mm.kernel.has(UNTOUCHED_UNACCOUNTED):
            newflags &= ~VM_ACCOUNT

    pgoff = vma.vm_pgoff + ((start - vma.vm_start) >> PAGE_SHIFT)
    merged = mmap.vma_merge(
        mm, prev, start, end, newflags, vma.anon_vma, vma.vm_file, pgoff, vma.vm_policy
    )
    if merged is not None:
        vma = merged
    else:
        if start != vma.vm_start:
            error = mmap.split_vma(mm, vma, start, True)
            if error:
                return error, vma
        if end != vma.vm_end:
            error = mmap.split_vma(mm, vma, end, False)
            if error:
                return error, vma

    WRITE_ONCE(vma, "vm_flags", newflags)
    dirty_accountable = mmap.vma_wants_writenotify(vma)
    mmap.vma_set_page_prot(vma)
    change_protection(vma, start, end, vma.vm_page_prot, dirty_accountable, False)
    if oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and newflags & VM_WRITE:
        if mm.kernel.has(MPROTECT_POPULATES_LOCKED):
            gup.populate_vma_page_range(vma, start, end)
    return 0, vma


def sys_mprotect(task: Task, start: int, length: int, prot: int) -> int:
    """The system call mprotect.  What was done before an error stays done
    (mm/mprotect.c: sys_mprotect)."""
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    prot &= ~grows
    if grows == PROT_GROWSDOWN | PROT_GROWSUP or start & ~PAGE_MASK:
        return -EINVAL
    if not length:
        return 0
    end = start + mmap.page_align(length)
    if end > 1 << 64:
        return -ENOMEM
    if prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM):
        return -EINVAL
    mm = task.mm
    assert mm is not None
    with down_write(mm.mmap_sem):
        return _protect_range(mm, start, end, prot, grows)


def _protect_range(mm: Mm, start: int, end: int, prot: int, grows: int) -> int:
    """The loop of sys_mprotect over the areas of the range."""
    vma = mmap.find_vma(mm, start)
    if vma is None:
        return -ENOMEM
    prev = mmap.vma_prev(vma)
    if grows & PROT_GROWSDOWN:
        if vma.vm_start >= end:
            return -ENOMEM
        start = vma.vm_start
        if not vma.vm_flags & VM_GROWSDOWN:
            return -EINVAL
    elif vma.vm_start > start:
        return -ENOMEM
    elif grows:
        return -EINVAL  # no area grows upwards on this architecture
    if start > vma.vm_start:
        prev = vma
    access = VM_READ | VM_WRITE | VM_EXEC
    while True:
        newflags = prot & access | vma.vm_flags & ~access
        if newflags & ~(newflags >> 4) & access:  # VM_MAYx is four bits above VM_x
            return -EACCES
        error, prev = mprotect_fixup(vma, prev, start, min(vma.vm_end, end), newflags)
        if error or prev is None:
            return error
        start = prev.vm_end
        if start >= end:
            return 0
        following = mmap.vma_next(prev)
        if following is None or following.vm_start != start:
            return -ENOMEM
        vma = following
        cond_resched()
