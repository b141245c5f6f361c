"""Pages whose memory goes bad: taken out of use while their contents are still good
(mm/memory-failure.c: soft offline).

Interface: `soft_offline_page`; `madvise_hwpoison` for the system call.
Differs: no hard failure (memory_failure).
Known defects of v3.19: a page of hugetlb whose size cannot move is put back twice; the
pageblock of the page is MIGRATE_MOVABLE afterwards, whatever it was; a page that a second look
finds in use but on no LRU list keeps the reference of that look; and a bad page stays on the free
lists, where only the allocator passes over it, compaction does not.
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
from mmigrate.linux.include.switches import (
    ACTIVE_HUGE_PAGES,
    BAD_PAGE_IS_BUSY,
    BAD_PAGE_LEAVES_ALONE,
    PUT_BACK_ONCE,
    SECOND_LOOK_LETS_GO,
    UNSPLIT_LETS_GO,
)
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
    taken_blocks,
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
    free = hugetlb_pool.PageHuge(page) or taken_blocks.is_free_buddy_page(page)
    return 0 if free else -EIO


def get_any_page(page: Page, flags: int) -> int:
    """The same; a page in use must be on an LRU list, if need be at second sight, or of hugetlb
    (mm/memory-failure.c: get_any_page)."""
    ret = _get_any_page_once(page, flags)
    if ret == 1 and not hugetlb_pool.PageHuge(page) and not PageLRU(page):
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
    if hugetlb_pool.PageHuge(page):
        h = hugetlb_pool.page_hstate(compound_head(page))
        return hugetlb_pool.alloc_huge_page_node(page.zone.kernel, h, page.zone.nid)
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
    huge = hugetlb_pool.PageHuge(page)
    if not huge and PageTransHuge(head) and PageAnon(head):
        if huge_split.split_huge_page(head):
            # Known defect of v3.19: the reference that the caller came with stays.
            if flags & MF_COUNT_INCREASED and zone.kernel.has(UNSPLIT_LETS_GO):
                swap.put_page(page)
            return -EBUSY
    # Nobody shall get the page between its last reference and its mark.
    with memory_hotplug.get_online_mems(zone.kernel):
        if page_alloc.get_pageblock_migratetype(zone, page.pfn) != MIGRATE_ISOLATE:
            page_isolation.set_migratetype_isolate(zone, page.pfn, False)
        ret = get_any_page(page, flags)
    if ret > 0:
        ret = soft_offline_huge_page(head) if huge else __soft_offline_page(page)
    elif ret == 0:
        _mark_huge(head) if huge else _mark(page)
    page_isolation.unset_migratetype_isolate(zone, page.pfn, MIGRATE_MOVABLE)
    return ret


def _mark(page: Page) -> None:
    if page.zone.kernel.has(BAD_PAGE_LEAVES_ALONE):
        taken_blocks.take_page_off_buddy(page)
    SetPageHWPoison(page)
    page.zone.kernel.num_poisoned_pages += 1


def _mark_huge(head: Page) -> None:
    """All parts of a page of hugetlb, which leaves the free pages of its pool
    (mm/memory-failure.c: set_page_hwpoison_huge_page)."""
    count = 1 << page_alloc.compound_order(head)
    for index in range(count):
        SetPageHWPoison(hugetlb_pool.first_of(head, index))
    hugetlb_pool.dequeue_hwpoisoned_huge_page(head)
    head.zone.kernel.num_poisoned_pages += count


def soft_offline_huge_page(head: Page) -> int:
    """Move a page of hugetlb away; the caller's reference is that of the isolation
    (mm/memory-failure.c: soft_offline_huge_page).

    Known defect of v3.19: whether somebody else has isolated it already is not asked.
    Differs: with the later commit the caller's reference is dropped if somebody has, too, which
    took a further commit of v4.3.
    """
    lock_page(head)
    if PageHWPoison(head):
        unlock_page(head)
        swap.put_page(head)
        return -EBUSY
    unlock_page(head)
    pagelist = ListHead()
    if head.zone.kernel.has(ACTIVE_HUGE_PAGES):
        isolated = hugetlb_pool.isolate_huge_page(head, pagelist)
        swap.put_page(head)
        if not isolated:
            return -EBUSY
    else:
        list_del(head)
        list_add(head, pagelist)
    ret = migrate.migrate_pages(
        pagelist, new_page, None, MPOL_MF_MOVE_ALL, MIGRATE_SYNC, MR_MEMORY_FAILURE
    )
    if ret:
        # Known defect of v3.19: what fails for good has been put back already.
        if not head.zone.kernel.has(PUT_BACK_ONCE):
            hugetlb_pool.putback_active_hugepage(head)
        else:
            migrate.putback_movable_pages(pagelist)
        return _not_moved(head, ret)
    if hugetlb_pool.PageHuge(head):
        _mark_huge(head)
    else:  # it was surplus, and is no huge page any more
        _mark(head)
    return 0


def _not_moved(page: Page, ret: int) -> int:
    """What to say of a page that migrate_pages, which returned @ret, has not moved."""
    if ret < 0:
        return ret
    return -EBUSY if page.zone.kernel.has(BAD_PAGE_IS_BUSY) else -EIO


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
        return _not_moved(page, ret)
    # The old page may be in a vector still, or on a per-CPU list.
    if not taken_blocks.is_free_buddy_page(page):
        swap.lru_add_drain_all(kernel)
    if not taken_blocks.is_free_buddy_page(page):
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
