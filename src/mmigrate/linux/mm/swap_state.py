"""The swap cache: pages that have a place in a swap area  (mm/swap_state.c).

Differs: no read-ahead; one swap space an area.
"""

from __future__ import annotations

from errno import EEXIST
from typing import Any

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import AddressSpace, AddressSpaceOperations, Page, Vma
from mmigrate.linux.include.pgtable import swp_offset, swp_type
from mmigrate.linux.include.vmstat import NR_FILE_PAGES
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    ClearPageSwapBacked,
    ClearPageSwapCache,
    PageLocked,
    PageSwapCache,
    PageUptodate,
    PageWriteback,
    SetPageDirty,
    SetPageSwapBacked,
    SetPageSwapCache,
    lock_page,
    page_private,
    set_page_private,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import get_page, page_mapped
from mmigrate.linux.kernel.rcu import radix_tree_delete, radix_tree_lookup, radix_tree_store
from mmigrate.linux.kernel.rwsem import RwSemaphore
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock
from mmigrate.linux.mm import (
    filemap,
    mempolicy,
    migrate,
    page_io,
    page_writeback,
    swap,
    swapfile,
)


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
    space: AddressSpace = kernel.swap.areas[swp_type(entry)].space
    return space


def swapper_spaces(kernel: Kernel) -> list[AddressSpace]:
    """All of them, for observers."""
    return [area.space for area in swapfile.areas(kernel)]


def __add_to_swap_cache(page: Page, entry: int) -> int:
    """Insert a locked page; 0, or -EEXIST if the slot is taken
    (mm/swap_state.c: __add_to_swap_cache)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "added to the swap cache unlocked")
    VM_BUG_ON_PAGE(PageSwapCache(page), page, "is in the swap cache already")
    get_page(page)
    SetPageSwapCache(page)
    set_page_private(page, entry)
    space = swap_address_space(page.zone.kernel, entry)
    with spin_lock(space.tree_lock):
        if radix_tree_lookup(space.page_tree, entry) is None:
            radix_tree_store(space.page_tree, entry, page)
            space.nrpages += 1
            page.zone.vm_stat[NR_FILE_PAGES] += 1
            return 0
    set_page_private(page, 0)
    ClearPageSwapCache(page)
    swap.put_page(page)
    return -EEXIST


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
    """Take a locked page out and free its place in the cache's name
    (mm/swap_state.c: delete_from_swap_cache)."""
    entry: Any = page_private(page)
    space = swap_address_space(page.zone.kernel, entry)
    with spin_lock(space.tree_lock):
        __delete_from_swap_cache(page)
    swapfile.swapcache_free(entry)
    swap.put_page(page)


def add_to_swap(page: Page) -> bool:
    """Give an anonymous page a place in swap, and make it dirty so that it will be written;
    False if there is no room  (mm/swap_state.c: add_to_swap)."""
    VM_BUG_ON_PAGE(not PageLocked(page), page, "add_to_swap of an unlocked page")
    VM_BUG_ON_PAGE(not PageUptodate(page), page, "add_to_swap of a page without contents")
    entry = swapfile.get_swap_page(page.zone.kernel)
    if not entry:
        return False
    if __add_to_swap_cache(page, entry):
        swapfile.swapcache_free(entry)
        return False
    SetPageDirty(page)
    return True


def free_swap_cache(page: Page) -> None:
    """Give up the place in swap if the page is not used elsewhere
    (mm/swap_state.c: free_swap_cache)."""
    if PageSwapCache(page) and not page_mapped(page) and trylock_page(page):
        swapfile.try_to_free_swap(page)
        unlock_page(page)


def lookup_swap_cache(entry: int) -> Page | None:
    """The cached page of a place, with a reference  (mm/swap_state.c: lookup_swap_cache)."""
    return filemap.find_get_page(swap_address_space(sched.task.kernel, entry), entry)


def read_swap_cache_async(entry: int, gfp: int, vma: Vma | None, addr: int) -> Page | None:
    """The page of a place, with a reference; if it is not cached a new one whose contents
    are being read.  None: the place was freed, or no memory
    (mm/swap_state.c: read_swap_cache_async)."""
    area = swapfile.swap_info_get(entry)
    if area is None:
        return None
    space = area.space
    offset = swp_offset(entry)
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
            # Somebody has reserved the place and not yet inserted his page, or is
            # about to free it.
            sched.spin_until(
                space.page_tree,
                entry,
                lambda: entry in space.page_tree.slots or not area.cached[offset],
                f"swap place {offset}",
            )
            continue
        if error:
            break
        lock_page(new_page)
        SetPageSwapBacked(new_page)
        if __add_to_swap_cache(new_page, entry) == 0:
            swap.lru_cache_add(new_page)
            page_io.swap_readpage(new_page)
            return new_page
        ClearPageSwapBacked(new_page)
        unlock_page(new_page)
        swapfile.swapcache_free(entry)
    if new_page is not None:
        swap.put_page(new_page)
    return found


def swapin_readahead(entry: int, gfp: int, vma: Vma, addr: int) -> Page | None:
    """mm/swap_state.c: swapin_readahead."""
    page = read_swap_cache_async(entry, gfp, vma, addr)
    swap.lru_add_drain()
    return page
