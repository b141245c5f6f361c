"""Loads and stores of live page tables  (asm/pgtable.h, asm-generic/pgtable.h).

A `pte_t *` is the leaf table and the address: (pt, addr). The caller holds `pt.ptl` where
C holds it; `ptep_get` alone is the lockless read. A `pmd_t *` is the table of pmds and the
address, and `pmd_get` the lockless read; the table's `ptl` is the pmd lock.
"""

from __future__ import annotations

from typing import Any

from mmigrate.linux.include.mm_types import Mm, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_NUMA,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_RW,
    PMD_MASK,
    PMD_SIZE,
    pmd_mknotpresent,
    pmd_mksplitting,
    pte_mknuma,
    pte_wrprotect,
)
from mmigrate.linux.include.switches import FLUSH_WHILE_PENDING
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.tlb import flush_tlb_page, flush_tlb_range


def ptep_get(pt: PageTable, addr: int) -> int:
    if sched.hook is not None:
        sched.hook.announce(pt, (addr >> 12) & 511, READ)
    return pt.entries[(addr >> 12) & 511]  # type: ignore[no-any-return]


def set_pte_at(mm: Mm, addr: int, pt: PageTable, pte: int) -> None:
    index = (addr >> 12) & 511
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    pt.entries[index] = pte


def pte_clear(mm: Mm, addr: int, pt: PageTable) -> None:
    set_pte_at(mm, addr, pt, 0)


def ptep_get_and_clear(mm: Mm, addr: int, pt: PageTable) -> int:
    """An atomic exchange with 0: no dirty or accessed bit of the hardware is lost."""
    index = (addr >> 12) & 511
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    entry: int = pt.entries[index]
    pt.entries[index] = 0
    return entry


def ptep_clear_flush(vma: Vma, addr: int, pt: PageTable) -> int:
    """Clear the pte and flush it from all TLBs that can have it; what it was."""
    mm = vma.vm_mm
    pte = ptep_get_and_clear(mm, addr, pt)
    if pte_accessible(mm, pte):
        flush_tlb_page(vma, addr)
    return pte


def ptep_test_and_clear_young(vma: Vma, addr: int, pt: PageTable) -> bool:
    """Clear the accessed bit; whether it was set.  x86 flushes nothing for it."""
    index = (addr >> 12) & 511
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    entry: int = pt.entries[index]
    pt.entries[index] = entry & ~_PAGE_ACCESSED
    return entry & _PAGE_ACCESSED != 0


def pte_accessible(mm: Mm, pte: int) -> bool:
    """Whether a CPU may have this pte in its TLB."""
    if pte & _PAGE_PRESENT:
        return True
    if pte & (_PAGE_PROTNONE | _PAGE_NUMA):
        if not mm.kernel.has(FLUSH_WHILE_PENDING):
            return False
        if sched.hook is not None:
            sched.hook.announce(mm, "tlb_flush_pending", READ)
        return mm.tlb_flush_pending
    return False


def find_leaf(mm: Mm, addr: int) -> PageTable | None:
    """The table of ptes that covers @addr, or None.  A huge entry has no such table.

    Differs: only the pmd is announced; the upper levels of a live range never change.
    """
    table = mm.pgd.entries[(addr >> 39) & 511]
    if table is None:
        return None
    table = table.entries[(addr >> 30) & 511]
    if table is None:
        return None
    if sched.hook is not None:
        sched.hook.announce(table, (addr >> 21) & 511, READ)
    leaf = table.entries[(addr >> 21) & 511]
    return leaf if type(leaf) is PageTable else None


def ptep_set_wrprotect(mm: Mm, addr: int, pt: PageTable) -> None:
    """Clear the write bit, and nothing else that the hardware may set meanwhile."""
    index = (addr >> 12) & 511
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    pt.entries[index] &= ~_PAGE_RW


def ptep_set_access_flags(vma: Vma, addr: int, pt: PageTable, entry: int, dirty: bool) -> bool:
    """Give a pte more rights or marks; whether it changed.  x86 flushes nothing: a CPU with
    the old translation faults once and finds the new one."""
    index = (addr >> 12) & 511
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    changed: bool = pt.entries[index] != entry
    if changed and dirty:
        pt.entries[index] = entry
    return changed


# --- pmds ---


def find_pmds(mm: Mm, addr: int) -> PageTable | None:
    """The table of pmds that covers @addr, or None.  It stays for as long as the mm lives."""
    table = mm.pgd.entries[(addr >> 39) & 511]
    if table is None:
        return None
    found = table.entries[(addr >> 30) & 511]
    return found if type(found) is PageTable else None  # an integer: a page of 1 GiB


def pmd_get(pmds: PageTable, addr: int) -> Any:
    """None, a table of ptes, or the integer of a huge page."""
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, READ)
    return pmds.entries[index]


def set_pmd_at(mm: Mm, addr: int, pmds: PageTable, pmd: int) -> None:
    """A plain store."""
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, WRITE)
    pmds.entries[index] = pmd


def pmdp_get_and_clear(mm: Mm, addr: int, pmds: PageTable) -> Any:
    """An atomic exchange with 0."""
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, WRITE)
    pmd = pmds.entries[index]
    pmds.entries[index] = None
    return pmd


def pmdp_clear_flush(vma: Vma, addr: int, pmds: PageTable) -> Any:
    """Clear a pmd, huge or not, and flush the whole of its range; what it was
    (mm/pgtable-generic.c: pmdp_clear_flush)."""
    pmd = pmdp_get_and_clear(vma.vm_mm, addr, pmds)
    flush_tlb_range(vma, addr, addr + PMD_SIZE)
    return pmd


def pmdp_set_access_flags(vma: Vma, addr: int, pmds: PageTable, entry: int, dirty: bool) -> bool:
    """As ptep_set_access_flags  (arch/x86/mm/pgtable.c: pmdp_set_access_flags)."""
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, WRITE)
    changed: bool = pmds.entries[index] != entry
    if changed and dirty:
        pmds.entries[index] = entry
    return changed


def pmdp_test_and_clear_young(vma: Vma, addr: int, pmds: PageTable) -> bool:
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, WRITE)
    pmd: int = pmds.entries[index]
    pmds.entries[index] = pmd & ~_PAGE_ACCESSED
    return pmd & _PAGE_ACCESSED != 0


def pmdp_set_wrprotect(mm: Mm, addr: int, pmds: PageTable) -> None:
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, WRITE)
    pmds.entries[index] = pte_wrprotect(pmds.entries[index])


def pmdp_set_numa(mm: Mm, addr: int, pmds: PageTable) -> None:
    """A plain read, change and store  (include/asm-generic/pgtable.h: pmdp_set_numa)."""
    set_pmd_at(mm, addr, pmds, pte_mknuma(pmd_get(pmds, addr)))


def pmdp_splitting_flush(vma: Vma, addr: int, pmds: PageTable) -> None:
    """Mark a huge pmd as being split; the flush is there to wait for the fast walks of
    get_user_pages  (arch/x86/mm/pgtable.c: pmdp_splitting_flush)."""
    addr &= PMD_MASK
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, WRITE)
    pmds.entries[index] = pmd_mksplitting(pmds.entries[index])
    flush_tlb_range(vma, addr, addr + PMD_SIZE)


def pmdp_invalidate(vma: Vma, addr: int, pmds: PageTable) -> None:
    """Not present for the hardware, still huge for the software
    (mm/pgtable-generic.c: pmdp_invalidate)."""
    set_pmd_at(vma.vm_mm, addr, pmds, pmd_mknotpresent(pmd_get(pmds, addr)))
    flush_tlb_range(vma, addr, addr + PMD_SIZE)


def pmd_populate(pmds: PageTable, addr: int, lower: PageTable) -> None:
    """Hang a table of ptes below a pmd; the pmd lock is held."""
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, WRITE)
    pmds.entries[index] = lower


def pmd_clear(pmds: PageTable, addr: int) -> None:
    index = (addr >> 21) & 511
    if sched.hook is not None:
        sched.hook.announce(pmds, index, WRITE)
    pmds.entries[index] = None


def pte_lockptr_of(pmd: Any, addr: int) -> PageTable:
    """The table of ptes in which a pmd says that the lock and the pte are; what C computes from
    a pmd that names no table is a lock at address 0 or in a page of somebody else
    (include/linux/mm.h: pte_lockptr)."""
    if type(pmd) is not PageTable:
        what = "an empty" if pmd is None else "a huge"
        BUG(f"a pte lock was looked for through {what} pmd", f"pmd of {addr:#x}")
    table: PageTable = pmd
    return table
