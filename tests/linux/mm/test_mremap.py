"""mremap alone, and against migration."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.api import Mapping
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.mm import MREMAP_FIXED, MREMAP_MAYMOVE, VM_ACCOUNT
from mmigrate.linux.include.pgtable import (
    is_migration_entry,
    is_swap_pte,
    pte_soft_dirty,
    pte_swp_soft_dirty,
    pte_to_swp_entry,
)
from mmigrate.linux.kernel.pgtable import find_leaf
from mmigrate.linux.mm import mremap
from mmigrate.machine.process import peek_pte

PAGE = 4096
BASE = 0x10000000


def machine():
    return Machine(nodes=(MiB(4), MiB(4)))


def remap(app, addr, old, new, flags=0, new_addr=0):
    with app.running() as task:
        return mremap.sys_mremap(task, addr, old, new, flags, new_addr)


def test_errors():
    app = machine().process()
    where = app.mmap(pages=4, at=BASE)
    app.mmap(pages=1, at=BASE + 4 * PAGE, prot="r")
    both = MREMAP_FIXED | MREMAP_MAYMOVE
    assert remap(app, BASE, PAGE, PAGE, 4) == -errno.EINVAL
    assert remap(app, BASE, PAGE, PAGE, MREMAP_FIXED, BASE * 2) == -errno.EINVAL
    assert remap(app, BASE + 1, PAGE, PAGE) == -errno.EINVAL
    assert remap(app, BASE, PAGE, 0) == -errno.EINVAL
    assert remap(app, BASE - PAGE, PAGE, 2 * PAGE) == -errno.EFAULT
    assert remap(app, BASE, 5 * PAGE, 6 * PAGE) == -errno.EFAULT  # more than one area
    assert remap(app, BASE, 4 * PAGE, 5 * PAGE) == -errno.ENOMEM  # in the way, may not move
    assert remap(app, BASE, PAGE, PAGE, both, BASE * 2 + 1) == -errno.EINVAL
    assert remap(app, BASE, 2 * PAGE, 2 * PAGE, both, BASE + PAGE) == -errno.EINVAL  # overlap
    assert remap(app, where.start, PAGE, 1 << 47, both, BASE * 2) == -errno.EINVAL


def test_shrinking_drops_the_tail_and_growing_extends_in_place():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=4, at=BASE)
    app.write(BASE, b"kept")
    app.touch(where)
    smaller = app.mremap(where, 2 * PAGE)
    assert (smaller.start, app.mm.total_vm, app.mm.rss_stat[1]) == (BASE, 2, 2)
    larger = app.mremap(smaller, 6 * PAGE, may_move=False)
    assert (larger.start, app.mm.total_vm, app.mm.map_count) == (BASE, 6, 1)
    assert app.read(BASE, 4) == b"kept"
    assert computer.check() == []


def test_contents_and_placement_move_along():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=3, at=BASE)
    for number, address in enumerate(where.pages()):
        app.write(address, bytes([number + 1]))
    app.move_pages(where, node=1)
    moved = app.mremap(where, 5 * PAGE, at=BASE * 2)
    assert [app.read(address, 1) for address in moved.pages()][:3] == [b"\1", b"\2", b"\3"]
    assert app.placement(moved) == {1: 3}
    with pytest.raises(OSError, match="SIGSEGV"):
        app.read(BASE, 1)
    assert computer.check() == []
    assert app.move_pages(Mapping(moved.start, 3 * PAGE), node=0).status == (0, 0, 0)


def test_everything_that_moves_counts_as_written():
    computer = machine()
    computer.swapon(MiB(1))
    app = computer.process()
    where = app.mmap(pages=2, at=BASE)
    app.touch(where)
    computer.swap_out(app, Mapping(BASE, PAGE))
    leaf = find_leaf(app.mm, BASE)
    for address in where.pages():
        leaf.entries[(address >> 12) & 511] &= ~(1 << 11 if address != BASE else 1 << 7)
    moved = app.mremap(where, 2 * PAGE, at=BASE * 2)
    assert pte_swp_soft_dirty(peek_pte(app.mm, moved.start))
    assert pte_soft_dirty(peek_pte(app.mm, moved.start + PAGE))
    assert computer.check() == []


def test_the_middle_of_an_area_moves_out_of_it_and_accounting_stays():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=3, at=BASE)
    app.touch(where)
    app.mremap(Mapping(BASE + PAGE, PAGE), PAGE, at=BASE * 2)
    assert app.mm.map_count == 3
    assert all(area.vm_flags & VM_ACCOUNT for area in app.mm.mmap)
    assert app.mm.mmap[2].vm_pgoff == (BASE >> 12) + 1  # its pages keep their offsets
    assert computer.check() == []


def test_a_page_that_comes_home_is_merged_with_its_neighbours():
    """The destination stands before the source in the reverse map: its locks are taken."""
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=3, at=BASE)
    app.touch(where)
    away = app.mremap(Mapping(BASE + PAGE, PAGE), PAGE, at=BASE * 2)
    app.mremap(away, PAGE, at=BASE + PAGE)
    assert app.mm.map_count == 1
    assert computer.check() == []
    assert app.move_pages(where, node=1).status == (1, 1, 1)


def test_unfaulted_memory_takes_new_offsets():
    app = machine().process()
    where = app.mmap(pages=1, at=BASE)
    moved = app.mremap(where, PAGE, at=BASE * 2)
    assert app.mm.mmap[0].vm_pgoff == moved.start >> 12


def test_old_length_zero_maps_shared_memory_a_second_time():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=1, at=BASE, shared=True)
    app.write(BASE, b"seen twice")
    twin = remap(app, BASE, 0, PAGE, MREMAP_MAYMOVE)
    assert app.read(twin, 10) == app.read(where.start, 10) == b"seen twice"
    assert computer.check() == []


def test_locked_memory_stays_locked_and_counted():
    computer = machine()
    app = computer.process()
    app.mmap(pages=1, at=BASE + 2 * PAGE, prot="r")
    where = app.mmap(pages=2, at=BASE, locked=True)
    moved = app.mremap(where, 4 * PAGE)
    assert moved.start != BASE
    assert app.mm.locked_vm == 4
    assert app.mm.rss_stat[1] == 4  # what was added has been faulted in
    assert computer.check() == []


def test_locked_memory_cannot_grow_beyond_the_limit():
    app = machine().process(uid=1)
    where = app.mmap(pages=16, at=BASE, locked=True)
    with pytest.raises(BlockingIOError):
        app.mremap(where, 17 * PAGE)


@pytest.mark.parametrize("homewards", [False, True])
def test_migration_entries_are_found_at_one_of_the_two_places(preempt, homewards):
    """Homewards the walk comes to the new place first. Without the locks of the reverse map
    some of these orders leave an entry behind.  The child moves the page, because
    move_pages holds mmap_sem of its own process."""
    for n in range(0, 70, 10):
        for k in (*range(6, 13), 18, 24):
            computer = machine()
            app = computer.process(cpu=0)
            where = app.mmap(pages=3, at=BASE)
            app.touch(where)
            source, target = Mapping(BASE + PAGE, PAGE), BASE * 2
            if homewards:
                source, target = app.mremap(source, PAGE, at=target), BASE + PAGE
            app.write(source.start, b"cargo")
            child = app.fork(cpu=1)
            moved = computer.start(child.move_pages, source, 1, flags=MPOL_MF_MOVE_ALL, cpu=1)
            computer.start(app.mremap, source, PAGE, at=target, cpu=0)
            start = source.start
            computer.kernel.scheduler.run(
                preempt(n, k, lambda app=app, start=start: is_entry(peek_pte(app.mm, start)))
            )
            assert computer.check() == []
            assert moved.result.status == (1,)
            assert app.read(target, 5) == child.read(start, 5) == b"cargo"


def is_entry(pte):
    return is_swap_pte(pte) and is_migration_entry(pte_to_swp_entry(pte))
