"""Buffers of file pages."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.drivers import block
from mmigrate.linux.fs import buffer
from mmigrate.linux.include.gfp import GFP_KERNEL
from mmigrate.linux.include.page_flags import PG_dirty, PG_private, PG_uptodate, PG_writeback
from mmigrate.linux.kernel.page_flags import lock_page, unlock_page
from mmigrate.linux.mm import filemap

PAGE = 4096


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4), MiB(4)))


@pytest.fixture
def app(computer):
    return computer.process()


@pytest.fixture
def file(computer):
    return computer.file("data", 4 * PAGE, data=bytes(range(256)) * 64)


def page_in(file, index=0):
    return file.i_mapping.page_tree.slots[index]


def dirty_blocks(page):
    return [bh.b_offset for bh in buffer.page_buffers(page) if bh.b_state & buffer.BH_Dirty]


def test_a_page_that_was_only_read_has_no_buffers(app, file):
    app.pread(file, 10)
    assert not page_in(file).flags & PG_private


def test_a_write_dirties_the_blocks_it_touches(app, file):
    app.pwrite(file, b"x" * 100, 1000)  # into the first and the second
    assert dirty_blocks(page_in(file)) == [0, 1024]
    assert page_in(file).flags & PG_dirty


def test_a_page_with_buffers_has_a_reference_for_them(app, file, computer):
    app.pwrite(file, b"x")
    computer.drain_pagevecs()
    assert page_in(file)._count == 2  # the cache and the buffers


def test_a_store_through_a_mapping_dirties_all_blocks(computer, app, file):
    view = app.mmap(PAGE, file=file, shared=True)
    app.write(view.start + 5, b"x")
    assert dirty_blocks(page_in(file)) == [0, 1024, 2048, 3072]


def test_page_mkwrite_dirties_no_block_behind_the_end(computer, app):
    short = computer.file("short", 1500, data=b"a" * 1500)
    view = app.mmap(PAGE, file=short, shared=True)
    app.write(view.start, b"x")
    page = page_in(short)
    # set_page_dirty takes all of them again, as the kernel does
    assert dirty_blocks(page) == [0, 1024, 2048, 3072]


def test_only_dirty_blocks_reach_the_disk(computer, app, file):
    app.pwrite(file, b"x" * 1024, 1024)
    file.blocks[0] = bytes(PAGE)  # somebody changed the disk behind our back
    computer.fsync(file)
    assert file.blocks[0] == bytes(1024) + b"x" * 1024 + bytes(2048)


def test_buffers_are_locked_while_their_page_is_written(computer, app, file):
    app.pwrite(file, b"x")
    block.disk(computer.kernel, "disk").hold = True
    computer.writeback(file)
    buffers = buffer.page_buffers(page_in(file))
    assert [bool(bh.b_state & buffer.BH_Lock) for bh in buffers] == [True, False, False, False]
    assert page_in(file).flags & PG_writeback
    block.release(computer.kernel, "disk")
    computer.finish_io()
    assert not any(bh.b_state & buffer.BH_Lock for bh in buffers)
    assert not page_in(file).flags & PG_writeback


def test_what_stands_behind_the_end_of_the_file_is_written_as_zeroes(computer, app):
    short = computer.file("short", 1500)
    view = app.mmap(PAGE, file=short, shared=True)
    app.write(view.start + 1490, b"x" * 20)
    computer.fsync(short)
    assert short.blocks[0][1485:1515] == bytes(5) + b"x" * 10 + bytes(15)


def test_clean_buffers_are_given_up(computer, app, file):
    app.pwrite(file, b"x")
    computer.fsync(file)
    page = page_in(file)
    lock_page(page)
    assert filemap.try_to_release_page(page, GFP_KERNEL) == 1
    unlock_page(page)
    assert not page.flags & PG_private
    assert page.private == 0
    assert computer.check() == []


@pytest.mark.parametrize("why", ["dirty", "locked", "held"])
def test_buffers_in_use_are_kept(computer, app, file, why):
    app.pwrite(file, b"x")
    page = page_in(file)
    lock_page(page)
    bh = buffer.page_buffers(page)[3]
    if why != "dirty":
        for each in buffer.page_buffers(page):
            buffer.change_state(each, off=buffer.BH_Dirty)
        (buffer.lock_buffer if why == "locked" else buffer.get_bh)(bh)
    assert buffer.try_to_free_buffers(page) == 0
    assert page.flags & PG_private
    unlock_page(page)


def test_a_dirty_page_with_clean_buffers_loses_its_dirt_with_them(computer, app, file):
    app.pwrite(file, b"x")
    page = page_in(file)
    for bh in buffer.page_buffers(page):
        buffer.change_state(bh, off=buffer.BH_Dirty)
    lock_page(page)
    assert buffer.try_to_free_buffers(page) == 1
    unlock_page(page)
    assert not page.flags & PG_dirty
    assert computer.vmstat["nr_dirty"] == 0


def test_trylock_buffer_does_not_wait(app, file):
    app.pwrite(file, b"x")
    bh = buffer.page_buffers(page_in(file))[0]
    assert buffer.trylock_buffer(bh)
    assert not buffer.trylock_buffer(bh)
    buffer.unlock_buffer(bh)


def test_lock_buffer_waits_for_the_owner(computer, app, file):
    app.pwrite(file, b"x")
    bh = buffer.page_buffers(page_in(file))[0]
    buffer.lock_buffer(bh)
    order = []

    def waiter():
        buffer.lock_buffer(bh)
        order.append("second")
        buffer.unlock_buffer(bh)

    def owner():
        order.append("first")
        buffer.unlock_buffer(bh)

    computer.start(waiter)
    computer.start(owner)
    computer.run()
    assert order == ["first", "second"]


def test_a_partial_write_reads_the_rest_first(app, file):
    app.pwrite(file, b"new", 3)
    assert app.pread(file, 8) == bytes([0, 1, 2]) + b"new" + bytes([6, 7])


def test_a_partial_write_that_cannot_read_the_rest_fails(computer, app, file):
    block.disk(computer.kernel, "disk").fail = 1
    with pytest.raises(OSError) as failure:
        app.pwrite(file, b"new", 3)
    assert failure.value.errno == errno.EIO
    assert not page_in(file).flags & PG_uptodate
    assert app.pread(file, 4) == bytes([0, 1, 2, 3])  # read anew
    assert computer.check() == []


def test_dirtying_a_buffer_without_contents_is_complained_about(computer, app, file):
    app.pwrite(file, b"x")
    bh = buffer.page_buffers(page_in(file))[2]
    buffer.change_state(bh, off=buffer.BH_Uptodate)
    buffer.mark_buffer_dirty(bh)
    assert "has no contents" in computer.kernel.warnings[0]
