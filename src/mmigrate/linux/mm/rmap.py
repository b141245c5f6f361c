"""The reverse map: from a page to every pte that maps it  (mm/rmap.c).

Interface: `rmap_walk` visits the areas that can map a page, `try_to_unmap` replaces the
ptes, `page_add_*_rmap` and `page_remove_rmap` keep the mapping count. The anon_vma behind
an anonymous page is the business of `anon_vma.py`, whose names are also found here.
"""

from __future__ import annotations

from typing import Any, Final

from mmigrate.linux.include.hugetlb import hstate_vma
from mmigrate.linux.include.ksm import StableNode
from mmigrate.linux.include.mm import (
    SWAP_AGAIN,
    SWAP_FAIL,
    SWAP_MLOCK,
    SWAP_SUCCESS,
    TTU_IGNORE_ACCESS,
    TTU_IGNORE_HWPOISON,
    TTU_IGNORE_MLOCK,
    TTU_MIGRATION,
    TTU_MUNLOCK,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_SEQ_READ,
    VM_SHARED,
    VM_STACK_INCOMPLETE_SETUP,
)
from mmigrate.linux.include.mm_types import AddressSpace, Mm, Page, PageTable, Vma
from mmigrate.linux.include.page_flags import PG_head, PG_hugetlb, PG_locked
from mmigrate.linux.include.pgtable import (
    _PAGE_DIRTY,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PRESENT_ANY,
    HPAGE_PMD_NR,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    PTE_PFN_MASK,
    SWP_HWPOISON,
    pgoff_to_pte,
    pmd_present,
    pmd_trans_huge,
    pte_dirty,
    pte_file_mksoft_dirty,
    pte_mkclean,
    pte_present,
    pte_soft_dirty,
    pte_swp_mksoft_dirty,
    pte_write,
    pte_wrprotect,
    swp_entry,
    swp_entry_to_pte,
)
from mmigrate.linux.include.switches import FIND_PMD_READS_ONCE, SKIP_TEMPORARY_STACKS
from mmigrate.linux.include.vmstat import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SWAPENTS,
    NR_ANON_PAGES,
    NR_ANON_TRANSPARENT_HUGEPAGES,
    NR_FILE_MAPPED,
)
from mmigrate.linux.kernel.area import vma_flags
from mmigrate.linux.kernel.bug import BUG, BUG_ON, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    PageAnon,
    PageAnonNotKsm,
    PageHWPoison,
    PageKsm,
    PageLocked,
    PageMlocked,
    PageSwapCache,
    PageTransHuge,
    SetPageSwapBacked,
    page_anon_vma,
    page_mapping,
    page_mapping_of,
    page_private,
    set_page_mapping,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import (
    dec_mapcount,
    inc_mapcount,
    page_mapcount,
    page_mapped,
    page_not_mapped,
)
from mmigrate.linux.kernel.pgtable import (
    find_leaf,
    find_pmds,
    pmd_get,
    pte_lockptr_of,
    ptep_clear_flush,
    ptep_get,
    set_pte_at,
)
from mmigrate.linux.kernel.rwsem import down_read, down_read_trylock, up_read
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.straight import hot, small
from mmigrate.linux.lib.interval_tree import overlapping
from mmigrate.linux.mm import (
    huge_memory,
    huge_split,
    hugetlb_pool,
    hugetlb_rmap,
    ksm,
    memcontrol,
    memory,
    migrate,
    mlock,
    mmu_notifier,
    page_alloc,
    page_writeback,
    swap,
    swapfile,
)
from mmigrate.linux.mm.anon_vma import anon_vma_clone as anon_vma_clone
from mmigrate.linux.mm.anon_vma import anon_vma_fork as anon_vma_fork
from mmigrate.linux.mm.anon_vma import anon_vma_lock_read as anon_vma_lock_read
from mmigrate.linux.mm.anon_vma import anon_vma_lock_write as anon_vma_lock_write
from mmigrate.linux.mm.anon_vma import anon_vma_prepare as anon_vma_prepare
from mmigrate.linux.mm.anon_vma import anon_vma_unlock_read as anon_vma_unlock_read
from mmigrate.linux.mm.anon_vma import anon_vma_unlock_write as anon_vma_unlock_write
from mmigrate.linux.mm.anon_vma import get_anon_vma as get_anon_vma
from mmigrate.linux.mm.anon_vma import owning_anon_vma as owning_anon_vma
from mmigrate.linux.mm.anon_vma import page_get_anon_vma as page_get_anon_vma
from mmigrate.linux.mm.anon_vma import page_lock_anon_vma_read as page_lock_anon_vma_read
from mmigrate.linux.mm.anon_vma import page_unlock_anon_vma_read as page_unlock_anon_vma_read
from mmigrate.linux.mm.anon_vma import put_anon_vma as put_anon_vma
from mmigrate.linux.mm.anon_vma import unlink_anon_vmas as unlink_anon_vmas
from mmigrate.linux.mm.rmap_walk_control import RmapWalkControl

CLUSTER_SIZE: Final = 32 * PAGE_SIZE


# --- where a page is, in offsets and addresses ---


def page_index(page: Page) -> int:
    """The key of the page in its tree: its swap entry if it is in the swap cache
    (include/linux/mm.h: page_index)."""
    if PageSwapCache(page):
        entry: Any = page_private(page)
        return int(entry)
    return int(page.index)


@small
def page_to_pgoff(page: Page) -> int:
    """The page's offset in its file or anonymous area, in pages."""
    if page.flags & PG_hugetlb:
        return int(page.index) << page_alloc.compound_order(page)
    return int(page.index)


def linear_page_index(vma: Vma, address: int) -> int:
    """The index that a page at @address of @vma has, which for hugetlb counts huge pages
    (include/linux/pagemap.h: linear_page_index)."""
    if vma.vm_flags & VM_HUGETLB:
        return hugetlb_pool.vma_hugecache_offset(hstate_vma(vma), vma, address)
    return ((address - vma.vm_start) >> PAGE_SHIFT) + vma.vm_pgoff


def vma_address(page: Page, vma: Vma) -> int:
    """Where @page would be in @vma  (mm/internal.h: vma_address)."""
    address = vma.vm_start + ((page_to_pgoff(page) - vma.vm_pgoff) << PAGE_SHIFT)
    if not vma.vm_start <= address < vma.vm_end:
        BUG(f"address {address:#x} outside {vma!r}", page)
    return address


def page_address_in_vma(page: Page, vma: Vma) -> int | None:
    """The address of @page in @vma, or None if it cannot be there (C: -EFAULT)
    (mm/rmap.c: page_address_in_vma)."""
    if PageAnon(page):
        anon_vma = page_anon_vma(page)
        if vma.anon_vma is None or anon_vma is None or vma.anon_vma.root is not anon_vma.root:
            return None
    elif (
        page_mapping_of(page) is None
        or vma.vm_file is None
        or vma.vm_file.f_mapping is not page.mapping
    ):
        return None
    address = vma.vm_start + ((page_to_pgoff(page) - vma.vm_pgoff) << PAGE_SHIFT)
    return address if vma.vm_start <= address < vma.vm_end else None


@small
def mm_find_pmd(mm: Mm, address: int) -> PageTable | None:
    """The table of ptes for an address, from a single read of the pmd; None if there is none, or
    a huge page stands there  (mm/rmap.c: mm_find_pmd).

    Without commit f72e7dcdd252 it looked whether the pmd is present, its callers then whether it
    is huge, and went on to the lock and the pte by a third look. A fault that changes a huge
    pmd has it empty for a moment, and takes no lock that a walk would wait for.
    """
    kernel = mm.kernel
    if kernel.absent and not kernel.has(FIND_PMD_READS_ONCE):
        return _mm_find_pmd_v315(mm, address)
    return find_leaf(mm, address)


def _mm_find_pmd_v315(mm: Mm, address: int) -> PageTable | None:
    pmds = find_pmds(mm, address)
    if pmds is None or not pmd_present(pmd_get(pmds, address)):
        return None
    if pmd_trans_huge(pmd_get(pmds, address)):
        return None
    return pte_lockptr_of(pmd_get(pmds, address), address)


@small
def page_check_address(page: Page, mm: Mm, address: int, sync: bool) -> PageTable | None:
    """The leaf table whose pte at @address maps @page, with its lock held; None, and no
    lock, if it does not.  Without @sync a first look is taken without the lock
    (mm/rmap.c: page_check_address)."""
    pt = mm_find_pmd(mm, address)
    if pt is None:
        return None
    if not sync and not ptep_get(pt, address) & _PRESENT_ANY:
        return None
    spin_lock(pt.ptl)
    pte = ptep_get(pt, address)
    if pte & _PRESENT_ANY and (pte & PTE_PFN_MASK) >> PAGE_SHIFT == page.pfn:
        return pt
    spin_unlock(pt.ptl)
    return None


# --- counting mappings; the pte lock is held ---


def page_add_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """One more pte maps an anonymous page  (mm/rmap.c: page_add_anon_rmap)."""
    do_page_add_anon_rmap(page, vma, address, False)


@small
def do_page_add_anon_rmap(page: Page, vma: Vma, address: int, exclusive: bool) -> None:
    """As above; @exclusive: only this process has the page
    (mm/rmap.c: do_page_add_anon_rmap)."""
    first = inc_mapcount(page)
    if first:
        _count_anon_page(page, 1)
    if PageKsm(page):
        return
    if not page.flags & PG_locked:
        BUG("page_add_anon_rmap of an unlocked page", page)
    if first:
        _page_set_anon_rmap(page, vma, address, exclusive)
    else:
        _page_check_anon_rmap(page, vma, address)


@small
def _count_anon_page(page: Page, sign: int) -> None:
    """An anonymous page is mapped now, or (-1) not any more.  It can be split only where a pte
    lock is not held."""
    if page.flags & PG_head:
        page.zone.vm_stat[NR_ANON_TRANSPARENT_HUGEPAGES] += sign
        page.zone.vm_stat[NR_ANON_PAGES] += sign * HPAGE_PMD_NR
    else:
        page.zone.vm_stat[NR_ANON_PAGES] += sign


@hot
def page_add_new_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """The first pte of a new anonymous page  (mm/rmap.c: page_add_new_anon_rmap)."""
    SetPageSwapBacked(page)
    inc_mapcount(page)  # nobody else can have it yet
    _count_anon_page(page, 1)
    _page_set_anon_rmap(page, vma, address, True)


@small
def _page_set_anon_rmap(page: Page, vma: Vma, address: int, exclusive: bool) -> None:
    if PageAnon(page):
        return
    anon_vma = owning_anon_vma(vma)
    # A page that others may share belongs to the root, which outlives all of them.
    set_page_mapping(page, anon_vma if exclusive else anon_vma.root)
    page.index = linear_page_index(vma, address)


@hot
def _page_check_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    anon_vma = page_anon_vma(page)
    mine = owning_anon_vma(vma)
    BUG_ON(anon_vma is None or anon_vma.root is not mine.root, "mapped by a stranger", page)
    BUG_ON(page.index != linear_page_index(vma, address), "mapped at a wrong offset", page)


def page_add_file_rmap(page: Page) -> None:
    """One more pte maps a file page  (mm/rmap.c: page_add_file_rmap)."""
    if page.mem_cgroup is not None:
        _count_file_pte(page, 1)
    elif inc_mapcount(page):
        page.zone.vm_stat[NR_FILE_MAPPED] += 1


def _count_file_pte(page: Page, change: int) -> bool:
    """Map or unmap a page that somebody pays for; whether it was the first or the last pte."""
    memcg, locked = memcontrol.mem_cgroup_begin_page_stat(page)
    changed = inc_mapcount(page) if change > 0 else dec_mapcount(page)
    if changed:
        page.zone.vm_stat[NR_FILE_MAPPED] += change
        memcontrol.mem_cgroup_update_page_stat(memcg, "mapped_file", change)
    memcontrol.mem_cgroup_end_page_stat(memcg, locked)
    return changed


def page_dup_rmap(page: Page) -> None:
    """fork copied a pte that maps the page  (include/linux/rmap.h: page_dup_rmap)."""
    inc_mapcount(page)


@small
def page_remove_rmap(page: Page) -> None:
    """One pte less maps the page; the last one ends its mlock
    (mm/rmap.c: page_remove_rmap)."""
    anon = PageAnon(page)
    if page.mem_cgroup is not None and not anon:
        if _count_file_pte(page, -1) and PageMlocked(page):
            mlock.clear_page_mlock(page)
        return
    if not dec_mapcount(page) or page.flags & PG_hugetlb:
        return
    if anon:
        _count_anon_page(page, -1)
        if page.mem_cgroup is not None:
            memcontrol.page_unmapped(page)
    else:
        page.zone.vm_stat[NR_FILE_MAPPED] -= 1
    if PageMlocked(page):
        mlock.clear_page_mlock(page)
    # mapping stays: a page still in the swap cache, or somebody with a reference, may
    # map it again; it is reset when the page is freed.


def page_move_anon_rmap(page: Page, vma: Vma, address: int) -> None:
    """A page turned out to be @vma's alone: let walks look in its own anon_vma only
    (mm/rmap.c: page_move_anon_rmap)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "page_move_anon_rmap of an unlocked page")
    VM_BUG_ON_PAGE(page.index != linear_page_index(vma, address), page, "at a wrong offset")
    set_page_mapping(page, owning_anon_vma(vma))


# --- walking ---


@small
def rmap_walk(page: Page, rwc: RmapWalkControl, arg: Any) -> int:
    """Visit every area that can map the page  (mm/rmap.c: rmap_walk)."""
    if PageAnon(page):
        if type(page.mapping) is StableNode:
            return ksm.rmap_walk_ksm(page, rwc, arg)
        return _rmap_walk_anon(page, rwc, arg)
    return _rmap_walk_file(page, rwc, arg)


@hot
def _rmap_walk_anon(page: Page, rwc: RmapWalkControl, arg: Any) -> int:
    """mm/rmap.c: rmap_walk_anon."""
    anon_lock = rwc.anon_lock
    if anon_lock is not None:
        anon_vma = anon_lock(page)
        if anon_vma is None:
            return SWAP_AGAIN
    else:
        # The caller has the page locked and a reference on its anon_vma, but no ptes.
        anon_vma = page_anon_vma(page)
        if anon_vma is None:
            return SWAP_AGAIN
        down_read(anon_vma.root.rwsem)
    ret = SWAP_AGAIN
    pgoff: int = page_to_pgoff(page) if page.flags & PG_hugetlb else page.index
    rmap_one, done, invalid_vma = rwc.rmap_one, rwc.done, rwc.invalid_vma
    chains = overlapping(anon_vma.rb_root, pgoff, pgoff)
    for chain in chains:
        vma = chain.vma
        address = vma.vm_start + ((pgoff - vma.vm_pgoff) << PAGE_SHIFT)
        if invalid_vma is not None and invalid_vma(vma, arg):
            continue
        ret = rmap_one(page, vma, address, arg)
        if ret != SWAP_AGAIN:
            break
        if done is not None and done(page):
            break
    up_read(anon_vma.root.rwsem)
    return ret


@hot
def _rmap_walk_file(page: Page, rwc: RmapWalkControl, arg: Any) -> int:
    """mm/rmap.c: rmap_walk_file.  The page lock keeps the mapping alive."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "rmap_walk of an unlocked file page")
    mapping = page_mapping_of(page)
    if mapping is None:
        return SWAP_AGAIN
    assert isinstance(mapping, AddressSpace)
    pgoff = page_to_pgoff(page)
    with down_read(mapping.i_mmap_rwsem):
        ret = SWAP_AGAIN
        for vma in mapping.i_mmap.overlapping(pgoff, pgoff):
            address = vma_address(page, vma)
            if rwc.invalid_vma is not None and rwc.invalid_vma(vma, arg):
                continue
            ret = rwc.rmap_one(page, vma, address, arg)
            if ret != SWAP_AGAIN:
                return ret
            if rwc.done is not None and rwc.done(page):
                return ret
        if rwc.file_nonlinear is not None and mapping.i_mmap_nonlinear:
            ret = rwc.file_nonlinear(page, mapping, arg)
        return ret


def is_vma_temporary_stack(vma: Vma) -> bool:
    """Whether exec is still building this stack
    (mm/huge_memory.c: is_vma_temporary_stack)."""
    return _is_temporary_stack(vma, None)


# --- unmapping ---


@small
def try_to_unmap(page: Page, flags: int) -> int:
    """Take away every pte of a locked page.  A SWAP_* value: SUCCESS if none is left
    (mm/rmap.c: try_to_unmap)."""
    if not page.flags & PG_locked:
        BUG("try_to_unmap of an unlocked page", page)
    if page.flags & PG_head and not page.flags & PG_hugetlb:
        BUG("try_to_unmap of a huge page", page)
    # exec moves such a stack while ptes and addresses disagree; an entry left in it
    # could not be found again.
    rwc = _UNMAP
    if flags & TTU_MIGRATION and PageAnonNotKsm(page):
        if SKIP_TEMPORARY_STACKS not in page.zone.kernel.absent:
            rwc = _UNMAP_FOR_MIGRATION
    ret = rmap_walk(page, rwc, flags)
    if ret != SWAP_MLOCK and not page_mapped(page):
        ret = SWAP_SUCCESS
    return ret


def try_to_munlock(page: Page) -> int:
    """Look for a VM_LOCKED area that maps the page; SWAP_MLOCK if there is one
    (mm/rmap.c: try_to_munlock)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "try_to_munlock of an unlocked page")
    return rmap_walk(page, _MUNLOCK, TTU_MUNLOCK)


@hot
def try_to_unmap_one(page: Page, vma: Vma, address: int, flags: int) -> int:
    """Replace the pte of @page in @vma by what will bring it back
    (mm/rmap.c: try_to_unmap_one)."""
    if page.flags & PG_hugetlb:
        return hugetlb_rmap.try_to_unmap_one(page, vma, address, flags)
    mm = vma.vm_mm
    pt = page_check_address(page, mm, address, False)
    if pt is None:
        return SWAP_AGAIN
    ptl = pt.ptl
    if not flags & TTU_IGNORE_MLOCK:
        if vma_flags(vma) & VM_LOCKED:
            spin_unlock(ptl)
            return _mlock_instead(page, vma)
        if flags & TTU_MUNLOCK:
            spin_unlock(ptl)
            return SWAP_AGAIN
    if not flags & TTU_IGNORE_ACCESS and mmu_notifier.ptep_clear_flush_young_notify(
        vma, address, pt
    ):
        spin_unlock(ptl)
        return SWAP_FAIL

    pteval = ptep_clear_flush(vma, address, pt)
    if pteval & _PAGE_DIRTY:
        page_writeback.set_page_dirty(page)
    rss = mm.rss_stat[MM_FILEPAGES] + mm.rss_stat[MM_ANONPAGES]
    if mm.hiwater_rss < rss:
        mm.hiwater_rss = rss

    if PageHWPoison(page) and not flags & TTU_IGNORE_HWPOISON:
        mm.rss_stat[MM_ANONPAGES if PageAnon(page) else MM_FILEPAGES] -= 1
        set_pte_at(mm, address, pt, swp_entry_to_pte(swp_entry(SWP_HWPOISON, page.pfn)))
    elif PageAnon(page):
        if PageSwapCache(page):
            swap_value: Any = page_private(page)
            if swapfile.swap_duplicate(swap_value) < 0:
                set_pte_at(mm, address, pt, pteval)
                spin_unlock(ptl)
                return SWAP_FAIL
            swapfile.note_mm_has_swap(mm)
            mm.rss_stat[MM_ANONPAGES] -= 1
            mm.rss_stat[MM_SWAPENTS] += 1
            entry: int = swap_value
        else:
            if not flags & TTU_MIGRATION:
                BUG("unmapped for reclaim without swap entry", page)
            entry = migrate.make_migration_entry(page, pteval & _PAGE_RW)
        swp_pte = swp_entry_to_pte(entry)
        if pteval & _PAGE_SOFT_DIRTY:
            swp_pte = pte_swp_mksoft_dirty(swp_pte)
        set_pte_at(mm, address, pt, swp_pte)
    elif flags & TTU_MIGRATION:
        # Known defect of v3.19: the soft-dirty bit of a file pte is lost here.
        entry = migrate.make_migration_entry(page, pteval & _PAGE_RW)
        set_pte_at(mm, address, pt, swp_entry_to_pte(entry))
    else:
        mm.rss_stat[MM_FILEPAGES] -= 1

    page_remove_rmap(page)
    swap.put_page(page)
    spin_unlock(ptl)
    if mm.mmu_notifiers and not flags & TTU_MUNLOCK:
        mmu_notifier.mmu_notifier_invalidate_page(mm, address)
    return SWAP_AGAIN


def _mlock_instead(page: Page, vma: Vma) -> int:
    """Reclaim met a page of a locked area: put it among the unevictable.  mmap_sem ranks
    above the rmap locks, so it is only tried."""
    ret = SWAP_AGAIN
    if down_read_trylock(vma.vm_mm.mmap_sem):
        if vma.vm_flags & VM_LOCKED:
            mlock.mlock_vma_page(page)
            ret = SWAP_MLOCK
        up_read(vma.vm_mm.mmap_sem)
    return ret


def update_hiwater_rss(mm: Mm) -> None:
    rss = mm.rss_stat[MM_FILEPAGES] + mm.rss_stat[MM_ANONPAGES]
    if mm.hiwater_rss < rss:
        mm.hiwater_rss = rss


@small
def _is_temporary_stack(vma: Vma, _: Any) -> bool:
    """Whether exec is still building this stack
    (mm/huge_memory.c: is_vma_temporary_stack)."""
    flags = vma_flags(vma)
    return bool(
        flags & VM_GROWSDOWN and flags & VM_STACK_INCOMPLETE_SETUP == VM_STACK_INCOMPLETE_SETUP
    )


def try_to_unmap_nonlinear(page: Page, mapping: AddressSpace, _flags: int) -> int:
    """Unmap clusters of nonlinear areas until as many ptes went as the page has mappings:
    by luck its own are among them  (mm/rmap.c: try_to_unmap_nonlinear)."""
    areas = list(mapping.i_mmap_nonlinear)
    max_cursor = max((_cursor(vma) for vma in areas), default=0)
    max_size = max((vma.vm_end - vma.vm_start for vma in areas), default=0)
    if max_size == 0:
        return SWAP_FAIL
    mapcount = page_mapcount(page)
    if not mapcount:
        return SWAP_AGAIN
    max_size = (max_size + CLUSTER_SIZE - 1) & ~(CLUSTER_SIZE - 1)
    if max_cursor == 0:
        max_cursor = CLUSTER_SIZE
    while True:
        for vma in areas:
            cursor = _cursor(vma)
            while cursor < max_cursor and cursor < vma.vm_end - vma.vm_start:
                unmapped, ret = _try_to_unmap_cluster(cursor, vma, page)
                if ret == SWAP_MLOCK:
                    return SWAP_MLOCK
                mapcount -= unmapped
                cursor += CLUSTER_SIZE
                vma.vm_private_data = cursor
                if mapcount <= 0:
                    return SWAP_AGAIN
            vma.vm_private_data = max_cursor
        max_cursor += CLUSTER_SIZE
        if max_cursor > max_size:
            break
    for vma in areas:
        vma.vm_private_data = None
    return SWAP_AGAIN


def _cursor(vma: Vma) -> int:
    return int(vma.vm_private_data or 0)


def _try_to_unmap_cluster(cursor: int, vma: Vma, check_page: Page) -> tuple[int, int]:
    """The ptes of one cluster that are not young; how many went, and SWAP_MLOCK if
    @check_page is locked there  (mm/rmap.c: try_to_unmap_cluster)."""
    mm = vma.vm_mm
    address = (vma.vm_start + cursor) & ~(CLUSTER_SIZE - 1)
    end = min(address + CLUSTER_SIZE, vma.vm_end)
    address = max(address, vma.vm_start)
    pt = mm_find_pmd(mm, address)
    if pt is None:
        return 0, SWAP_AGAIN
    assert end <= (address & PMD_MASK) + PMD_SIZE
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, address, end)
    locked_vma = False
    if down_read_trylock(mm.mmap_sem):
        locked_vma = bool(vma.vm_flags & VM_LOCKED)
        if not locked_vma:
            up_read(mm.mmap_sem)
    ret, unmapped = SWAP_AGAIN, 0
    ptl = pt.ptl
    with spin_lock(ptl):
        for addr in range(address, end, PAGE_SIZE):
            pte = ptep_get(pt, addr)
            if not pte_present(pte):
                continue
            page = memory.vm_normal_page(vma, addr, pte)
            BUG_ON(page is None or PageAnon(page), "not a file page in a nonlinear area", vma)
            assert page is not None
            if locked_vma:
                if page is check_page:
                    mlock.mlock_vma_page(page)
                    ret = SWAP_MLOCK
                elif trylock_page(page):
                    mlock.mlock_vma_page(page)
                    unlock_page(page)
                continue
            if mmu_notifier.ptep_clear_flush_young_notify(vma, addr, pt):
                continue
            pteval = mmu_notifier.ptep_clear_flush_notify(vma, addr, pt)
            if page.index != linear_page_index(vma, addr):
                file_pte = pgoff_to_pte(page.index)
                if pte_soft_dirty(pteval):
                    file_pte = pte_file_mksoft_dirty(file_pte)
                set_pte_at(mm, addr, pt, file_pte)
            if pte_dirty(pteval):
                page_writeback.set_page_dirty(page)
            page_remove_rmap(page)
            swap.put_page(page)
            mm.rss_stat[MM_FILEPAGES] -= 1
            unmapped += 1
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, address, end)
    if locked_vma:
        up_read(mm.mmap_sem)
    return unmapped, ret


_UNMAP = RmapWalkControl(
    try_to_unmap_one,
    anon_lock=page_lock_anon_vma_read,
    done=page_not_mapped,
    file_nonlinear=try_to_unmap_nonlinear,
)
_UNMAP_FOR_MIGRATION = RmapWalkControl(
    try_to_unmap_one,
    anon_lock=page_lock_anon_vma_read,
    done=page_not_mapped,
    file_nonlinear=try_to_unmap_nonlinear,
    invalid_vma=_is_temporary_stack,
)
_MUNLOCK = RmapWalkControl(
    try_to_unmap_one, anon_lock=page_lock_anon_vma_read, done=page_not_mapped
)


# --- referenced, clean ---


class _References:
    """What page_referenced gathers  (struct page_referenced_arg)."""

    __slots__ = ("mapcount", "referenced", "vm_flags")

    def __init__(self, mapcount: int) -> None:
        self.mapcount = mapcount
        self.referenced = 0
        self.vm_flags = 0


def _page_referenced_one(page: Page, vma: Vma, address: int, arg: _References) -> int:
    """mm/rmap.c: page_referenced_one."""
    if PageTransHuge(page):
        return _huge_page_referenced_one(page, vma, address, arg)
    pt = page_check_address(page, vma.vm_mm, address, False)
    if pt is None:
        return SWAP_AGAIN
    ptl = pt.ptl
    flags = vma_flags(vma)
    if flags & VM_LOCKED:
        spin_unlock(ptl)
        arg.vm_flags |= VM_LOCKED
        return SWAP_FAIL
    young = mmu_notifier.ptep_clear_flush_young_notify(vma, address, pt)
    spin_unlock(ptl)
    if young and not flags & VM_SEQ_READ:
        arg.referenced += 1
        arg.vm_flags |= flags
    arg.mapcount -= 1
    return SWAP_AGAIN if arg.mapcount else SWAP_SUCCESS


def _huge_page_referenced_one(page: Page, vma: Vma, address: int, arg: _References) -> int:
    """The same for a huge page, even while it is being split.  It has no exception for areas
    that are read through."""
    pmds = huge_split.page_check_address_pmd(page, vma.vm_mm, address, splitting=True)
    if pmds is None:
        return SWAP_AGAIN
    flags = vma_flags(vma)
    if flags & VM_LOCKED:
        spin_unlock(pmds.ptl)
        arg.vm_flags |= VM_LOCKED
        return SWAP_FAIL
    young = huge_memory.pmdp_clear_flush_young_notify(vma, address, pmds)
    spin_unlock(pmds.ptl)
    if young:
        arg.referenced += 1
        arg.vm_flags |= flags
    arg.mapcount -= 1
    return SWAP_AGAIN if arg.mapcount else SWAP_SUCCESS


def page_referenced(page: Page, is_locked: bool, memcg: Any = None) -> tuple[int, int]:
    """By how many ptes the page was used since the last call, and the flags of those areas.  One
    reference is counted where the lock of an unlocked file page cannot be had
    (mm/rmap.c: page_referenced)."""
    if not page_mapped(page) or page_mapping_of(page) is None:
        return 0, 0
    we_locked = False
    if not is_locked and (not PageAnon(page) or PageKsm(page)):
        we_locked = trylock_page(page)
        if not we_locked:
            return 1, 0
    found = _References(page_mapcount(page))
    rmap_walk(page, _REFERENCED, found)
    if we_locked:
        unlock_page(page)
    return found.referenced, found.vm_flags


_REFERENCED = RmapWalkControl(_page_referenced_one, anon_lock=page_lock_anon_vma_read)


def _page_mkclean_one(page: Page, vma: Vma, address: int, cleaned: list[int]) -> int:
    """mm/rmap.c: page_mkclean_one."""
    mm = vma.vm_mm
    pt = page_check_address(page, mm, address, True)
    if pt is None:
        return SWAP_AGAIN
    ptl = pt.ptl
    pte = ptep_get(pt, address)
    changed = pte_dirty(pte) or pte_write(pte)
    if changed:
        pte = ptep_clear_flush(vma, address, pt)
        set_pte_at(mm, address, pt, pte_mkclean(pte_wrprotect(pte)))
    spin_unlock(ptl)
    if changed:
        mmu_notifier.mmu_notifier_invalidate_page(mm, address)
        cleaned[0] += 1
    return SWAP_AGAIN


def _is_private(vma: Vma, _: Any) -> bool:
    return not vma_flags(vma) & VM_SHARED


_MKCLEAN = RmapWalkControl(_page_mkclean_one, invalid_vma=_is_private)


def page_mkclean(page: Page) -> int:
    """Write-protect and clean the shared ptes of a locked file page, so that the next
    store faults; how many were dirty or writable  (mm/rmap.c: page_mkclean)."""
    BUG_ON(not PageLocked(page), "page_mkclean of an unlocked page", page)
    if not page_mapped(page) or page_mapping(page) is None:
        return 0
    cleaned = [0]
    rmap_walk(page, _MKCLEAN, cleaned)
    return cleaned[0]
