"""LRU lists, the per-CPU vectors in front of them, and the end of a page  (mm/swap.c).

A page in a vector has a reference of the vector's and no PG_lru; a page on a list has
PG_lru and no reference of the list's. zone.lru_lock guards the lists of a zone. A vector is
worked on by its own CPU only, which is not preempted meanwhile, and counts as full until the
last of its pages has left it.

A transparent huge page is on a list as its head, and counts as HPAGE_PMD_NR pages.

Differs: nothing is kept for the balance between lists that a scan would look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import PAGEVEC_SIZE, SWAP_CLUSTER_MAX, VM_LOCKED, VM_SPECIAL
from mmigrate.linux.include.mm_types import Page, Vma
from mmigrate.linux.include.mmzone import Zone
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_head,
    PG_hugetlb,
    PG_lru,
    PG_tail,
    PG_unevictable,
)
from mmigrate.linux.include.pgtable import HPAGE_PMD_NR
from mmigrate.linux.include.sched import Cpu
from mmigrate.linux.include.vmstat import (
    LRU_ACTIVE_ANON,
    LRU_UNEVICTABLE,
    NR_LRU_BASE,
    NR_MLOCK,
    PGACTIVATE,
    PGDEACTIVATE,
    PGROTATED,
    UNEVICTABLE_PGMLOCKED,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.page_flags import (
    ClearPageActive,
    ClearPageLRU,
    ClearPageReferenced,
    PageActive,
    PageDirty,
    PageLocked,
    PageLRU,
    PageReferenced,
    PageUnevictable,
    PageWriteback,
    SetPageActive,
    SetPageLRU,
    SetPageReclaim,
    SetPageReferenced,
    SetPageUnevictable,
    TestSetPageMlocked,
    hpage_nr_pages,
    page_lru,
)
from mmigrate.linux.kernel.page_ref import (
    get_page,
    get_page_unless_zero,
    page_mapped,
    put_page_testzero,
)
from mmigrate.linux.kernel.page_ref import put_page as put_page
from mmigrate.linux.kernel.percpu import get_cpu_var, per_cpu, put_cpu_var
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.straight import hot, small
from mmigrate.linux.kernel.workqueue import run_on_cpus
from mmigrate.linux.lib.list import ListHead, list_add, list_add_tail, list_move_tail
from mmigrate.linux.mm import hugetlb_pool, memcontrol, page_alloc

LRU_ADD: Final = "lru_add"
LRU_ROTATE: Final = "lru_rotate"
LRU_DEACTIVATE: Final = "lru_deactivate"
ACTIVATE: Final = "activate"
_COMPOUND: Final = PG_head | PG_tail
_EITHER: Final = PG_active | PG_unevictable


# --- lists; lru_lock is held ---


@small
def add_page_to_lru_list(page: Page, zone: Zone, lru: int) -> None:
    if page.mem_cgroup is None:
        list_add(page, zone.lruvec.lists[lru])
    else:
        list_add(page, memcontrol.lruvec_to_add_to(page, zone, lru).lists[lru])
    zone.vm_stat[NR_LRU_BASE + lru] += HPAGE_PMD_NR if page.flags & PG_head else 1


@small
def del_page_from_lru_list(page: Page, zone: Zone, lru: int) -> None:
    before, after = page.prev, page.next  # list_del
    before.next = after
    after.prev = before
    page.next = page.prev = page
    zone.vm_stat[NR_LRU_BASE + lru] -= HPAGE_PMD_NR if page.flags & PG_head else 1
    if page.mem_cgroup is not None:
        memcontrol.mem_cgroup_update_lru_size(
            page, zone, lru, -HPAGE_PMD_NR if page.flags & PG_head else -1
        )


# --- the last reference ---


@hot
def free_page(page: Page) -> None:
    """Free a page without references; what `put_page` calls for the last one
    (mm/swap.c: __put_single_page, __put_compound_page)."""
    if PageLRU(page):
        zone = page.zone
        with spin_lock(zone.lru_lock):
            take_dead_page_off(page, zone)
    if page.mem_cgroup is not None:
        memcontrol.mem_cgroup_uncharge(page)
    if page.flags & PG_hugetlb:
        hugetlb_pool.free_huge_page(page)
    elif page.flags & _COMPOUND:
        page_alloc.free_block(page, page_alloc.compound_order(page))
    else:
        page_alloc.free_hot_cold_page(page)


@small
def take_dead_page_off(page: Page, zone: Zone) -> None:
    """mm/swap.c: __page_cache_release, what it does under lru_lock."""
    if not page.flags & PG_lru:
        BUG("left the LRU while it was freed", page)
    ClearPageLRU(page)  # scanners look at it without the lock
    del_page_from_lru_list(page, zone, page_off_lru(page))


@small
def page_off_lru(page: Page) -> int:
    """The list a dying page is on; the flag that says so is cleared
    (include/linux/mm_inline.h: page_off_lru)."""
    lru = page_lru(page)
    page.flags &= ~(PG_unevictable if lru == LRU_UNEVICTABLE else PG_active)
    return lru


@hot
def release_pages(pages: list[Page], cold: bool = False) -> None:
    """Drop a reference of each, with the lock taken once for neighbours of one zone, but not
    held for more than SWAP_CLUSTER_MAX pages at a time  (mm/swap.c: release_pages)."""
    locked: Zone | None = None
    batch = charged = 0
    to_free: ListHead | None = None
    for page in pages:
        if page.flags & _COMPOUND:
            if locked is not None:
                spin_unlock(locked.lru_lock)
                locked = None
            put_page(page)
            continue
        if locked is not None:
            batch += 1
            if batch == SWAP_CLUSTER_MAX:
                spin_unlock(locked.lru_lock)
                locked = None
        if not put_page_testzero(page):
            continue
        if PageLRU(page):
            zone = page.zone
            if zone is not locked:
                if locked is not None:
                    spin_unlock(locked.lru_lock)
                batch = 0
                locked = zone
                spin_lock(zone.lru_lock)
            take_dead_page_off(page, zone)
        if page.mem_cgroup is not None:
            charged += 1
        page.flags &= ~PG_active  # somebody may have marked it while it was in a vector
        if to_free is None:
            to_free = ListHead()
        list_add(page, to_free)
    if locked is not None:
        spin_unlock(locked.lru_lock)
    if to_free is not None:
        if charged:
            memcontrol.mem_cgroup_uncharge_list(to_free)
        page_alloc.free_hot_cold_page_list(to_free, cold)


# --- vectors ---


@hot
def pagevec_lru_move_fn(vector: list[Page], move: Callable[[Page, Zone], None]) -> None:
    """Apply @move to all pages of a vector, drop its references and empty it
    (mm/swap.c: pagevec_lru_move_fn)."""
    locked: Zone | None = None
    for page in vector:
        zone = page.zone
        if zone is not locked:
            if locked is not None:
                spin_unlock(locked.lru_lock)
            locked = zone
            spin_lock(zone.lru_lock)
        move(page, zone)
    if locked is not None:
        spin_unlock(locked.lru_lock)
    release_pages(vector)
    vector.clear()


def _add(name: str, page: Page, move: Callable[[Page, Zone], None]) -> None:
    """Add to a vector that is drained as soon as it is full; the page comes with the
    vector's reference."""
    vector = get_cpu_var(name)
    vector.append(page)
    if len(vector) >= PAGEVEC_SIZE:
        pagevec_lru_move_fn(vector, move)
    put_cpu_var()


# --- new pages ---


@small
def __pagevec_lru_add_fn(page: Page, zone: Zone) -> None:
    """mm/swap.c: __pagevec_lru_add_fn."""
    lru = page_lru(page)
    if page.flags & PG_lru:
        BUG("added to the LRU twice", page)
    SetPageLRU(page)
    if page.mem_cgroup is None:
        list_add(page, zone.lruvec.lists[lru])
    else:
        list_add(page, memcontrol.lruvec_to_add_to(page, zone, lru).lists[lru])
    zone.vm_stat[NR_LRU_BASE + lru] += HPAGE_PMD_NR if page.flags & PG_head else 1


@small
def lru_cache_add(page: Page) -> None:
    """Put a page on its LRU list, by way of this CPU's vector  (mm/swap.c: lru_cache_add)."""
    if page.flags & _EITHER == _EITHER:  # and not PG_lru, which the drain looks at
        BUG("added to the LRU both active and unevictable", page)
    vector = get_cpu_var(LRU_ADD)
    get_page(page)
    if len(vector) >= PAGEVEC_SIZE:
        pagevec_lru_move_fn(vector, __pagevec_lru_add_fn)
    vector.append(page)
    sched.task.preempt_count -= 1  # put_cpu_var() in place: benchmarks/move_pages.py


def lru_cache_add_anon(page: Page) -> None:
    """The same for a page that nobody has used yet  (mm/swap.c: lru_cache_add_anon)."""
    if PageActive(page):
        ClearPageActive(page)
    lru_cache_add(page)


def lru_cache_add_active_or_unevictable(page: Page, vma: Vma) -> None:
    """A new page of @vma: active, or unevictable if the area is locked
    (mm/swap.c: lru_cache_add_active_or_unevictable)."""
    if page.flags & PG_lru:
        BUG("a new page on the LRU", page)
    if vma.vm_flags & (VM_LOCKED | VM_SPECIAL) != VM_LOCKED:
        SetPageActive(page)
        lru_cache_add(page)
        return
    if not TestSetPageMlocked(page):
        page.zone.vm_stat[NR_MLOCK] += hpage_nr_pages(page)
        page.zone.kernel.vm_events[UNEVICTABLE_PGMLOCKED] += 1
    add_page_to_unevictable_list(page)


def add_page_to_unevictable_list(page: Page) -> None:
    """Straight onto the unevictable list: from a vector it could come back after the reason
    is gone, and nobody would look again  (mm/swap.c: add_page_to_unevictable_list)."""
    zone = page.zone
    with spin_lock(zone.lru_lock):
        ClearPageActive(page)
        SetPageUnevictable(page)
        SetPageLRU(page)
        add_page_to_lru_list(page, zone, LRU_UNEVICTABLE)


def lru_add_page_tail(page: Page, page_tail: Page, zone: Zone, pages: ListHead | None) -> None:
    """Put a tail of a huge page that is being split next to its head, on the LRU or, with an
    isolation reference, on @pages; lru_lock is held  (mm/swap.c: lru_add_page_tail)."""
    if pages is None:
        SetPageLRU(page_tail)
    if PageLRU(page):
        list_add_tail(page_tail, page)  # the head has been counted for all of them
    elif pages is not None:
        get_page(page_tail)
        list_add_tail(page_tail, pages)
    else:
        # The head has not been counted yet, and will count as one.
        lru = page_lru(page_tail)
        zone.vm_stat[NR_LRU_BASE + lru] += 1
        lruvec = memcontrol.lruvec_to_add_to(page_tail, zone, lru)
        list_add_tail(page_tail, lruvec.lists[lru])


# --- pages on a list ---


def __activate_page(page: Page, zone: Zone) -> None:
    """mm/swap.c: __activate_page."""
    if PageLRU(page) and not PageActive(page) and not PageUnevictable(page):
        lru = page_lru(page)
        del_page_from_lru_list(page, zone, lru)
        SetPageActive(page)
        add_page_to_lru_list(page, zone, lru + LRU_ACTIVE_ANON)
        zone.kernel.vm_events[PGACTIVATE] += 1


def activate_page(page: Page) -> None:
    """Move to the active list, by way of a vector  (mm/swap.c: activate_page)."""
    if PageLRU(page) and not PageActive(page) and not PageUnevictable(page):
        get_page(page)
        _add(ACTIVATE, page, __activate_page)


def __lru_cache_activate_page(page: Page) -> None:
    """Not on a list yet: let it be added to the active one, if it is this CPU that will add
    it  (mm/swap.c: __lru_cache_activate_page)."""
    if page in get_cpu_var(LRU_ADD):
        SetPageActive(page)
    put_cpu_var()


def mark_page_accessed(page: Page) -> None:
    """Used once: referenced; used again: active  (mm/swap.c: mark_page_accessed)."""
    if not PageActive(page) and not PageUnevictable(page) and PageReferenced(page):
        if PageLRU(page):
            activate_page(page)
        else:
            __lru_cache_activate_page(page)
        ClearPageReferenced(page)
    elif not PageReferenced(page):
        SetPageReferenced(page)


def _pagevec_move_tail_fn(page: Page, zone: Zone) -> None:
    """mm/swap.c: pagevec_move_tail_fn."""
    if PageLRU(page) and not PageActive(page) and not PageUnevictable(page):
        lruvec = memcontrol.mem_cgroup_page_lruvec(page, zone)
        list_move_tail(page, lruvec.lists[page_lru(page)])
        zone.kernel.vm_events[PGROTATED] += 1


def rotate_reclaimable_page(page: Page) -> None:
    """Written and clean now: to the end of the inactive list, to be freed next
    (mm/swap.c: rotate_reclaimable_page)."""
    if not PageLocked(page) and not PageDirty(page) and not PageUnevictable(page) and PageLRU(page):
        get_page(page)
        _add(LRU_ROTATE, page, _pagevec_move_tail_fn)


def _lru_deactivate_fn(page: Page, zone: Zone) -> None:
    """mm/swap.c: lru_deactivate_fn."""
    if not PageLRU(page) or PageUnevictable(page) or page_mapped(page):
        return
    active = PageActive(page)
    del_page_from_lru_list(page, zone, page_lru(page))
    ClearPageActive(page)
    ClearPageReferenced(page)
    lru = page_lru(page)
    add_page_to_lru_list(page, zone, lru)
    if PageWriteback(page) or PageDirty(page):
        SetPageReclaim(page)  # the end of its writeback will rotate it
    else:
        list_move_tail(page, memcontrol.mem_cgroup_page_lruvec(page, zone).lists[lru])
        zone.kernel.vm_events[PGROTATED] += 1
    if active:
        zone.kernel.vm_events[PGDEACTIVATE] += 1


def deactivate_page(page: Page) -> None:
    """Could not be invalidated: let reclaim have it soon  (mm/swap.c: deactivate_page)."""
    if not PageUnevictable(page) and get_page_unless_zero(page):
        _add(LRU_DEACTIVATE, page, _lru_deactivate_fn)


# --- draining ---


_MOVES: Final = {
    LRU_ADD: __pagevec_lru_add_fn,
    LRU_ROTATE: _pagevec_move_tail_fn,
    LRU_DEACTIVATE: _lru_deactivate_fn,
    ACTIVATE: __activate_page,
}


MUNLOCKED: Final = "munlocked"  # pages that later kernels keep a reference on for a while


def lru_add_drain_cpu(cpu: Cpu) -> None:
    """Empty the vectors of a CPU; called on it, with preemption off, or when it is dead
    (mm/swap.c: lru_add_drain_cpu)."""
    put_on_lists(cpu)
    if MUNLOCKED in cpu.pagevecs:
        let_go_of_munlocked(cpu.pagevecs[MUNLOCKED])


def put_on_lists(cpu: Cpu) -> None:
    for name, move in _MOVES.items():
        vector = per_cpu(cpu, name)
        if vector:
            pagevec_lru_move_fn(vector, move)


def let_go_of_munlocked(vector: list[Page]) -> None:
    release_pages(vector)
    vector.clear()


def lru_add_drain() -> None:
    """The same here and now  (mm/swap.c: lru_add_drain)."""
    sched.preempt_disable()
    lru_add_drain_cpu(sched.task.cpu)
    sched.preempt_enable()


def lru_add_drain_all(kernel: Kernel) -> None:
    """Empty the vectors of all CPUs that have something in them, and wait until that is done
    (mm/swap.c: lru_add_drain_all).  Differs: callers do not wait for each other."""
    busy = [
        cpu
        for cpu in kernel.cpus
        if any(per_cpu(cpu, name) for name in _MOVES) or cpu.pagevecs.get(MUNLOCKED)
    ]
    run_on_cpus(busy, _lru_add_drain_per_cpu, "lru_add_drain")


def _lru_add_drain_per_cpu(cpu: Cpu) -> None:
    sched.preempt_disable()
    lru_add_drain_cpu(cpu)
    sched.preempt_enable()
