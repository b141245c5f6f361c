"""Isolation from the LRU, and the reclaim of given pages  (mm/vmscan.c).

Differs: nobody scans the lists by himself yet; `reclaim_pages` takes the pages it is asked
for, by the rules of direct reclaim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from errno import EBUSY, EINVAL
from typing import Any, Final

from mmigrate.linux.fs import buffer
from mmigrate.linux.include.gfp import __GFP_FS, __GFP_IO, GFP_KERNEL
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    AOP_WRITEPAGE_ACTIVATE,
    AS_UNEVICTABLE,
    ISOLATE_ASYNC_MIGRATE,
    ISOLATE_CLEAN,
    ISOLATE_UNEVICTABLE,
    ISOLATE_UNMAPPED,
    PF_KSWAPD,
    PF_MEMALLOC,
    SWAP_AGAIN,
    SWAP_FAIL,
    SWAP_MLOCK,
    TTU_IGNORE_ACCESS,
    TTU_UNMAP,
    VM_EXEC,
    VM_LOCKED,
)
from mmigrate.linux.include.mm_types import AddressSpace, Page
from mmigrate.linux.include.page_flags import PG_locked, PG_lru, PG_unevictable
from mmigrate.linux.include.vmstat import (
    NR_ISOLATED_ANON,
    NR_VMSCAN_IMMEDIATE,
    NR_VMSCAN_WRITE,
    PGACTIVATE,
    UNEVICTABLE_PGCULLED,
    UNEVICTABLE_PGRESCUED,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    ClearPageActive,
    ClearPageLRU,
    ClearPageReclaim,
    ClearPageUnevictable,
    PageActive,
    PageAnon,
    PageDirty,
    PageLRU,
    PageMlocked,
    PageSwapBacked,
    PageSwapCache,
    PageUnevictable,
    PageWriteback,
    SetPageActive,
    SetPageReclaim,
    SetPageReferenced,
    TestClearPageReferenced,
    page_has_private,
    page_is_file_cache,
    page_lru,
    page_mapping,
    page_private,
    trylock_page,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import (
    get_page,
    get_page_unless_zero,
    page_count,
    page_freeze_refs,
    page_mapped,
    page_unfreeze_refs,
    put_page_testzero,
)
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.lib.list import ListHead, list_add_tail, list_del
from mmigrate.linux.mm import (
    filemap,
    page_alloc,
    page_writeback,
    rmap,
    swap,
    swap_state,
    swapfile,
)

_FORCED: Final = TTU_UNMAP | TTU_IGNORE_ACCESS


# --- isolation ---


def isolate_lru_page(page: Page) -> int:
    """Take a page off its LRU list, with a reference of its own; the caller has one.
    0 or -EBUSY  (mm/vmscan.c: isolate_lru_page)."""
    if not PageLRU(page):
        return -EBUSY
    zone = page.zone
    ret = -EBUSY
    spin_lock(zone.lru_lock)
    if PageLRU(page):
        lru = page_lru(page)
        get_page(page)
        ClearPageLRU(page)
        swap.del_page_from_lru_list(page, zone, lru)
        ret = 0
    spin_unlock(zone.lru_lock)
    return ret


def __isolate_lru_page(page: Page, mode: int) -> int:
    """The same for scanners, which hold lru_lock and no reference: 0, -EBUSY, or -EINVAL
    if the page is not on a list; the list is the caller's
    (mm/vmscan.c: __isolate_lru_page)."""
    if not PageLRU(page):
        return -EINVAL
    if PageUnevictable(page) and not mode & ISOLATE_UNEVICTABLE:
        return -EINVAL
    if mode & (ISOLATE_CLEAN | ISOLATE_ASYNC_MIGRATE):
        if PageWriteback(page):
            return -EBUSY
        if PageDirty(page):
            if mode & ISOLATE_CLEAN:
                return -EBUSY
            mapping = page_mapping(page)
            if mapping is not None and mapping.a_ops.migratepage is None:
                return -EBUSY
    if mode & ISOLATE_UNMAPPED and page_mapped(page):
        return -EBUSY
    if not get_page_unless_zero(page):
        return -EBUSY
    ClearPageLRU(page)
    return 0


def page_evictable(page: Page) -> bool:
    """Whether reclaim could ever free it: its mapping allows it, and it is not mlocked
    (mm/vmscan.c: page_evictable)."""
    mapping = page_mapping(page)
    return not (mapping is not None and mapping.flags & AS_UNEVICTABLE) and not PageMlocked(page)


def putback_lru_page(page: Page) -> None:
    """Put an isolated page back on the list where it belongs now, and drop the reference
    of the isolation  (mm/vmscan.c: putback_lru_page)."""
    if page.flags & PG_lru:
        BUG("put back while on the LRU", page)
    was_unevictable = PageUnevictable(page)
    while True:
        if page.flags & PG_unevictable:
            ClearPageUnevictable(page)
        mapping = page_mapping(page)
        if not ((mapping is not None and mapping.flags & AS_UNEVICTABLE) or PageMlocked(page)):
            is_unevictable = False
            swap.lru_cache_add(page)
            break
        is_unevictable = True
        swap.add_page_to_unevictable_list(page)
        # Somebody may have cleared the reason before he could see PG_lru.
        if not page_evictable(page) or isolate_lru_page(page):
            break
        swap.put_page(page)
    events = page.zone.kernel.vm_events
    if was_unevictable and not is_unevictable:
        events[UNEVICTABLE_PGRESCUED] += 1
    elif is_unevictable and not was_unevictable:
        events[UNEVICTABLE_PGCULLED] += 1
    swap.put_page(page)


# --- reclaim of a list of pages ---


@dataclass
class ScanControl:
    """What a reclaim may do  (struct scan_control)."""

    gfp_mask: int = GFP_KERNEL
    may_writepage: bool = True
    may_unmap: bool = True


class References(Enum):
    """What page_check_references decides."""

    RECLAIM = auto()
    RECLAIM_CLEAN = auto()
    KEEP = auto()
    ACTIVATE = auto()


class Pageout(Enum):
    """What pageout did."""

    KEEP = auto()
    ACTIVATE = auto()
    SUCCESS = auto()
    CLEAN = auto()


class _Fate(Enum):
    """What becomes of a page in shrink_page_list."""

    FREED = auto()
    KEEP = auto()
    KEEP_LOCKED = auto()
    ACTIVATE = auto()
    CULL = auto()


def page_check_references(page: Page) -> References:
    """mm/vmscan.c: page_check_references."""
    referenced_ptes, vm_flags = rmap.page_referenced(page, True)
    referenced_page = TestClearPageReferenced(page)
    if vm_flags & VM_LOCKED:
        return References.RECLAIM  # try_to_unmap will find the lock
    if referenced_ptes:
        if PageSwapBacked(page):
            return References.ACTIVATE
        SetPageReferenced(page)
        if referenced_page or referenced_ptes > 1 or vm_flags & VM_EXEC:
            return References.ACTIVATE
        return References.KEEP
    if referenced_page and not PageSwapBacked(page):
        return References.RECLAIM_CLEAN
    return References.RECLAIM


def pageout(page: Page, mapping: AddressSpace | None) -> Pageout:
    """Start writing a dirty page that nobody else uses  (mm/vmscan.c: pageout)."""
    if page_count(page) - page_has_private(page) != 2:
        return Pageout.KEEP
    if mapping is None:
        if page_has_private(page) and buffer.try_to_free_buffers(page):
            return Pageout.CLEAN
        return Pageout.KEEP
    if mapping.a_ops.writepage is None:
        return Pageout.ACTIVATE
    if not page_writeback.clear_page_dirty_for_io(page):
        return Pageout.CLEAN
    SetPageReclaim(page)
    wbc = page_writeback.WritebackControl(nr_to_write=32, for_reclaim=True)
    res = mapping.a_ops.writepage(page, wbc)
    if res < 0:
        page_writeback.mapping_set_error(mapping, res)
    if res == AOP_WRITEPAGE_ACTIVATE:
        ClearPageReclaim(page)
        return Pageout.ACTIVATE
    if not PageWriteback(page):
        ClearPageReclaim(page)  # a synchronous write
    page.zone.vm_stat[NR_VMSCAN_WRITE] += 1
    return Pageout.SUCCESS


def _remove_mapping(mapping: AddressSpace, page: Page, reclaimed: bool) -> bool:
    """Take a page out of its cache if we hold the only reference besides the cache's; it
    is left frozen at 0  (mm/vmscan.c: __remove_mapping)."""
    spin_lock(mapping.tree_lock)
    if not page_freeze_refs(page, 2):
        spin_unlock(mapping.tree_lock)
        return False
    # Only now: who dirtied it had a reference, and may have dropped it a moment ago.
    if PageDirty(page):
        page_unfreeze_refs(page, 2)
        spin_unlock(mapping.tree_lock)
        return False
    if PageSwapCache(page):
        entry: Any = page_private(page)
        swap_state.__delete_from_swap_cache(page)
        spin_unlock(mapping.tree_lock)
        swapfile.swapcache_free(entry)
    else:
        filemap.__delete_from_page_cache(page, None)
        spin_unlock(mapping.tree_lock)
    return True


def remove_mapping(mapping: AddressSpace, page: Page) -> int:
    """1, and the caller's reference is the only one, if the page left its cache
    (mm/vmscan.c: remove_mapping)."""
    if _remove_mapping(mapping, page, False):
        page_unfreeze_refs(page, 1)
        return 1
    return 0


def shrink_page_list(
    page_list: ListHead, sc: ScanControl, ttu_flags: int, force_reclaim: bool
) -> int:
    """Free what can be freed of a list of isolated pages; how many.  The rest stays on the
    list  (mm/vmscan.c: shrink_page_list).

    Differs: a page that leaves the list leaves NR_ISOLATED too; in C the caller subtracts
    the sum at the end.
    """
    keep: list[Page] = []
    freed = 0
    for page in page_list:
        sched.cond_resched()
        list_del(page)
        if not trylock_page(page):
            keep.append(page)
            continue
        fate = _shrink_page(page, sc, ttu_flags, force_reclaim)
        if fate is _Fate.FREED:
            freed += 1
            page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] -= 1
            page_alloc.free_hot_cold_page(page, True)
            continue
        if fate is _Fate.CULL:
            if PageSwapCache(page):
                swapfile.try_to_free_swap(page)
            unlock_page(page)
            page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] -= 1
            putback_lru_page(page)
            continue
        if fate is _Fate.ACTIVATE:
            if PageSwapCache(page) and swapfile.vm_swap_full(page.zone.kernel):
                swapfile.try_to_free_swap(page)
            VM_BUG_ON_PAGE(PageActive(page), page, "active on an inactive list")
            SetPageActive(page)
            page.zone.kernel.vm_events[PGACTIVATE] += 1
        if fate is not _Fate.KEEP:
            unlock_page(page)
        keep.append(page)
    for page in keep:
        list_add_tail(page, page_list)
    return freed


def _shrink_page(page: Page, sc: ScanControl, ttu_flags: int, force_reclaim: bool) -> _Fate:
    """One locked page; KEEP means that it is unlocked already."""
    if not page_evictable(page):
        return _Fate.CULL
    if not sc.may_unmap and page_mapped(page):
        return _Fate.KEEP_LOCKED
    may_enter_fs = bool(sc.gfp_mask & __GFP_FS) or (
        PageSwapCache(page) and bool(sc.gfp_mask & __GFP_IO)
    )
    mapping = page_mapping(page)
    if PageWriteback(page):
        # Direct reclaim does not wait; the end of the writeback will rotate the page.
        SetPageReclaim(page)
        return _Fate.KEEP_LOCKED
    references = References.RECLAIM_CLEAN
    if not force_reclaim:
        references = page_check_references(page)
    if references is References.ACTIVATE:
        return _Fate.ACTIVATE
    if references is References.KEEP:
        return _Fate.KEEP_LOCKED
    if PageAnon(page) and not PageSwapCache(page):
        if not sc.gfp_mask & __GFP_IO:
            return _Fate.KEEP_LOCKED
        if not swap_state.add_to_swap(page):
            return _Fate.ACTIVATE
        may_enter_fs = True
        mapping = page_mapping(page)
    if page_mapped(page) and mapping is not None:
        unmapped = rmap.try_to_unmap(page, ttu_flags)
        if unmapped == SWAP_FAIL:
            return _Fate.ACTIVATE
        if unmapped == SWAP_AGAIN:
            return _Fate.KEEP_LOCKED
        if unmapped == SWAP_MLOCK:
            return _Fate.CULL
    if PageDirty(page):
        if page_is_file_cache(page) and not sched.task.flags & PF_KSWAPD:
            # Only kswapd writes file pages: the stack of direct reclaim is deep.
            page.zone.vm_stat[NR_VMSCAN_IMMEDIATE] += 1
            SetPageReclaim(page)
            return _Fate.KEEP_LOCKED
        if references is References.RECLAIM_CLEAN and not force_reclaim:
            return _Fate.KEEP_LOCKED
        if not may_enter_fs or not sc.may_writepage:
            return _Fate.KEEP_LOCKED
        written = pageout(page, mapping)
        if written is Pageout.KEEP:
            return _Fate.KEEP_LOCKED
        if written is Pageout.ACTIVATE:
            return _Fate.ACTIVATE
        if written is Pageout.SUCCESS:
            if PageWriteback(page) or PageDirty(page) or not trylock_page(page):
                return _Fate.KEEP
            if PageDirty(page) or PageWriteback(page):
                return _Fate.KEEP_LOCKED
            mapping = page_mapping(page)
    if page_has_private(page):
        if not filemap.try_to_release_page(page, sc.gfp_mask):
            return _Fate.ACTIVATE
        if mapping is None and page_count(page) == 1:
            unlock_page(page)
            return _Fate.FREED if put_page_testzero(page) else _Fate.KEEP
    if mapping is None or not _remove_mapping(mapping, page, True):
        return _Fate.KEEP_LOCKED
    page.flags &= ~PG_locked  # frozen: nobody can wait for the lock any more
    return _Fate.FREED


def reclaim_pages(kernel: Kernel, pages: Iterable[Page]) -> int:
    """Reclaim given pages whether they were used lately or not, waiting for the writes it
    starts; how many were freed.

    Differs: v3.19 has no such call; it is what MADV_PAGEOUT became later.
    """
    swap.lru_add_drain_all(kernel)
    task = sched.task
    wanted = list(pages)
    freed = 0
    for _ in range(2):  # once to write, once to free what has been written
        page_list = ListHead()
        for page in wanted:
            if get_page_unless_zero(page):
                if isolate_lru_page(page) == 0:
                    # reclaim works on inactive lists
                    ClearPageActive(page)
                    list_add_tail(page, page_list)
                    page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += 1
                swap.put_page(page)
        had = task.flags & PF_MEMALLOC
        task.flags |= PF_MEMALLOC
        freed += shrink_page_list(page_list, ScanControl(), _FORCED, True)
        if not had:
            task.flags &= ~PF_MEMALLOC
        left = list(page_list)
        for page in left:
            list_del(page)
            page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] -= 1
            putback_lru_page(page)
        wanted = left
        for page in left:
            wait_on_page_writeback(page)
        swap.lru_add_drain_all(kernel)
    return freed
