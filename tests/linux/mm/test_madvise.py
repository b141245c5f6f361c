"""Advice."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.fs.inode import open_file
from mmigrate.linux.include.mm import (
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_HWPOISON,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_WILLNEED,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_IO,
    VM_NOHUGEPAGE,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
)
from mmigrate.linux.mm import madvise

PAGE = 4096


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4), MiB(4)))


def advise(app, start, length, advice):
    with app.running() as task:
        return madvise.sys_madvise(task, start, length, advice)


def test_errors(computer):
    app = computer.process()
    where = app.mmap(pages=1)
    assert advise(app, where.start, PAGE, 99) == -errno.EINVAL
    assert advise(app, where.start + 1, PAGE, MADV_NORMAL) == -errno.EINVAL
    assert advise(app, where.start, 0, MADV_NORMAL) == 0
    assert advise(app, where.start, 1 << 64, MADV_NORMAL) == -errno.EINVAL
    for unknown in (MADV_HWPOISON, 9999):
        assert advise(app, where.start, PAGE, unknown) == -errno.EINVAL


@pytest.mark.parametrize(
    ("advice", "flag", "back"),
    [
        (MADV_RANDOM, VM_RAND_READ, MADV_NORMAL),
        (MADV_SEQUENTIAL, VM_SEQ_READ, MADV_NORMAL),
        (MADV_RANDOM, VM_RAND_READ, MADV_SEQUENTIAL),
        (MADV_DONTFORK, VM_DONTCOPY, MADV_DOFORK),
        (MADV_DONTDUMP, VM_DONTDUMP, MADV_DODUMP),
        (MADV_HUGEPAGE, VM_HUGEPAGE, MADV_NOHUGEPAGE),
        (MADV_NOHUGEPAGE, VM_NOHUGEPAGE, MADV_HUGEPAGE),
    ],
)
def test_an_advice_is_a_flag_that_splits_areas(computer, advice, flag, back):
    app = computer.process()
    where = app.mmap(pages=3)
    app.madvise(where.start + PAGE, advice, PAGE)
    assert [bool(area.vm_flags & flag) for area in app.mm.mmap] == [False, True, False]
    app.madvise(where.start + PAGE, back, PAGE)
    assert not app.mm.mmap[len(app.mm.mmap) // 2].vm_flags & flag
    app.madvise(where, advice)
    assert app.mm.map_count == 1


def test_areas_that_refuse(computer):
    app = computer.process()
    shared = app.mmap(pages=1, shared=True)
    huge = app.mmap(pages=1)
    assert advise(app, shared.start, PAGE, MADV_HUGEPAGE) == -errno.EINVAL
    assert advise(app, huge.start, PAGE, MADV_HUGEPAGE) == 0
    assert advise(app, huge.start, PAGE, MADV_HUGEPAGE) == -errno.EINVAL  # so v3.19
    app.mm.mmap[0].vm_flags |= VM_IO
    assert advise(app, huge.start, PAGE, MADV_DOFORK) == -errno.EINVAL
    assert advise(app, huge.start, PAGE, MADV_DODUMP) == -errno.EINVAL


def test_holes_are_passed_over_and_reported(computer):
    app = computer.process()
    where = app.mmap(pages=3)
    app.touch(where)
    app.munmap(where.start + PAGE, PAGE)
    assert advise(app, where.start, 3 * PAGE, MADV_DONTNEED) == -errno.ENOMEM
    assert app.placement(where) == {}
    assert computer.check() == []


def test_dontneed_drops_private_contents_and_keeps_the_file(computer):
    app = computer.process()
    private = app.mmap(pages=1)
    shared = app.mmap(pages=1, file=computer.file("data", PAGE), shared=True)
    app.write(private.start, b"gone")
    app.write(shared.start, b"kept")
    app.madvise(private, MADV_DONTNEED)
    app.madvise(shared, MADV_DONTNEED)
    assert app.mm.rss_stat == [0, 0, 0]
    assert app.read(private.start, 4) == bytes(4)
    assert app.read(shared.start, 4) == b"kept"
    assert computer.check() == []


def test_dontneed_refuses_locked_memory(computer):
    app = computer.process()
    where = app.mmap(pages=1, locked=True)
    assert advise(app, where.start, PAGE, MADV_DONTNEED) == -errno.EINVAL


def test_dontfork_keeps_memory_from_children(computer):
    app = computer.process()
    where = app.mmap(pages=2)
    app.touch(where)
    app.madvise(where.start, MADV_DONTFORK, PAGE)
    child = app.fork()
    assert (child.mm.map_count, child.mm.total_vm) == (1, 1)
    assert computer.check() == []


def test_willneed_reads_a_file_ahead(computer):
    app = computer.process()
    file = computer.file("data", 4 * PAGE - 5)
    where = app.mmap(pages=8, file=file, prot="r")
    app.madvise(where, MADV_WILLNEED)
    computer.finish_io()
    assert sorted(file.i_mapping.page_tree.slots) == [0, 1, 2, 3]  # no further than its end
    assert app.mm.rss_stat == [0, 0, 0]
    assert computer.check() == []


@pytest.mark.parametrize("shared", [False, True])
def test_willneed_brings_pages_back_from_swap_but_does_not_map_them(computer, shared):
    computer.swapon(MiB(1))
    app = computer.process()
    where = app.mmap(pages=2, shared=shared)
    app.write(where.start, b"back")
    app.touch(where)
    assert computer.swap_out(app, where) == 2
    app.madvise(where, MADV_WILLNEED)
    computer.finish_io()
    assert computer.vmstat["pswpin"] == 2
    assert app.placement(where) == {}
    assert app.read(where.start, 4) == b"back"
    assert computer.vmstat["pswpin"] == 2
    assert computer.check() == []


def test_remove_punches_a_hole_into_shared_memory(computer):
    app = computer.process()
    where = app.mmap(pages=3, shared=True)
    app.touch(where)
    app.page_at(where.start + PAGE).data = b"gone".ljust(PAGE)
    app.madvise(where.start + PAGE, MADV_REMOVE, PAGE)
    assert app.placement(where) == {0: 2}
    assert app.read(where.start + PAGE, 4) == bytes(4)
    assert computer.check() == []


def test_remove_refuses_what_is_not_shared_and_writable_memory_of_a_file(computer):
    app = computer.process()
    private = app.mmap(pages=1)
    file = open_file(computer.shmem("data", PAGE), VM_READ)
    readable = app.mmap(pages=1, file=file, shared=True, prot="r")
    locked = app.mmap(pages=1, shared=True, locked=True)
    assert advise(app, private.start, PAGE, MADV_REMOVE) == -errno.EINVAL
    assert advise(app, readable.start, PAGE, MADV_REMOVE) == -errno.EACCES
    assert advise(app, locked.start, PAGE, MADV_REMOVE) == -errno.EINVAL
