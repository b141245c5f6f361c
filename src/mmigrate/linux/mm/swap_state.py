"""The swap cache: pages that have a place in a swap area  (mm/swap_state.c).

The tree of an area has its entries as keys. A page in it has SwapCache set, its entry in
`private`, and a reference of the cache's; `mapping` still says whose it is, or nothing if
it was read and never mapped.
"""

from __future__ import annotations

from errno import EEXIST
from typing import Any

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import AddressSpace, AddressSpaceOperations, Page, Vma
from mmigrate.linux.include.page_flags import PG_locked
from mmigrate.linux.include.pgtable import swp_entry, swp_offset, swp_type
from mmigrate.linux.include.vmstat import NR_FILE_PAGES
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE, atomic_inc, atomic_xchg
from mmigrate.linux.kernel.bug import BUG_ON, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    ClearPageSwapCache,
    PageLocked,
    PageSwapBacked,
    PageSwapCache,
    PageTransHuge,
    PageUptodate,
    PageWriteback,
    SetPageDirty,
    SetPageReclaim,
    SetPageSwapBacked,
    SetPageSwapCache,
    TestClearPageReclaim,
    page_private,
    set_page_private,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import get_page, page_mapped
from mmigrate.linux.kernel.rcu import radix_tree_delete, radix_tree_lookup, radix_tree_store
from mmigrate.linux.kernel.rwsem import RwSemaphore
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock
from mmigrate.linux.lib.list import ListHead
from mmigrate.linux.mm import (
    filemap,
    huge_split,
    mempolicy,
    migrate,
    page_io,
    page_writeback,
    swap,
    swapfile,
)

SetPageReadahead = SetPageReclaim  # the same bit
TestClearPageReadahead = TestClearPageReclaim


def new_swap_space(kernel: Kernel, type: int) -> AddressSpace:
    """The address space of a new area."""
    name = f"swap{type}"
    return AddressSpace(
        name,
        None,
        AddressSpaceOperations(
            "swap",
            writepage=page_io.swap_writepage,
            set_page_dirty=page_writeback.__set_page_dirty_no_writeback,
            migratepage=migrate.migrate_page,
        ),
        SpinLock("tree_lock", f"{name} tree_lock"),
        SpinLock("private_lock", f"{name} private_lock"),
        RwSemaphore("i_mmap_rwsem", f"{name} i_mmap_rwsem"),
        gfp_mask=0,
        accounts_dirty=False,
    )


def swap_address_space(kernel: Kernel, entry: int) -> AddressSpace:
    """The address space whose slots are the places of the entry's area
    (include/linux/swap.h: swap_address_space)."""
    space: AddressSpace = kernel.swap.spaces[swp_type(entry)]
    return space


def swapper_spaces(kernel: Kernel) -> list[AddressSpace]:
    """All of them, for observers."""
    return [area.space for area in swapfile.areas(kernel)]


# --- into the cache and out of it; the page is locked ---


def add_to_swap_cache(page: Page, entry: int) -> int:
    """Insert a page at a place that was taken, or reserved, for the cache; 0.  Differs: a
    tree needs no memory, so it cannot fail  (mm/swap_state.c: add_to_swap_cache)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "added to the swap cache unlocked")
    VM_BUG_ON_PAGE(PageSwapCache(page), page, "is in the swap cache already")
    VM_BUG_ON_PAGE(not PageSwapBacked(page), page, "added to the swap cache, not swap-backed")
    get_page(page)
    SetPageSwapCache(page)
    set_page_private(page, entry)
    space = swap_address_space(page.zone.kernel, entry)
    with spin_lock(space.tree_lock):
        other = radix_tree_lookup(space.page_tree, entry)
        BUG_ON(other is not None, f"place {swp_offset(entry)} has {other!r} already", page)
        radix_tree_store(space.page_tree, entry, page)
        space.nrpages += 1
        page.zone.vm_stat[NR_FILE_PAGES] += 1
    return 0


__add_to_swap_cache = add_to_swap_cache


def __delete_from_swap_cache(page: Page) -> None:
    """Take a page out, under tree_lock; the cache's reference is the caller's
    (mm/swap_state.c: __delete_from_swap_cache)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "removed from the swap cache unlocked")
    VM_BUG_ON_PAGE(not PageSwapCache(page), page, "is not in the swap cache")
    VM_BUG_ON_PAGE(PageWriteback(page), page, "removed from the swap cache under writeback")
    entry: Any = page_private(page)
    space = swap_address_space(page.zone.kernel, entry)
    radix_tree_delete(space.page_tree, entry)
    set_page_private(page, 0)
    ClearPageSwapCache(page)
    space.nrpages -= 1
    page.zone.vm_stat[NR_FILE_PAGES] -= 1


def delete_from_swap_cache(page: Page) -> None:
    """Take a page out and free its place in the cache's name
    (mm/swap_state.c: delete_from_swap_cache)."""
    entry: Any = page_private(page)
    space = swap_address_space(page.zone.kernel, entry)
    with spin_lock(space.tree_lock):
        __delete_from_swap_cache(page)
    swapfile.swapcache_free(entry, page)
    swap.put_page(page)


def add_to_swap(page: Page, pages: ListHead | None = None) -> bool:
    """Give an anonymous page a place in swap, and make it dirty so that it will be written;
    False if there is no room.  A huge page is split; its tails go to @pages, isolated too
    (mm/swap_state.c: add_to_swap)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "add_to_swap of an unlocked page")
    VM_BUG_ON_PAGE(not PageUptodate(page), page, "add_to_swap of a page without contents")
    entry = swapfile.get_swap_page(page.zone.kernel)
    if not entry:
        return False
    if PageTransHuge(page) and huge_split.split_huge_page_to_list(page, pages):
        swapfile.swapcache_free(entry)
        return False
    add_to_swap_cache(page, entry)
    SetPageDirty(page)
    return True


def free_swap_cache(page: Page) -> None:
    """Give up the place in swap of a page that nobody maps any more, if that can be done at
    once  (mm/swap_state.c: free_swap_cache)."""
    if PageSwapCache(page) and not page_mapped(page) and trylock_page(page):
        swapfile.try_to_free_swap(page)
        unlock_page(page)


# --- reading ---


def lookup_swap_cache(entry: int) -> Page | None:
    """The cached page of a place, with a reference; that it was read ahead was of use then
    (mm/swap_state.c: lookup_swap_cache)."""
    kernel = sched.task.kernel
    page = filemap.find_get_page(swap_address_space(kernel, entry), entry)
    if page is not None and TestClearPageReadahead(page):
        atomic_inc(swapfile.swap_of(kernel), "swapin_readahead_hits")
    return page


def read_swap_cache_async(entry: int, gfp: int, vma: Vma | None, addr: int) -> Page | None:
    """The page of a place, with a reference; if it is not cached a new one whose contents
    are being read.  None: nobody uses the place, or no memory
    (mm/swap_state.c: read_swap_cache_async)."""
    space = swap_address_space(sched.task.kernel, entry)
    new_page: Page | None = None
    while True:
        found = filemap.find_get_page(space, entry)
        if found is not None:
            break
        if new_page is None:
            if vma is None:
                new_page = mempolicy.alloc_pages_current(gfp, 0)
            else:
                new_page = mempolicy.alloc_page_vma(gfp, vma, addr)
            if new_page is None:
                break
        error = swapfile.swapcache_prepare(entry)
        if error == -EEXIST:
            _wait_for_cache(space, entry)
            continue
        if error:
            break
        new_page.flags |= PG_locked  # nobody else has it yet
        SetPageSwapBacked(new_page)
        add_to_swap_cache(new_page, entry)
        swap.lru_cache_add_anon(new_page)
        page_io.swap_readpage(new_page)
        return new_page
    if new_page is not None:
        swap.put_page(new_page)
    return found


def _wait_for_cache(space: AddressSpace, entry: int) -> None:
    """Somebody has the place for a page that he has not inserted yet, or has just removed.
    In C a loop that looks again and again."""
    area = swapfile.swap_of(sched.task.kernel).areas[swp_type(entry)]
    sched.spin_until(
        space.page_tree,
        entry,
        lambda: (
            entry in space.page_tree.slots or area is None or not area.cached[swp_offset(entry)]
        ),
        f"the page of swap place {swp_offset(entry)}",
    )


def swapin_nr_pages(kernel: Kernel, offset: int) -> int:
    """How many places to read around one, a power of two: as many as lately were of use, and
    two more; without that knowledge, more than one only next to the last
    (mm/swap_state.c: swapin_nr_pages)."""
    state = swapfile.swap_of(kernel)
    max_pages = 1 << int(READ_ONCE(state, "page_cluster"))
    if max_pages <= 1:
        return 1
    pages = int(atomic_xchg(state, "swapin_readahead_hits", 0)) + 2
    if pages == 2:
        if abs(offset - state.prev_offset) != 1:
            pages = 1
        state.prev_offset = offset
    else:
        pages = max(4, 1 << (pages - 1).bit_length())
    # It shrinks by half at most.
    pages = max(min(pages, max_pages), int(READ_ONCE(state, "last_readahead_pages")) // 2)
    WRITE_ONCE(state, "last_readahead_pages", pages)
    return pages


def swapin_readahead(entry: int, gfp: int, vma: Vma, addr: int) -> Page | None:
    """The page of a place, and of those around it, which probably went out together
    (mm/swap_state.c: swapin_readahead)."""
    type, wanted = swp_type(entry), swp_offset(entry)
    mask = swapin_nr_pages(sched.task.kernel, wanted) - 1
    if mask:
        for offset in range(max(wanted & ~mask, 1), (wanted | mask) + 1):
            page = read_swap_cache_async(swp_entry(type, offset), gfp, vma, addr)
            if page is None:
                continue
            if offset != wanted:
                SetPageReadahead(page)
            swap.put_page(page)
        swap.lru_add_drain()
    return read_swap_cache_async(entry, gfp, vma, addr)
