"""The swap cache: pages that have a place in swap, and those that are read ahead."""

import pytest

from mmigrate import Machine, MiB
from mmigrate.errors import MemoryFault
from mmigrate.linux.drivers import block
from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.page_flags import (
    PG_dirty,
    PG_locked,
    PG_lru,
    PG_readahead,
    PG_swapbacked,
    PG_swapcache,
    PG_uptodate,
)
from mmigrate.linux.include.pgtable import swp_entry, swp_offset
from mmigrate.linux.kernel.page_flags import page_mapping
from mmigrate.linux.mm import swap, swap_state, swapfile, vmscan


@pytest.fixture
def machine():
    machine = Machine(nodes=(MiB(8), MiB(8)))
    yield machine
    machine.finish_io()
    machine.drain_pagevecs()
    assert [str(v) for v in machine.check()] == []


@pytest.fixture
def app(machine):
    """A process; the tests run as its thread."""
    process = machine.process("app")
    with process.running():
        yield process


def swapped(machine, app, pages):
    """Memory whose page n is at place n + 1, and holds the bytes "n"."""
    heap = app.mmap(pages=pages)
    for number, address in enumerate(heap.pages()):
        app.write(address, b"%d" % number)
    if machine.kernel.swap is None:
        machine.swapon(MiB(1))
    assert machine.swap_out(app, heap) == pages
    return heap


def cached(machine):
    """The places in the swap cache."""
    [space] = swap_state.swapper_spaces(machine.kernel)
    return sorted(swp_offset(entry) for entry in space.page_tree.slots)


def page_in_cache(machine, place):
    [space] = swap_state.swapper_spaces(machine.kernel)
    return space.page_tree.slots[swp_entry(0, place)]


def test_a_page_that_gets_a_place(machine, app):
    machine.swapon(MiB(1))
    heap = app.mmap(pages=1)
    app.touch(heap)
    machine.drain_pagevecs()
    page = machine.page_of(app, heap.start)
    page.flags |= PG_locked
    assert swap_state.add_to_swap(page)
    space = swap_state.swap_address_space(machine.kernel, 1)
    assert page.flags & (PG_swapcache | PG_dirty) == PG_swapcache | PG_dirty
    assert (page.private, page._count, page_mapping(page)) == (swp_entry(0, 1), 2, space)
    assert (space.nrpages, machine.vmstat["nr_file_pages"]) == (1, 1)
    swap_state.delete_from_swap_cache(page)
    assert (page.private, page._count, page.flags & PG_swapcache) == (0, 1, 0)
    assert (space.nrpages, machine.vmstat["nr_file_pages"]) == (0, 0)
    assert swapfile.areas(machine.kernel)[0].used == 0
    page.flags &= ~PG_locked


def test_without_room_there_is_no_place(machine, app):
    machine.swapon(2 * 4096)
    heap = app.mmap(pages=2)
    app.touch(heap)
    pages = [machine.page_of(app, address) for address in heap.pages()]
    for page in pages:
        page.flags |= PG_locked
    assert [swap_state.add_to_swap(page) for page in pages] == [True, False]
    for page in pages:
        page.flags &= ~PG_locked


def test_who_drops_the_last_pte_frees_the_place(machine, app):
    heap = swapped(machine, app, 1)
    app.read(heap.start, 1)
    page = machine.page_of(app, heap.start)
    assert page.flags & PG_swapcache
    app.munmap(heap)
    assert (page._count, swapfile.areas(machine.kernel)[0].used) == (0, 0)


def test_a_locked_page_keeps_its_place_when_its_pte_goes(machine, app):
    heap = swapped(machine, app, 1)
    app.read(heap.start, 1)
    page = machine.page_of(app, heap.start)
    page.flags |= PG_locked
    app.munmap(heap)
    assert page.flags & PG_swapcache
    page.flags &= ~PG_locked
    assert cached(machine) == [1]


# --- reading ---


def test_a_page_just_read_belongs_to_nobody_yet(machine, app):
    heap = swapped(machine, app, 1)
    block.disk(machine.kernel, "swap0").hold = True
    page = swap_state.read_swap_cache_async(swp_entry(0, 1), GFP_HIGHUSER_MOVABLE, None, 0)
    assert page.mapping is None
    assert page.flags & (PG_swapcache | PG_swapbacked | PG_locked) == (
        PG_swapcache | PG_swapbacked | PG_locked
    )
    assert not page.flags & PG_uptodate
    assert page._count == 3  # ours, the cache's, the vector's
    assert swap_state.read_swap_cache_async(swp_entry(0, 1), GFP_HIGHUSER_MOVABLE, None, 0) is page
    swap.put_page(page)
    swap.put_page(page)
    block.release(machine.kernel, "swap0")
    assert app.read(heap.start, 1) == b"0"
    assert machine.page_of(app, heap.start) is page


def test_a_free_place_is_not_read(machine, app):
    swapped(machine, app, 1)
    assert swap_state.read_swap_cache_async(swp_entry(0, 7), GFP_HIGHUSER_MOVABLE, None, 0) is None
    assert (
        swap_state.read_swap_cache_async(swp_entry(0, 1 << 20), GFP_HIGHUSER_MOVABLE, None, 0)
        is None
    )
    assert machine.vmstat["pswpin"] == 0


def test_a_stale_entry_of_a_removed_area_finds_nothing(machine, app):
    swapped(machine, app, 1)
    machine.swapoff(swapfile.areas(machine.kernel)[0])
    assert swap_state.lookup_swap_cache(swp_entry(0, 1)) is None
    assert swap_state.read_swap_cache_async(swp_entry(0, 1), GFP_HIGHUSER_MOVABLE, None, 0) is None


def test_an_unreadable_place_is_a_bus_error(machine, app):
    heap = swapped(machine, app, 1)
    block.disk(machine.kernel, "swap0").fail = 1
    with pytest.raises(MemoryFault, match="SIGBUS"):
        app.read(heap.start, 1)


# --- read-ahead ---


def test_neighbours_are_read_too(machine, app):
    heap = swapped(machine, app, 12)
    app.read(heap.start + 8 * 4096, 1)  # place 9, of the eight from 8 to 15
    machine.finish_io()
    assert cached(machine) == [8, 9, 10, 11, 12]
    assert machine.vmstat["pswpin"] == 5
    ahead = page_in_cache(machine, 8)
    assert (
        ahead.flags & (PG_readahead | PG_lru | PG_uptodate) == PG_readahead | PG_lru | PG_uptodate
    )
    assert not page_in_cache(machine, 9).flags & PG_readahead


def test_a_hit_is_counted_once(machine, app):
    heap = swapped(machine, app, 8)
    app.read(heap.start, 1)
    state = machine.kernel.swap
    assert state.swapin_readahead_hits == 0
    major = machine.vmstat["pgmajfault"]
    for _ in range(2):
        page = swap_state.lookup_swap_cache(swp_entry(0, 2))
        swap.put_page(page)
    assert state.swapin_readahead_hits == 1
    app.read(heap.start + 2 * 4096, 1)
    assert machine.vmstat["pgmajfault"] == major  # place 3 was there already


@pytest.mark.parametrize(
    ("cluster", "hits", "last", "previous", "pages"),
    [
        (0, 9, 0, 0, 1),  # switched off
        (3, 4, 0, 0, 8),
        (3, 2, 0, 0, 4),
        (3, 1, 0, 0, 4),
        (3, 99, 0, 0, 8),
        (2, 99, 0, 0, 4),
        (3, 0, 0, 99, 2),  # next to the one before
        (3, 0, 0, 101, 2),
        (3, 0, 0, 7, 1),
        (3, 0, 8, 7, 4),  # not so fast
    ],
)
def test_how_much_is_read(machine, app, cluster, hits, last, previous, pages):
    state = swapfile.swap_of(machine.kernel)
    state.page_cluster, state.swapin_readahead_hits = cluster, hits
    state.last_readahead_pages, state.prev_offset = last, previous
    assert swap_state.swapin_nr_pages(machine.kernel, 100) == pages


def test_pages_read_ahead_and_never_used_can_be_reclaimed(machine, app):
    heap = swapped(machine, app, 8)
    app.read(heap.start, 1)
    machine.finish_io()
    pages = [page_in_cache(machine, place) for place in range(2, 8)]
    assert vmscan.reclaim_pages(machine.kernel, pages) == 6
    assert cached(machine) == [1]
    assert app.read(heap.start + 4096, 1) == b"1"


@pytest.mark.parametrize("seed", range(12))
def test_two_processes_and_reclaim_about_one_place(seed):
    """Faults, a migration and a reclaim meet; nobody loses the contents."""
    machine = Machine(nodes=(MiB(4), MiB(4)), cpus=(0, 0, 1))
    machine.swapon(16 * 4096)
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.write(heap.start, b"kept")
    app.touch(heap)
    child = app.fork()
    machine.swap_out(app, heap)
    machine.start(app.touch, heap, cpu=0)
    machine.start(child.read, heap.start, 4, cpu=1)
    machine.start(machine.swap_out, child, heap, cpu=2)
    machine.start(child.move_pages, heap, 1, cpu=2)
    machine.run(seed=seed)
    machine.finish_io()
    machine.drain_pagevecs()
    assert child.read(heap.start, 4) == app.read(heap.start, 4) == b"kept"
    assert [str(v) for v in machine.check()] == []
