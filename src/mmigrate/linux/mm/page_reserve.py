"""Pageblocks that are kept for when nothing else is left: MIGRATE_RESERVE  (mm/page_alloc.c).

Their free pages are handed out only where no other type has any, so that they stay together, and
a small block for an allocation that cannot wait can be had from them for longer.  At most two of a
zone, its first ones.  Nothing gives back what they lose when their free blocks merge with others
and are stolen, which v3.19 lets happen; v4.4 went without them.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.gfp import MIGRATE_MOVABLE, MIGRATE_RESERVE
from mmigrate.linux.include.mmzone import MAX_ORDER, PAGEBLOCK_NR_PAGES, WMARK_MIN, Zone
from mmigrate.linux.mm import page_alloc, page_boot

MAX_RESERVE_BLOCKS: Final = 2


def setup_zone_migrate_reserve(zone: Zone) -> None:
    """Reserve as many pageblocks as hold the lowest mark, two at most, or give some back; the
    caller has zone->lock, or is alone  (mm/page_alloc.c: setup_zone_migrate_reserve)."""
    wanted = -(-zone.watermark[WMARK_MIN] // PAGEBLOCK_NR_PAGES)
    reserve = min(MAX_RESERVE_BLOCKS, wanted)
    old_reserve = zone.nr_migrate_reserve_block
    if reserve == old_reserve:
        return
    zone.nr_migrate_reserve_block = reserve
    start_pfn = (zone.zone_start_pfn + PAGEBLOCK_NR_PAGES - 1) & ~(PAGEBLOCK_NR_PAGES - 1)
    for pfn in range(start_pfn, zone.end_pfn, PAGEBLOCK_NR_PAGES):
        kind = page_alloc.get_pageblock_migratetype(zone, pfn)
        if reserve > 0:
            if pageblock_is_reserved(zone, pfn, min(pfn + PAGEBLOCK_NR_PAGES, zone.end_pfn)):
                continue
            if kind == MIGRATE_RESERVE:
                reserve -= 1
                continue
            if kind == MIGRATE_MOVABLE:
                _reserve(zone, pfn)
                reserve -= 1
                continue
        elif not old_reserve:
            break  # there are none behind
        if kind == MIGRATE_RESERVE:
            _change_type(zone, pfn, MIGRATE_MOVABLE)


def _reserve(zone: Zone, pfn: int) -> None:
    untouched = zone.untouched
    if untouched and untouched[0][0] == pfn:  # as at boot (boot_64g_ms)
        end = pfn + (1 << (MAX_ORDER - 1))
        untouched[:1] = [(end, untouched[0][1])] if end < untouched[0][1] else []
        page_alloc.set_pageblock_migratetype(zone, pfn, MIGRATE_RESERVE)
        page_alloc.add_free_block(zone, pfn, MAX_ORDER - 1, MIGRATE_RESERVE)
        return
    page_boot.realise_range(zone, pfn, pfn + PAGEBLOCK_NR_PAGES)
    _change_type(zone, pfn, MIGRATE_RESERVE)


def _change_type(zone: Zone, pfn: int, migratetype: int) -> None:
    page_alloc.set_pageblock_migratetype(zone, pfn, migratetype)
    page_alloc.move_freepages_block(zone, pfn, migratetype)


def pageblock_is_reserved(zone: Zone, start_pfn: int, end_pfn: int) -> bool:
    """Whether a frame of a pageblock is in use by nobody, and never will be
    (mm/page_alloc.c: pageblock_is_reserved)."""
    return any(first < end_pfn and start_pfn < last for first, last in zone.offline)


def reserve_blocks(zone: Zone) -> list[int]:
    """The numbers of the pageblocks that are MIGRATE_RESERVE, ascending; for observers."""
    blocks = zone.pageblock_type.items()
    return sorted(number for number, kind in blocks if kind == MIGRATE_RESERVE)
