"""Oracles: what must be true of the modelled kernel when nothing is in flight.

Interface: `check(machine)` asks all of them; `ORACLES` has each by its name. They read the
model and never write it. Each takes a `View`, the page tables and lists read once, and
yields violations that name the object and give both values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from mmigrate.check import (
    areas,
    balloon,
    contents,
    counters,
    devices,
    frames,
    huge_pages,
    hugetlb,
    ksm,
    lists,
    memory_groups,
    page_blocks,
    page_cache,
    ptes,
    quiet,
    references,
    reverse_map,
    swap_counts,
    translations,
)
from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.machine.machine import Machine

Oracle = Callable[[View], Iterator[Violation]]

ORACLES: Final[dict[str, Oracle]] = {
    "warnings": quiet.warnings,
    "locks": quiet.locks,
    "frames": frames.frames,
    "free pages": frames.free_pages,
    "compound pages": huge_pages.compound_pages,
    "huge pages": huge_pages.huge_pages,
    "hugetlb pools": hugetlb.pools,
    "hugetlb reservations": hugetlb.reservations,
    "hugetlb limits": hugetlb.limits,
    "ksm": ksm.ksm,
    "references": references.references,
    "mapcount": references.mapcounts,
    "migration entries": ptes.migration_entries,
    "protection": ptes.protection,
    "areas": areas.areas,
    "reverse map": reverse_map.reverse_map,
    "page cache": page_cache.page_cache,
    "lru": lists.lru,
    "isolated": lists.isolated,
    "vmstat": counters.vmstat,
    "rss": counters.rss,
    "swap counts": swap_counts.swap_counts,
    "translations": translations.translations,
    "devices": devices.devices,
    "contents": contents.contents,
    "balloon": balloon.balloon,
    "direct writepage": quiet.direct_writepage,
    "charges": memory_groups.charges,
    "owners": memory_groups.owners,
    "group lists": memory_groups.group_lists,
    "group statistics": memory_groups.group_statistics,
    "page blocks": page_blocks.page_blocks,
    "out of use": page_blocks.out_of_use,
}


def check(machine: Machine) -> list[Violation]:
    """Ask every oracle; all violations, by oracle.  Call it when no started task is left."""
    view = View(machine)
    return [violation for oracle in ORACLES.values() for violation in oracle(view)]
