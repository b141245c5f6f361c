"""Loads and stores of the entries that map pages of hugetlb  (asm/hugetlb.h).

Such an entry stands in a table of pmds (2 MiB) or of puds (1 GiB): an integer with the bits of a
pte, and PSE if it maps a page.  The slot is (table, address), an empty one reads as 0.  The
caller holds the lock where C holds it; `huge_ptep_get` alone is the lockless read.
"""

from __future__ import annotations

from typing import Any, Final

from mmigrate.linux.include.mm_types import Mm, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    _PAGE_PSE,
    _PAGE_RW,
    is_hwpoison_entry,
    is_migration_entry,
    pte_present,
    pte_to_swp_entry,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.spinlock import SpinLock
from mmigrate.linux.kernel.tlb import flush_tlb_page

PMD_LEVEL: Final = 2


def _index(pt: PageTable, addr: int) -> int:
    return (addr >> (3 + 9 * pt.level)) & 511


def huge_ptep_get(pt: PageTable, addr: int) -> int:
    """The entry; 0 for an empty slot.  A table where a huge page belongs is a bug."""
    index = _index(pt, addr)
    if sched.hook is not None:
        sched.hook.announce(pt, index, READ)
    entry: Any = pt.entries[index]
    if type(entry) is PageTable:
        BUG("a table of ptes where hugetlb has a page", pt)
    return entry or 0


def set_huge_pte_at(mm: Mm, addr: int, pt: PageTable, pte: int) -> None:
    index = _index(pt, addr)
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    pt.entries[index] = pte or None


def huge_ptep_get_and_clear(mm: Mm, addr: int, pt: PageTable) -> int:
    """An atomic exchange with 0."""
    index = _index(pt, addr)
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    entry: int = pt.entries[index] or 0
    pt.entries[index] = None
    return entry


def huge_ptep_clear_flush(vma: Vma, addr: int, pt: PageTable) -> int:
    """Clear the entry and flush its address, which takes the whole translation away."""
    pte = huge_ptep_get_and_clear(vma.vm_mm, addr, pt)
    if pte_present(pte):
        flush_tlb_page(vma, addr)
    return pte


def huge_ptep_set_wrprotect(mm: Mm, addr: int, pt: PageTable) -> None:
    index = _index(pt, addr)
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    pt.entries[index] &= ~_PAGE_RW


def huge_ptep_set_access_flags(vma: Vma, addr: int, pt: PageTable, entry: int, dirty: bool) -> bool:
    """As ptep_set_access_flags."""
    index = _index(pt, addr)
    if sched.hook is not None:
        sched.hook.announce(pt, index, WRITE)
    changed: bool = pt.entries[index] != entry
    if changed and dirty:
        pt.entries[index] = entry
    return changed


def huge_pte_offset(mm: Mm, addr: int) -> PageTable | None:
    """The table whose slot at @addr is or may become a huge entry; None if there is none yet
    (arch/x86/mm/hugetlbpage.c: huge_pte_offset)."""
    puds = mm.pgd.entries[(addr >> 39) & 511]
    if puds is None:
        return None
    pud = puds.entries[(addr >> 30) & 511]
    if type(pud) is int:
        found: PageTable = puds
        return found
    return pud if type(pud) is PageTable else None


def huge_pte_lockptr(mm: Mm, pt: PageTable) -> SpinLock:
    """The table's own for 2 MiB, else that of the whole address space
    (include/linux/hugetlb.h: huge_pte_lockptr)."""
    lock: SpinLock = pt.ptl if pt.level == PMD_LEVEL else mm.page_table_lock
    return lock


def huge_pte(entry: int) -> bool:
    """Whether an entry says that it maps a huge page  (asm/pgtable.h: pte_huge)."""
    return entry & _PAGE_PSE != 0


def is_hugetlb_entry_migration(entry: int) -> bool:
    """mm/hugetlb.c: is_hugetlb_entry_migration."""
    return entry != 0 and not pte_present(entry) and is_migration_entry(pte_to_swp_entry(entry))


def is_hugetlb_entry_hwpoisoned(entry: int) -> bool:
    """mm/hugetlb.c: is_hugetlb_entry_hwpoisoned."""
    return entry != 0 and not pte_present(entry) and is_hwpoison_entry(pte_to_swp_entry(entry))
