"""The system call move_pages  (mm/migrate.c: do_pages_move, do_pages_stat, SYSCALL move_pages)."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EACCES, EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, EPERM, ESRCH
from typing import Any, Final

from mmigrate.api import Reason
from mmigrate.linux.include.gfp import __GFP_THISNODE, GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mempolicy import MAX_NUMNODES, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_SYSCALL
from mmigrate.linux.include.mm import FOLL_GET, FOLL_SPLIT
from mmigrate.linux.include.mm_types import Mm, Page, PageTable
from mmigrate.linux.include.page_flags import PG_hugetlb, PG_tail
from mmigrate.linux.include.pgtable import is_migration_entry, pte_to_swp_entry
from mmigrate.linux.include.sched import Task, capable
from mmigrate.linux.include.switches import REWORK_DO_PAGES_MOVE, ZERO_PAGE_IS_FAULT
from mmigrate.linux.include.vmstat import NR_ISOLATED_ANON
from mmigrate.linux.kernel.cpuset import cpuset_mems_allowed
from mmigrate.linux.kernel.page_flags import PageReserved, page_is_file_cache
from mmigrate.linux.kernel.page_ref import page_mapcount
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.kernel.straight import hot, small
from mmigrate.linux.lib.list import ListHead, list_add_tail, list_empty
from mmigrate.linux.mm import (
    fork,
    gup,
    hugetlb_pool,
    mempolicy,
    migrate,
    mmap,
    move_pages_later,
    page_alloc,
    swap,
    vmscan,
)

CHUNK: Final = 169  # entries of 24 bytes in a page, less the end marker
STAT_CHUNK: Final = 16


class PageToNode:
    """One entry of a chunk  (struct page_to_node)."""

    __slots__ = ("addr", "node", "page", "reason", "status")

    def __init__(self) -> None:
        self.addr = 0
        self.node = 0
        self.page: Page | None = None
        self.status = 0
        self.reason: Reason | None = None


def sys_move_pages(
    task: Task,
    pid: int,
    addresses: Sequence[int],
    nodes: Sequence[int] | None,
    status: list[int],
    flags: int,
    reasons: list[Reason | None] | None = None,
) -> int:
    """Move pages of a process, or say where they are.

    @nodes: one a page, or None to ask.  @status: filled in as far as the call came.
    @reasons: likewise, why a page stayed.
    0, or -EINVAL, -EPERM, -ESRCH, -ENODEV, -EACCES, -ENOMEM  (mm/migrate.c: move_pages).
    """
    kernel = task.kernel
    if flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        return -EINVAL
    if flags & MPOL_MF_MOVE_ALL and not capable(task, "CAP_SYS_NICE"):
        return -EPERM
    target = find_task(task, pid)
    if target is None:
        return -ESRCH
    if not may_move_memory_of(task, target):
        return -EPERM
    task_nodes = cpuset_mems_allowed(target)
    mm = target.mm
    if mm is None:
        return -EINVAL
    fork.mmget(mm)  # get_task_mm: it may exit meanwhile
    try:
        if nodes is None:
            return do_pages_stat(mm, addresses, status)
        migrate_all = bool(flags & MPOL_MF_MOVE_ALL)
        if kernel.has(REWORK_DO_PAGES_MOVE):
            return move_pages_later.do_pages_move(
                kernel, mm, task_nodes, addresses, nodes, status, migrate_all, reasons
            )
        return do_pages_move(kernel, mm, task_nodes, addresses, nodes, status, migrate_all, reasons)
    finally:
        fork.mmput(mm)


def find_task(task: Task, pid: int) -> Task | None:
    """The task of @pid, 0 for @task itself; None if there is none."""
    if pid == 0:
        return task
    return next((other for other in task.kernel.tasks if other.pid == pid), None)


def may_move_memory_of(task: Task, target: Task) -> bool:
    """The rule of move_pages and migrate_pages: same user, or CAP_SYS_NICE."""
    mine, theirs = task.cred, target.cred
    return (
        mine.euid in (theirs.suid, theirs.uid)
        or mine.uid in (theirs.suid, theirs.uid)
        or capable(task, "CAP_SYS_NICE")
    )


def do_pages_move(
    kernel: Kernel,
    mm: Mm,
    task_nodes: int,
    addresses: Sequence[int],
    nodes: Sequence[int],
    status: list[int],
    migrate_all: bool,
    reasons: list[Reason | None] | None,
) -> int:
    """Chunk by chunk; a bad node ends the call before its chunk is touched
    (mm/migrate.c: do_pages_move)."""
    # The array is one page that is used again for each chunk, stale entries and all.
    # Differs: it begins empty, where the kernel's begins with what the page held.
    array = [PageToNode() for _ in range(min(CHUNK, len(addresses)))]
    migrate.migrate_prep(kernel)
    good: int | None = None  # a node that has been found to be allowed
    for first in range(0, len(addresses), CHUNK):
        chunk = array[: len(addresses) - first]
        for position, pm in enumerate(chunk, first):
            node = nodes[position]
            if node != good:
                if not 0 <= node < MAX_NUMNODES or not kernel.node_states_memory >> node & 1:
                    return -ENODEV
                if not task_nodes >> node & 1:
                    return -EACCES
                good = node
            pm.addr = addresses[position]
            pm.node = node
        error = do_move_page_to_node_array(mm, chunk, migrate_all)
        if error < 0:
            return error
        for position, pm in enumerate(chunk, first):
            status[position] = pm.status
            if reasons is not None and pm.status < 0:
                reasons[position] = _reason(kernel, pm)
    return 0


@hot
def do_move_page_to_node_array(mm: Mm, chunk: list[PageToNode], migrate_all: bool) -> int:
    """Isolate what can move of one chunk, and migrate it; mmap_sem is read-held throughout
    (mm/migrate.c: do_move_page_to_node_array)."""
    pagelist = ListHead()
    with down_read(mm.mmap_sem):
        for pm in chunk:
            pm.reason = None
            pm.status = _queue(mm, pm, migrate_all, pagelist)
        if list_empty(pagelist):
            return 0
        slots: dict[Page | None, PageToNode] = {}
        for pm in chunk:  # the first entry that names a page gets its result
            slots.setdefault(pm.page, pm)
        error = migrate.migrate_pages(
            pagelist, new_page_node, None, slots, MIGRATE_SYNC, MR_SYSCALL
        )
        if error:
            migrate.putback_movable_pages(pagelist)
        return error


@small
def _queue(mm: Mm, pm: PageToNode, migrate_all: bool, pagelist: ListHead) -> int:
    """Isolate the page of one entry; its status so far."""
    vma = mmap.find_vma(mm, pm.addr)
    if vma is None or pm.addr < vma.vm_start:
        pm.reason = Reason.NO_AREA
        return -EFAULT
    if not mempolicy.vma_migratable(vma):
        pm.reason = Reason.NOT_MIGRATABLE
        return -EFAULT
    page = gup.follow_page(vma, pm.addr, FOLL_GET | FOLL_SPLIT)
    if page is None:
        pm.reason = why_no_page(mm, pm.addr)
        return -ENOENT
    if isinstance(page, int):
        pm.reason = Reason.DEVICE
        return page
    status = 0
    if PageReserved(page):
        pm.reason = Reason.ZERO_PAGE
        status = -ENOENT
    else:
        pm.page = page
        nid = page.zone.nid
        if nid == pm.node:
            status = nid
        elif not migrate_all and page_mapcount(page) > 1:
            pm.reason = Reason.SHARED
            status = -EACCES
        elif page.flags & (PG_hugetlb | PG_tail):
            status = -EACCES  # what an isolation that failed leaves
            if page.flags & PG_hugetlb:
                hugetlb_pool.isolate_huge_page(page, pagelist)
        elif vmscan.isolate_lru_page(page):
            pm.reason = Reason.NOT_ON_LRU
            status = -EBUSY
        else:
            list_add_tail(page, pagelist)
            page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += 1
    swap.put_page(page)
    return status


@small
def new_page_node(
    page: Page, slots: dict[Page | None, PageToNode], result: list[Any]
) -> Page | None:
    """A page on the node that was asked for  (mm/migrate.c: new_page_node)."""
    pm = slots.get(page)
    if pm is None:
        return None
    result[0] = pm
    if page.flags & PG_hugetlb:
        h = hugetlb_pool.page_hstate(page)
        return hugetlb_pool.alloc_huge_page_node(page.zone.kernel, h, pm.node)
    return page_alloc.alloc_pages_exact_node(
        page.zone.kernel, pm.node, GFP_HIGHUSER_MOVABLE | __GFP_THISNODE, 0
    )


def do_pages_stat(mm: Mm, addresses: Sequence[int], status: list[int]) -> int:
    """Where pages are  (mm/migrate.c: do_pages_stat)."""
    for first in range(0, len(addresses), STAT_CHUNK):
        with down_read(mm.mmap_sem):
            for position in range(first, min(first + STAT_CHUNK, len(addresses))):
                status[position] = _stat(mm, addresses[position])
    return 0


def _stat(mm: Mm, addr: int) -> int:
    vma = mmap.find_vma(mm, addr)
    if vma is None or addr < vma.vm_start:
        return -EFAULT
    if mm.kernel.has(ZERO_PAGE_IS_FAULT):
        found = move_pages_later.follow(vma, addr, 0)
        return found if isinstance(found, int) else found.zone.nid
    page = gup.follow_page(vma, addr, 0)
    if isinstance(page, int):
        return page
    return -ENOENT if page is None or PageReserved(page) else page.zone.nid


# --- for people: why a page stayed ---


def why_no_page(mm: Mm, addr: int) -> Reason:
    """What stands at an address where no page is; looks without announcing, and no
    decision hangs on it."""
    table: Any = mm.pgd
    for shift in (39, 30, 21):
        table = table.entries[(addr >> shift) & 511]
        if type(table) is not PageTable:
            return Reason.NOT_PRESENT
    pte = table.entries[(addr >> 12) & 511]
    if pte == 0:
        return Reason.NOT_PRESENT
    return Reason.MIGRATING if is_migration_entry(pte_to_swp_entry(pte)) else Reason.SWAPPED


def _reason(kernel: Kernel, pm: PageToNode) -> Reason:
    if pm.reason is not None:
        return pm.reason
    if pm.page is None:
        return Reason.UNKNOWN
    return kernel.reasons.get(pm.page.pfn, Reason.UNKNOWN)
