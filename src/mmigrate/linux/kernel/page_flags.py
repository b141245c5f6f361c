"""Tests and atomic changes of page flags, and the page lock  (page-flags.h, pagemap.h).

Each bit is a word of its own to the explorer: operations on different bits commute.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Final

from mmigrate.linux.include.mm_types import AddressSpace, AnonVma, Page
from mmigrate.linux.include.page_flags import (
    PAGE_FLAG_NAMES,
    PAGE_FLAGS_PRIVATE,
    PG_active,
    PG_anon_shared,
    PG_checked,
    PG_dirty,
    PG_error,
    PG_head,
    PG_hwpoison,
    PG_locked,
    PG_lru,
    PG_mappedtodisk,
    PG_mlocked,
    PG_private,
    PG_private_2,
    PG_reclaim,
    PG_referenced,
    PG_reserved,
    PG_slab,
    PG_swapbacked,
    PG_swapcache,
    PG_tail,
    PG_unevictable,
    PG_uptodate,
    PG_writeback,
)
from mmigrate.linux.include.pgtable import HPAGE_PMD_NR, swp_type
from mmigrate.linux.include.vmstat import (
    LRU_ACTIVE_ANON,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    LRU_UNEVICTABLE,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.sched import READ, WRITE

Test = Callable[[Page], bool]
Change = Callable[[Page], None]


def page_flag(bit: int) -> tuple[Test, Change, Change]:
    """PageX, SetPageX, ClearPageX."""

    def test(page: Page) -> bool:
        if sched.hook is not None:
            sched.hook.announce(page, bit, READ)
        return page.flags & bit != 0

    def set_flag(page: Page) -> None:
        if sched.hook is not None:
            sched.hook.announce(page, bit, WRITE)
        page.flags |= bit

    def clear(page: Page) -> None:
        if sched.hook is not None:
            sched.hook.announce(page, bit, WRITE)
        page.flags &= ~bit

    return test, set_flag, clear


def test_and_set_flag(bit: int) -> Test:
    def test_and_set(page: Page) -> bool:
        if sched.hook is not None:
            sched.hook.announce(page, bit, WRITE)
        was_set = page.flags & bit != 0
        page.flags |= bit
        return was_set

    return test_and_set


def test_and_clear_flag(bit: int) -> Test:
    def test_and_clear(page: Page) -> bool:
        if sched.hook is not None:
            sched.hook.announce(page, bit, WRITE)
        was_set = page.flags & bit != 0
        page.flags &= ~bit
        return was_set

    return test_and_clear


PageLocked, _, _ = page_flag(PG_locked)
PageError, SetPageError, ClearPageError = page_flag(PG_error)
PageReferenced, SetPageReferenced, ClearPageReferenced = page_flag(PG_referenced)
PageUptodate, SetPageUptodate, ClearPageUptodate = page_flag(PG_uptodate)
PageDirty, SetPageDirty, ClearPageDirty = page_flag(PG_dirty)
PageLRU, SetPageLRU, ClearPageLRU = page_flag(PG_lru)
PageActive, SetPageActive, ClearPageActive = page_flag(PG_active)
PageSlab, SetPageSlab, ClearPageSlab = page_flag(PG_slab)
PageChecked, SetPageChecked, ClearPageChecked = page_flag(PG_checked)
PageReserved, SetPageReserved, ClearPageReserved = page_flag(PG_reserved)
PagePrivate, SetPagePrivate, ClearPagePrivate = page_flag(PG_private)
PagePrivate2, SetPagePrivate2, ClearPagePrivate2 = page_flag(PG_private_2)
PageWriteback, _, _ = page_flag(PG_writeback)
PageHead, SetPageHead, ClearPageHead = page_flag(PG_head)
PageTail, SetPageTail, ClearPageTail = page_flag(PG_tail)
PageSwapCache, SetPageSwapCache, ClearPageSwapCache = page_flag(PG_swapcache)
PageMappedToDisk, SetPageMappedToDisk, ClearPageMappedToDisk = page_flag(PG_mappedtodisk)
PageReclaim, SetPageReclaim, ClearPageReclaim = page_flag(PG_reclaim)
PageSwapBacked, SetPageSwapBacked, ClearPageSwapBacked = page_flag(PG_swapbacked)
PageUnevictable, SetPageUnevictable, ClearPageUnevictable = page_flag(PG_unevictable)
PageMlocked, SetPageMlocked, ClearPageMlocked = page_flag(PG_mlocked)
PageHWPoison, SetPageHWPoison, ClearPageHWPoison = page_flag(PG_hwpoison)

TestSetPageDirty = test_and_set_flag(PG_dirty)
TestSetPageMlocked = test_and_set_flag(PG_mlocked)
TestSetPageWriteback = test_and_set_flag(PG_writeback)
TestSetPageLRU = test_and_set_flag(PG_lru)
TestClearPageDirty = test_and_clear_flag(PG_dirty)
TestClearPageActive = test_and_clear_flag(PG_active)
TestClearPageUnevictable = test_and_clear_flag(PG_unevictable)
TestClearPageMlocked = test_and_clear_flag(PG_mlocked)
TestClearPageReferenced = test_and_clear_flag(PG_referenced)
TestClearPageReclaim = test_and_clear_flag(PG_reclaim)
TestClearPageWriteback = test_and_clear_flag(PG_writeback)
TestClearPageLRU = test_and_clear_flag(PG_lru)


def PageTransHuge(page: Page) -> bool:
    """Whether the page is the head of a huge page; must not be asked of a tail
    (include/linux/page-flags.h: PageTransHuge)."""
    if sched.hook is not None:
        sched.hook.announce(page, PG_head, READ)
    if page.flags & PG_tail:
        BUG("PageTransHuge of a tail", page)
    return page.flags & PG_head != 0


def PageCompound(page: Page) -> bool:
    if sched.hook is not None:
        sched.hook.announce(page, PG_head, READ)
    return page.flags & (PG_head | PG_tail) != 0


def hpage_nr_pages(page: Page) -> int:
    """How many pages a page that is on the LRU or in statistics stands for
    (include/linux/huge_mm.h: hpage_nr_pages)."""
    if sched.hook is not None:
        sched.hook.announce(page, PG_head, READ)
    return HPAGE_PMD_NR if page.flags & PG_head else 1


def page_has_private(page: Page) -> int:
    """1 if the owner keeps data with the page, which then holds a reference; else 0."""
    if sched.hook is not None:
        sched.hook.announce(page, PG_private, READ)
    return 1 if page.flags & PAGE_FLAGS_PRIVATE else 0


def page_is_file_cache(page: Page) -> int:
    """1 for pages on the file LRU lists, 0 for the anonymous ones; says nothing of the mapping."""
    if sched.hook is not None:
        sched.hook.announce(page, PG_swapbacked, READ)
    return 0 if page.flags & PG_swapbacked else 1


def _lru_of(flags: int) -> int:
    if flags & PG_unevictable:
        return LRU_UNEVICTABLE
    lru = LRU_INACTIVE_ANON if flags & PG_swapbacked else LRU_INACTIVE_FILE
    return lru + LRU_ACTIVE_ANON if flags & PG_active else lru


_LRU_BITS: Final = PG_unevictable | PG_swapbacked | PG_active
_LRU_OF: Final = {
    sum(flags): _lru_of(sum(flags))
    for flags in product((0, PG_unevictable), (0, PG_swapbacked), (0, PG_active))
}


def page_lru(page: Page) -> int:
    """Which LRU list a page belongs on  (include/linux/mm_inline.h: page_lru)."""
    hook = sched.hook
    if hook is not None:
        hook.announce(page, PG_unevictable, READ)
        hook.announce(page, PG_swapbacked, READ)
        hook.announce(page, PG_active, READ)
    return _LRU_OF[page.flags & _LRU_BITS]


def page_mapping(page: Page) -> AddressSpace | None:
    """The address space a page is cached in: a file, the swap space, or none
    (mm/util.c: page_mapping)."""
    hook = sched.hook
    if hook is not None:
        hook.announce(page, PG_swapcache, READ)
        hook.announce(page, "private" if page.flags & PG_swapcache else "mapping", READ)
    if page.flags & PG_swapcache:
        space: AddressSpace = page.zone.kernel.swap.areas[swp_type(page.private)].space
        return space
    mapping = page.mapping
    return mapping if type(mapping) is AddressSpace else None


_COPIED_FIRST = (PG_error, PG_referenced, PG_uptodate)
_COPIED_LAST = (PG_checked, PG_mappedtodisk)
_COPIED = PG_error | PG_referenced | PG_uptodate | PG_checked | PG_mappedtodisk | PG_anon_shared


def copy_page_flags(newpage: Page, page: Page) -> None:
    """The flags a migration copies or moves, one by one in the kernel's order where somebody
    watches: error, referenced, uptodate; active or unevictable, which the old page loses;
    checked, mappedtodisk."""
    if sched.hook is not None:
        for bit in _COPIED_FIRST:
            _copy_flag(newpage, page, bit)
        if TestClearPageActive(page):
            SetPageActive(newpage)
        elif TestClearPageUnevictable(page):
            SetPageUnevictable(newpage)
        for bit in _COPIED_LAST:
            _copy_flag(newpage, page, bit)
        newpage.flags |= page.flags & PG_anon_shared
        return
    flags = page.flags
    moved = flags & PG_active or flags & PG_unevictable
    newpage.flags |= flags & _COPIED | moved
    page.flags = flags & ~moved


def _copy_flag(newpage: Page, page: Page, bit: int) -> None:
    assert sched.hook is not None
    sched.hook.announce(page, bit, READ)
    if page.flags & bit:
        sched.hook.announce(newpage, bit, WRITE)
        newpage.flags |= bit


def forget_owner(page: Page) -> None:
    """The old page of a migration is in no swap cache any more and has no private data."""
    hook = sched.hook
    if hook is not None:
        hook.announce(page, PG_swapcache, WRITE)
        page.flags &= ~PG_swapcache
        hook.announce(page, PG_private, WRITE)
        page.flags &= ~PG_private
        hook.announce(page, "private", WRITE)
    else:
        page.flags &= ~(PG_swapcache | PG_private)
    page.private = 0


def page_mapping_of(page: Page) -> object:
    """The raw `mapping` field, read once."""
    if sched.hook is not None:
        sched.hook.announce(page, "mapping", READ)
    return page.mapping


def set_page_mapping(page: Page, mapping: object) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "mapping", WRITE)
    page.mapping = mapping


def page_anon_vma(page: Page) -> AnonVma | None:
    """The anon_vma a page names; says nothing of whether that still lives
    (include/linux/rmap.h: page_anon_vma)."""
    if sched.hook is not None:
        sched.hook.announce(page, "mapping", READ)
    mapping = page.mapping
    return mapping if type(mapping) is AnonVma else None


def PageAnon(page: Page) -> bool:
    if sched.hook is not None:
        sched.hook.announce(page, "mapping", READ)
    mapping = page.mapping
    return mapping is not None and mapping.anon


def PageAnonNotKsm(page: Page) -> bool:
    """PageAnon(page) and not PageKsm(page): two looks at the mapping."""
    if sched.hook is not None:
        sched.hook.announce(page, "mapping", READ)
        sched.hook.announce(page, "mapping", READ)
    mapping = page.mapping
    return mapping is not None and mapping.anon and not mapping.ksm


def PageKsm(page: Page) -> bool:
    if sched.hook is not None:
        sched.hook.announce(page, "mapping", READ)
    mapping = page.mapping
    return mapping is not None and mapping.ksm


def page_private(page: Page) -> object:
    if sched.hook is not None:
        sched.hook.announce(page, "private", READ)
    return page.private


def set_page_private(page: Page, private: object) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "private", WRITE)
    page.private = private


def page_cpupid_last(page: Page) -> int:
    """By whom the page was used at the last hinting fault; -1: nobody yet
    (include/linux/mm.h: page_cpupid_last)."""
    if sched.hook is not None:
        sched.hook.announce(page, "_last_cpupid", READ)
    return page._last_cpupid


def page_cpupid_xchg_last(page: Page, cpupid: int) -> int:
    """Remember who uses the page now; who did last  (mm/mmzone.c: page_cpupid_xchg_last)."""
    if sched.hook is not None:
        sched.hook.announce(page, "_last_cpupid", WRITE)
    last = page._last_cpupid
    page._last_cpupid = cpupid
    return last


# --- the page lock, and writeback ---


def trylock_page(page: Page) -> bool:
    if sched.hook is not None:
        sched.hook.announce(page, PG_locked, WRITE)
    if page.flags & PG_locked:
        return False
    page.flags |= PG_locked
    return True


def lock_page(page: Page) -> None:
    """Sleep until the page is unlocked, and lock it."""
    if sched.task.preempt_count:
        sched.might_sleep()
    if sched.hook is not None or page.flags & PG_locked:
        sched.block(
            page, PG_locked, WRITE, lambda: not page.flags & PG_locked, f"{page!r} to be unlocked"
        )
    page.flags |= PG_locked


def unlock_page(page: Page) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, PG_locked, WRITE)
    if not page.flags & PG_locked:
        if sched.task.kernel.scheduler.abandoned:
            return
        BUG("unlock_page of an unlocked page", page)
    page.flags &= ~PG_locked


def wait_on_page_locked(page: Page) -> None:
    if sched.task.preempt_count:
        sched.might_sleep()
    if sched.hook is not None or page.flags & PG_locked:
        sched.block(
            page, PG_locked, READ, lambda: not page.flags & PG_locked, f"{page!r} to be unlocked"
        )


def wait_on_page_writeback(page: Page) -> None:
    if sched.task.preempt_count:
        sched.might_sleep()
    if sched.hook is not None or page.flags & PG_writeback:
        sched.block(
            page,
            PG_writeback,
            READ,
            lambda: not page.flags & PG_writeback,
            f"the writeback of {page!r}",
        )


def page_flags_cleared(page: Page) -> bool:
    """Whether no flag at all is set: one look at the whole word."""
    if sched.hook is not None:
        for bit in PAGE_FLAG_NAMES:
            sched.hook.announce(page, bit, READ)
    return page.flags == 0
