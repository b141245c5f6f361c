"""Merging of pages with the same contents, and migration of what has been merged."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.include.ksm import StableNode
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.mm import (
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_UNMERGEABLE,
)
from mmigrate.linux.mm import ksm

PAGE = 4096


class Twins:
    """Two processes with @pages pages each that are the same, mergeable."""

    def __init__(self, pages=1, **options):
        self.machine = Machine(nodes=(MiB(8), MiB(8)), **options)
        self.first = self.machine.process("first")
        self.second = self.machine.process("second")
        self.areas = []
        for process in (self.first, self.second):
            area = process.mmap(pages=pages)
            for index in range(pages):
                process.write(area.start + index * PAGE, b"same %d" % index)
            process.madvise(area, MADV_MERGEABLE)
            self.areas.append(area)
        self.where = self.areas[0]

    def merged(self):
        self.machine.ksm_scan()
        return self

    def page(self, process=None):
        return self.machine.page_of(process or self.first, self.where.start)

    def counters(self):
        found = self.machine.ksm
        return found["pages_shared"], found["pages_sharing"], found["pages_unshared"]


def test_the_same_contents_are_one_page():
    twins = Twins(pages=3).merged()
    assert twins.counters() == (3, 3, 0)
    page = twins.page()
    assert page is twins.page(twins.second)
    assert isinstance(page.mapping, StableNode)
    assert page.mapping.kpfn == page.pfn
    assert twins.machine.check() == []


def test_a_store_takes_a_copy():
    twins = Twins().merged()
    twins.first.write(twins.where.start, b"mine")
    assert twins.second.read(twins.where.start, 6) == b"same 0"
    assert twins.page() is not twins.page(twins.second)
    twins.machine.ksm_scan()
    assert twins.counters() == (1, 0, 1)
    assert twins.machine.check() == []


def test_only_what_is_advised_and_private():
    twins = Twins()
    third = twins.machine.process("third")
    area = third.mmap(pages=1)
    third.write(area.start, b"same 0")
    shared = third.mmap(pages=1, shared=True)
    third.write(shared.start, b"same 0")
    third.madvise(shared, MADV_MERGEABLE)  # is not heard
    twins.merged()
    assert twins.counters() == (1, 1, 0)
    assert twins.machine.check() == []


def test_what_changes_from_scan_to_scan_is_left_alone():
    twins = Twins()
    for number in range(3):
        twins.first.write(twins.where.start, b"%d" % number)
        twins.second.write(twins.where.start, b"%d" % number)
        ksm.ksm_do_scan(twins.machine.kernel, 100)
    assert twins.counters() == (0, 0, 0)
    assert twins.machine.check() == []


def test_a_pinned_page_is_not_merged():
    twins = Twins()
    pin = twins.first.pin(twins.where)
    twins.merged()
    assert twins.counters()[:2] == (0, 0)
    pin.release()
    twins.machine.ksm_scan()
    assert twins.counters() == (1, 1, 0)
    assert twins.machine.check() == []


def test_a_huge_page_is_split_for_its_parts():
    machine = Machine(nodes=(MiB(16), MiB(16)))
    app = machine.process()
    heap = app.mmap(MiB(4))
    app.madvise(heap, MADV_HUGEPAGE)
    start = (heap.start + MiB(2) - 1) & -MiB(2)
    app.write(start, b"one")
    app.madvise(heap, MADV_MERGEABLE)
    assert machine.ksm_scan() == 510  # 511 pages of zeroes are one
    assert machine.check() == []


@pytest.mark.parametrize("way", ["unmergeable", "run 2", "exit", "dontneed"])
def test_undone(way):
    twins = Twins(pages=2).merged()
    if way == "unmergeable":
        twins.first.madvise(twins.areas[0], MADV_UNMERGEABLE)
        assert twins.page() is not twins.page(twins.second)
    elif way == "run 2":
        twins.machine.ksm_run(2)
        assert twins.counters() == (0, 0, 0)
    elif way == "exit":
        twins.first.exit()
    else:
        twins.first.madvise(twins.areas[0], MADV_DONTNEED)
    assert twins.machine.check() == []
    if way != "run 2":
        twins.machine.ksm_scan()
        assert twins.counters()[1] == 0
        twins.second.exit()
        twins.machine.ksm_scan()
        assert twins.counters() == (0, 0, 0)
    assert twins.machine.check() == []


def test_moved_by_mremap_is_broken_first():
    twins = Twins().merged()
    moved = twins.first.mremap(twins.where, PAGE, at=twins.where.start - MiB(4))
    assert twins.first.read(moved.start, 6) == b"same 0"
    assert not isinstance(twins.first.page_at(moved.start).mapping, StableNode)
    assert twins.machine.check() == []


class TestMigration:
    def test_the_node_follows_the_page(self):
        twins = Twins().merged()
        third = twins.first.fork("third")  # found through the item of its parent
        old = twins.page()
        node = old.mapping
        result = twins.first.move_pages(twins.where, node=1, flags=MPOL_MF_MOVE_ALL)
        assert result.status == (1,)
        new = twins.page()
        assert new is twins.page(twins.second) is twins.page(third)
        assert new.zone.nid == 1 and new.mapping is node and node.kpfn == new.pfn
        assert third.read(twins.where.start, 6) == b"same 0"
        twins.machine.ksm_scan()
        assert twins.counters() == (1, 2, 0)
        assert twins.machine.check() == []

    def test_exclusive_pages_only(self):
        twins = Twins().merged()
        assert twins.first.move_pages(twins.where, node=1).status == (-errno.EACCES,)
        assert twins.machine.check() == []

    def test_a_pinned_one_stays(self):
        twins = Twins().merged()
        pin = twins.first.pin(twins.where, write=False)
        twins.first.move_pages(twins.where, node=1, flags=MPOL_MF_MOVE_ALL)
        assert twins.first.placement(twins.where) == {0: 1}
        assert twins.page().mapping.kpfn == twins.page().pfn
        pin.release()
        assert twins.machine.check() == []

    def test_trees_of_each_node(self):
        twins = Twins()
        twins.machine.ksm_merge_across_nodes(False)
        twins.second.move_pages(twins.areas[1], node=1)
        twins.merged()
        assert twins.counters()[:2] == (0, 0)
        twins.second.move_pages(twins.areas[1], node=0)
        twins.machine.ksm_scan()
        assert twins.counters() == (1, 1, 0)
        with pytest.raises(OSError) as caught:
            twins.machine.ksm_merge_across_nodes(True)
        assert caught.value.errno == errno.EBUSY
        node = twins.page().mapping
        twins.first.move_pages(twins.where, node=1, flags=MPOL_MF_MOVE_ALL)
        twins.machine.ksm_scan()
        assert node.nid == 1 and not node.migrating
        assert twins.machine.check() == []

    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize("rival", ["scan", "store", "unmerge", "fork", "exit"])
    def test_against(self, rival, seed):
        twins = Twins(pages=2)
        if rival != "scan":
            twins.merged()
        machine = twins.machine
        machine.start(twins.first.move_pages, twins.where, node=1, flags=MPOL_MF_MOVE_ALL)
        if rival == "scan":
            machine.start(machine.ksm_scan)
        elif rival == "store":
            machine.start(twins.second.write, twins.areas[1].start, b"x")
        elif rival == "unmerge":
            machine.start(twins.second.madvise, twins.areas[1], MADV_UNMERGEABLE)
        elif rival == "fork":
            machine.start(twins.second.fork)
        else:
            machine.start(twins.second.exit)
        machine.run(seed=seed)
        assert machine.check() == []


def test_swapped_out_and_in():
    twins = Twins().merged()
    machine = twins.machine
    machine.swapon(MiB(1))
    machine.swap_out(twins.first, twins.where)
    machine.finish_io()
    machine.swap_out(twins.first, twins.where)
    assert machine.check() == []
    assert twins.first.read(twins.where.start, 6) == b"same 0"
    assert twins.second.read(twins.where.start, 6) == b"same 0"
    machine.ksm_scan()
    assert machine.check() == []


def test_swapoff_copies_what_belongs_to_another_family():
    twins = Twins().merged()
    machine = twins.machine
    area = machine.swapon(MiB(1))
    machine.swap_out(twins.first, twins.where)
    machine.finish_io()
    machine.swap_out(twins.first, twins.where)
    machine.swapoff(area)
    assert twins.second.read(twins.where.start, 6) == b"same 0"
    assert machine.check() == []


def test_memory_that_goes_away_is_forgotten():
    twins = Twins().merged()
    page = twins.page()
    kernel = twins.machine.kernel
    ksm.ksm_check_stable_tree(kernel, page.pfn + 1, page.pfn + 2)
    assert twins.counters() == (1, 1, 0)
    ksm.ksm_check_stable_tree(kernel, page.pfn, page.pfn + 1)
    assert twins.counters() == (0, 0, 0)


# --- later kernels ---


@pytest.mark.parametrize(("kernel", "merged"), [("v3.19", True), ("v6.1", False), ("v6.5", True)])
def test_pages_without_access_were_not_merged_for_a_while(kernel, merged):
    machine = Machine(nodes=(MiB(64),), kernel=kernel)
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap)
    app.madvise(heap, MADV_MERGEABLE)
    app.mprotect(heap, "")
    machine.ksm_scan()
    app.mprotect(heap, "rw")
    assert (len({word & (1 << 55) - 1 for word in app.pagemap(heap)}) == 1) == merged
    assert machine.check() == []


@pytest.mark.parametrize(("kernel", "merged"), [("v3.19", True), ("v6.1", False)])
def test_a_pinned_page_that_is_clean_in_its_pte(kernel, merged):
    machine = Machine(nodes=(MiB(64),) * 2, kernel=kernel)
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap)
    pin = app.pin(heap[0:1])
    app.move_pages(heap[0:1], 1)  # fails, and leaves the pte clean
    app.mprotect(heap, "r")
    app.madvise(heap, MADV_MERGEABLE)
    machine.ksm_scan()
    assert (len({word & (1 << 55) - 1 for word in app.pagemap(heap)}) == 1) == merged
    pin.release()
    assert machine.check() == []


@pytest.mark.parametrize(("kernel", "node"), [("v3.19", 0), ("v6.7", 1)])
def test_mbind_of_a_merged_page_that_no_area_can_find(kernel, node):
    machine = Machine(nodes=(MiB(64),) * 2, kernel=kernel)
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap)
    app.madvise(heap, MADV_MERGEABLE)
    machine.ksm_scan()
    app.mbind(heap[0:1], "preferred", [1], flags=MPOL_MF_MOVE_ALL)
    assert app.placement(heap) == {node: 2}
    assert machine.check() == []


@pytest.mark.parametrize(("kernel", "dirty"), [("v3.19", True), ("v6.2", False)])
def test_pages_that_are_taken_apart_are_dirty_or_not(kernel, dirty):
    machine = Machine(nodes=(MiB(64),), kernel=kernel)
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.write(heap.start, b"same")
    app.write(heap.start + 4096, b"same")
    app.madvise(heap, MADV_MERGEABLE)
    machine.ksm_scan()
    app.mprotect(heap, "r")
    app.madvise(heap, MADV_UNMERGEABLE)
    assert ("dirty=2" in app.numa_maps()) == dirty
    assert app.read(heap.start + 4096, 4) == b"same"
    assert len({word & (1 << 55) - 1 for word in app.pagemap(heap)}) == 2
    app.mprotect(heap, "rw")
    app.write(heap.start, b"mine")
    assert app.read(heap.start + 4096, 4) == b"same"
    assert machine.check() == []


@pytest.mark.parametrize("kernel", ["v3.19", "v6.12"])
def test_pages_that_a_child_merged_do_not_move_for_their_parent(kernel):
    machine = Machine(nodes=(MiB(64),) * 2, kernel=kernel)
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.write(heap.start, b"same")
    app.write(heap.start + 4096, b"same")
    child = app.fork()
    child.madvise(heap, MADV_MERGEABLE)
    machine.ksm_scan()
    assert len({word & (1 << 55) - 1 for word in child.pagemap(heap)}) == 1
    app.move_pages(heap, 1, flags=MPOL_MF_MOVE_ALL)
    assert app.placement(heap) == {0: 1, 1: 1}
    assert machine.check() == []
    child.exit()
    machine.ksm_scan()
    app.write(heap.start, b"mine")
    assert [app.read(heap.start + 4096 * page, 4) for page in (0, 1)] == [b"mine", b"same"]
    assert machine.check() == []
