"""Nodes, zones, zonelists and watermarks at boot  (mm/page_alloc.c: free_area_init_node,
build_all_zonelists, init_per_zone_wmark_min).

Differs: no ZONE_DMA and ZONE_DMA32 (a node is one ZONE_NORMAL, with ZONE_MOVABLE behind it
if asked for), and no frames in use by the kernel itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Final

from mmigrate.linux.include.gfp import MIGRATE_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mmzone import (
    MAX_NR_ZONES,
    MAX_ORDER,
    ZONE_MOVABLE,
    ZONE_NORMAL,
    PerCpuPages,
    PglistData,
    Zone,
)
from mmigrate.linux.include.pgtable import PAGE_SHIFT
from mmigrate.linux.include.switches import NO_RESERVE
from mmigrate.linux.include.vmstat import NR_FREE_PAGES
from mmigrate.linux.kernel.spinlock import SpinLock
from mmigrate.linux.mm import page_alloc, page_reserve

FIRST_PFN: Final = 1024  # frame 0 is nobody's
LARGEST: Final = 1 << (MAX_ORDER - 1)
MAX_NUMNODES: Final = 1024
LOWMEM_RESERVE_RATIO: Final = 32


def init_memory(
    kernel: Kernel,
    sizes: list[int],
    distances: list[list[int]],
    base_pfn: int = FIRST_PFN,
    movable: Sequence[int] | None = None,
) -> None:
    """Give @kernel its nodes.  @sizes, @movable: bytes; @base_pfn: the first frame."""
    kernel.node_distance = distances
    pfn = base_pfn
    for nid, size in enumerate(sizes):
        pages = size >> PAGE_SHIFT
        node = PglistData(kernel, nid, pfn, pages)
        node.numabalancing_migrate_lock = SpinLock(
            "numabalancing_migrate_lock", f"node {nid} numabalancing_migrate_lock"
        )
        kernel.nodes.append(node)
        if not pages:
            continue
        kernel.node_states_memory |= 1 << nid
        in_movable = min(pages, movable[nid] >> PAGE_SHIFT) if movable else 0
        # pageblocks do not span zones
        in_movable = min(pages, (in_movable + LARGEST - 1) // LARGEST * LARGEST)
        pfn = _add_zone(node, ZONE_NORMAL, pfn, pages - in_movable)
        pfn = _add_zone(node, ZONE_MOVABLE, pfn, in_movable)
        pfn = (pfn + LARGEST - 1) // LARGEST * LARGEST
    kernel.policy_zone = max(
        zone.zone_idx
        for node in kernel.nodes
        for zone in node.node_zones
        if zone.zone_idx != ZONE_MOVABLE
    )
    init_per_zone_wmark_min(kernel)
    build_all_zonelists(kernel)


def _add_zone(node: PglistData, zone_idx: int, start: int, pages: int) -> int:
    """A zone with all of its memory free; the frame behind it."""
    if not pages:
        return start
    name = f"node {node.node_id}"
    zone = Zone(
        node,
        zone_idx,
        start,
        pages,
        SpinLock("zone->lock", f"{name} zone lock"),
        SpinLock("zone->lru_lock", f"{name} lru_lock"),
    )
    batch = _zone_batchsize(pages)
    for _ in node.kernel.cpus:
        pageset = PerCpuPages(batch)
        pageset.batch = max(1, batch)
        zone.pageset.append(pageset)
    node.node_zones.append(zone)
    end = start + pages
    whole = start + pages // LARGEST * LARGEST
    if whole > start:
        zone.untouched.append((start, whole))
        zone.vm_stat[NR_FREE_PAGES] += whole - start
    pfn = whole
    while pfn < end:
        order = min((pfn & -pfn).bit_length() - 1, (end - pfn).bit_length() - 1)
        page_alloc.add_free_block(zone, pfn, order, MIGRATE_MOVABLE)
        zone.vm_stat[NR_FREE_PAGES] += 1 << order
        pfn += 1 << order
    return end


def realise_range(zone: Zone, start: int, end: int) -> None:
    """Turn the untouched memory that overlaps frames @start to @end into blocks on lists, so
    that it can be dealt with like all other free memory."""
    remaining: list[tuple[int, int]] = []
    for first, last in zone.untouched:
        low = first + max(0, start - first) // LARGEST * LARGEST
        high = min(last, first + (max(0, end - first) + LARGEST - 1) // LARGEST * LARGEST)
        if low >= high:
            remaining.append((first, last))
            continue
        remaining += [part for part in ((first, low), (high, last)) if part[0] < part[1]]
        for pfn in range(low, high, LARGEST):
            page_alloc.add_free_block(zone, pfn, MAX_ORDER - 1, MIGRATE_MOVABLE, tail=True)
    zone.untouched[:] = remaining


def _zone_batchsize(managed_pages: int) -> int:
    """How many pages a per-CPU list takes at once  (mm/page_alloc.c: zone_batchsize)."""
    batch = min(managed_pages // 1024, 512 * 1024 >> PAGE_SHIFT) // 4
    batch = max(batch, 1)
    batch += batch // 2
    return (1 << (batch.bit_length() - 1)) - 1


def init_per_zone_wmark_min(kernel: Kernel) -> None:
    """min_free_kbytes = sqrt(16 * kB), between 128 and 65536, shared out by size
    (mm/page_alloc.c: init_per_zone_wmark_min, __setup_per_zone_wmarks)."""
    zones = [zone for node in kernel.nodes for zone in node.node_zones]
    total = sum(zone.managed_pages for zone in zones)
    min_free_kbytes = max(128, min(65536, isqrt(total * 4 * 16)))
    pages_min = min_free_kbytes >> (PAGE_SHIFT - 10)
    for zone in zones:
        share = pages_min * zone.managed_pages // total
        zone.lowmem_reserve = [0] * MAX_NR_ZONES
        zone.watermark = [share, share + (share >> 2), share + (share >> 1)]
        for upper in zone.zone_pgdat.node_zones:
            if upper.zone_idx > zone.zone_idx:
                for idx in range(upper.zone_idx, MAX_NR_ZONES):
                    zone.lowmem_reserve[idx] += upper.managed_pages // LOWMEM_RESERVE_RATIO
        if not kernel.has(NO_RESERVE):
            page_reserve.setup_zone_migrate_reserve(zone)


def build_all_zonelists(kernel: Kernel) -> None:
    """Nodes by distance; equally distant ones take turns, so that not all neighbours fall
    back to the same  (mm/page_alloc.c: build_all_zonelists)."""
    load = [0] * len(kernel.nodes)
    with_cpus = {cpu.node for cpu in kernel.cpus}
    memory = [n for n in range(len(kernel.nodes)) if kernel.node_states_memory >> n & 1]
    for local in kernel.nodes:
        order: list[int] = []
        previous, weight = local.node_id, len(kernel.nodes)
        while len(order) < len(memory):
            best = _next_best_node(kernel, local.node_id, order, memory, load, with_cpus)
            distance = kernel.node_distance[local.node_id]
            if distance[best] != distance[previous]:
                load[best] = weight
            previous = best
            weight -= 1
            order.append(best)
        by_distance = [zone for nid in order for zone in reversed(kernel.nodes[nid].node_zones)]
        local.node_zonelists = (by_distance, list(reversed(local.node_zones)))


def _next_best_node(
    kernel: Kernel,
    node: int,
    used: list[int],
    memory: list[int],
    load: list[int],
    with_cpus: set[int],
) -> int:
    """mm/page_alloc.c: find_next_best_node."""
    if node in memory and node not in used:
        return node
    best, best_value = -1, 0
    for candidate in memory:
        if candidate in used:
            continue
        value = kernel.node_distance[node][candidate]
        value += 1 if candidate < node else 0
        value += 1 if candidate in with_cpus else 0
        value = value * len(kernel.nodes) * MAX_NUMNODES + load[candidate]
        if best < 0 or value < best_value:
            best, best_value = candidate, value
    return best
