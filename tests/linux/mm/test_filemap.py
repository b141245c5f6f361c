"""The page cache."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmigrate import Machine, MiB
from mmigrate.errors import KernelBug, MemoryFault
from mmigrate.linux.drivers import block
from mmigrate.linux.include.gfp import GFP_KERNEL
from mmigrate.linux.include.mm import PAGECACHE_TAG_DIRTY
from mmigrate.linux.include.page_flags import PG_active, PG_dirty, PG_locked, PG_referenced
from mmigrate.linux.include.pgtable import PAGE_SHIFT, pte_write
from mmigrate.linux.kernel.page_flags import PageUptodate, SetPageSwapBacked, lock_page, unlock_page
from mmigrate.linux.kernel.page_ref import page_freeze_refs, page_unfreeze_refs
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import filemap, mempolicy, swap, truncate
from mmigrate.machine.process import peek_pte

PAGE = 4096


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4), MiB(4)))


@pytest.fixture
def app(computer):
    return computer.process()


@pytest.fixture
def file(computer):
    data = b"".join(bytes([number]) * PAGE for number in range(1, 9))
    return computer.file("data", 8 * PAGE, data=data)


def new_page():
    page = mempolicy.alloc_pages_current(GFP_KERNEL, 0)
    page.data = bytes(PAGE)
    return page


def page_in(file, index=0):
    return file.i_mapping.page_tree.slots[index]


# --- insertion and removal ---


def test_insertion_takes_a_reference_and_counts(computer, file):
    before = computer.vmstat["nr_file_pages"]
    page = new_page()
    assert filemap.add_to_page_cache_lru(page, file.i_mapping, 3, GFP_KERNEL) == 0
    assert (page.mapping, page.index) == (file.i_mapping, 3)
    assert page.flags & PG_locked
    assert file.i_mapping.nrpages == 1
    assert computer.vmstat["nr_file_pages"] == before + 1
    assert page._count == 3  # ours, the cache's, the vector's


def test_a_second_page_for_a_slot_is_refused_and_forgets_the_mapping(file):
    first, second = new_page(), new_page()
    filemap.add_to_page_cache_lru(first, file.i_mapping, 3, GFP_KERNEL)
    assert filemap.add_to_page_cache_lru(second, file.i_mapping, 3, GFP_KERNEL) == -errno.EEXIST
    assert second.mapping is None
    assert second.index == 3  # stays, as in the kernel
    assert (second._count, second.flags & PG_locked) == (1, 0)


def test_swap_backed_pages_do_not_belong_in_files(file):
    page = new_page()
    SetPageSwapBacked(page)
    lock_page(page)
    with pytest.raises(KernelBug, match="swap-backed"):
        filemap.add_to_page_cache_locked(page, file.i_mapping, 0, GFP_KERNEL)


def test_removal_clears_the_slot_and_its_tags(computer, app, file):
    app.pwrite(file, b"x" * PAGE)
    page = page_in(file)
    truncate.truncate_inode_pages(file.i_mapping, 0)
    assert page.mapping is None
    assert file.i_mapping.nrpages == 0
    assert not file.i_mapping.page_tree.tagged(PAGECACHE_TAG_DIRTY)
    assert computer.vmstat["nr_dirty"] == 0
    assert computer.check() == []


def test_a_mapped_page_must_not_be_removed(app, file):
    view = app.mmap(PAGE, file=file)
    app.touch(view, write=False)
    page = page_in(file)
    lock_page(page)
    with pytest.raises(KernelBug, match="while mapped"):
        filemap.delete_from_page_cache(page)


def test_replacement_loses_the_tags(computer, app):
    file = computer.file("plain", PAGE, fs="exofs")
    app.pwrite(file, b"x" * PAGE)
    computer.fsync(file)
    old, new = page_in(file), new_page()
    before = computer.vmstat["nr_file_pages"]
    file.i_mapping.page_tree.tag_set(0, PAGECACHE_TAG_DIRTY)
    lock_page(old)
    lock_page(new)
    assert filemap.replace_page_cache_page(old, new) == 0
    assert page_in(file) is new
    assert (new.mapping, new.index, old.mapping) == (file.i_mapping, 0, None)
    assert not file.i_mapping.page_tree.tagged(PAGECACHE_TAG_DIRTY)
    assert file.i_mapping.nrpages == 1
    assert computer.vmstat["nr_file_pages"] == before


# --- lookup ---


def test_a_lookup_takes_a_reference(app, file):
    app.pread(file, 1)
    page = page_in(file)
    count = page._count
    assert filemap.find_get_page(file.i_mapping, 0) is page
    assert page._count == count + 1


def test_a_lookup_waits_while_a_page_is_frozen(computer, app, file):
    """As while migration exchanges the slot."""
    app.pread(file, 1)
    computer.drain_pagevecs()
    old, new = page_in(file), new_page()
    found = []
    held = []

    def lookup():
        found.append(filemap.find_get_page(file.i_mapping, 0))

    def exchange():
        with spin_lock(file.i_mapping.tree_lock):
            held.append(page_freeze_refs(old, 1))
            file.i_mapping.page_tree.slots[0] = new
            page_unfreeze_refs(old, 1)

    def choose(enabled, running):
        """The exchange up to the freeze, then the lookup as long as it can go on."""
        names = {task.name: task for task in enabled}
        first = "lookup" if held else "exchange"
        return names.get(first) or enabled[0]

    computer.start(lookup)
    computer.start(exchange)
    computer.kernel.scheduler.run(choose)
    assert held == [True]
    assert found == [new]


@pytest.mark.parametrize("seed", range(20))
def test_a_lookup_never_returns_a_page_that_has_left_its_slot(computer, app, file, seed):
    app.pread(file, 1)
    results = []

    def lookup():
        page = filemap.find_lock_page(file.i_mapping, 0)
        if page is not None:
            results.append(page.mapping is file.i_mapping and page.index == 0)
            unlock_page(page)
            swap.put_page(page)

    computer.start(lookup)
    computer.start(computer.truncate, file, 0)
    computer.run(seed)
    assert all(results)
    assert computer.check() == []


def test_find_or_create_page_gives_a_locked_page(file):
    page = filemap.find_or_create_page(file.i_mapping, 5, GFP_KERNEL)
    assert page.flags & (PG_locked | PG_referenced) == PG_locked | PG_referenced
    unlock_page(page)
    assert filemap.find_or_create_page(file.i_mapping, 5, GFP_KERNEL) is page


# --- faults ---


def test_a_fault_reads_the_page(computer, app, file):
    view = app.mmap(8 * PAGE, file=file)
    assert app.read(view.start + 2 * PAGE, 2) == b"\3\3"
    assert computer.vmstat["pgmajfault"] == 1


def test_a_fault_maps_what_is_cached_around(computer, app, file):
    app.pread(file, 8 * PAGE)
    view = app.mmap(8 * PAGE, file=file)
    app.touch(view[2:3], write=False)
    assert app.mm.rss_stat[0] == 8
    assert computer.check() == []


def test_a_locked_page_is_not_mapped_on_the_way(app, file):
    app.pread(file, 8 * PAGE)
    lock_page(page_in(file, 3))
    view = app.mmap(8 * PAGE, file=file)
    app.touch(view[2:3], write=False)
    assert peek_pte(app.mm, view.start + 3 * PAGE) == 0
    assert app.mm.rss_stat[0] == 7
    unlock_page(page_in(file, 3))


def test_a_fault_behind_the_end_is_sigbus(app, file):
    view = app.mmap(9 * PAGE, file=file)
    with pytest.raises(MemoryFault, match="SIGBUS"):
        app.touch(view[8:9], write=False)


def test_a_failed_read_is_sigbus_and_is_tried_again(computer, app, file):
    view = app.mmap(PAGE, file=file)
    block.disk(computer.kernel, "disk").fail = 2
    with pytest.raises(MemoryFault, match="SIGBUS"):
        app.touch(view, write=False)
    assert app.read(view.start, 1) == b"\1"
    assert computer.check() == []


def test_a_private_store_is_not_seen_in_the_file(computer, app, file):
    view = app.mmap(PAGE, file=file)
    app.write(view.start, b"mine")
    assert app.pread(file, 4) == b"\1" * 4
    assert not page_in(file).flags & PG_dirty
    assert computer.check() == []


def test_a_shared_mapping_is_write_protected_until_a_store(app, file):
    view = app.mmap(PAGE, file=file, shared=True)
    app.touch(view, write=False)
    assert not pte_write(peek_pte(app.mm, view.start))
    app.touch(view)
    assert pte_write(peek_pte(app.mm, view.start))
    assert page_in(file).flags & PG_dirty


@pytest.mark.parametrize("seed", range(15))
def test_faults_against_truncation(computer, app, file, seed):
    view = app.mmap(8 * PAGE, file=file, shared=True)

    def store():
        try:
            app.touch(view[3:5])
        except MemoryFault as fault:
            return str(fault)
        return "stored"

    started = computer.start(store)
    computer.start(computer.truncate, file, 4 * PAGE)
    computer.run(seed)
    assert "SIGBUS" in started.result or started.result == "stored"
    assert file.i_mapping.nrpages <= 4
    assert peek_pte(app.mm, view.start + 4 * PAGE) == 0
    computer.finish_io()
    assert computer.check() == []


# --- read(2) and write(2) ---


def test_a_read_ends_with_the_file(app, file):
    assert app.pread(file, 100, 8 * PAGE - 3) == b"\x08" * 3
    assert app.pread(file, 100, 8 * PAGE) == b""


def test_a_write_behind_the_end_makes_the_file_longer(app, file):
    app.pwrite(file, b"end", 10 * PAGE)
    assert file.i_size == 10 * PAGE + 3
    assert app.pread(file, 3, 9 * PAGE) == bytes(3)


def test_a_second_read_makes_a_page_active(computer, app, file):
    app.pread(file, 1)
    computer.drain_pagevecs()
    assert page_in(file).flags & PG_referenced
    app.pread(file, 1)
    computer.drain_pagevecs()
    assert page_in(file).flags & PG_active


def test_shared_contents_are_copied_before_they_change(app, file):
    app.pread(file, 1)
    image = file.blocks[0]
    assert page_in(file).data is image  # one object, as long as nobody writes
    app.pwrite(file, b"x")
    assert image == b"\1" * PAGE


def test_a_read_error_ends_a_read_early(computer, app, file):
    app.pread(file, 1)
    block.disk(computer.kernel, "disk").fail = 2
    assert app.pread(file, 2 * PAGE) == b"\1" * PAGE
    assert PageUptodate(page_in(file)) and not PageUptodate(page_in(file, 1))


@pytest.mark.parametrize("seed", range(15))
def test_reads_see_whole_bytes_while_pages_move(computer, app, file, seed):
    view = app.mmap(2 * PAGE, file=file)
    app.touch(view, write=False)
    reader = computer.start(app.pread, file, 2 * PAGE)
    computer.start(app.move_pages, view, 1)
    computer.run(seed)
    assert reader.result == b"\1" * PAGE + b"\2" * PAGE
    assert computer.check() == []


OFFSETS = st.integers(0, 5 * PAGE)
ACTIONS = st.one_of(
    st.tuples(st.just("write"), OFFSETS, st.integers(1, 2 * PAGE), st.integers(1, 255)),
    st.tuples(st.just("store"), OFFSETS, st.integers(1, 2 * PAGE), st.integers(1, 255)),
    st.tuples(st.just("read"), OFFSETS, st.integers(1, 2 * PAGE)),
    st.tuples(st.just("truncate"), OFFSETS),
    st.tuples(st.just("punch"), OFFSETS, st.integers(1, 2 * PAGE)),
    st.tuples(st.just("move"), st.integers(0, 1)),
    st.tuples(st.just("fsync")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("drop")),
    st.tuples(st.just("swap out")),
)


class Pair:
    """A file of the model and a bytearray that should be equal to it."""

    def __init__(self, fs):
        self.computer = Machine(nodes=(MiB(1), MiB(1)))
        self.computer.swapon(MiB(1))
        self.app = self.computer.process()
        self.file = (
            self.computer.shmem("data", 3 * PAGE)
            if fs == "tmpfs"
            else self.computer.file("data", 3 * PAGE, fs=fs, data=b"a" * PAGE)
        )
        self.view = self.app.mmap(8 * PAGE, file=self.file, shared=True)
        self.plain = bytearray(3 * PAGE)
        self.plain[:PAGE] = bytes(PAGE) if fs == "tmpfs" else b"a" * PAGE

    def act(self, what, *arguments):
        getattr(self, what.replace(" ", "_"))(*arguments)

    def write(self, offset, length, value):
        self.app.pwrite(self.file, bytes([value]) * length, offset)
        if len(self.plain) < offset + length:
            self.plain += bytes(offset + length - len(self.plain))
        self.plain[offset : offset + length] = bytes([value]) * length

    def store(self, offset, length, value):
        length = min(length, len(self.plain) - offset)
        if length > 0:
            self.app.write(self.view.start + offset, bytes([value]) * length)
            self.plain[offset : offset + length] = bytes([value]) * length

    def read(self, offset, length):
        assert self.app.pread(self.file, length, offset) == self.plain[offset : offset + length]

    def truncate(self, size):
        self.computer.truncate(self.file, size)
        if size < len(self.plain):
            del self.plain[size:]
        self.plain += bytes(size - len(self.plain))

    def punch(self, offset, length):
        fallocate = self.file.fs.file_ops.fallocate
        if fallocate is not None:
            first, last = offset // PAGE, (offset + length) // PAGE + 1
            with self.computer.shadow.dropping("file data", first, last):
                assert fallocate(self.file, offset, length) == 0
            end = min(offset + length, len(self.plain))
            self.plain[offset:end] = bytes(max(end - offset, 0))

    def move(self, node):
        self.app.move_pages(self.view, node=node)

    def fsync(self):
        self.computer.fsync(self.file)

    def flush(self):
        self.computer.writeback(self.file)

    def drop(self):
        self.computer.drop_caches()

    def swap_out(self):
        self.computer.swap_out(self.app, self.view)


@pytest.mark.parametrize("fs", ["ext4", "xfs", "nfs", "exofs", "ramfs", "tmpfs"])
@settings(max_examples=12, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=12))
def test_a_file_is_a_bytearray(fs, actions):
    pair = Pair(fs)
    for action in actions:
        pair.act(*action)
    assert pair.file.i_size == len(pair.plain)
    pair.read(0, len(pair.plain) + 10)
    pair.fsync()
    pair.computer.finish_io()
    for index in range((len(pair.plain) + PAGE - 1) >> PAGE_SHIFT if fs in ("ext4", "nfs") else 0):
        want = bytes(pair.plain[index * PAGE : (index + 1) * PAGE]).ljust(PAGE, b"\0")
        assert pair.file.blocks.get(index, bytes(PAGE)) == want
    assert pair.computer.check() == []
