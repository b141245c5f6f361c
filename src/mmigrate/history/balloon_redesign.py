"""d6d86c0a7f8d: balloon pages known by a mark of their own, and taken by one at a time.

The message names a read inside of an anon_vma and three bugs; each is a part of the row.
"""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.gfp import __GFP_THISNODE, GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_COMPACTION
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.switches import BALLOON_REDESIGN
from mmigrate.linux.include.vmstat import NR_ISOLATED_FILE
from mmigrate.linux.lib.list import ListHead, list_add_tail
from mmigrate.linux.mm import balloon_compaction, migrate, page_alloc


def _isolate(page: Page) -> ListHead:
    """On a list of one's own, as the scanner of compaction does it."""
    redesigned = page.zone.kernel.has(BALLOON_REDESIGN)
    take = (
        balloon_compaction.balloon_page_isolate
        if redesigned
        else balloon_compaction.v317_balloon_page_isolate
    )
    pagelist = ListHead()
    if take(page):
        list_add_tail(page, pagelist)
        page.zone.vm_stat[NR_ISOLATED_FILE] += 1
    return pagelist


def scanner_meets_fault(machine: Any) -> None:
    """The scanner looks whether a page is a balloon's while a fault gives it to a process."""
    app = machine.process("app")
    area = app.mmap(pages=2)
    app.touch(area[0:1])
    machine.drain_pagevecs()
    with app.running():
        page = page_alloc.alloc_pages_exact_node(machine.kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
        assert page is not None
        page_alloc.__free_pages(page, 0)  # the next that this CPU gives out
    looks_movable = (
        balloon_compaction.balloon_page_movable
        if machine.kernel.has(BALLOON_REDESIGN)
        else balloon_compaction.v317_balloon_page_movable
    )
    machine.start(app.touch, area[1:2], cpu=0)
    machine.start(looks_movable, page, cpu=1)


def deflation_meets_isolation(machine: Any) -> None:
    machine.balloon.inflate(1)
    [page] = machine.balloon.device.vb_dev_info.pages

    def scan() -> None:
        migrate.putback_movable_pages(_isolate(page))

    machine.start(machine.balloon.deflate, 1, cpu=0)
    machine.start(scan, cpu=1)


def moved_again_and_again(machine: Any) -> dict[str, Any]:
    """One page of the balloon, to the other node and back, three times."""
    machine.balloon.inflate(1)
    moved = []
    for node in (1, 0, 1):

        def get_new_page(page: Page, _private: Any, _result: list[Any], to: int = node) -> Any:
            gfp = GFP_HIGHUSER_MOVABLE | __GFP_THISNODE
            return page_alloc.alloc_pages_exact_node(page.zone.kernel, to, gfp, 0)

        [page] = machine.balloon.device.vb_dev_info.pages
        pagelist = _isolate(page)
        migrate.migrate_pages(pagelist, get_new_page, None, None, MIGRATE_SYNC, MR_COMPACTION)
        migrate.putback_movable_pages(pagelist)
        machine.drain_pagevecs()
        [now] = machine.balloon.device.vb_dev_info.pages
        moved.append(now is not page)
    return {"moved": moved, "in the balloon": machine.balloon.pages}


def compacted(machine: Any) -> dict[str, Any]:
    """Memory in which nothing but twenty pages of the balloon is in use."""
    machine.balloon.inflate(20)
    machine.kernel.events = []
    machine.compact()
    taken = sum(
        fields["nr_taken"]
        for name, fields in machine.kernel.events
        if name == "mm_compaction_isolate_migratepages"
    )
    return {"isolated": taken, "in the balloon": machine.balloon.pages}


ROW = Row(
    BALLOON_REDESIGN,
    "A balloon page was known by a flag of what its mapping points to, which the scanner read from "
    "anonymous pages too, where it is no address space.",
    Kind.RACE,
    scanner_meets_fault,
    ("the scanner reads a flag inside of an anon_vma", "a mark of the page itself is read"),
    finding="BUG: v317_balloon_page_movable",
    more=(
        Row(
            BALLOON_REDESIGN,
            "Taking a page out of the balloon raced with isolating it.",
            Kind.RACE,
            deflation_meets_isolation,
            ("both get the page", "one gets it, the other passes it over"),
            finding="BUG: deflate: ",
        ),
        Row(
            BALLOON_REDESIGN,
            "The branch of migration for balloon pages never ran, as the page lock it holds is "
            "taken for a sign that the page is none.",
            Kind.STATE,
            moved_again_and_again,
            ("a page moves once and is stuck", "it moves as often as it must"),
            without={"moved": [True, False, False], "in the balloon": 1},
            fixed={"moved": [True, True, True], "in the balloon": 1},
            violations=("balloon",),
        ),
        Row(
            BALLOON_REDESIGN,
            "The scanner isolated balloon pages only if it had lru_lock for another page already.",
            Kind.STATE,
            compacted,
            ("where there are only balloon pages, none is isolated", "all are, without lru_lock"),
            without={"isolated": 0, "in the balloon": 20},
            fixed={"isolated": 20, "in the balloon": 20},
            machine={"nodes": (8 << 20,)},
        ),
    ),
)
