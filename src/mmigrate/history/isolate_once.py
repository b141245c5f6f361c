"""2c7452a075d4: two isolate the same pageblock."""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.gfp import MIGRATE_MOVABLE
from mmigrate.linux.include.switches import ISOLATE_ONCE
from mmigrate.linux.mm import page_isolation


def block_isolated_by_two(machine: Any) -> dict[str, int]:
    """As two that want huge pages of 1 GiB, or one and the hot-remove of the memory."""
    kernel = machine.kernel
    zone = kernel.nodes[0].node_zones[0]
    block = zone.zone_start_pfn, zone.zone_start_pfn + 512
    answers = [
        page_isolation.start_isolate_page_range(kernel, *block, MIGRATE_MOVABLE, False)
        for _ in range(2)
    ]
    for answer in answers:
        if answer == 0:
            page_isolation.undo_isolate_page_range(kernel, *block, MIGRATE_MOVABLE)
    return {"second answer": answers[1], "isolated blocks": zone.nr_isolate_pageblock}


ROW = Row(
    ISOLATE_ONCE,
    "Two subsystems may isolate the same pageblock, each in the belief that it is alone; who ends "
    "first ends the isolation of the other.",
    Kind.STATE,
    block_isolated_by_two,
    (
        "both succeed, and the zone counts an isolated block for ever",
        "the second is refused with EBUSY",
    ),
    without={"second answer": 0, "isolated blocks": 1},
    fixed={"second answer": -16, "isolated blocks": 0},
    violations=("page blocks",),
    note="Found by random programs.",
)
