"""Ranges of frames: isolated pageblocks, alloc_contig_range, CMA."""

from errno import EBUSY, EINTR

import pytest

from mmigrate import Machine, MiB, ScenarioError
from mmigrate.linux.include.gfp import (
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    MIGRATE_CMA,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_UNMOVABLE,
)
from mmigrate.linux.include.vmstat import NR_FREE_CMA_PAGES, NR_FREE_PAGES
from mmigrate.linux.mm import alloc_contig, compaction, page_alloc, page_isolation, swap

BLOCK = 512


def machine_with_memory_in_use(pages=1024, **options):
    machine = Machine(nodes=(MiB(16),), **options)
    app = machine.process("app")
    heap = app.mmap(pages=pages)
    app.touch(heap)
    for number, address in enumerate(heap.pages()):
        app.write(address, number.to_bytes(4, "little"))
    machine.drain_pagevecs()
    return machine, app, heap


def zone_of(machine):
    return machine.kernel.nodes[0].node_zones[0]


def is_whole(machine, app, heap):
    for number, address in enumerate(heap.pages()):
        assert app.read(address, 4) == number.to_bytes(4, "little")
    machine.drain_pagevecs()
    assert machine.check() == []


def block_of(page):
    return page.pfn & ~(BLOCK - 1)


# --- isolated pageblocks ---


def test_an_isolated_pageblock_gives_nothing_and_keeps_what_is_freed():
    machine, app, heap = machine_with_memory_in_use()
    zone = zone_of(machine)
    page = app.page_at(heap.start)
    start = block_of(page)
    free = zone.vm_stat[NR_FREE_PAGES]
    with app.running():
        assert page_isolation.set_migratetype_isolate(zone, start, False) == 0
        inside = page_alloc.get_pageblock_migratetype(zone, start)
        assert (inside, zone.nr_isolate_pageblock) == (MIGRATE_ISOLATE, 1)
        before = zone.vm_stat[NR_FREE_PAGES]
        app.munmap(heap[:512])
        machine.drain_pagevecs()
        page_alloc.drain_all_pages(machine.kernel)
        kinds = {
            kind for pfn, _, kind in page_alloc.free_blocks(zone) if start <= pfn < start + 512
        }
        assert kinds == {MIGRATE_ISOLATE}
        assert zone.vm_stat[NR_FREE_PAGES] < before + 512
        for _ in range(600):
            new = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
            assert block_of(new) != start
            swap.put_page(new)
        page_isolation.unset_migratetype_isolate(zone, start, MIGRATE_MOVABLE)
        page_alloc.drain_all_pages(machine.kernel)
    assert zone.vm_stat[NR_FREE_PAGES] >= free + 512
    assert machine.check() == []


def test_a_neighbour_merges_with_an_isolated_pageblock():
    """A defect that v3.19 has: the isolated pages are in use again, and not counted."""
    machine, app, heap = machine_with_memory_in_use()
    zone = zone_of(machine)
    start = block_of(app.page_at(heap.start))
    with app.running():
        page_isolation.set_migratetype_isolate(zone, start, False)
    for part in (heap[:512], heap[512:]):
        app.munmap(part)
        machine.drain_pagevecs()
        page_alloc.drain_all_pages(machine.kernel)
    blocks = {pfn: (order, kind) for pfn, order, kind in page_alloc.free_blocks(zone)}
    assert blocks[start] == (10, MIGRATE_MOVABLE)
    assert {violation.oracle for violation in machine.check()} == {"frames", "page blocks"}


def test_a_pageblock_with_unmovable_pages_is_refused():
    machine = Machine(nodes=(MiB(16),))
    app = machine.process("app")
    with app.running():
        page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0)
        zone = zone_of(machine)
        assert page_alloc.get_pageblock_migratetype(zone, page.pfn) == MIGRATE_UNMOVABLE
        assert page_isolation.set_migratetype_isolate(zone, page.pfn, False) == -EBUSY
        start = block_of(page) & ~1023
        rc = page_isolation.start_isolate_page_range(
            machine.kernel, start, zone.end_pfn, MIGRATE_UNMOVABLE, False
        )
        assert rc == -EBUSY
        machine.kernel.memory_isolate_chain.append(lambda first, pages: 1)
        assert page_isolation.set_migratetype_isolate(zone, page.pfn, False) == 0
        page_isolation.unset_migratetype_isolate(zone, page.pfn, MIGRATE_UNMOVABLE)
        swap.put_page(page)
    assert machine.check() == []


def test_undone_twice_is_undone_once():
    machine, app, heap = machine_with_memory_in_use()
    zone = zone_of(machine)
    with app.running():
        page_isolation.set_migratetype_isolate(zone, zone.zone_start_pfn, False)
        for _ in range(2):
            page_isolation.unset_migratetype_isolate(zone, zone.zone_start_pfn, MIGRATE_MOVABLE)
    assert zone.nr_isolate_pageblock == 0
    is_whole(machine, app, heap)


# --- alloc_contig_range ---


def test_a_range_in_use_is_emptied_and_handed_over():
    machine, app, heap = machine_with_memory_in_use()
    pfn = block_of(app.page_at(heap.start)) + 100
    taken = machine.alloc_contig(pfn, pfn + 300)
    frames = range(taken.start_pfn, taken.end_pfn)
    assert all(machine.kernel.page_of(number)._count == 1 for number in frames)
    assert not any(app.page_at(address).pfn in frames for address in heap.pages())
    is_whole(machine, app, heap)
    taken.free()
    is_whole(machine, app, heap)
    with pytest.raises(ScenarioError, match="has been freed"):
        taken.free()


def test_memory_nobody_has_used_can_be_had():
    machine = Machine(nodes=(MiB(16),))
    taken = machine.alloc_contig(zone_of(machine).end_pfn - 700, zone_of(machine).end_pfn - 600)
    assert machine.check() == []
    taken.free()
    assert machine.check() == []


def test_a_pinned_page_makes_the_range_busy():
    machine, app, heap = machine_with_memory_in_use()
    pin = app.pin(heap[30:31])
    pfn = pin.pages[0].pfn
    with pytest.raises(OSError) as caught:
        machine.alloc_contig(pfn - 5, pfn + 5)
    assert caught.value.errno == EBUSY
    is_whole(machine, app, heap)
    pin.release()
    machine.alloc_contig(pfn - 5, pfn + 5).free()
    is_whole(machine, app, heap)


def test_clean_file_pages_are_dropped_not_moved():
    machine = Machine(nodes=(MiB(16),))
    app = machine.process("app")
    file = machine.file("data", 64 * 4096, data=b"on disk")
    view = app.mmap(pages=64, file=file)
    app.touch(view, write=False)
    machine.drain_pagevecs()
    pfn = app.page_at(view.start).pfn
    moved = machine.vmstat["pgmigrate_success"]
    machine.alloc_contig(pfn, pfn + 1).free()
    assert machine.vmstat["pgmigrate_success"] == moved
    assert app.page_at(view.start) is None
    assert app.read(view.start, 7) == b"on disk"
    assert machine.check() == []


def test_no_range_of_this_machine():
    machine = Machine(nodes=(MiB(16),))
    for start, end in ((0, 5), (2000, 2000), (1 << 30, (1 << 30) + 1)):
        with pytest.raises(ScenarioError, match="not a range"):
            machine.alloc_contig(start, end)


# --- CMA ---


def test_an_area_is_lent_to_movable_pages_only():
    machine = Machine(nodes=(MiB(32),))
    area = machine.cma(MiB(8))
    zone = zone_of(machine)
    assert zone.vm_stat[NR_FREE_CMA_PAGES] == 2048
    assert machine.vmstat["nr_free_cma"] == 2048
    app = machine.process("app")
    with app.running():
        taken = []
        while (page := page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0)) is not None:
            taken.append(page)
        assert not any(page.pfn in area.frames for page in taken)
        # movable pages may still use the area, down to the mark
        movable = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
        assert movable.pfn in area.frames
        for page in [*taken, movable]:
            swap.put_page(page)
    assert machine.check() == []


def test_what_is_lent_moves_when_it_is_wanted():
    machine = Machine(nodes=(MiB(32),))
    area = machine.cma(MiB(16))
    app = machine.process("app")
    heap = app.mmap(MiB(20))
    app.touch(heap)
    lent = sum(app.page_at(address).pfn in area.frames for address in heap.pages())
    assert lent > 0
    app.munmap(heap[: MiB(10) // 4096])
    taken = area.alloc(512, align=9)
    assert taken.start_pfn % 512 == 0
    assert taken.start_pfn in area.frames
    assert machine.check() == []
    taken.free()
    zone = zone_of(machine)
    kinds = {page_alloc.get_pageblock_migratetype(zone, pfn) for pfn in area.frames}
    assert kinds == {MIGRATE_CMA}
    assert machine.check() == []


def test_a_busy_place_is_passed_over():
    machine = Machine(nodes=(MiB(32),))
    area = machine.cma(MiB(8))
    first = area.alloc(100)
    second = area.alloc(100)
    assert (first.start_pfn, second.start_pfn) == (area.frames[0], area.frames[100])
    first.free()
    app = machine.process("app")
    heap = app.mmap(MiB(24) - 4096 * 700)
    app.touch(heap)
    lent = [address for address in heap.pages() if app.page_at(address).pfn in area.frames]
    pin = app.pin(min(lent, key=lambda address: app.page_at(address).pfn), length=4096)
    app.munmap(heap[:1000])
    third = area.alloc(100)
    assert third.start_pfn > pin.pages[0].pfn
    pin.release()
    assert machine.check() == []


def test_an_area_that_cannot_be():
    machine = Machine(nodes=(MiB(16),))
    for size in (0, 4096, MiB(64)):
        with pytest.raises(ScenarioError, match="has no free range"):
            machine.cma(size)
    with pytest.raises(ScenarioError, match="no node 3"):
        machine.cma(MiB(4), node=3)
    with pytest.raises(OSError, match="Cannot allocate"):
        machine.cma(MiB(4)).alloc(2000)
    assert machine.check() == []


def test_an_interrupted_isolation_is_eintr(monkeypatch):
    machine, app, heap = machine_with_memory_in_use()
    monkeypatch.setattr(compaction, "isolate_migratepages_range", lambda *_: 0)
    pfn = app.page_at(heap.start).pfn
    with app.running():
        rc = alloc_contig.alloc_contig_range(machine.kernel, pfn, pfn + 1)
    assert rc == -EINTR
    is_whole(machine, app, heap)
