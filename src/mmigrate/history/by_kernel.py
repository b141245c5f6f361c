"""What the scenarios of the catalogue share: migration by the kernel itself, which moves pages
of others without their mmap_sem, as compaction and hot-remove do; and single steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmigrate.linux.include.gfp import __GFP_THISNODE, GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC, MIGRATE_SYNC, MR_COMPACTION
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.vmstat import NR_ISOLATED_ANON
from mmigrate.linux.kernel.page_flags import page_is_file_cache
from mmigrate.linux.kernel.page_ref import get_page_unless_zero
from mmigrate.linux.kernel.tlb import user_access
from mmigrate.linux.lib.list import ListHead, list_add, list_add_tail, list_del, list_empty
from mmigrate.linux.mm import migrate, page_alloc, swap, vmscan

TO_THE_OTHER: int = GFP_HIGHUSER_MOVABLE | __GFP_THISNODE


def move_by_kernel(machine: Any, pages: Iterable[Page], node: int = 1) -> int:
    """Isolate pages and migrate them to @node; how many stayed.  The per-CPU vectors must be
    empty: drain them before."""

    def get_new_page(page: Page, _private: Any, _result: list[Any]) -> Page | None:
        return page_alloc.alloc_pages_exact_node(page.zone.kernel, node, TO_THE_OTHER, 0)

    pagelist = isolate(pages)
    if list_empty(pagelist):
        return 0
    stayed = migrate.migrate_pages(pagelist, get_new_page, None, None, MIGRATE_SYNC, MR_COMPACTION)
    migrate.putback_movable_pages(pagelist)
    return stayed


def try_once(machine: Any, page: Page, node: int = 1) -> int:
    """One pass of one page, which goes back to its list whatever comes of it: 0, or why it
    stayed.  What `move_by_kernel` does up to ten times."""

    def get_new_page(page: Page, _private: Any, _result: list[Any]) -> Page | None:
        return page_alloc.alloc_pages_exact_node(page.zone.kernel, node, TO_THE_OTHER, 0)

    pagelist = isolate([page])
    if list_empty(pagelist):
        return 0
    rc = migrate.unmap_and_move(get_new_page, None, None, page, False, MIGRATE_ASYNC)
    migrate.putback_movable_pages(pagelist)
    return rc


def store_once(process: Any, address: int, data: bytes) -> bool:
    """One store of a user program, which gives up where the hardware faults; whether it was
    done."""
    with process.running() as task:

        def store(page: Page) -> None:
            process.store(page, address, data)

        return user_access(task, address, True, store)


def isolate(pages: Iterable[Page]) -> ListHead:
    """The pages that are on an LRU list, taken off it."""
    pagelist = ListHead()
    for page in pages:
        if not get_page_unless_zero(page):
            continue
        if vmscan.isolate_lru_page(page) == 0:
            list_add_tail(page, pagelist)
            page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += 1
        swap.put_page(page)
    return pagelist


class Destinations:
    """A caller's own list of free pages, as compaction has one.

    @drawn: how often a page was taken from it.
    """

    def __init__(self, machine: Any, count: int, node: int = 1) -> None:
        self.free = ListHead()
        self.drawn = 0
        for _ in range(count):
            page = page_alloc.alloc_pages_exact_node(machine.kernel, node, TO_THE_OTHER, 0)
            assert page is not None
            list_add_tail(page, self.free)

    def get(self, _page: Page, _private: Any, _result: list[Any]) -> Page | None:
        """The first of the list."""
        if list_empty(self.free):
            return None
        page: Page = self.free.next
        list_del(page)
        self.drawn += 1
        return page

    def put(self, page: Page, _private: Any) -> None:
        """Back to the front of the list."""
        list_add(page, self.free)

    def migrate(self, pages: Iterable[Page]) -> int:
        """Move pages to what is on the list; how many stayed."""
        pagelist = isolate(pages)
        stayed = migrate.migrate_pages(
            pagelist, self.get, self.put, None, MIGRATE_SYNC, MR_COMPACTION
        )
        migrate.putback_movable_pages(pagelist)
        return stayed

    def release(self) -> None:
        """Free what is left on the list."""
        for page in self.free:
            list_del(page)
            swap.put_page(page)
