"""Stores to anonymous memory that nobody has touched yet, many pages at a time.

Differs: a kernel of v3.19 takes a fault for each page.  What is done here leaves what those
faults leave, to the last counter and to the order of every list: pages below one table of ptes
are taken from the CPU's list, charged, mapped and put on the LRU a run at a time.  It is done only
where nobody looks on and nothing but the ordinary can happen; the first page below a table, and
all that is left at the first sign of anything else, is for the faults.  The number that justifies
this is `plan_1g_s` of benchmarks/plan.py.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.gfp import __GFP_ZERO, GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from mmigrate.linux.include.mempolicy import MPOL_INTERLEAVE
from mmigrate.linux.include.mm import PAGEVEC_SIZE, VM_HUGETLB, VM_LOCKED, VM_WRITE
from mmigrate.linux.include.mm_types import Page, PageTable, Vma
from mmigrate.linux.include.page_flags import PG_active, PG_lru, PG_swapbacked, PG_uptodate
from mmigrate.linux.include.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_PRESENT,
    _PAGE_USER,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    pte_mkdirty,
    pte_mkwrite,
)
from mmigrate.linux.include.sched import Cpu, Task
from mmigrate.linux.include.vmstat import (
    LRU_ACTIVE_ANON,
    MM_ANONPAGES,
    NR_ANON_PAGES,
    NR_LRU_BASE,
    PGFAULT,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.pgtable import find_leaf
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.kernel.tlb import TLB_PLACES
from mmigrate.linux.mm import alloc_bulk, memcontrol, mempolicy, mmap, rmap, swap

LEAST: Final = 4 * PAGE_SIZE  # below which it does not pay
_GFP: Final = GFP_HIGHUSER_MOVABLE | __GFP_ZERO
_NEW: Final = PG_uptodate | PG_swapbacked | PG_active
_USABLE: Final = _PAGE_PRESENT | _PAGE_USER


def store_to_new_pages(task: Task, addr: int, end: int) -> int:
    """One store in every page from @addr on, up to @end or to what needs a fault, whichever comes
    first; the address reached.  The running task has just stored to the page before, so that the
    table of ptes, the anon_vma and the translations of this mm are there."""
    mm = task.mm
    assert mm is not None
    kernel = mm.kernel
    if sched.hook is not None or kernel.events is not None:
        return addr
    end = min(end, (addr & PMD_MASK) + PMD_SIZE)
    vma = mmap.find_vma(mm, addr)
    if vma is None or vma.vm_start > addr or not _is_ordinary(vma):
        return addr
    pt = find_leaf(mm, addr)
    end = min(end, vma.vm_end)
    if pt is None or not addr & ~PMD_MASK:
        return addr
    first = (addr >> PAGE_SHIFT) & 511
    wanted = _count_empty(pt, first, first + (end - addr >> PAGE_SHIFT))
    if wanted << PAGE_SHIFT < LEAST:
        return addr
    pol = mempolicy.get_vma_policy(vma, addr)
    if pol is not None and pol.mode == MPOL_INTERLEAVE:
        return addr
    memcg = memcontrol.group_with_room(mm, wanted)
    if kernel.memcg is not None and memcg is None:
        return addr
    zonelist = mempolicy.policy_zonelist(pol, _GFP, task.cpu.node)
    pages = alloc_bulk.alloc_pages_bulk(
        _GFP, zonelist, mempolicy.policy_nodemask(_GFP, pol), wanted
    )
    if pages:
        if memcg is not None:
            memcontrol.charge_new_anon_pages(memcg, pages, GFP_KERNEL)
        with spin_lock(pt.ptl):
            _map_and_use(task.cpu, vma, addr, pt, pages)
            _add_to_lru(task.cpu, pages, memcg)
        kernel.vm_events[PGFAULT] += len(pages)
    return addr + len(pages) * PAGE_SIZE


def _is_ordinary(vma: Vma) -> bool:
    """Private memory without a file, writable, not locked."""
    return (
        (vma.vm_ops is None or vma.vm_ops.fault is None)
        and vma.vm_flags & (VM_HUGETLB | VM_LOCKED | VM_WRITE) == VM_WRITE
        and vma.vm_page_prot & _USABLE == _USABLE
        and vma.anon_vma is not None
    )


def _count_empty(pt: PageTable, first: int, end: int) -> int:
    """How many ptes in a row are empty."""
    entries = pt.entries
    for index in range(first, end):
        if entries[index]:
            return index - first
    return end - first


# HOT: plan_1g_s of benchmarks/plan.py
def _map_and_use(cpu: Cpu, vma: Vma, addr: int, pt: PageTable, pages: list[Page]) -> None:
    """The ptes, with what the CPU makes of them, and the reverse map  (mm/memory.c:
    do_anonymous_page, mm/rmap.c: page_add_new_anon_rmap)."""
    anon_vma = rmap.owning_anon_vma(vma)
    index = rmap.linear_page_index(vma, addr)
    rights = pte_mkwrite(pte_mkdirty(vma.vm_page_prot)) | _PAGE_ACCESSED
    ptes = []
    for page in pages:
        page.flags = _NEW
        page._mapcount = 0
        page.mapping = anon_vma
        page.index = index
        index += 1
        ptes.append(page.pfn << PAGE_SHIFT | rights)
    first = (addr >> PAGE_SHIFT) & 511
    pt.entries[first : first + len(ptes)] = ptes
    pages[0].zone.vm_stat[NR_ANON_PAGES] += len(pages)
    vma.vm_mm.rss_stat[MM_ANONPAGES] += len(pages)
    tlb = cpu.tlb
    vpn = addr >> PAGE_SHIFT
    for old in range(vpn, vpn + len(ptes)):
        tlb.pop(old, None)  # of what was mapped here before
    tlb.update(zip(range(vpn, vpn + len(ptes)), ptes, strict=True))
    for _ in range(len(tlb) - TLB_PLACES):
        del tlb[next(iter(tlb))]


def _add_to_lru(cpu: Cpu, pages: list[Page], memcg: memcontrol.MemCgroup | None) -> None:
    """By way of the CPU's vector, which is emptied when a page finds it full  (mm/swap.c:
    lru_cache_add_active_or_unevictable)."""
    vector = cpu.pagevecs[swap.LRU_ADD]
    taken = 0
    if vector:
        taken = PAGEVEC_SIZE - len(vector)
        for page in pages[:taken]:
            page._count += 1
        vector += pages[:taken]
        if taken >= len(pages):
            return
        swap.pagevec_lru_move_fn(vector, swap.__pagevec_lru_add_fn)
    staying = (len(pages) - taken - 1) % PAGEVEC_SIZE + 1
    _link(pages[taken : len(pages) - staying], memcg)
    for page in pages[-staying:]:
        page._count += 1
    vector += pages[-staying:]


# HOT: plan_1g_s of benchmarks/plan.py
def _link(pages: list[Page], memcg: memcontrol.MemCgroup | None) -> None:
    """What whole vectors of them leave  (mm/swap.c: __pagevec_lru_add)."""
    if not pages:
        return
    zone = pages[0].zone
    with spin_lock(zone.lru_lock):
        lruvec = zone.lruvec
        if memcg is not None:
            lruvec = memcg.lruvecs[zone]
            lruvec.lru_size[LRU_ACTIVE_ANON] += len(pages)
        zone.vm_stat[NR_LRU_BASE + LRU_ACTIVE_ANON] += len(pages)
        head = lruvec.lists[LRU_ACTIVE_ANON]
        following = head.next
        for page in pages:
            page.flags |= PG_lru
            page.next = following
            following.prev = page
            following = page
        following.prev = head
        head.next = following
