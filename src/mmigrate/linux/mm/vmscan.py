"""Isolation from the LRU lists, and the reclaim of isolated pages  (mm/vmscan.c).

Who scans the lists is in `reclaim.py`; `reclaim_pages` takes the pages it is asked for, by the
rules of direct reclaim.
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
    PF_SWAPWRITE,
    SWAP_AGAIN,
    SWAP_CLUSTER_MAX,
    SWAP_FAIL,
    SWAP_MLOCK,
    TTU_IGNORE_ACCESS,
    TTU_UNMAP,
    VM_EXEC,
    VM_LOCKED,
)
from mmigrate.linux.include.mm_types import AddressSpace, BackingDevInfo, Page
from mmigrate.linux.include.mmzone import ZONE_DIRTY, ZONE_WRITEBACK, Zone
from mmigrate.linux.include.page_flags import (
    PAGE_BALLOON_MAPCOUNT_VALUE,
    PG_locked,
    PG_lru,
    PG_unevictable,
)
from mmigrate.linux.include.vmstat import (
    LRU_UNEVICTABLE,
    NR_ISOLATED_ANON,
    NR_ISOLATED_FILE,
    NR_VMSCAN_IMMEDIATE,
    NR_VMSCAN_WRITE,
    PGACTIVATE,
    UNEVICTABLE_PGCULLED,
    UNEVICTABLE_PGRESCUED,
    UNEVICTABLE_PGSCANNED,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.bug import BUG, BUG_ON, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    ClearPageActive,
    ClearPageDirty,
    ClearPageLRU,
    ClearPageReclaim,
    ClearPageUnevictable,
    PageActive,
    PageAnon,
    PageDirty,
    PageLocked,
    PageLRU,
    PageMlocked,
    PageReclaim,
    PageSwapBacked,
    PageSwapCache,
    PageUnevictable,
    PageWriteback,
    SetPageActive,
    SetPageReclaim,
    SetPageReferenced,
    TestClearPageReferenced,
    hpage_nr_pages,
    lock_page,
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
    page_left_frozen,
    page_mapcount,
    page_mapped,
    page_unfreeze_refs,
    put_page_testzero,
)
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.straight import small
from mmigrate.linux.lib.list import ListHead, list_add, list_del, list_empty, list_move, list_splice
from mmigrate.linux.mm import (
    filemap,
    memcontrol,
    page_alloc,
    page_writeback,
    rmap,
    swap,
    swap_state,
    swapfile,
)
from mmigrate.linux.mm.vmstat import count_vm_events

_FORCED: Final = TTU_UNMAP | TTU_IGNORE_ACCESS


# --- isolation ---


@small
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


@small
def page_evictable(page: Page) -> bool:
    """Whether reclaim could ever free it: its mapping allows it, and it is not mlocked
    (mm/vmscan.c: page_evictable)."""
    mapping = page_mapping(page)
    if mapping is not None and READ_ONCE(mapping, "flags") & AS_UNEVICTABLE:
        return False
    return not PageMlocked(page)


@small
def putback_lru_page(page: Page) -> None:
    """Put an isolated page back on the list where it belongs now, and drop the reference
    of the isolation  (mm/vmscan.c: putback_lru_page)."""
    if page.flags & PG_lru:
        BUG("put back while on the LRU", page)
    was_unevictable = PageUnevictable(page)
    if was_unevictable:
        ClearPageUnevictable(page)
    is_unevictable = False
    if page_evictable(page):
        swap.lru_cache_add(page)
    else:
        is_unevictable = _put_on_unevictable_list(page)
    if was_unevictable is not is_unevictable:
        event = UNEVICTABLE_PGCULLED if is_unevictable else UNEVICTABLE_PGRESCUED
        page.zone.kernel.vm_events[event] += 1
    swap.put_page(page)


def _put_on_unevictable_list(page: Page) -> bool:
    """Put a page there that may not be reclaimed; whether it stayed so."""
    while True:
        swap.add_page_to_unevictable_list(page)
        # Somebody may have cleared the reason before he could see PG_lru.
        if not page_evictable(page) or isolate_lru_page(page):
            return True
        swap.put_page(page)
        if page.flags & PG_unevictable:
            ClearPageUnevictable(page)
        if page_evictable(page):
            swap.lru_cache_add(page)
            return False


def check_move_unevictable_pages(pages: list[Page]) -> None:
    """Move those pages that became evictable to their list; the caller has references
    (mm/vmscan.c: check_move_unevictable_pages)."""
    locked: Zone | None = None
    rescued = 0
    for page in pages:
        zone = page.zone
        if zone is not locked:
            if locked is not None:
                spin_unlock(locked.lru_lock)
            locked = zone
            spin_lock(zone.lru_lock)
        if not PageLRU(page) or not PageUnevictable(page) or not page_evictable(page):
            continue
        VM_BUG_ON_PAGE(PageActive(page), page, "active and unevictable")
        ClearPageUnevictable(page)
        swap.del_page_from_lru_list(page, zone, LRU_UNEVICTABLE)
        swap.add_page_to_lru_list(page, zone, page_lru(page))
        rescued += 1
    if locked is not None:
        count_vm_events(UNEVICTABLE_PGRESCUED, rescued)
        count_vm_events(UNEVICTABLE_PGSCANNED, len(pages))
        spin_unlock(locked.lru_lock)


# --- reclaim of a list of pages ---


@dataclass
class ScanControl:
    """What a reclaim may do, and how far it looked  (struct scan_control)."""

    gfp_mask: int = GFP_KERNEL
    may_writepage: bool = True
    may_unmap: bool = True
    target_mem_cgroup: Any = None  # None: reclaim for everybody
    nr_scanned: int = 0
    may_swap: bool = True
    order: int = 0
    nr_to_reclaim: int = SWAP_CLUSTER_MAX
    nr_reclaimed: int = 0
    priority: int = 0  # what part of the lists to look at: size >> priority


@dataclass
class ReclaimStat:
    """What shrink_page_list met, for those who balance."""

    nr_dirty: int = 0
    nr_unqueued_dirty: int = 0
    nr_congested: int = 0
    nr_writeback: int = 0
    nr_immediate: int = 0


class References(Enum):
    """What page_check_references decides  (enum page_references)."""

    RECLAIM = auto()
    RECLAIM_CLEAN = auto()
    KEEP = auto()
    ACTIVATE = auto()


class Pageout(Enum):
    """What pageout did  (pageout_t)."""

    KEEP = auto()
    ACTIVATE = auto()
    SUCCESS = auto()
    CLEAN = auto()


class _Fate(Enum):
    """What becomes of a page of shrink_page_list.  KEEP_LOCKED, ACTIVATE and CULL leave it
    locked, FREE without references, GONE in somebody else's hands."""

    FREE = auto()
    GONE = auto()
    KEEP = auto()
    KEEP_LOCKED = auto()
    ACTIVATE = auto()
    CULL = auto()


def current_is_kswapd() -> bool:
    return bool(sched.task.flags & PF_KSWAPD)


def page_check_references(page: Page, sc: ScanControl) -> References:
    """Whether a page has been used since the last look  (mm/vmscan.c: page_check_references)."""
    referenced_ptes, vm_flags = rmap.page_referenced(page, True, sc.target_mem_cgroup)
    referenced_page = TestClearPageReferenced(page)
    if vm_flags & VM_LOCKED:
        return References.RECLAIM  # try_to_unmap will find the lock
    if referenced_ptes:
        if PageSwapBacked(page):
            return References.ACTIVATE
        # A file page that was used once gets another round, in which it must be used again:
        # most are read through once and never more.
        SetPageReferenced(page)
        if referenced_page or referenced_ptes > 1:
            return References.ACTIVATE
        return References.ACTIVATE if vm_flags & VM_EXEC else References.KEEP
    if referenced_page and not PageSwapBacked(page):
        return References.RECLAIM_CLEAN
    return References.RECLAIM


def page_check_dirty_writeback(page: Page) -> tuple[bool, bool]:
    """(dirty, under writeback) as the flusher sees it: it has nothing to do with anonymous
    pages, and a filesystem may know better  (mm/vmscan.c: page_check_dirty_writeback)."""
    if not page_is_file_cache(page):
        return False, False
    dirty, writeback = PageDirty(page), PageWriteback(page)
    if page_has_private(page):
        mapping = page_mapping(page)
        if mapping is not None and mapping.a_ops.is_dirty_writeback is not None:
            dirty, writeback = mapping.a_ops.is_dirty_writeback(page, dirty, writeback)
    return dirty, writeback


def may_write_to_queue(bdi: BackingDevInfo) -> bool:
    """Whether reclaim may add to a device's queue.  Differs: no task counts a device as its
    own  (mm/vmscan.c: may_write_to_queue)."""
    return bool(sched.task.flags & PF_SWAPWRITE) or not READ_ONCE(bdi, "write_congested")


def pageout(page: Page, mapping: AddressSpace | None) -> Pageout:
    """Start writing a dirty page that nobody else uses; on SUCCESS it has been unlocked
    (mm/vmscan.c: pageout)."""
    if page_count(page) - page_has_private(page) != 2:
        return Pageout.KEEP
    if mapping is None:
        # Left over from a truncation, dirtied by its buffers.
        if page_has_private(page) and buffer.try_to_free_buffers(page):
            ClearPageDirty(page)
            return Pageout.CLEAN
        return Pageout.KEEP
    if mapping.a_ops.writepage is None:
        return Pageout.ACTIVATE
    if not may_write_to_queue(mapping.backing_dev_info):
        return Pageout.KEEP
    if not page_writeback.clear_page_dirty_for_io(page):
        return Pageout.CLEAN
    SetPageReclaim(page)
    wbc = page_writeback.WritebackControl(nr_to_write=SWAP_CLUSTER_MAX, for_reclaim=True)
    if mapping.backing_dev_info.accounts_dirty and not current_is_kswapd():
        page.zone.kernel.direct_writepage.append(page.pfn)
    res = mapping.a_ops.writepage(page, wbc)
    if res < 0:
        handle_write_error(mapping, page, res)
    if res == AOP_WRITEPAGE_ACTIVATE:
        ClearPageReclaim(page)
        return Pageout.ACTIVATE
    if not PageWriteback(page):
        ClearPageReclaim(page)  # a synchronous write
    page.zone.vm_stat[NR_VMSCAN_WRITE] += 1
    return Pageout.SUCCESS


def handle_write_error(mapping: AddressSpace, page: Page, error: int) -> None:
    """Remember a failed write for fsync, if the page still belongs to the file
    (mm/vmscan.c: handle_write_error)."""
    lock_page(page)
    if page_mapping(page) is mapping:
        page_writeback.mapping_set_error(mapping, error)
    unlock_page(page)


def __remove_mapping(mapping: AddressSpace, page: Page, reclaimed: bool) -> bool:
    """Take a page out of its cache if we hold the only reference besides the cache's; it
    is left frozen at 0.  Differs: no shadow entry tells when it was @reclaimed
    (mm/vmscan.c: __remove_mapping)."""
    BUG_ON(not PageLocked(page), "removed from its mapping unlocked", page)
    BUG_ON(page_mapping(page) is not mapping, "removed from a mapping it is not in", page)
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
        if page.mem_cgroup is not None:
            memcontrol.mem_cgroup_swapout(page, entry)
        swap_state.__delete_from_swap_cache(page)
        page_left_frozen(page)
        spin_unlock(mapping.tree_lock)
        swapfile.swapcache_free(entry, page)
    else:
        filemap.__delete_from_page_cache(page, None)
        page_left_frozen(page)
        spin_unlock(mapping.tree_lock)
        memcontrol.page_left_cache(page)
    return True


def remove_mapping(mapping: AddressSpace, page: Page) -> int:
    """1, and the caller's reference is the only one, if the page left its cache
    (mm/vmscan.c: remove_mapping)."""
    if __remove_mapping(mapping, page, False):
        page_unfreeze_refs(page, 1)
        return 1
    return 0


def shrink_page_list(
    page_list: ListHead,
    zone: Zone,
    sc: ScanControl,
    ttu_flags: int,
    stat: ReclaimStat,
    force_reclaim: bool,
) -> int:
    """Free what can be freed of a list of isolated pages of one zone, from its end; how many.
    The rest stays on the list, for putback_lru_page; NR_ISOLATED_* is the caller's
    (mm/vmscan.c: shrink_page_list).

    @force_reclaim: do not ask whether a page is in use; only clean ones go then.
    """
    assumed = References.RECLAIM_CLEAN if force_reclaim else None
    return _shrink_page_list(page_list, zone, sc, ttu_flags, stat, assumed)


def _shrink_page_list(
    page_list: ListHead,
    zone: Zone,
    sc: ScanControl,
    ttu_flags: int,
    stat: ReclaimStat,
    assumed: References | None,
) -> int:
    """@assumed: what page_check_references would say; None: ask it."""
    ret_pages, free_pages = ListHead(), ListHead()
    nr_reclaimed = pgactivate = 0
    sched.cond_resched()
    while not list_empty(page_list):
        sched.cond_resched()
        page: Page = page_list.prev
        list_del(page)
        fate = _Fate.KEEP
        if trylock_page(page):
            fate = _shrink_page(page, page_list, zone, sc, ttu_flags, stat, assumed)
        if fate is _Fate.FREE or fate is _Fate.GONE:
            nr_reclaimed += 1
            if fate is _Fate.FREE:
                list_add(page, free_pages)
            continue
        if fate is _Fate.CULL:
            if PageSwapCache(page):
                swapfile.try_to_free_swap(page)
            unlock_page(page)
            putback_lru_page(page)
            continue
        if fate is _Fate.ACTIVATE:
            # It stays in memory: its place in swap is of more use to another.
            if PageSwapCache(page) and swapfile.vm_swap_full(zone.kernel):
                swapfile.try_to_free_swap(page)
            VM_BUG_ON_PAGE(PageActive(page), page, "active on an inactive list")
            SetPageActive(page)
            pgactivate += 1
        if fate is not _Fate.KEEP:
            unlock_page(page)
        list_add(page, ret_pages)
        if page.flags & (PG_lru | PG_unevictable):
            BUG("kept by reclaim, but on the LRU or unevictable", page)
    if zone.kernel.memcg is not None:
        memcontrol.mem_cgroup_uncharge_list(free_pages)
    page_alloc.free_hot_cold_page_list(free_pages, True)
    list_splice(ret_pages, page_list)
    count_vm_events(PGACTIVATE, pgactivate)
    return nr_reclaimed


def _shrink_page(
    page: Page,
    page_list: ListHead,
    zone: Zone,
    sc: ScanControl,
    ttu_flags: int,
    stat: ReclaimStat,
    assumed: References | None,
) -> _Fate:
    """One locked page.  The tails of a huge page that is split for swap go to @page_list."""
    VM_BUG_ON_PAGE(PageActive(page), page, "active on an inactive list")
    VM_BUG_ON_PAGE(page.zone is not zone, page, f"on a list of {zone!r}")
    sc.nr_scanned += 1
    if not page_evictable(page):
        return _Fate.CULL
    if not sc.may_unmap and page_mapped(page):
        return _Fate.KEEP_LOCKED
    if page_mapped(page) or PageSwapCache(page):
        sc.nr_scanned += 1  # such pages cost more: other caches shall shrink more too
    may_enter_fs = bool(sc.gfp_mask & __GFP_FS) or (
        PageSwapCache(page) and bool(sc.gfp_mask & __GFP_IO)
    )
    mapping = page_mapping(page)
    _count_dirty(page, mapping, stat)
    if PageWriteback(page):
        # Seen under writeback for the second time: reclaim is faster than the disk. kswapd
        # tells its caller so, and reclaim of a memory group, which nobody else slows down,
        # waits.
        if current_is_kswapd() and PageReclaim(page) and READ_ONCE(zone, "flags") & ZONE_WRITEBACK:
            stat.nr_immediate += 1
            return _Fate.KEEP_LOCKED
        if sc.target_mem_cgroup is None or not PageReclaim(page) or not sc.gfp_mask & __GFP_IO:
            SetPageReclaim(page)  # the end of the writeback will rotate it
            stat.nr_writeback += 1
            return _Fate.KEEP_LOCKED
        wait_on_page_writeback(page)

    references = assumed or page_check_references(page, sc)
    if references is References.ACTIVATE:
        return _Fate.ACTIVATE
    if references is References.KEEP:
        return _Fate.KEEP_LOCKED

    if PageAnon(page) and not PageSwapCache(page):
        if not sc.gfp_mask & __GFP_IO:
            return _Fate.KEEP_LOCKED
        if not swap_state.add_to_swap(page, page_list):
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
        # Only kswapd writes file pages, and only if the flusher does not keep up: the stack
        # of direct reclaim is deep already, and single pages make bad requests.
        if page_is_file_cache(page) and (
            not current_is_kswapd() or not READ_ONCE(zone, "flags") & ZONE_DIRTY
        ):
            page.zone.vm_stat[NR_VMSCAN_IMMEDIATE] += 1
            SetPageReclaim(page)
            return _Fate.KEEP_LOCKED
        if references is References.RECLAIM_CLEAN or not may_enter_fs or not sc.may_writepage:
            return _Fate.KEEP_LOCKED
        written = pageout(page, mapping)
        if written is Pageout.KEEP:
            return _Fate.KEEP_LOCKED
        if written is Pageout.ACTIVATE:
            return _Fate.ACTIVATE
        if written is Pageout.SUCCESS:
            # If the write is over already, others may have the page by now.
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
            return _Fate.FREE if put_page_testzero(page) else _Fate.GONE

    if mapping is None or not __remove_mapping(mapping, page, True):
        return _Fate.KEEP_LOCKED
    page.flags &= ~PG_locked  # frozen: nobody can wait for the lock any more
    return _Fate.FREE


def _count_dirty(page: Page, mapping: AddressSpace | None, stat: ReclaimStat) -> None:
    dirty, writeback = page_check_dirty_writeback(page)
    if dirty or writeback:
        stat.nr_dirty += 1
    if dirty and not writeback:
        stat.nr_unqueued_dirty += 1
    if (
        (dirty or writeback)
        and mapping is not None
        and READ_ONCE(mapping.backing_dev_info, "write_congested")
    ) or (writeback and PageReclaim(page)):
        stat.nr_congested += 1


def reclaim_clean_pages_from_list(zone: Zone, page_list: ListHead) -> int:
    """Free the clean file pages of a list of isolated pages, in use or not: cheaper than to
    move them  (mm/vmscan.c: reclaim_clean_pages_from_list)."""
    clean_pages = ListHead()
    for page in page_list:
        balloon = page_mapcount(page) == PAGE_BALLOON_MAPCOUNT_VALUE + 1
        if page_is_file_cache(page) and not PageDirty(page) and not balloon:
            ClearPageActive(page)
            list_move(page, clean_pages)
    sc = ScanControl(may_writepage=False)
    freed = shrink_page_list(clean_pages, zone, sc, _FORCED, ReclaimStat(), True)
    list_splice(clean_pages, page_list)
    zone.vm_stat[NR_ISOLATED_FILE] -= freed
    return freed


# --- reclaim on request ---


def reclaim_pages(kernel: Kernel, pages: Iterable[Page]) -> int:
    """Reclaim given pages by the rules of direct reclaim, but whether they were used lately
    or not; how many were freed.  What must be written first is waited for and then tried
    once more.

    Differs: v3.19 has no such request; it is what MADV_PAGEOUT became in v5.4.
    """
    swap.lru_add_drain_all(kernel)
    freed, left = _reclaim_once([page for page in pages if get_page_unless_zero(page)])
    if left:
        for page in left:
            wait_on_page_writeback(page)
        swap.lru_add_drain_all(kernel)  # a page in a vector has a reference too many
        again, left = _reclaim_once(left)
        freed += again
        for page in left:
            swap.put_page(page)
    return freed


def _reclaim_once(pages: list[Page]) -> tuple[int, list[Page]]:
    """Isolate the pages, drop the references they come with, and shrink them; how many were
    freed, and the others, each with a reference again."""
    lists: dict[Zone, ListHead] = {}
    for page in pages:
        if isolate_lru_page(page) == 0:
            if PageUnevictable(page):
                putback_lru_page(page)
            else:
                ClearPageActive(page)  # reclaim works on inactive lists
                list_add(page, lists.setdefault(page.zone, ListHead()))
        swap.put_page(page)
    task = sched.task
    had_memalloc = task.flags & PF_MEMALLOC
    task.flags |= PF_MEMALLOC
    freed = 0
    left: list[Page] = []
    for zone, page_list in lists.items():
        files = [
            page_is_file_cache(page) for page in page_list for _ in range(hpage_nr_pages(page))
        ]
        zone.vm_stat[NR_ISOLATED_ANON] += files.count(0)
        zone.vm_stat[NR_ISOLATED_FILE] += files.count(1)
        freed += _shrink_page_list(
            page_list, zone, ScanControl(), _FORCED, ReclaimStat(), References.RECLAIM
        )
        for page in page_list:
            list_del(page)
            get_page(page)
            putback_lru_page(page)
            left.append(page)
        zone.vm_stat[NR_ISOLATED_ANON] -= files.count(0)
        zone.vm_stat[NR_ISOLATED_FILE] -= files.count(1)
    if not had_memalloc:
        task.flags &= ~PF_MEMALLOC
    return freed, left
