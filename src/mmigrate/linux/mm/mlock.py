"""Locked memory: areas that are VM_LOCKED, and pages that are PG_mlocked  (mm/mlock.c).

A page is mlocked or munlocked under its lock, so that migration and these two cannot meet;
`munlock_vma_pages_range` clears PG_mlocked of a batch under lru_lock alone, before it takes
the page locks. A huge page is locked as a whole, and counts for all its pages.
"""

from __future__ import annotations

from errno import EINVAL, ENOMEM, EPERM
from typing import Final

from mmigrate.linux.include.mm import (
    FOLL_DUMP,
    FOLL_GET,
    MCL_CURRENT,
    MCL_FUTURE,
    PAGEVEC_SIZE,
    SWAP_AGAIN,
    SWAP_MLOCK,
    VM_LOCKED,
    VM_SPECIAL,
)
from mmigrate.linux.include.mm_types import Mm, Page, Vma
from mmigrate.linux.include.mmzone import Zone
from mmigrate.linux.include.pgtable import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    TASK_SIZE,
    pte_present,
)
from mmigrate.linux.include.sched import Task, capable
from mmigrate.linux.include.switches import MLOCK_BATCHED, MUNLOCK_COUNTS
from mmigrate.linux.include.vmstat import (
    NR_MLOCK,
    UNEVICTABLE_PGCLEARED,
    UNEVICTABLE_PGMLOCKED,
    UNEVICTABLE_PGMUNLOCKED,
    UNEVICTABLE_PGRESCUED,
    UNEVICTABLE_PGSTRANDED,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    ClearPageLRU,
    PageLocked,
    PageLRU,
    PageTransHuge,
    PageUnevictable,
    SetPageLRU,
    SetPageMlocked,
    TestClearPageMlocked,
    TestClearPageUnevictable,
    TestSetPageMlocked,
    hpage_nr_pages,
    lock_page,
    page_lru,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import get_page, page_mapcount
from mmigrate.linux.kernel.percpu import get_cpu_var, put_cpu_var
from mmigrate.linux.kernel.pgtable import find_leaf, ptep_get
from mmigrate.linux.kernel.rwsem import down_write
from mmigrate.linux.kernel.sched import cond_resched
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.straight import small
from mmigrate.linux.mm import gup, memory, mmap, rmap, swap, vmscan
from mmigrate.linux.mm.vmstat import count_vm_event, count_vm_events

MUNLOCKED_AT_A_TIME: Final = 15


def can_do_mlock(task: Task) -> bool:
    """Whether @task may lock anything at all  (mm/mlock.c: can_do_mlock)."""
    return capable(task, "CAP_IPC_LOCK") or mmap.RLIMIT_MEMLOCK != 0


# --- one page ---


@small
def mlock_migrate_page(newpage: Page, page: Page) -> None:
    """Let PG_mlocked follow the contents; both pages are locked.  Migration calls it when
    the last pte is gone and the bit with it, so for a base page nothing is left to do
    (mm/internal.h: mlock_migrate_page)."""
    if TestClearPageMlocked(page):
        nr_pages = hpage_nr_pages(page)
        page.zone.vm_stat[NR_MLOCK] -= nr_pages
        SetPageMlocked(newpage)
        newpage.zone.vm_stat[NR_MLOCK] += nr_pages


def clear_page_mlock(page: Page) -> None:
    """The last pte of a mlocked page is gone: nobody has it locked any more
    (mm/mlock.c: clear_page_mlock)."""
    if not TestClearPageMlocked(page):
        return
    page.zone.vm_stat[NR_MLOCK] -= hpage_nr_pages(page)
    count_vm_event(UNEVICTABLE_PGCLEARED)
    if vmscan.isolate_lru_page(page) == 0:
        vmscan.putback_lru_page(page)
    elif PageUnevictable(page):
        # Somebody has it isolated, and will find the right list.
        count_vm_event(UNEVICTABLE_PGSTRANDED)


def mlock_vma_page(page: Page) -> None:
    """Some area has locked this page, which is mapped there: among the unevictable with it
    (mm/mlock.c: mlock_vma_page)."""
    BUG_ON(not PageLocked(page), "mlock_vma_page of an unlocked page", page)
    if not TestSetPageMlocked(page):
        page.zone.vm_stat[NR_MLOCK] += hpage_nr_pages(page)
        count_vm_event(UNEVICTABLE_PGMLOCKED)
        if vmscan.isolate_lru_page(page) == 0:
            vmscan.putback_lru_page(page)


def munlock_vma_page(page: Page) -> int:
    """An area has unlocked this page: evictable again, unless another area has it locked.
    How many pages come after it if it is huge  (mm/mlock.c: munlock_vma_page)."""
    BUG_ON(not PageLocked(page), "munlock_vma_page of an unlocked page", page)
    zone = page.zone
    # A split could otherwise copy the flag to tails just before it is cleared in the head.
    spin_lock(zone.lru_lock)
    nr_pages = hpage_nr_pages(page)
    if TestClearPageMlocked(page):
        zone.vm_stat[NR_MLOCK] -= nr_pages
        if __munlock_isolate_lru_page(page, True):
            spin_unlock(zone.lru_lock)
            __munlock_isolated_page(page)
            return nr_pages - 1
        __munlock_isolation_failed(page)
    spin_unlock(zone.lru_lock)
    return nr_pages - 1


def munlock_copied_page(page: Page) -> None:
    """A locked area got a copy of this page, and has unlocked it.  Later kernels do so many at a
    time, and have a reference on each until then  (mm/mlock.c: munlock_page of v6.1).
    Differs: it is unlocked at once, only the reference stays."""
    munlock_vma_page(page)
    if not page.zone.kernel.has(MLOCK_BATCHED):
        return
    vector = get_cpu_var(swap.MUNLOCKED)
    swap.put_on_lists(sched.task.cpu)
    get_page(page)
    vector.append(page)
    if len(vector) == MUNLOCKED_AT_A_TIME:
        swap.let_go_of_munlocked(vector)
    put_cpu_var()


def __munlock_isolate_lru_page(page: Page, getpage: bool) -> bool:
    """Off the list; lru_lock is held.  @getpage: the isolation needs a reference of its
    own  (mm/mlock.c: __munlock_isolate_lru_page)."""
    if not PageLRU(page):
        return False
    if getpage:
        get_page(page)
    ClearPageLRU(page)
    swap.del_page_from_lru_list(page, page.zone, page_lru(page))
    return True


def __munlock_isolated_page(page: Page) -> None:
    """Look whether another area has the page locked, and put it back
    (mm/mlock.c: __munlock_isolated_page)."""
    ret = SWAP_AGAIN
    if page_mapcount(page) > 1:  # the one mapping would be ours
        ret = rmap.try_to_munlock(page)
    if ret != SWAP_MLOCK:
        count_vm_event(UNEVICTABLE_PGMUNLOCKED)
    vmscan.putback_lru_page(page)


def __munlock_isolation_failed(page: Page) -> None:
    """Whoever has it isolated will put it on the right list
    (mm/mlock.c: __munlock_isolation_failed)."""
    count_vm_event(UNEVICTABLE_PGSTRANDED if PageUnevictable(page) else UNEVICTABLE_PGMUNLOCKED)


# --- batches of one zone; each page comes with a reference that is dropped ---


def __munlock_pagevec(pages: list[Page], zone: Zone) -> None:
    """Munlock up to a vector of pages with one round of lru_lock
    (mm/mlock.c: __munlock_pagevec).

    Known defect of v3.19: a page whose isolation fails loses PG_mlocked, but stays counted
    in NR_MLOCK.  Linux kernel commit 70feee0e1ef3 ("mlock: fix mlock count can not decrease
    in race condition") (in v4.12).
    """
    isolated: list[Page] = []
    others: list[Page] = []
    failed = 0
    with spin_lock(zone.lru_lock):
        for page in pages:
            if TestClearPageMlocked(page):
                if __munlock_isolate_lru_page(page, False):
                    isolated.append(page)
                    continue
                __munlock_isolation_failed(page)
                failed += 1
            others.append(page)
        zone.vm_stat[NR_MLOCK] -= len(isolated)
        if zone.kernel.has(MUNLOCK_COUNTS):
            zone.vm_stat[NR_MLOCK] -= failed
    # Not under lru_lock: the last reference takes it.
    swap.release_pages(others)

    putback: list[Page] = []
    rescued = 0
    for page in isolated:
        lock_page(page)
        if page_mapcount(page) <= 1 and vmscan.page_evictable(page):
            VM_BUG_ON_PAGE(PageLRU(page), page, "isolated, but on the LRU")
            putback.append(page)
            rescued += TestClearPageUnevictable(page)
            unlock_page(page)
        else:
            get_page(page)  # dropped by putback_lru_page; ours must outlive unlock_page
            __munlock_isolated_page(page)
            unlock_page(page)
            swap.put_page(page)
    if putback:
        _putback_lru_fast(putback, zone, rescued)


def _putback_lru_fast(pages: list[Page], zone: Zone, rescued: int) -> None:
    """Straight onto the lists  (mm/mlock.c: __putback_lru_fast)."""
    count_vm_events(UNEVICTABLE_PGMUNLOCKED, len(pages))
    with spin_lock(zone.lru_lock):
        for page in pages:
            VM_BUG_ON_PAGE(PageLRU(page), page, "added to the LRU twice")
            SetPageLRU(page)
            swap.add_page_to_lru_list(page, zone, page_lru(page))
    swap.release_pages(pages)
    count_vm_events(UNEVICTABLE_PGRESCUED, rescued)


def __munlock_pagevec_fill(pages: list[Page], vma: Vma, zone: Zone, start: int, end: int) -> int:
    """Add the pages that follow the one at @start, while they are present, of the same
    zone, and in the same page table; the address where to go on
    (mm/mlock.c: __munlock_pagevec_fill)."""
    pt = find_leaf(vma.vm_mm, start)
    start += PAGE_SIZE
    if pt is None:
        return start
    end = min(end, (start - PAGE_SIZE & PMD_MASK) + PMD_SIZE)
    ptl = pt.ptl
    with spin_lock(ptl):
        while start < end and len(pages) < PAGEVEC_SIZE:
            pte = ptep_get(pt, start)
            page = memory.vm_normal_page(vma, start, pte) if pte_present(pte) else None
            if page is None or page.zone is not zone:
                break
            get_page(page)
            start += PAGE_SIZE
            pages.append(page)
    return start


def munlock_vma_pages_range(vma: Vma, start: int, end: int) -> None:
    """Clear VM_LOCKED of the area, and munlock the pages of the range; pages under
    migration have lost PG_mlocked already and are passed over
    (mm/mlock.c: munlock_vma_pages_range)."""
    WRITE_ONCE(vma, "vm_flags", vma.vm_flags & ~VM_LOCKED)
    while start < end:
        # FOLL_DUMP keeps the zero page away.
        page = gup.follow_page(vma, start, FOLL_GET | FOLL_DUMP)
        if isinstance(page, Page) and PageTransHuge(page):
            lock_page(page)
            # It may have been split meanwhile: then this was one page only.
            following = munlock_vma_page(page)
            unlock_page(page)
            swap.put_page(page)
            BUG_ON((start >> PAGE_SHIFT) & following != 0, "munlock inside a huge page", vma)
            start += (1 + following) * PAGE_SIZE
        elif isinstance(page, Page):
            pages = [page]
            zone = page.zone
            start = __munlock_pagevec_fill(pages, vma, zone, start, end)
            __munlock_pagevec(pages, zone)
        else:
            start += PAGE_SIZE
        cond_resched()


# --- ranges ---


def mlock_fixup(vma: Vma, prev: Vma | None, start: int, end: int, newflags: int) -> tuple[int, Vma]:
    """Lock or unlock the part of @vma from @start to @end.  (0 or -errno, the area that
    ends where the next step begins)  (mm/mlock.c: mlock_fixup)."""
    mm = vma.vm_mm
    if newflags == vma.vm_flags or vma.vm_flags & VM_SPECIAL:
        return 0, vma
    pgoff = vma.vm_pgoff + ((start - vma.vm_start) >> PAGE_SHIFT)
    merged = mmap.vma_merge(
        mm, prev, start, end, newflags, vma.anon_vma, vma.vm_file, pgoff, vma.vm_policy
    )
    if merged is not None:
        vma = merged
    else:
        if start != vma.vm_start:
            error = mmap.split_vma(mm, vma, start, True)
            if error:
                return error, vma
        if end != vma.vm_end:
            error = mmap.split_vma(mm, vma, end, False)
            if error:
                return error, vma
    pages = (end - start) >> PAGE_SHIFT
    if newflags & VM_LOCKED:
        # Reclaim may still take a page just now; population brings it back.
        mm.locked_vm += pages
        WRITE_ONCE(vma, "vm_flags", newflags)
    else:
        mm.locked_vm -= pages
        munlock_vma_pages_range(vma, start, end)
    return 0, vma


def do_mlock(mm: Mm, start: int, length: int, on: bool) -> int:
    """Lock or unlock a range that must be mapped without holes.  What was done before an
    error stays done  (mm/mlock.c: do_mlock)."""
    end = start + length
    if end > 1 << 64:
        return -EINVAL
    if end == start:
        return 0
    vma = mmap.find_vma(mm, start)
    if vma is None or vma.vm_start > start:
        return -ENOMEM
    prev = vma if start > vma.vm_start else mmap.vma_prev(vma)
    while True:
        newflags = vma.vm_flags & ~VM_LOCKED | (VM_LOCKED if on else 0)
        error, prev = mlock_fixup(vma, prev, start, min(vma.vm_end, end), newflags)
        if error:
            return error
        start = prev.vm_end
        if start >= end:
            return 0
        following = mmap.vma_next(prev)
        if following is None or following.vm_start != start:
            return -ENOMEM
        vma = following


def sys_mlock(task: Task, start: int, length: int) -> int:
    """The system call mlock: lock a range and fault it in  (mm/mlock.c: sys_mlock)."""
    if not can_do_mlock(task):
        return -EPERM
    mm = task.mm
    assert mm is not None
    swap.lru_add_drain_all(mm.kernel)
    length = mmap.page_align(length + (start & ~PAGE_MASK))
    start &= PAGE_MASK
    error = -ENOMEM
    with down_write(mm.mmap_sem):
        if mmap.may_lock_more(task, (length >> PAGE_SHIFT) + mm.locked_vm):
            error = do_mlock(mm, start, length, True)
    if error:
        return error
    return gup.__mm_populate(start, length, False)


def sys_munlock(task: Task, start: int, length: int) -> int:
    """The system call munlock  (mm/mlock.c: sys_munlock)."""
    mm = task.mm
    assert mm is not None
    length = mmap.page_align(length + (start & ~PAGE_MASK))
    with down_write(mm.mmap_sem):
        return do_mlock(mm, start & PAGE_MASK, length, False)


def do_mlockall(mm: Mm, flags: int) -> int:
    """Lock what is mapped, what will be mapped, or unlock all; always 0
    (mm/mlock.c: do_mlockall)."""
    if flags & MCL_FUTURE:
        mm.def_flags |= VM_LOCKED
    else:
        mm.def_flags &= ~VM_LOCKED
    if flags == MCL_FUTURE:
        return 0
    on = VM_LOCKED if flags & MCL_CURRENT else 0
    prev: Vma | None = None
    vma = mm.mmap[0] if mm.mmap else None
    while vma is not None:
        newflags = vma.vm_flags & ~VM_LOCKED | on
        _, prev = mlock_fixup(vma, prev, vma.vm_start, vma.vm_end, newflags)
        vma = mmap.vma_next(prev)
    return 0


def sys_mlockall(task: Task, flags: int) -> int:
    """The system call mlockall  (mm/mlock.c: sys_mlockall)."""
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE):
        return -EINVAL
    if not can_do_mlock(task):
        return -EPERM
    mm = task.mm
    assert mm is not None
    if flags & MCL_CURRENT:
        swap.lru_add_drain_all(mm.kernel)
    with down_write(mm.mmap_sem):
        if flags & MCL_CURRENT and not mmap.may_lock_more(task, mm.total_vm):
            return -ENOMEM
        do_mlockall(mm, flags)
    if flags & MCL_CURRENT:
        gup.__mm_populate(0, TASK_SIZE, True)
    return 0


def sys_munlockall(task: Task) -> int:
    """The system call munlockall  (mm/mlock.c: sys_munlockall)."""
    mm = task.mm
    assert mm is not None
    with down_write(mm.mmap_sem):
        return do_mlockall(mm, 0)
