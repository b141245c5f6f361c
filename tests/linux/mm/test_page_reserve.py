"""MIGRATE_RESERVE: which pageblocks, who may have them, and how they get lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate import GiB, Machine, MiB
from mmigrate.linux.include.gfp import (
    __GFP_RECLAIMABLE,
    GFP_ATOMIC,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_RESERVE,
    MIGRATE_UNMOVABLE,
)
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC, MIGRATE_SYNC
from mmigrate.linux.include.mm import PF_MEMALLOC
from mmigrate.linux.include.mmzone import MAX_ORDER, WMARK_MIN
from mmigrate.linux.include.vmstat import NR_FREE_PAGES
from mmigrate.linux.kernel import sched
from mmigrate.linux.mm import compaction, migrate, page_alloc, page_isolation
from mmigrate.linux.mm.compaction import CompactControl
from mmigrate.linux.mm.page_reserve import reserve_blocks, setup_zone_migrate_reserve

REMOVED = "974a786e63c9"
GFPS = [GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_KERNEL | __GFP_RECLAIMABLE]


def machine_of(*sizes, **options):
    machine = Machine(nodes=[MiB(size) for size in sizes], **options)
    sched.run_as(machine.kernel.tasks[0])
    return machine


def zone_of(machine):
    return machine.kernel.nodes[0].node_zones[0]


def take(machine, gfp, order=0):
    """A block, whatever the watermarks say."""
    task = sched.task
    task.flags |= PF_MEMALLOC
    page = page_alloc.alloc_pages_node(machine.kernel, 0, gfp, order)
    task.flags &= ~PF_MEMALLOC
    return page


def free_pages(zone, migratetype):
    blocks = page_alloc.free_blocks(zone)
    return sum(1 << order for _, order, kind in blocks if kind == migratetype)


# --- which ---


@pytest.mark.parametrize(
    ("nodes", "blocks"),
    [
        ((MiB(8),), 1),
        ((MiB(256),), 1),  # min is 512 pages
        ((MiB(258),), 2),  # and here a little more
        ((GiB(32), GiB(32)), 2),  # never more
        ((GiB(4), MiB(16)), 2),
    ],
)
def test_enough_pageblocks_to_hold_the_lowest_mark_two_at_most(nodes, blocks):
    machine = Machine(nodes=nodes)
    zone = zone_of(machine)
    first = zone.zone_start_pfn >> 9
    assert reserve_blocks(zone) == list(range(first, first + blocks))
    assert zone.nr_migrate_reserve_block == blocks
    assert blocks == min(2, -(-zone.watermark[WMARK_MIN] // 512))
    assert free_pages(zone, MIGRATE_RESERVE) == 1024  # the whole free block that begins there
    assert machine.check() == []


def test_each_zone_has_its_own():
    machine = machine_of(16, 8, movable=[MiB(8), 0])
    zones = [zone for node in machine.kernel.nodes for zone in node.node_zones]
    assert [reserve_blocks(zone) for zone in zones] == [
        [zone.zone_start_pfn >> 9] for zone in zones
    ]
    lines = [line for line in machine.pagetypeinfo.splitlines() if "type      Reserve" in line]
    assert [line.split()[-1] for line in lines] == ["1", "1", "1"]


def test_a_zone_smaller_than_a_pageblock_is_reserved_as_a_whole():
    machine = machine_of(1, 8)
    zone = zone_of(machine)
    assert reserve_blocks(zone) == [zone.zone_start_pfn >> 9]
    assert free_pages(zone, MIGRATE_RESERVE) == 256
    app = machine.process()
    heap = app.mmap(pages=200)
    app.touch(heap)
    assert app.placement(heap) == {0: 200}
    assert machine.check() == []


def test_later_kernels_have_none():
    for options in ({"kernel": "v4.4"}, {"backports": [REMOVED]}):
        machine = machine_of(8, **options)
        zone = zone_of(machine)
        assert (reserve_blocks(zone), zone.nr_migrate_reserve_block) == ([], 0)
        assert free_pages(zone, MIGRATE_RESERVE) == 0
        assert zone.untouched == [(zone.zone_start_pfn, zone.end_pfn)]


# setup_zone_migrate_reserve, row by row


def test_more_are_reserved_when_the_mark_rises_and_given_back_when_it_falls():
    machine = machine_of(16)
    zone = zone_of(machine)
    first = zone.zone_start_pfn >> 9
    for mark, blocks in ((600, 2), (600, 2), (100, 1), (5000, 2), (1, 1)):
        zone.watermark[WMARK_MIN] = mark
        setup_zone_migrate_reserve(zone)
        assert reserve_blocks(zone) == list(range(first, first + blocks))
        assert zone.nr_migrate_reserve_block == blocks
        assert machine.check() == []


def test_only_movable_pageblocks_that_are_there_are_taken():
    machine = machine_of(24, backports=[REMOVED])
    zone = zone_of(machine)
    first = zone.zone_start_pfn >> 9
    machine.offline(range(zone.zone_start_pfn, zone.zone_start_pfn + 1024))
    page_alloc.set_pageblock_migratetype(zone, (first + 2) << 9, MIGRATE_UNMOVABLE)
    page_alloc.set_pageblock_migratetype(zone, (first + 4) << 9, MIGRATE_UNMOVABLE)
    zone.watermark[WMARK_MIN] = 1000
    setup_zone_migrate_reserve(zone)
    assert reserve_blocks(zone) == [first + 3, first + 5]


def test_what_is_reserved_already_counts():
    machine = machine_of(16)
    zone = zone_of(machine)
    first = zone.zone_start_pfn >> 9
    zone.nr_migrate_reserve_block = 0  # as if it had been forgotten
    setup_zone_migrate_reserve(zone)
    assert reserve_blocks(zone) == [first]


def test_memory_that_comes_back_is_not_reserved_again():
    """The number that is wanted has not changed, so nobody looks."""
    machine = machine_of(16, 16)
    zone = zone_of(machine)
    frames = range(zone.zone_start_pfn, zone.zone_start_pfn + 1024)
    machine.offline(frames)
    machine.online(frames)
    assert (reserve_blocks(zone), zone.nr_migrate_reserve_block) == ([], 1)
    assert machine.check() == []


# --- who may have them ---


@pytest.mark.parametrize("gfp", GFPS)
def test_they_are_the_last_to_be_handed_out(gfp):
    machine = machine_of(8)
    zone = zone_of(machine)
    pages = []
    while free_pages(zone, MIGRATE_RESERVE) == 1024:
        pages.append(take(machine, gfp, 4))
    # All others are gone, of every type.
    assert zone.vm_stat[NR_FREE_PAGES] == free_pages(zone, MIGRATE_RESERVE) == 1024 - 16
    assert pages[-1].pfn == zone.zone_start_pfn
    assert page_alloc.get_pageblock_migratetype(zone, pages[-1].pfn) == MIGRATE_RESERVE
    for page in pages:
        page_alloc.__free_pages(page, 4)
    assert machine.check() == []


def test_single_pages_of_theirs_wait_with_movable_ones_and_go_home():
    machine = machine_of(8)
    zone = zone_of(machine)
    pcp = zone.pageset[0]
    pcp.batch, pcp.high = 7, 42  # as in a zone of some size
    held = [take(machine, GFP_HIGHUSER_MOVABLE, MAX_ORDER - 1)]
    page = take(machine, GFP_HIGHUSER_MOVABLE)
    assert pcp.lists[MIGRATE_MOVABLE].next.index == MIGRATE_RESERVE
    assert page.index == MIGRATE_RESERVE
    page_alloc.drain_all_pages(machine.kernel)
    assert free_pages(zone, MIGRATE_RESERVE) == 1023
    page_alloc.__free_pages(page, 0)
    assert pcp.lists[MIGRATE_MOVABLE].next is page
    assert page.index == MIGRATE_RESERVE
    page_alloc.drain_all_pages(machine.kernel)
    assert free_pages(zone, MIGRATE_RESERVE) == 1024
    page_alloc.__free_pages(held[0], MAX_ORDER - 1)
    assert machine.check() == []


def test_nobody_steals_from_them():
    """A larger block of theirs stays, though it would come first among those to be stolen."""
    machine = machine_of(8)
    zone = zone_of(machine)
    held = take(machine, GFP_HIGHUSER_MOVABLE, 9)  # the other half stays movable
    page = take(machine, GFP_KERNEL, 3)
    assert free_pages(zone, MIGRATE_RESERVE) == 1024
    assert page.pfn >> 9 == (zone.zone_start_pfn >> 9) + 3
    page_alloc.__free_pages(page, 3)
    page_alloc.__free_pages(held, 9)
    assert machine.check() == []


@pytest.mark.parametrize(("backports", "found"), [((), True), ((REMOVED,), False)])
def test_a_large_block_for_who_cannot_wait(backports, found):
    """What they are for: all other memory is in single pages, and nobody may compact."""
    machine = machine_of(8, backports=backports)
    zone = zone_of(machine)
    pages = []
    while zone.vm_stat[NR_FREE_PAGES] > free_pages(zone, MIGRATE_RESERVE):
        pages.append(take(machine, GFP_HIGHUSER_MOVABLE))
    for page in pages[::2]:
        page_alloc.__free_pages(page, 0)
    page_alloc.drain_all_pages(machine.kernel)
    assert zone.vm_stat[NR_FREE_PAGES] > 500
    block = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_ATOMIC, 3)
    assert (block is not None) is found
    if block is not None:
        assert block.index == MIGRATE_RESERVE
        page_alloc.__free_pages(block, 3)
    single = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0)
    assert single.index != MIGRATE_RESERVE  # who can do with less does
    for page in [single, *pages[1::2]]:
        page_alloc.__free_pages(page, 0)
    assert machine.check() == []


# --- compaction ---


def test_compaction_takes_no_free_pages_from_them():
    machine = machine_of(8)
    zone = zone_of(machine)
    cc = CompactControl(zone, -1, MIGRATE_SYNC)
    assert not compaction._suitable_target(cc, zone.zone_start_pfn, zone.zone_start_pfn + 512)


@pytest.mark.parametrize(("mode", "taken"), [(MIGRATE_ASYNC, 0), (MIGRATE_SYNC, 32)])
def test_asynchronous_compaction_passes_them_over(mode, taken):
    machine = machine_of(4)
    zone = zone_of(machine)
    app = machine.process("app")
    app.touch(app.mmap(pages=300))
    machine.drain_pagevecs()
    cc = CompactControl(zone, -1, mode)
    cc.migrate_pfn = zone.zone_start_pfn
    cc.free_pfn = zone.zone_start_pfn + 512
    compaction._isolate_migratepages(zone, cc)
    assert cc.nr_migratepages == taken
    migrate.putback_movable_pages(cc.migratepages)
    machine.drain_pagevecs()
    assert machine.check() == []


# --- how they get lost ---


def test_a_reserved_pageblock_that_merges_is_stolen_with_its_neighbour():
    """A known defect of v3.19: nobody looks at the type of what a free block merges with."""
    machine = machine_of(4)
    zone = zone_of(machine)
    first = zone.zone_start_pfn >> 9
    lower, upper = take(machine, GFP_KERNEL, 9), take(machine, GFP_KERNEL, 9)
    assert (lower.pfn >> 9, upper.pfn >> 9) == (first, first + 1)
    page_alloc.__free_pages(lower, 9)
    page_alloc.__free_pages(upper, 9)  # a movable pageblock is freed last: all goes to its list
    assert free_pages(zone, MIGRATE_MOVABLE) == 1024
    assert reserve_blocks(zone) == [first]
    page = take(machine, GFP_KERNEL)
    assert reserve_blocks(zone) == []
    assert page_alloc.get_pageblock_migratetype(zone, zone.zone_start_pfn) == MIGRATE_UNMOVABLE
    page_alloc.__free_pages(page, 0)
    assert machine.check() == []


def test_isolation_makes_them_movable():
    machine = machine_of(8)
    zone = zone_of(machine)
    start = zone.zone_start_pfn
    assert page_isolation.set_migratetype_isolate(zone, start, False) == 0
    assert page_alloc.get_pageblock_migratetype(zone, start) == MIGRATE_ISOLATE
    page_isolation.unset_migratetype_isolate(zone, start, MIGRATE_MOVABLE)
    assert reserve_blocks(zone) == []
    assert zone.nr_migrate_reserve_block == 1
    assert machine.check() == []


# --- in any order ---


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(GFPS), st.booleans(), st.integers(0, 99)),
        max_size=80,
    )
)
def test_their_lists_are_used_only_when_no_other_has_a_block(steps):
    machine = machine_of(6)
    zone = zone_of(machine)
    held = []
    for order, gfp, allocate, which in steps:
        if not allocate:
            if held:
                page_alloc.__free_pages(*held.pop(which % len(held)))
            continue
        others = bool(zone.untouched) or any(
            size >= order and kind != MIGRATE_RESERVE
            for _, size, kind in page_alloc.free_blocks(zone)
        )
        page = take(machine, gfp, order)
        if page is None:
            continue
        held.append((page, order))
        if order:
            assert (page.index == MIGRATE_RESERVE) is not others
    assert len(reserve_blocks(zone)) <= zone.nr_migrate_reserve_block
    for page, order in held:
        page_alloc.__free_pages(page, order)
    assert machine.check() == []
