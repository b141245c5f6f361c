"""Transparent huge pages: anonymous memory mapped by whole pmds  (mm/huge_memory.c).

A huge page is a compound page of HPAGE_PMD_NR base pages, mapped by a pmd where its processes
have it, and on the LRU as its head. For each such pmd a table of ptes is kept ("deposited"), so
that it can always be split. `huge_split.py` makes base pages of it, in all processes at once,
under the anon_vma lock; whoever finds a pmd that is being split waits for that lock.
`khugepaged.py` makes huge pages of base pages.

Differs: page tables take no memory, so depositing cannot fail.
"""

from __future__ import annotations

from errno import EAGAIN, EFAULT
from typing import TYPE_CHECKING, Any

from mmigrate.linux.include.gfp import (
    __GFP_MOVABLE,
    __GFP_OTHER_NODE,
    __GFP_WAIT,
    __GFP_ZERO,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_TRANSHUGE,
)
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    FAULT_FLAG_WRITE,
    FOLL_DUMP,
    FOLL_GET,
    FOLL_MLOCK,
    FOLL_NUMA,
    FOLL_TOUCH,
    FOLL_WRITE,
    VM_FAULT_FALLBACK,
    VM_FAULT_OOM,
    VM_FAULT_WRITE,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_NOHUGEPAGE,
)
from mmigrate.linux.include.mm_types import AnonVma, Mm, Page, PageTable, Vma
from mmigrate.linux.include.mmzone import SECTION_SHIFT
from mmigrate.linux.include.pgtable import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_ORDER,
    HPAGE_PMD_SIZE,
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_PFN_MASK,
    pfn_pte,
    pmd_mkhuge,
    pmd_modify,
    pmd_numa,
    pmd_trans_huge,
    pmd_trans_splitting,
    pte_mkdirty,
    pte_mknonnuma,
    pte_mkold,
    pte_mksoft_dirty,
    pte_mkyoung,
    pte_pfn,
    pte_write,
    pte_wrprotect,
)
from mmigrate.linux.include.switches import FLUSH_BEFORE_UNLOCK
from mmigrate.linux.include.vmstat import (
    MM_ANONPAGES,
    THP_FAULT_ALLOC,
    THP_FAULT_FALLBACK,
    THP_ZERO_PAGE_ALLOC,
    THP_ZERO_PAGE_ALLOC_FAILED,
)
from mmigrate.linux.kernel import fair, sched
from mmigrate.linux.kernel.atomic import (
    READ_ONCE,
    atomic_cmpxchg,
    atomic_dec_and_test,
    atomic_inc_not_zero,
    atomic_set,
    atomic_xchg,
)
from mmigrate.linux.kernel.bug import BUG, BUG_ON, VM_BUG_ON_PAGE, WARN_ON
from mmigrate.linux.kernel.fair import TNF_MIGRATED, TNF_NO_GROUP
from mmigrate.linux.kernel.highmem import copy_user_highpage
from mmigrate.linux.kernel.page_flags import (
    PageCompound,
    PageHead,
    PageLocked,
    SetPageUptodate,
    page_cpupid_last,
    trylock_page,
    unlock_page,
    wait_on_page_locked,
)
from mmigrate.linux.kernel.page_ref import (
    get_page,
    get_page_foll,
    page_mapcount,
)
from mmigrate.linux.kernel.pgtable import (
    pmd_get,
    pmd_populate,
    pmdp_clear_flush,
    pmdp_get_and_clear,
    pmdp_set_access_flags,
    pmdp_set_numa,
    pmdp_set_wrprotect,
    pmdp_test_and_clear_young,
    set_pmd_at,
)
from mmigrate.linux.kernel.spinlock import spin_lock, spin_lock_nested, spin_unlock
from mmigrate.linux.kernel.tlb import flush_tlb_range
from mmigrate.linux.mm import (
    huge_split,
    khugepaged,
    memcontrol,
    memory,
    mempolicy,
    migrate_misplaced,
    mlock,
    mmu_notifier,
    page_alloc,
    rmap,
    swap,
)

if TYPE_CHECKING:
    from mmigrate.linux.mm.page_tables import MmuGather


class HugepageState:
    """What /sys/kernel/mm/transparent_hugepage sets, and the huge page of zeroes."""

    __slots__ = (
        "defrag",
        "enabled",
        "huge_zero_page",
        "huge_zero_refcount",
        "khugepaged",
        "use_zero_page",
    )

    def __init__(self, enabled: str) -> None:
        self.enabled = enabled  # "always", "madvise" or "never"
        self.defrag = True  # a fault may reclaim and compact for a huge page
        self.use_zero_page = True
        self.khugepaged = khugepaged.Khugepaged()
        # atomic
        self.huge_zero_page: Page | None = None
        self.huge_zero_refcount = 0

    def __repr__(self) -> str:
        return "transparent_hugepage"


def state(kernel: Kernel) -> HugepageState:
    thp = kernel.transparent_hugepage
    assert isinstance(thp, HugepageState)
    return thp


def transparent_hugepage_enabled(vma: Vma) -> bool:
    """Whether faults in @vma may get huge pages
    (include/linux/huge_mm.h: transparent_hugepage_enabled)."""
    enabled = state(vma.vm_mm.kernel).enabled
    if enabled == "never" or (enabled == "madvise" and not vma.vm_flags & VM_HUGEPAGE):
        return False
    return not vma.vm_flags & VM_NOHUGEPAGE and not rmap.is_vma_temporary_stack(vma)


def alloc_hugepage_gfpmask(defrag: bool, extra_gfp: int = 0) -> int:
    """mm/huge_memory.c: alloc_hugepage_gfpmask."""
    return (GFP_TRANSHUGE if defrag else GFP_TRANSHUGE & ~__GFP_WAIT) | extra_gfp


def _alloc_hugepage_vma(vma: Vma, haddr: int) -> Page | None:
    gfp = alloc_hugepage_gfpmask(state(vma.vm_mm.kernel).defrag)
    return mempolicy.alloc_pages_vma(gfp, HPAGE_PMD_ORDER, vma, haddr)


def huge_parts(head: Page) -> list[Page]:
    """The base pages of a huge page: head + 0, head + 1, …"""
    parts: list[Any] = head.zone.kernel.mem_map[head.pfn >> SECTION_SHIFT]
    return parts  # all of them have been allocated


def pmd_page(kernel: Kernel, pmd: int) -> Page:
    return kernel.page_of((pmd & PTE_PFN_MASK) >> PAGE_SHIFT)


def mk_huge_pmd(page: Page, prot: int) -> int:
    """mm/huge_memory.c: mk_huge_pmd."""
    return pmd_mkhuge(pfn_pte(page.pfn, prot))


# --- tables of ptes in reserve; the pmd lock is held ---


def pgtable_trans_huge_deposit(pmds: PageTable, pgtable: PageTable) -> None:
    """mm/pgtable-generic.c: pgtable_trans_huge_deposit."""
    pmds.pmd_huge_pte.append(pgtable)


def pgtable_trans_huge_withdraw(pmds: PageTable) -> PageTable:
    """mm/pgtable-generic.c: pgtable_trans_huge_withdraw."""
    if not pmds.pmd_huge_pte:
        BUG("no table of ptes was deposited for a huge pmd", pmds)
    return pmds.pmd_huge_pte.pop()


def pmdp_clear_flush_notify(vma: Vma, haddr: int, pmds: PageTable) -> int:
    """Clear a huge pmd, and flush it from the TLBs of CPUs and of those who share the page tables
    (include/linux/mmu_notifier.h: pmdp_clear_flush_notify)."""
    pmd: int = pmdp_clear_flush(vma, haddr, pmds)
    mmu_notifier.mmu_notifier_invalidate_range(vma.vm_mm, haddr, haddr + HPAGE_PMD_SIZE)
    return pmd


def pmdp_clear_flush_young_notify(vma: Vma, haddr: int, pmds: PageTable) -> bool:
    """Whether a huge page was used, by a CPU or by those who share the page tables; the marks
    go  (include/linux/mmu_notifier.h: pmdp_clear_flush_young_notify)."""
    young = pmdp_test_and_clear_young(vma, haddr, pmds)
    if young:
        flush_tlb_range(vma, haddr, haddr + HPAGE_PMD_SIZE)
    mm = vma.vm_mm
    return mmu_notifier.mmu_notifier_clear_flush_young(mm, haddr, haddr + HPAGE_PMD_SIZE) or young


def _pmdp_get_and_clear_notify(vma: Vma, haddr: int, pmds: PageTable) -> int:
    mm = vma.vm_mm
    pmd: int = pmdp_get_and_clear(mm, haddr, pmds)
    mmu_notifier.mmu_notifier_invalidate_range(mm, haddr, haddr + HPAGE_PMD_SIZE)
    return pmd


# --- the huge page of zeroes ---


def is_huge_zero_page(page: Page) -> bool:
    return READ_ONCE(state(page.zone.kernel), "huge_zero_page") is page


def is_huge_zero_pmd(kernel: Kernel, pmd: int) -> bool:
    zero = READ_ONCE(state(kernel), "huge_zero_page")
    return isinstance(zero, Page) and zero.pfn == pte_pfn(pmd)


def get_huge_zero_page(kernel: Kernel) -> Page | None:
    """A reference on the huge page of zeroes, which is made for the first user
    (mm/huge_memory.c: get_huge_zero_page)."""
    thp = state(kernel)
    while not atomic_inc_not_zero(thp, "huge_zero_refcount"):
        gfp = (GFP_TRANSHUGE | __GFP_ZERO) & ~__GFP_MOVABLE
        made = mempolicy.alloc_pages_current(gfp, HPAGE_PMD_ORDER)
        if made is None:
            kernel.vm_events[THP_ZERO_PAGE_ALLOC_FAILED] += 1
            return None
        kernel.vm_events[THP_ZERO_PAGE_ALLOC] += 1
        sched.preempt_disable()
        if atomic_cmpxchg(thp, "huge_zero_page", None, made) is not None:
            sched.preempt_enable()
            page_alloc.__free_pages(made, HPAGE_PMD_ORDER)
            continue
        atomic_set(thp, "huge_zero_refcount", 2)  # the user's, and one for the shrinker
        sched.preempt_enable()
        break
    page: Page = READ_ONCE(thp, "huge_zero_page")
    return page


def put_huge_zero_page(kernel: Kernel) -> None:
    """mm/huge_memory.c: put_huge_zero_page."""
    gone = atomic_dec_and_test(state(kernel), "huge_zero_refcount")
    BUG_ON(gone, "the shrinker's reference on the huge zero page was dropped")


def shrink_huge_zero_page(kernel: Kernel) -> int:
    """Free the huge page of zeroes if nobody maps it; how many pages were freed
    (mm/huge_memory.c: shrink_huge_zero_page_scan)."""
    thp = state(kernel)
    if atomic_cmpxchg(thp, "huge_zero_refcount", 1, 0) != 1:
        return 0
    page = atomic_xchg(thp, "huge_zero_page", None)
    page_alloc.__free_pages(page, HPAGE_PMD_ORDER)
    return HPAGE_PMD_NR


def set_huge_zero_page(
    pgtable: PageTable, mm: Mm, vma: Vma, haddr: int, pmds: PageTable, zero_page: Page
) -> bool:
    """Map the huge page of zeroes unless something is mapped; the pmd lock is held
    (mm/huge_memory.c: set_huge_zero_page)."""
    if pmd_get(pmds, haddr) is not None:
        return False
    entry = pmd_mkhuge(pfn_pte(zero_page.pfn, vma.vm_page_prot))
    pgtable_trans_huge_deposit(pmds, pgtable)
    set_pmd_at(mm, haddr, pmds, entry)
    return True


# --- faults; mmap_sem is held for read ---


def maybe_pmd_mkwrite(pmd: int, vma: Vma) -> int:
    return memory.maybe_mkwrite(pmd, vma)


def do_huge_pmd_anonymous_page(mm: Mm, vma: Vma, address: int, pmds: PageTable, flags: int) -> int:
    """A first access to memory that may be huge; VM_FAULT_FALLBACK: with base pages instead
    (mm/huge_memory.c: do_huge_pmd_anonymous_page)."""
    haddr = address & HPAGE_PMD_MASK
    if haddr < vma.vm_start or haddr + HPAGE_PMD_SIZE > vma.vm_end:
        return VM_FAULT_FALLBACK
    if rmap.anon_vma_prepare(vma):
        return VM_FAULT_OOM
    khugepaged.khugepaged_enter(vma, vma.vm_flags)
    kernel = mm.kernel
    if not flags & FAULT_FLAG_WRITE and state(kernel).use_zero_page:
        pgtable = memory.new_table(mm, 1)
        zero_page = get_huge_zero_page(kernel)
        if zero_page is None:
            kernel.vm_events[THP_FAULT_FALLBACK] += 1
            return VM_FAULT_FALLBACK
        with spin_lock(pmds.ptl):
            was_set = set_huge_zero_page(pgtable, mm, vma, haddr, pmds, zero_page)
        if not was_set:
            put_huge_zero_page(kernel)
        return 0
    page = _alloc_hugepage_vma(vma, haddr)
    if page is None:
        kernel.vm_events[THP_FAULT_FALLBACK] += 1
        return VM_FAULT_FALLBACK
    if not _do_huge_pmd_anonymous_page(mm, vma, haddr, pmds, page):
        swap.put_page(page)
        kernel.vm_events[THP_FAULT_FALLBACK] += 1
        return VM_FAULT_FALLBACK
    kernel.vm_events[THP_FAULT_ALLOC] += 1
    return 0


def _do_huge_pmd_anonymous_page(mm: Mm, vma: Vma, haddr: int, pmds: PageTable, page: Page) -> bool:
    """False: the group may not have so much  (mm/huge_memory.c: __do_huge_pmd_anonymous_page)."""
    VM_BUG_ON_PAGE(not PageCompound(page), page, "not a huge page")
    pgtable = memory.new_table(mm, 1)
    memcg = memcontrol.mem_cgroup_try_charge(page, mm, GFP_TRANSHUGE)
    if isinstance(memcg, int):
        return False
    SetPageUptodate(page)
    ptl = pmds.ptl
    spin_lock(ptl)
    if pmd_get(pmds, haddr) is not None:
        spin_unlock(ptl)
        memcontrol.mem_cgroup_cancel_charge(page, memcg)
        swap.put_page(page)
        return True
    entry = maybe_pmd_mkwrite(pte_mkdirty(mk_huge_pmd(page, vma.vm_page_prot)), vma)
    rmap.page_add_new_anon_rmap(page, vma, haddr)
    memcontrol.mem_cgroup_commit_charge(page, memcg, False)
    swap.lru_cache_add_active_or_unevictable(page, vma)
    pgtable_trans_huge_deposit(pmds, pgtable)
    set_pmd_at(mm, haddr, pmds, entry)
    mm.rss_stat[MM_ANONPAGES] += HPAGE_PMD_NR
    spin_unlock(ptl)
    return True


def huge_pmd_set_accessed(
    mm: Mm, vma: Vma, address: int, pmds: PageTable, orig_pmd: int, dirty: bool
) -> None:
    """mm/huge_memory.c: huge_pmd_set_accessed."""
    with spin_lock(pmds.ptl):
        if pmd_get(pmds, address) == orig_pmd:
            entry = pte_mkyoung(orig_pmd)
            pmdp_set_access_flags(vma, address & HPAGE_PMD_MASK, pmds, entry, dirty)


def do_huge_pmd_wp_page(mm: Mm, vma: Vma, address: int, pmds: PageTable, orig_pmd: int) -> int:
    """A store to a write-protected huge page: reuse it, copy it as a whole, or with
    VM_FAULT_FALLBACK by base pages  (mm/huge_memory.c: do_huge_pmd_wp_page)."""
    kernel = mm.kernel
    ptl = pmds.ptl
    haddr = address & HPAGE_PMD_MASK
    page: Page | None = None
    if not is_huge_zero_pmd(kernel, orig_pmd):
        spin_lock(ptl)
        if pmd_get(pmds, haddr) != orig_pmd:
            spin_unlock(ptl)
            return 0
        page = pmd_page(kernel, orig_pmd)
        VM_BUG_ON_PAGE(not PageHead(page), page, "a huge pmd maps no head")
        if page_mapcount(page) == 1:
            entry = maybe_pmd_mkwrite(pte_mkdirty(pte_mkyoung(orig_pmd)), vma)
            pmdp_set_access_flags(vma, haddr, pmds, entry, True)
            spin_unlock(ptl)
            return VM_FAULT_WRITE
        get_page(page)
        spin_unlock(ptl)

    new_page = _alloc_hugepage_vma(vma, haddr) if transparent_hugepage_enabled(vma) else None
    if new_page is None:
        ret = _wp_without_memory(mm, vma, address, pmds, orig_pmd, page, haddr)
        kernel.vm_events[THP_FAULT_FALLBACK] += 1
        return ret
    memcg = memcontrol.mem_cgroup_try_charge(new_page, mm, GFP_TRANSHUGE)
    if isinstance(memcg, int):
        swap.put_page(new_page)
        if page is None:
            huge_split.split_huge_page_pmd(vma, address, pmds)
        else:
            huge_split.split_huge_page(page)
            swap.put_page(page)
        kernel.vm_events[THP_FAULT_FALLBACK] += 1
        return VM_FAULT_FALLBACK
    kernel.vm_events[THP_FAULT_ALLOC] += 1
    if page is not None:
        copy_user_huge_page(new_page, page)
    SetPageUptodate(new_page)

    mmu_notifier.mmu_notifier_invalidate_range_start(mm, haddr, haddr + HPAGE_PMD_SIZE)
    spin_lock(ptl)
    if page is not None:
        swap.put_page(page)
    ret = 0
    if pmd_get(pmds, haddr) != orig_pmd:
        spin_unlock(ptl)
        memcontrol.mem_cgroup_cancel_charge(new_page, memcg)
        swap.put_page(new_page)
    else:
        entry = maybe_pmd_mkwrite(pte_mkdirty(mk_huge_pmd(new_page, vma.vm_page_prot)), vma)
        # Known window: empty until the new pmd is set, and no rmap lock is held.
        pmdp_clear_flush_notify(vma, haddr, pmds)
        rmap.page_add_new_anon_rmap(new_page, vma, haddr)
        memcontrol.mem_cgroup_commit_charge(new_page, memcg, False)
        swap.lru_cache_add_active_or_unevictable(new_page, vma)
        set_pmd_at(mm, haddr, pmds, entry)
        if page is None:
            mm.rss_stat[MM_ANONPAGES] += HPAGE_PMD_NR
            put_huge_zero_page(kernel)
        else:
            VM_BUG_ON_PAGE(not PageHead(page), page, "copied, and no head any more")
            rmap.page_remove_rmap(page)
            swap.put_page(page)
        ret = VM_FAULT_WRITE
        spin_unlock(ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, haddr, haddr + HPAGE_PMD_SIZE)
    return ret


def _wp_without_memory(
    mm: Mm,
    vma: Vma,
    address: int,
    pmds: PageTable,
    orig_pmd: int,
    page: Page | None,
    haddr: int,
) -> int:
    """No huge page could be had for the copy."""
    if page is None:
        huge_split.split_huge_page_pmd(vma, address, pmds)
        return VM_FAULT_FALLBACK
    ret = do_huge_pmd_wp_page_fallback(mm, vma, address, pmds, orig_pmd, page, haddr)
    if ret & VM_FAULT_OOM:
        huge_split.split_huge_page(page)
        ret |= VM_FAULT_FALLBACK
    swap.put_page(page)
    return ret


def do_huge_pmd_wp_page_fallback(
    mm: Mm, vma: Vma, address: int, pmds: PageTable, orig_pmd: int, page: Page, haddr: int
) -> int:
    """Copy a huge page to base pages, at once for all of it
    (mm/huge_memory.c: do_huge_pmd_wp_page_fallback)."""
    pages: list[Page] = []
    charges: list[memcontrol.MemCgroup | None] = []
    for _ in range(HPAGE_PMD_NR):
        copy = mempolicy.alloc_page_vma_node(
            GFP_HIGHUSER_MOVABLE | __GFP_OTHER_NODE, vma, address, page.zone.nid
        )
        memcg = None if copy is None else memcontrol.mem_cgroup_try_charge(copy, mm, GFP_KERNEL)
        if copy is None or isinstance(memcg, int):
            if copy is not None:
                swap.put_page(copy)
            for earlier in reversed(pages):
                memcontrol.mem_cgroup_cancel_charge(earlier, charges.pop())
                swap.put_page(earlier)
            return VM_FAULT_OOM
        pages.append(copy)
        charges.append(memcg)
    for copy, source in zip(pages, huge_parts(page), strict=True):
        copy_user_highpage(copy, source)
        SetPageUptodate(copy)

    mmu_notifier.mmu_notifier_invalidate_range_start(mm, haddr, haddr + HPAGE_PMD_SIZE)
    ptl = pmds.ptl
    spin_lock(ptl)
    if pmd_get(pmds, haddr) != orig_pmd:
        spin_unlock(ptl)
        mmu_notifier.mmu_notifier_invalidate_range_end(mm, haddr, haddr + HPAGE_PMD_SIZE)
        for copy, charge in zip(pages, charges, strict=True):
            memcontrol.mem_cgroup_cancel_charge(copy, charge)
            swap.put_page(copy)
        return 0
    VM_BUG_ON_PAGE(not PageHead(page), page, "a huge pmd maps no head")
    pmdp_clear_flush_notify(vma, haddr, pmds)
    # Known window: empty until all ptes are filled in.
    pgtable = pgtable_trans_huge_withdraw(pmds)
    for number, copy in enumerate(pages):
        here = haddr + number * PAGE_SIZE
        entry = memory.maybe_mkwrite(pte_mkdirty(pfn_pte(copy.pfn, vma.vm_page_prot)), vma)
        rmap.page_add_new_anon_rmap(copy, vma, here)
        memcontrol.mem_cgroup_commit_charge(copy, charges[number], False)
        swap.lru_cache_add_active_or_unevictable(copy, vma)
        fill_pte(pgtable, number, entry)
    pmd_populate(pmds, haddr, pgtable)
    rmap.page_remove_rmap(page)
    spin_unlock(ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, haddr, haddr + HPAGE_PMD_SIZE)
    swap.put_page(page)
    return VM_FAULT_WRITE


def fill_pte(pgtable: PageTable, index: int, entry: int) -> None:
    """Store a pte into a table that nobody else can see yet."""
    BUG_ON(pgtable.entries[index] != 0, "a deposited table was not empty", pgtable)
    pgtable.entries[index] = entry


def copy_user_huge_page(to: Page, source: Page) -> None:
    """mm/memory.c: copy_user_huge_page."""
    for copy, part in zip(huge_parts(to), huge_parts(source), strict=True):
        copy_user_highpage(copy, part)


def do_huge_pmd_numa_page(mm: Mm, vma: Vma, address: int, pmds: PageTable, pmd: int) -> int:
    """A hinting fault on a huge page: learn from where it is used, and move it there or make the
    pmd present again; 0  (mm/huge_memory.c: do_huge_pmd_numa_page).

    Known defect of v3.19: who waits for a page that is being moved holds no reference on it, and
    may come to wait for whoever has the frame next.
    """
    haddr = address & HPAGE_PMD_MASK
    ptl = pmds.ptl
    spin_lock(ptl)
    if pmd_get(pmds, address) != pmd:
        spin_unlock(ptl)
        return 0
    page = pmd_page(mm.kernel, pmd)
    if PageLocked(page):  # somebody is moving it
        spin_unlock(ptl)
        _wait_migrate_huge_page(mm, pmds, address)
        return 0
    BUG_ON(is_huge_zero_page(page), "a hinting fault on the huge zero page", vma)
    page_nid = page.zone.nid
    last_cpupid = page_cpupid_last(page)
    flags = fair.count_hinting_fault(page)
    if not pte_write(pmd):
        flags |= TNF_NO_GROUP
    page_locked = trylock_page(page)
    target_nid = mempolicy.mpol_misplaced(page, vma, haddr)
    if target_nid == -1 and page_locked:
        _clear_pmdnuma(mm, haddr, pmds, pmd, page)
        fair.task_numa_fault(last_cpupid, page_nid, HPAGE_PMD_NR, flags)
        return 0
    if not page_locked:
        spin_unlock(ptl)
        wait_on_page_locked(page)
        return 0
    get_page(page)
    spin_unlock(ptl)
    anon_vma = rmap.page_lock_anon_vma_read(page)  # keeps splits away
    spin_lock(ptl)
    if pmd_get(pmds, address) != pmd:
        unlock_page(page)
        swap.put_page(page)
        spin_unlock(ptl)
        if anon_vma is not None:
            rmap.page_unlock_anon_vma_read(anon_vma)
        return 0
    if anon_vma is None:
        swap.put_page(page)
        _clear_pmdnuma(mm, haddr, pmds, pmd, page)
        return 0
    spin_unlock(ptl)
    if migrate_misplaced.migrate_misplaced_transhuge_page(
        mm, vma, pmds, pmd, address, page, target_nid
    ):
        flags |= TNF_MIGRATED
        page_nid = target_nid
    rmap.page_unlock_anon_vma_read(anon_vma)
    fair.task_numa_fault(last_cpupid, page_nid, HPAGE_PMD_NR, flags)
    return 0


def _clear_pmdnuma(mm: Mm, haddr: int, pmds: PageTable, pmd: int, page: Page) -> None:
    """Leave the page where it is; the pmd lock and the page lock are held, and let go."""
    set_pmd_at(mm, haddr, pmds, pte_mknonnuma(pmd))
    unlock_page(page)
    spin_unlock(pmds.ptl)


def _wait_migrate_huge_page(mm: Mm, pmds: PageTable, address: int) -> None:
    """mm/migrate.c: wait_migrate_huge_page.  The pmd is read anew, without its lock."""
    pmd = pmd_get(pmds, address)
    if pmd_trans_huge(pmd):
        wait_on_page_locked(pmd_page(mm.kernel, pmd))


# --- looking pages up ---


def follow_trans_huge_pmd(vma: Vma, addr: int, pmds: PageTable, flags: int) -> Page | int | None:
    """The base page of a huge page that is mapped at @addr, as follow_page; the pmd lock is held
    (mm/huge_memory.c: follow_trans_huge_pmd)."""
    pmd: int = pmd_get(pmds, addr)
    kernel = vma.vm_mm.kernel
    if flags & FOLL_WRITE and not pte_write(pmd):
        return None
    if flags & FOLL_DUMP and is_huge_zero_pmd(kernel, pmd):
        return -EFAULT
    if flags & FOLL_NUMA and pmd_numa(pmd):
        return None
    page = pmd_page(kernel, pmd)
    VM_BUG_ON_PAGE(not PageHead(page), page, "a huge pmd maps no head")
    if flags & FOLL_TOUCH:
        # Differs from base pages: dirty even for a load.
        touched = pte_mkyoung(pte_mkdirty(pmd))
        pmdp_set_access_flags(vma, addr & HPAGE_PMD_MASK, pmds, touched, True)
    if flags & FOLL_MLOCK and vma.vm_flags & VM_LOCKED:
        if READ_ONCE(page, "mapping") is not None and trylock_page(page):
            swap.lru_add_drain()
            if READ_ONCE(page, "mapping") is not None:
                mlock.mlock_vma_page(page)
            unlock_page(page)
    page = huge_parts(page)[(addr & ~HPAGE_PMD_MASK) >> PAGE_SHIFT]
    VM_BUG_ON_PAGE(not PageCompound(page), page, "mapped by a huge pmd, and no huge page")
    if flags & FOLL_GET:
        get_page_foll(page)
    return page


# --- fork, unmap, mprotect, mremap ---


def pmd_trans_huge_lock(pmds: PageTable, vma: Vma, addr: int) -> int:
    """1, and the pmd lock: a huge pmd, which stays. 0: none. -1: one that has been split just
    now  (mm/huge_memory.c: __pmd_trans_huge_lock)."""
    ptl = pmds.ptl
    spin_lock(ptl)
    pmd = pmd_get(pmds, addr)
    if pmd_trans_huge(pmd):
        if not pmd_trans_splitting(pmd):
            return 1
        spin_unlock(ptl)
        wait_split_huge_page(vma.anon_vma, pmds, addr)
        return -1
    spin_unlock(ptl)
    return 0


def wait_split_huge_page(anon_vma: AnonVma | None, pmds: PageTable, addr: int) -> None:
    """Let a split that was seen come to its end  (include/linux/huge_mm.h:
    wait_split_huge_page)."""
    assert anon_vma is not None
    rmap.anon_vma_lock_write(anon_vma)
    rmap.anon_vma_unlock_write(anon_vma)
    pmd = pmd_get(pmds, addr)
    BUG_ON(pmd_trans_splitting(pmd) or pmd_trans_huge(pmd), "still huge after the split", pmds)


def copy_huge_pmd(
    dst_mm: Mm, src_mm: Mm, dst_pmds: PageTable, src_pmds: PageTable, addr: int, vma: Vma
) -> int:
    """fork copies a huge pmd of the parent's area @vma.  0, or -EAGAIN: it is none any more
    (mm/huge_memory.c: copy_huge_pmd)."""
    kernel = src_mm.kernel
    pgtable = memory.new_table(dst_mm, 1)
    dst_ptl, src_ptl = dst_pmds.ptl, src_pmds.ptl
    spin_lock(dst_ptl)
    spin_lock_nested(src_ptl)
    pmd = pmd_get(src_pmds, addr)
    ret = -EAGAIN
    if pmd_trans_huge(pmd):
        if is_huge_zero_pmd(kernel, pmd):
            zero_page = get_huge_zero_page(kernel)  # there is one: the parent maps it
            assert zero_page is not None
            was_set = set_huge_zero_page(pgtable, dst_mm, vma, addr, dst_pmds, zero_page)
            BUG_ON(not was_set, "the child has something there already", dst_mm)
            ret = 0
        elif pmd_trans_splitting(pmd):
            spin_unlock(src_ptl)
            spin_unlock(dst_ptl)
            wait_split_huge_page(vma.anon_vma, src_pmds, addr)
            return -EAGAIN
        else:
            src_page = pmd_page(kernel, pmd)
            VM_BUG_ON_PAGE(not PageHead(src_page), src_page, "a huge pmd maps no head")
            get_page(src_page)
            rmap.page_dup_rmap(src_page)
            dst_mm.rss_stat[MM_ANONPAGES] += HPAGE_PMD_NR
            pmdp_set_wrprotect(src_mm, addr, src_pmds)
            pgtable_trans_huge_deposit(dst_pmds, pgtable)
            set_pmd_at(dst_mm, addr, dst_pmds, pte_mkold(pte_wrprotect(pmd)))
            ret = 0
    spin_unlock(src_ptl)
    spin_unlock(dst_ptl)
    return ret


def zap_huge_pmd(gather: MmuGather, vma: Vma, pmds: PageTable, addr: int) -> bool:
    """Take a huge pmd away; False: there is none any more  (mm/huge_memory.c: zap_huge_pmd)."""
    if pmd_trans_huge_lock(pmds, vma, addr) != 1:
        return False
    mm = vma.vm_mm
    ptl = pmds.ptl
    pmd = pmdp_get_and_clear(mm, addr, pmds)
    gather.note(addr)  # one page of the range is enough to drop the whole translation
    pgtable_trans_huge_withdraw(pmds)
    if is_huge_zero_pmd(mm.kernel, pmd):
        spin_unlock(ptl)
        put_huge_zero_page(mm.kernel)
        return True
    page = pmd_page(mm.kernel, pmd)
    rmap.page_remove_rmap(page)
    mm.rss_stat[MM_ANONPAGES] -= HPAGE_PMD_NR
    VM_BUG_ON_PAGE(not PageHead(page), page, "a huge pmd maps no head")
    spin_unlock(ptl)
    gather.pages.append(page)
    return True


def move_huge_pmd(
    vma: Vma,
    new_vma: Vma,
    old_addr: int,
    new_addr: int,
    old_end: int,
    old_pmds: PageTable,
    new_pmds: PageTable,
) -> int:
    """mremap moves a whole huge pmd.  1: done. 0: it must be split. -1: it has been
    (mm/huge_memory.c: move_huge_pmd)."""
    if (
        old_addr & ~HPAGE_PMD_MASK
        or new_addr & ~HPAGE_PMD_MASK
        or old_end - old_addr < HPAGE_PMD_SIZE
        or new_vma.vm_flags & VM_NOHUGEPAGE
    ):
        return 0
    if WARN_ON(pmd_get(new_pmds, new_addr) is not None, "mremap to a pmd that is not empty"):
        return 0
    ret = pmd_trans_huge_lock(old_pmds, vma, old_addr)
    if ret != 1:
        return ret
    mm = vma.vm_mm
    old_ptl, new_ptl = old_pmds.ptl, new_pmds.ptl
    if new_ptl is not old_ptl:
        spin_lock_nested(new_ptl)
    pmd = pmdp_get_and_clear(mm, old_addr, old_pmds)
    if new_ptl is not old_ptl:
        pgtable_trans_huge_deposit(new_pmds, pgtable_trans_huge_withdraw(old_pmds))
    set_pmd_at(mm, new_addr, new_pmds, pte_mksoft_dirty(pmd))
    if mm.kernel.has(FLUSH_BEFORE_UNLOCK):
        flush_tlb_range(vma, old_addr, old_addr + HPAGE_PMD_SIZE)
    if new_ptl is not old_ptl:
        spin_unlock(new_ptl)
    spin_unlock(old_ptl)
    return 1


def change_huge_pmd(vma: Vma, pmds: PageTable, addr: int, newprot: int, prot_numa: bool) -> int:
    """mprotect, or the mark of NUMA balancing, on a huge pmd.  0: it has been split;
    HPAGE_PMD_NR: changed; 1: nothing to change  (mm/huge_memory.c: change_huge_pmd)."""
    if pmd_trans_huge_lock(pmds, vma, addr) != 1:
        return 0
    mm = vma.vm_mm
    ret = 1
    if not prot_numa:
        entry = _pmdp_get_and_clear_notify(vma, addr, pmds)
        if pmd_numa(entry):
            entry = pte_mknonnuma(entry)
        entry = pmd_modify(entry, newprot)
        ret = HPAGE_PMD_NR
        set_pmd_at(mm, addr, pmds, entry)
        BUG_ON(pte_write(entry), "mprotect made a huge pmd writable", vma)
    else:
        pmd = pmd_get(pmds, addr)
        if not is_huge_zero_pmd(mm.kernel, pmd) and not pmd_numa(pmd):
            pmdp_set_numa(mm, addr, pmds)
            ret = HPAGE_PMD_NR
    spin_unlock(pmds.ptl)
    return ret
