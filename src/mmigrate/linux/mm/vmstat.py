"""Statistics of zones and events  (mm/vmstat.c).

Differs: there are no per-CPU deltas, so a counter is always exact.
"""

from __future__ import annotations

from collections.abc import Callable

from mmigrate.linux.include.gfp import MIGRATE_MOVABLE, MIGRATE_TYPES, MIGRATETYPE_NAMES
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mmzone import (
    MAX_ORDER,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    Zone,
)
from mmigrate.linux.include.vmstat import (
    EVENT_NAMES,
    NR_FREE_PAGES,
    NR_PAGES_SCANNED,
    NR_VM_ZONE_STAT_ITEMS,
    ZONE_STAT_NAMES,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.mm import reclaim


def count_vm_event(item: int) -> None:
    sched.task.kernel.vm_events[item] += 1


def count_vm_events(item: int, number: int) -> None:
    sched.task.kernel.vm_events[item] += number


def node_page_state(kernel: Kernel, nid: int, item: int) -> int:
    """The sum over the zones of one node."""
    return sum(zone.vm_stat[item] for zone in kernel.nodes[nid].node_zones)


def vmstat_values(kernel: Kernel) -> dict[str, int]:
    """/proc/vmstat as a dict, in its order."""
    totals = [0] * NR_VM_ZONE_STAT_ITEMS
    for node in kernel.nodes:
        for zone in node.node_zones:
            for item, value in enumerate(zone.vm_stat):
                totals[item] += value
    return dict(zip(ZONE_STAT_NAMES, totals, strict=True)) | dict(
        zip(EVENT_NAMES, kernel.vm_events, strict=True)
    )


def vmstat_text(kernel: Kernel) -> str:
    """/proc/vmstat."""
    return "".join(f"{name} {value}\n" for name, value in vmstat_values(kernel).items())


def buddyinfo_text(kernel: Kernel) -> str:
    """/proc/buddyinfo: free blocks of each order."""
    lines = []
    for node in kernel.nodes:
        for zone in node.node_zones:
            counts = [area.nr_free for area in zone.free_area]
            counts[MAX_ORDER - 1] += untouched_blocks(zone)
            numbers = "".join(f"{count:6d} " for count in counts)
            lines.append(f"Node {node.node_id}, zone {zone.name:>8} {numbers}\n")
    return "".join(lines)


def pagetypeinfo_text(kernel: Kernel) -> str:
    """/proc/pagetypeinfo, for each node with memory: free blocks of each order by migrate type, and
    how many pageblocks are of each type  (mm/vmstat.c: pagetypeinfo_show).

    Differs: without the table of CONFIG_PAGE_OWNER.
    """
    lines = []
    for node in kernel.nodes:
        if not node.node_zones:
            continue
        lines.append(f"Page block order: {PAGEBLOCK_ORDER}\n")
        lines.append(f"Pages per block:  {PAGEBLOCK_NR_PAGES}\n\n")
        orders = "".join(f"{order:6d} " for order in range(MAX_ORDER))
        lines.append(f"{'Free pages count per migrate type at order':<43} {orders}\n")
        for zone in node.node_zones:
            for migratetype, kind in enumerate(MIGRATETYPE_NAMES):
                counts = free_block_counts(zone, migratetype)
                numbers = "".join(f"{count:6d} " for count in counts)
                lines.append(
                    f"Node {node.node_id:4d}, zone {zone.name:>8}, type {kind:>12} {numbers}\n"
                )
        lines.append("\nNumber of blocks type  ")
        lines.append("".join(f"{kind:>12} " for kind in MIGRATETYPE_NAMES) + "\n")
        for zone in node.node_zones:
            numbers = "".join(f"{count:12d} " for count in pageblock_counts(zone))
            lines.append(f"Node {node.node_id}, zone {zone.name:>8} {numbers}\n")
    return "".join(lines)


def free_block_counts(zone: Zone, migratetype: int) -> list[int]:
    """How many free blocks of a migrate type there are, by order."""
    counts = [sum(1 for _ in area.free_list.get(migratetype, ())) for area in zone.free_area]
    if migratetype == MIGRATE_MOVABLE:
        counts[MAX_ORDER - 1] += untouched_blocks(zone)
    return counts


def pageblock_counts(zone: Zone) -> list[int]:
    """How many pageblocks are of each migrate type, those out of use too
    (mm/vmstat.c: pagetypeinfo_showblockcount_print)."""
    blocks = range(zone.zone_start_pfn, zone.end_pfn, PAGEBLOCK_NR_PAGES)
    counts = [0] * MIGRATE_TYPES
    counts[MIGRATE_MOVABLE] = len(blocks)
    for kind in zone.pageblock_type.values():
        counts[MIGRATE_MOVABLE] -= 1
        counts[kind] += 1
    return counts


# --- free memory in numbers ---


def contig_page_info(zone: Zone, suitable_order: int) -> tuple[int, int, int]:
    """(free pages, free blocks, how many blocks of @suitable_order they could be)
    (mm/vmstat.c: fill_contig_page_info)."""
    free_pages = free_blocks = suitable = 0
    for order, area in enumerate(zone.free_area):
        blocks = area.nr_free
        if order == MAX_ORDER - 1:
            blocks += untouched_blocks(zone)
        free_blocks += blocks
        free_pages += blocks << order
        if order >= suitable_order:
            suitable += blocks << (order - suitable_order)
    return free_pages, free_blocks, suitable


def unusable_free_index(zone: Zone, order: int) -> int:
    """How much of the free memory cannot be had in blocks of @order, in thousandths
    (mm/vmstat.c: unusable_free_index)."""
    free_pages, _, suitable = contig_page_info(zone, order)
    if not free_pages:
        return 1000
    return (free_pages - (suitable << order)) * 1000 // free_pages


def fragmentation_index(zone: Zone, order: int) -> int:
    """Why a block of @order cannot be had: towards 0 for lack of memory, towards 1000 because of
    fragmentation, -1000 if it can  (mm/vmstat.c: fragmentation_index)."""
    free_pages, free_blocks, suitable = contig_page_info(zone, order)
    if not free_blocks:
        return 0
    if suitable:
        return -1000
    return 1000 - (1000 + free_pages * 1000 // (1 << order)) // free_blocks


def unusable_index_text(kernel: Kernel) -> str:
    """/sys/kernel/debug/extfrag/unusable_index."""
    return _by_order(kernel, unusable_free_index)


def extfrag_index_text(kernel: Kernel) -> str:
    """/sys/kernel/debug/extfrag/extfrag_index."""
    return _by_order(kernel, fragmentation_index)


def _by_order(kernel: Kernel, index: Callable[[Zone, int], int]) -> str:
    lines = []
    for node in kernel.nodes:
        for zone in node.node_zones:
            numbers = ""
            for order in range(MAX_ORDER):
                whole, thousandths = divmod(abs(value := index(zone, order)), 1000)
                numbers += f"{'-' if value < 0 else ''}{whole}.{thousandths:03d} "
            lines.append(f"Node {node.node_id}, zone {zone.name:>8} {numbers}\n")
    return "".join(lines)


def zoneinfo_text(kernel: Kernel) -> str:
    """/proc/zoneinfo  (mm/vmstat.c: zoneinfo_show_print).

    Differs: zones without memory are left out, and thresholds of per-CPU counters, which the
    model does not have.
    """
    lines = []
    for node in kernel.nodes:
        for zone in node.node_zones:
            lines.append(f"Node {node.node_id}, zone {zone.name:>8}\n")
            for start, name, value in (
                ("  pages ", "free", zone.vm_stat[NR_FREE_PAGES]),
                ("        ", "min", zone.watermark[WMARK_MIN]),
                ("        ", "low", zone.watermark[WMARK_LOW]),
                ("        ", "high", zone.watermark[WMARK_HIGH]),
                ("        ", "scanned", zone.vm_stat[NR_PAGES_SCANNED]),
                ("        ", "spanned", zone.spanned_pages),
                ("        ", "present", zone.present_pages),
                ("        ", "managed", zone.managed_pages),
            ):
                lines.append(f"{start}{name:<8} {value}\n")
            for name, value in zip(ZONE_STAT_NAMES, zone.vm_stat, strict=True):
                lines.append(f"    {name:<12} {value}\n")
            protection = ", ".join(str(pages) for pages in zone.lowmem_reserve)
            lines.append(f"        protection: ({protection})\n  pagesets\n")
            for number, pcp in enumerate(zone.pageset):
                lines.append(
                    f"    cpu: {number}\n              count: {pcp.count}\n"
                    f"              high:  {pcp.high}\n              batch: {pcp.batch}\n"
                )
            lines.append(
                f"  all_unreclaimable: {int(not reclaim.zone_reclaimable(zone))}\n"
                f"  start_pfn:         {zone.zone_start_pfn}\n"
                f"  inactive_ratio:    {reclaim.inactive_ratio(zone.managed_pages)}\n"
            )
    return "".join(lines)


def untouched_blocks(zone: Zone) -> int:
    """How many largest blocks nobody has asked for yet."""
    return sum((end - start) >> (MAX_ORDER - 1) for start, end in zone.untouched)
