"""Many single pages at once, as v3.19 would give them one after another.

Differs: v3.19 has no such function; since v5.13 there is __alloc_pages_bulk, which this is modelled
on.  `first_touch` uses it.
"""

from __future__ import annotations

from mmigrate.linux.include.gfp import __GFP_OTHER_NODE
from mmigrate.linux.include.mm_types import ZERO_BYTES, Page
from mmigrate.linux.include.mmzone import WMARK_LOW, Zone
from mmigrate.linux.include.vmstat import (
    NR_FREE_CMA_PAGES,
    NR_FREE_PAGES,
    NUMA_HIT,
    NUMA_LOCAL,
    NUMA_OTHER,
    PGALLOC_DMA,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.cpuset import cpuset_zone_allowed
from mmigrate.linux.mm import page_alloc


def alloc_pages_bulk(
    gfp: int, zonelist: list[Zone], nodemask: int | None, wanted: int
) -> list[Page]:
    """Pages of the zone that an allocation would take first: @wanted, or as many as it can spare
    above its low watermark, or none if another zone would have to do  (mm/page_alloc.c:
    __alloc_pages_bulk of v5.13)."""
    task = sched.task
    if task.preempt_count:
        sched.might_sleep()
    zone = _first_zone(gfp, zonelist, nodemask)
    if zone is None:
        return []
    pages = _take_pages(
        zone, page_alloc.gfpflags_to_migratetype(gfp), zone.lowmem_reserve[zone.zone_idx], wanted
    )
    stat = zone.vm_stat
    stat[NUMA_HIT] += len(pages)
    here = zone.nid if gfp & __GFP_OTHER_NODE else task.cpu.node
    stat[NUMA_LOCAL if zone.nid == here else NUMA_OTHER] += len(pages)
    zone.kernel.vm_events[PGALLOC_DMA + zone.zone_idx] += len(pages)
    return pages


def _first_zone(gfp: int, zonelist: list[Zone], nodemask: int | None) -> Zone | None:
    """The preferred zone, if the cpuset allows it."""
    task = sched.task
    confined = task.kernel.cpusets is not None
    allowed = task.mems_allowed if nodemask is None and confined else nodemask
    high_zoneidx = page_alloc.gfp_zone(gfp)
    for zone in zonelist:
        if zone.zone_idx <= high_zoneidx and (allowed is None or allowed >> zone.nid & 1):
            return zone if not confined or cpuset_zone_allowed(zone, gfp) else None
    return None


# HOT: plan_1g_s of benchmarks/plan.py
def _take_pages(zone: Zone, migratetype: int, reserve: int, wanted: int) -> list[Page]:
    """From the CPU's own list, which is filled as often as it is empty."""
    pcp = zone.pageset[sched.task.cpu.number]
    head = pcp.lists[migratetype]
    stat = zone.vm_stat
    mark = zone.watermark[WMARK_LOW] + reserve
    pages: list[Page] = []
    while len(pages) < wanted and stat[NR_FREE_PAGES] - stat[NR_FREE_CMA_PAGES] > mark:
        if head.next is head:
            page_alloc._rmqueue_bulk(zone, pcp, migratetype, False)
            if head.next is head:
                break
            room = 1  # and a look at the mark again
        else:
            room = wanted - len(pages)
        page: Page = head.next
        start = len(pages)
        while page is not head and room:
            if page._count or page.mapping is not None or page.flags:
                wanted = 0  # bad: for whoever can say so
                break
            page._count = 1
            page.private = 0
            page.data = ZERO_BYTES
            pages.append(page)
            following: Page = page.next
            page.next = page.prev = page
            page = following
            room -= 1
        head.next = page
        page.prev = head
        pcp.count -= len(pages) - start
    return pages
