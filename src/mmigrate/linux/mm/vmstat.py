"""Statistics of zones and events  (mm/vmstat.c).

Differs: there are no per-CPU deltas, so a counter is always exact.
"""

from __future__ import annotations

from mmigrate.linux.include.gfp import MIGRATE_TYPES, MIGRATETYPE_NAMES
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mmzone import MAX_ORDER, Zone
from mmigrate.linux.include.vmstat import (
    EVENT_NAMES,
    NR_VM_ZONE_STAT_ITEMS,
    ZONE_STAT_NAMES,
)
from mmigrate.linux.kernel import sched


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
    """The free-pages table of /proc/pagetypeinfo."""
    orders = "".join(f"{order:6d} " for order in range(MAX_ORDER))
    lines = [f"{'Free pages count per migrate type at order':<43} {orders}\n"]
    for node in kernel.nodes:
        for zone in node.node_zones:
            for migratetype in range(MIGRATE_TYPES):
                counts = [sum(1 for _ in area.free_list[migratetype]) for area in zone.free_area]
                if MIGRATETYPE_NAMES[migratetype] == "Movable":
                    counts[MAX_ORDER - 1] += untouched_blocks(zone)
                numbers = "".join(f"{count:6d} " for count in counts)
                kind = MIGRATETYPE_NAMES[migratetype]
                lines.append(
                    f"Node {node.node_id:4d}, zone {zone.name:>8}, type {kind:>12} {numbers}\n"
                )
    return "".join(lines)


def untouched_blocks(zone: Zone) -> int:
    """How many largest blocks nobody has asked for yet."""
    return sum((end - start) >> (MAX_ORDER - 1) for start, end in zone.untouched)
