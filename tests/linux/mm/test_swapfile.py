"""Places in swap: who uses them, where the next one is taken, and swapoff."""

from errno import EEXIST, EINVAL, ENOENT, EPERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate import Machine, MiB
from mmigrate.errors import KernelBug, MemoryFault, ScenarioError
from mmigrate.linux.drivers import block
from mmigrate.linux.include.page_flags import PG_swapcache
from mmigrate.linux.include.pgtable import (
    MAX_SWAPFILES,
    SWP_MIGRATION_READ,
    swp_entry,
    swp_offset,
    swp_type,
)
from mmigrate.linux.mm import swapfile


@pytest.fixture
def machine():
    machine = Machine(nodes=(MiB(4), MiB(4)), cpus=(0, 0, 1))
    yield machine
    machine.finish_io()
    machine.drain_pagevecs()
    assert [str(v) for v in machine.check()] == []


@pytest.fixture
def app(machine):
    return machine.process("app")


@pytest.fixture
def bare():
    """A kernel whose places nobody else uses; nothing is checked at the end."""
    return Machine(nodes=(MiB(4),)).kernel


def take(kernel, count):
    return [swp_offset(swapfile.get_swap_page(kernel)) for _ in range(count)]


# --- users of a place ---


class Place:
    """What the kernel's rules say of one place."""

    def __init__(self):
        self.count, self.cached = 0, False

    @property
    def free(self):
        return not self.count and not self.cached


@given(st.lists(st.tuples(st.sampled_from("adcfu"), st.integers(0, 6)), max_size=60))
def test_users_of_places(steps):
    """Take, duplicate, cache, free, uncache: against a model of each place."""
    kernel = Machine(nodes=(MiB(4),)).kernel
    area = swapfile.sys_swapon(kernel, 6)
    places = [Place() for _ in range(7)]  # the header, five, and one beyond the end
    for what, offset in steps:
        place, valid = places[offset], 1 <= offset <= 5
        if what == "a":
            taken = swp_offset(swapfile.get_swap_page(kernel))
            assert taken == 0 if not any(p.free for p in places[1:6]) else places[taken].free
            if taken:
                places[taken].cached = True
        elif what == "d":
            assert swapfile.swap_duplicate(swp_entry(0, offset)) == 0
            place.count += valid and not place.free
        elif what == "c":
            expected = 0
            if not valid:
                expected = -ENOENT if offset == 0 else -EINVAL
            elif place.cached:
                expected = -EEXIST
            elif not place.count:
                expected = -ENOENT
            assert swapfile.swapcache_prepare(swp_entry(0, offset)) == expected
            place.cached = place.cached or expected == 0
        elif what == "f" and valid and place.count:
            swapfile.swap_free(swp_entry(0, offset))
            place.count -= 1
        elif what == "u" and valid and place.cached:
            swapfile.swapcache_free(swp_entry(0, offset))
            place.cached = False
        used = sum(not p.free for p in places[1:6])
        assert [(area.counts[n], bool(area.cached[n])) for n in range(1, 6)] == [
            (p.count, p.cached) for p in places[1:6]
        ]
        assert (area.used, swapfile.si_swapinfo(kernel)) == (used, (5, 5 - used))
        assert swapfile.vm_swap_full(kernel) == (used > 2)
        free = [n for n in range(1, 6) if places[n].free]
        assert not free or area.lowest_bit <= free[0] <= free[-1] <= area.highest_bit
        assert kernel.swap.avail == ([area] if free else [])


def test_entries_of_migration_are_no_places(bare):
    swapfile.sys_swapon(bare, 4)
    entry = swp_entry(SWP_MIGRATION_READ, 1)
    assert swapfile.swapcache_prepare(entry) == -EINVAL
    assert swapfile.free_swap_and_cache(entry) == 1


def test_a_place_freed_once_too_often(bare):
    swapfile.sys_swapon(bare, 4)
    entry = swapfile.get_swap_page(bare)
    with pytest.raises(KernelBug, match="once too often"):
        swapfile.swap_free(entry)  # only the cache has it


def test_a_free_place_that_is_freed_is_told(bare):
    swapfile.sys_swapon(bare, 4)
    swapfile.swap_free(swp_entry(0, 1))
    assert bare.warnings == ["bad swap entry: place 1 of swap0 is not in use"]


def test_an_entry_of_no_area_is_told(bare):
    assert swapfile.free_swap_and_cache(swp_entry(3, 1)) == 0
    assert bare.warnings == ["bad swap entry: no area 3"]


# --- where the next one is taken ---


def test_places_are_taken_in_order_and_from_the_start_again(bare):
    swapfile.sys_swapon(bare, 5)
    assert take(bare, 3) == [1, 2, 3]
    swapfile.swapcache_free(swp_entry(0, 1))
    assert take(bare, 3) == [4, 1, 0]


def test_a_new_cluster_begins_where_there_is_room(bare):
    """A hole is left alone as long as there are long runs of free places; the lowest is taken."""
    area = swapfile.sys_swapon(bare, 1024)
    taken = take(bare, 256)
    assert taken == list(range(1, 257))
    swapfile.swapcache_free(swp_entry(0, 7))
    assert area.cluster_nr == 0
    assert take(bare, 256) == list(range(257, 513))
    for offset in range(1, 257):
        if offset != 7:
            swapfile.swapcache_free(swp_entry(0, offset))
    assert take(bare, 2) == [1, 2]


def test_without_an_empty_cluster_holes_are_filled(bare):
    swapfile.sys_swapon(bare, 1 + 256 + 200)
    take(bare, 256)
    swapfile.swapcache_free(swp_entry(0, 7))
    assert take(bare, 1) == [257]  # fewer than a cluster are free: simply the next
    take(bare, 199)
    assert take(bare, 2) == [7, 0]


def test_areas_are_filled_in_the_order_they_came(bare):
    first, second = swapfile.sys_swapon(bare, 3), swapfile.sys_swapon(bare, 3)
    entries = [swapfile.get_swap_page(bare) for _ in range(3)]
    assert [swp_type(entry) for entry in entries] == [0, 0, 1]
    swapfile.swapcache_free(entries[0])
    assert swapfile.get_swap_page(bare) == entries[0]
    assert (first.used, second.used) == (2, 1)
    for entry in entries:
        swapfile.swapcache_free(entry)
    assert swapfile.sys_swapoff(first) == 0
    again = swapfile.sys_swapon(bare, 3)
    assert again.type == 0
    assert swp_type(swapfile.get_swap_page(bare)) == 1  # the old type, but the last to come


def test_a_cached_place_is_given_up_when_swap_is_nearly_full(machine, app):
    area = machine.swapon(6 * 4096)

    def swap_out_one():
        heap = app.mmap(pages=1)
        app.touch(heap)
        assert machine.swap_out(app, heap) == 1
        return heap

    first, cached = swap_out_one(), swap_out_one()
    app.read(cached.start, 1)
    page = machine.page_of(app, cached.start)
    assert page.flags & PG_swapcache  # swap was not yet full, so its place 2 was kept
    _, fourth, _ = (swap_out_one() for _ in range(3))
    app.munmap(first)
    swap_out_one()
    assert (area.cluster_next, swapfile.vm_swap_full(machine.kernel)) == (2, True)
    app.munmap(fourth)
    swap_out_one()
    assert not page.flags & PG_swapcache
    assert area.counts == [1, 1, 1, 1, 0, 1]


def test_a_full_area_is_available_again_once(bare):
    area = swapfile.sys_swapon(bare, 6)
    take(bare, 5)
    assert (area.lowest_bit, area.highest_bit, bare.swap.avail) == (6, 0, [])
    for offset in (1, 3, 2):
        swapfile.swapcache_free(swp_entry(0, offset))
    assert (area.lowest_bit, area.highest_bit, bare.swap.avail) == (1, 3, [area])


@pytest.mark.parametrize(("pages", "error"), [(0, EINVAL), (1, EINVAL)])
def test_an_area_needs_room(bare, pages, error):
    with pytest.raises(OSError) as caught:
        swapfile.sys_swapon(bare, pages)
    assert caught.value.errno == error


def test_there_are_only_so_many_areas(bare):
    for _ in range(MAX_SWAPFILES):
        swapfile.sys_swapon(bare, 2)
    with pytest.raises(OSError) as caught:
        swapfile.sys_swapon(bare, 2)
    assert caught.value.errno == EPERM


# --- swapoff ---


def test_swapoff_twice(machine):
    area = machine.swapon(MiB(1))
    machine.swapoff(area)
    with pytest.raises(OSError, match="Invalid argument"):
        machine.swapoff(area)
    assert swapfile.si_swapinfo(machine.kernel) == (0, 0)


def test_swapoff_brings_back_what_families_share(machine, app):
    area = machine.swapon(MiB(1))
    heap = app.mmap(pages=3)
    app.write(heap.start, b"ours")
    app.touch(heap)
    child = app.fork()
    grandchild = child.fork()
    assert machine.swap_out(app, heap) == 3
    assert len(machine.kernel.swap.mmlist) == 3
    users = [who.mm.mm_users for who in (app, child, grandchild)]
    machine.swapoff(area)
    assert users == [who.mm.mm_users for who in (app, child, grandchild)]
    assert {machine.page_of(who, heap.start) for who in (app, child, grandchild)} == {
        machine.page_of(app, heap.start)
    }
    assert grandchild.read(heap.start, 4) == b"ours"
    assert machine.kernel.swap.mmlist == []


def test_an_area_without_memory_to_bring_it_back_stays(machine, app):
    area = machine.swapon(MiB(1))
    heap = app.mmap(pages=2)
    app.touch(heap)
    assert machine.swap_out(app, heap) == 2
    other = app.mmap(MiB(16))
    filled = machine.start(app.touch, other)
    machine.run()
    assert isinstance(filled.result, MemoryFault)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        machine.swapoff(area)
    assert area.writeok
    # reclaim has filled it before the process was killed
    assert (area in machine.kernel.swap.avail) is (area.highest_bit != 0)
    app.munmap(other)
    machine.swapoff(area)


def test_a_place_that_nobody_has_is_waited_for(bare):
    """Its count will never be dropped: a deadlock, where the kernel would look for ever."""
    area = swapfile.sys_swapon(bare, 4)
    entry = swapfile.get_swap_page(bare)
    swapfile.swap_duplicate(entry)
    swapfile.swapcache_free(entry)
    with pytest.raises(ScenarioError, match="which nobody has"):
        swapfile.sys_swapoff(area)


def test_what_could_not_be_read_is_mapped_all_the_same(machine, app):
    """A defect of v3.19."""
    area = machine.swapon(MiB(1))
    heap = app.mmap(pages=1)
    app.touch(heap)
    machine.swap_out(app, heap)
    block.disk(machine.kernel, area.device).fail = 1
    machine.swapoff(area)
    assert app.read(heap.start, 1) == b"\0"


def test_swapoff_loses_soft_dirty(machine, app):
    """A defect of v3.19: a fault would have kept the bit."""
    soft_dirty = 1 << 55  # of /proc/*/pagemap
    area = machine.swapon(MiB(1))
    heap = app.mmap(pages=2)
    app.touch(heap)
    machine.swap_out(app, heap)
    app.read(heap.start, 1)
    machine.swapoff(area)
    by_fault, by_swapoff = (entry & soft_dirty for entry in app.pagemap(heap))
    assert (by_fault, by_swapoff) == (soft_dirty, 0)


@pytest.mark.parametrize("seed", range(12))
def test_swapoff_against_faults_forks_and_exits(seed):
    machine = Machine(nodes=(MiB(4), MiB(4)), cpus=(0, 0, 1))
    area = machine.swapon(16 * 4096)
    app = machine.process("app")
    heap = app.mmap(pages=4)
    for number, address in enumerate(heap.pages()):
        app.write(address, b"page %d" % number)
    child = app.fork()
    segment = app.mmap(pages=1, file=machine.shmem("s", 4096), shared=True)
    app.write(segment.start, b"segment")
    assert machine.swap_out(app, heap) == 4
    assert machine.swap_out(app, segment) == 1
    machine.start(machine.swapoff, area, cpu=2)
    machine.start(app.touch, heap, cpu=0)
    machine.start(app.fork, cpu=1)
    machine.start(child.exit, cpu=1)
    machine.run(seed=seed)
    machine.finish_io()
    machine.drain_pagevecs()
    assert swapfile.areas(machine.kernel) == []
    assert app.read(heap.start, 6) == b"page 0"
    assert app.read(segment.start, 7) == b"segment"
    assert [str(v) for v in machine.check()] == []
