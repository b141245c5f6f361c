"""Every frame is free exactly once, or somebody's; free ones carry nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.gfp import MIGRATE_ISOLATE
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import Zone
from mmigrate.linux.include.page_flags import (
    PAGE_FLAGS_CHECK_AT_FREE,
    PG_hwpoison,
    PG_reserved,
    PG_tail,
    page_flag_names,
)
from mmigrate.linux.include.vmstat import NR_FREE_PAGES

_OUT_OF_USE = PG_hwpoison | PG_reserved  # the oracle "out of use" has them


class FreeFrames:
    """The free memory of a zone: @blocks, ascending, as (first pfn, last pfn + 1), and its
    @total without that of isolated pageblocks."""

    def __init__(self, view: View, zone: Zone) -> None:
        found = view.free_blocks(zone)
        self.blocks = [(pfn, pfn + (1 << order)) for pfn, order, _ in found]
        self.blocks += zone.untouched
        self.blocks.sort()
        self.isolated = sum(1 << order for _, order, kind in found if kind == MIGRATE_ISOLATE)
        self.frames = sum(end - start for start, end in self.blocks)

    @property
    def total(self) -> int:
        return self.frames - self.isolated


def frames(view: View) -> Iterator[Violation]:
    """Free exactly once or allocated; free memory as counted."""
    pages = view.pages()
    pfns = [page.pfn for page in pages]
    in_block: set[int] = set()  # of their zone
    on_list: dict[int, int] = {}  # how often, of the single pages of a CPU
    free = {zone: FreeFrames(view, zone) for zone in view.zones}
    for zone, found in free.items():
        last = 0
        for start, end in found.blocks:
            if start < last:
                yield Violation("frames", f"pfn {start}", "in two free blocks, expected in one")
            last = end
            first = bisect_left(pfns, start)
            for page in pages[first : bisect_left(pfns, end, first)]:
                if page.zone is zone:
                    in_block.add(page.pfn)
        if found.total != zone.vm_stat[NR_FREE_PAGES]:
            yield Violation(
                "frames",
                repr(zone),
                f"nr_free_pages {zone.vm_stat[NR_FREE_PAGES]}, found {found.total}",
            )
        for pcp in zone.pageset:
            for head in pcp.lists:
                page = head.next
                while page is not head:
                    if page.zone is zone:
                        pfn = page.pfn
                        on_list[pfn] = on_list.get(pfn, 0) + 1
                    page = page.next
    outside = dict.fromkeys(free, 0)
    pooled = view.pooled
    for pfn, page in zip(pfns, pages, strict=True):
        block = pfn in in_block
        if not block and not page.flags & PG_reserved:
            outside[page.zone] += 1
        times = block + on_list.get(pfn, 0)
        if times == 1:
            if page._count:
                yield Violation(
                    "frames", repr(page), f"free, with _count {page._count}, expected 0"
                )
            elif pfn in pooled:
                yield Violation("frames", repr(page), "free, and in a pool of hugetlb")
        elif times:
            yield Violation("frames", repr(page), f"free {times} times, expected once")
        elif not (page._count or _head_count(page) or pfn in pooled or page.flags & _OUT_OF_USE):
            yield Violation("frames", repr(page), "lost: neither free nor referenced")
    for zone, found in free.items():
        there = outside[zone] + found.frames
        if there != zone.present_pages:
            yield Violation("frames", repr(zone), f"has {zone.present_pages} frames, found {there}")


def _head_count(page: Page) -> int:
    """References on the head of which a page is a tail."""
    head = page.first_page
    return head._count if page.flags & PG_tail and head is not None else 0


def free_pages(view: View) -> Iterator[Violation]:
    """No stray flag, mapping or contents on a free page."""
    for page in view.pages():
        if page._count or not (page.flags or page.mapping is not None or page.data is not None):
            continue
        if page.flags & PG_hwpoison:
            continue  # whoever let go of it last has dropped it as it was
        if not _head_count(page) and page.pfn not in view.pooled:
            stray = page.flags & PAGE_FLAGS_CHECK_AT_FREE & ~_OUT_OF_USE
            if stray:
                yield Violation("free pages", repr(page), f"flags {page_flag_names(stray)}")
            if page.mapping is not None:
                yield Violation("free pages", repr(page), f"has {page.mapping!r}, expected none")
            if page.data is not None:
                yield Violation("free pages", repr(page), "still has contents")
