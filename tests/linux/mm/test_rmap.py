"""The reverse maps: anon_vmas and their trees, walks, checks of addresses, mapping counts."""

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.include.mm import SWAP_AGAIN, SWAP_MLOCK
from mmigrate.linux.include.mm_types import AnonVma
from mmigrate.linux.kernel.page_flags import lock_page, unlock_page
from mmigrate.linux.kernel.page_ref import get_page, put_page
from mmigrate.linux.kernel.spinlock import spin_unlock
from mmigrate.linux.mm import rmap
from mmigrate.linux.mm.rmap_walk_control import RmapWalkControl


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


def touched(app, pages=1, **options):
    heap = app.mmap(pages=pages, **options)
    app.touch(heap)
    return heap


def visited(process, page, **control):
    """The areas a walk of a locked page comes to, in order."""
    seen = []

    def visit(page, vma, address, arg):
        seen.append((vma.vm_mm.name, address))
        return SWAP_AGAIN

    with process.running():
        lock_page(page)
        rmap.rmap_walk(page, RmapWalkControl(visit, **control), None)
        unlock_page(page)
    return seen


# --- anon_vmas ---


def test_a_neighbour_that_could_be_merged_shares_its_anon_vma(app):
    heap = app.mmap(pages=3)
    app.mprotect(heap[1:2], "r")
    app.mprotect(heap[1:2], "rw")
    touched_first = app.mmap(pages=1)
    app.touch(heap)
    app.touch(touched_first)
    assert len({vma.anon_vma for vma in app.mm.mmap}) == 1


def test_a_child_has_one_of_its_own_below_the_root(machine, app):
    heap = touched(app)
    root = machine.page_of(app, heap.start).mapping
    child = app.fork()
    own = child.mm.mmap[0].anon_vma
    assert own is not root
    assert own.root is root
    assert own.parent is root
    assert [chain.anon_vma for chain in child.mm.mmap[0].anon_vma_chain] == [own, root]


def test_an_anon_vma_that_nobody_owns_is_taken_over(machine, app):
    """A fork of a fork of a fork … whose parents are gone does not grow without end."""
    touched(app)
    process = app
    for _ in range(6):
        child = process.fork()
        process.exit()
        process = child
        process.touch(process.mm.mmap[0].vm_start)
    assert len(process.mm.mmap[0].anon_vma_chain) <= 4
    assert len(machine.kernel.anon_vmas) <= 4


def test_all_are_freed_with_their_last_area(machine, app):
    touched(app)
    child = app.fork()
    app.exit()
    child.exit()
    assert machine.kernel.anon_vmas == {}


def test_a_reference_keeps_it(machine, app):
    heap = touched(app)
    page = machine.page_of(app, heap.start)
    with app.running():
        get_page(page)
        anon_vma = rmap.page_get_anon_vma(page)
        app.munmap(heap)
        assert isinstance(anon_vma, AnonVma)
        assert anon_vma.number in machine.kernel.anon_vmas
        rmap.put_anon_vma(machine.kernel, anon_vma)
        assert machine.kernel.anon_vmas == {}
        put_page(page)


def test_a_copy_belongs_to_the_child_alone(machine, app):
    heap = touched(app)
    child = app.fork()
    child.write(heap.start, b"own")
    page = machine.page_of(child, heap.start)
    assert page.mapping is child.mm.mmap[0].anon_vma
    assert visited(child, page) == [(child.mm.name, heap.start)]


def test_a_page_that_became_exclusive_moves_to_its_owners_anon_vma(machine, app):
    heap = touched(app)
    child = app.fork()
    app.exit()
    child.write(heap.start, b"mine now")
    assert machine.page_of(child, heap.start).mapping is child.mm.mmap[0].anon_vma


# --- walks ---


def test_the_parent_comes_before_the_child(machine, app):
    heap = touched(app)
    child = app.fork()
    grandchild = child.fork()
    page = machine.page_of(app, heap.start)
    names = [name for name, _ in visited(app, page)]
    assert names == [p.mm.name for p in (app, child, grandchild)]


def test_mappings_of_a_file_in_order_of_offset_then_age(machine, app):
    file = machine.file("f", 4 * 4096)
    late = app.mmap(pages=2, file=file, offset=4096)
    early = app.mmap(pages=3, file=file)
    app.read(early.start + 4096, 1)
    app.read(late.start, 1)
    page = machine.page_of(app, late.start)
    assert [address for _, address in visited(app, page)] == [early.start + 4096, late.start]


def test_a_walk_ends_when_told(machine, app):
    heap = touched(app)
    app.fork()
    page = machine.page_of(app, heap.start)
    assert len(visited(app, page, done=lambda page: True)) == 1
    assert visited(app, page, invalid_vma=lambda vma, arg: True) == []


def test_a_walk_that_does_not_get_its_anon_vma_visits_nothing(machine, app):
    heap = touched(app)
    page = machine.page_of(app, heap.start)
    assert visited(app, page, anon_lock=lambda page: None) == []


def test_munlock_looks_for_a_locked_area(machine, app):
    heap = app.mmap(pages=1)
    app.mlock(heap)
    page = machine.page_of(app, heap.start)
    with app.running():
        lock_page(page)
        assert rmap.try_to_munlock(page) == SWAP_MLOCK
        unlock_page(page)


# --- addresses ---


def test_page_check_address(machine, app):
    heap = touched(app, 2)
    page = machine.page_of(app, heap.start)
    with app.running():
        table = rmap.page_check_address(page, app.mm, heap.start, False)
        assert table is not None
        spin_unlock(table.ptl)
        assert rmap.page_check_address(page, app.mm, heap.start + 4096, False) is None
        assert rmap.page_check_address(page, app.mm, heap.start + 4096, True) is None
        assert rmap.page_check_address(page, app.mm, 1 << 40, False) is None


def test_page_address_in_vma(machine, app):
    heap = touched(app)
    view = touched(app, file=machine.file("f", 4096), shared=True)
    anonymous, of_file = (machine.page_of(app, m.start) for m in (heap, view))
    areas = {vma.vm_start: vma for vma in app.mm.mmap}
    with app.running():
        assert rmap.page_address_in_vma(anonymous, areas[heap.start]) == heap.start
        assert rmap.page_address_in_vma(anonymous, areas[view.start]) is None
        assert rmap.page_address_in_vma(of_file, areas[view.start]) == view.start
        assert rmap.page_address_in_vma(of_file, areas[heap.start]) is None


# --- referenced, clean ---


def test_referenced_counts_and_clears(machine, app):
    heap = touched(app)
    app.fork().read(heap.start, 1)
    page = machine.page_of(app, heap.start)
    with app.running():
        assert rmap.page_referenced(page, False)[0] == 2  # the store before, the load after
        assert rmap.page_referenced(page, False)[0] == 0


def test_mkclean_protects_and_tells(machine, app):
    file = machine.file("f", 4096)
    view = touched(app, file=file, shared=True)
    other = machine.process("other")
    again = other.mmap(pages=1, file=file, shared=True)
    other.touch(again)
    page = machine.page_of(app, view.start)
    with app.running():
        lock_page(page)
        assert rmap.page_mkclean(page) == 2
        assert rmap.page_mkclean(page) == 0
        unlock_page(page)
    app.write(view.start, b"faults again")


def test_counts_of_mapped_pages(machine, app):
    heap = touched(app, 3)
    view = touched(app, 2, file=machine.file("f", 2 * 4096), shared=True)
    app.fork()
    assert machine.vmstat["nr_anon_pages"] == 3
    assert machine.vmstat["nr_mapped"] == 2
    app.munmap(heap[0:1])
    app.munmap(view)
    assert machine.vmstat["nr_anon_pages"] == 3
    assert machine.vmstat["nr_mapped"] == 0
