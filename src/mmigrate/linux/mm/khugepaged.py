"""khugepaged: makes huge pages of base pages that are mapped already  (mm/huge_memory.c).

It goes through the processes that may have huge pages, one range of 2 MiB after another. A range
is collapsed if every page that is there is writable, used by this process alone, and neither
locked nor isolated; what is not there becomes zeroes. So a page is either being migrated or
being collapsed.

Differs: it runs when it is asked to, and does not sleep between its scans.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.gfp import __GFP_OTHER_NODE, GFP_TRANSHUGE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_MAYSHARE,
    VM_NOHUGEPAGE,
    VM_SHARED,
    VM_SPECIAL,
)
from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_ORDER,
    HPAGE_PMD_SIZE,
    PAGE_SIZE,
    pte_mkdirty,
    pte_pfn,
    pte_present,
    pte_write,
    pte_young,
)
from mmigrate.linux.include.vmstat import (
    MM_ANONPAGES,
    NR_ISOLATED_ANON,
    THP_COLLAPSE_ALLOC,
    THP_COLLAPSE_ALLOC_FAILED,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE, atomic_inc
from mmigrate.linux.kernel.bug import BUG_ON, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.highmem import clear_highpage, copy_user_highpage
from mmigrate.linux.kernel.page_flags import (
    PageAnon,
    PageCompound,
    PageLocked,
    PageLRU,
    PageReferenced,
    PageSwapBacked,
    SetPageUptodate,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import page_count, page_mapcount
from mmigrate.linux.kernel.pgtable import (
    find_pmds,
    pmd_get,
    pmd_populate,
    pmdp_clear_flush,
    pte_clear,
    ptep_get,
    set_pmd_at,
)
from mmigrate.linux.kernel.rwsem import down_read, down_write, up_read, up_write
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock
from mmigrate.linux.mm import (
    fork,
    huge_memory,
    memcontrol,
    memory,
    mmap,
    mmu_notifier,
    page_alloc,
    rmap,
    swap,
    swap_state,
    vmscan,
)

VM_NO_THP: Final = VM_SPECIAL | VM_HUGETLB | VM_SHARED | VM_MAYSHARE
MMF_VM_HUGEPAGE: Final = 1 << 17


class MmSlot:
    """An mm that is to be scanned  (struct mm_slot)."""

    __slots__ = ("mm",)

    def __init__(self, mm: Mm) -> None:
        self.mm = mm


class Khugepaged:
    """Where khugepaged stands  (struct khugepaged_scan)."""

    __slots__ = (
        "address",
        "full_scans",
        "last_target_node",
        "max_ptes_none",
        "mm_head",
        "mm_lock",
        "mm_slot",
        "pages_collapsed",
        "pages_to_scan",
    )

    def __init__(self) -> None:
        # khugepaged_mm_lock
        self.mm_lock = SpinLock("khugepaged_mm_lock")
        self.mm_head: list[MmSlot] = []
        self.mm_slot: MmSlot | None = None  # the one being scanned
        # khugepaged's own
        self.address = 0
        self.last_target_node = -1
        # /sys/kernel/mm/transparent_hugepage/khugepaged
        self.pages_to_scan = HPAGE_PMD_NR * 8
        self.max_ptes_none = HPAGE_PMD_NR - 1
        self.pages_collapsed = 0
        self.full_scans = 0


def _daemon(kernel: Kernel) -> Khugepaged:
    return huge_memory.state(kernel).khugepaged


# --- which processes ---


def khugepaged_enter(vma: Vma, vm_flags: int) -> None:
    """@vma may get huge pages: let its process be scanned
    (include/linux/khugepaged.h: khugepaged_enter)."""
    mm = vma.vm_mm
    if READ_ONCE(mm, "flags") & MMF_VM_HUGEPAGE or vm_flags & VM_NOHUGEPAGE:
        return
    enabled = huge_memory.state(mm.kernel).enabled
    if enabled == "always" or (enabled == "madvise" and vm_flags & VM_HUGEPAGE):
        _khugepaged_enter(mm)


def _khugepaged_enter(mm: Mm) -> None:
    """mm/huge_memory.c: __khugepaged_enter."""
    BUG_ON(_test_exit(mm), "khugepaged_enter of an mm without users", mm)
    flags: int = READ_ONCE(mm, "flags")
    if flags & MMF_VM_HUGEPAGE:
        return
    WRITE_ONCE(mm, "flags", flags | MMF_VM_HUGEPAGE)
    daemon = _daemon(mm.kernel)
    with spin_lock(daemon.mm_lock):
        daemon.mm_head.append(MmSlot(mm))
    atomic_inc(mm, "mm_count")


def khugepaged_enter_vma_merge(vma: Vma, vm_flags: int) -> None:
    """The same for an area that has changed, if it can hold a huge page and has been faulted in
    (mm/huge_memory.c: khugepaged_enter_vma_merge)."""
    if vma.anon_vma is None or vma.vm_ops is not None:
        return
    hstart, hend = _huge_range(vma)
    if hstart < hend:
        khugepaged_enter(vma, vm_flags)


def khugepaged_fork(mm: Mm, oldmm: Mm) -> None:
    """include/linux/khugepaged.h: khugepaged_fork."""
    if READ_ONCE(oldmm, "flags") & MMF_VM_HUGEPAGE:
        _khugepaged_enter(mm)


def khugepaged_exit(mm: Mm) -> None:
    """The process exits: forget it, or wait until khugepaged has done with its page tables
    (mm/huge_memory.c: __khugepaged_exit)."""
    if not mm.flags & MMF_VM_HUGEPAGE:
        return
    daemon = _daemon(mm.kernel)
    with spin_lock(daemon.mm_lock):
        slot = next((slot for slot in daemon.mm_head if slot.mm is mm), None)
        forgotten = slot is not None and daemon.mm_slot is not slot
        if slot is not None and forgotten:
            daemon.mm_head.remove(slot)
    if forgotten:
        fork.mmdrop(mm)
    elif slot is not None:
        down_write(mm.mmap_sem)
        up_write(mm.mmap_sem)


def _test_exit(mm: Mm) -> bool:
    return bool(READ_ONCE(mm, "mm_users") == 0)


def hugepage_vma_check(vma: Vma) -> bool:
    """Whether an area may be collapsed  (mm/huge_memory.c: hugepage_vma_check)."""
    always = huge_memory.state(vma.vm_mm.kernel).enabled == "always"
    if (not vma.vm_flags & VM_HUGEPAGE and not always) or vma.vm_flags & VM_NOHUGEPAGE:
        return False
    if vma.anon_vma is None or vma.vm_ops is not None:
        return False
    return not rmap.is_vma_temporary_stack(vma) and not vma.vm_flags & VM_NO_THP


def _huge_range(vma: Vma) -> tuple[int, int]:
    """The part of an area that whole huge pages can cover."""
    return (vma.vm_start + ~HPAGE_PMD_MASK) & HPAGE_PMD_MASK, vma.vm_end & HPAGE_PMD_MASK


# --- the scan ---


def khugepaged_do_scan(kernel: Kernel, pages: int | None = None) -> int:
    """One turn of khugepaged, of about @pages pages (by default pages_to_scan); how many huge
    pages it made  (mm/huge_memory.c: khugepaged_do_scan)."""
    daemon = _daemon(kernel)
    before = daemon.pages_collapsed
    wanted = daemon.pages_to_scan if pages is None else pages
    progress = passes = 0
    while progress < wanted:
        sched.cond_resched()
        with spin_lock(daemon.mm_lock):
            if daemon.mm_slot is None:
                passes += 1
            slot = daemon.mm_slot
            if slot is None and daemon.mm_head and passes < 2:
                slot = daemon.mm_slot = daemon.mm_head[0]
                daemon.address = 0
        if slot is None or passes >= 2:
            break
        progress += khugepaged_scan_mm_slot(kernel, slot, wanted - progress)
    return daemon.pages_collapsed - before


def khugepaged_scan_mm_slot(kernel: Kernel, slot: MmSlot, pages: int) -> int:
    """Scan about @pages pages of one process; how far it came
    (mm/huge_memory.c: khugepaged_scan_mm_slot)."""
    daemon = _daemon(kernel)
    mm = slot.mm
    down_read(mm.mmap_sem)
    vma = None if _test_exit(mm) else mmap.find_vma(mm, daemon.address)
    progress = 1
    locked = True
    while vma is not None:
        sched.cond_resched()
        if _test_exit(mm):
            progress += 1
            break
        hstart, hend = _huge_range(vma)
        if not hugepage_vma_check(vma) or hstart >= hend or daemon.address > hend:
            progress += 1
            vma = mmap.vma_next(vma)
            continue
        daemon.address = max(daemon.address, hstart)
        stop = False
        while daemon.address < hend and not stop:
            sched.cond_resched()
            if _test_exit(mm):
                stop = True
                break
            locked = not khugepaged_scan_pmd(mm, vma, daemon.address)
            daemon.address += HPAGE_PMD_SIZE
            progress += HPAGE_PMD_NR
            stop = not locked or progress >= pages
        if stop:
            break
        vma = mmap.vma_next(vma)
    if locked:
        up_read(mm.mmap_sem)
    with spin_lock(daemon.mm_lock):
        gone = _test_exit(mm)
        if gone or vma is None:
            position = daemon.mm_head.index(slot) + 1
            daemon.address = 0
            if position < len(daemon.mm_head):
                daemon.mm_slot = daemon.mm_head[position]
            else:
                daemon.mm_slot = None
                daemon.full_scans += 1
            if gone:  # collect_mm_slot
                daemon.mm_head.remove(slot)
    if gone:
        fork.mmdrop(mm)
    return progress


def khugepaged_scan_pmd(mm: Mm, vma: Vma, address: int) -> bool:
    """Look at one range, and collapse it if it seems fit; True: it was tried, and mmap_sem has
    been let go  (mm/huge_memory.c: khugepaged_scan_pmd)."""
    pt = rmap.mm_find_pmd(mm, address)
    if pt is None:
        return False
    daemon = _daemon(mm.kernel)
    node_load: dict[int, int] = {}
    none, referenced = 0, False
    with spin_lock(pt.ptl):
        for addr in range(address, address + HPAGE_PMD_SIZE, PAGE_SIZE):
            pte = ptep_get(pt, addr)
            if pte == 0:
                none += 1
                if none > daemon.max_ptes_none:
                    return False
                continue
            page = _collapsible(vma, addr, pte)
            if page is None:
                return False
            node_load[page.zone.nid] = node_load.get(page.zone.nid, 0) + 1
            if not PageLRU(page) or PageLocked(page) or not PageAnon(page):
                return False
            if page_count(page) != 1:  # a pin is not in the mapcount
                return False
            referenced = referenced or _is_used(mm, addr, pte, page)
    if not referenced:
        return False
    collapse_huge_page(mm, address, _find_target_node(mm.kernel, node_load))
    return True


def _collapsible(vma: Vma, addr: int, pte: int) -> Page | None:
    """The page of a pte that does not speak against a collapse: swap and migration entries,
    read-only ptes and the zero page do."""
    if not pte_present(pte) or not pte_write(pte):
        return None
    return memory.vm_normal_page(vma, addr, pte)


def _is_used(mm: Mm, addr: int, pte: int, page: Page) -> bool:
    return pte_young(pte) or PageReferenced(page) or mmu_notifier.mmu_notifier_test_young(mm, addr)


def _find_target_node(kernel: Kernel, node_load: dict[int, int]) -> int:
    """The node that most of the pages are on; nodes with as many take turns
    (mm/huge_memory.c: khugepaged_find_target_node)."""
    daemon = _daemon(kernel)
    most = max(node_load.values())
    best = [nid for nid in range(len(kernel.nodes)) if node_load.get(nid) == most]
    target = best[0]
    if target <= daemon.last_target_node:
        target = next((nid for nid in best if nid > daemon.last_target_node), target)
    daemon.last_target_node = target
    return target


# --- collapsing ---


def collapse_huge_page(mm: Mm, address: int, node: int) -> None:
    """Let a huge page take the place of the base pages of a range.  mmap_sem is held for read on
    entry, not on return  (mm/huge_memory.c: collapse_huge_page)."""
    kernel = mm.kernel
    daemon = _daemon(kernel)
    up_read(mm.mmap_sem)  # the allocation may take long; everything is looked at anew
    gfp = huge_memory.alloc_hugepage_gfpmask(huge_memory.state(kernel).defrag, __GFP_OTHER_NODE)
    new_page = page_alloc.alloc_pages_exact_node(kernel, node, gfp, HPAGE_PMD_ORDER)
    if new_page is None:
        kernel.vm_events[THP_COLLAPSE_ALLOC_FAILED] += 1
        return
    kernel.vm_events[THP_COLLAPSE_ALLOC] += 1
    memcg = memcontrol.mem_cgroup_try_charge(new_page, mm, GFP_TRANSHUGE)
    if isinstance(memcg, int):
        swap.put_page(new_page)
        return
    # No fault, no system call: only walks of the reverse map and fast pins may be in the range.
    with down_write(mm.mmap_sem):
        collapsed = _collapse_locked(mm, address, new_page, memcg)
    if collapsed:
        daemon.pages_collapsed += 1
    else:
        memcontrol.mem_cgroup_cancel_charge(new_page, memcg)
        swap.put_page(new_page)


def _collapse_locked(
    mm: Mm, address: int, new_page: Page, memcg: memcontrol.MemCgroup | None
) -> bool:
    if _test_exit(mm):
        return False
    vma = mmap.find_vma(mm, address)
    if vma is None:
        return False
    hstart, hend = _huge_range(vma)
    if address < hstart or address + HPAGE_PMD_SIZE > hend or not hugepage_vma_check(vma):
        return False
    pt = rmap.mm_find_pmd(mm, address)
    pmds = find_pmds(mm, address)
    if pt is None or pmds is None:
        return False
    anon_vma = rmap.owning_anon_vma(vma)
    rmap.anon_vma_lock_write(anon_vma)
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, address, address + HPAGE_PMD_SIZE)
    with spin_lock(pmds.ptl):
        # Fast pins end here, and no CPU keeps a small translation beside the huge one.
        pmdp_clear_flush(vma, address, pmds)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, address, address + HPAGE_PMD_SIZE)
    with spin_lock(pt.ptl):
        isolated = _collapse_huge_page_isolate(vma, address, pt)
    if not isolated:
        with spin_lock(pmds.ptl):
            BUG_ON(pmd_get(pmds, address) is not None, "somebody used a collapsing pmd", pmds)
            pmd_populate(pmds, address, pt)
        rmap.anon_vma_unlock_write(anon_vma)
        return False
    # All pages are locked and isolated: no walk can begin from one of them.
    rmap.anon_vma_unlock_write(anon_vma)

    _collapse_huge_page_copy(vma, address, pt, new_page)
    SetPageUptodate(new_page)
    entry = huge_memory.mk_huge_pmd(new_page, vma.vm_page_prot)
    entry = huge_memory.maybe_pmd_mkwrite(pte_mkdirty(entry), vma)
    with spin_lock(pmds.ptl):
        BUG_ON(pmd_get(pmds, address) is not None, "somebody used a collapsing pmd", pmds)
        rmap.page_add_new_anon_rmap(new_page, vma, address)
        memcontrol.mem_cgroup_commit_charge(new_page, memcg, False)
        swap.lru_cache_add_active_or_unevictable(new_page, vma)
        huge_memory.pgtable_trans_huge_deposit(pmds, pt)
        set_pmd_at(mm, address, pmds, entry)
    return True


def _collapse_huge_page_isolate(vma: Vma, address: int, pt: PageTable) -> bool:
    """Lock and isolate every page of the range, or none
    (mm/huge_memory.c: __collapse_huge_page_isolate)."""
    mm = vma.vm_mm
    most_none = _daemon(mm.kernel).max_ptes_none
    none, referenced = 0, False
    done: list[Page] = []
    for addr in range(address, address + HPAGE_PMD_SIZE, PAGE_SIZE):
        pte = ptep_get(pt, addr)
        if pte == 0:
            none += 1
            if none > most_none:
                break
            continue
        page = _collapsible(vma, addr, pte)
        if page is None:
            break
        VM_BUG_ON_PAGE(PageCompound(page), page, "a pte maps a huge page")
        VM_BUG_ON_PAGE(not PageAnon(page), page, "not anonymous")
        VM_BUG_ON_PAGE(not PageSwapBacked(page), page, "not swap-backed")
        if page_count(page) != 1 or not trylock_page(page):
            break
        if vmscan.isolate_lru_page(page):
            unlock_page(page)
            break
        page.zone.vm_stat[NR_ISOLATED_ANON] += 1
        done.append(page)
        referenced = referenced or _is_used(mm, addr, pte, page)
    else:
        if referenced:
            return True
    for page in done:
        release_pte_page(page)
    return False


def release_pte_page(page: Page) -> None:
    """mm/huge_memory.c: release_pte_page."""
    page.zone.vm_stat[NR_ISOLATED_ANON] -= 1
    unlock_page(page)
    vmscan.putback_lru_page(page)


def _collapse_huge_page_copy(vma: Vma, address: int, pt: PageTable, new_page: Page) -> None:
    """Contents to the new page; the old ones are freed
    (mm/huge_memory.c: __collapse_huge_page_copy)."""
    mm = vma.vm_mm
    for number, part in enumerate(huge_memory.huge_parts(new_page)):
        addr = address + number * PAGE_SIZE
        pte = ptep_get(pt, addr)
        if pte == 0:
            clear_highpage(part)
            mm.rss_stat[MM_ANONPAGES] += 1
            continue
        source = mm.kernel.page_of(pte_pfn(pte))
        copy_user_highpage(part, source)
        VM_BUG_ON_PAGE(page_mapcount(source) != 1, source, "mapped by others while collapsed")
        release_pte_page(source)
        with spin_lock(pt.ptl):
            pte_clear(mm, addr, pt)
            rmap.page_remove_rmap(source)
        swap_state.free_swap_cache(source)
        swap.put_page(source)
