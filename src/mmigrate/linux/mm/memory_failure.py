"""Pages whose memory goes bad: taken out of use while their contents are still good
(mm/memory-failure.c: soft offline).

Interface: `soft_offline_page`; `madvise_hwpoison` for the system call.
Differs: no hard failure (memory_failure); pages of hugetlb are refused (-EIO).
Known defects of v3.19: the pageblock of the page is MIGRATE_MOVABLE afterwards, whatever it was;
a page that a second look finds in use but on no LRU list keeps the reference of that look; and a
bad page stays on the free lists, where only the allocator passes over it, compaction does not.
"""

from __future__ import annotations

from errno import EBUSY, EIO, EPERM
from typing import Final

from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE, MIGRATE_ISOLATE, MIGRATE_MOVABLE
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_MEMORY_FAILURE
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import Zone
from mmigrate.linux.include.pgtable import PAGE_SIZE
from mmigrate.linux.include.sched import Task, capable
from mmigrate.linux.include.switches import SECOND_LOOK_LETS_GO
from mmigrate.linux.include.vmstat import NR_ISOLATED_ANON
from mmigrate.linux.kernel.page_flags import (
    PageAnon,
    PageHWPoison,
    PageLRU,
    PageTransHuge,
    SetPageHWPoison,
    lock_page,
    page_is_file_cache,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import compound_head, get_page_unless_zero
from mmigrate.linux.lib.list import ListHead, list_add, list_del, list_empty
from mmigrate.linux.mm import (
    gup,
    huge_split,
    hugetlb_pool,
    memory_hotplug,
    migrate,
    page_alloc,
    page_isolation,
    swap,
    truncate,
    vmscan,
)

MF_COUNT_INCREASED: Final = 1 << 0  # the caller has a reference on the page


def shake_page(page: Page) -> None:
    """Let a page that somebody holds only in passing get where it belongs
    (mm/memory-failure.c: shake_page)."""
    kernel = page.zone.kernel
    swap.lru_add_drain_all(kernel)
    if not PageLRU(page):
        page_alloc.drain_all_pages(kernel, page.zone)


def _get_any_page_once(page: Page, flags: int) -> int:
    """1 with a reference, 0 for a free page, or -EIO
    (mm/memory-failure.c: __get_any_page)."""
    if flags & MF_COUNT_INCREASED:
        return 1
    if get_page_unless_zero(compound_head(page)):
        return 1
    return 0 if page_alloc.is_free_buddy_page(page) else -EIO


def get_any_page(page: Page, flags: int) -> int:
    """The same; a page in use must be on an LRU list, if need be at second sight
    (mm/memory-failure.c: get_any_page)."""
    ret = _get_any_page_once(page, flags)
    if ret == 1 and not PageLRU(page):
        swap.put_page(page)
        shake_page(page)
        ret = _get_any_page_once(page, 0)
        if not PageLRU(page):
            # Quirk: the reference of the second look stays.
            if ret == 1 and page.zone.kernel.has(SECOND_LOOK_LETS_GO):
                swap.put_page(compound_head(page))
            return -EIO
    return ret


def new_page(page: Page, _private: int, _result: list[object]) -> Page | None:
    """On the same node if possible  (mm/memory-failure.c: new_page)."""
    return page_alloc.alloc_pages_exact_node(
        page.zone.kernel, page.zone.nid, GFP_HIGHUSER_MOVABLE, 0
    )


def soft_offline_page(page: Page, flags: int) -> int:
    """Take a page out of use whose memory gives cause for concern, without loss; 0, or -EBUSY:
    it is already, or cannot be split, -EIO: it cannot be moved, -ENOMEM
    (mm/memory-failure.c: soft_offline_page)."""
    zone: Zone = page.zone
    if PageHWPoison(page):
        return -EBUSY
    head = compound_head(page)
    if hugetlb_pool.PageHuge(head):
        if flags & MF_COUNT_INCREASED:
            swap.put_page(page)
        return -EIO
    if PageTransHuge(head) and PageAnon(head) and huge_split.split_huge_page(head):
        return -EBUSY
    # Nobody shall get the page between its last reference and its mark.
    with memory_hotplug.get_online_mems(zone.kernel):
        if page_alloc.get_pageblock_migratetype(zone, page.pfn) != MIGRATE_ISOLATE:
            page_isolation.set_migratetype_isolate(zone, page.pfn, False)
        ret = get_any_page(page, flags)
    if ret > 0:
        ret = __soft_offline_page(page)
    elif ret == 0:
        _mark(page)
    page_isolation.unset_migratetype_isolate(zone, page.pfn, MIGRATE_MOVABLE)
    return ret


def _mark(page: Page) -> None:
    SetPageHWPoison(page)
    page.zone.kernel.num_poisoned_pages += 1


def __soft_offline_page(page: Page) -> int:
    """A page in use, of which the caller's reference is consumed: dropped if it is clean page
    cache that nobody maps, moved otherwise
    (mm/memory-failure.c: __soft_offline_page)."""
    lock_page(page)
    wait_on_page_writeback(page)
    if PageHWPoison(page):
        unlock_page(page)
        swap.put_page(page)
        return -EBUSY
    dropped = truncate.invalidate_inode_page(page)
    unlock_page(page)
    if dropped:
        swap.put_page(page)
        _mark(page)
        return 0
    ret = vmscan.isolate_lru_page(page)
    swap.put_page(page)
    if ret:
        return ret
    return _move_away(page)


def _move_away(page: Page) -> int:
    kernel = page.zone.kernel
    pagelist = ListHead()
    page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += 1
    list_add(page, pagelist)
    ret = migrate.migrate_pages(
        pagelist, new_page, None, MPOL_MF_MOVE_ALL, MIGRATE_SYNC, MR_MEMORY_FAILURE
    )
    if ret:
        if not list_empty(pagelist):
            list_del(page)
            page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] -= 1
            vmscan.putback_lru_page(page)
        return -EIO if ret > 0 else ret
    # The old page may be in a vector still, or on a per-CPU list.
    if not page_alloc.is_free_buddy_page(page):
        swap.lru_add_drain_all(kernel)
    if not page_alloc.is_free_buddy_page(page):
        page_alloc.drain_all_pages(kernel, page.zone)
    _mark(page)
    return 0


def madvise_hwpoison(task: Task, start: int, end: int) -> int:
    """MADV_SOFT_OFFLINE: the pages that the running process has there; 0 or the first -errno
    (mm/madvise.c: madvise_hwpoison)."""
    if not capable(task, "CAP_SYS_ADMIN"):
        return -EPERM
    while start < end:
        found = gup.get_user_pages_fast(start, 1, False)
        if isinstance(found, int):
            return found
        page = found[0]
        if PageHWPoison(page):
            swap.put_page(page)
        else:
            ret = soft_offline_page(page, MF_COUNT_INCREASED)
            if ret:
                return ret
        start += PAGE_SIZE << page_alloc.compound_order(compound_head(page))
    return 0
