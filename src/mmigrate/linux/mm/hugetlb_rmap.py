"""The reverse map of pages of hugetlb: the branches for them in mm/rmap.c and mm/migrate.c.

A page is at the offset `index << order` of its file or anonymous area; its entry stands in the
slot of `linux/kernel/huge_pte.py`.
"""

from __future__ import annotations

from mmigrate.linux.include.mm import (
    SWAP_AGAIN,
    TTU_IGNORE_HWPOISON,
    TTU_IGNORE_MLOCK,
    TTU_MIGRATION,
    TTU_MUNLOCK,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.page_flags import PG_locked
from mmigrate.linux.include.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    PAGE_SHIFT,
    SWP_HWPOISON,
    is_migration_entry,
    is_write_migration_entry,
    pmd_mkhuge,
    pte_mksoft_dirty,
    pte_mkwrite,
    pte_pfn,
    pte_present,
    pte_swp_mksoft_dirty,
    pte_swp_soft_dirty,
    pte_to_swp_entry,
    swp_entry,
    swp_entry_to_pte,
)
from mmigrate.linux.include.switches import CLOSE_MPROTECT_RACE
from mmigrate.linux.kernel.area import vma_flags, vma_page_prot
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.huge_pte import (
    huge_pte_lockptr,
    huge_pte_offset,
    huge_ptep_clear_flush,
    huge_ptep_get,
    set_huge_pte_at,
)
from mmigrate.linux.kernel.page_flags import (
    PageAnon,
    PageHWPoison,
    set_page_mapping,
    wait_on_page_locked,
)
from mmigrate.linux.kernel.page_ref import (
    get_page,
    get_page_unless_zero,
    inc_mapcount,
    wait_until_unfrozen,
)
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.mm import migrate, mmu_notifier, page_writeback, rmap, swap

# --- counting mappings; the lock of the page table is held ---


def hugepage_add_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """One more entry maps a private page  (mm/rmap.c: hugepage_add_anon_rmap)."""
    BUG_ON(not page.flags & PG_locked, "hugepage_add_anon_rmap of an unlocked page", page)
    BUG_ON(vma.anon_vma is None, "a private huge page where there is no anon_vma", vma)
    if inc_mapcount(page):
        _hugepage_set_anon_rmap(page, vma, address, False)


def hugepage_add_new_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """The first entry of a new private page  (mm/rmap.c: hugepage_add_new_anon_rmap)."""
    inc_mapcount(page)
    _hugepage_set_anon_rmap(page, vma, address, True)


def _hugepage_set_anon_rmap(page: Page, vma: Vma, address: int, exclusive: bool) -> None:
    if PageAnon(page):
        return
    anon_vma = rmap.owning_anon_vma(vma)
    set_page_mapping(page, anon_vma if exclusive else anon_vma.root)
    page.index = rmap.linear_page_index(vma, address)


# --- entries ---


def page_check_address(page: Page, mm: Mm, address: int) -> PageTable | None:
    """The table whose entry at @address maps @page, with the lock held; None, and no lock, if it
    does not  (mm/rmap.c: page_check_address)."""
    pt = huge_pte_offset(mm, address)
    if pt is None:
        return None
    if not pte_present(huge_ptep_get(pt, address)):
        return None
    ptl = spin_lock(huge_pte_lockptr(mm, pt))
    entry = huge_ptep_get(pt, address)
    if pte_present(entry) and pte_pfn(entry) == page.pfn:
        return pt
    spin_unlock(ptl)
    return None


def try_to_unmap_one(page: Page, vma: Vma, address: int, flags: int) -> int:
    """Replace the entry of @page by one that brings it back.  Device and CPU are told of its
    first base page only: for a CPU that is enough  (mm/rmap.c: try_to_unmap_one)."""
    mm = vma.vm_mm
    pt = page_check_address(page, mm, address)
    if pt is None:
        return SWAP_AGAIN
    ptl = huge_pte_lockptr(mm, pt)
    BUG_ON(not flags & TTU_IGNORE_MLOCK, "reclaim has got a page of hugetlb", page)
    entry = huge_ptep_clear_flush(vma, address, pt)
    if entry & _PAGE_DIRTY:
        page_writeback.set_page_dirty(page)
    rmap.update_hiwater_rss(mm)
    if PageHWPoison(page) and not flags & TTU_IGNORE_HWPOISON:
        replaced = swp_entry_to_pte(swp_entry(SWP_HWPOISON, page.pfn))
    else:
        BUG_ON(not flags & TTU_MIGRATION, "a page of hugetlb is unmapped to be reclaimed", page)
        replaced = swp_entry_to_pte(migrate.make_migration_entry(page, entry & _PAGE_RW))
        if PageAnon(page) and entry & _PAGE_SOFT_DIRTY:
            # Known defect of v3.19: this bit is PSE, so the entry passes for a mapped page.
            replaced = pte_swp_mksoft_dirty(replaced)
    set_huge_pte_at(mm, address, pt, replaced)
    rmap.page_remove_rmap(page)
    swap.put_page(page)
    spin_unlock(ptl)
    if mm.mmu_notifiers and not flags & TTU_MUNLOCK:
        mmu_notifier.mmu_notifier_invalidate_page(mm, address)
    return SWAP_AGAIN


def remove_migration_pte(new: Page, vma: Vma, address: int, old: Page) -> int:
    """Turn an entry that names @old into one that maps @new
    (mm/migrate.c: remove_migration_pte)."""
    mm = vma.vm_mm
    pt = huge_pte_offset(mm, address)
    if pt is None:
        return SWAP_AGAIN
    ptl = spin_lock(huge_pte_lockptr(mm, pt))
    entry = huge_ptep_get(pt, address)
    if entry == 0 or pte_present(entry):
        spin_unlock(ptl)
        return SWAP_AGAIN
    named = pte_to_swp_entry(entry)
    if (
        not is_migration_entry(named)
        or migrate.migration_entry_to_page(mm.kernel, named) is not old
    ):
        spin_unlock(ptl)
        return SWAP_AGAIN
    get_page(new)
    restored = (new.pfn << PAGE_SHIFT | vma_page_prot(vma)) & ~_PAGE_ACCESSED
    if pte_swp_soft_dirty(entry):
        restored = pte_mksoft_dirty(restored)
    if is_write_migration_entry(named) and (
        vma_flags(vma) & VM_WRITE or not mm.kernel.has(CLOSE_MPROTECT_RACE)
    ):
        restored = pte_mkwrite(restored)
    set_huge_pte_at(mm, address, pt, pmd_mkhuge(restored))
    if PageAnon(new):
        hugepage_add_anon_rmap(new, vma, address)
    else:
        rmap.page_dup_rmap(new)
    spin_unlock(ptl)
    return SWAP_AGAIN


def migration_entry_wait_huge(mm: Mm, pt: PageTable, address: int) -> None:
    """Sleep until the page whose entry is at @address has been moved or given up
    (mm/migrate.c: migration_entry_wait_huge)."""
    ptl = spin_lock(huge_pte_lockptr(mm, pt))
    entry = huge_ptep_get(pt, address)
    if entry == 0 or pte_present(entry) or not is_migration_entry(pte_to_swp_entry(entry)):
        spin_unlock(ptl)
        return
    page = migrate.migration_entry_to_page(mm.kernel, pte_to_swp_entry(entry))
    if not get_page_unless_zero(page):  # frozen just now
        spin_unlock(ptl)
        _fault_until_unfrozen(pt, address, entry, page)
        return
    spin_unlock(ptl)
    wait_on_page_locked(page)
    swap.put_page(page)


def _fault_until_unfrozen(pt: PageTable, address: int, entry: int, page: Page) -> None:
    """The faults that would come back for nothing, as one wait."""
    index = (address >> (3 + 9 * pt.level)) & 511
    wait_until_unfrozen(page, lambda: pt.entries[index] != entry)
