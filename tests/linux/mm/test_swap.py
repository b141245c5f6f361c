"""LRU lists, swap-out and swap-in, swapoff, reclaim's verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate import Machine, MiB
from mmigrate.linux.drivers import block
from mmigrate.linux.include.gfp import __GFP_COMP, GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_dirty,
    PG_lru,
    PG_reclaim,
    PG_referenced,
    PG_swapbacked,
    PG_unevictable,
)
from mmigrate.linux.include.pgtable import swp_entry, swp_offset
from mmigrate.linux.include.vmstat import LRU_INACTIVE_FILE, NR_LRU_BASE
from mmigrate.linux.kernel.page_flags import page_lru
from mmigrate.linux.mm import page_alloc, swap, swapfile, vmscan


@pytest.fixture
def machine():
    machine = Machine(nodes=(MiB(8), MiB(8)))
    yield machine
    machine.finish_io()
    machine.drain_pagevecs()
    assert [str(v) for v in machine.check()] == []


@pytest.fixture
def app(machine):
    return machine.process("app")


def test_a_page_waits_in_a_vector_before_it_is_on_a_list(machine, app):
    heap = app.mmap(pages=1)
    app.touch(heap)
    page = machine.page_of(app, heap.start)
    assert not page.flags & PG_lru
    assert page._count == 2
    machine.drain_pagevecs()
    assert page.flags & PG_lru
    assert page._count == 1


def test_the_fifteenth_page_drains_the_vector(machine, app):
    app.touch(app.mmap(pages=15))
    assert machine.vmstat["nr_active_anon"] == 14


def test_used_twice_is_active(machine, app):
    file = machine.file("f", 4096)
    app.pread(file, 1)
    machine.drain_pagevecs()
    [page] = file.i_mapping.page_tree.slots.values()
    assert page.flags & PG_referenced
    app.pread(file, 1)
    machine.drain_pagevecs()
    assert page.flags & PG_active
    assert machine.vmstat["pgactivate"] == 1


def test_swap_out_and_in(machine, app):
    area = machine.swapon(MiB(1))
    heap = app.mmap(pages=3)
    for number, address in enumerate(heap.pages()):
        app.write(address, b"page %d" % number)
    assert machine.swap_out(app, heap) == 3
    assert area.used == 3
    assert (machine.vmstat["pswpout"], machine.vmstat["nr_anon_pages"]) == (3, 0)
    for number, address in enumerate(heap.pages()):
        assert app.read(address, 6) == b"page %d" % number
    assert machine.vmstat["pswpin"] == 3
    app.touch(heap)
    assert area.used == 0  # a store took the pages out of the swap cache


def test_a_forked_page_is_swapped_once_and_comes_back_for_both(machine, app):
    area = machine.swapon(MiB(1))
    heap = app.mmap(pages=1)
    app.write(heap.start, b"both")
    child = app.fork()
    assert machine.swap_out(app, heap) == 1
    assert area.counts[1] == 2
    assert child.read(heap.start, 4) == app.read(heap.start, 4) == b"both"
    assert machine.page_of(app, heap.start) is machine.page_of(child, heap.start)


def test_without_room_pages_stay(machine, app):
    machine.swapon(3 * 4096)  # the header and two places
    heap = app.mmap(pages=4)
    app.touch(heap)
    assert machine.swap_out(app, heap) == 2
    assert app.placement(heap) == {0: 2}


def test_a_write_that_fails_leaves_the_page(machine, app):
    area = machine.swapon(MiB(1))
    heap = app.mmap(pages=1)
    app.write(heap.start, b"only copy")
    block.disk(machine.kernel, area.device).fail = 2
    assert machine.swap_out(app, heap) == 0
    assert app.read(heap.start, 9) == b"only copy"


def test_shared_memory_goes_to_swap_and_back(machine, app):
    machine.swapon(MiB(1))
    segment = machine.shmem("s", 2 * 4096)
    view = app.mmap(pages=2, file=segment, shared=True)
    app.write(view.start, b"segment")
    assert machine.swap_out(app, view) == 1
    assert machine.vmstat["nr_shmem"] == 0
    assert app.read(view.start, 7) == b"segment"


@pytest.mark.parametrize("kind", ["anonymous", "shared", "cached"])
def test_swapoff_brings_everything_back(machine, app, kind):
    area = machine.swapon(MiB(1))
    if kind == "shared":
        heap = app.mmap(pages=2, file=machine.shmem("s", 2 * 4096), shared=True)
    else:
        heap = app.mmap(pages=2)
    app.write(heap.start, b"back")
    app.touch(heap)
    machine.swap_out(app, heap)
    if kind == "cached":
        app.read(heap.start, 1)
    machine.swapoff(area)
    assert machine.kernel.swap.areas == [None]
    assert app.read(heap.start, 4) == b"back"


def test_exit_gives_places_back(machine, app):
    area = machine.swapon(MiB(1))
    heap = app.mmap(pages=2)
    app.touch(heap)
    machine.swap_out(app, heap)
    app.exit()
    assert area.used == 0


def test_reclaim_does_not_write_file_pages(machine, app):
    file = machine.file("f", 4096)
    view = app.mmap(pages=1, file=file, shared=True)
    app.write(view.start, b"dirty")
    assert machine.swap_out(app, view) == 0
    assert machine.vmstat["nr_vmscan_immediate_reclaim"] > 0
    machine.fsync(file)
    app.read(view.start, 1)
    assert machine.swap_out(app, view) == 1


def test_the_flusher_writes_what_is_dirty(machine, app):
    file = machine.file("f", 4096)
    app.pwrite(file, b"by the flusher")
    machine.start_flusher()
    machine.run()
    machine.finish_io()
    assert machine.vmstat["nr_dirty"] == machine.vmstat["nr_writeback"] == 0
    assert file.blocks[0].startswith(b"by the flusher")


@given(st.lists(st.tuples(st.sampled_from("dfcu"), st.integers(0, 5)), max_size=40))
def test_counts_of_places(steps):
    """Against a dict: duplicate, free, cache, uncache."""
    machine = Machine(nodes=(MiB(4),))
    area = machine.swapon(6 * 4096)
    app = machine.process("app")
    counts, cached = {}, set()
    with app.running():
        for what, place in steps:
            entry = swp_entry(0, place)
            if what == "d" and (place in counts or place in cached):
                assert swapfile.swap_duplicate(entry) == 0
                counts[place] = counts.get(place, 0) + 1
            elif what == "f" and counts.get(place):
                swapfile.swap_free(entry)
                counts[place] -= 1
                if not counts[place]:
                    del counts[place]
            elif what == "c":
                got = swp_offset(swapfile.get_swap_page(machine.kernel))
                free = set(range(1, 6)) - set(counts) - cached
                assert (got in free) if free else got == 0
                if got:
                    cached.add(got)
            elif what == "u" and place in cached:
                swapfile.swapcache_free(entry)
                cached.discard(place)
            assert area.used == len(set(counts) | cached)


def test_vectors_of_another_cpu_are_emptied_there(machine):
    app = machine.process("app", cpu=1)
    heap = app.mmap(pages=1)
    app.touch(heap)
    assert machine.kernel.cpus[1].pagevecs[swap.LRU_ADD]
    machine.process("other", cpu=0)
    machine.drain_pagevecs()
    assert not machine.kernel.cpus[1].pagevecs[swap.LRU_ADD]


# --- lists and vectors, directly ---

OPERATIONS = st.sampled_from(
    ["add", "drain", "isolate", "putback", "activate", "accessed", "deactivate", "rotate", "put"]
)


class Lists:
    """Pages of two zones and two kinds, moved by one CPU."""

    def __init__(self):
        self.kernel = Machine(nodes=(MiB(4), MiB(4))).kernel
        self.pages = [
            page_alloc.alloc_pages_node(self.kernel, nid, GFP_HIGHUSER_MOVABLE, 0)
            for nid in (0, 1, 0, 1)
        ]
        for page in self.pages[:2]:
            page.flags |= PG_swapbacked
        self.isolated = set()
        self.added = set()

    def step(self, what, number):
        """Do something to a page that may be done to it."""
        page = self.pages[number]
        if what == "drain":
            swap.lru_add_drain()
        elif page._count == 0:
            return
        elif what == "add" and number not in self.added:
            swap.lru_cache_add(page)
            self.added.add(number)
        elif what == "isolate" and number not in self.isolated:
            if vmscan.isolate_lru_page(page) == 0:
                self.isolated.add(number)
        elif what == "putback" and number in self.isolated:
            vmscan.putback_lru_page(page)
            self.isolated.discard(number)
        elif what == "activate":
            swap.activate_page(page)
        elif what == "accessed":
            swap.mark_page_accessed(page)
        elif what == "deactivate":
            swap.deactivate_page(page)
        elif what == "rotate":
            swap.rotate_reclaimable_page(page)
        elif what == "put" and number in self.added and number not in self.isolated:
            swap.put_page(page)

    def check(self):
        """Every page with PG_lru is once on the list its flags say; counters count lists;
        references are ours, of isolations and of vectors."""
        in_vectors = [
            page for cpu in self.kernel.cpus for vector in cpu.pagevecs.values() for page in vector
        ]
        for node in self.kernel.nodes:
            for zone in node.node_zones:
                for lru, head in enumerate(zone.lruvec.lists):
                    on_list = list(head)
                    assert all(page_lru(page) == lru for page in on_list)
                    assert all(page.zone is zone and page.flags & PG_lru for page in on_list)
                    assert zone.vm_stat[NR_LRU_BASE + lru] == len(on_list)
                    assert on_list == list(reversed(list(reversed(head))))
        listed = [
            page
            for node in self.kernel.nodes
            for zone in node.node_zones
            for head in zone.lruvec.lists
            for page in head
        ]
        for number, page in enumerate(self.pages):
            assert listed.count(page) == (1 if page.flags & PG_lru else 0)
            if page._count:
                assert page._count - (number in self.isolated) - in_vectors.count(page) in (0, 1)


@given(st.lists(st.tuples(OPERATIONS, st.integers(0, 3)), max_size=60))
def test_lists_flags_counters_and_references_agree(steps):
    lists = Lists()
    put = set()
    for what, number in steps:
        if what == "put" and number in put:
            continue
        before = lists.pages[number]._count
        lists.step(what, number)
        if what == "put" and lists.pages[number]._count < before:
            put.add(number)
        lists.check()
    assert lists.kernel.warnings == []


def test_release_pages_frees_the_last_first():
    machine = Machine(nodes=(MiB(64),))  # enough for a CPU to keep free pages of its own
    kernel = machine.kernel
    pages = [page_alloc.alloc_pages_node(kernel, 0, GFP_HIGHUSER_MOVABLE, 0) for _ in range(3)]
    for page in pages:
        swap.lru_cache_add(page)
    swap.lru_add_drain()
    swap.release_pages(pages)
    assert machine.vmstat["nr_inactive_file"] == 0
    again = page_alloc.alloc_pages_node(kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
    assert again is pages[0]
    swap.put_page(again)


def test_a_page_that_was_never_on_a_list_is_freed_without_its_mark(machine):
    page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
    page.flags |= PG_active
    swap.release_pages([page])
    assert (page.flags, machine.kernel.warnings) == (0, [])


def test_the_head_of_a_block_frees_all_of_it(machine):
    kernel = machine.kernel
    machine.drain_pagevecs()
    free = machine.vmstat["nr_free_pages"]
    head = page_alloc.alloc_pages_node(kernel, 0, GFP_HIGHUSER_MOVABLE | __GFP_COMP, 3)
    assert machine.vmstat["nr_free_pages"] == free - 8
    swap.release_pages([head])
    assert machine.vmstat["nr_free_pages"] == free


def test_a_page_used_twice_while_in_the_vector_is_added_as_active(machine, app):
    file = machine.file("f", 4096)
    with app.running():
        app.pread(file, 1)
        [page] = file.i_mapping.page_tree.slots.values()
        app.pread(file, 1)
        assert page.flags & (PG_active | PG_lru) == PG_active
        swap.lru_add_drain()
    assert machine.vmstat["nr_active_file"] == 1
    assert machine.vmstat["pgactivate"] == 0  # it was not moved


def test_a_page_of_a_locked_area_goes_straight_to_the_unevictable_list(machine, app):
    heap = app.mmap(pages=1, locked=True)
    app.touch(heap)
    page = machine.page_of(app, heap.start)
    assert page.flags & (PG_lru | PG_unevictable | PG_active) == PG_lru | PG_unevictable
    assert machine.vmstat["nr_mlock"] == machine.vmstat["unevictable_pgs_mlocked"] == 1


def test_an_active_page_that_could_not_be_invalidated_becomes_the_next_victim(machine, app):
    file = machine.file("f", 2 * 4096)
    for _ in range(2):
        app.pread(file, 2 * 4096)
    machine.drain_pagevecs()
    first, second = file.i_mapping.page_tree.slots.values()
    swap.deactivate_page(first)
    second.flags |= PG_dirty
    swap.deactivate_page(second)
    machine.drain_pagevecs()
    assert not first.flags & PG_reclaim
    assert second.flags & PG_reclaim
    second.flags &= ~(PG_dirty | PG_reclaim)
    inactive = first.zone.lruvec.lists[LRU_INACTIVE_FILE]
    assert list(inactive) == [second, first]  # the clean one last, where reclaim begins
    assert machine.vmstat["pgdeactivate"] == 2
    assert machine.vmstat["pgrotated"] == 1


def test_a_page_in_use_is_not_deactivated(machine, app):
    heap = app.mmap(pages=1)
    app.touch(heap)
    machine.drain_pagevecs()
    swap.deactivate_page(machine.page_of(app, heap.start))
    machine.drain_pagevecs()
    assert (machine.vmstat["nr_active_anon"], machine.vmstat["pgdeactivate"]) == (1, 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_vector_that_is_being_drained_is_waited_for(seed):
    """When lru_add_drain_all returns, all that was in a vector before is on a list, also what
    its CPU is just putting there."""
    machine = Machine(nodes=(MiB(4), MiB(4)), cpus=(0, 1))
    kernel = machine.kernel
    pages = [page_alloc.alloc_pages_node(kernel, 0, GFP_HIGHUSER_MOVABLE, 0) for _ in range(15)]
    added = []

    def fill():
        for page in pages:
            swap.lru_cache_add(page)
            added.append(page)

    def drain():
        before = list(added)
        swap.lru_add_drain_all(kernel)
        assert all(page.flags & PG_lru for page in before)

    machine.start(fill, cpu=1)
    for _ in range(4):
        machine.start(drain, cpu=0)
    machine.run(seed=seed)


def test_nobody_else_of_its_cpu_runs_while_a_vector_is_drained(preempt):
    machine = Machine(nodes=(MiB(4),), cpus=(0,))
    kernel = machine.kernel
    pages = [page_alloc.alloc_pages_node(kernel, 0, GFP_HIGHUSER_MOVABLE, 0) for _ in range(40)]

    def add(some):
        for page in some:
            swap.lru_cache_add(page)
            assert len(kernel.cpus[0].pagevecs[swap.LRU_ADD]) <= 14

    for steps in range(60, 80):
        machine.start(add, pages[:20])
        machine.start(add, pages[20:])
        kernel.scheduler.run(preempt(steps, 30))
        swap.lru_add_drain()
        assert all(page._count == 1 and page.flags & PG_lru for page in pages)
        for page in pages:
            assert vmscan.isolate_lru_page(page) == 0
            swap.put_page(page)
