"""Every frame is free exactly once, or somebody's; free ones carry nothing."""

from __future__ import annotations

from bisect import bisect_right
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
from mmigrate.linux.mm.page_alloc import free_blocks, pcp_pages

_OUT_OF_USE = PG_hwpoison | PG_reserved  # the oracle "out of use" has them


def zones(view: View) -> Iterator[Zone]:
    for node in view.kernel.nodes:
        yield from node.node_zones
        yield from node.empty_zones


class FreeFrames:
    """The free blocks of a zone, and which page lies in one."""

    def __init__(self, zone: Zone) -> None:
        found = list(free_blocks(zone))
        self.blocks = sorted((pfn, pfn + (1 << order)) for pfn, order, _ in found)
        self.isolated = sum(1 << order for _, order, kind in found if kind == MIGRATE_ISOLATE)
        self.blocks += sorted(zone.untouched)
        self.blocks.sort()
        self.starts = [start for start, _ in self.blocks]
        self.pcp = [page.pfn for page in pcp_pages(zone)]
        self.in_pcp = set(self.pcp)

    def in_block(self, pfn: int) -> bool:
        position = bisect_right(self.starts, pfn) - 1
        return position >= 0 and pfn < self.blocks[position][1]

    def times(self, pfn: int) -> int:
        in_block = int(self.in_block(pfn))
        return in_block + self.pcp.count(pfn) if pfn in self.in_pcp else in_block


def frames(view: View) -> Iterator[Violation]:
    """Free exactly once or allocated; free memory as counted."""
    free = {zone: FreeFrames(zone) for zone in zones(view)}
    for zone, found in free.items():
        for (_, end), (start, _) in zip(found.blocks, found.blocks[1:], strict=False):
            if start < end:
                yield Violation("frames", f"pfn {start}", "in two free blocks, expected in one")
        total = sum(end - start for start, end in found.blocks) - found.isolated
        if total != zone.vm_stat[NR_FREE_PAGES]:
            yield Violation(
                "frames", repr(zone), f"nr_free_pages {zone.vm_stat[NR_FREE_PAGES]}, found {total}"
            )
    outside = dict.fromkeys(free, 0)
    for page in view.pages():
        times = free[page.zone].times(page.pfn)
        if not page.flags & PG_reserved and not free[page.zone].in_block(page.pfn):
            outside[page.zone] += 1
        if times > 1:
            yield Violation("frames", repr(page), f"free {times} times, expected once")
        elif times and page._count:
            yield Violation("frames", repr(page), f"free, with _count {page._count}, expected 0")
        elif times and page.pfn in view.pooled:
            yield Violation("frames", repr(page), "free, and in a pool of hugetlb")
        elif not (
            times
            or page._count
            or _head_count(page)
            or page.pfn in view.pooled
            or page.flags & _OUT_OF_USE
        ):
            yield Violation("frames", repr(page), "lost: neither free nor referenced")
    for zone, found in free.items():
        there = outside[zone] + sum(end - start for start, end in found.blocks)
        if there != zone.present_pages:
            yield Violation("frames", repr(zone), f"has {zone.present_pages} frames, found {there}")


def _head_count(page: Page) -> int:
    """References on the head of which a page is a tail."""
    head = page.first_page
    return head._count if page.flags & PG_tail and head is not None else 0


def free_pages(view: View) -> Iterator[Violation]:
    """No stray flag, mapping or contents on a free page."""
    for page in view.pages():
        if page._count == 0 and not _head_count(page) and page.pfn not in view.pooled:
            stray = page.flags & PAGE_FLAGS_CHECK_AT_FREE & ~_OUT_OF_USE
            if stray:
                yield Violation("free pages", repr(page), f"flags {page_flag_names(stray)}")
            if page.mapping is not None:
                yield Violation("free pages", repr(page), f"has {page.mapping!r}, expected none")
            if page.data is not None:
                yield Violation("free pages", repr(page), "still has contents")
