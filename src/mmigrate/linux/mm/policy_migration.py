"""Moving pages to where a policy wants them: what mbind and migrate_pages(2) do
(mm/mempolicy.c)."""

from __future__ import annotations

from errno import EFAULT, EIO
from typing import Any

from mmigrate.api import Reason
from mmigrate.linux.include.gfp import __GFP_THISNODE, GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.mempolicy import (
    MPOL_MF_DISCONTIG_OK,
    MPOL_MF_INVERT,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
)
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_SYSCALL
from mmigrate.linux.include.mm import VM_HUGETLB
from mmigrate.linux.include.mm_types import Mm, Page, Vma
from mmigrate.linux.include.page_flags import PG_hugetlb
from mmigrate.linux.include.pgtable import (
    PAGE_SHIFT,
    PMD_MASK,
    PMD_SIZE,
    TASK_SIZE,
    pmd_trans_huge,
    pte_pfn,
    pte_present,
)
from mmigrate.linux.include.switches import (
    FAILED_SYSCALL_COUNT,
    KILL_VMA_MIGRATE,
    MBIND_FINDS_HOLES,
    MBIND_KEEPS_POLICY_AT_HAND,
    MIGRATE_TO_THAT_NODE_ONLY,
)
from mmigrate.linux.include.vmstat import NR_ISOLATED_ANON
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.huge_pte import huge_ptep_get
from mmigrate.linux.kernel.page_flags import PageReserved, page_is_file_cache
from mmigrate.linux.kernel.page_ref import page_mapcount
from mmigrate.linux.kernel.pgtable import find_leaf, find_pmds, pmd_get, ptep_get
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.lib.list import ListHead, list_add_tail, list_empty
from mmigrate.linux.lib.nodemask import node_remap, nodes, weight
from mmigrate.linux.mm import (
    huge_split,
    hugetlb_pool,
    memory,
    mempolicy,
    migrate,
    page_alloc,
    rmap,
    vmscan,
)
from mmigrate.linux.mm import vma as areas


def migrate_page_add(page: Page, pagelist: ListHead, flags: int) -> bool:
    """Isolate a page unless others map it too and only exclusive ones are wanted; False if it
    cannot be isolated  (mm/mempolicy.c: migrate_page_add).

    Differs: that is told of later kernels only (migrate_folio_add of v6.7).
    """
    reasons = page.zone.kernel.reasons
    if not flags & MPOL_MF_MOVE_ALL and page_mapcount(page) != 1:
        reasons[page.pfn] = Reason.SHARED
    elif vmscan.isolate_lru_page(page):
        reasons[page.pfn] = Reason.NOT_ON_LRU
        return False
    else:
        list_add_tail(page, pagelist)
        page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += 1
    return True


def queue_pages_range(
    mm: Mm, start: int, end: int, mask: int, flags: int, pagelist: ListHead
) -> int:
    """Collect the pages of a range that are on nodes of @mask (with MPOL_MF_INVERT: that are
    not).  How many could not be isolated, -EFAULT for a hole, -EIO for a misplaced page that may
    not be moved.  mmap_sem is held  (mm/mempolicy.c: queue_pages_range).

    Differs: v3.19 does not tell how many, and its callers here do not ask.
    """
    failed = 0
    first = areas.find_vma(mm, start)
    if first is None:
        return -EFAULT
    position = areas.vma_position(first)
    finds_holes = mm.kernel.has(MBIND_FINDS_HOLES)
    previous: Vma | None = None
    found = mm.mmap[position:]
    for number, vma in enumerate(found):
        if vma.vm_start >= end:
            break
        if finds_holes:
            following = found[number + 1] if number + 1 < len(found) else None
            if not flags & MPOL_MF_DISCONTIG_OK and _hole_at(vma, previous, following, start, end):
                return -EFAULT
        elif not flags & MPOL_MF_DISCONTIG_OK:
            is_last = number + 1 == len(found)
            if is_last and vma.vm_end < end:
                return -EFAULT
            if previous is not None and previous.vm_end < vma.vm_start:
                return -EFAULT
        previous = vma
        if flags & MPOL_MF_STRICT or (
            flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL) and mempolicy.vma_migratable(vma)
        ):
            error = _queue_vma(
                vma, max(start, vma.vm_start), min(end, vma.vm_end), mask, flags, pagelist
            )
            if error < 0:
                return error
            failed += error
    return -EFAULT if finds_holes and previous is None else failed


def _hole_at(vma: Vma, previous: Vma | None, following: Vma | None, start: int, end: int) -> bool:
    """Whether a hole of the range is beside an area  (mm/mempolicy.c: queue_pages_test_walk of
    v5.5)."""
    if previous is None and start < vma.vm_start:
        return True
    return vma.vm_end < end and (following is None or vma.vm_end < following.vm_start)


def _queue_vma(vma: Vma, start: int, end: int, mask: int, flags: int, pagelist: ListHead) -> int:
    """mm/mempolicy.c: queue_pages_pte_range, for all tables of an area."""
    if vma.vm_flags & VM_HUGETLB:
        return _queue_hugetlb(vma, start, end, mask, flags, pagelist)
    failed = 0
    inverted = bool(flags & MPOL_MF_INVERT)
    move = flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)
    while start < end:
        stop = min(end, (start & PMD_MASK) + PMD_SIZE)
        pmds = find_pmds(vma.vm_mm, start)
        pt = None
        if pmds is not None and pmd_get(pmds, start) is not None:
            huge_split.split_huge_page_pmd(vma, start, pmds)
            pt = find_leaf(vma.vm_mm, start)
        if pt is not None:
            ptl = pt.ptl
            with spin_lock(ptl):
                for addr in range(start, stop, 4096):
                    pte = ptep_get(pt, addr)
                    if not pte_present(pte):
                        continue
                    page = memory.vm_normal_page(vma, addr, pte)
                    if page is None or PageReserved(page):
                        continue
                    if bool(mask >> page.zone.nid & 1) == inverted:
                        continue
                    if not move:
                        return -EIO
                    failed += not migrate_page_add(page, pagelist, flags)
            sched.cond_resched()
        start = stop
    return failed


def _queue_hugetlb(
    vma: Vma, start: int, end: int, mask: int, flags: int, pagelist: ListHead
) -> int:
    """Isolate pages of 2 MiB, and count those that could not be; those of 1 GiB are passed
    over, and MPOL_MF_STRICT alone is not heard
    (mm/mempolicy.c: queue_pages_hugetlb_pmd_range)."""
    mm = vma.vm_mm
    failed = 0
    inverted = bool(flags & MPOL_MF_INVERT)
    start &= PMD_MASK
    for addr in range(start, end, PMD_SIZE):
        pmds = find_pmds(mm, addr)
        if pmds is None or not pmd_trans_huge(pmd_get(pmds, addr)):
            continue
        with spin_lock(pmds.ptl):
            entry = huge_ptep_get(pmds, addr)
            if not pte_present(entry):
                continue
            page = mm.kernel.page_of(pte_pfn(entry))
            if bool(mask >> page.zone.nid & 1) == inverted:
                continue
            if flags & MPOL_MF_MOVE_ALL or (flags & MPOL_MF_MOVE and page_mapcount(page) == 1):
                failed += not hugetlb_pool.isolate_huge_page(page, pagelist)
            elif flags & MPOL_MF_MOVE:
                mm.kernel.reasons[page.pfn] = Reason.SHARED
    return failed


def new_node_page(page: Page, node: int, _result: list[Any]) -> Page | None:
    """On @node if possible, else near it  (mm/mempolicy.c: new_node_page)."""
    if page.flags & PG_hugetlb:
        h = hugetlb_pool.page_hstate(page)
        return hugetlb_pool.alloc_huge_page_node(page.zone.kernel, h, node)
    kernel = page.zone.kernel
    gfp = GFP_HIGHUSER_MOVABLE
    if kernel.has(MIGRATE_TO_THAT_NODE_ONLY):
        gfp |= __GFP_THISNODE
    return page_alloc.alloc_pages_exact_node(kernel, node, gfp, 0)


def migrate_to_node(mm: Mm, source: int, dest: int, flags: int) -> int:
    """Move what a process has on one node to another; how many pages could not be moved, or
    -ENOMEM  (mm/mempolicy.c: migrate_to_node)."""
    pagelist = ListHead()
    failed = queue_pages_range(
        mm, mm.mmap[0].vm_start, TASK_SIZE, 1 << source, flags | MPOL_MF_DISCONTIG_OK, pagelist
    )
    if not mm.kernel.has(FAILED_SYSCALL_COUNT):
        failed = 0
    if list_empty(pagelist):
        return failed
    error = migrate.migrate_pages(pagelist, new_node_page, None, dest, MIGRATE_SYNC, MR_SYSCALL)
    if error:
        migrate.putback_movable_pages(pagelist)
    return error if error < 0 else error + failed


def do_migrate_pages(mm: Mm, from_: int, to: int, flags: int) -> int:
    """Move a process' pages between two sets of nodes, pair by pair, so that no page moves
    twice; how many could not be moved, or -ENOMEM  (mm/mempolicy.c: do_migrate_pages)."""
    migrate.migrate_prep(mm.kernel)
    busy = 0
    with down_read(mm.mmap_sem):
        if not mm.kernel.has(KILL_VMA_MIGRATE):
            error = migrate_vmas(mm, from_, to, flags)
            if error:
                return error
        waiting = from_
        while waiting and mm.mmap:
            pair = _next_pair(waiting, from_, to)
            if pair is None:
                break
            source, dest = pair
            waiting &= ~(1 << source)
            error = migrate_to_node(mm, source, dest, flags)
            if error < 0:
                return error
            busy += error
    return busy


def migrate_vmas(mm: Mm, from_: int, to: int, flags: int) -> int:
    """Ask the areas that have a method of their own, before commit 50062175ffc8; the first
    answer that is not 0 ends it  (mm/migrate.c of v3.18: migrate_vmas)."""
    error = 0
    for vma in mm.mmap:
        if vma.vm_ops is not None and vma.vm_ops.migrate is not None:
            error = vma.vm_ops.migrate(vma, from_, to, flags)
            if error:
                break
    return error


def _next_pair(waiting: int, from_: int, to: int) -> tuple[int, int] | None:
    """The next source and destination: best one whose destination need not be emptied
    itself first."""
    pair = None
    for node in nodes(waiting):
        if weight(from_) != weight(to) and to >> node & 1:
            continue
        dest = node_remap(node, from_, to)
        if dest == node:
            continue
        pair = node, dest
        if not waiting >> dest & 1:
            break
    return pair


def new_page(page: Page, start: int, _result: list[Any]) -> Page | None:
    """Where the policy of the area that maps @page wants it  (mm/mempolicy.c: new_page)."""
    mm = sched.task.mm
    assert mm is not None
    vma = areas.find_vma(mm, start)
    while vma is not None:
        address = rmap.page_address_in_vma(page, vma)
        if address is not None:
            if page.flags & PG_hugetlb:
                return hugetlb_pool.alloc_huge_page_noerr(vma, address, True)
            return mempolicy.alloc_page_vma(GFP_HIGHUSER_MOVABLE, vma, address)
        vma = areas.vma_next(vma)
    BUG_ON(bool(page.flags & PG_hugetlb), "no area has this page of hugetlb", page)
    # A merged page has no address that could be told from the page.
    first = areas.find_vma(mm, start)
    if first is not None and mm.kernel.has(MBIND_KEEPS_POLICY_AT_HAND):
        address = first.vm_start + ((page.index - first.vm_pgoff) << PAGE_SHIFT)
        return mempolicy.alloc_page_vma(GFP_HIGHUSER_MOVABLE, first, address)
    return mempolicy.alloc_page_vma(GFP_HIGHUSER_MOVABLE, None, 0)
