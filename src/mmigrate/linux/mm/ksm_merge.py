"""One page in place of another with the same contents  (mm/ksm.c).

Interface: `try_to_merge_one_page`, for what ksm.py has found to be equal; `memcmp_pages` compares.
"""

from __future__ import annotations

from errno import EFAULT

from mmigrate.linux.include.ksm import NO_STABLE_NODE
from mmigrate.linux.include.mm import VM_LOCKED, VM_MERGEABLE
from mmigrate.linux.include.mm_types import Page, Vma
from mmigrate.linux.include.page_flags import PG_anon_shared
from mmigrate.linux.include.pgtable import (
    PAGE_SIZE,
    pte_dirty,
    pte_mkclean,
    pte_write,
    pte_wrprotect,
)
from mmigrate.linux.include.switches import REMEMBER_EXCLUSIVE
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.area import vma_flags
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.page_flags import (
    PageAnon,
    PageCompound,
    PageMlocked,
    PageSwapCache,
    lock_page,
    set_page_mapping,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import (
    compound_head,
    get_page,
    page_count,
    page_mapcount,
    page_mapped,
)
from mmigrate.linux.kernel.pgtable import ptep_get, set_pte_at
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.mm import (
    huge_split,
    memory,
    mlock,
    mmu_notifier,
    page_writeback,
    rmap,
    swap,
    swapfile,
)


def memcmp_pages(one: Page, other: Page) -> int:
    """mm/ksm.c: memcmp_pages."""
    for page in (one, other):
        if sched.hook is not None:
            READ_ONCE(page, "data")
    a, b = bytes(one.data or b""), bytes(other.data or b"")
    return (a > b) - (a < b)


def write_protect_page(vma: Vma, page: Page) -> int | None:
    """Let nobody write to @page through @vma; the pte then, None if that cannot be promised: it
    is not mapped here, or somebody has pinned it  (mm/ksm.c: write_protect_page)."""
    mm = vma.vm_mm
    addr = rmap.page_address_in_vma(page, vma)
    if addr is None:
        return None
    BUG_ON(bool(PageCompound(page)), "write_protect_page of a huge page", page)
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, addr, addr + PAGE_SIZE)
    pt = rmap.page_check_address(page, mm, addr, False)
    found: int | None = None
    if pt is not None:
        ptl = pt.ptl
        pte = ptep_get(pt, addr)
        found = pte
        if pte_write(pte) or pte_dirty(pte) or _never_shared(page):
            swapped = 1 if PageSwapCache(page) else 0
            entry = mmu_notifier.ptep_clear_flush_notify(vma, addr, pt)
            # A pin may be I/O into the page, which knows of no write protection.
            if page_mapcount(page) + 1 + swapped != page_count(page):
                set_pte_at(mm, addr, pt, entry)
                found = None
            else:
                if pte_dirty(entry):
                    page_writeback.set_page_dirty(page)
                found = pte_mkclean(pte_wrprotect(entry))
                mmu_notifier.set_pte_at_notify(mm, addr, pt, found)
        spin_unlock(ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, addr, addr + PAGE_SIZE)
    return found


def _never_shared(page: Page) -> bool:
    """Later kernels promise the owner of such a page that it stays the page that others have a
    reference on.  v3.19 merges a pinned page whose pte a migration that failed left clean."""
    return not page.flags & PG_anon_shared and page.zone.kernel.has(REMEMBER_EXCLUSIVE)


def replace_page(vma: Vma, page: Page, kpage: Page, orig_pte: int) -> int:
    """Map @kpage where @page is; 0 or -EFAULT  (mm/ksm.c: replace_page)."""
    mm = vma.vm_mm
    addr = rmap.page_address_in_vma(page, vma)
    if addr is None:
        return -EFAULT
    pt = rmap.mm_find_pmd(mm, addr)
    if pt is None:
        return -EFAULT
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, addr, addr + PAGE_SIZE)
    error = -EFAULT
    ptl = spin_lock(pt.ptl)
    if ptep_get(pt, addr) == orig_pte:
        get_page(kpage)
        rmap.page_add_anon_rmap(kpage, vma, addr)
        mmu_notifier.ptep_clear_flush_notify(vma, addr, pt)
        mmu_notifier.set_pte_at_notify(mm, addr, pt, memory.mk_pte(kpage, vma))
        rmap.page_remove_rmap(page)
        if not page_mapped(page):
            swapfile.try_to_free_swap(page)
        swap.put_page(page)
        error = 0
    spin_unlock(ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, addr, addr + PAGE_SIZE)
    return error


def try_to_merge_one_page(vma: Vma, page: Page, kpage: Page | None) -> int:
    """Make @page a KSM page (None) or replace it by one; 0 or -EFAULT
    (mm/ksm.c: try_to_merge_one_page)."""
    if page is kpage:
        return 0
    if not vma.vm_flags & VM_MERGEABLE:
        return -EFAULT
    if PageCompound(page) and _split(page):
        return -EFAULT
    if not PageAnon(page):
        return -EFAULT
    if not trylock_page(page):
        return -EFAULT
    error = -EFAULT
    orig_pte = write_protect_page(vma, page)
    if orig_pte is not None:
        if kpage is None:
            # A KSM page without node: stable_tree_insert will give it one.
            set_page_mapping(page, NO_STABLE_NODE)
            swap.mark_page_accessed(page)
            error = 0
        elif memcmp_pages(page, kpage) == 0:
            error = replace_page(vma, page, kpage, orig_pte)
    if vma_flags(vma) & VM_LOCKED and kpage is not None and not error:
        mlock.munlock_vma_page(page)
        if not PageMlocked(kpage):
            unlock_page(page)
            lock_page(kpage)
            mlock.mlock_vma_page(kpage)
            page = kpage
    unlock_page(page)
    return error


def _split(page: Page) -> bool:
    """Split a huge page; whether it still is one  (mm/ksm.c: page_trans_compound_anon_split)."""
    head = compound_head(page)
    if not PageAnon(head):
        return False
    return bool(huge_split.split_huge_page(head))
