"""second-look-lets-go: soft offline of a page that is on no LRU list."""

from contextlib import suppress
from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import SECOND_LOOK_LETS_GO


def balloon_page_is_suspect(machine: Any) -> dict[str, int]:
    machine.balloon.inflate(1)
    with suppress(OSError):
        machine.soft_offline(machine.balloon.given[0])
    page = machine.balloon.device.vb_dev_info.pages.next
    machine.balloon.deflate(1)
    return {"in the balloon": machine.balloon.pages, "references": max(0, page._count)}


ROW = Row(
    SECOND_LOOK_LETS_GO,
    "Soft offline looks a second time at a page that it has found on no LRU list, and keeps the "
    "reference of that look when it gives up.",
    Kind.STATE,
    balloon_page_is_suspect,
    (
        "the page has left the balloon and is never free again",
        "it is free",
    ),
    without={"in the balloon": 0, "references": 1},
    fixed={"in the balloon": 0, "references": 0},
    violations=("references",),
    note="Found by random programs. The id of the commit is not known here for sure.",
)
