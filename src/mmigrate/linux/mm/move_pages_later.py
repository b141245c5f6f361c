"""move_pages(2) as kernels after v3.19 do it  (mm/migrate.c of v4.17 and later).

Since `REWORK_DO_PAGES_MOVE` pages go in runs with the same node, each moved as soon as a run ends;
if pages of a run cannot be moved the call ends, and says how many pages are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EACCES, EBUSY, EFAULT, ENODEV, ENOENT
from typing import Any, Final

from mmigrate.api import Reason
from mmigrate.linux.include.gfp import __GFP_THISNODE, GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mempolicy import MAX_NUMNODES
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_SYSCALL
from mmigrate.linux.include.mm import (
    FOLL_DUMP,
    FOLL_GET,
    FOLL_SPLIT,
)
from mmigrate.linux.include.mm_types import Mm, Page, Vma
from mmigrate.linux.include.page_flags import PG_hugetlb, PG_tail
from mmigrate.linux.include.switches import (
    COUNT_NOT_ATTEMPTED,
    FOLIO_WALK,
    LRU_CACHE_DISABLED,
    ZERO_PAGE_IS_FAULT,
)
from mmigrate.linux.include.vmstat import NR_ISOLATED_ANON
from mmigrate.linux.kernel.page_flags import PageReserved, page_is_file_cache
from mmigrate.linux.kernel.page_ref import page_mapcount
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.lib.list import ListHead, list_add_tail, list_empty
from mmigrate.linux.mm import (
    gup,
    hugetlb_pool,
    mempolicy,
    migrate,
    mmap,
    move_pages,
    page_alloc,
    swap,
    vmscan,
)

_QUEUED: Final = 1
_NO_NODE: Final = -1


def follow(vma: Vma, addr: int, flags: int) -> Page | int:
    """The page at an address, or why there is none: -EFAULT for the page of zeroes, and before
    FOLIO_WALK for private memory that was never touched."""
    kernel = vma.vm_mm.kernel
    if not kernel.has(ZERO_PAGE_IS_FAULT):
        page = gup.follow_page(vma, addr, flags)
        if isinstance(page, Page) and PageReserved(page):
            return _given_back(page, flags, -ENOENT)
    elif kernel.has(FOLIO_WALK):
        page = gup.follow_page(vma, addr, flags)
        if isinstance(page, Page) and PageReserved(page):
            return _given_back(page, flags, -EFAULT)
    elif gup.hides_pages(vma):
        nothing = move_pages.why_no_page(vma.vm_mm, addr) is Reason.NOT_PRESENT
        return -EFAULT if nothing and vma.vm_ops is None else -ENOENT
    else:
        page = gup.follow_page(vma, addr, flags | FOLL_DUMP)
    return -ENOENT if page is None else page


def _given_back(page: Page, flags: int, status: int) -> int:
    if flags & FOLL_GET:
        swap.put_page(page)
    return status


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
    """0, how many pages were not moved, or -ENODEV, -EACCES, -ENOMEM
    (mm/migrate.c: do_pages_move)."""
    migrate.migrate_prep(kernel)
    run = _Run(kernel, mm, addresses, status, reasons)
    error = 0
    number = 0
    for number, addr in enumerate(addresses):
        node = nodes[number]
        if not 0 <= node < MAX_NUMNODES or not kernel.node_states_memory >> node & 1:
            error = -ENODEV
            break
        if not task_nodes >> node & 1:
            error = -EACCES
            break
        if run.node == _NO_NODE:
            run.begin(node, number)
        elif node != run.node:
            error = run.move(number)
            if error:
                return error
            run.begin(node, number)
        found = run.add(addr, number, migrate_all)
        if found == _QUEUED:
            continue
        status[number] = run.node if found == 0 else found
        error = run.move(number)
        if error:
            # Page @number has a status and is counted with those that were not attempted.
            return error - 1 if error > 0 and kernel.has(COUNT_NOT_ATTEMPTED) else error
        run.node = _NO_NODE
    else:
        number = len(addresses)
    last = run.move(number)
    return last if error >= 0 else error


class _Run:
    """Pages that follow each other in the list and have one destination."""

    def __init__(
        self,
        kernel: Kernel,
        mm: Mm,
        addresses: Sequence[int],
        status: list[int],
        reasons: list[Reason | None] | None,
    ) -> None:
        self.kernel = kernel
        self.mm = mm
        self.total = len(addresses)
        self.status = status
        self.reasons = reasons
        self.node = _NO_NODE
        self.start = 0
        self.pages: list[tuple[int, Page]] = []
        self.pagelist = ListHead()

    def begin(self, node: int, number: int) -> None:
        self.node, self.start = node, number

    def add(self, addr: int, number: int, migrate_all: bool) -> int:
        """_QUEUED, 0 if it is there already, or an errno
        (mm/migrate.c: add_page_for_migration)."""
        with down_read(self.mm.mmap_sem):
            vma = mmap.find_vma(self.mm, addr)
            if vma is None or addr < vma.vm_start:
                return self._because(number, Reason.NO_AREA, -EFAULT)
            if not mempolicy.vma_migratable(vma):
                return self._because(number, Reason.NOT_MIGRATABLE, -EFAULT)
            # Differs: a huge page is split, as before v4.14.
            page = follow(vma, addr, FOLL_GET | FOLL_SPLIT)
            if isinstance(page, int):
                why = move_pages.why_no_page(self.mm, addr)
                if page == -EFAULT and why is Reason.SWAPPED:
                    why = Reason.ZERO_PAGE
                return self._because(number, why, page)
            found = self._isolate(page, number, migrate_all)
            swap.put_page(page)
            return found

    def _isolate(self, page: Page, number: int, migrate_all: bool) -> int:
        if page.zone.nid == self.node:
            return 0
        if page_mapcount(page) > 1 and not migrate_all:
            return self._because(number, Reason.SHARED, -EACCES)
        if page.flags & (PG_hugetlb | PG_tail):
            if page.flags & PG_tail or not hugetlb_pool.isolate_huge_page(page, self.pagelist):
                return -EACCES
            self.pages.append((number, page))
            return _QUEUED
        if vmscan.isolate_lru_page(page):
            return self._because(number, Reason.NOT_ON_LRU, -EBUSY)
        list_add_tail(page, self.pagelist)
        page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += 1
        self.pages.append((number, page))
        return _QUEUED

    def _because(self, number: int, reason: Reason, error: int) -> int:
        if self.reasons is not None:
            self.reasons[number] = reason
        return error

    def move(self, number: int) -> int:
        """Move what was queued; @number pages of the list have been looked at.  0, how many
        pages are not moved, or -ENOMEM  (mm/migrate.c: move_pages_and_store_status)."""
        if list_empty(self.pagelist):
            return 0
        error = migrate.migrate_pages(
            self.pagelist, _on_node, None, self.node, MIGRATE_SYNC, MR_SYSCALL
        )
        queued, self.pages = self.pages, []
        if error:
            left = {page.pfn for page in self.pagelist}
            if self.reasons is not None:
                for position, page in queued:
                    if page.pfn in left:
                        known = self.kernel.reasons.get(page.pfn, Reason.UNKNOWN)
                        self.reasons[position] = known
            migrate.putback_movable_pages(self.pagelist)
            if error > 0 and self.kernel.has(COUNT_NOT_ATTEMPTED):
                error += self.total - number
            return error
        self.status[self.start : number] = [self.node] * (number - self.start)
        if self.kernel.has(LRU_CACHE_DISABLED):
            migrate.migrate_prep(self.kernel)  # no page waits in a vector meanwhile
        return 0


def _on_node(page: Page, node: int, _result: list[Any]) -> Page | None:
    """A page on @node and on no other  (mm/migrate.c: alloc_migration_target)."""
    if page.flags & PG_hugetlb:
        h = hugetlb_pool.page_hstate(page)
        return hugetlb_pool.alloc_huge_page_node(page.zone.kernel, h, node)
    return page_alloc.alloc_pages_exact_node(
        page.zone.kernel, node, GFP_HIGHUSER_MOVABLE | __GFP_THISNODE, 0
    )
