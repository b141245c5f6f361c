"""Counters of pages with a limit, in a tree: who charges one charges all above it
(mm/page_counter.c)."""

from __future__ import annotations

from typing import Final

from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE, atomic_add
from mmigrate.linux.kernel.bug import WARN_ON_ONCE

PAGE_COUNTER_MAX: Final = (1 << 63) - 1 >> 12


class PageCounter:
    """struct page_counter."""

    __slots__ = ("count", "failcnt", "limit", "parent", "watermark")

    def __init__(self, parent: PageCounter | None) -> None:
        self.parent = parent
        # atomic
        self.count = 0
        self.limit = PAGE_COUNTER_MAX
        self.watermark = 0
        self.failcnt = 0


def page_counter_charge(counter: PageCounter, nr_pages: int) -> None:
    """Charge whatever the limits are  (mm/page_counter.c: page_counter_charge)."""
    c: PageCounter | None = counter
    while c is not None:
        atomic_add(nr_pages, c, "count")
        c.watermark = max(c.watermark, c.count)
        c = c.parent


def page_counter_try_charge(counter: PageCounter, nr_pages: int) -> PageCounter | None:
    """Charge a counter and all above it, or none; the one whose limit is in the way
    (mm/page_counter.c: page_counter_try_charge)."""
    c: PageCounter | None = counter
    while c is not None:
        # Added first and taken back: somebody small may fail while somebody large is
        # tried, but the limit is never passed unseen.
        atomic_add(nr_pages, c, "count")
        if c.count > c.limit:
            page_counter_cancel(c, nr_pages)
            c.failcnt += 1
            below: PageCounter | None = counter
            while below is not c and below is not None:
                page_counter_cancel(below, nr_pages)
                below = below.parent
            return c
        c.watermark = max(c.watermark, c.count)
        c = c.parent
    return None


def page_counter_cancel(counter: PageCounter, nr_pages: int) -> None:
    """Take pages from this counter alone  (mm/page_counter.c: page_counter_cancel)."""
    atomic_add(-nr_pages, counter, "count")
    WARN_ON_ONCE(counter.count < 0, f"a page counter fell to {counter.count}")


def page_counter_uncharge(counter: PageCounter, nr_pages: int) -> None:
    """Take pages from a counter and all above it  (mm/page_counter.c: page_counter_uncharge)."""
    c: PageCounter | None = counter
    while c is not None:
        page_counter_cancel(c, nr_pages)
        c = c.parent


def page_counter_limit(counter: PageCounter, limit: int) -> bool:
    """Set the limit, unless more than that is charged  (mm/page_counter.c: page_counter_limit)."""
    if int(READ_ONCE(counter, "count")) > limit:
        return False
    old = counter.limit
    WRITE_ONCE(counter, "limit", limit)
    # Somebody may have charged between the look and the store.
    if int(READ_ONCE(counter, "count")) > limit:
        WRITE_ONCE(counter, "limit", old)
        return False
    return True
