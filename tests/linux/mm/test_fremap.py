"""Nonlinear mappings."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.include.mm import VM_NONLINEAR, VM_SOFTDIRTY
from mmigrate.linux.include.pgtable import (
    SWP_MIGRATION_READ,
    pte_file,
    pte_file_soft_dirty,
    pte_to_pgoff,
    swp_entry,
    swp_entry_to_pte,
)
from mmigrate.linux.kernel.page_flags import lock_page, unlock_page
from mmigrate.linux.kernel.page_ref import dec_mapcount, get_page
from mmigrate.linux.kernel.pgtable import find_leaf
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import fremap, swap
from mmigrate.machine.process import peek_pte

PAGE = 4096
NONBLOCK = 0x10000


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4), MiB(4)))


def numbered(computer, fs):
    """A file whose pages begin with their numbers."""
    file = computer.file(f"{fs}-data", 8 * PAGE, fs=fs)
    writer = computer.process("writer")
    for number in range(8):
        writer.pwrite(file, bytes([number]), number * PAGE)
    writer.exit()
    return file


def remap(app, start, size, pgoff, prot=0, flags=0):
    with app.running() as task:
        return fremap.sys_remap_file_pages(task, start, size, prot, pgoff, flags)


def first_byte(app, address):
    return app.page_at(address).data[0]


def test_errors(computer):
    app = computer.process()
    private = app.mmap(pages=2, file=numbered(computer, "ramfs"))
    shared = app.mmap(pages=2, file=numbered(computer, "ext4"), shared=True)
    assert remap(app, shared.start, PAGE, 1, prot=1) == -errno.EINVAL
    assert remap(app, shared.start, PAGE - 1, 1) == -errno.EINVAL  # not one whole page
    assert remap(app, shared.start + PAGE, 2 * PAGE, 1) == -errno.EINVAL  # beyond the area
    assert remap(app, private.start, PAGE, 1) == -errno.EINVAL
    assert remap(app, shared.start, PAGE, 1 << 60) == -errno.EINVAL
    assert remap(app, 0x1000, PAGE, 1) == -errno.EINVAL


@pytest.mark.parametrize("fs", ["ramfs", "ext4"])
def test_pages_appear_where_they_were_asked_for(computer, fs):
    app = computer.process()
    where = app.mmap(pages=4, file=numbered(computer, fs), shared=True)
    app.touch(where, write=False)
    app.remap_file_pages(where.start + PAGE, 6, 2 * PAGE)
    app.touch(where, write=False)
    assert [first_byte(app, address) for address in where.pages()] == [0, 6, 7, 3]


def test_where_dirty_pages_are_counted_an_area_of_its_own_has_to_do(computer):
    app = computer.process()
    where = app.mmap(pages=4, file=numbered(computer, "ext4"), shared=True)
    app.remap_file_pages(where.start + PAGE, 6, PAGE)
    assert [area.vm_pgoff for area in app.mm.mmap] == [0, 6, 2]
    assert not any(area.vm_flags & VM_NONLINEAR for area in app.mm.mmap)
    assert computer.check() == []


def test_elsewhere_the_area_moves_to_the_list_of_nonlinear_ones(computer):
    app = computer.process()
    file = numbered(computer, "ramfs")
    where = app.mmap(pages=4, file=file, shared=True)
    assert remap(app, where.start, 4 * PAGE, 0) == 0  # that is what it shows already
    assert len(file.i_mapping.i_mmap) == 1
    app.remap_file_pages(where.start, 3, PAGE)
    (area,) = app.mm.mmap
    assert area.vm_flags & VM_NONLINEAR
    assert file.i_mapping.i_mmap_nonlinear == [area]
    assert len(file.i_mapping.i_mmap) == 0
    app.munmap(where)
    assert file.i_mapping.i_mmap_nonlinear == []
    assert computer.check() == []


def test_without_populating_a_file_pte_says_what_to_fault_in(computer):
    app = computer.process()
    where = app.mmap(pages=2, file=numbered(computer, "ramfs"), shared=True)
    app.touch(where, write=False)
    assert remap(app, where.start, PAGE, 5, flags=NONBLOCK) == 0
    pte = peek_pte(app.mm, where.start)
    assert (pte_file(pte), pte_to_pgoff(pte), pte_file_soft_dirty(pte)) == (True, 5, True)
    assert app.mm.rss_stat[0] == 1
    app.touch(where.start, write=False)
    assert first_byte(app, where.start) == 5


def test_a_dirty_page_stays_dirty_when_it_is_mapped_over(computer):
    app = computer.process()
    file = numbered(computer, "ramfs")
    where = app.mmap(pages=1, file=file, shared=True)
    app.write(where.start, b"x")
    page = app.page_at(where.start)
    app.remap_file_pages(where.start, 2)
    assert page.data[0] == ord("x")
    assert page._mapcount == -1
    app.remap_file_pages(where.start, 0)
    assert app.page_at(where.start) is page


def test_a_migration_entry_that_is_mapped_over_is_uncounted(computer):
    app = computer.process()
    where = app.mmap(pages=2, file=numbered(computer, "ramfs"), shared=True)
    app.touch(where, write=False)
    page = app.page_at(where.start)
    (area,) = app.mm.mmap
    leaf = find_leaf(app.mm, where.start)
    entry = swp_entry_to_pte(swp_entry(SWP_MIGRATION_READ, page.pfn))
    with app.running():
        lock_page(page)
        get_page(page)
        leaf.entries[(where.start >> 12) & 511] = entry  # as try_to_unmap leaves it
        dec_mapcount(page)
        swap.put_page(page)
        with spin_lock(leaf.ptl):
            fremap.zap_pte(app.mm, area, where.start, leaf)
        swap.put_page(page)
        unlock_page(page)
    assert peek_pte(app.mm, where.start) == 0
    assert app.mm.rss_stat[0] == 1


def test_locked_areas_are_populated_and_munlock_what_was_there(computer):
    app = computer.process()
    file = numbered(computer, "ramfs")
    where = app.mmap(pages=2, file=file, shared=True, locked=True)
    app.remap_file_pages(where.start, 4, PAGE)
    assert first_byte(app, where.start) == 4
    assert app.mm.locked_vm == 2
    assert computer.vmstat["nr_mlock"] == 2


def test_fork_gives_the_child_the_same_view(computer):
    app = computer.process()
    where = app.mmap(pages=2, file=numbered(computer, "ramfs"), shared=True)
    app.remap_file_pages(where.start, 7, PAGE)
    app.mm.mmap[0].vm_flags |= VM_SOFTDIRTY
    child = app.fork()
    child.touch(where, write=False)
    assert [first_byte(child, address) for address in where.pages()] == [7, 1]
