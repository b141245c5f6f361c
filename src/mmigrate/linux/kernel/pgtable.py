"""Loads and stores of live page tables  (asm/pgtable.h, asm-generic/pgtable.h).

A `pte_t *` is the leaf table and the address: (pt, addr). The caller holds `pt.ptl` where
C holds it; `ptep_get` alone is the lockless read.
"""

from __future__ import annotations

from mmigrate.linux.include.mm_types import Mm, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_NUMA,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_RW,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.tlb import flush_tlb_page


def ptep_get(pt: PageTable, addr: int) -> int:
    index = (addr >> 12) & 511
    if sched.hook is not None:
        sched.hook.announce(pt, index, READ)
    entry: int = pt.entries[index]
    return entry


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


def pmd_populate(table: PageTable, index: int, lower: PageTable) -> None:
    """Hang a table below another; the page_table_lock is held."""
    if sched.hook is not None:
        sched.hook.announce(table, index, WRITE)
    table.entries[index] = lower


def pmd_clear(table: PageTable, index: int) -> None:
    if sched.hook is not None:
        sched.hook.announce(table, index, WRITE)
    table.entries[index] = None
