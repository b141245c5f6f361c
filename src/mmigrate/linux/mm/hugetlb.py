"""Huge pages of hugetlb in address spaces: faults, copies, fork, unmap  (mm/hugetlb.c).

Interface: `hugetlb_fault`, `copy_hugetlb_page_range`, `unmap_hugepage_range`,
`hugetlb_change_protection` do for areas of hugetlb what mm/memory.c does for others;
`hugetlb_reserve_pages` promises them their pages.  The pools are in `hugetlb_pool.py`, walks of
the reverse map in `hugetlb_rmap.py`.

v3.19 knows migration entries in faults and fork only.  Where it takes one for the pte of a page
(unmap, mprotect, a fault that was overtaken), memory would be corrupted from there on: the model
stops at once, with a finding.

Differs: page tables are never shared between processes.
"""

from __future__ import annotations

from errno import ENOMEM, ENOSPC

from mmigrate.linux.include.gfp import GFP_KERNEL
from mmigrate.linux.include.hugetlb import (
    HPAGE_RESV_OWNER,
    HPAGE_RESV_UNMAPPED,
    ResvMap,
    VmaReservation,
    hstate_vma,
)
from mmigrate.linux.include.mm import (
    FAULT_FLAG_WRITE,
    FOLL_GET,
    FOLL_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_HWPOISON,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import AddressSpace, Inode, Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    PAGE_SHIFT,
    PMD_MASK,
    is_write_migration_entry,
    make_migration_entry_read,
    pfn_pte,
    pmd_mkhuge,
    pmd_modify,
    pmd_trans_huge,
    pte_dirty,
    pte_mkdirty,
    pte_mkwrite,
    pte_mkyoung,
    pte_pfn,
    pte_present,
    pte_to_swp_entry,
    pte_write,
    pte_wrprotect,
    swp_entry_to_pte,
)
from mmigrate.linux.include.switches import (
    FOLLOW_HUGE_PMD_LOCKED,
    HUGE_FAULT_TRIES_LOCK,
    HUGE_PROTECT_KNOWS_ENTRIES,
    HUGE_SLOT_MAY_BE_ENTRY,
    HUGE_UNMAP_KNOWS_ENTRIES,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.area import vma_page_prot
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE, atomic_dec_and_test, atomic_inc
from mmigrate.linux.kernel.bug import BUG, BUG_ON
from mmigrate.linux.kernel.highmem import clear_highpage, copy_user_highpage
from mmigrate.linux.kernel.huge_pte import (
    PMD_LEVEL,
    huge_pte_lockptr,
    huge_pte_offset,
    huge_ptep_clear_flush,
    huge_ptep_get,
    huge_ptep_get_and_clear,
    huge_ptep_set_access_flags,
    huge_ptep_set_wrprotect,
    is_hugetlb_entry_hwpoisoned,
    is_hugetlb_entry_migration,
    set_huge_pte_at,
)
from mmigrate.linux.kernel.page_flags import (
    ClearPagePrivate,
    PageAnon,
    PageHead,
    PageHWPoison,
    SetPageUptodate,
    lock_page,
    trylock_page,
    unlock_page,
    wait_on_page_locked,
)
from mmigrate.linux.kernel.page_ref import (
    get_page,
    get_page_foll,
    page_mapcount,
)
from mmigrate.linux.kernel.rwsem import RwSemaphore, down_write, mutex_lock
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_lock_nested, spin_unlock
from mmigrate.linux.kernel.tlb import flush_tlb_range
from mmigrate.linux.mm import (
    filemap,
    hugetlb_pool,
    hugetlb_rmap,
    mmu_notifier,
    page_tables,
    page_writeback,
    rmap,
    swap,
)
from mmigrate.linux.mm.hugetlb_regions import region_add, region_chg, region_truncate

# --- promises of a whole mapping or file ---


def resv_map_alloc(name: str) -> ResvMap:
    return ResvMap(SpinLock("resv_map lock", f"{name} resv_map"))


def hugetlb_reserve_pages(inode: Inode, from_: int, to: int, vma: Vma | None, vm_flags: int) -> int:
    """Promise the pages of a new mapping, by offset in huge pages; 0, -ENOMEM or -ENOSPC
    (mm/hugetlb.c: hugetlb_reserve_pages)."""
    kernel = inode.kernel
    h, spool = inode.fs.hstate, inode.fs.spool
    if vm_flags & VM_NORESERVE:
        return 0
    shared = vma is None or vma.vm_flags & VM_MAYSHARE
    if shared:
        chg = region_chg(inode.fs.resv_map, from_, to)
    else:
        assert vma is not None
        chg = to - from_
        vma.vm_private_data = VmaReservation(resv_map_alloc(repr(vma)), HPAGE_RESV_OWNER)
    error = -ENOSPC if hugetlb_pool.hugepage_subpool_get_pages(spool, chg) else 0
    if not error:
        error = hugetlb_pool.hugetlb_acct_memory(kernel, h, chg)
        if error:
            hugetlb_pool.hugepage_subpool_put_pages(spool, chg)
    if error:
        if not shared and vma is not None:
            vma.vm_private_data = None
        return error
    if shared:
        region_add(inode.fs.resv_map, from_, to)
    return 0


def hugetlb_unreserve_pages(inode: Inode, offset: int, freed: int) -> None:
    """The file ends at @offset now, and @freed pages behind it are gone
    (mm/hugetlb.c: hugetlb_unreserve_pages)."""
    chg = region_truncate(inode.fs.resv_map, offset)
    hugetlb_pool.hugepage_subpool_put_pages(inode.fs.spool, chg - freed)
    hugetlb_pool.hugetlb_acct_memory(inode.kernel, inode.fs.hstate, -(chg - freed))


def hugetlb_vm_op_open(vma: Vma) -> None:
    """Half of a split area shares the map; a child has reset its own before
    (mm/hugetlb.c: hugetlb_vm_op_open)."""
    found = hugetlb_pool.vma_reservation(vma)
    if found is not None and found.map is not None and found.flags & HPAGE_RESV_OWNER:
        atomic_inc(found.map, "refs")


def hugetlb_vm_op_close(vma: Vma) -> None:
    """Give back what was promised and not used  (mm/hugetlb.c: hugetlb_vm_op_close)."""
    found = hugetlb_pool.vma_reservation(vma)
    if found is None or found.map is None or not found.flags & HPAGE_RESV_OWNER:
        return
    assert vma.vm_file is not None
    inode = vma.vm_file.f_inode
    reserve = hugetlb_pool.vma_unused_reservation(inode.fs.hstate, vma, found.map)
    atomic_dec_and_test(found.map, "refs")
    if reserve:
        hugetlb_pool.hugetlb_acct_memory(inode.kernel, inode.fs.hstate, -reserve)
        hugetlb_pool.hugepage_subpool_put_pages(inode.fs.spool, reserve)


def reset_vma_resv_huge_pages(vma: Vma) -> None:
    """A child has no claim on what its parent was promised
    (mm/hugetlb.c: reset_vma_resv_huge_pages)."""
    if not vma.vm_flags & VM_MAYSHARE:
        vma.vm_private_data = None


# --- entries and contents ---


def make_huge_pte(vma: Vma, page: Page, writable: bool) -> int:
    """mm/hugetlb.c: make_huge_pte."""
    entry = pfn_pte(page.pfn, vma_page_prot(vma))
    entry = pte_mkwrite(pte_mkdirty(entry)) if writable else pte_wrprotect(entry)
    return pmd_mkhuge(pte_mkyoung(entry))


def set_huge_ptep_writable(vma: Vma, address: int, pt: PageTable) -> None:
    """mm/hugetlb.c: set_huge_ptep_writable."""
    entry = pte_mkwrite(pte_mkdirty(huge_ptep_get(pt, address)))
    huge_ptep_set_access_flags(vma, address, pt, entry, True)


def huge_pte_alloc(mm: Mm, addr: int, size: int) -> PageTable:
    """The table with the slot for @addr  (arch/x86/mm/hugetlbpage.c: huge_pte_alloc)."""
    pmds = huge_pte_offset(mm, addr)
    if size == 1 << 30:
        if pmds is None or pmds.level == PMD_LEVEL:
            pmds = page_tables.pud_alloc(mm, addr)
    elif pmds is None:
        pmds = page_tables.pmd_alloc(mm, addr)
    entry = huge_ptep_get(pmds, addr)
    # Known defect of v3.19: migration may have put its entry there since the caller looked.
    wrong = pte_present(entry) if mm.kernel.has(HUGE_SLOT_MAY_BE_ENTRY) else entry != 0
    BUG_ON(wrong and not pmd_trans_huge(entry), "a slot is neither empty nor huge", mm)
    return pmds


def page_of_entry(mm: Mm, entry: int, where: str) -> Page:
    """The page that an entry maps, for code that does not ask what the entry is.  The frame of a
    migration entry is a number without meaning."""
    if not pte_present(entry):
        BUG(f"{where}: a migration entry is taken for the pte of a huge page", mm)
    return mm.kernel.page_of(pte_pfn(entry))


def clear_huge_page(page: Page) -> None:
    """mm/memory.c: clear_huge_page."""
    for index in range(hugetlb_pool.page_hstate(page).pages):
        clear_highpage(hugetlb_pool.first_of(page, index))


def copy_user_huge_page(dst: Page, src: Page) -> None:
    """mm/memory.c: copy_user_huge_page."""
    for index in range(hugetlb_pool.page_hstate(src).pages):
        copy_user_highpage(hugetlb_pool.first_of(dst, index), hugetlb_pool.first_of(src, index))


# --- faults ---


def _fault_mutex(mm: Mm, vma: Vma, mapping: AddressSpace, idx: int, address: int) -> RwSemaphore:
    """Two faults on one page would take two pages out of the pool, and one of them may find it
    empty: so they wait for each other  (mm/hugetlb.c: fault_mutex_hash)."""
    key = (mapping.name, idx) if vma.vm_flags & VM_SHARED else (mm.name, address >> 21)
    mutexes = hugetlb_pool.state(mm.kernel).mutexes
    found = mutexes.get(key)
    if found is None:
        name = f"fault mutex of {key[0]} {key[1]}"
        found = mutexes[key] = RwSemaphore("htlb_fault_mutex", name)
    return found


def hugetlb_fault(mm: Mm, vma: Vma, address: int, flags: int) -> int:
    """Make @address accessible; VM_FAULT_* bits.  Known defect of v3.19: the first look, which
    knows migration entries, is before the mutex (mm/hugetlb.c: hugetlb_fault)."""
    h = hstate_vma(vma)
    address &= h.mask
    pt = huge_pte_offset(mm, address)
    if pt is not None:
        entry = huge_ptep_get(pt, address)
        if is_hugetlb_entry_migration(entry):
            hugetlb_rmap.migration_entry_wait_huge(mm, pt, address)
            return 0
        if is_hugetlb_entry_hwpoisoned(entry):
            return VM_FAULT_HWPOISON
    pt = huge_pte_alloc(mm, address, h.size)
    assert vma.vm_file is not None
    mapping = vma.vm_file.f_mapping
    idx = hugetlb_pool.vma_hugecache_offset(h, vma, address)
    with mutex_lock(_fault_mutex(mm, vma, mapping, idx, address)):
        entry = huge_ptep_get(pt, address)
        if entry == 0:
            return hugetlb_no_page(mm, vma, mapping, idx, address, pt, flags)
        if mm.kernel.has(HUGE_FAULT_TRIES_LOCK):
            if not pte_present(entry):
                return 0
            ret, waits_for = _hugetlb_wp_trying(mm, vma, mapping, idx, address, pt, entry, flags)
        else:
            ret = _hugetlb_wp(mm, vma, mapping, idx, address, pt, entry, flags)
            waits_for = None
    if waits_for is not None:
        wait_on_page_locked(waits_for)
    return ret


def _cached_for_cow(
    mm: Mm, vma: Vma, mapping: AddressSpace, idx: int, address: int, entry: int, flags: int
) -> Page | None:
    """For a store to a private area: the file's page, locked.  It ranks before the lock of the
    page that is mapped."""
    if not flags & FAULT_FLAG_WRITE or pte_write(entry):
        return None
    hugetlb_pool.vma_needs_reservation(hstate_vma(vma), vma, address)
    if vma.vm_flags & VM_MAYSHARE:
        return None
    return filemap.find_lock_page(mapping, idx)  # hugetlbfs_pagecache_page


def _hugetlb_wp(
    mm: Mm,
    vma: Vma,
    mapping: AddressSpace,
    idx: int,
    address: int,
    pt: PageTable,
    entry: int,
    flags: int,
) -> int:
    """The part of hugetlb_fault for a page that is mapped."""
    cached = _cached_for_cow(mm, vma, mapping, idx, address, entry, flags)
    page = page_of_entry(mm, entry, "hugetlb_fault")
    get_page(page)  # Known defect: it may have been freed since the look (0f792cf949a0)
    if page is not cached:
        lock_page(page)
    ptl = spin_lock(huge_pte_lockptr(mm, pt))
    ret = 0
    if huge_ptep_get(pt, address) == entry:
        ret = _wp_locked(mm, vma, address, pt, entry, page, cached, ptl, flags)
    spin_unlock(ptl)
    if cached is not None:
        unlock_page(cached)
        swap.put_page(cached)
    if page is not cached:
        unlock_page(page)
    swap.put_page(page)
    return ret


def _hugetlb_wp_trying(
    mm: Mm,
    vma: Vma,
    mapping: AddressSpace,
    idx: int,
    address: int,
    pt: PageTable,
    entry: int,
    flags: int,
) -> tuple[int, Page | None]:
    """The same since Linux kernel commit 0f792cf949a0 ("mm/hugetlb: fix getting refcount 0 page in
    hugetlb_fault()") (in v4.0): the page is taken under the lock of the page table, which rules
    out waiting for the page.  What to wait for at the end, too."""
    cached = _cached_for_cow(mm, vma, mapping, idx, address, entry, flags)
    ptl = spin_lock(huge_pte_lockptr(mm, pt))
    ret, waits_for = 0, None
    if huge_ptep_get(pt, address) == entry:
        page = mm.kernel.page_of(pte_pfn(entry))
        if page is not cached and not trylock_page(page):
            waits_for = page
        else:
            get_page(page)
            ret = _wp_locked(mm, vma, address, pt, entry, page, cached, ptl, flags)
            if page is not cached:
                unlock_page(page)
            swap.put_page(page)
    spin_unlock(ptl)
    if cached is not None:
        unlock_page(cached)
        swap.put_page(cached)
    return ret, waits_for


def _wp_locked(
    mm: Mm,
    vma: Vma,
    address: int,
    pt: PageTable,
    entry: int,
    page: Page,
    cached: Page | None,
    ptl: SpinLock,
    flags: int,
) -> int:
    if flags & FAULT_FLAG_WRITE:
        if not pte_write(entry):
            return hugetlb_cow(mm, vma, address, pt, entry, cached, ptl)
        entry = pte_mkdirty(entry)
    dirty = bool(flags & FAULT_FLAG_WRITE)
    huge_ptep_set_access_flags(vma, address, pt, pte_mkyoung(entry), dirty)
    return 0


def hugetlb_no_page(
    mm: Mm,
    vma: Vma,
    mapping: AddressSpace,
    idx: int,
    address: int,
    pt: PageTable,
    flags: int,
) -> int:
    """Nothing is mapped: the file's page, or a new one  (mm/hugetlb.c: hugetlb_no_page)."""
    if hugetlb_pool.is_vma_resv_set(vma, HPAGE_RESV_UNMAPPED):
        return VM_FAULT_SIGBUS  # its page went to the owner of the reservation
    h = hstate_vma(vma)
    host = mapping.host
    assert host is not None
    anon = False
    page = filemap.find_lock_page(mapping, idx)
    while page is None:
        if idx >= READ_ONCE(host, "i_size") >> h.shift:
            return VM_FAULT_SIGBUS
        new = hugetlb_pool.alloc_huge_page(vma, address, False)
        if isinstance(new, int):
            return VM_FAULT_OOM if new == -ENOMEM else VM_FAULT_SIGBUS
        clear_huge_page(new)
        SetPageUptodate(new)
        if not vma.vm_flags & VM_MAYSHARE:
            lock_page(new)
            anon = True
            page = new
            if rmap.anon_vma_prepare(vma):
                return _backout(page, VM_FAULT_OOM)
        elif add_to_page_cache(new, mapping, idx) == 0:
            ClearPagePrivate(new)
            page = new
        else:
            swap.put_page(new)  # somebody was faster
            page = filemap.find_lock_page(mapping, idx)
    if not anon and PageHWPoison(page):
        return _backout(page, VM_FAULT_HWPOISON)
    if flags & FAULT_FLAG_WRITE and not vma.vm_flags & VM_SHARED:
        hugetlb_pool.vma_needs_reservation(h, vma, address)
    ptl = spin_lock(huge_pte_lockptr(mm, pt))
    if idx >= READ_ONCE(host, "i_size") >> h.shift:
        spin_unlock(ptl)
        return _backout(page, VM_FAULT_SIGBUS)
    if huge_ptep_get(pt, address) != 0:
        spin_unlock(ptl)
        return _backout(page, 0)
    if anon:
        ClearPagePrivate(page)
        hugetlb_rmap.hugepage_add_new_anon_rmap(page, vma, address)
    else:
        rmap.page_dup_rmap(page)
    writable = vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED
    entry = make_huge_pte(vma, page, writable)
    set_huge_pte_at(mm, address, pt, entry)
    ret = 0
    if flags & FAULT_FLAG_WRITE and not vma.vm_flags & VM_SHARED:
        ret = hugetlb_cow(mm, vma, address, pt, entry, page, ptl)
    spin_unlock(ptl)
    unlock_page(page)
    return ret


def _backout(page: Page, ret: int) -> int:
    unlock_page(page)
    swap.put_page(page)
    return ret


def add_to_page_cache(page: Page, mapping: AddressSpace, idx: int) -> int:
    """Lock and insert a page that nobody else knows; 0 or -EEXIST
    (include/linux/pagemap.h: add_to_page_cache)."""
    lock_page(page)
    error = filemap.add_to_page_cache_locked(page, mapping, idx, GFP_KERNEL)
    if error:
        unlock_page(page)
    return error


def hugetlb_cow(
    mm: Mm,
    vma: Vma,
    address: int,
    pt: PageTable,
    pte: int,
    pagecache_page: Page | None,
    ptl: SpinLock,
) -> int:
    """A store to a write-protected page, which is locked; @ptl is held on entry and on return
    (mm/hugetlb.c: hugetlb_cow)."""
    kernel = mm.kernel
    h = hstate_vma(vma)
    old_page = kernel.page_of(pte_pfn(pte))
    while True:
        if page_mapcount(old_page) == 1 and PageAnon(old_page):
            rmap.page_move_anon_rmap(old_page, vma, address)
            set_huge_ptep_writable(vma, address, pt)
            return 0
        # The reserve was for a page of the file, and we want a copy of a copy.
        outside = (
            hugetlb_pool.is_vma_resv_set(vma, HPAGE_RESV_OWNER) and old_page is not pagecache_page
        )
        get_page(old_page)
        spin_unlock(ptl)
        new = hugetlb_pool.alloc_huge_page(vma, address, outside)
        if not isinstance(new, int):
            break
        swap.put_page(old_page)
        if not outside:
            spin_lock(ptl)
            return VM_FAULT_OOM if new == -ENOMEM else VM_FAULT_SIGBUS
        # The promise is kept at the cost of our children.
        _unmap_ref_private(vma, old_page, address)
        spin_lock(ptl)
        if huge_ptep_get(pt, address) != pte:
            return 0
    new_page: Page = new
    if rmap.anon_vma_prepare(vma):
        swap.put_page(new_page)
        swap.put_page(old_page)
        spin_lock(ptl)
        return VM_FAULT_OOM
    copy_user_huge_page(new_page, old_page)
    SetPageUptodate(new_page)
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, address, address + h.size)
    unused = new_page
    spin_lock(ptl)
    if huge_ptep_get(pt, address) == pte:
        ClearPagePrivate(new_page)
        huge_ptep_clear_flush(vma, address, pt)
        mmu_notifier.mmu_notifier_invalidate_range(mm, address, address + h.size)
        set_huge_pte_at(mm, address, pt, make_huge_pte(vma, new_page, True))
        rmap.page_remove_rmap(old_page)
        hugetlb_rmap.hugepage_add_new_anon_rmap(new_page, vma, address)
        unused = old_page
    spin_unlock(ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, address, address + h.size)
    swap.put_page(unused)
    swap.put_page(old_page)
    spin_lock(ptl)
    return 0


def _unmap_ref_private(vma: Vma, page: Page, address: int) -> None:
    """Take a page away from all who map it privately and have no promise: they will get SIGBUS
    (mm/hugetlb.c: unmap_ref_private)."""
    h = hstate_vma(vma)
    assert vma.vm_file is not None
    mapping = vma.vm_file.f_mapping
    pgoff = ((address - vma.vm_start) >> PAGE_SHIFT) + vma.vm_pgoff
    with down_write(mapping.i_mmap_rwsem):
        for other in mapping.i_mmap.overlapping(pgoff, pgoff):
            if other is not vma and not hugetlb_pool.is_vma_resv_set(other, HPAGE_RESV_OWNER):
                unmap_hugepage_range(other, address, address + h.size, page)


# --- unmapping, protection, fork ---


def unmap_hugepage_range(vma: Vma, start: int, end: int, ref_page: Page | None) -> None:
    """mm/hugetlb.c: unmap_hugepage_range.  The file's i_mmap_rwsem is held for write."""
    gather = page_tables.MmuGather(vma)
    __unmap_hugepage_range(gather, vma, start, end, ref_page)
    gather.finish()


def __unmap_hugepage_range(
    gather: page_tables.MmuGather, vma: Vma, start: int, end: int, ref_page: Page | None
) -> None:
    """Take the ptes of a range away, or only that of @ref_page.  Known defect of v3.19: migration
    entries are not known here, fixed by Linux kernel commit 9fbc1f635fd0 ("mm/hugetlb: add
    migration entry check in __unmap_hugepage_range") (in v4.0)
    (mm/hugetlb.c: __unmap_hugepage_range)."""
    mm, h = vma.vm_mm, hstate_vma(vma)
    knows_entries = mm.kernel.has(HUGE_UNMAP_KNOWS_ENTRIES)
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, start, end)
    for address in range(start, end, h.size):
        pt = huge_pte_offset(mm, address)
        if pt is None:
            continue
        with spin_lock(huge_pte_lockptr(mm, pt)):
            entry = huge_ptep_get(pt, address)
            if entry == 0:
                continue
            if is_hugetlb_entry_hwpoisoned(entry) or (knows_entries and not pte_present(entry)):
                set_huge_pte_at(mm, address, pt, 0)
                continue
            if ref_page is not None:
                if pte_pfn(entry) != ref_page.pfn:
                    continue
                hugetlb_pool.set_vma_resv_flags(vma, HPAGE_RESV_UNMAPPED)
            page = page_of_entry(mm, entry, "__unmap_hugepage_range")
            entry = huge_ptep_get_and_clear(mm, address, pt)
            gather.note(address)
            if pte_dirty(entry):
                page_writeback.set_page_dirty(page)
            rmap.page_remove_rmap(page)
            gather.pages.append(page)
        if ref_page is not None:
            break
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, start, end)


def __unmap_hugepage_range_final(
    gather: page_tables.MmuGather, vma: Vma, start: int, end: int
) -> None:
    """The area goes away altogether: nobody shall share its page tables any more
    (mm/hugetlb.c: __unmap_hugepage_range_final).

    Differs: VM_MAYSHARE stays, as no page tables are shared.
    """
    assert vma.vm_file is not None
    with down_write(vma.vm_file.f_mapping.i_mmap_rwsem):
        __unmap_hugepage_range(gather, vma, start, end, None)


def hugetlb_change_protection(vma: Vma, address: int, end: int, newprot: int) -> int:
    """Bring the ptes of a range in line; how many base pages changed.  Known defect of v3.19:
    migration entries are not known here, fixed by Linux kernel commit a8bda28d87c3 ("mm/hugetlb:
    add migration/hwpoisoned entry check in hugetlb_change_protection") (in v4.0)
    (mm/hugetlb.c: hugetlb_change_protection)."""
    mm, h = vma.vm_mm, hstate_vma(vma)
    knows_entries = mm.kernel.has(HUGE_PROTECT_KNOWS_ENTRIES)
    pages = 0
    start = address
    assert vma.vm_file is not None
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, start, end)
    with down_write(vma.vm_file.f_mapping.i_mmap_rwsem):
        for address in range(start, end, h.size):
            pt = huge_pte_offset(mm, address)
            if pt is None:
                continue
            with spin_lock(huge_pte_lockptr(mm, pt)):
                entry = huge_ptep_get(pt, address)
                if entry == 0:
                    continue
                if knows_entries and not pte_present(entry):
                    if is_hugetlb_entry_migration(entry) and is_write_migration_entry(
                        pte_to_swp_entry(entry)
                    ):
                        read = make_migration_entry_read(pte_to_swp_entry(entry))
                        set_huge_pte_at(mm, address, pt, swp_entry_to_pte(read))
                        pages += 1
                    continue
                page_of_entry(mm, entry, "hugetlb_change_protection")
                entry = huge_ptep_get_and_clear(mm, address, pt)
                set_huge_pte_at(mm, address, pt, pmd_mkhuge(pmd_modify(entry, newprot)))
                pages += 1
        flush_tlb_range(vma, start, end)
        mmu_notifier.mmu_notifier_invalidate_range(mm, start, end)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, start, end)
    return pages << h.order


def copy_hugetlb_page_range(dst: Mm, src: Mm, vma: Vma) -> int:
    """fork: the child maps the same pages, both write-protected where they are private; 0
    (mm/hugetlb.c: copy_hugetlb_page_range)."""
    h = hstate_vma(vma)
    cow = vma.vm_flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE
    if cow:
        mmu_notifier.mmu_notifier_invalidate_range_start(src, vma.vm_start, vma.vm_end)
    for addr in range(vma.vm_start, vma.vm_end, h.size):
        src_pt = huge_pte_offset(src, addr)
        if src_pt is None:
            continue
        dst_pt = huge_pte_alloc(dst, addr, h.size)
        dst_ptl = spin_lock(huge_pte_lockptr(dst, dst_pt))
        src_ptl = spin_lock_nested(huge_pte_lockptr(src, src_pt))
        entry = huge_ptep_get(src_pt, addr)
        if entry != 0 and not pte_present(entry):
            swap_entry = pte_to_swp_entry(entry)
            if is_write_migration_entry(swap_entry) and cow:
                entry = swp_entry_to_pte(make_migration_entry_read(swap_entry))
                set_huge_pte_at(src, addr, src_pt, entry)
            set_huge_pte_at(dst, addr, dst_pt, entry)
        elif entry != 0:
            if cow:
                huge_ptep_set_wrprotect(src, addr, src_pt)
                mmu_notifier.mmu_notifier_invalidate_range(src, vma.vm_start, vma.vm_end)
            entry = huge_ptep_get(src_pt, addr)
            page = src.kernel.page_of(pte_pfn(entry))
            get_page(page)
            rmap.page_dup_rmap(page)
            set_huge_pte_at(dst, addr, dst_pt, entry)
        spin_unlock(src_ptl)
        spin_unlock(dst_ptl)
    if cow:
        mmu_notifier.mmu_notifier_invalidate_range_end(src, vma.vm_start, vma.vm_end)
    return 0


# --- looking pages up ---


def follow_huge_page(vma: Vma, addr: int, flags: int) -> Page | None:
    """The page at an address, for follow_page.  With FOLL_GET heads only, and none of 1 GiB
    (mm/gup.c: follow_page_mask; mm/hugetlb.c: follow_huge_pmd, follow_huge_pud).

    Known defect of v3.19: no lock is taken, and the page may be freed between the look and the
    reference; fixed by Linux kernel commit e66f17ff7177 ("mm/hugetlb: take page table lock in
    follow_huge_pmd()") (in v4.0).
    """
    mm = vma.vm_mm
    pt = huge_pte_offset(mm, addr)
    if pt is None:
        return None
    if pt.level != PMD_LEVEL:
        entry = huge_ptep_get(pt, addr)
        if flags & FOLL_GET or not pte_present(entry):
            return None
        head = mm.kernel.page_of(pte_pfn(entry))
        return hugetlb_pool.first_of(head, (addr & ((1 << 30) - 1)) >> PAGE_SHIFT)
    if mm.kernel.has(FOLLOW_HUGE_PMD_LOCKED):
        return _follow_huge_pmd_locked(mm, pt, addr, flags)
    if not pmd_trans_huge(huge_ptep_get(pt, addr)):
        return None
    head = page_of_entry(mm, huge_ptep_get(pt, addr), "follow_huge_pmd")
    page = hugetlb_pool.first_of(head, (addr & ~PMD_MASK) >> PAGE_SHIFT)
    if flags & FOLL_GET:
        if not PageHead(page):
            return None
        get_page(page)
    return page


def _follow_huge_pmd_locked(mm: Mm, pt: PageTable, addr: int, flags: int) -> Page | None:
    """mm/hugetlb.c of v4.0: follow_huge_pmd."""
    while True:
        ptl = spin_lock(huge_pte_lockptr(mm, pt))
        entry = huge_ptep_get(pt, addr)
        if not is_hugetlb_entry_migration(entry):
            break
        spin_unlock(ptl)
        hugetlb_rmap.migration_entry_wait_huge(mm, pt, addr)
    page = None
    if pte_present(entry):
        head = mm.kernel.page_of(pte_pfn(entry))
        page = hugetlb_pool.first_of(head, (addr & ~PMD_MASK) >> PAGE_SHIFT)
        if flags & FOLL_GET:
            get_page_foll(page)
    spin_unlock(ptl)
    return page


def follow_hugetlb_page(vma: Vma, vaddr: int, flags: int) -> Page | int:
    """The base page at an address, with a reference if FOLL_GET, faulted in if need be; the bits
    of a fault that failed  (mm/hugetlb.c: follow_hugetlb_page, for one page)."""
    mm, h = vma.vm_mm, hstate_vma(vma)
    while True:
        pt = huge_pte_offset(mm, vaddr)
        if pt is not None:
            with spin_lock(huge_pte_lockptr(mm, pt)):
                entry = huge_ptep_get(pt, vaddr)
                if pte_present(entry) and (not flags & FOLL_WRITE or pte_write(entry)):
                    head = mm.kernel.page_of(pte_pfn(entry))
                    page = hugetlb_pool.first_of(head, (vaddr & ~h.mask) >> PAGE_SHIFT)
                    if flags & FOLL_GET:
                        get_page_foll(page)
                    return page
        ret = hugetlb_fault(mm, vma, vaddr, FAULT_FLAG_WRITE if flags & FOLL_WRITE else 0)
        if ret & VM_FAULT_ERROR:
            return ret
        sched.cond_resched()


def populate_step(vma: Vma, addr: int) -> int:
    """Where populating goes on after a page of hugetlb at @addr: behind it."""
    h = hstate_vma(vma)
    return (addr & h.mask) + h.size


# --- truncation ---


def hugetlb_vmtruncate(inode: Inode, offset: int) -> None:
    """Cut a file off at @offset bytes  (fs/hugetlbfs/inode.c: hugetlb_vmtruncate)."""
    pgoff = offset >> PAGE_SHIFT
    WRITE_ONCE(inode, "i_size", offset)
    mapping = inode.i_mapping
    with down_write(mapping.i_mmap_rwsem):
        for vma in mapping.i_mmap.overlapping(pgoff, 1 << 62):
            skipped = max(0, pgoff - vma.vm_pgoff) << PAGE_SHIFT
            unmap_hugepage_range(vma, vma.vm_start + skipped, vma.vm_end, None)
    truncate_hugepages(inode, offset)


def truncate_hugepages(inode: Inode, lstart: int) -> None:
    """Drop the pages of a file from byte @lstart on  (fs/hugetlbfs/inode.c: truncate_hugepages)."""
    mapping = inode.i_mapping
    start = lstart >> inode.fs.hstate.shift
    freed = 0
    for index in list(mapping.page_tree.indices(start, 1 << 62)):
        page = filemap.find_lock_page(mapping, index)
        if page is None:
            continue
        page_writeback.cancel_dirty_page(page)
        filemap.delete_from_page_cache(page)
        unlock_page(page)
        swap.put_page(page)
        freed += 1
    hugetlb_unreserve_pages(inode, start, freed)
