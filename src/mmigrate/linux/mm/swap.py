"""LRU lists, the per-CPU vectors in front of them, and the end of a page  (mm/swap.c).

A page in a vector has a reference of the vector's and no PG_lru; a page on a list has
PG_lru and no reference of the list's. zone.lru_lock guards the lists of a zone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import PAGEVEC_SIZE, VM_LOCKED, VM_SPECIAL
from mmigrate.linux.include.mm_types import Page, Vma
from mmigrate.linux.include.mmzone import Zone
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_head,
    PG_lru,
    PG_tail,
    PG_unevictable,
)
from mmigrate.linux.include.sched import Cpu
from mmigrate.linux.include.vmstat import (
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
    page_lru,
)
from mmigrate.linux.kernel.page_ref import (
    get_page,
    get_page_unless_zero,
    page_mapped,
    put_page_testzero,
)
from mmigrate.linux.kernel.page_ref import put_page as put_page
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.workqueue import run_on_cpus
from mmigrate.linux.lib.list import list_add, list_add_tail, list_move_tail
from mmigrate.linux.mm import page_alloc

LRU_ADD: Final = "lru_add"
LRU_ROTATE: Final = "lru_rotate"
LRU_DEACTIVATE: Final = "lru_deactivate"
ACTIVATE: Final = "activate"
_LIST_FLAGS: Final = PG_active | PG_unevictable


# --- lists; lru_lock is held ---


def add_page_to_lru_list(page: Page, zone: Zone, lru: int) -> None:
    list_add(page, zone.lruvec.lists[lru])
    zone.vm_stat[NR_LRU_BASE + lru] += 1


def del_page_from_lru_list(page: Page, zone: Zone, lru: int) -> None:
    before, after = page.prev, page.next  # list_del
    before.next = after
    after.prev = before
    page.next = page.prev = page
    zone.vm_stat[NR_LRU_BASE + lru] -= 1


# --- the last reference ---


def free_page(page: Page) -> None:
    """Take a page without references off its list and free it; what `put_page` calls for
    the last one  (mm/swap.c: __put_single_page)."""
    if PageLRU(page):
        zone = page.zone
        with spin_lock(zone.lru_lock):
            if not page.flags & PG_lru:
                BUG("left the LRU while it was freed", page)
            ClearPageLRU(page)
            del_page_from_lru_list(page, zone, _page_off_lru(page))
    if page.flags & (PG_head | PG_tail):
        page_alloc.free_block(page, page_alloc.compound_order(page))
    else:
        page_alloc.free_hot_cold_page(page)


def _page_off_lru(page: Page) -> int:
    """The list a dying page was on; its list flags are cleared
    (include/linux/mm_inline.h: page_off_lru)."""
    lru = page_lru(page)
    page.flags &= ~_LIST_FLAGS
    return lru


def release_pages(pages: list[Page], cold: bool = False) -> None:
    """Drop a reference of each, with the lock taken once for neighbours of one zone
    (mm/swap.c: release_pages)."""
    locked: Zone | None = None
    to_free: list[Page] = []
    for page in pages:
        if not put_page_testzero(page):
            continue
        if PageLRU(page):
            zone = page.zone
            if zone is not locked:
                if locked is not None:
                    spin_unlock(locked.lru_lock)
                locked = zone
                spin_lock(zone.lru_lock)
            if not page.flags & PG_lru:
                BUG("left the LRU while it was freed", page)
            ClearPageLRU(page)
            del_page_from_lru_list(page, zone, _page_off_lru(page))
        ClearPageActive(page)
        to_free.append(page)
    if locked is not None:
        spin_unlock(locked.lru_lock)
    for page in to_free:
        page_alloc.free_hot_cold_page(page, cold)


# --- vectors ---


def _vector(cpu: Cpu, name: str) -> list[Page]:
    vector = cpu.pagevecs.get(name)
    if vector is None:
        vector = cpu.pagevecs[name] = []
    return vector


def _drain(cpu: Cpu, name: str, move: Callable[[Page, Zone], None]) -> None:
    """Apply @move to all pages of a vector and drop its references
    (mm/swap.c: pagevec_lru_move_fn)."""
    vector = cpu.pagevecs.get(name)
    if not vector:
        return
    cpu.pagevecs[name] = []
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


def _lru_add_fn(page: Page, zone: Zone) -> None:
    """mm/swap.c: __pagevec_lru_add_fn."""
    if page.flags & PG_lru:
        BUG("added to the LRU twice", page)
    lru = page_lru(page)
    SetPageLRU(page)
    list_add(page, zone.lruvec.lists[lru])
    zone.vm_stat[NR_LRU_BASE + lru] += 1


def lru_cache_add(page: Page) -> None:
    """Put a page on its LRU list, by way of this CPU's vector  (mm/swap.c: lru_cache_add)."""
    get_page(page)
    cpu = sched.task.cpu
    vector = cpu.pagevecs.get(LRU_ADD)
    if vector is None:
        vector = cpu.pagevecs[LRU_ADD] = []
    elif len(vector) >= PAGEVEC_SIZE:
        _drain(cpu, LRU_ADD, _lru_add_fn)
        vector = cpu.pagevecs[LRU_ADD]
    vector.append(page)


lru_cache_add_anon = lru_cache_add
lru_cache_add_file = lru_cache_add


def lru_cache_add_active_or_unevictable(page: Page, vma: Vma) -> None:
    """A new page of @vma: active, or unevictable if the area is locked
    (mm/swap.c: lru_cache_add_active_or_unevictable)."""
    if vma.vm_flags & (VM_LOCKED | VM_SPECIAL) != VM_LOCKED:
        SetPageActive(page)
        lru_cache_add(page)
        return
    if not TestSetPageMlocked(page):
        page.zone.vm_stat[NR_MLOCK] += 1
        page.zone.kernel.vm_events[UNEVICTABLE_PGMLOCKED] += 1
    add_page_to_unevictable_list(page)


def add_page_to_unevictable_list(page: Page) -> None:
    """Straight onto the unevictable list  (mm/swap.c: add_page_to_unevictable_list)."""
    zone = page.zone
    with spin_lock(zone.lru_lock):
        ClearPageActive(page)
        SetPageUnevictable(page)
        SetPageLRU(page)
        add_page_to_lru_list(page, zone, LRU_UNEVICTABLE)


def _activate_fn(page: Page, zone: Zone) -> None:
    """mm/swap.c: __activate_page."""
    if PageLRU(page) and not PageActive(page) and not PageUnevictable(page):
        lru = page_lru(page)
        del_page_from_lru_list(page, zone, lru)
        SetPageActive(page)
        add_page_to_lru_list(page, zone, lru + 1)
        zone.kernel.vm_events[PGACTIVATE] += 1


def activate_page(page: Page) -> None:
    """Move to the active list, by way of a vector  (mm/swap.c: activate_page)."""
    if PageLRU(page) and not PageActive(page) and not PageUnevictable(page):
        get_page(page)
        _add(ACTIVATE, page, _activate_fn)


def _add(name: str, page: Page, move: Callable[[Page, Zone], None]) -> None:
    """Add to a vector that is drained as soon as it is full."""
    cpu = sched.task.cpu
    vector = _vector(cpu, name)
    vector.append(page)
    if len(vector) >= PAGEVEC_SIZE:
        _drain(cpu, name, move)


def mark_page_accessed(page: Page) -> None:
    """Used once: referenced; used again: active  (mm/swap.c: mark_page_accessed)."""
    if not PageActive(page) and not PageUnevictable(page) and PageReferenced(page):
        if PageLRU(page):
            activate_page(page)
        elif page in _vector(sched.task.cpu, LRU_ADD):
            SetPageActive(page)  # not on a list yet: it will be added to the active one
        ClearPageReferenced(page)
    elif not PageReferenced(page):
        SetPageReferenced(page)


def _rotate_fn(page: Page, zone: Zone) -> None:
    """mm/swap.c: pagevec_move_tail_fn."""
    if PageLRU(page) and not PageActive(page) and not PageUnevictable(page):
        list_move_tail(page, zone.lruvec.lists[page_lru(page)])
        zone.kernel.vm_events[PGROTATED] += 1


def rotate_reclaimable_page(page: Page) -> None:
    """Written and clean now: to the end of the inactive list, to be freed next
    (mm/swap.c: rotate_reclaimable_page)."""
    if not PageLocked(page) and not PageDirty(page) and not PageUnevictable(page) and PageLRU(page):
        get_page(page)
        _add(LRU_ROTATE, page, _rotate_fn)


def _deactivate_fn(page: Page, zone: Zone) -> None:
    """mm/swap.c: lru_deactivate_fn."""
    if not PageLRU(page) or PageUnevictable(page) or page_mapped(page):
        return
    active = PageActive(page)
    del_page_from_lru_list(page, zone, page_lru(page))
    ClearPageActive(page)
    ClearPageReferenced(page)
    lru = page_lru(page)
    if PageWriteback(page) or PageDirty(page):
        SetPageReclaim(page)
        list_add(page, zone.lruvec.lists[lru])
    else:
        list_add_tail(page, zone.lruvec.lists[lru])
        zone.kernel.vm_events[PGROTATED] += 1
    zone.vm_stat[NR_LRU_BASE + lru] += 1
    if active:
        zone.kernel.vm_events[PGDEACTIVATE] += 1


def deactivate_page(page: Page) -> None:
    """Could not be invalidated: let reclaim have it soon  (mm/swap.c: deactivate_page)."""
    if not PageUnevictable(page) and get_page_unless_zero(page):
        _add(LRU_DEACTIVATE, page, _deactivate_fn)


_MOVES: Final = {
    LRU_ADD: _lru_add_fn,
    LRU_ROTATE: _rotate_fn,
    LRU_DEACTIVATE: _deactivate_fn,
    ACTIVATE: _activate_fn,
}


def lru_add_drain_cpu(cpu: Cpu) -> None:
    """Empty the vectors of a CPU; called on it  (mm/swap.c: lru_add_drain_cpu)."""
    for name, move in _MOVES.items():
        _drain(cpu, name, move)


def lru_add_drain() -> None:
    """The same here and now  (mm/swap.c: lru_add_drain)."""
    lru_add_drain_cpu(sched.task.cpu)


def lru_add_drain_all(kernel: Kernel) -> None:
    """Empty the vectors of all CPUs and wait until that is done
    (mm/swap.c: lru_add_drain_all)."""
    busy = [cpu for cpu in kernel.cpus if any(cpu.pagevecs.values())]
    run_on_cpus(busy, lru_add_drain_cpu, "lru_add_drain")
