"""Trees of pages and the pages in them agree."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm import PAGECACHE_TAG_DIRTY, PAGECACHE_TAG_WRITEBACK
from mmigrate.linux.include.mm_types import AddressSpace, Page
from mmigrate.linux.include.page_flags import PG_dirty, PG_swapcache, PG_writeback


def page_cache(view: View) -> Iterator[Violation]:
    for mapping in view.mappings:
        pages = 0
        for index, page in mapping.page_tree.slots.items():
            if isinstance(page, Page):
                pages += 1
                yield from _slot(mapping, index, page)
        if mapping.nrpages != pages:
            yield Violation(
                "page cache", repr(mapping), f"nrpages {mapping.nrpages}, found {pages}"
            )


def _slot(mapping: AddressSpace, index: int, page: Page) -> Iterator[Violation]:
    where = f"{mapping!r} slot {index}"
    if page.flags & PG_swapcache:
        if page.private != index:
            yield Violation("page cache", where, f"{page!r} has swap entry {page.private:#x}")
        return
    if page.mapping is not mapping or page.index != index:
        yield Violation(
            "page cache", where, f"{page!r} thinks it is in {page.mapping!r} at {page.index}"
        )
    tree = mapping.page_tree
    if (
        page.flags & PG_dirty
        and mapping.backing_dev_info.accounts_dirty
        and not tree.tag_get(index, PAGECACHE_TAG_DIRTY)
    ):
        yield Violation("page cache", where, f"{page!r} is dirty, its slot has no dirty tag")
    if (
        page.flags & PG_writeback
        and mapping.backing_dev_info.accounts_dirty
        and not tree.tag_get(index, PAGECACHE_TAG_WRITEBACK)
    ):
        yield Violation("page cache", where, f"{page!r} is written, its slot has no such tag")
