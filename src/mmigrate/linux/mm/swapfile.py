"""Swap areas: which places are used, and by whom  (mm/swapfile.c).

A place is used by page-table entries and shmem slots, which are counted, and by the swap
cache. Both are guarded by the lock of the area.

Differs: the two parts of a swap_map byte are kept apart; a count never overflows, so there
are no continuation pages, and a slot of shmem counts like an entry. Every area is on a
rotating disk, without discard and without a priority given by the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EEXIST, EINVAL, ENOENT, ENOMEM, EPERM
from itertools import chain
from typing import Any, Final

from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import ZERO_BYTES, AddressSpace, Mm, Page, PageTable, Vma
from mmigrate.linux.include.page_flags import PG_uptodate
from mmigrate.linux.include.pgtable import (
    MAX_SWAPFILES,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    non_swap_entry,
    pfn_pte,
    pte_mkold,
    pte_swp_mksoft_dirty,
    swp_entry,
    swp_entry_to_pte,
    swp_offset,
    swp_type,
)
from mmigrate.linux.include.vmstat import MM_ANONPAGES, MM_SWAPENTS
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import (
    READ_ONCE,
    WRITE_ONCE,
    atomic_add,
    atomic_dec,
    atomic_inc,
    atomic_inc_not_zero,
    atomic_read,
)
from mmigrate.linux.kernel.bug import BUG, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    PageDirty,
    PageKsm,
    PageLocked,
    PageSwapCache,
    PageWriteback,
    SetPageDirty,
    lock_page,
    page_anon_vma,
    page_private,
    trylock_page,
    unlock_page,
    wait_on_page_locked,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import get_page, page_mapcount, page_mapped
from mmigrate.linux.kernel.pgtable import find_leaf, ptep_get, set_pte_at
from mmigrate.linux.kernel.rcu import radix_tree_left
from mmigrate.linux.kernel.rwsem import down_read, down_read_trylock, up_read
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_unlock
from mmigrate.linux.mm import (
    filemap,
    fork,
    ksm,
    memcontrol,
    page_io,
    page_writeback,
    rmap,
    shmem,
    swap,
    swap_state,
)

SWAPFILE_CLUSTER: Final = 256
SWAP_HAS_CACHE: Final = 0x40  # as an argument: the swap cache, not an entry


class SwapArea:
    """One swap device  (struct swap_info_struct).

    @counts: page-table entries and shmem slots that name each place; @cached: whether the
    swap cache does. Place 0 is the header.
    """

    __slots__ = (
        "cached",
        "changes",
        "cluster_next",
        "cluster_nr",
        "counts",
        "data",
        "device",
        "highest_bit",
        "inuse_pages",
        "kernel",
        "lock",
        "lowest_bit",
        "pages",
        "prio",
        "scanning",
        "space",
        "type",
        "writeok",
    )

    def __init__(self, kernel: Kernel, type: int, places: int, space: AddressSpace) -> None:
        # fixed
        self.kernel = kernel
        self.type = type
        self.device = f"swap{type}"
        self.space = space
        self.pages = places - 1
        # swap_lock
        self.prio = 0  # the area added last has the lowest
        # lock
        self.lock = SpinLock("swap_info->lock", f"{self.device} lock")
        self.writeok = False  # places may be taken
        self.counts = [0] * places
        self.counts[0] = 1
        self.cached = bytearray(places)
        self.inuse_pages = 0
        self.changes = 0  # of the use of places, while the area is being emptied
        self.lowest_bit = 1  # nothing is free below it,
        self.highest_bit = places - 1  # or above this; 0 if all are used
        self.cluster_next = 1
        self.cluster_nr = 0
        self.scanning = 0  # how many look for a place, at times without the lock
        # the medium
        self.data: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return self.device

    @property
    def used(self) -> int:
        """Places in use, the header apart."""
        return self.inuse_pages

    def in_use(self, offset: int) -> bool:
        return bool(self.counts[offset] or self.cached[offset])


class SwapState:
    """All areas of a machine, and the processes that may have entries."""

    __slots__ = (
        "areas",
        "avail",
        "avail_lock",
        "last_readahead_pages",
        "least_priority",
        "lock",
        "mmlist",
        "mmlist_lock",
        "nr_swap_pages",
        "page_cluster",
        "prev_offset",
        "spaces",
        "swapin_readahead_hits",
        "total_swap_pages",
    )

    def __init__(self, kernel: Kernel) -> None:
        # swap_lock; by type, and a space outlives its area: somebody may still have an entry
        # in his hand, and must find nothing there
        self.lock = SpinLock("swap_lock")
        self.areas: list[SwapArea | None] = []
        self.spaces: list[AddressSpace] = []
        self.least_priority = 0
        self.total_swap_pages = 0
        # swap_avail_lock: areas with a free place, to be filled one after the other
        self.avail_lock = SpinLock("swap_avail_lock")
        self.avail: list[SwapArea] = []
        # atomic; below 0 while an area is being emptied
        self.nr_swap_pages = 0
        # mmlist_lock; the one that came last is the first
        self.mmlist_lock = SpinLock("mmlist_lock")
        self.mmlist: list[Mm] = []
        # read-ahead, at most 2**page_cluster places (vm.page-cluster)
        frames = sum(zone.managed_pages for node in kernel.nodes for zone in node.node_zones)
        self.page_cluster = 2 if frames < 16 << 8 else 3
        self.swapin_readahead_hits = 4
        self.last_readahead_pages = 0
        self.prev_offset = 0


def swap_of(kernel: Kernel) -> SwapState:
    """The swap of a machine, made by the first who asks."""
    if kernel.swap is None:
        kernel.swap = SwapState(kernel)
    state: SwapState = kernel.swap
    return state


def vm_swap_full(kernel: Kernel) -> bool:
    """Whether more than half of all places are used: then a page in memory does not keep its
    own  (include/linux/swap.h: vm_swap_full)."""
    state = swap_of(kernel)
    return bool(atomic_read(state, "nr_swap_pages") * 2 < state.total_swap_pages)


def _area_of(entry: int) -> SwapArea | None:
    areas = swap_of(sched.task.kernel).areas
    type = swp_type(entry)
    return areas[type] if type < len(areas) else None


def page_swap_info(page: Page) -> SwapArea:
    """The area of a swap-cache page  (mm/swapfile.c: page_swap_info)."""
    entry: Any = page_private(page)
    area = _area_of(entry)
    if area is None:
        BUG(f"in the swap cache for {entry:#x}, which no area has", page)
    return area


def swap_info_get(entry: int) -> SwapArea | None:
    """The area of a place that is in use, with its lock held; None, and a complaint, if
    there is no such place  (mm/swapfile.c: swap_info_get)."""
    area = _area_of(entry)
    if area is None:
        sched.warn(f"bad swap entry: no area {swp_type(entry)}")
        return None
    offset = swp_offset(entry)
    spin_lock(area.lock)
    if offset < len(area.counts) and area.in_use(offset):
        return area
    spin_unlock(area.lock)
    sched.warn(f"bad swap entry: place {offset} of {area!r} is not in use")
    return None


# --- processes with swap entries ---


def note_mm_has_swap(mm: Mm) -> None:
    """Let swapoff find this mm  (mm/rmap.c: try_to_unmap_one; mm/memory.c: copy_one_pte)."""
    if not READ_ONCE(mm, "on_swapoff_list"):
        state = swap_of(mm.kernel)
        with spin_lock(state.mmlist_lock):
            if not mm.on_swapoff_list:
                mm.on_swapoff_list = True
                state.mmlist.insert(0, mm)


def forget_mm(mm: Mm) -> None:
    """The mm is gone  (kernel/fork.c: mmput)."""
    if READ_ONCE(mm, "on_swapoff_list"):
        state = swap_of(mm.kernel)
        with spin_lock(state.mmlist_lock):
            if mm.on_swapoff_list:
                mm.on_swapoff_list = False
                state.mmlist.remove(mm)


def _drain_mmlist(state: SwapState) -> None:
    """Nobody has an entry once all areas are empty  (mm/swapfile.c: drain_mmlist)."""
    if any(area is not None and area.inuse_pages for area in state.areas):
        return
    with spin_lock(state.mmlist_lock):
        for mm in state.mmlist:
            mm.on_swapoff_list = False
        state.mmlist.clear()


# --- taking a place ---


def get_swap_page(kernel: Kernel) -> int:
    """A free place, taken for the swap cache; 0 if there is none
    (mm/swapfile.c: get_swap_page)."""
    state = swap_of(kernel)
    if atomic_read(state, "nr_swap_pages") <= 0:
        return 0
    atomic_dec(state, "nr_swap_pages")
    spin_lock(state.avail_lock)
    for area in tuple(state.avail):
        spin_unlock(state.avail_lock)
        with spin_lock(area.lock):
            offset = scan_swap_map(area)
        if offset:
            return swp_entry(area.type, offset)
        spin_lock(state.avail_lock)
    spin_unlock(state.avail_lock)
    atomic_inc(state, "nr_swap_pages")
    return 0


def scan_swap_map(area: SwapArea) -> int:
    """Take a free place of an area whose lock is held, for the swap cache; 0 if there is
    none.  Places are given in order, in clusters that were empty if there are such, so that
    what goes out together can be read together  (mm/swapfile.c: scan_swap_map).

    Differs: keeps the lock while it searches, and tries no place twice.
    """
    area.scanning += 1
    first = area.cluster_next
    if area.cluster_nr:
        area.cluster_nr -= 1
    else:
        area.cluster_nr = SWAPFILE_CLUSTER - 1
        if area.pages - area.inuse_pages >= SWAPFILE_CLUSTER:
            first = _empty_cluster(area)
    if first > area.highest_bit:
        first = area.lowest_bit
    places = chain(range(first, area.highest_bit + 1), range(area.lowest_bit, first))
    found = next((offset for offset in places if _is_free(area, offset)), 0)
    if found:
        _take(area, found)
    area.scanning -= 1
    return found


def _empty_cluster(area: SwapArea) -> int:
    """The first long run of free places; if there is none, the lowest that may be free."""
    free = 0
    for offset in range(area.lowest_bit, area.highest_bit + 1):
        free = 0 if area.in_use(offset) else free + 1
        if free == SWAPFILE_CLUSTER:
            return offset - SWAPFILE_CLUSTER + 1
    return area.lowest_bit


def _is_free(area: SwapArea, offset: int) -> bool:
    """Whether a place may be taken. One that is only cached is freed if swap is nearly full;
    the lock is dropped for that."""
    if (
        area.writeok
        and area.cached[offset]
        and not area.counts[offset]
        and vm_swap_full(area.kernel)
    ):
        spin_unlock(area.lock)
        _try_to_reclaim_swap(area, offset)
        spin_lock(area.lock)
    return area.writeok and not area.in_use(offset)


def _try_to_reclaim_swap(area: SwapArea, offset: int) -> None:
    """mm/swapfile.c: __try_to_reclaim_swap."""
    page = filemap.find_get_page(area.space, swp_entry(area.type, offset))
    if page is None:
        return
    # Our caller has another page locked, so this one may only be tried.
    if trylock_page(page):
        try_to_free_swap(page)
        unlock_page(page)
    swap.put_page(page)


def _take(area: SwapArea, offset: int) -> None:
    if offset == area.lowest_bit:
        area.lowest_bit += 1
    if offset == area.highest_bit:
        area.highest_bit -= 1
    area.inuse_pages += 1
    if area.inuse_pages == area.pages:
        area.lowest_bit = len(area.counts)
        area.highest_bit = 0
        state = swap_of(area.kernel)
        with spin_lock(state.avail_lock):
            state.avail.remove(area)
    area.cached[offset] = 1
    area.cluster_next = offset + 1


# --- using a place, and giving it back ---


def __swap_duplicate(entry: int, usage: int) -> int:
    """One more user of a place, 1 or SWAP_HAS_CACHE.  -EINVAL: no such place; -ENOENT: it is
    free, or only cached while the cache is asked for; -EEXIST: it is cached already
    (mm/swapfile.c: __swap_duplicate)."""
    area = None if non_swap_entry(entry) else _area_of(entry)
    offset = swp_offset(entry)
    if area is None or offset >= len(area.counts):
        return -EINVAL
    with spin_lock(area.lock):
        if offset == 0:
            return -ENOENT
        if usage == SWAP_HAS_CACHE:
            if area.cached[offset]:
                return -EEXIST
            if not area.counts[offset]:
                return -ENOENT
            area.cached[offset] = 1
            _note_change(area)
            return 0
        if not area.in_use(offset):
            return -ENOENT
        area.counts[offset] += 1
        _note_change(area)
    return 0


def swap_duplicate(entry: int) -> int:
    """One more page-table entry names the place.  Always 0: callers are told of -ENOMEM only,
    and a count needs no memory here  (mm/swapfile.c: swap_duplicate)."""
    __swap_duplicate(entry, 1)
    return 0


def swap_shmem_alloc(entry: int) -> None:
    """A slot of shmem names the place  (mm/swapfile.c: swap_shmem_alloc)."""
    __swap_duplicate(entry, 1)


def swapcache_prepare(entry: int) -> int:
    """Reserve the place for a page that will enter the swap cache; -EEXIST if there is one
    already, another error if nobody uses the place  (mm/swapfile.c: swapcache_prepare)."""
    return __swap_duplicate(entry, SWAP_HAS_CACHE)


def swap_entry_free(area: SwapArea, offset: int, usage: int) -> None:
    """One user of a place less, 1 or SWAP_HAS_CACHE; with the last it becomes free.  The
    area's lock is held  (mm/swapfile.c: swap_entry_free)."""
    if usage == SWAP_HAS_CACHE:
        radix_tree_left(area.space.page_tree, swp_entry(area.type, offset))
        if not area.cached[offset]:
            BUG(f"{area!r} place {offset}: not in the swap cache")
        area.cached[offset] = 0
    else:
        if not area.counts[offset]:
            BUG(f"{area!r} place {offset}: freed once too often")
        area.counts[offset] -= 1
    _note_change(area)
    if not area.counts[offset] and area.kernel.memcg is not None:
        memcontrol.mem_cgroup_uncharge_swap(area.kernel, swp_entry(area.type, offset))
    if area.in_use(offset):
        return
    area.data.pop(offset, None)
    area.lowest_bit = min(area.lowest_bit, offset)
    if offset > area.highest_bit:
        was_full = not area.highest_bit
        area.highest_bit = offset
        if was_full and area.writeok:
            _make_available(area)
    atomic_inc(swap_of(area.kernel), "nr_swap_pages")
    area.inuse_pages -= 1


def _make_available(area: SwapArea) -> None:
    state = swap_of(area.kernel)
    with spin_lock(state.avail_lock):
        state.avail.append(area)
        state.avail.sort(key=lambda area: -area.prio)


def swap_free(entry: int) -> None:
    """One page-table entry less  (mm/swapfile.c: swap_free)."""
    area = swap_info_get(entry)
    if area is not None:
        swap_entry_free(area, swp_offset(entry), 1)
        spin_unlock(area.lock)


def swapcache_free(entry: int, page: Page | None = None) -> None:
    """The swap cache has left the place, which @page had  (mm/swapfile.c: swapcache_free)."""
    area = swap_info_get(entry)
    if area is not None:
        named = area.counts[swp_offset(entry)] != 0
        swap_entry_free(area, swp_offset(entry), SWAP_HAS_CACHE)
        if page is not None and page.mem_cgroup is not None:
            memcontrol.page_left_swap_cache(page, entry, named)
        spin_unlock(area.lock)


def free_swap_and_cache(entry: int) -> int:
    """A page-table entry is gone: drop its count, and the cached page if that was the last
    user.  1 if the entry was valid, also for entries that are no places
    (mm/swapfile.c: free_swap_and_cache)."""
    if non_swap_entry(entry):
        return 1
    area = swap_info_get(entry)
    if area is None:
        return 0
    offset = swp_offset(entry)
    page = None
    swap_entry_free(area, offset, 1)
    if area.cached[offset] and not area.counts[offset]:
        page = filemap.find_get_page(area.space, entry)
        if page is not None and not trylock_page(page):
            swap.put_page(page)
            page = None
    spin_unlock(area.lock)
    if page is not None:
        # It may have left the swap cache before we had its lock.
        if (
            PageSwapCache(page)
            and not PageWriteback(page)
            and (not page_mapped(page) or vm_swap_full(area.kernel))
        ):
            swap_state.delete_from_swap_cache(page)
            SetPageDirty(page)
        unlock_page(page)
        swap.put_page(page)
    return 1


def page_swapcount(page: Page) -> int:
    """How many page-table entries name the place of a swap-cache page
    (mm/swapfile.c: page_swapcount)."""
    entry: Any = page_private(page)
    area = swap_info_get(entry)
    if area is None:
        return 0
    count = area.counts[swp_offset(entry)]
    spin_unlock(area.lock)
    return count


def reuse_swap_page(page: Page) -> bool:
    """Whether a write fault may take the page itself instead of a copy; if so its place in
    swap is given up, unless it is just being written  (mm/swapfile.c: reuse_swap_page)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "reuse_swap_page of an unlocked page")
    if PageKsm(page):
        return False
    count = page_mapcount(page)
    if count <= 1 and PageSwapCache(page):
        count += page_swapcount(page)
        if count == 1 and not PageWriteback(page):
            swap_state.delete_from_swap_cache(page)
            SetPageDirty(page)
    return count <= 1


def try_to_free_swap(page: Page) -> int:
    """Take a page out of the swap cache if no page-table entry needs its place; whether
    that was done  (mm/swapfile.c: try_to_free_swap)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "try_to_free_swap of an unlocked page")
    if not PageSwapCache(page) or PageWriteback(page) or page_swapcount(page):
        return 0
    swap_state.delete_from_swap_cache(page)
    SetPageDirty(page)
    return 1


# --- swapon ---


def sys_swapon(kernel: Kernel, pages: int) -> SwapArea:
    """A new area of @pages places, the first of them its header  (mm/swapfile.c: swapon).
    Raises OSError: EINVAL without room for a page, EPERM with too many areas."""
    if pages < 2:
        raise OSError(EINVAL, f"a swap area of {pages} pages has no room for a page")
    state = swap_of(kernel)
    with spin_lock(state.lock):
        areas = state.areas
        type = areas.index(None) if None in areas else len(areas)
        if type >= MAX_SWAPFILES:
            raise OSError(EPERM, f"there are {MAX_SWAPFILES} swap areas already")
        if type == len(areas):
            areas.append(None)
            state.spaces.append(swap_state.new_swap_space(kernel, type))
        area = areas[type] = SwapArea(kernel, type, pages, state.spaces[type])
        _enable_swap_info(state, area)
    return area


def _enable_swap_info(state: SwapState, area: SwapArea) -> None:
    """Places may be taken from now on, after those of all other areas
    (mm/swapfile.c: _enable_swap_info).  swap_lock is held."""
    with spin_lock(area.lock):
        state.least_priority -= 1
        area.prio = state.least_priority
        area.writeok = True
        atomic_add(area.pages, state, "nr_swap_pages")
        state.total_swap_pages += area.pages
        if area.highest_bit:
            _make_available(area)


# --- swapoff ---


def sys_swapoff(area: SwapArea) -> int:
    """Bring everything back from an area and remove it; 0, -EINVAL or -ENOMEM
    (mm/swapfile.c: swapoff).  Differs: does not ask beforehand whether there is room."""
    state = swap_of(area.kernel)
    with spin_lock(state.lock):
        if area not in state.areas or not area.writeok:
            return -EINVAL
        with spin_lock(area.lock):
            with spin_lock(state.avail_lock):
                if area in state.avail:
                    state.avail.remove(area)
            atomic_add(-area.pages, state, "nr_swap_pages")
            state.total_swap_pages -= area.pages
            area.writeok = False
    error = try_to_unuse(area)
    if error:
        with spin_lock(state.lock):
            _enable_swap_info(state, area)
        return error
    with spin_lock(state.lock), spin_lock(area.lock):
        _drain_mmlist(state)
        area.highest_bit = 0  # cuts short who still looks for a place
    sched.spin_until(area, "scanning", lambda: not area.scanning, f"users of {area!r} to leave")
    with spin_lock(state.lock), spin_lock(area.lock):
        state.areas[area.type] = None
    return 0


def try_to_unuse(area: SwapArea) -> int:
    """Empty an area from which nothing is taken any more; 0 or -ENOMEM
    (mm/swapfile.c: try_to_unuse)."""
    offset = 0
    before = None
    while True:
        previous, offset = offset, _find_next_to_unuse(area, offset)
        if not offset:
            return 0
        if offset <= previous:
            # Once around. Nothing may have come of it if an entry was just being copied, or
            # if its process is about to end.
            changes = int(READ_ONCE(area, "changes"))
            now = bytes(area.cached), tuple(area.counts)
            if now == before:
                _wait_for_change(area, changes)
            before = now
        if _unuse_place(area, offset):
            return -ENOMEM


def _note_change(area: SwapArea) -> None:
    """The use of a place changes, and an area that is being emptied waits for that."""
    if not area.writeok:
        WRITE_ONCE(area, "changes", area.changes + 1)


def _wait_for_change(area: SwapArea, changes: int) -> None:
    why = f"a place of {area!r}, which nobody has, to be freed"
    sched.spin_until(area, "changes", lambda: area.changes != changes, why)


def _find_next_to_unuse(area: SwapArea, previous: int) -> int:
    """The next place in use, around the end once; 0 if there is none
    (mm/swapfile.c: find_next_to_unuse)."""
    places = chain(range(previous + 1, len(area.counts)), range(1, previous + 1))
    return next((offset for offset in places if area.in_use(offset)), 0)


def _unuse_place(area: SwapArea, offset: int) -> int:
    """Give the page of one place to everybody who names it, and take it out of the swap
    cache; 0 or -ENOMEM.

    Known defect of v3.19: nobody looks whether the page could be read.
    """
    entry = swp_entry(area.type, offset)
    page = swap_state.read_swap_cache_async(entry, GFP_HIGHUSER_MOVABLE, None, 0)
    if page is None:  # freed meanwhile, or no memory
        return -ENOMEM if area.in_use(offset) else 0
    # A fault finds its place in the page tables much faster than we do: let it go first.
    wait_on_page_locked(page)
    wait_on_page_writeback(page)
    lock_page(page)
    wait_on_page_writeback(page)
    found = _unuse_shmem(area, entry, page)
    if not found:
        found = _unuse_mms(area, entry, page)
    if found < 0:
        unlock_page(page)
        swap.put_page(page)
        return found
    if not found:
        # Somebody may still name the place, who will have to read it. Were the page left in
        # the cache for him, it could be unmapped again, and there would be no end.
        if _count(area, offset) and PageDirty(page) and PageSwapCache(page):
            page_io.swap_writepage(page, page_writeback.WritebackControl())
            lock_page(page)
            wait_on_page_writeback(page)
        # While it was unlocked it may have left for another area, unwritten.
        if _is_page_of(page, entry):
            swap_state.delete_from_swap_cache(page)
        SetPageDirty(page)  # no pte is
    unlock_page(page)
    swap.put_page(page)
    return 0


def _count(area: SwapArea, offset: int) -> int:
    with spin_lock(area.lock):
        return area.counts[offset]


def _is_page_of(page: Page, entry: int) -> bool:
    return PageSwapCache(page) and page_private(page) == entry


def _unuse_shmem(area: SwapArea, entry: int, page: Page) -> int:
    if not _count(area, swp_offset(entry)) or not _is_page_of(page, entry):
        return 0
    return shmem.shmem_unuse(area.kernel, entry, page)


def _unuse_mms(area: SwapArea, entry: int, page: Page) -> int:
    """Look into the processes that have swap entries, until nobody names the place; 0 or
    -ENOMEM.
    Differs: always in the same order."""
    state = swap_of(area.kernel)
    mm: Mm | None = None
    while _count(area, swp_offset(entry)):
        with spin_lock(state.mmlist_lock):
            following = _next_mm(state, mm)
        if mm is not None:
            fork.mmput(mm)
        mm = following
        if mm is None:
            return 0
        if unuse_mm(mm, entry, page) < 0:
            fork.mmput(mm)
            return -ENOMEM
    if mm is not None:
        fork.mmput(mm)
    return 0


def _next_mm(state: SwapState, mm: Mm | None) -> Mm | None:
    """The next mm that is not just ending, with a reference, which keeps it on the list."""
    start = state.mmlist.index(mm) + 1 if mm in state.mmlist else 0
    for following in state.mmlist[start:]:
        if atomic_inc_not_zero(following, "mm_users"):
            return following
    return None


def unuse_mm(mm: Mm, entry: int, page: Page) -> int:
    """Replace the entry in one process by a pte that maps the locked page; 0 or -ENOMEM
    (mm/swapfile.c: unuse_mm)."""
    if not down_read_trylock(mm.mmap_sem):
        # mmap_sem ranks above the page lock; reclaim had better not come in between.
        swap.activate_page(page)
        unlock_page(page)
        down_read(mm.mmap_sem)
        lock_page(page)
    found = 0
    for vma in mm.mmap:
        if vma.anon_vma is not None:
            found = _unuse_vma(vma, entry, page)
        if found:
            break
    up_read(mm.mmap_sem)
    return min(found, 0)


def _unuse_vma(vma: Vma, entry: int, page: Page) -> int:
    """1 if the entry was found, 0, or -ENOMEM  (mm/swapfile.c: unuse_vma)."""
    start, end = vma.vm_start, vma.vm_end
    if page_anon_vma(page) is not None:
        address = rmap.page_address_in_vma(page, vma)
        if address is None:
            return 0
        start, end = address, address + PAGE_SIZE
    looked_for = _ptes_of(entry)
    for pt, address in _places_for_ptes(vma.vm_mm, start, end):
        if ptep_get(pt, address) in looked_for:
            found = _unuse_pte(vma, pt, address, entry, page)
            if found:
                return found
    return 0


def _places_for_ptes(mm: Mm, start: int, end: int) -> Iterator[tuple[PageTable, int]]:
    """Each address that has a table of ptes, with that table."""
    for first in range(start & PMD_MASK, end, PMD_SIZE):
        pt = find_leaf(mm, first)
        if pt is not None:
            for address in range(max(first, start), min(first + PMD_SIZE, end), PAGE_SIZE):
                yield pt, address


def _ptes_of(entry: int) -> tuple[int, int]:
    """What a pte with this entry can look like  (mm/swapfile.c: maybe_same_pte)."""
    pte = swp_entry_to_pte(entry)
    return pte, pte_swp_mksoft_dirty(pte)


def _unuse_pte(vma: Vma, pt: PageTable, address: int, entry: int, page: Page) -> int:
    """Map the page where the entry was, unless that has gone: 1, 0, or -ENOMEM
    (mm/swapfile.c: unuse_pte).

    Known defect of v3.19: the soft-dirty bit of the entry is lost.
    """
    swapcache = page
    mine = ksm.ksm_might_need_to_copy(page, vma, address)
    if mine is None:
        return -ENOMEM
    found = _unuse_locked(vma, pt, address, entry, mine, swapcache)
    if mine is not swapcache:
        unlock_page(mine)
        swap.put_page(mine)
    return found


def _unuse_locked(
    vma: Vma, pt: PageTable, address: int, entry: int, page: Page, swapcache: Page
) -> int:
    mm = vma.vm_mm
    memcg = memcontrol.mem_cgroup_try_charge(page, mm, GFP_KERNEL)
    if isinstance(memcg, int):
        return -ENOMEM
    with spin_lock(pt.ptl):
        if ptep_get(pt, address) not in _ptes_of(entry):
            memcontrol.mem_cgroup_cancel_charge(page, memcg)
            return 0
        mm.rss_stat[MM_SWAPENTS] -= 1
        mm.rss_stat[MM_ANONPAGES] += 1
        get_page(page)
        set_pte_at(mm, address, pt, pte_mkold(pfn_pte(page.pfn, vma.vm_page_prot)))
        if page is swapcache:
            rmap.page_add_anon_rmap(page, vma, address)
            memcontrol.mem_cgroup_commit_charge(page, memcg, True)
        else:
            rmap.page_add_new_anon_rmap(page, vma, address)
            memcontrol.mem_cgroup_commit_charge(page, memcg, False)
            swap.lru_cache_add_active_or_unevictable(page, vma)
        swap_free(entry)
        swap.activate_page(page)  # not to go out again at once
        return 1


# --- for observers ---


def si_swapinfo(kernel: Kernel) -> tuple[int, int]:
    """(all places, free ones); what is used of an area that is being emptied counts as free
    again already  (mm/swapfile.c: si_swapinfo)."""
    state = swap_of(kernel)
    with spin_lock(state.lock):
        emptied = sum(area.inuse_pages for area in areas(kernel) if not area.writeok)
        return state.total_swap_pages + emptied, state.nr_swap_pages + emptied


def contents_of(kernel: Kernel, entry: int) -> bytes:
    """What a place holds: its cached page, once that is read, or what is on the medium."""
    area = swap_of(kernel).areas[swp_type(entry)]
    assert area is not None, f"swap entry {entry:#x} names no area"
    page = area.space.page_tree.slots.get(entry)
    if isinstance(page, Page) and page.flags & PG_uptodate:
        return bytes(page.data or ZERO_BYTES)
    return area.data.get(swp_offset(entry), ZERO_BYTES)


def areas(kernel: Kernel) -> list[SwapArea]:
    """The areas in use, by type."""
    return [area for area in swap_of(kernel).areas if area is not None]
