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

_BAD_HUGE = PG_hwpoison | PG_hugetlb  # taken out of its pool with a reference


def references(view: View) -> Iterator[Violation]:
    """_count: ptes, tree slots, private data, per-CPU vectors, pins."""
    ballooned = balloon_pfns(view)
    for page in view.used():  # the oracle "frames" has the others
        pfn = page.pfn
        if pfn == view.huge_zero_pfn:
            continue  # the oracle "huge pages" has it
        counted_elsewhere = pfn in ballooned or page.flags & PG_hugetlb
        named = {
            "ptes": len(view.mapped.get(pfn, ())),
            "cache": len(view.slots.get(pfn, ())),
            "private": 1 if page.flags & PAGE_FLAGS_PRIVATE and not counted_elsewhere else 0,
            "balloon": 1 if pfn in ballooned else 0,
            "vectors": view.vectors[pfn],
            "contiguous": 1 if pfn in view.contiguous else 0,
            "nobody, for it is bad": page.flags & _BAD_HUGE == _BAD_HUGE,
            "pins": sum(view.pins[part] for part in range(pfn, pfn + size_of(page))),
        }
        if page._count != sum(named.values()):
            words = ", ".join(f"{count} {name}" for name, count in named.items() if count)
            yield Violation(
                "references",
                repr(page),
                f"_count {page._count}, named {sum(named.values())} ({words or 'nobody'})",
            )


def size_of(page: Page) -> int:
    """How many frames the page begins: its own, or those of a compound page."""
    return 1 << compound_order(page)


def mapcounts(view: View) -> Iterator[Violation]:
    """_mapcount: the ptes that map the page."""
    for page in view.used():
        if page._mapcount != PAGE_BALLOON_MAPCOUNT_VALUE:
            ptes = len(view.mapped.get(page.pfn, ()))
            if page._mapcount + 1 != ptes:
                yield Violation(
                    "mapcount", repr(page), f"mapcount {page._mapcount + 1}, found {ptes} ptes"
                )
