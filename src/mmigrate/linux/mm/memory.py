"""Page faults  (mm/memory.c, arch/x86/mm/fault.c).

A fault looks at the pte without its lock, does the slow part (allocation, I/O), takes the
lock and begins anew if the pte has changed.  What concerns tables as a whole is in
`page_tables.py`, whose names are also found here.
Huge pmds are the business of `huge_memory.py`.
"""

from __future__ import annotations

from mmigrate.linux.include.gfp import __GFP_ZERO, GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from mmigrate.linux.include.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_NONLINEAR,
    FAULT_FLAG_TRIED,
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    VM_EXEC,
    VM_FAULT_ERROR,
    VM_FAULT_FALLBACK,
    VM_FAULT_HWPOISON,
    VM_FAULT_LOCKED,
    VM_FAULT_MAJOR,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_WRITE,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    VmFault,
)
from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.page_flags import PG_anon_shared
from mmigrate.linux.include.pgtable import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    is_hwpoison_entry,
    is_migration_entry,
    non_swap_entry,
    pfn_pte,
    pmd_numa,
    pmd_trans_splitting,
    pte_file,
    pte_file_soft_dirty,
    pte_mkdirty,
    pte_mknonnuma,
    pte_mksoft_dirty,
    pte_mkspecial,
    pte_mkwrite,
    pte_mkyoung,
    pte_numa,
    pte_present,
    pte_swp_soft_dirty,
    pte_to_pgoff,
    pte_to_swp_entry,
    pte_write,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.include.switches import COPY_IF_REFERENCED, REMEMBER_EXCLUSIVE
from mmigrate.linux.include.vmstat import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SWAPENTS,
    PGFAULT,
    PGMAJFAULT,
)
from mmigrate.linux.kernel import fair, sched
from mmigrate.linux.kernel.area import vma_flags, vma_page_prot
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.highmem import copy_user_highpage
from mmigrate.linux.kernel.page_flags import (
    PageAnon,
    PageKsm,
    PageLRU,
    PageMlocked,
    PageSwapCache,
    PageUptodate,
    SetPageUptodate,
    lock_page,
    page_cpupid_last,
    page_private,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import get_page, page_count, page_mapcount
from mmigrate.linux.kernel.pgtable import (
    find_leaf,
    find_pmds,
    pmd_get,
    ptep_get,
    ptep_set_access_flags,
    set_pte_at,
)
from mmigrate.linux.kernel.rwsem import down_read, up_read
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.mm import (
    filemap,
    huge_memory,
    hugetlb,
    ksm,
    memcontrol,
    mempolicy,
    migrate,
    migrate_misplaced,
    mlock,
    mmap,
    mmu_notifier,
    oom_kill,
    page_writeback,
    rmap,
    swap,
    swap_state,
    swapfile,
)
from mmigrate.linux.mm.page_tables import ZapDetails as ZapDetails
from mmigrate.linux.mm.page_tables import __pte_alloc as __pte_alloc
from mmigrate.linux.mm.page_tables import copy_page_range as copy_page_range
from mmigrate.linux.mm.page_tables import free_pgd_range as free_pgd_range
from mmigrate.linux.mm.page_tables import free_pgtables as free_pgtables
from mmigrate.linux.mm.page_tables import is_cow_mapping as is_cow_mapping
from mmigrate.linux.mm.page_tables import new_table as new_table
from mmigrate.linux.mm.page_tables import pmd_alloc as pmd_alloc
from mmigrate.linux.mm.page_tables import pte_alloc_map as pte_alloc_map
from mmigrate.linux.mm.page_tables import unmap_mapping_range as unmap_mapping_range
from mmigrate.linux.mm.page_tables import unmap_vmas as unmap_vmas
from mmigrate.linux.mm.page_tables import vm_normal_page as vm_normal_page
from mmigrate.linux.mm.page_tables import zap_page_range as zap_page_range

# --- from the hardware ---


def page_fault(task: Task, addr: int, write: bool) -> str:
    """The running task's access was refused by the page tables: mend them.  "" if the access
    may be repeated, else the name of the signal it gets
    (arch/x86/mm/fault.c: __do_page_fault)."""
    mm = task.mm
    assert mm is not None
    flags = FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_USER | (FAULT_FLAG_WRITE if write else 0)
    task.memcg_oom = None
    while True:
        down_read(mm.mmap_sem)
        vma = mmap.find_vma(mm, addr)
        if vma is None or not _reaches(vma, addr) or _access_error(vma, write):
            up_read(mm.mmap_sem)
            return "SIGSEGV"
        fault = handle_mm_fault(mm, vma, addr, flags)
        if fault & VM_FAULT_RETRY:  # mmap_sem has been given up
            flags = flags & ~FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_TRIED
            continue
        up_read(mm.mmap_sem)
        if not fault and not vma.vm_flags & VM_HUGETLB:
            wait_while_splitting(mm, addr)
        if fault & VM_FAULT_ERROR:
            if fault & VM_FAULT_OOM:
                return oom_kill.pagefault_out_of_memory(task)
            return "SIGBUS" if fault & (VM_FAULT_SIGBUS | VM_FAULT_HWPOISON) else "SIGSEGV"
        return ""


def wait_while_splitting(mm: Mm, addr: int) -> None:
    """A huge page that is being split cannot be had for a moment; the program faults on it again
    and again."""
    pmds = find_pmds(mm, addr)
    if pmds is not None and pmd_trans_splitting(pmds.entries[(addr >> 21) & 511]):
        index = (addr >> 21) & 511
        sched.spin_until(
            pmds,
            index,
            lambda: not pmd_trans_splitting(pmds.entries[index]),
            f"the split of the huge page at {addr:#x}",
        )


def _reaches(vma: Vma, addr: int) -> bool:
    if vma.vm_start <= addr:
        return True
    return bool(vma.vm_flags & VM_GROWSDOWN) and mmap.expand_stack(vma, addr) == 0


def _access_error(vma: Vma, write: bool) -> bool:
    if write:
        return not vma.vm_flags & VM_WRITE
    return not vma.vm_flags & (VM_READ | VM_EXEC | VM_WRITE)


# --- which kind of fault ---


def handle_mm_fault(mm: Mm, vma: Vma, addr: int, flags: int) -> int:
    """Make @addr accessible; VM_FAULT_* bits.  mmap_sem is held for read
    (mm/memory.c: handle_mm_fault)."""
    mm.kernel.vm_events[PGFAULT] += 1
    if vma.vm_flags & VM_HUGETLB:
        return hugetlb.hugetlb_fault(mm, vma, addr, flags)
    pmds = pmd_alloc(mm, addr)
    pmd = pmd_get(pmds, addr)
    if type(pmd) is not PageTable:
        ret = _huge_fault(mm, vma, addr, pmds, pmd, flags)
        if not ret & VM_FAULT_FALLBACK:
            return ret
        if pmd_get(pmds, addr) is None:
            __pte_alloc(mm, vma, pmds, addr)
        pmd = pmd_get(pmds, addr)
        if type(pmd) is not PageTable:
            return 0  # a huge page has come meanwhile: fault again
    # mmap_sem keeps this table where it is.
    return _handle_pte_fault(mm, vma, addr & PAGE_MASK, pmd, flags)


def _huge_fault(mm: Mm, vma: Vma, addr: int, pmds: PageTable, pmd: int | None, flags: int) -> int:
    """The part of __handle_mm_fault for pmds without a table of ptes; VM_FAULT_FALLBACK: go on
    with a table of ptes."""
    if pmd is None:
        if huge_memory.transparent_hugepage_enabled(vma) and vma.vm_ops is None:
            return huge_memory.do_huge_pmd_anonymous_page(mm, vma, addr, pmds, flags)
        return VM_FAULT_FALLBACK
    if pmd_trans_splitting(pmd):
        return 0
    if pmd_numa(pmd):
        return huge_memory.do_huge_pmd_numa_page(mm, vma, addr, pmds, pmd)
    write = bool(flags & FAULT_FLAG_WRITE)
    if write and not pte_write(pmd):
        return huge_memory.do_huge_pmd_wp_page(mm, vma, addr, pmds, pmd)
    huge_memory.huge_pmd_set_accessed(mm, vma, addr, pmds, pmd, write)
    return 0


def _handle_pte_fault(mm: Mm, vma: Vma, addr: int, pt: PageTable, flags: int) -> int:
    """mm/memory.c: handle_pte_fault."""
    entry = ptep_get(pt, addr)
    if not pte_present(entry):
        if entry == 0:
            if vma.vm_ops is not None and vma.vm_ops.fault is not None:
                return _do_linear_fault(mm, vma, addr, pt, flags, entry)
            return do_anonymous_page(mm, vma, addr, pt, flags)
        if pte_file(entry):
            return _do_nonlinear_fault(mm, vma, addr, pt, flags, entry)
        return do_swap_page(mm, vma, addr, pt, flags, entry)
    if pte_numa(entry):
        return do_numa_page(mm, vma, addr, pt, entry)
    ptl = pt.ptl
    spin_lock(ptl)
    if ptep_get(pt, addr) != entry:
        spin_unlock(ptl)
        return 0
    write = flags & FAULT_FLAG_WRITE
    if write:
        if not pte_write(entry):
            return do_wp_page(mm, vma, addr, pt, entry)
        entry = pte_mkdirty(entry)
    ptep_set_access_flags(vma, addr, pt, pte_mkyoung(entry), bool(write))
    spin_unlock(ptl)
    return 0


def maybe_mkwrite(pte: int, vma: Vma) -> int:
    """Writable, if the area is  (include/linux/mm.h: maybe_mkwrite)."""
    return pte_mkwrite(pte) if vma_flags(vma) & VM_WRITE else pte


def mk_pte(page: Page, vma: Vma) -> int:
    return pfn_pte(page.pfn, vma_page_prot(vma))


# --- anonymous memory ---


def do_anonymous_page(mm: Mm, vma: Vma, addr: int, pt: PageTable, flags: int) -> int:
    """A first access to anonymous memory: the zero page for a load, a page of its own for
    a store  (mm/memory.c: do_anonymous_page)."""
    ptl = pt.ptl
    if not flags & FAULT_FLAG_WRITE:
        entry = pte_mkspecial(pfn_pte(mm.kernel.zero_page.pfn, vma.vm_page_prot))
        spin_lock(ptl)
        if ptep_get(pt, addr) == 0:
            set_pte_at(mm, addr, pt, entry)
        spin_unlock(ptl)
        return 0
    if rmap.anon_vma_prepare(vma):
        return VM_FAULT_OOM
    page = mempolicy.alloc_page_vma(GFP_HIGHUSER_MOVABLE | __GFP_ZERO, vma, addr)
    if page is None:
        return VM_FAULT_OOM
    SetPageUptodate(page)
    memcg = memcontrol.mem_cgroup_try_charge(page, mm, GFP_KERNEL)
    if isinstance(memcg, int):
        swap.put_page(page)
        return VM_FAULT_OOM
    entry = mk_pte(page, vma)
    if vma.vm_flags & VM_WRITE:
        entry = pte_mkwrite(pte_mkdirty(entry))
    spin_lock(ptl)
    if ptep_get(pt, addr) != 0:
        spin_unlock(ptl)
        memcontrol.mem_cgroup_cancel_charge(page, memcg)
        swap.put_page(page)
        return 0
    mm.rss_stat[MM_ANONPAGES] += 1
    rmap.page_add_new_anon_rmap(page, vma, addr)
    memcontrol.mem_cgroup_commit_charge(page, memcg, False)
    swap.lru_cache_add_active_or_unevictable(page, vma)
    set_pte_at(mm, addr, pt, entry)
    spin_unlock(ptl)
    return 0


# --- files ---


def _do_linear_fault(mm: Mm, vma: Vma, addr: int, pt: PageTable, flags: int, orig_pte: int) -> int:
    return _do_fault(mm, vma, addr, pt, rmap.linear_page_index(vma, addr), flags, orig_pte)


def _do_nonlinear_fault(
    mm: Mm, vma: Vma, addr: int, pt: PageTable, flags: int, orig_pte: int
) -> int:
    """The pte itself says which page of the file it wants
    (mm/memory.c: do_nonlinear_fault)."""
    pgoff = pte_to_pgoff(orig_pte)
    return _do_fault(mm, vma, addr, pt, pgoff, flags | FAULT_FLAG_NONLINEAR, orig_pte)


def _do_fault(
    mm: Mm, vma: Vma, addr: int, pt: PageTable, pgoff: int, flags: int, orig_pte: int
) -> int:
    if not flags & FAULT_FLAG_WRITE:
        return do_read_fault(mm, vma, addr, pt, pgoff, flags, orig_pte)
    if not vma.vm_flags & VM_SHARED:
        return do_cow_fault(mm, vma, addr, pt, pgoff, flags, orig_pte)
    return do_shared_fault(mm, vma, addr, pt, pgoff, flags, orig_pte)


def __do_fault(
    vma: Vma, addr: int, pgoff: int, flags: int, cow_page: Page | None
) -> tuple[int, Page | None]:
    """Ask the file for its page, locked  (mm/memory.c: __do_fault)."""
    vmf = VmFault(flags, pgoff, addr)
    vmf.cow_page = cow_page
    assert vma.vm_ops is not None and vma.vm_ops.fault is not None
    ret = vma.vm_ops.fault(vma, vmf)
    if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        return ret, None
    assert vmf.page is not None
    if not ret & VM_FAULT_LOCKED:
        lock_page(vmf.page)
    return ret & ~VM_FAULT_LOCKED, vmf.page


def do_set_pte(vma: Vma, addr: int, page: Page, pt: PageTable, write: bool, anon: bool) -> None:
    """Map a page, under the pte lock  (mm/memory.c: do_set_pte)."""
    mm = vma.vm_mm
    entry = mk_pte(page, vma)
    if write:
        entry = maybe_mkwrite(pte_mkdirty(entry), vma)
    else:
        old = ptep_get(pt, addr)
        if pte_file(old) and pte_file_soft_dirty(old):
            entry = pte_mksoft_dirty(entry)
    if anon:
        mm.rss_stat[MM_ANONPAGES] += 1
        rmap.page_add_new_anon_rmap(page, vma, addr)
    else:
        mm.rss_stat[MM_FILEPAGES] += 1
        rmap.page_add_file_rmap(page)
    set_pte_at(mm, addr, pt, entry)


def _do_fault_around(vma: Vma, addr: int, pt: PageTable, pgoff: int, flags: int) -> None:
    """Map what is cached near a load, under the pte lock  (mm/memory.c: do_fault_around)."""
    around = vma.vm_mm.kernel.fault_around_bytes
    start = max(addr & ~(around - 1), vma.vm_start, addr & PMD_MASK)
    first = pgoff - ((addr - start) >> PAGE_SHIFT)
    stop = min(
        (start & ~(around - 1)) + around,
        vma.vm_end,
        (addr & PMD_MASK) + PMD_SIZE,
    )
    last = first + ((stop - start) >> PAGE_SHIFT) - 1
    while ptep_get(pt, start) != 0:
        first += 1
        start += PAGE_SIZE
        if first > last or start >= vma.vm_end:
            return
    vmf = VmFault(flags, first, start)
    vmf.max_pgoff = last
    vmf.pt = pt
    assert vma.vm_ops is not None and vma.vm_ops.map_pages is not None
    vma.vm_ops.map_pages(vma, vmf)


def do_read_fault(
    mm: Mm, vma: Vma, addr: int, pt: PageTable, pgoff: int, flags: int, orig_pte: int
) -> int:
    """A load from a file mapping  (mm/memory.c: do_read_fault)."""
    ptl = pt.ptl
    assert vma.vm_ops is not None
    around = vma.vm_ops.map_pages is not None and mm.kernel.fault_around_bytes > PAGE_SIZE
    if around and not flags & FAULT_FLAG_NONLINEAR:
        spin_lock(ptl)
        _do_fault_around(vma, addr, pt, pgoff, flags)
        changed = ptep_get(pt, addr) != orig_pte
        spin_unlock(ptl)
        if changed:
            return 0
    ret, page = __do_fault(vma, addr, pgoff, flags, None)
    if page is None:
        return ret
    spin_lock(ptl)
    if ptep_get(pt, addr) != orig_pte:
        spin_unlock(ptl)
        unlock_page(page)
        swap.put_page(page)
        return ret
    do_set_pte(vma, addr, page, pt, False, False)
    spin_unlock(ptl)
    unlock_page(page)
    return ret


def do_cow_fault(
    mm: Mm, vma: Vma, addr: int, pt: PageTable, pgoff: int, flags: int, orig_pte: int
) -> int:
    """A store to a private file mapping: a copy  (mm/memory.c: do_cow_fault)."""
    if rmap.anon_vma_prepare(vma):
        return VM_FAULT_OOM
    new_page = mempolicy.alloc_page_vma(GFP_HIGHUSER_MOVABLE, vma, addr)
    if new_page is None:
        return VM_FAULT_OOM
    memcg = memcontrol.mem_cgroup_try_charge(new_page, mm, GFP_KERNEL)
    if isinstance(memcg, int):
        swap.put_page(new_page)
        return VM_FAULT_OOM
    ret, fault_page = __do_fault(vma, addr, pgoff, flags, new_page)
    if fault_page is None:
        memcontrol.mem_cgroup_cancel_charge(new_page, memcg)
        swap.put_page(new_page)
        return ret
    copy_user_highpage(new_page, fault_page)
    SetPageUptodate(new_page)
    ptl = pt.ptl
    spin_lock(ptl)
    if ptep_get(pt, addr) != orig_pte:
        spin_unlock(ptl)
        unlock_page(fault_page)
        swap.put_page(fault_page)
        memcontrol.mem_cgroup_cancel_charge(new_page, memcg)
        swap.put_page(new_page)
        return ret
    do_set_pte(vma, addr, new_page, pt, True, True)
    memcontrol.mem_cgroup_commit_charge(new_page, memcg, False)
    swap.lru_cache_add_active_or_unevictable(new_page, vma)
    spin_unlock(ptl)
    unlock_page(fault_page)
    swap.put_page(fault_page)
    return ret


def do_shared_fault(
    mm: Mm, vma: Vma, addr: int, pt: PageTable, pgoff: int, flags: int, orig_pte: int
) -> int:
    """A store to a shared file mapping  (mm/memory.c: do_shared_fault)."""
    ret, page = __do_fault(vma, addr, pgoff, flags, None)
    if page is None:
        return ret
    assert vma.vm_ops is not None
    if vma.vm_ops.page_mkwrite is not None:
        unlock_page(page)
        made = _do_page_mkwrite(vma, page, addr)
        if not made or made & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            swap.put_page(page)
            return made
    ptl = pt.ptl
    spin_lock(ptl)
    if ptep_get(pt, addr) != orig_pte:
        spin_unlock(ptl)
        unlock_page(page)
        swap.put_page(page)
        return ret
    do_set_pte(vma, addr, page, pt, True, False)
    spin_unlock(ptl)
    page_writeback.set_page_dirty(page)
    unlock_page(page)
    return ret


def _do_page_mkwrite(vma: Vma, page: Page, addr: int) -> int:
    """Tell the filesystem that a page is about to be written; it is locked afterwards unless
    the answer is 0 or an error  (mm/memory.c: do_page_mkwrite)."""
    vmf = VmFault(FAULT_FLAG_WRITE, page.index, addr)
    vmf.page = page
    assert vma.vm_ops is not None and vma.vm_ops.page_mkwrite is not None
    ret = vma.vm_ops.page_mkwrite(vma, vmf)
    if ret & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
        return ret
    if not ret & VM_FAULT_LOCKED:
        lock_page(page)
        if READ_ONCE(page, "mapping") is None:
            unlock_page(page)
            return 0
        ret |= VM_FAULT_LOCKED
    return ret


# --- swap, migration and poison entries ---


def do_swap_page(mm: Mm, vma: Vma, addr: int, pt: PageTable, flags: int, orig_pte: int) -> int:
    """The pte names a place in swap, or a page that is being migrated
    (mm/memory.c: do_swap_page)."""
    entry = pte_to_swp_entry(orig_pte)
    if non_swap_entry(entry):
        if is_migration_entry(entry):
            migrate.migration_entry_wait(mm, pt, addr)
            return 0
        return VM_FAULT_HWPOISON if is_hwpoison_entry(entry) else VM_FAULT_SIGBUS
    ptl = pt.ptl
    ret = 0
    page = swap_state.lookup_swap_cache(entry)
    if page is None:
        page = swap_state.swapin_readahead(entry, GFP_HIGHUSER_MOVABLE, vma, addr)
        if page is None:
            spin_lock(ptl)
            same = ptep_get(pt, addr) == orig_pte
            spin_unlock(ptl)
            return VM_FAULT_OOM if same else 0
        ret = VM_FAULT_MAJOR
        mm.kernel.vm_events[PGMAJFAULT] += 1
    if not filemap.lock_page_or_retry(page, mm, flags):
        swap.put_page(page)
        return ret | VM_FAULT_RETRY
    # It may have left the swap cache, or be cached for another place, by now.
    if not PageSwapCache(page) or page_private(page) != entry:
        unlock_page(page)
        swap.put_page(page)
        return ret
    swapcache = page
    mine = ksm.ksm_might_need_to_copy(page, vma, addr)
    if mine is None:
        unlock_page(page)
        swap.put_page(page)
        return VM_FAULT_OOM
    page = mine
    memcg = memcontrol.mem_cgroup_try_charge(page, mm, GFP_KERNEL)
    if isinstance(memcg, int):
        unlock_page(page)
        swap.put_page(page)
        if page is not swapcache:
            unlock_page(swapcache)
            swap.put_page(swapcache)
        return VM_FAULT_OOM
    spin_lock(ptl)
    if ptep_get(pt, addr) != orig_pte or not PageUptodate(page):
        bad = ptep_get(pt, addr) == orig_pte
        memcontrol.mem_cgroup_cancel_charge(page, memcg)
        spin_unlock(ptl)
        unlock_page(page)
        swap.put_page(page)
        if page is not swapcache:
            unlock_page(swapcache)
            swap.put_page(swapcache)
        return VM_FAULT_SIGBUS if bad else ret
    mm.rss_stat[MM_ANONPAGES] += 1
    mm.rss_stat[MM_SWAPENTS] -= 1
    pte = mk_pte(page, vma)
    write = bool(flags & FAULT_FLAG_WRITE)
    exclusive = False
    if write and swapfile.reuse_swap_page(page):
        pte = maybe_mkwrite(pte_mkdirty(pte), vma)
        write = False
        ret |= VM_FAULT_WRITE
        exclusive = True
    if pte_swp_soft_dirty(orig_pte):
        pte = pte_mksoft_dirty(pte)
    set_pte_at(mm, addr, pt, pte)
    if page is swapcache:
        rmap.do_page_add_anon_rmap(page, vma, addr, exclusive)
        memcontrol.mem_cgroup_commit_charge(page, memcg, True)
    else:
        rmap.page_add_new_anon_rmap(page, vma, addr)
        memcontrol.mem_cgroup_commit_charge(page, memcg, False)
        swap.lru_cache_add_active_or_unevictable(page, vma)
    swapfile.swap_free(entry)
    if swapfile.vm_swap_full(mm.kernel) or vma_flags(vma) & VM_LOCKED or PageMlocked(page):
        swapfile.try_to_free_swap(page)
    unlock_page(page)
    if page is not swapcache:
        # Only now: with it goes the swap place that another fault might still look up.
        unlock_page(swapcache)
        swap.put_page(swapcache)
    if write:
        ret |= do_wp_page(mm, vma, addr, pt, pte)
        return ret & VM_FAULT_ERROR if ret & VM_FAULT_ERROR else ret
    spin_unlock(ptl)
    return ret


def do_numa_page(mm: Mm, vma: Vma, addr: int, pt: PageTable, pte: int) -> int:
    """A hinting fault: make the pte present again, and move the page if it is used from another
    node; 0  (mm/memory.c: do_numa_page)."""
    ptl = pt.ptl
    spin_lock(ptl)
    if ptep_get(pt, addr) != pte:
        spin_unlock(ptl)
        return 0
    # Before anything else: whether the page moves or not, others may use it from now on.
    pte = pte_mknonnuma(pte)
    set_pte_at(mm, addr, pt, pte)
    page = vm_normal_page(vma, addr, pte)
    if page is None:
        spin_unlock(ptl)
        return 0
    BUG_ON(page is mm.kernel.zero_page, "a hinting fault on the zero page", vma)
    flags = 0 if pte_write(pte) else fair.TNF_NO_GROUP
    if page_mapcount(page) > 1 and vma.vm_flags & VM_SHARED:
        flags |= fair.TNF_SHARED
    last_cpupid = page_cpupid_last(page)
    page_nid = page.zone.nid
    get_page(page)
    flags |= fair.count_hinting_fault(page)
    target_nid = mempolicy.mpol_misplaced(page, vma, addr)
    spin_unlock(ptl)
    if target_nid == -1:
        swap.put_page(page)
    elif migrate_misplaced.migrate_misplaced_page(page, vma, target_nid):
        page_nid = target_nid
        flags |= fair.TNF_MIGRATED
    fair.task_numa_fault(last_cpupid, page_nid, 1, flags)
    return 0


# --- copy on write ---


def do_wp_page(mm: Mm, vma: Vma, addr: int, pt: PageTable, orig_pte: int) -> int:
    """A store to a write-protected page. The pte lock is held on entry, not on return
    (mm/memory.c: do_wp_page)."""
    ptl = pt.ptl
    old_page = vm_normal_page(vma, addr, orig_pte)
    if old_page is None:
        return _wp_page_copy(mm, vma, addr, pt, orig_pte, None)
    if PageAnon(old_page) and mm.kernel.has(COPY_IF_REFERENCED):
        if _may_reuse_anon_page(old_page, vma, addr):
            _wp_page_reuse(vma, addr, pt, orig_pte)
            spin_unlock(ptl)
            return VM_FAULT_WRITE
    elif PageAnon(old_page) and not PageKsm(old_page):
        if not trylock_page(old_page):
            get_page(old_page)
            spin_unlock(ptl)
            lock_page(old_page)
            spin_lock(ptl)
            if ptep_get(pt, addr) != orig_pte:
                unlock_page(old_page)
                spin_unlock(ptl)
                swap.put_page(old_page)
                return 0
            swap.put_page(old_page)
        if swapfile.reuse_swap_page(old_page):
            # Ours alone: other walks need not look into the parent's areas any more.
            rmap.page_move_anon_rmap(old_page, vma, addr)
            unlock_page(old_page)
            _wp_page_reuse(vma, addr, pt, orig_pte)
            spin_unlock(ptl)
            return VM_FAULT_WRITE
        unlock_page(old_page)
    elif vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED:
        return _wp_page_shared(vma, addr, pt, orig_pte, old_page)
    get_page(old_page)
    return _wp_page_copy(mm, vma, addr, pt, orig_pte, old_page)


def _may_reuse_anon_page(page: Page, vma: Vma, addr: int) -> bool:
    """What later kernels ask instead of who maps the page: whether it was never shared since it
    was made, or else whether nobody has a reference but this pte and the swap cache
    (mm/memory.c: do_wp_page of v6.1)."""
    if page.flags & PG_anon_shared == 0 and page.zone.kernel.has(REMEMBER_EXCLUSIVE):
        return not PageKsm(page)
    if PageKsm(page) or page_count(page) > 3:
        return False
    if not PageLRU(page):
        swap.lru_add_drain()
    if page_count(page) > 1 + PageSwapCache(page) or not trylock_page(page):
        return False
    if PageSwapCache(page):
        swapfile.try_to_free_swap(page)
    alone = page_count(page) == 1
    if alone:
        rmap.page_move_anon_rmap(page, vma, addr)
        page.flags &= ~PG_anon_shared
    unlock_page(page)
    return alone


def _wp_page_reuse(vma: Vma, addr: int, pt: PageTable, orig_pte: int) -> None:
    entry = maybe_mkwrite(pte_mkdirty(pte_mkyoung(orig_pte)), vma)
    ptep_set_access_flags(vma, addr, pt, entry, True)


def _wp_page_shared(vma: Vma, addr: int, pt: PageTable, orig_pte: int, old_page: Page) -> int:
    """The first store to a clean page of a shared mapping."""
    ptl = pt.ptl
    get_page(old_page)
    assert vma.vm_ops is not None
    page_mkwrite = vma.vm_ops.page_mkwrite is not None
    if page_mkwrite:
        spin_unlock(ptl)
        made = _do_page_mkwrite(vma, old_page, addr)
        if not made or made & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            swap.put_page(old_page)
            return made
        spin_lock(ptl)
        if ptep_get(pt, addr) != orig_pte:
            unlock_page(old_page)
            spin_unlock(ptl)
            swap.put_page(old_page)
            return 0
    _wp_page_reuse(vma, addr, pt, orig_pte)
    spin_unlock(ptl)
    if not page_mkwrite:
        lock_page(old_page)
    page_writeback.set_page_dirty(old_page)
    unlock_page(old_page)
    swap.put_page(old_page)
    return VM_FAULT_WRITE


def unshare(mm: Mm, vma: Vma, addr: int) -> int:
    """A copy of a merged page that is neither writable nor dirty  (mm/memory.c: do_wp_page of v6.2,
    with FAULT_FLAG_UNSHARE)."""
    pt = find_leaf(mm, addr)
    if pt is None:
        return 0
    spin_lock(pt.ptl)
    pte = ptep_get(pt, addr)
    page = vm_normal_page(vma, addr, pte) if pte_present(pte) else None
    if page is None or not PageKsm(page):
        spin_unlock(pt.ptl)
        return 0
    get_page(page)
    return _wp_page_copy(mm, vma, addr, pt, pte, page, unshared=True) & VM_FAULT_ERROR


def _wp_page_copy(
    mm: Mm,
    vma: Vma,
    addr: int,
    pt: PageTable,
    orig_pte: int,
    old_page: Page | None,
    unshared: bool = False,
) -> int:
    """Copy the page (None: the zero page) and map the copy; our reference on the old one is
    dropped.  @unshared: nobody stores to it yet."""
    ptl = pt.ptl
    spin_unlock(ptl)
    new_page = None
    if not rmap.anon_vma_prepare(vma):
        new_page = mempolicy.alloc_page_vma(GFP_HIGHUSER_MOVABLE, vma, addr)
    if new_page is None:
        if old_page is not None:
            swap.put_page(old_page)
        return VM_FAULT_OOM
    if old_page is not None:
        copy_user_highpage(new_page, old_page)
    SetPageUptodate(new_page)
    memcg = memcontrol.mem_cgroup_try_charge(new_page, mm, GFP_KERNEL)
    if isinstance(memcg, int):
        swap.put_page(new_page)
        if old_page is not None:
            swap.put_page(old_page)
        return VM_FAULT_OOM
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, addr, addr + PAGE_SIZE)
    ret = 0
    spin_lock(ptl)
    if ptep_get(pt, addr) == orig_pte:
        if old_page is None:
            mm.rss_stat[MM_ANONPAGES] += 1
        elif not PageAnon(old_page):
            mm.rss_stat[MM_FILEPAGES] -= 1
            mm.rss_stat[MM_ANONPAGES] += 1
        entry = mk_pte(new_page, vma)
        if not unshared:
            entry = maybe_mkwrite(pte_mkdirty(entry), vma)
        # Flushed before the copy can be written, or another CPU would go on reading the
        # old page.
        mmu_notifier.ptep_clear_flush_notify(vma, addr, pt)
        rmap.page_add_new_anon_rmap(new_page, vma, addr)
        memcontrol.mem_cgroup_commit_charge(new_page, memcg, False)
        swap.lru_cache_add_active_or_unevictable(new_page, vma)
        # A shadow of this page table can lead to the copy at once.
        mmu_notifier.set_pte_at_notify(mm, addr, pt, entry)
        if old_page is not None:
            rmap.page_remove_rmap(old_page)
        unused, ret = old_page, VM_FAULT_WRITE
    else:
        memcontrol.mem_cgroup_cancel_charge(new_page, memcg)
        unused = new_page
    if unused is not None:
        swap.put_page(unused)
    spin_unlock(ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, addr, addr + PAGE_SIZE)
    if old_page is not None:
        if ret & VM_FAULT_WRITE and vma.vm_flags & VM_LOCKED:
            lock_page(old_page)
            mlock.munlock_copied_page(old_page)
            unlock_page(old_page)
        swap.put_page(old_page)
    return ret
