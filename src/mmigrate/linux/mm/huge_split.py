"""Splitting huge pages  (mm/huge_memory.c: split_huge_page_to_list and below).

Three phases under the anon_vma lock, held for write: every pmd that maps the page is frozen;
references and mappings are shared out among what becomes base pages; a table of ptes takes the
place of each pmd."""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.mm_types import AnonVma, Mm, Page, PageTable, Vma
from mmigrate.linux.include.page_flags import (
    PAGE_FLAGS_CHECK_AT_FREE,
    PG_active,
    PG_dirty,
    PG_error,
    PG_hwpoison,
    PG_mlocked,
    PG_referenced,
    PG_swapbacked,
    PG_unevictable,
    PG_uptodate,
)
from mmigrate.linux.include.pgtable import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_SIZE,
    PAGE_SHIFT,
    pfn_pte,
    pmd_present,
    pmd_trans_huge,
    pmd_trans_splitting,
    pte_mkdirty,
    pte_mkold,
    pte_mkspecial,
    pte_pfn,
    pte_write,
    pte_wrprotect,
    pte_young,
)
from mmigrate.linux.include.vmstat import NR_ANON_TRANSPARENT_HUGEPAGES, THP_SPLIT
from mmigrate.linux.kernel.area import vma_page_prot
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.page_flags import (
    ClearPageHead,
    ClearPageTail,
    PageAnon,
    PageCompound,
    PageHead,
    PageSwapBacked,
    set_page_mapping,
)
from mmigrate.linux.kernel.page_ref import (
    compound_lock,
    compound_unlock,
    get_page,
    page_count,
    page_mapcount,
    page_ref_add,
    page_ref_sub,
)
from mmigrate.linux.kernel.pgtable import (
    find_pmds,
    pmd_get,
    pmd_populate,
    pmdp_invalidate,
    pmdp_splitting_flush,
)
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.lib.list import ListHead
from mmigrate.linux.mm import huge_memory, memcontrol, memory, mmap, mmu_notifier, rmap, swap

_COPIED_TO_TAILS: Final = (
    PG_referenced | PG_swapbacked | PG_mlocked | PG_uptodate | PG_active | PG_unevictable
)
_CHECK_AT_PREP: Final = PAGE_FLAGS_CHECK_AT_FREE | _COPIED_TO_TAILS | PG_error | PG_dirty


# --- splitting ---


def page_check_address_pmd(page: Page, mm: Mm, address: int, splitting: bool) -> PageTable | None:
    """The table whose pmd at @address maps the huge page, with its lock held; None, and no lock,
    if it does not, or is being split already while @splitting is false
    (mm/huge_memory.c: page_check_address_pmd)."""
    if address & ~HPAGE_PMD_MASK:
        return None
    pmds = find_pmds(mm, address)
    if pmds is None:
        return None
    spin_lock(pmds.ptl)
    pmd = pmd_get(pmds, address)
    if (
        pmd_present(pmd)
        and pmd_trans_huge(pmd)
        and pte_pfn(pmd) == page.pfn
        and (splitting or not pmd_trans_splitting(pmd))
    ):
        return pmds
    spin_unlock(pmds.ptl)
    return None


def split_huge_page(page: Page) -> int:
    return split_huge_page_to_list(page, None)


def split_huge_page_to_list(page: Page, pages: ListHead | None) -> int:
    """Make base pages of a huge page, everywhere where it is mapped. The caller holds a
    reference on the head. Tails go next to the head on the LRU, or, isolated, on @pages.
    0: it is split; 1: it cannot be, nobody maps it any more
    (mm/huge_memory.c: split_huge_page_to_list)."""
    BUG_ON(huge_memory.is_huge_zero_page(page), "split_huge_page of the huge zero page", page)
    BUG_ON(not PageAnon(page), "split_huge_page of a page that is not anonymous", page)
    anon_vma = rmap.page_get_anon_vma(page)
    if anon_vma is None:
        return 1
    # For write: no walk may see it half split, nor may two split it.
    rmap.anon_vma_lock_write(anon_vma)
    if PageCompound(page):
        BUG_ON(not PageSwapBacked(page), "a huge page that is not swap-backed", page)
        _split_huge_page(page, anon_vma, pages)
        page.zone.kernel.vm_events[THP_SPLIT] += 1
        BUG_ON(PageCompound(page), "compound after the split", page)
    rmap.anon_vma_unlock_write(anon_vma)
    rmap.put_anon_vma(page.zone.kernel, anon_vma)
    return 0


def _split_huge_page(page: Page, anon_vma: AnonVma, pages: ListHead | None) -> None:
    """mm/huge_memory.c: __split_huge_page.  The anon_vma lock is held for write."""
    pgoff = rmap.page_to_pgoff(page)
    BUG_ON(not PageHead(page), "split_huge_page of a page that is no head", page)
    frozen = 0
    for chain in anon_vma.rb_root.overlapping(pgoff, pgoff):
        BUG_ON(rmap.is_vma_temporary_stack(chain.vma), "a huge page in a temporary stack", page)
        frozen += __split_huge_page_splitting(page, chain.vma, rmap.vma_address(page, chain.vma))
    mapcount = page_mapcount(page)
    BUG_ON(frozen != mapcount, f"{frozen} pmds found to split, mapcount {mapcount}", page)
    __split_huge_page_refcount(page, pages)
    mapped = 0
    for chain in anon_vma.rb_root.overlapping(pgoff, pgoff):
        mapped += __split_huge_page_map(page, chain.vma, rmap.vma_address(page, chain.vma))
    BUG_ON(mapped != frozen, f"{frozen} pmds were to be split, {mapped} have been", page)


def __split_huge_page_splitting(page: Page, vma: Vma, address: int) -> int:
    """Freeze the pmd of one process: no fork, no zap, no fast walk from now on; 1 if it has one
    (mm/huge_memory.c: __split_huge_page_splitting)."""
    mm = vma.vm_mm
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, address, address + HPAGE_PMD_SIZE)
    pmds = page_check_address_pmd(page, mm, address, splitting=False)
    if pmds is not None:
        pmdp_splitting_flush(vma, address, pmds)
        spin_unlock(pmds.ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, address, address + HPAGE_PMD_SIZE)
    return int(pmds is not None)


def __split_huge_page_refcount(page: Page, pages: ListHead | None) -> None:
    """Give each tail the references, the mappings and the flags that it will have as a page of
    its own  (mm/huge_memory.c: __split_huge_page_refcount)."""
    zone = page.zone
    tails = huge_memory.huge_parts(page)[1:]
    tail_count = 0
    spin_lock(zone.lru_lock)  # PG_lru of the head stays as it is
    compound_lock(page)  # pins of tails neither come nor go
    memcontrol.mem_cgroup_split_huge_fixup(page, tails)
    for number, tail in reversed(list(enumerate(tails, 1))):
        pinned = page_mapcount(tail)
        BUG_ON(pinned < 0, f"a tail with mapcount {pinned}", tail)
        BUG_ON(tail._count != 0, f"a tail with _count {tail._count}", tail)
        tail_count += pinned
        page_ref_add(tail, page_mapcount(page) + pinned + 1)  # one is ours
        # From here on pins may be dropped: they are the tail's own.
        tail.flags &= ~_CHECK_AT_PREP | PG_hwpoison
        tail.flags |= page.flags & _COPIED_TO_TAILS | PG_dirty
        ClearPageTail(tail)
        tail.first_page = None
        tail._mapcount = page._mapcount
        BUG_ON(tail.mapping is not None, "a tail with a mapping", tail)
        set_page_mapping(tail, page.mapping)
        tail.index = page.index + number
        tail._last_cpupid = page._last_cpupid
        swap.lru_add_page_tail(page, tail, zone, pages)
    if tail_count:
        page_ref_sub(page, tail_count)
    BUG_ON(page._count <= 0, f"_count {page._count} after the split", page)
    zone.vm_stat[NR_ANON_TRANSPARENT_HUGEPAGES] -= 1
    ClearPageHead(page)
    compound_unlock(page)
    spin_unlock(zone.lru_lock)
    for tail in tails:
        swap.put_page(tail)  # may free it: then nobody maps it, and lru_lock is needed
    BUG_ON(page_count(page) <= 0, "freed while it was split", page)


def __split_huge_page_map(page: Page, vma: Vma, address: int) -> int:
    """Let a table of ptes take the place of the pmd of one process; 1 if it has one
    (mm/huge_memory.c: __split_huge_page_map)."""
    mm = vma.vm_mm
    pmds = page_check_address_pmd(page, mm, address, splitting=True)
    if pmds is None:
        return 0
    pgtable = huge_memory.pgtable_trans_huge_withdraw(pmds)
    if pte_write(pmd_get(pmds, address)):
        BUG_ON(page_mapcount(page) != 1, "a writable huge pmd of a shared page", page)
    for number, part in enumerate(huge_memory.huge_parts(page)):
        # NUMA hinting does not survive: that could change the rights of another area.
        entry = memory.maybe_mkwrite(pte_mkdirty(pfn_pte(part.pfn, vma_page_prot(vma))), vma)
        pmd: int = pmds.entries[(address >> 21) & 511]
        if not pte_write(pmd):
            entry = pte_wrprotect(entry)
        if not pte_young(pmd):
            entry = pte_mkold(entry)
        huge_memory.fill_pte(pgtable, number, entry)
    # Until now the process had the whole page. No CPU may have both a huge and a small
    # translation of an address: so first none at all, while the pmd stays huge for software.
    pmdp_invalidate(vma, address, pmds)
    pmd_populate(pmds, address, pgtable)
    spin_unlock(pmds.ptl)
    return 1


def _split_huge_zero_page_pmd(vma: Vma, haddr: int, pmds: PageTable) -> None:
    """mm/huge_memory.c: __split_huge_zero_page_pmd."""
    kernel = vma.vm_mm.kernel
    huge_memory.pmdp_clear_flush_notify(vma, haddr, pmds)
    # Known window: empty until all ptes are filled in.
    pgtable = huge_memory.pgtable_trans_huge_withdraw(pmds)
    entry = pte_mkspecial(pfn_pte(kernel.zero_page.pfn, vma.vm_page_prot))
    for number in range(HPAGE_PMD_NR):
        huge_memory.fill_pte(pgtable, number, entry)
    pmd_populate(pmds, haddr, pgtable)
    huge_memory.put_huge_zero_page(kernel)


def split_huge_page_pmd(vma: Vma, address: int, pmds: PageTable) -> None:
    """Split what is mapped at @address if it is huge  (mm/huge_memory.c:
    __split_huge_page_pmd)."""
    mm = vma.vm_mm
    haddr = address & HPAGE_PMD_MASK
    while pmd_trans_huge(pmd_get(pmds, address)):
        BUG_ON(
            vma.vm_start > haddr or vma.vm_end < haddr + HPAGE_PMD_SIZE,
            f"a huge pmd at {haddr:#x} beyond its area",
            vma,
        )
        mmu_notifier.mmu_notifier_invalidate_range_start(mm, haddr, haddr + HPAGE_PMD_SIZE)
        page: Page | None = None
        with spin_lock(pmds.ptl):
            pmd = pmd_get(pmds, address)
            huge = pmd_trans_huge(pmd)
            if huge and huge_memory.is_huge_zero_pmd(mm.kernel, pmd):
                _split_huge_zero_page_pmd(vma, haddr, pmds)
            elif huge:
                page = huge_memory.pmd_page(mm.kernel, pmd)
                get_page(page)
        mmu_notifier.mmu_notifier_invalidate_range_end(mm, haddr, haddr + HPAGE_PMD_SIZE)
        if page is None:
            return
        split_huge_page(page)
        swap.put_page(page)
        # A copy on write may have put another huge page there meanwhile: then once more.


def vma_adjust_trans_huge(
    vma: Vma, start: int, end: int, next_vma: Vma | None, adjust_next: int
) -> None:
    """@vma will begin at @start and end at @end, its successor begin @adjust_next pages later:
    split the huge pages across the new borders  (mm/huge_memory.c: vma_adjust_trans_huge)."""
    if vma.anon_vma is None or vma.vm_ops is not None:
        return
    _split_at_border(vma, start)
    _split_at_border(vma, end)
    if adjust_next > 0 and next_vma is not None:
        _split_at_border(next_vma, next_vma.vm_start + (adjust_next << PAGE_SHIFT))


def _split_at_border(vma: Vma, address: int) -> None:
    """mm/huge_memory.c: split_huge_page_address."""
    haddr = address & HPAGE_PMD_MASK
    if address == haddr or haddr < vma.vm_start or haddr + HPAGE_PMD_SIZE > vma.vm_end:
        return
    pmds = find_pmds(vma.vm_mm, address)
    if pmds is not None and pmd_present(pmd_get(pmds, address)):
        found = mmap.find_vma(vma.vm_mm, address)
        BUG_ON(found is None, "a border in no area", vma)
        assert found is not None
        split_huge_page_pmd(found, address, pmds)
