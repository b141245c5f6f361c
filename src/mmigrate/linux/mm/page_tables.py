"""Page tables as a whole: growing, copying at fork, emptying, freeing  (mm/memory.c).

Differs: only tables of ptes are ever freed; those above them stay with the mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmigrate.linux.include.mm import (
    VM_HUGETLB,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_NONLINEAR,
    VM_PFNMAP,
    VM_SEQ_READ,
    VM_SHARED,
)
from mmigrate.linux.include.mm_types import AddressSpace, Mm, Page, PageTable, Vma
from mmigrate.linux.include.page_flags import PG_anon_shared
from mmigrate.linux.include.pgtable import (
    _PAGE_SPECIAL,
    _PRESENT_NONUMA,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    PTE_PFN_MASK,
    is_migration_entry,
    is_write_migration_entry,
    make_migration_entry_read,
    non_swap_entry,
    pgoff_to_pte,
    pmd_trans_huge,
    pmd_trans_splitting,
    pte_dirty,
    pte_file,
    pte_file_mksoft_dirty,
    pte_mkclean,
    pte_mkold,
    pte_present,
    pte_soft_dirty,
    pte_swp_mksoft_dirty,
    pte_swp_soft_dirty,
    pte_to_swp_entry,
    pte_wrprotect,
    pte_young,
    swp_entry_to_pte,
)
from mmigrate.linux.include.switches import KEEP_SOFT_DIRTY, REMEMBER_EXCLUSIVE
from mmigrate.linux.include.vmstat import MM_ANONPAGES, MM_FILEPAGES, MM_SWAPENTS
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.frames import pfn_to_page
from mmigrate.linux.kernel.page_flags import PageAnon
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.kernel.pgtable import (
    find_leaf,
    find_pmds,
    pmd_clear,
    pmd_get,
    pmd_populate,
    pte_lockptr_of,
    ptep_get,
    ptep_get_and_clear,
    ptep_set_wrprotect,
    set_pte_at,
)
from mmigrate.linux.kernel.rwsem import down_write
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_lock_nested, spin_unlock
from mmigrate.linux.kernel.straight import small
from mmigrate.linux.kernel.tlb import flush_tlb_range
from mmigrate.linux.mm import (
    huge_memory,
    huge_split,
    hugetlb,
    migrate,
    mmap,
    mmu_notifier,
    page_writeback,
    rmap,
    swap,
    swap_state,
    swapfile,
)


def is_cow_mapping(flags: int) -> bool:
    return flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE


@small
def vm_normal_page(vma: Vma, addr: int, pte: int) -> Page | None:
    """The page of a present pte, or None if it is special: the zero page, a raw frame
    (mm/memory.c: vm_normal_page)."""
    if (pte & _PAGE_SPECIAL and pte & _PRESENT_NONUMA) or vma.vm_flags & VM_PFNMAP:
        return None
    return pfn_to_page(vma.vm_mm.kernel, (pte & PTE_PFN_MASK) >> PAGE_SHIFT)


# --- growing ---


def new_table(mm: Mm, level: int) -> PageTable:
    kernel = mm.kernel
    number = sched.fresh_number(kernel, "table_numbers")
    lock = SpinLock("ptl" if level == 1 else "pmd lock", f"table {number} lock")
    return PageTable(level, number, lock)


def pte_alloc_map(mm: Mm, vma: Vma | None, addr: int) -> PageTable:
    """The table of ptes for @addr, made if it is missing  (mm/memory.c: __pte_alloc)."""
    leaf = find_leaf(mm, addr)
    if leaf is not None:
        return leaf
    pmds = pmd_alloc(mm, addr)
    __pte_alloc(mm, vma, pmds, addr)
    return pte_lockptr_of(pmd_get(pmds, addr), addr)


def pud_alloc(mm: Mm, addr: int) -> PageTable:
    """The table of puds for @addr, made if it is missing  (mm/memory.c: __pud_alloc)."""
    with spin_lock(mm.page_table_lock):
        puds: PageTable | None = mm.pgd.entries[(addr >> 39) & 511]
        if puds is None:
            puds = mm.pgd.entries[(addr >> 39) & 511] = new_table(mm, 3)
    return puds


def pmd_alloc(mm: Mm, addr: int) -> PageTable:
    """The table of pmds for @addr, made if it is missing  (mm/memory.c: __pud_alloc,
    __pmd_alloc)."""
    pmds = find_pmds(mm, addr)
    if pmds is not None:
        return pmds
    with spin_lock(mm.page_table_lock):
        table = mm.pgd
        for level, shift in ((3, 39), (2, 30)):
            index = (addr >> shift) & 511
            lower: PageTable | None = table.entries[index]
            if lower is None:  # nobody was faster
                lower = table.entries[index] = new_table(mm, level)
            table = lower
    return table


def __pte_alloc(mm: Mm, vma: Vma | None, pmds: PageTable, addr: int) -> None:
    """Hang a table of ptes below an empty pmd; if a huge page is being split there, wait for the
    one that it leaves  (mm/memory.c: __pte_alloc)."""
    with spin_lock(pmds.ptl):
        pmd = pmd_get(pmds, addr)
        if pmd is None:  # nobody was faster
            pmd_populate(pmds, addr, new_table(mm, 1))
    if pmd_trans_splitting(pmd):
        assert vma is not None
        huge_memory.wait_split_huge_page(vma.anon_vma, pmds, addr)


# --- freeing ---


def free_pgtables(mm: Mm, areas: Sequence[Vma], floor: int, ceiling: int) -> None:
    """Unlink areas from the reverse maps, then free the tables no other area needs.
    @floor: where the area before them ends, @ceiling: where the next begins
    (mm/memory.c: free_pgtables)."""
    for vma in areas:
        rmap.unlink_anon_vmas(vma)
        mmap.unlink_file_vma(vma)
    if areas:
        free_pgd_range(mm, areas[0].vm_start, areas[-1].vm_end, floor, ceiling)


def free_pgd_range(mm: Mm, addr: int, end: int, floor: int, ceiling: int) -> None:
    """Free the tables of a range, but for those at its ends that are shared with what lies
    below @floor or above @ceiling  (mm/memory.c: free_pgd_range)."""
    addr &= PMD_MASK
    if addr < floor:
        addr += PMD_SIZE
    if ceiling & ~PMD_MASK and end > ceiling & PMD_MASK:
        end = ceiling & PMD_MASK
    while addr < end:
        table = mm.pgd.entries[(addr >> 39) & 511]
        if table is None:
            addr = ((addr >> 39) + 1) << 39
            continue
        table = table.entries[(addr >> 30) & 511]
        if type(table) is not PageTable:
            addr = ((addr >> 30) + 1) << 30
            continue
        pmd = table.entries[(addr >> 21) & 511]
        if type(pmd) is PageTable:
            pmd_clear(table, addr)
        elif pmd is not None:
            pmd_clear_bad(table, addr)
        addr += PMD_SIZE


def pmd_none_or_clear_bad(pmds: PageTable, addr: int) -> bool:
    """Whether there is no table of ptes at @addr.  It looks twice, and what is neither empty the
    first time nor a table the second is wiped  (include/asm-generic/pgtable.h:
    pmd_none_or_clear_bad)."""
    if pmd_get(pmds, addr) is None:
        return True
    if type(pmd_get(pmds, addr)) is not PageTable:
        pmd_clear_bad(pmds, addr)
        return True
    return False


def pmd_none_or_clear_bad_unless_trans_huge(pmds: PageTable, addr: int) -> bool:
    """The same of one look, after which a huge pmd is left alone.  Not in v3.19: Linux kernel
    commit 8b272b3cbbb5 (in v5.6)."""
    pmd = pmd_get(pmds, addr)
    if pmd is None:
        return True
    if pmd_trans_huge(pmd) or type(pmd) is PageTable:
        return False
    pmd_clear_bad(pmds, addr)
    return True


def pmd_clear_bad(pmds: PageTable, addr: int) -> None:
    """mm/pgtable-generic.c: pmd_clear_bad."""
    sched.warn(f"bad pmd {pmds.entries[(addr >> 21) & 511]!r} of {pmds!r} at {addr:#x}, wiped")
    pmd_clear(pmds, addr)


# --- emptying ---


@dataclass
class ZapDetails:
    """What an unmap is limited to  (struct zap_details).

    @check_mapping: only pages of this mapping.  @nonlinear_vma: the nonlinear area being
    walked, of which only offsets from first to last go.
    """

    check_mapping: AddressSpace | None = None
    nonlinear_vma: Vma | None = None
    first_index: int = 0
    last_index: int = 1 << 62


@dataclass
class MmuGather:
    """Pages whose ptes are gone; they are freed after the flush  (struct mmu_gather)."""

    vma: Vma
    start: int = 1 << 62
    end: int = 0
    pages: list[Page] = field(default_factory=list)

    def note(self, addr: int) -> None:
        self.start = min(self.start, addr)
        self.end = max(self.end, addr + PAGE_SIZE)

    def flush_tlb(self) -> None:
        if self.end:
            flush_tlb_range(self.vma, self.start, self.end)
            mmu_notifier.mmu_notifier_invalidate_range(self.vma.vm_mm, self.start, self.end)
            self.start, self.end = 1 << 62, 0

    def finish(self) -> None:
        """Flush, then free."""
        self.flush_tlb()
        pages, self.pages = self.pages, []
        for page in pages:
            swap_state.free_swap_cache(page)
        swap.release_pages(pages)


def unmap_vmas(mm: Mm, areas: Sequence[Vma], start: int, end: int) -> None:
    """Take all ptes of a range away  (mm/memory.c: unmap_vmas)."""
    if not areas:
        return
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, start, end)
    gather = MmuGather(areas[0])
    for vma in areas:
        _unmap_single_vma(gather, vma, max(start, vma.vm_start), min(end, vma.vm_end), None)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, start, end)
    gather.finish()


def zap_page_range(vma: Vma, start: int, size: int, details: ZapDetails | None = None) -> None:
    """Take the ptes of part of an area away  (mm/memory.c: zap_page_range)."""
    mm = vma.vm_mm
    swap.lru_add_drain()
    rmap.update_hiwater_rss(mm)
    gather = MmuGather(vma)
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, start, start + size)
    _unmap_single_vma(gather, vma, start, start + size, details)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, start, start + size)
    gather.finish()


def _unmap_single_vma(
    gather: MmuGather, vma: Vma, start: int, end: int, details: ZapDetails | None
) -> None:
    if details is not None and details.check_mapping is None and details.nonlinear_vma is None:
        details = None  # nothing to check: entries that are not present go too
    if vma.vm_flags & VM_HUGETLB:
        if start != end:
            hugetlb.__unmap_hugepage_range_final(gather, vma, start, end)
        return
    addr = start
    while addr < end:
        stop = min(end, (addr & PMD_MASK) + PMD_SIZE)
        pmds = find_pmds(vma.vm_mm, addr)
        pmd = None if pmds is None else pmd_get(pmds, addr)
        if type(pmd) is PageTable:
            zap_pte_range(gather, vma, pmd, addr, stop, details)
        elif pmds is not None and pmd_trans_huge(pmd):
            _zap_huge(gather, vma, pmds, addr, stop, details)
        addr = stop


def _zap_huge(
    gather: MmuGather,
    vma: Vma,
    pmds: PageTable,
    addr: int,
    end: int,
    details: ZapDetails | None,
) -> None:
    """The huge part of zap_pmd_range.  mmap_sem may be held for read only: the pmd can change
    until it is looked at once more."""
    if end - addr != PMD_SIZE:
        huge_split.split_huge_page_pmd(vma, addr, pmds)
    elif huge_memory.zap_huge_pmd(gather, vma, pmds, addr):
        return
    pmd = pmd_get(pmds, addr)
    if type(pmd) is PageTable:
        zap_pte_range(gather, vma, pmd, addr, end, details)


def zap_pte_range(
    gather: MmuGather, vma: Vma, pt: PageTable, addr: int, end: int, details: ZapDetails | None
) -> None:
    """mm/memory.c: zap_pte_range."""
    mm = vma.vm_mm
    ptl = pt.ptl
    force_flush = False
    spin_lock(ptl)
    entries = pt.entries
    for address in range(addr, end, PAGE_SIZE):
        pte: int = entries[(address >> PAGE_SHIFT) & 511]
        if pte == 0:
            continue
        if pte_present(pte):
            page = vm_normal_page(vma, address, pte)
            if details is not None and page is not None and _spared(page, details):
                continue
            pte = ptep_get_and_clear(mm, address, pt)
            gather.note(address)
            if page is None:
                continue
            _leave_file_pte(vma, pt, address, page, pte, details)
            if PageAnon(page):
                mm.rss_stat[MM_ANONPAGES] -= 1
            else:
                if pte_dirty(pte):
                    # Who cleans the page next must not meet a CPU that still writes.
                    force_flush = True
                    page_writeback.set_page_dirty(page)
                if pte_young(pte) and not vma.vm_flags & VM_SEQ_READ:
                    swap.mark_page_accessed(page)
                mm.rss_stat[MM_FILEPAGES] -= 1
            rmap.page_remove_rmap(page)
            gather.pages.append(page)
        elif details is None:
            _zap_entry(mm, pt, address, ptep_get(pt, address))
    if force_flush:
        gather.flush_tlb()
    spin_unlock(ptl)


def _spared(page: Page, details: ZapDetails) -> bool:
    if details.check_mapping is not None:
        if READ_ONCE(page, "mapping") is not details.check_mapping:
            return True
    return details.nonlinear_vma is not None and not (
        details.first_index <= page.index <= details.last_index
    )


def _leave_file_pte(
    vma: Vma, pt: PageTable, address: int, page: Page, pte: int, details: ZapDetails | None
) -> None:
    """In a nonlinear area remember which page was here."""
    if details is None or details.nonlinear_vma is None:
        return
    if rmap.linear_page_index(vma, address) != page.index:
        file_pte = pgoff_to_pte(page.index)
        if pte_soft_dirty(pte):
            file_pte = pte_file_mksoft_dirty(file_pte)
        set_pte_at(vma.vm_mm, address, pt, file_pte)


def _zap_entry(mm: Mm, pt: PageTable, address: int, pte: int) -> None:
    """A swap, migration, poison or file entry goes."""
    if not pte_file(pte):
        entry = pte_to_swp_entry(pte)
        if not non_swap_entry(entry):
            mm.rss_stat[MM_SWAPENTS] -= 1
        elif is_migration_entry(entry):
            page = migrate.migration_entry_to_page(mm.kernel, entry)
            mm.rss_stat[MM_ANONPAGES if PageAnon(page) else MM_FILEPAGES] -= 1
        if not swapfile.free_swap_and_cache(entry):
            sched.warn(f"bad pte {pte:#x} of {mm!r} at {address:#x}")
    set_pte_at(mm, address, pt, 0)


def unmap_mapping_range(
    mapping: AddressSpace, holebegin: int, holelen: int, even_cows: bool
) -> None:
    """Unmap part of a file, in bytes (length 0: to the end), from all who map it.
    @even_cows: private copies too  (mm/memory.c: unmap_mapping_range)."""
    first = holebegin >> PAGE_SHIFT
    last = first + ((holelen + PAGE_SIZE - 1) >> PAGE_SHIFT) - 1 if holelen else 1 << 62
    details = ZapDetails(None if even_cows else mapping, None, first, last)
    with down_write(mapping.i_mmap_rwsem):
        for vma in mapping.i_mmap.overlapping(first, last):
            vma_first, vma_last = vma.interval()
            begin, stop = max(first, vma_first), min(last, vma_last)
            start = vma.vm_start + ((begin - vma_first) << PAGE_SHIFT)
            zap_page_range(vma, start, (stop - begin + 1) << PAGE_SHIFT, details)
        for vma in mapping.i_mmap_nonlinear:
            details.nonlinear_vma = vma
            zap_page_range(vma, vma.vm_start, vma.vm_end - vma.vm_start, details)


# --- copying at fork ---


def copy_page_range(dst_mm: Mm, src_mm: Mm, vma: Vma) -> int:
    """Copy the ptes of the parent's area @vma to the child; 0.  What a fault can bring back
    is not copied  (mm/memory.c: copy_page_range)."""
    special = vma.vm_flags & (VM_HUGETLB | VM_NONLINEAR | VM_PFNMAP | VM_MIXEDMAP)
    if not special and vma.anon_vma is None:
        return 0
    if vma.vm_flags & VM_HUGETLB:
        return hugetlb.copy_hugetlb_page_range(dst_mm, src_mm, vma)
    is_cow = is_cow_mapping(vma.vm_flags)
    if is_cow:
        mmu_notifier.mmu_notifier_invalidate_range_start(src_mm, vma.vm_start, vma.vm_end)
    addr = vma.vm_start
    while addr < vma.vm_end:
        end = min(vma.vm_end, (addr & PMD_MASK) + PMD_SIZE)
        src_pmds = find_pmds(src_mm, addr)
        if src_pmds is not None:
            _copy_pmd(dst_mm, src_mm, src_pmds, vma, addr, end)
        addr = end
    if is_cow:
        mmu_notifier.mmu_notifier_invalidate_range_end(src_mm, vma.vm_start, vma.vm_end)
    return 0


def _copy_pmd(dst_mm: Mm, src_mm: Mm, src_pmds: PageTable, vma: Vma, addr: int, end: int) -> None:
    """mm/memory.c: copy_pmd_range, one turn."""
    pmd = pmd_get(src_pmds, addr)
    if pmd_trans_huge(pmd):
        dst_pmds = pmd_alloc(dst_mm, addr)
        if huge_memory.copy_huge_pmd(dst_mm, src_mm, dst_pmds, src_pmds, addr, vma) == 0:
            return
        pmd = pmd_get(src_pmds, addr)  # it has been split, or zapped
    if type(pmd) is PageTable:
        _copy_pte_range(dst_mm, src_mm, pmd, vma, addr, end)


def _copy_pte_range(
    dst_mm: Mm, src_mm: Mm, src_pt: PageTable, vma: Vma, addr: int, end: int
) -> None:
    """mm/memory.c: copy_pte_range."""
    dst_pt = pte_alloc_map(dst_mm, None, addr)
    rss = [0, 0, 0]
    dst_ptl = dst_pt.ptl
    src_ptl = src_pt.ptl
    spin_lock(dst_ptl)
    spin_lock_nested(src_ptl)
    for address in range(addr, end, PAGE_SIZE):
        if src_pt.entries[(address >> PAGE_SHIFT) & 511]:
            copy_one_pte(dst_mm, src_mm, dst_pt, src_pt, vma, address, rss)
    spin_unlock(src_ptl)
    for member, count in enumerate(rss):
        dst_mm.rss_stat[member] += count
    spin_unlock(dst_ptl)


def copy_one_pte(
    dst_mm: Mm,
    src_mm: Mm,
    dst_pt: PageTable,
    src_pt: PageTable,
    vma: Vma,
    addr: int,
    rss: list[int],
) -> None:
    """mm/memory.c: copy_one_pte."""
    pte = ptep_get(src_pt, addr)
    if not pte_present(pte):
        if not pte_file(pte):
            pte = _copy_entry(dst_mm, src_mm, src_pt, vma, addr, pte, rss)
        set_pte_at(dst_mm, addr, dst_pt, pte)
        return
    if is_cow_mapping(vma.vm_flags):
        ptep_set_wrprotect(src_mm, addr, src_pt)
        pte = pte_wrprotect(pte)
    if vma.vm_flags & VM_SHARED:
        pte = pte_mkclean(pte)
    pte = pte_mkold(pte)
    page = vm_normal_page(vma, addr, pte)
    if page is not None:
        get_page(page)
        rmap.page_dup_rmap(page)
        if PageAnon(page) and src_mm.kernel.has(REMEMBER_EXCLUSIVE):
            page.flags |= PG_anon_shared
        rss[MM_ANONPAGES if PageAnon(page) else MM_FILEPAGES] += 1
    set_pte_at(dst_mm, addr, dst_pt, pte)


def _copy_entry(
    dst_mm: Mm, src_mm: Mm, src_pt: PageTable, vma: Vma, addr: int, pte: int, rss: list[int]
) -> int:
    """A swap or migration entry is copied; what the child gets."""
    entry = pte_to_swp_entry(pte)
    if not non_swap_entry(entry):
        swapfile.swap_duplicate(entry)
        swapfile.note_mm_has_swap(dst_mm)
        rss[MM_SWAPENTS] += 1
    elif is_migration_entry(entry):
        page = migrate.migration_entry_to_page(src_mm.kernel, entry)
        rss[MM_ANONPAGES if PageAnon(page) else MM_FILEPAGES] += 1
        if is_write_migration_entry(entry) and is_cow_mapping(vma.vm_flags):
            # Both must fault before they write.
            read = swp_entry_to_pte(make_migration_entry_read(entry))
            keep = pte_swp_soft_dirty(pte) and src_mm.kernel.has(KEEP_SOFT_DIRTY)
            pte = pte_swp_mksoft_dirty(read) if keep else read
            set_pte_at(src_mm, addr, src_pt, pte)
    return pte
