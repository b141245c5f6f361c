"""Lists of single pages of a CPU: filled at once, with what one page after another would give."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate import Machine, MiB
from mmigrate.linux.include.gfp import MIGRATE_CMA, MIGRATE_TYPES
from mmigrate.linux.include.mmzone import PAGEBLOCK_NR_PAGES
from mmigrate.linux.include.page_flags import PAGE_BUDDY_MAPCOUNT_VALUE
from mmigrate.linux.include.vmstat import NR_FREE_CMA_PAGES, NR_FREE_PAGES
from mmigrate.linux.kernel import sched
from mmigrate.linux.lib.list import list_add, list_add_tail, list_del
from mmigrate.linux.mm import page_alloc, page_boot


def one_by_one(zone, pcp, migratetype, cold):
    """mm/page_alloc.c: rmqueue_bulk, step by step."""
    head = pcp.lists[migratetype]
    taken = of_cma = 0
    while taken < pcp.batch:
        page = page_alloc.__rmqueue(zone, 0, migratetype)
        if page is None:
            break
        of_cma += page.index == MIGRATE_CMA
        if cold:
            list_add_tail(page, head)
        else:
            list_add(page, head)
            head = page
        taken += 1
    zone.vm_stat[NR_FREE_PAGES] -= taken
    zone.vm_stat[NR_FREE_CMA_PAGES] -= of_cma
    pcp.count += taken


def prepared(sizes, realised, types, holes):
    """A zone whose free memory is in pieces of several types."""
    size, movable = sizes
    machine = Machine(nodes=[MiB(size)], movable=[MiB(movable)])
    sched.run_as(machine.kernel.tasks[0])
    zone = machine.kernel.nodes[0].node_zones[-1]
    page_boot.realise_range(zone, zone.zone_start_pfn, zone.zone_start_pfn + realised)
    for block, kind in types:
        pfn = zone.zone_start_pfn + block * PAGEBLOCK_NR_PAGES
        if pfn < zone.zone_start_pfn + realised and pfn < zone.end_pfn:
            page_alloc.set_pageblock_migratetype(zone, pfn, kind)
            page_alloc.move_freepages_block(zone, pfn, kind)
    held = []
    for order, kind, keep in holes:
        page = page_alloc._take_block(zone, order, kind)
        if page is not None:
            held.append((page, order, keep))
    for page, order, keep in held:
        if not keep:
            kind = page_alloc.get_pageblock_migratetype(zone, page.pfn)
            page_alloc._free_one_page(zone, page, order, kind)
    for page in itertools.chain.from_iterable(zone.kernel.mem_map.values()):
        if page and page._mapcount != PAGE_BUDDY_MAPCOUNT_VALUE and not page._count:
            page.private, page._mapcount = 7, 5  # what stands inside of a block means nothing
    return zone


def everything(zone):
    """All that the allocator knows of a zone, each list in its order."""
    pages = {
        number: [page and page_state(page) for page in section]
        for number, section in zone.kernel.mem_map.items()
    }
    lists = [
        {
            kind: ([page.pfn for page in head], [page.pfn for page in reversed(head)])
            for kind, head in area.free_list.items()
            if head.next is not head
        }
        for area in zone.free_area
    ]
    free = [area.nr_free for area in zone.free_area]
    pcps = [
        [([p.pfn for p in head], [p.pfn for p in reversed(head)]) for head in pcp.lists]
        for pcp in zone.pageset
    ]
    counts = [pcp.count for pcp in zone.pageset]
    return (
        (list(pages.items()), lists, free, pcps, counts),
        (zone.vm_stat, zone.untouched, zone.pageblock_type, zone.kernel.warnings),
    )


def page_state(page):
    return page.pfn, page.private, page._mapcount, page.index, page._count, page.flags


KINDS = st.integers(0, MIGRATE_TYPES - 2)  # none is isolated
ZONES = st.tuples(
    st.sampled_from([(1, 0), (3, 0), (4, 0), (9, 0), (9, 4), (17, 0)]),
    st.sampled_from([0, 1024, 2048, 4096]),
    st.lists(st.tuples(st.integers(0, 4), KINDS), max_size=4),
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 2), st.booleans()), max_size=30),
)
FILLS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 31), st.integers(0, 8)),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@given(ZONES, FILLS)
def test_a_batch_is_what_one_page_after_another_is(shape, fills):
    whole, single = prepared(*shape), prepared(*shape)
    for kind, cold, batch, used in fills:
        for zone, fill in ((whole, page_alloc._rmqueue_bulk), (single, one_by_one)):
            pcp = zone.pageset[0]
            pcp.batch = batch
            for page in list(pcp.lists[kind])[:used]:
                list_del(page)
                pcp.count -= 1
            fill(zone, pcp, kind, cold)
        assert everything(whole) == everything(single)
