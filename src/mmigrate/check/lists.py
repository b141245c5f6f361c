"""LRU lists: membership, the flag, and the counters."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_head,
    PG_lru,
    PG_swapbacked,
    PG_unevictable,
)
from mmigrate.linux.include.pgtable import HPAGE_PMD_NR
from mmigrate.linux.include.vmstat import (
    LRU_UNEVICTABLE,
    NR_ISOLATED_ANON,
    NR_ISOLATED_FILE,
    NR_LRU_BASE,
    ZONE_STAT_NAMES,
)


def lru(view: View) -> Iterator[Violation]:
    """Each page with PG_lru is once on the list its flags say."""
    on_list: set[int] = set()
    memcg = view.kernel.memcg
    for zone in view.zones:
        for number, head in enumerate(zone.lruvec.lists):
            heads = [head] if head.next is not head else []
            if memcg is not None:
                heads = [group.lruvecs[zone].lists[number] for group in memcg.groups.values()]
            count = 0
            for head in heads:
                page = head.next
                while page is not head and page.pfn not in on_list:
                    on_list.add(page.pfn)
                    count += HPAGE_PMD_NR if page.flags & PG_head else 1
                    if not page.flags & PG_lru:
                        yield Violation("lru", repr(page), "on a list without PG_lru")
                    if page.zone is not zone or list_of(page) != number:
                        yield Violation(
                            "lru",
                            repr(page),
                            f"on list {number} of {zone!r}, expected {list_of(page)}",
                        )
                    page = page.next
                if page is not head:
                    count += HPAGE_PMD_NR if page.flags & PG_head else 1
                    yield Violation("lru", repr(page), "on two lists, expected on one")
                    break
            item = NR_LRU_BASE + number
            if zone.vm_stat[item] != count:
                yield Violation(
                    "lru",
                    repr(zone),
                    f"{ZONE_STAT_NAMES[item]} {zone.vm_stat[item]}, found {count}",
                )
    for page in view.flagged:
        if page.flags & PG_lru and page.pfn not in on_list:
            yield Violation("lru", repr(page), "PG_lru, and on no list")


def list_of(page: Page) -> int:
    """The number of the LRU list a page belongs on."""
    if page.flags & PG_unevictable:
        return LRU_UNEVICTABLE
    return (0 if page.flags & PG_swapbacked else 2) + (1 if page.flags & PG_active else 0)


def isolated(view: View) -> Iterator[Violation]:
    """Nobody keeps isolated pages."""
    for zone in view.zones:
        for item in (NR_ISOLATED_ANON, NR_ISOLATED_FILE):
            if zone.vm_stat[item]:
                yield Violation(
                    "isolated",
                    repr(zone),
                    f"{ZONE_STAT_NAMES[item]} {zone.vm_stat[item]}, expected 0",
                )
