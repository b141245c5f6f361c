"""Pageblocks: nobody keeps one isolated, those of CMA keep to themselves, no more are reserved than
were meant to be.  Frames out of use: nobody uses them."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.gfp import (
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATETYPE_NAMES,
)
from mmigrate.linux.include.mmzone import PAGEBLOCK_ORDER, SECTION_SHIFT, SECTION_SIZE
from mmigrate.linux.include.page_flags import PG_hugetlb, PG_hwpoison, PG_reserved
from mmigrate.linux.include.vmstat import NR_FREE_CMA_PAGES
from mmigrate.linux.mm import page_reserve

APART = (MIGRATE_CMA, MIGRATE_ISOLATE)


def page_blocks(view: View) -> Iterator[Violation]:
    """No pageblock is isolated; free memory is on the lists of CMA just where the pageblock is
    CMA's, and counted; a free block knows on which list it is.  Reserved pageblocks may get
    lost in v3.19, but do not become more."""
    for zone in view.zones:
        types = zone.pageblock_type
        isolated = [n for n, kind in types.items() if kind == MIGRATE_ISOLATE]
        for number in sorted(isolated):
            yield Violation(
                "page blocks", f"pageblock at pfn {number << PAGEBLOCK_ORDER}", "still isolated"
            )
        if zone.nr_isolate_pageblock != len(isolated):
            yield Violation(
                "page blocks",
                repr(zone),
                f"nr_isolate_pageblock {zone.nr_isolate_pageblock}, found {len(isolated)}",
            )
        reserved = page_reserve.reserve_blocks(zone)
        if len(reserved) > zone.nr_migrate_reserve_block:
            yield Violation(
                "page blocks",
                repr(zone),
                f"nr_migrate_reserve_block {zone.nr_migrate_reserve_block}, found {len(reserved)}",
            )
        mem_map = view.kernel.mem_map
        of_cma = 0
        for pfn, order, kind in view.free_blocks[zone]:
            page = mem_map[pfn >> SECTION_SHIFT][pfn & (SECTION_SIZE - 1)]
            if page is not None and page.index != kind:
                yield Violation(
                    "page blocks",
                    f"free block at pfn {pfn}",
                    f"on a list of {MIGRATETYPE_NAMES[kind]}, says {page.index}",
                )
            block = types.get(pfn >> PAGEBLOCK_ORDER, MIGRATE_MOVABLE)
            if kind == MIGRATE_CMA:
                of_cma += 1 << order
            if kind != block and (kind in APART or block in APART):
                yield Violation(
                    "page blocks",
                    f"free block at pfn {pfn}",
                    f"on a list of {MIGRATETYPE_NAMES[kind]}, in a pageblock of "
                    f"{MIGRATETYPE_NAMES[block]}",
                )
        if zone.vm_stat[NR_FREE_CMA_PAGES] != of_cma:
            yield Violation(
                "page blocks",
                repr(zone),
                f"nr_free_cma {zone.vm_stat[NR_FREE_CMA_PAGES]}, found {of_cma}",
            )


def out_of_use(view: View) -> Iterator[Violation]:
    """Nobody has a page whose memory is bad or has been taken away; as many are bad as are
    counted."""
    bad = 0
    for page in view.flagged:
        bad += bool(page.flags & PG_hwpoison)
        if page.flags & PG_hugetlb and page._count == 1 and page.mapping is None:
            continue  # taken out of its pool for good, with that reference
        if page.flags & (PG_hwpoison | PG_reserved) and page._count:
            why = "bad memory" if page.flags & PG_hwpoison else "memory that was taken away"
            yield Violation("out of use", repr(page), f"in use, {why}")
    if bad != view.kernel.num_poisoned_pages:
        yield Violation(
            "out of use", "kernel", f"{view.kernel.num_poisoned_pages} bad pages, found {bad}"
        )
