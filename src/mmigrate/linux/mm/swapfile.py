"""Swap areas: which places are used, by how many page-table entries  (mm/swapfile.c).

Differs: a count never overflows, so there are no continuation pages; allocation is next-fit
without clusters; areas are used in the order in which they were added.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOENT, ENOMEM
from typing import Any

from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import ZERO_BYTES, AddressSpace, Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    MAX_SWAPFILES,
    PMD_SHIFT,
    PMD_SIZE,
    non_swap_entry,
    pfn_pte,
    pte_mkold,
    pte_mksoft_dirty,
    pte_swp_clear_soft_dirty,
    pte_swp_soft_dirty,
    swp_entry,
    swp_entry_to_pte,
    swp_offset,
    swp_type,
)
from mmigrate.linux.include.vmstat import MM_ANONPAGES, MM_SWAPENTS
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.bug import BUG, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    PageKsm,
    PageLocked,
    PageSwapCache,
    PageWriteback,
    SetPageDirty,
    lock_page,
    page_private,
    trylock_page,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import get_page, page_mapcount, page_mapped
from mmigrate.linux.kernel.pgtable import find_leaf, ptep_get, set_pte_at
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_unlock
from mmigrate.linux.mm import filemap, fork, rmap, shmem, swap, swap_state


class SwapArea:
    """One swap device  (struct swap_info_struct).

    @counts: page-table entries (and shmem slots) that name each place; @cached: whether
    the swap cache does.  A place is free if neither.  Place 0 is the header.
    """

    __slots__ = ("cached", "counts", "data", "device", "kernel", "next_offset", "space", "type")

    def __init__(self, kernel: Kernel, type: int, pages: int, space: AddressSpace) -> None:
        self.kernel = kernel
        self.type = type
        self.device = f"swap{type}"
        self.space = space
        # swap_lock
        self.counts = [0] * pages
        self.cached = bytearray(pages)
        self.counts[0] = 1
        self.next_offset = 1
        # the medium
        self.data: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return self.device

    @property
    def used(self) -> int:
        """Places in use, the header apart."""
        pairs = zip(self.counts, self.cached, strict=True)
        return sum(1 for count, cached in pairs if count or cached) - 1


class SwapState:
    """All areas of a machine, and the processes that may have entries."""

    __slots__ = ("areas", "lock", "mmlist", "mmlist_lock")

    def __init__(self) -> None:
        self.lock = SpinLock("swap_lock")
        self.mmlist_lock = SpinLock("mmlist_lock")
        self.areas: list[SwapArea | None] = []
        self.mmlist: list[Mm] = []


def _swap(kernel: Kernel) -> SwapState:
    if kernel.swap is None:
        kernel.swap = SwapState()
    state: SwapState = kernel.swap
    return state


def swap_info_get(entry: int) -> SwapArea | None:
    """The area an entry names, or None if it names none  (mm/swapfile.c: swap_info_get)."""
    if non_swap_entry(entry):
        return None
    areas = _swap(sched.task.kernel).areas
    type = swp_type(entry)
    return areas[type] if type < len(areas) else None


def _area(entry: int) -> SwapArea:
    area = swap_info_get(entry)
    if area is None:
        BUG(f"swap entry {entry:#x} names no area")
    return area


def note_mm_has_swap(mm: Mm) -> None:
    """Let swapoff find this mm  (mm/rmap.c: try_to_unmap_one, the mmlist)."""
    if not READ_ONCE(mm, "on_swapoff_list"):
        state = _swap(mm.kernel)
        with spin_lock(state.mmlist_lock):
            if not mm.on_swapoff_list:
                mm.on_swapoff_list = True
                state.mmlist.append(mm)


def forget_mm(mm: Mm) -> None:
    """The mm is gone  (kernel/fork.c: mmput)."""
    if mm.on_swapoff_list:
        state = _swap(mm.kernel)
        with spin_lock(state.mmlist_lock):
            mm.on_swapoff_list = False
            state.mmlist.remove(mm)


# --- places ---


def get_swap_page(kernel: Kernel) -> int:
    """A free place, taken for the swap cache; 0 if there is none
    (mm/swapfile.c: get_swap_page)."""
    state = _swap(kernel)
    with spin_lock(state.lock):
        for area in state.areas:
            if area is None:
                continue
            pages = len(area.counts)
            for step in range(pages):
                offset = (area.next_offset + step) % pages
                if not area.counts[offset] and not area.cached[offset]:
                    area.cached[offset] = 1
                    area.next_offset = offset + 1
                    return swp_entry(area.type, offset)
    return 0


def swap_duplicate(entry: int) -> int:
    """One more page-table entry names the place; 0, also for entries that name none
    (mm/swapfile.c: swap_duplicate)."""
    area = swap_info_get(entry)
    if area is None:
        return 0
    offset = swp_offset(entry)
    with spin_lock(_swap(area.kernel).lock):
        if not area.counts[offset] and not area.cached[offset]:
            return -ENOENT
        area.counts[offset] += 1
    return 0


swap_shmem_alloc = swap_duplicate


def swapcache_prepare(entry: int) -> int:
    """Reserve the place for a page that will enter the swap cache; -EEXIST if there is one
    already, -ENOENT if it was freed  (mm/swapfile.c: swapcache_prepare)."""
    area = swap_info_get(entry)
    if area is None:
        return -EINVAL
    offset = swp_offset(entry)
    with spin_lock(_swap(area.kernel).lock):
        if area.cached[offset]:
            return -EEXIST
        if not area.counts[offset]:
            return -ENOENT
        area.cached[offset] = 1
    return 0


def swap_free(entry: int) -> None:
    """One page-table entry less  (mm/swapfile.c: swap_free)."""
    area = _area(entry)
    with spin_lock(_swap(area.kernel).lock):
        _drop_count(area, swp_offset(entry))


def swapcache_free(entry: int) -> None:
    """The swap cache has left the place  (mm/swapfile.c: swapcache_free)."""
    area = _area(entry)
    offset = swp_offset(entry)
    with spin_lock(_swap(area.kernel).lock):
        if not area.cached[offset]:
            BUG(f"{area!r} place {offset}: not in the swap cache")
        area.cached[offset] = 0
        _free_if_unused(area, offset)


def _drop_count(area: SwapArea, offset: int) -> None:
    if not area.counts[offset]:
        BUG(f"{area!r} place {offset}: freed once too often")
    area.counts[offset] -= 1
    _free_if_unused(area, offset)


def _free_if_unused(area: SwapArea, offset: int) -> None:
    if not area.counts[offset] and not area.cached[offset]:
        area.data.pop(offset, None)


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
    with spin_lock(_swap(area.kernel).lock):
        _drop_count(area, offset)
        only_cached = not area.counts[offset] and area.cached[offset]
        if only_cached:
            page = filemap.find_get_page(area.space, entry)
            if page is not None and not trylock_page(page):
                swap.put_page(page)
                page = None
    if page is not None:
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
    with spin_lock(_swap(area.kernel).lock):
        return area.counts[swp_offset(entry)]


def reuse_swap_page(page: Page) -> bool:
    """Whether a write fault may take the page itself instead of a copy; if so its place in
    swap is given up  (mm/swapfile.c: reuse_swap_page)."""
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


def vm_swap_full(kernel: Kernel) -> bool:
    """Whether more than half of all places are used."""
    areas = [area for area in _swap(kernel).areas if area is not None]
    total = sum(len(area.counts) for area in areas)
    return sum(area.used for area in areas) * 2 > total


# --- swapon and swapoff ---


def sys_swapon(kernel: Kernel, pages: int) -> SwapArea:
    """A new area of @pages places, the first of them its header."""
    state = _swap(kernel)
    with spin_lock(state.lock):
        type = next(
            (number for number, area in enumerate(state.areas) if area is None),
            len(state.areas),
        )
        if type >= MAX_SWAPFILES or pages < 2:
            raise OSError(EINVAL, f"cannot add a swap area of {pages} pages")
        area = SwapArea(kernel, type, pages, swap_state.new_swap_space(kernel, type))
        if type == len(state.areas):
            state.areas.append(area)
        else:
            state.areas[type] = area
    return area


def sys_swapoff(area: SwapArea) -> int:
    """Bring everything back from an area and remove it; 0, -EINVAL or -ENOMEM
    (mm/swapfile.c: swapoff, try_to_unuse)."""
    state = _swap(area.kernel)
    if area not in state.areas:
        return -EINVAL
    for offset in range(1, len(area.counts)):
        while area.counts[offset] or area.cached[offset]:
            result = _unuse_place(state, area, swp_entry(area.type, offset))
            if result < 0:
                return result
    state.areas[area.type] = None
    return 0


def _unuse_place(state: SwapState, area: SwapArea, entry: int) -> int:
    page = swap_state.read_swap_cache_async(entry, GFP_HIGHUSER_MOVABLE, None, 0)
    if page is None:
        # freed meanwhile, or no memory
        in_use = area.counts[swp_offset(entry)] or area.cached[swp_offset(entry)]
        return -ENOMEM if in_use else 0
    lock_page(page)
    wait_on_page_writeback(page)
    if area.counts[swp_offset(entry)]:
        shmem.shmem_unuse(area.kernel, entry, page)
        for mm in list(state.mmlist):
            fork.mmget(mm)
            with down_read(mm.mmap_sem):
                for vma in mm.mmap:
                    if vma.anon_vma is not None:
                        _unuse_vma(vma, entry, page)
            fork.mmput(mm)
    if PageSwapCache(page) and page_private(page) == entry and not page_swapcount(page):
        swap_state.delete_from_swap_cache(page)
    SetPageDirty(page)
    unlock_page(page)
    swap.put_page(page)
    return 0


def _unuse_vma(vma: Vma, entry: int, page: Page) -> None:
    """mm/swapfile.c: unuse_vma."""
    mm = vma.vm_mm
    wanted = swp_entry_to_pte(entry)
    addr = vma.vm_start
    while addr < vma.vm_end:
        end = min(vma.vm_end, ((addr >> PMD_SHIFT) << PMD_SHIFT) + PMD_SIZE)
        pt = find_leaf(mm, addr)
        if pt is not None:
            for address in range(addr, end, 4096):
                if pte_swp_clear_soft_dirty(ptep_get(pt, address)) == wanted:
                    _unuse_pte(vma, pt, address, entry, page)
        addr = end


def _unuse_pte(vma: Vma, pt: PageTable, address: int, entry: int, page: Page) -> None:
    """mm/swapfile.c: unuse_pte."""
    mm = vma.vm_mm
    ptl = pt.ptl
    spin_lock(ptl)
    old = ptep_get(pt, address)
    if pte_swp_clear_soft_dirty(old) != swp_entry_to_pte(entry):
        spin_unlock(ptl)
        return
    mm.rss_stat[MM_SWAPENTS] -= 1
    mm.rss_stat[MM_ANONPAGES] += 1
    get_page(page)
    pte = pte_mkold(pfn_pte(page.pfn, vma.vm_page_prot))
    set_pte_at(mm, address, pt, pte_mksoft_dirty(pte) if pte_swp_soft_dirty(old) else pte)
    rmap.page_add_anon_rmap(page, vma, address)
    swap_free(entry)
    swap.activate_page(page)
    spin_unlock(ptl)


# --- for observers ---


def contents_of(kernel: Kernel, entry: int) -> bytes:
    """What a place holds: its cached page, or what is on the medium."""
    area = _swap(kernel).areas[swp_type(entry)]
    assert area is not None, f"swap entry {entry:#x} names no area"
    page = area.space.page_tree.slots.get(entry)
    if isinstance(page, Page):
        return bytes(page.data or ZERO_BYTES)
    return area.data.get(swp_offset(entry), ZERO_BYTES)


def areas(kernel: Kernel) -> list[SwapArea]:
    return [area for area in _swap(kernel).areas if area is not None]
