"""LRU lists, swap-out and swap-in, swapoff, reclaim's verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate import Machine, MiB
from mmigrate.linux.drivers import block
from mmigrate.linux.include.page_flags import PG_active, PG_lru, PG_referenced
from mmigrate.linux.mm import swap, swapfile


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
            entry = place  # area 0
            if what == "d" and (place in counts or place in cached):
                assert swapfile.swap_duplicate(entry) == 0
                counts[place] = counts.get(place, 0) + 1
            elif what == "f" and counts.get(place):
                swapfile.swap_free(entry)
                counts[place] -= 1
                if not counts[place]:
                    del counts[place]
            elif what == "c":
                got = swapfile.get_swap_page(machine.kernel)
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
