"""Every frame is free exactly once, or somebody's; free ones carry nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain

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


def frames(view: View) -> Iterator[Violation]:
    """Free exactly once or allocated; free memory as counted."""
    free, pooled = view.free, view.pooled
    there: dict[Zone, int] = {}  # frames in free blocks, and pages outside of them
    times = 0  # that a page is free
    for zone in view.zones:
        last = total = 0
        for start, end in view.free_ranges[zone]:
            if start < last:
                yield Violation("frames", f"pfn {start}", "in two free blocks, expected in one")
            last = end
            total += end - start
        in_block, on_list = view.in_blocks[zone], view.on_lists[zone]
        there[zone] = total + len(in_block.union(on_list)) - len(in_block)
        times += len(in_block) + len(on_list)
        for _, order, kind in view.free_blocks[zone]:
            if kind == MIGRATE_ISOLATE:
                total -= 1 << order
        if total != zone.vm_stat[NR_FREE_PAGES]:
            yield Violation(
                "frames",
                repr(zone),
                f"nr_free_pages {zone.vm_stat[NR_FREE_PAGES]}, found {total}",
            )
    for page in view.flagged:
        if page.flags & PG_reserved and page in free and page not in view.in_blocks[page.zone]:
            there[page.zone] -= 1
    # what is free once, is not odd, and in no pool, is in order
    often: dict[Page, int] = {}
    pages = view.odd
    if times != len(free) or pooled:
        pages = view.pages
        often = Counter(chain(*view.in_blocks.values(), *view.on_lists.values()))
    for page in pages:
        if page not in free:
            if not page.flags & PG_reserved:
                there[page.zone] += 1
            if not (
                page._count or _head_count(page) or page.pfn in pooled or page.flags & _OUT_OF_USE
            ):
                yield Violation("frames", repr(page), "lost: neither free nor referenced")
        elif often.get(page, 0) > 1:
            yield Violation("frames", repr(page), f"free {often[page]} times, expected once")
        elif page._count:
            yield Violation("frames", repr(page), f"free, with _count {page._count}, expected 0")
        elif page.pfn in pooled:
            yield Violation("frames", repr(page), "free, and in a pool of hugetlb")
    for zone, frames_found in there.items():
        if frames_found != zone.present_pages:
            yield Violation(
                "frames", repr(zone), f"has {zone.present_pages} frames, found {frames_found}"
            )


def _head_count(page: Page) -> int:
    """References on the head of which a page is a tail."""
    head = page.first_page
    return head._count if page.flags & PG_tail and head is not None else 0


def free_pages(view: View) -> Iterator[Violation]:
    """No stray flag, mapping or contents on a free page."""
    for page in view.odd:
        if page._count or page.flags & PG_hwpoison:
            continue  # bad memory: whoever let go of it last has dropped it as it was
        if not _head_count(page) and page.pfn not in view.pooled:
            stray = page.flags & PAGE_FLAGS_CHECK_AT_FREE & ~_OUT_OF_USE
            if stray:
                yield Violation("free pages", repr(page), f"flags {page_flag_names(stray)}")
            if page.mapping is not None:
                yield Violation("free pages", repr(page), f"has {page.mapping!r}, expected none")
            if page.data is not None:
                yield Violation("free pages", repr(page), "still has contents")
