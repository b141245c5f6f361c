"""The migration core, row by row: passes, modes, results, counts, and what is disposed of how."""

import pytest

from mmigrate import Machine, MiB, Reason
from mmigrate.linux.drivers import block
from mmigrate.linux.fs import buffer
from mmigrate.linux.include.migrate_mode import (
    MIGRATE_ASYNC,
    MIGRATE_SYNC,
    MIGRATE_SYNC_LIGHT,
)
from mmigrate.linux.include.mm import PF_MEMALLOC, PF_SWAPWRITE
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_dirty,
    PG_error,
    PG_locked,
    PG_referenced,
    PG_swapbacked,
    PG_swapcache,
    PG_unevictable,
    PG_uptodate,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_flags import lock_page, trylock_page, unlock_page
from mmigrate.linux.kernel.page_ref import get_page, put_page
from mmigrate.linux.mm import migrate, swap_state, swapfile, vmscan
from tests.linux.mm.migration import ToNode, in_window, isolated, migrated, moved

MODES = [MIGRATE_ASYNC, MIGRATE_SYNC_LIGHT, MIGRATE_SYNC]
EAGAIN, EBUSY, ENOMEM, EIO, EINVAL = -11, -16, -12, -5, -22


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


def anonymous(machine, app, pages=1):
    heap = app.mmap(pages=pages)
    app.touch(heap)
    return heap, [machine.page_of(app, address) for address in heap.pages()]


def of_file(machine, app, fs="ext4", pages=1, write=True, name="file"):
    file = machine.file(name, pages * 4096, fs=fs)
    view = app.mmap(pages=pages, file=file, shared=True)
    app.touch(view, write=write)
    return file, view, [machine.page_of(app, address) for address in view.pages()]


# --- the passes and the result ---


@pytest.mark.parametrize("mode", MODES)
def test_a_plain_page_moves_in_every_mode(machine, app, mode):
    heap, pages = anonymous(machine, app, 3)
    assert migrated(machine, app, *pages, mode=mode) == (0, [])
    assert app.placement(heap) == {1: 3}
    assert machine.vmstat["pgmigrate_success"] == 3


def test_ten_passes_and_each_takes_a_new_page(machine, app):
    heap, pages = anonymous(machine, app)
    io = app.pin(heap)
    get = ToNode(1)
    assert migrated(machine, app, *pages, get=get) == (1, pages)
    io.release()
    assert len(get.given) == 10
    assert machine.vmstat["pgmigrate_fail"] == machine.vmstat["pgmigrate_success"] == 0
    machine.drain_pagevecs()
    assert all(page._count == 0 for page in get.given)


def test_the_permanently_refused_are_counted_and_already_put_back(machine, app):
    _, _, pages = of_file(machine, app, "exofs")
    assert migrated(machine, app, *pages, mode=MIGRATE_ASYNC) == (1, [])
    assert machine.vmstat["pgmigrate_fail"] == 1


def test_no_memory_stops_everything(machine, app):
    heap, pages = anonymous(machine, app, 4)
    given = []

    def one_only(page, private, result):
        if given:
            return None
        given.append(ToNode(1)(page, private, result))
        return given[0]

    assert migrated(machine, app, *pages, get=one_only) == (ENOMEM, pages[1:])
    assert machine.vmstat["pgmigrate_success"] == 1
    assert app.placement(heap) == {0: 3, 1: 1}


def test_swapwrite_is_set_for_the_duration_only(machine, app):
    _, pages = anonymous(machine, app)
    seen = []

    def get(page, private, result):
        seen.append(sched.task.flags & PF_SWAPWRITE)
        return ToNode(1)(page, private, result)

    migrated(machine, app, *pages, get=get)
    assert seen == [PF_SWAPWRITE]
    assert not app.task.flags & PF_SWAPWRITE
    app.task.flags |= PF_SWAPWRITE
    _, pages = anonymous(machine, app)
    migrated(machine, app, *pages)
    assert app.task.flags & PF_SWAPWRITE


def test_the_trace_event(machine, app):
    machine.kernel.events = []
    _, pages = anonymous(machine, app)
    migrated(machine, app, *pages)
    [(name, fields)] = [e for e in machine.kernel.events if e[0] == "mm_migrate_pages"]
    assert name == "mm_migrate_pages"
    assert (fields["succeeded"], fields["failed"]) == (1, 0)


# --- one page: destination, disposal, status ---


def test_a_page_that_everybody_else_has_freed(machine, app):
    heap, pages = anonymous(machine, app)
    get = ToNode(1)
    with app.running():
        pagelist = isolated(machine, *pages)
        app.munmap(heap)
        assert pages[0]._count == 1
        assert moved(pagelist, MIGRATE_SYNC, get) == 0
    machine.drain_pagevecs()
    assert pages[0]._count == get.given[0]._count == 0
    assert machine.vmstat["pgmigrate_success"] == 1


def test_the_callback_gets_unused_pages_back_without_swapbacked(machine, app):
    heap, pages = anonymous(machine, app)
    io = app.pin(heap)
    back = []

    def put(page, private):
        assert not page.flags & PG_swapbacked
        assert page.mapping is None
        back.append(page)
        put_page(page)

    get = ToNode(1)
    assert migrated(machine, app, *pages, get=get, put=put)[0] == 1
    io.release()
    assert back == get.given


def test_on_success_the_callback_gets_nothing(machine, app):
    _, pages = anonymous(machine, app)
    assert migrated(machine, app, *pages, put=lambda page, private: pytest.fail("given"))[0] == 0


class Status:
    status = None


@pytest.mark.parametrize(("pinned", "expected"), [(False, 1), (True, EAGAIN)])
def test_the_status_word(machine, app, pinned, expected):
    heap, pages = anonymous(machine, app)
    io = app.pin(heap) if pinned else None
    word = Status()

    def get(page, private, result):
        result[0] = word
        return ToNode(1)(page, private, result)

    migrated(machine, app, *pages, get=get)
    if io:
        io.release()
    assert word.status == expected


# --- the lock, writeback, the anon_vma ---


@pytest.mark.parametrize(
    ("mode", "flags", "expected"),
    [
        (MIGRATE_ASYNC, 0, 1),
        (MIGRATE_SYNC, PF_MEMALLOC, 1),
        (MIGRATE_SYNC_LIGHT, PF_MEMALLOC, 1),
    ],
)
def test_a_locked_page_that_is_not_waited_for(machine, app, mode, flags, expected):
    _, pages = anonymous(machine, app)
    with app.running():
        assert trylock_page(pages[0])
    app.task.flags |= flags
    assert migrated(machine, app, *pages, mode=mode) == (expected, pages)
    app.task.flags &= ~flags
    with app.running():
        unlock_page(pages[0])
    assert machine.kernel.reasons[pages[0].pfn] is Reason.LOCKED


@pytest.mark.parametrize("mode", [MIGRATE_SYNC_LIGHT, MIGRATE_SYNC])
def test_a_locked_page_that_is_waited_for_from_the_fourth_pass(machine, app, mode):
    _, pages = anonymous(machine, app)
    get = ToNode(1)
    with app.running():
        assert trylock_page(pages[0])
    machine.start(unlock_page, pages[0])
    assert migrated(machine, app, *pages, mode=mode, get=get) == (0, [])
    assert len(get.given) == 4


@pytest.mark.parametrize("mode", [MIGRATE_ASYNC, MIGRATE_SYNC_LIGHT])
def test_writeback_is_a_refusal(machine, app, mode):
    file, _, pages = of_file(machine, app)
    block.disk(machine.kernel, "disk").hold = True
    machine.writeback(file)
    assert migrated(machine, app, *pages, mode=mode) == (1, [])
    assert machine.kernel.reasons[pages[0].pfn] is Reason.WRITEBACK
    assert machine.vmstat["pgmigrate_fail"] == 1
    block.release(machine.kernel, "disk")


def test_writeback_is_waited_for_from_the_fourth_pass(machine, app):
    file, view, pages = of_file(machine, app)
    disk = block.disk(machine.kernel, "disk")
    disk.hold = True
    machine.writeback(file)
    machine.start(block.release, machine.kernel, "disk")
    get = ToNode(1)
    assert migrated(machine, app, *pages, get=get) == (0, [])
    assert len(get.given) == 4
    assert app.placement(view) == {1: 1}


def test_an_unmapped_anonymous_page_is_on_its_way_out(machine, app):
    heap, pages = anonymous(machine, app)
    with app.running():
        get_page(pages[0])
        pagelist = isolated(machine, *pages)
        app.munmap(heap)
        assert moved(pagelist) == 1
        migrate.putback_movable_pages(pagelist)
        put_page(pages[0])


def test_an_unmapped_swap_cache_page_moves_without_a_walk(machine, app):
    machine.swapon(MiB(1))
    heap, pages = anonymous(machine, app)
    app.write(heap.start, b"kept")
    with app.running():
        machine.drain_pagevecs()
        lock_page(pages[0])
        assert swap_state.add_to_swap(pages[0])
        unlock_page(pages[0])
    # mapped in the swap cache: migration leaves swap entries, and a fault finds the new page
    assert migrated(machine, app, *pages) == (0, [])
    assert app.page_at(heap.start) is None
    new = machine.kernel.swap.areas[0].space.page_tree.slots
    [found] = new.values()
    assert found.zone.nid == 1
    assert found.flags & PG_swapcache
    # now it is unmapped swap cache: moved again, and no pte touched
    assert migrated(machine, app, found, get=ToNode(0)) == (0, [])
    assert app.read(heap.start, 4) == b"kept"
    assert app.placement(heap) == {0: 1}


def test_a_truncated_page_with_buffers_gives_them_up_first(machine, app):
    file, view, pages = of_file(machine, app)
    machine.fsync(file)
    with app.running():
        get_page(pages[0])
        pagelist = isolated(machine, *pages)
        page = pages[0]
        lock_page(page)
        # as truncation leaves it when the filesystem could not release the buffers
        app.munmap(view)
        for bh in buffer.page_buffers(page):
            buffer.get_bh(bh)
        from mmigrate.linux.mm import filemap, page_writeback

        page_writeback.cancel_dirty_page(page)
        filemap.delete_from_page_cache(page)
        unlock_page(page)
        assert moved(pagelist, MIGRATE_ASYNC) == 1
        for bh in page.private:
            buffer.put_bh(bh)
        assert moved(pagelist, MIGRATE_ASYNC) == 1
        assert page.private == 0  # freed; the next attempt sees a count of ours and the test's
        put_page(page)
        assert moved(pagelist, MIGRATE_ASYNC) == 0


@pytest.mark.parametrize("pinned", [False, True])
def test_a_page_that_is_truncated_before_it_is_locked(machine, app, pinned):
    """Without private data it still moves, to a page that nobody wants; unless it is held."""
    file = machine.shmem("shm", 4096)
    view = app.mmap(pages=1, file=file, shared=True)
    app.write(view.start, b"gone")
    page = machine.page_of(app, view.start)
    app.munmap(view)
    get = ToNode(1)
    with app.running():
        pagelist = isolated(machine, page)
        if pinned:
            get_page(page)

        def about_to_be_locked(obj, field, kind):
            return obj is page and field == PG_locked

        with in_window(about_to_be_locked, lambda: machine.truncate(file, 0)):
            assert moved(pagelist, MIGRATE_SYNC, get) == (1 if pinned else 0)
        if pinned:
            assert list(pagelist) == [page]
            migrate.putback_movable_pages(pagelist)
            put_page(page)
    assert len(get.given) == (10 if pinned else 1)
    machine.drain_pagevecs()
    assert page._count == 0
    assert all(new._count == 0 for new in get.given)


def test_a_page_stays_if_one_of_its_mappings_cannot_become_a_swap_entry(machine, app, monkeypatch):
    """A page in the swap cache whose place cannot be counted once more is still mapped after
    try_to_unmap: tried again, and no entry is left."""
    machine.swapon(MiB(1))
    heap, pages = anonymous(machine, app)
    app.write(heap.start, b"kept")
    with app.running():
        machine.drain_pagevecs()
        lock_page(pages[0])
        assert swap_state.add_to_swap(pages[0])
        unlock_page(pages[0])
    monkeypatch.setattr(swapfile, "swap_duplicate", lambda entry: ENOMEM)
    assert migrated(machine, app, *pages) == (1, pages)
    assert machine.kernel.reasons[pages[0].pfn] is Reason.STILL_MAPPED
    assert app.placement(heap) == {0: 1}
    assert app.read(heap.start, 4) == b"kept"


# --- counts ---


def test_a_reference_that_comes_after_unmapping_defeats_one_pass(machine, app):
    heap, pages = anonymous(machine, app)
    get = ToNode(1)
    held = []

    def hold():
        get_page(pages[0])
        held.append(pages[0])

    def let_go(page, private, result):
        if held:
            put_page(held.pop())
        return ToNode(1)(page, private, result)

    with app.running():
        pagelist = isolated(machine, *pages)

        def unmapped(obj, field, kind):
            return obj is pages[0] and field == "_count" and not obj._mapcount + 1

        with in_window(unmapped, hold):
            assert moved(pagelist, MIGRATE_SYNC, let_go) == 0
    assert app.placement(heap) == {1: 1}
    assert get.given == []


@pytest.mark.parametrize("shared", [1, 2, 3])
def test_all_mappings_come_along(machine, app, shared):
    heap, pages = anonymous(machine, app)
    children = [app.fork() for _ in range(shared - 1)]
    assert migrated(machine, app, *pages) == (0, [])
    for process in (app, *children):
        assert process.placement(heap) == {1: 1}
    assert machine.page_of(app, heap.start)._mapcount == shared - 1


# --- what the copy takes along ---


def test_flags_and_contents(machine, app):
    heap, [old] = anonymous(machine, app)
    app.write(heap.start, b"bytes")
    old.flags |= PG_referenced | PG_error
    machine.drain_pagevecs()
    old_flags = old.flags
    assert old_flags & PG_active
    assert migrated(machine, app, old) == (0, [])
    new = machine.page_of(app, heap.start)
    for flag in (PG_error, PG_referenced, PG_uptodate, PG_active, PG_dirty, PG_swapbacked):
        assert new.flags & flag == old_flags & flag or flag == PG_dirty
    assert new.flags & PG_dirty  # collected from the pte
    assert not new.flags & PG_locked
    assert old.mapping is None
    assert bytes(new.data[:5]) == b"bytes"


def test_unevictable_comes_along(machine, app):
    ram = machine.file("ram", 4096, fs="ramfs")
    view = app.mmap(pages=1, file=ram)
    app.touch(view, write=False)
    machine.drain_pagevecs()
    old = machine.page_of(app, view.start)
    with app.running():  # as reclaim would cull it
        assert vmscan.isolate_lru_page(old) == 0
        vmscan.putback_lru_page(old)
    assert old.flags & PG_unevictable
    assert migrated(machine, app, old) == (0, [])
    machine.drain_pagevecs()
    assert machine.page_of(app, view.start).flags & PG_unevictable
    assert machine.vmstat["unevictable_pgs_rescued"] == 0


def test_a_locked_area_forgets_mlocked(machine, app):
    heap = app.mmap(pages=1)
    app.mlock(heap)
    old = machine.page_of(app, heap.start)
    assert migrated(machine, app, old) == (0, [])
    assert machine.vmstat["nr_mlock"] == 0
    assert machine.vmstat["unevictable_pgs_cleared"] == 1
    assert machine.vmstat["unevictable_pgs_stranded"] == 1


def test_dirty_accounting_moves_with_the_page(machine, app):
    file, _view, pages = of_file(machine, app)
    assert machine.nodes[0]["Dirty"] == 4
    assert migrated(machine, app, *pages) == (0, [])
    assert (machine.nodes[0]["Dirty"], machine.nodes[1]["Dirty"]) == (0, 4)
    assert file.i_mapping.page_tree.tag_get(0, 0)
    machine.fsync(file)
    assert machine.vmstat["nr_dirty"] == 0


def test_shmem_accounting_moves_with_the_page(machine, app):
    segment = machine.shmem("segment", 4096)
    view = app.mmap(pages=1, file=segment, shared=True)
    app.touch(view)
    assert migrated(machine, app, machine.page_of(app, view.start)) == (0, [])
    assert (machine.nodes[0]["Shmem"], machine.nodes[1]["Shmem"]) == (0, 4)


# --- methods ---


@pytest.mark.parametrize("mode", MODES)
def test_buffers_come_along(machine, app, mode):
    file, view, [old] = of_file(machine, app)
    heads = buffer.page_buffers(old) if isinstance(old.private, list) else None
    machine.fsync(file)
    assert migrated(machine, app, old, mode=mode) == (0, [])
    new = machine.page_of(app, view.start)
    assert isinstance(new.private, list)
    assert all(bh.b_page is new and not bh.b_count for bh in new.private)
    assert heads is None or new.private is heads
    app.write(view.start, b"after")
    machine.fsync(file)
    assert file.blocks[0].startswith(b"after")


def test_busy_buffers_refuse_an_asynchronous_move(machine, app):
    file, _view, [old] = of_file(machine, app)
    machine.fsync(file)
    with app.running():
        buffer.lock_buffer(old.private[2])
        machine.drain_pagevecs()
        count = old._count
        assert migrated(machine, app, old, mode=MIGRATE_ASYNC) == (1, [old])
        assert [bh.b_state & buffer.BH_Lock for bh in old.private] == [0, 0, buffer.BH_Lock, 0]
        buffer.unlock_buffer(old.private[2])
    machine.drain_pagevecs()
    assert old._count == count
    assert file.i_mapping.page_tree.slots[0] is old
    assert machine.kernel.reasons[old.pfn] is Reason.BUFFERS_BUSY


def test_busy_buffers_are_waited_for(machine, app):
    file, _view, [old] = of_file(machine, app)
    machine.fsync(file)
    with app.running():
        buffer.lock_buffer(old.private[0])
    machine.start(buffer.unlock_buffer, old.private[0])
    assert migrated(machine, app, old, mode=MIGRATE_SYNC) == (0, [])


@pytest.mark.parametrize("mode", [MIGRATE_ASYNC, MIGRATE_SYNC_LIGHT])
def test_the_fallback_refuses_dirty_pages(machine, app, mode):
    _file, view, pages = of_file(machine, app, "exofs")
    assert migrated(machine, app, *pages, mode=mode) == (1, [])
    assert app.placement(view) == {0: 1}
    assert machine.kernel.reasons[pages[0].pfn] is Reason.DIRTY_NO_METHOD


@pytest.mark.parametrize("mode", MODES)
def test_the_fallback_moves_clean_pages(machine, app, mode):
    _, view, pages = of_file(machine, app, "exofs", write=False)
    assert migrated(machine, app, *pages, mode=mode) == (0, [])
    assert app.placement(view) == {1: 1}


def test_the_fallback_writes_first(machine, app):
    file, view, pages = of_file(machine, app, "exofs")
    app.write(view.start, b"dirty")
    get = ToNode(1)
    assert migrated(machine, app, *pages, get=get) == (0, [])
    assert len(get.given) == 4  # written in the first pass, waited for in the fourth
    assert file.blocks[0].startswith(b"dirty")
    assert app.placement(view) == {1: 1}


def test_a_write_that_fails(machine, app):
    _file, view, pages = of_file(machine, app, "exofs")
    failing = machine.kernel.inodes[0].i_mapping.a_ops
    honest = failing.writepage

    def writepage(page, wbc):
        from mmigrate.linux.mm import page_writeback

        page_writeback.set_page_dirty(page)
        unlock_page(page)
        return EIO

    failing.writepage = writepage
    assert migrated(machine, app, *pages) == (1, [])
    failing.writepage = honest
    assert machine.kernel.reasons[pages[0].pfn] is Reason.WRITE_FAILED
    assert app.placement(view) == {0: 1}


def test_nobody_who_could_write(machine, app):
    ram = machine.file("ram", 4096, fs="ramfs")
    view = app.mmap(pages=1, file=ram, shared=True)
    app.touch(view)
    assert migrated(machine, app, machine.page_of(app, view.start)) == (1, [])
    assert app.placement(view) == {0: 1}


# --- putback and preparation ---


def test_putback_returns_everything(machine, app):
    _heap, pages = anonymous(machine, app, 2)
    with app.running():
        pagelist = isolated(machine, *pages)
        assert machine.vmstat["nr_isolated_anon"] == 2
        migrate.putback_movable_pages(pagelist)
    assert machine.vmstat["nr_isolated_anon"] == 0


def test_preparation_empties_all_vectors(machine, app):
    _heap, pages = anonymous(machine, app)
    with app.running():
        assert vmscan.isolate_lru_page(pages[0]) == EBUSY
        assert migrate.migrate_prep(machine.kernel) == 0
        assert vmscan.isolate_lru_page(pages[0]) == 0
        vmscan.putback_lru_page(pages[0])
