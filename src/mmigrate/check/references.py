"""The counts of a page agree with those who can be named."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.balloon import balloon_pfns
from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.page_flags import (
    PAGE_BALLOON_MAPCOUNT_VALUE,
    PAGE_FLAGS_PRIVATE,
    PG_hugetlb,
    PG_hwpoison,
)
from mmigrate.linux.mm.page_alloc import compound_order

BY = (
    "ptes",
    "cache",
    "private",
    "balloon",
    "vectors",
    "contiguous",
    "nobody, for it is bad",
    "pins",
)
_BAD_HUGE = PG_hwpoison | PG_hugetlb  # taken out of its pool with a reference


def references(view: View) -> Iterator[Violation]:
    """_count: ptes, tree slots, private data, per-CPU vectors, pins."""
    ballooned = balloon_pfns(view)
    mapped, slots, vectors = view.mapped, view.slots, view.vectors
    for page in view.used:  # the oracle "frames" has the others
        pfn = page.pfn
        if pfn == view.huge_zero_pfn:
            continue  # the oracle "huge pages" has it
        flags = page.flags
        counted_elsewhere = pfn in ballooned or flags & PG_hugetlb
        named = (
            len(mapped.get(pfn, ())),
            len(slots.get(pfn, ())),
            1 if flags & PAGE_FLAGS_PRIVATE and not counted_elsewhere else 0,
            1 if pfn in ballooned else 0,
            vectors.get(pfn, 0),
            1 if pfn in view.contiguous else 0,
            1 if flags & _BAD_HUGE == _BAD_HUGE else 0,
            _pins(view, page) if view.pins else 0,
        )
        if page._count != sum(named):
            words = ", ".join(f"{count} {by}" for by, count in zip(BY, named, strict=True) if count)
            yield Violation(
                "references",
                repr(page),
                f"_count {page._count}, named {sum(named)} ({words or 'nobody'})",
            )


def _pins(view: View, page: Page) -> int:
    """Those of all frames that the page begins: its own, or those of a compound page."""
    end = page.pfn + (1 << compound_order(page))
    return sum([view.pins.get(pfn, 0) for pfn in range(page.pfn, end)])


def mapcounts(view: View) -> Iterator[Violation]:
    """_mapcount: the ptes that map the page."""
    for page in view.used:
        if page._mapcount != PAGE_BALLOON_MAPCOUNT_VALUE:
            ptes = len(view.mapped.get(page.pfn, ()))
            if page._mapcount + 1 != ptes:
                yield Violation(
                    "mapcount", repr(page), f"mapcount {page._mapcount + 1}, found {ptes} ptes"
                )
