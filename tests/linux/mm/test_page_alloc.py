"""The buddy allocator against a plain account of frames."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate import Machine, MiB
from mmigrate.linux.include.gfp import (
    __GFP_COMP,
    __GFP_HIGH,
    __GFP_RECLAIMABLE,
    __GFP_THISNODE,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    MIGRATE_MOVABLE,
    MIGRATE_UNMOVABLE,
)
from mmigrate.linux.include.mm import MADV_DONTNEED, PF_MEMALLOC
from mmigrate.linux.include.mmzone import MAX_ORDER, WMARK_MIN
from mmigrate.linux.include.vmstat import NR_FREE_PAGES
from mmigrate.linux.kernel import sched
from mmigrate.linux.mm import page_alloc
from mmigrate.linux.mm.vmstat import buddyinfo_text, pagetypeinfo_text, vmstat_text, vmstat_values

GFPS = [GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_KERNEL | __GFP_RECLAIMABLE]
NO_RESERVE = "974a786e63c9"
FAR = GFP_HIGHUSER_MOVABLE | __GFP_THISNODE


def machine_of(*sizes, **options):
    machine = Machine(nodes=[MiB(size) for size in sizes], **options)
    sched.run_as(machine.kernel.tasks[0])
    return machine


def frames_free(zone):
    page_alloc.drain_pages(zone.kernel, zone.kernel.cpus[0])
    found = []
    for pfn, order, _ in page_alloc.free_blocks(zone):
        assert pfn % (1 << order) == 0
        found.append((pfn, pfn + (1 << order)))
    return sorted(found + zone.untouched)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(GFPS), st.booleans(), st.integers(0, 50)),
        max_size=60,
    )
)
def test_no_frame_is_lost_or_given_twice(steps):
    machine = machine_of(4)
    [zone] = machine.kernel.nodes[0].node_zones
    held = {}
    for order, gfp, free, which in steps:
        if free and held:
            page, size = held.pop(sorted(held, key=lambda p: p.pfn)[which % len(held)])
            page_alloc.__free_pages(page, size)
        else:
            page = page_alloc.alloc_pages_node(machine.kernel, 0, gfp, order)
            if page is not None:
                assert page._count == 1
                held[page] = (page, order)
    taken = sorted((page.pfn, page.pfn + (1 << order)) for page, order in held.values())
    blocks = sorted(frames_free(zone) + taken)
    assert blocks[0][0] == zone.zone_start_pfn
    assert blocks[-1][1] == zone.end_pfn
    assert all(before[1] == after[0] for before, after in itertools.pairwise(blocks))
    assert zone.vm_stat[NR_FREE_PAGES] == zone.managed_pages - sum(e - s for s, e in taken)
    for page, order in held.values():
        page_alloc.__free_pages(page, order)
    assert max(end - start for start, end in frames_free(zone)) == 1 << (MAX_ORDER - 1)
    assert machine.check() == []


def test_types_steal_whole_pageblocks():
    machine = machine_of(8)
    [zone] = machine.kernel.nodes[0].node_zones
    page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0)
    assert page_alloc.get_pageblock_migratetype(zone, page.pfn) == MIGRATE_UNMOVABLE
    assert "Unmovable" in pagetypeinfo_text(machine.kernel)
    page_alloc.__free_pages(page, 0)


@pytest.mark.parametrize(
    ("left", "kind", "changes"),
    [
        (300, GFP_KERNEL, True),  # more than half of the pageblock is free: it becomes theirs
        (40, GFP_KERNEL, False),  # not so much: the rest stays on the list that it was on
        (40, GFP_KERNEL | __GFP_RECLAIMABLE, False),
        (300, GFP_KERNEL | __GFP_RECLAIMABLE, True),
    ],
)
def test_a_pageblock_changes_hands_only_if_half_of_it_is_free(left, kind, changes):
    """try_to_steal_freepages, for a block of less than a pageblock."""
    machine = machine_of(4, backports=[NO_RESERVE])
    [zone] = machine.kernel.nodes[0].node_zones
    movable = [take_block(machine.kernel, 0, GFP_HIGHUSER_MOVABLE) for _ in range(1024 - left)]
    page_alloc.drain_all_pages(machine.kernel)
    order = max(order for order, area in enumerate(zone.free_area) if area.nr_free)
    assert order >= 5
    page = take_block(machine.kernel, 3, kind)
    wanted = page_alloc.gfpflags_to_migratetype(kind)
    block = page_alloc.get_pageblock_migratetype(zone, page.pfn)
    assert block == (wanted if changes else MIGRATE_MOVABLE)
    # What of the block is left behind the page:
    kinds = {k for pfn, _, k in page_alloc.free_blocks(zone) if pfn == page.pfn + 8}
    assert kinds == {wanted if changes else MIGRATE_MOVABLE}
    page_alloc.__free_pages(page, 3)
    for page in movable:
        page_alloc.__free_pages(page, 0)
    assert machine.check() == []


def test_movable_comes_from_untouched_memory():
    machine = machine_of(8)
    [zone] = machine.kernel.nodes[0].node_zones
    page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
    assert page_alloc.get_pageblock_migratetype(zone, page.pfn) == MIGRATE_MOVABLE
    page_alloc.__free_pages(page, 0)


def test_the_lowest_mark_is_kept_but_for_the_urgent():
    machine = machine_of(4)
    [zone] = machine.kernel.nodes[0].node_zones
    taken = []
    while page := page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0):
        taken.append(page)
    left = zone.vm_stat[NR_FREE_PAGES]
    assert left <= zone.watermark[WMARK_MIN] + 1
    urgent = page_alloc.alloc_pages_node(machine.kernel, 0, __GFP_HIGH, 0)
    assert urgent is not None
    for page in (*taken, urgent):
        page_alloc.__free_pages(page, 0)


def test_the_next_node_when_one_is_full_and_who_is_counted():
    machine = machine_of(2, 4)
    kernel = machine.kernel
    taken = []
    while (page := page_alloc.alloc_pages_node(kernel, 0, GFP_HIGHUSER_MOVABLE, 0)).zone.nid == 0:
        taken.append(page)
    taken.append(page)
    values = vmstat_values(kernel)
    assert values["numa_miss"] == values["numa_foreign"] == 1
    # what must be here may go down to the lowest mark
    while (page := page_alloc.alloc_pages_node(kernel, 0, FAR, 0)) is not None:
        assert page.zone.nid == 0
        taken.append(page)
    for page in taken:
        page_alloc.__free_pages(page, 0)


def test_compound_blocks():
    machine = machine_of(4)
    head = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL | __GFP_COMP, 3)
    assert page_alloc.compound_order(head) == 3
    tail = machine.kernel.page_of(head.pfn + 5)
    assert tail.first_page is head
    page_alloc.__free_pages(head, 3)
    assert machine.check() == []


def test_a_page_that_is_freed_in_use_is_kept_and_told():
    machine = machine_of(4)
    page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0)
    page._mapcount = 0
    page_alloc.__free_pages(page, 0)
    assert any("freed in use" in text for text in machine.kernel.warnings)


def test_pagetypeinfo():
    machine = machine_of(8, 0, 10, movable=[MiB(4), 0, 0])
    pages = [page_alloc.alloc_pages_node(machine.kernel, 2, GFP_KERNEL, order) for order in (0, 9)]
    lines = pagetypeinfo_text(machine.kernel).splitlines()
    assert lines.count("Page block order: 9") == 2  # a table for each node with memory
    by_zone = [
        f"Node 0, zone   Normal {'0':>12} {'0':>12} {'1':>12} {'1':>12} {'0':>12} {'0':>12} ",
        f"Node 0, zone  Movable {'0':>12} {'0':>12} {'1':>12} {'1':>12} {'0':>12} {'0':>12} ",
        f"Node 2, zone   Normal {'2':>12} {'0':>12} {'2':>12} {'1':>12} {'0':>12} {'0':>12} ",
    ]
    assert [line for line in lines if line.startswith("Node") and ", type" not in line] == by_zone
    free = 0
    for line in lines:
        if line.startswith("Node    2"):
            counts = line.split()[6:]
            free += sum(int(count) << order for order, count in enumerate(counts))
    [zone] = machine.kernel.nodes[2].node_zones
    assert free == zone.vm_stat[NR_FREE_PAGES]
    for page, order in zip(pages, (0, 9), strict=True):
        page_alloc.__free_pages(page, order)


def test_fragmentation_in_numbers():
    """All free memory in single pages: useless for larger blocks, and because of fragmentation."""
    machine = machine_of(4)
    assert machine_indices(machine) == ([0] * MAX_ORDER, [-1000] * MAX_ORDER)
    app = machine.process("app")
    heap = app.mmap(MiB(3))
    app.touch(heap)
    for address in heap.pages()[::2]:
        app.madvise(address, MADV_DONTNEED, length=4096)
    [zone] = machine.kernel.nodes[0].node_zones
    page_alloc.drain_all_pages(machine.kernel)
    rest = []
    while any(area.nr_free for area in zone.free_area[1:]):
        order = max(order for order, area in enumerate(zone.free_area) if area.nr_free)
        rest.append((take_block(machine.kernel, order), order))
    unusable, extfrag = machine_indices(machine)
    assert unusable == [0] + [1000] * (MAX_ORDER - 1)
    free = zone.vm_stat[NR_FREE_PAGES]
    assert extfrag[0] == -1000
    assert extfrag[1:] == [
        1000 - (1000 + free * 1000 // (1 << order)) // free for order in range(1, MAX_ORDER)
    ]
    for page, order in rest:
        page_alloc.__free_pages(page, order)
    assert machine.check() == []


def test_without_free_memory_all_of_it_is_unusable():
    machine = machine_of(4)
    [zone] = machine.kernel.nodes[0].node_zones
    held = take_block(machine.kernel, 10)
    assert machine_indices(machine) == ([1000] * MAX_ORDER, [0] * MAX_ORDER)
    assert zone.vm_stat[NR_FREE_PAGES] == 0
    page_alloc.__free_pages(held, 10)


def take_block(kernel, order, gfp=GFP_KERNEL):
    """A block, whatever the watermarks say."""
    task = sched.task
    task.flags |= PF_MEMALLOC
    page = page_alloc.alloc_pages_node(kernel, 0, gfp, order)
    task.flags &= ~PF_MEMALLOC
    return page


def machine_indices(machine):
    """(unusable_index, extfrag_index) of the only zone, in thousandths."""
    texts = machine.unusable_index, machine.extfrag_index
    assert all(text.startswith("Node 0, zone   Normal ") for text in texts)
    return tuple(
        [round(float(number) * 1000) for number in text.split("Normal")[1].split()]
        for text in texts
    )


def test_zoneinfo():
    machine = machine_of(16, 8, movable=[MiB(8), 0])
    page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0)
    text = machine.zoneinfo
    lines = text.splitlines()
    heads = [line for line in lines if line.startswith("Node")]
    assert heads == [
        f"Node {nid}, zone {name:>8}"
        for nid, name in ((0, "Normal"), (0, "Movable"), (1, "Normal"))
    ]
    normal = machine.kernel.nodes[0].node_zones[0]
    first = text.split("Node 0, zone  Movable")[0]
    for name, value in (
        ("pages free", normal.vm_stat[NR_FREE_PAGES]),
        ("min", normal.watermark[0]),
        ("low", normal.watermark[1]),
        ("high", normal.watermark[2]),
        ("spanned", 2048),
        ("present", 2048),
        ("managed", 2048),
        ("count:", normal.pageset[0].count),
        ("all_unreclaimable:", 1),  # nothing is on any list
        ("start_pfn:", normal.zone_start_pfn),
        ("inactive_ratio:", 1),
    ):
        assert re.search(rf"^ +{name} +{value}$", first, re.M), name
    assert f"protection: (0, 0, 0, {2048 // 32})" in first
    page_alloc.__free_pages(page, 0)


@pytest.mark.parametrize("sizes", [(8, 8), (8, 0, 4)])
def test_what_proc_tells(sizes):
    machine = machine_of(*sizes)
    lines = buddyinfo_text(machine.kernel).splitlines()
    assert len(lines) == sum(1 for size in sizes if size)
    assert lines[0].split()[-1] == str(sizes[0] // 4)
    assert f"nr_free_pages {sum(sizes) * 256}\n" in vmstat_text(machine.kernel)


def test_a_movable_zone_is_for_movable_pages_only():
    machine = machine_of(16, movable=[MiB(8)])
    normal, movable = machine.kernel.nodes[0].node_zones
    assert (normal.name, movable.name) == ("Normal", "Movable")
    page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
    other = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0)
    assert (page.zone, other.zone) == (movable, normal)
    page_alloc.__free_pages(page, 0)
    page_alloc.__free_pages(other, 0)
    assert machine.check() == []


@pytest.mark.parametrize("distances", [((10, 20, 30), (20, 10, 15), (30, 15, 10))])
def test_zonelists_go_by_distance(distances):
    machine = machine_of(4, 4, 4, distances=distances)
    orders = [[z.nid for z in node.node_zonelists[0]] for node in machine.kernel.nodes]
    assert orders == [[0, 1, 2], [1, 2, 0], [2, 1, 0]]
