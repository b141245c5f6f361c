"""Compaction: scanners, their own free list, deferral, hints, and what it is good for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate import Machine, Mapping, MiB, ScenarioError
from mmigrate.linux.include.gfp import (
    __GFP_COMP,
    __GFP_NORETRY,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOFS,
    MIGRATE_UNMOVABLE,
)
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC, MIGRATE_SYNC, MIGRATE_SYNC_LIGHT
from mmigrate.linux.include.mm import MADV_DONTNEED, MADV_HUGEPAGE
from mmigrate.linux.include.page_flags import PG_swapbacked
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.mm import compaction, page_alloc, swap, vmstat
from mmigrate.linux.mm.compaction import (
    COMPACT_COMPLETE,
    COMPACT_CONTENDED_LOCK,
    COMPACT_CONTINUE,
    COMPACT_PARTIAL,
    COMPACT_SKIPPED,
    CompactControl,
    compact_zone,
)

PAGE = 4096
DESTINATION_FREEING_CALLBACK = "68711a746345"


def fragmented(size=8 << 20, every=2, **options):
    """(machine, app, kept addresses): most of the only node in use, and every n-th page kept."""
    machine = Machine(nodes=(size,), **options)
    app = machine.process("app")
    return machine, app, fragment(machine, app, size, every)


def fragment(machine, app, size=8 << 20, every=2):
    heap = app.mmap(pages=size // PAGE * 9 // 10)
    app.touch(heap)
    addresses = list(heap.pages())
    kept = addresses[::every]
    for number, address in enumerate(kept):
        app.write(address, number.to_bytes(4, "little"))
    for number, address in enumerate(addresses):
        if number % every:
            app.madvise(address, MADV_DONTNEED, PAGE)
    machine.drain_pagevecs()
    page_alloc.drain_all_pages(machine.kernel)
    return kept


def zone_of(machine):
    return machine.kernel.nodes[0].node_zones[0]


def is_whole(machine, app, kept):
    for number, address in enumerate(kept):
        assert app.read(address, 4) == number.to_bytes(4, "little")
    machine.drain_pagevecs()
    assert machine.check() == []


def large_blocks(machine, order=9):
    zone = zone_of(machine)
    found = sum(area.nr_free << o >> order for o, area in enumerate(zone.free_area) if o >= order)
    return found + sum((end - start) >> order for start, end in zone.untouched)


# --- what it is good for ---


@pytest.mark.parametrize("every", [2, 3, 10])
def test_free_memory_becomes_large_blocks(every):
    machine, app, kept = fragmented(every=every)
    before = large_blocks(machine)
    machine.compact()
    machine.drain_pagevecs()
    page_alloc.drain_all_pages(machine.kernel)
    free = zone_of(machine).vm_stat[0] // 512
    assert large_blocks(machine) >= max(before + 1, free - 1)
    assert machine.vmstat["pgmigrate_success"] > 0
    assert machine.vmstat["compact_stall"] == 0
    is_whole(machine, app, kept)


def test_a_node_of_its_own_and_one_that_is_not():
    machine, app, kept = fragmented()
    machine.compact(node=0)
    assert machine.vmstat["pgmigrate_success"] > 0
    with pytest.raises(ScenarioError, match="no node 1"):
        machine.compact(node=1)
    is_whole(machine, app, kept)


def test_an_allocation_of_a_large_block_compacts_by_itself():
    machine, app, kept = fragmented()
    assert large_blocks(machine, 8) == 0
    with app.running():
        block = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL | __GFP_COMP, 8)
    assert block is not None
    stat = machine.vmstat
    assert (stat["compact_stall"], stat["compact_success"], stat["compact_fail"]) == (1, 1, 0)
    with app.running():
        swap.put_page(block)
    is_whole(machine, app, kept)


@pytest.mark.parametrize("gfp", [GFP_NOFS, 0])
def test_not_for_who_may_not_start_io_in_filesystems(gfp):
    machine, app, kept = fragmented()
    with app.running():
        assert page_alloc.alloc_pages_node(machine.kernel, 0, gfp | __GFP_NORETRY, 8) is None
    assert machine.vmstat["compact_stall"] == 0
    is_whole(machine, app, kept)


def test_a_huge_page_is_won_by_compaction():
    machine, app, kept = fragmented(MiB(16))
    assert large_blocks(machine) == 0
    area = app.mmap(2 << 21)
    app.madvise(area, MADV_HUGEPAGE)
    where = (area.start + (2 << 20)) & -(2 << 20)
    app.write(where, b"huge")
    assert machine.vmstat["thp_fault_alloc"] == 1
    is_whole(machine, app, kept)


# --- the scanners ---


def test_pinned_anonymous_pages_are_passed_over():
    machine, app, kept = fragmented()
    pins = [app.pin(Mapping(address, PAGE)) for address in kept]
    machine.compact()
    assert machine.vmstat["compact_free_scanned"] == 0
    for pin in pins:
        pin.release()
    is_whole(machine, app, kept)


@pytest.mark.parametrize("without", [(), (DESTINATION_FREEING_CALLBACK,)])
def test_pages_that_fail_do_not_use_up_the_free_scanner(without):
    machine = Machine(nodes=(MiB(8),), without=without)
    app = machine.process("app")
    file = machine.file("data", 8 * PAGE)
    view = app.mmap(pages=8, file=file, shared=True)
    app.touch(view)
    kept = fragment(machine, app)
    pins = [app.pin(view)] + [app.pin(Mapping(address, PAGE)) for address in kept]
    machine.compact()
    assert machine.vmstat["pgmigrate_success"] == 0
    taken = machine.vmstat["compact_isolated"] - 8
    assert taken >= 80 if without else taken <= 16
    for pin in pins:
        pin.release()
    is_whole(machine, app, kept)


def test_a_contended_lock_ends_an_asynchronous_run():
    machine, app, kept = fragmented()
    zone = zone_of(machine)
    other = machine.process("other")
    with other.running():
        spin_lock(zone.lru_lock)
    cc = CompactControl(zone, 8, MIGRATE_ASYNC)
    with app.running():
        assert compact_zone(zone, cc) == COMPACT_PARTIAL
    assert cc.contended == COMPACT_CONTENDED_LOCK
    assert machine.vmstat["pgmigrate_success"] == 0
    with other.running():
        spin_unlock(zone.lru_lock)
    is_whole(machine, app, kept)


def test_pages_isolated_before_the_contention_are_put_back_uncounted():
    """The defect of v3.19: NR_ISOLATED_* falls below zero."""
    machine, app, kept = fragmented()
    zone = zone_of(machine)
    cc = CompactControl(zone, 8, MIGRATE_ASYNC)

    class Contend:
        """Somebody takes lru_lock when the scanner lets go of it."""

        seen = 0

        def announce(self, obj, field, kind):
            if obj is zone.lru_lock and obj.owner is sched.task:
                self.seen += 1
                self.release = True
            elif getattr(self, "release", False) and obj is not zone.lru_lock:
                self.release = False
                if zone.lru_lock.owner is None and cc.nr_migratepages:
                    zone.lru_lock.owner = machine.kernel.tasks[0]

        def wait(self, obj, field, kind, until):
            if obj is zone.lru_lock and obj.owner is machine.kernel.tasks[0]:
                obj.owner = None  # it lets go of it in time
            assert until()

    previous = sched.install(Contend())
    try:
        with app.running():
            assert compact_zone(zone, cc) == COMPACT_PARTIAL
    finally:
        sched.install(previous)
        zone.lru_lock.owner = None
    assert machine.vmstat["nr_isolated_anon"] < 0
    zone.vm_stat[22] = 0  # what the kernel never mends
    is_whole(machine, app, kept)


@pytest.mark.parametrize(("mode", "moved"), [(MIGRATE_ASYNC, False), (MIGRATE_SYNC_LIGHT, True)])
def test_only_a_patient_run_looks_into_unmovable_blocks(mode, moved):
    machine, app, kept = fragmented()
    zone = zone_of(machine)
    end = zone.end_pfn - 512
    for pfn in range(zone.zone_start_pfn, end, 512):
        page_alloc.set_pageblock_migratetype(zone, pfn, MIGRATE_UNMOVABLE)
    before = [machine.page_of(app, address) for address in kept]
    cc = CompactControl(zone, -1, mode)
    with app.running():
        compact_zone(zone, cc)
    after = [machine.page_of(app, address) for address in kept]
    changed = [old for old, new in zip(before, after, strict=True) if old is not new]
    assert any(page.pfn < end for page in changed) is moved
    is_whole(machine, app, kept)


def test_unevictable_pages_stay():
    machine, app, kept = fragmented(every=1)
    app.mlockall()
    machine.compact()
    assert machine.vmstat["pgmigrate_success"] == 0
    is_whole(machine, app, kept)


def test_blocks_that_gave_nothing_are_passed_over_until_asked_to_look_again():
    machine, app, kept = fragmented(every=1)
    pins = app.pin(Mapping(kept[0], PAGE * len(kept)))
    zone = zone_of(machine)
    with app.running():
        compact_zone(zone, CompactControl(zone, -1, MIGRATE_SYNC))
    assert zone.pageblock_skip
    assert zone.compact_blockskip_flush
    before = machine.vmstat["compact_migrate_scanned"]
    with app.running():
        compact_zone(zone, CompactControl(zone, -1, MIGRATE_SYNC))
    assert machine.vmstat["compact_migrate_scanned"] == before
    machine.compact()  # which ignores the hints
    assert machine.vmstat["compact_migrate_scanned"] > before
    compaction.reset_isolation_suitable(machine.kernel.nodes[0])
    assert not zone.pageblock_skip
    assert not zone.compact_blockskip_flush
    pins.release()
    is_whole(machine, app, kept)


def test_a_destination_comes_back_without_swapbacked():
    machine, _, _ = fragmented()
    zone = zone_of(machine)
    cc = CompactControl(zone, -1, MIGRATE_SYNC)
    page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
    compaction.compaction_free(page, cc)
    assert cc.nr_freepages == 1
    assert compaction.compaction_alloc(page, cc, [None]) is page
    assert not page.flags & PG_swapbacked
    assert cc.nr_freepages == 0
    swap.put_page(page)
    machine.drain_pagevecs()
    assert machine.check() == []


# --- whether to run at all ---


def test_suitable():
    machine, app, kept = fragmented()
    zone = zone_of(machine)
    assert compaction.compaction_suitable(zone, -1, 0, 0) == COMPACT_CONTINUE
    assert compaction.compaction_suitable(zone, 0, 0, 0) == COMPACT_PARTIAL
    assert compaction.compaction_suitable(zone, 8, 0, 0) == COMPACT_CONTINUE
    with app.running():
        taken = []
        while zone.vm_stat[0] > zone.watermark[1] + 300:
            taken.append(page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0))
        assert compaction.compaction_suitable(zone, 9, 0, 0) == COMPACT_SKIPPED
        for page in taken:
            page_alloc.__free_pages(page, 0)
    is_whole(machine, app, kept)


def test_fragmentation_index():
    machine, _, _ = fragmented()
    zone = zone_of(machine)
    assert vmstat.fragmentation_index(zone, 0) == -1000
    assert 900 < vmstat.fragmentation_index(zone, 9) < 1000
    empty = Machine(nodes=(MiB(8),))
    assert vmstat.fragmentation_index(zone_of(empty), 9) == -1000


def test_a_whole_run_ends_complete_and_begins_anew():
    machine, app, kept = fragmented()
    zone = zone_of(machine)
    cc = CompactControl(zone, -1, MIGRATE_SYNC)
    with app.running():
        assert compact_zone(zone, cc) == COMPACT_COMPLETE
    assert zone.compact_cached_migrate_pfn == [zone.zone_start_pfn] * 2
    is_whole(machine, app, kept)


def test_deferral():
    machine = Machine(nodes=(MiB(8),))
    zone = zone_of(machine)
    assert not compaction.compaction_deferred(zone, 9)
    for _ in range(3):
        compaction.defer_compaction(zone, 9)
    assert zone.compact_defer_shift == 3
    zone.compact_order_failed = 9
    assert not compaction.compaction_deferred(zone, 8)
    assert [compaction.compaction_deferred(zone, 9) for _ in range(9)] == [True] * 7 + [False] * 2
    compaction.compaction_defer_reset(zone, 9, False)
    assert (zone.compact_order_failed, zone.compact_defer_shift) == (10, 3)
    compaction.compaction_defer_reset(zone, 9, True)
    assert (zone.compact_considered, zone.compact_defer_shift) == (0, 0)
    for _ in range(10):
        compaction.defer_compaction(zone, 9)
    assert zone.compact_defer_shift == 6
    zone.compact_considered = 64
    assert compaction.compaction_restarting(zone, 9)


def test_kswapd_compacts_asynchronously():
    machine, app, kept = fragmented()
    with app.running():
        compaction.compact_pgdat(machine.kernel.nodes[0], 0)
        assert machine.vmstat["pgmigrate_success"] == 0
        compaction.compact_pgdat(machine.kernel.nodes[0], 8)
    assert machine.vmstat["pgmigrate_success"] > 0
    assert machine.vmstat["compact_stall"] == 0
    is_whole(machine, app, kept)


# --- with others ---


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rival", ["write", "munmap", "fork", "move_pages", "compact"])
def test_rivals(rival, seed):
    machine, app, kept = fragmented(MiB(2), every=5, cpus=(0, 0))
    area = app.mmap(pages=4)
    app.write(area.start, b"first")
    machine.drain_pagevecs()
    machine.start(machine.compact, cpu=0)
    call = {
        "write": (app.write, area.start, b"other"),
        "munmap": (app.munmap, area),
        "fork": (app.fork, "child"),
        "move_pages": (app.move_pages, area, 0),
        "compact": (machine.compact, 0),
    }[rival]
    machine.start(*call, cpu=1)
    machine.run(seed=seed)
    is_whole(machine, app, kept)


@given(st.lists(st.booleans(), min_size=300, max_size=500), st.sampled_from([-1, 4, 9]))
def test_any_pattern_of_pages_survives(pattern, order):
    machine = Machine(nodes=(MiB(4),))
    app = machine.process("app")
    heap = app.mmap(pages=len(pattern))
    app.touch(heap)
    kept = []
    for number, address in enumerate(heap.pages()):
        if pattern[number]:
            app.write(address, len(kept).to_bytes(4, "little"))
            kept.append(address)
        else:
            app.madvise(address, MADV_DONTNEED, PAGE)
    zone = zone_of(machine)
    with app.running():
        swap.lru_add_drain_all(machine.kernel)
        cc = CompactControl(zone, order, MIGRATE_SYNC)
        compact_zone(zone, cc)
    assert cc.nr_freepages == cc.nr_migratepages == 0
    is_whole(machine, app, kept)
