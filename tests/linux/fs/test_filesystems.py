"""What each filesystem does that matters for migration."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.api import Reason
from mmigrate.errors import ScenarioError
from mmigrate.linux.drivers import block
from mmigrate.linux.fs.inode import new_inode
from mmigrate.linux.include.mm import AS_UNEVICTABLE, PF_KSWAPD, PF_MEMALLOC
from mmigrate.linux.include.page_flags import PG_dirty, PG_private, PG_unevictable, PG_writeback
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_flags import PageLocked, lock_page
from mmigrate.linux.mm import migrate, page_writeback, shmem, truncate

PAGE = 4096
ON_DISK = ["ext4", "xfs", "nfs", "exofs"]
ALL = [*ON_DISK, "ramfs", "tmpfs"]


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4), MiB(4)))


@pytest.fixture
def app(computer):
    return computer.process()


def make(computer, fs, size=2 * PAGE, data=b""):
    if fs == "tmpfs":
        return computer.shmem("data", size)
    return computer.file("data", size, fs=fs, data=data)


def page_in(file, index=0):
    return file.i_mapping.page_tree.slots[index]


def test_an_unknown_filesystem_is_the_scenarios_mistake(computer):
    with pytest.raises(ScenarioError, match="btrfs"):
        new_inode(computer.kernel, "data", "btrfs", 0)


def test_tmpfs_is_shared_memory(computer):
    assert new_inode(computer.kernel, "data", "tmpfs", PAGE).policy is not None


@pytest.mark.parametrize("fs", ALL)
def test_written_contents_are_read_again_and_mapped(computer, app, fs):
    file = make(computer, fs)
    app.pwrite(file, b"written", PAGE - 3)
    view = app.mmap(2 * PAGE, file=file, shared=True)
    assert app.pread(file, 7, PAGE - 3) == b"written"
    assert app.read(view.start + PAGE - 3, 7) == b"written"
    computer.finish_io()
    assert computer.check() == []


@pytest.mark.parametrize("fs", ALL)
def test_a_store_through_a_shared_mapping_is_read(computer, app, fs):
    file = make(computer, fs)
    view = app.mmap(2 * PAGE, file=file, shared=True)
    app.write(view.start + PAGE, b"stored")
    assert app.pread(file, 6, PAGE) == b"stored"


@pytest.mark.parametrize("fs", ON_DISK)
def test_fsync_brings_contents_to_the_disk(computer, app, fs):
    file = make(computer, fs, data=b"old contents")
    app.pwrite(file, b"new")
    computer.fsync(file)
    assert file.blocks[0].startswith(b"new contents")
    assert not page_in(file).flags & PG_dirty
    assert computer.check() == []


@pytest.mark.parametrize("fs", ON_DISK)
def test_a_store_after_fsync_makes_the_page_dirty_again(computer, app, fs):
    file = make(computer, fs)
    view = app.mmap(PAGE, file=file, shared=True)
    app.write(view.start, b"one")
    computer.fsync(file)
    app.write(view.start, b"two")
    assert page_in(file).flags & PG_dirty
    computer.fsync(file)
    assert file.blocks[0].startswith(b"two")


@pytest.mark.parametrize(
    ("fs", "method"),
    [
        ("ext4", migrate.buffer_migrate_page),
        ("xfs", migrate.buffer_migrate_page),
        ("tmpfs", migrate.migrate_page),
        ("exofs", None),
        ("ramfs", None),
    ],
)
def test_methods(computer, fs, method):
    assert make(computer, fs).i_mapping.a_ops.migratepage is method


@pytest.mark.parametrize("fs", ALL)
def test_clean_pages_move(computer, app, fs):
    file = make(computer, fs, data=b"contents")
    view = app.mmap(PAGE, file=file, shared=True)
    app.touch(view, write=False)
    assert app.move_pages(view, node=1).status == (1,)
    assert page_in(file).zone.nid == 1
    assert computer.check() == []


@pytest.mark.parametrize("fs", ["ext4", "xfs", "exofs", "tmpfs"])
def test_dirty_pages_move(computer, app, fs):
    file = make(computer, fs)
    view = app.mmap(PAGE, file=file, shared=True)
    app.write(view.start, b"stored")
    assert app.move_pages(view, node=1).status == (1,)
    assert app.read(view.start, 6) == b"stored"
    computer.finish_io()
    assert computer.check() == []


# --- nfs ---


def test_a_dirty_page_of_nfs_does_not_move_before_the_server_has_it(computer, app):
    file = make(computer, "nfs")
    view = app.mmap(PAGE, file=file, shared=True)
    app.write(view.start, b"stored")
    result = app.move_pages(view, node=1)
    assert result.status == (-errno.EBUSY,)
    assert result.reasons == {Reason.METHOD_REFUSED: 1}
    computer.fsync(file)
    assert app.move_pages(view, node=1).status == (1,)
    assert computer.check() == []


def test_a_request_has_a_reference_until_it_is_answered(computer, app):
    file = make(computer, "nfs")
    app.pwrite(file, b"x" * PAGE)
    page = page_in(file)
    computer.drain_pagevecs()
    assert (page._count, bool(page.flags & PG_private)) == (2, True)
    computer.fsync(file)
    assert (page._count, bool(page.flags & PG_private)) == (1, False)


def test_a_write_to_a_page_on_its_way_to_the_server_waits(computer, app):
    file = make(computer, "nfs")
    app.pwrite(file, b"x" * PAGE)
    computer.writeback(file)
    page = page_in(file)
    assert page.flags & PG_writeback
    app.pwrite(file, b"y" * PAGE)
    assert not page.flags & PG_writeback
    assert page.flags & PG_dirty
    computer.fsync(file)
    assert file.blocks[0] == b"y" * PAGE


def test_truncation_cancels_a_request(computer, app):
    file = make(computer, "nfs")
    app.pwrite(file, b"x" * PAGE)
    computer.truncate(file, 0)
    assert file.i_mapping.nrpages == 0
    assert computer.vmstat["nr_dirty"] == 0
    assert computer.check() == []


# --- xfs ---


@pytest.mark.parametrize(
    ("flags", "refuses"), [(0, False), (PF_MEMALLOC, True), (PF_MEMALLOC | PF_KSWAPD, False)]
)
def test_xfs_does_not_write_for_direct_reclaim(computer, app, flags, refuses):
    file = make(computer, "xfs")
    app.pwrite(file, b"x" * PAGE)
    page = page_in(file)
    lock_page(page)
    page_writeback.clear_page_dirty_for_io(page)
    sched.task.flags |= flags
    dirtied = computer.vmstat["nr_dirtied"]
    file.i_mapping.a_ops.writepage(page, page_writeback.WritebackControl(for_reclaim=True))
    sched.task.flags &= ~flags
    assert not PageLocked(page)
    assert bool(page.flags & PG_dirty) == refuses
    assert bool(page.flags & PG_writeback) != refuses
    assert bool(computer.kernel.warnings) == refuses
    assert computer.vmstat["nr_dirtied"] == dirtied  # not counted twice
    computer.finish_io()


# --- exofs ---


def test_exofs_pages_have_no_private_data(computer, app):
    file = make(computer, "exofs")
    app.pwrite(file, b"x" * 10)
    assert not page_in(file).flags & PG_private


def test_a_write_to_exofs_reads_the_rest_of_the_page(computer, app):
    file = make(computer, "exofs", data=b"abcdef")
    app.pwrite(file, b"XY", 2)
    assert app.pread(file, 6) == b"abXYef"


# --- ramfs ---


def test_ramfs_pages_are_unevictable_and_never_written(computer, app):
    file = make(computer, "ramfs")
    app.pwrite(file, b"x")
    computer.drain_pagevecs()
    assert file.i_mapping.flags & AS_UNEVICTABLE
    assert computer.vmstat["nr_dirty"] == 0
    computer.fsync(file)
    assert file.blocks == {}
    assert app.pread(file, 1) == b"x"


def test_ramfs_pages_move_while_they_are_clean(computer, app):
    file = make(computer, "ramfs")
    view = app.mmap(PAGE, file=file, shared=True)
    app.touch(view, write=False)
    assert app.move_pages(view, node=1).status == (1,)
    computer.drain_pagevecs()
    assert page_in(file).flags & PG_unevictable


def test_dirty_ramfs_pages_cannot_be_written_and_so_not_move(computer, app):
    file = make(computer, "ramfs")
    view = app.mmap(PAGE, file=file, shared=True)
    app.touch(view)
    assert app.move_pages(view, node=1).status == (-errno.EINVAL,)


# --- holes ---


def test_a_hole_of_ext4_needs_no_disk(computer, app):
    block.disk(computer.kernel, "disk").hold = True
    assert app.pread(make(computer, "ext4"), 5) == bytes(5)


@pytest.mark.parametrize("fs", ["ext4", "xfs", "tmpfs"])
def test_a_punched_hole_reads_as_zeroes(computer, app, fs):
    file = make(computer, fs, size=4 * PAGE)
    app.pwrite(file, b"x" * (4 * PAGE))
    assert file.fs.file_ops.fallocate(file, PAGE - 10, 2 * PAGE + 30) == 0
    expected = b"x" * (PAGE - 10) + bytes(2 * PAGE + 30) + b"x" * (PAGE - 20)
    assert app.pread(file, 4 * PAGE) == expected
    computer.fsync(file)
    truncate.invalidate_inode_pages2(file.i_mapping) if fs != "tmpfs" else None
    assert app.pread(file, 4 * PAGE) == expected
    assert computer.check() == []


@pytest.mark.parametrize("fs", ["nfs", "exofs", "ramfs"])
def test_others_punch_no_holes(computer, fs):
    assert make(computer, fs).fs.file_ops.fallocate is None


def test_a_shared_memory_file_can_be_made_by_hand(computer):
    assert shmem.shmem_file_setup(computer.kernel, "by hand", PAGE).fs.name == "tmpfs"
