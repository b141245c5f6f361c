"""Migration entries: how they are made, who meets them, what becomes of them; and unmapping."""

import pytest

from mmigrate import Machine, MiB
from mmigrate.errors import KernelBug
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.mm import (
    MADV_DONTNEED,
    SWAP_AGAIN,
    SWAP_FAIL,
    SWAP_MLOCK,
    SWAP_SUCCESS,
    TTU_IGNORE_ACCESS,
    TTU_IGNORE_MLOCK,
    TTU_MIGRATION,
    TTU_UNMAP,
)
from mmigrate.linux.include.page_flags import PG_dirty, PG_hwpoison
from mmigrate.linux.include.pgtable import (
    PAGE_SHARED,
    is_hwpoison_entry,
    is_migration_entry,
    is_write_migration_entry,
    pte_dirty,
    pte_mksoft_dirty,
    pte_present,
    pte_soft_dirty,
    pte_swp_soft_dirty,
    pte_to_swp_entry,
    pte_write,
    pte_young,
    swp_offset,
)
from mmigrate.linux.include.vmstat import MM_ANONPAGES, MM_FILEPAGES, MM_SWAPENTS
from mmigrate.linux.kernel.page_flags import lock_page, trylock_page, unlock_page
from mmigrate.linux.kernel.page_ref import get_page, put_page
from mmigrate.linux.kernel.pgtable import find_leaf
from mmigrate.linux.mm import migrate, rmap, swap_state
from mmigrate.machine.process import peek_pte
from tests.linux.mm.migration import in_window

MIGRATION = TTU_MIGRATION | TTU_IGNORE_MLOCK | TTU_IGNORE_ACCESS


@pytest.fixture
def machine():
    machine = Machine(nodes=(MiB(8), MiB(8)), cpus=(0, 0, 1))
    yield machine
    machine.finish_io()
    machine.drain_pagevecs()
    assert [str(v) for v in machine.check()] == []


@pytest.fixture
def app(machine):
    return machine.process("app")


class Unmapped:
    """A page whose ptes are migration entries, until `restore`; it is locked and held, and its
    anon_vma is, as __unmap_and_move does it."""

    def __init__(self, machine, process, address, flags=MIGRATION):
        self.process = process
        self.page = machine.page_of(process, address)
        with process.running():
            get_page(self.page)
            lock_page(self.page)
            self.anon_vma = rmap.page_get_anon_vma(self.page)
            self.result = rmap.try_to_unmap(self.page, flags)

    def restore(self):
        with self.process.running():
            migrate.remove_migration_ptes(self.page, self.page)
            if self.anon_vma:
                rmap.put_anon_vma(self.page.zone.kernel, self.anon_vma)
            unlock_page(self.page)
            put_page(self.page)


def entry_at(process, address):
    return pte_to_swp_entry(peek_pte(process.mm, address))


def anonymous(app, data=b"data"):
    heap = app.mmap(pages=1)
    app.write(heap.start, data)
    return heap


# --- what unmapping stores ---


def test_a_writable_anonymous_page_leaves_a_write_entry(machine, app):
    heap = anonymous(app)
    rss = list(app.mm.rss_stat)
    gone = Unmapped(machine, app, heap.start)
    assert gone.result == SWAP_SUCCESS
    entry = entry_at(app, heap.start)
    assert is_write_migration_entry(entry)
    assert swp_offset(entry) == gone.page.pfn
    assert app.mm.rss_stat == rss
    assert gone.page.flags & PG_dirty
    gone.restore()
    pte = peek_pte(app.mm, heap.start)
    assert pte_write(pte)
    assert not pte_young(pte)
    assert not pte_dirty(pte)


def test_a_shared_anonymous_page_leaves_read_entries(machine, app):
    heap = anonymous(app)
    child = app.fork()
    gone = Unmapped(machine, app, heap.start)
    for process in (app, child):
        entry = entry_at(process, heap.start)
        assert is_migration_entry(entry)
        assert not is_write_migration_entry(entry)
    gone.restore()
    for process in (app, child):
        assert not pte_write(peek_pte(process.mm, heap.start))


def test_a_file_page_leaves_entries_only_for_migration(machine, app):
    view = app.mmap(pages=1, file=machine.file("f", 4096), shared=True)
    app.write(view.start, b"x")
    gone = Unmapped(machine, app, view.start)
    assert is_write_migration_entry(entry_at(app, view.start))
    gone.restore()
    files = app.mm.rss_stat[MM_FILEPAGES]
    reclaimed = Unmapped(machine, app, view.start, TTU_UNMAP | TTU_IGNORE_ACCESS)
    assert peek_pte(app.mm, view.start) == 0
    assert app.mm.rss_stat[MM_FILEPAGES] == files - 1
    reclaimed.restore()
    assert app.read(view.start, 1) == b"x"


def test_a_swap_cache_page_leaves_swap_entries_even_for_migration(machine, app):
    machine.swapon(MiB(1))
    heap = anonymous(app)
    page = machine.page_of(app, heap.start)
    with app.running():
        lock_page(page)
        assert swap_state.add_to_swap(page)
        unlock_page(page)
    gone = Unmapped(machine, app, heap.start)
    entry = entry_at(app, heap.start)
    assert not is_migration_entry(entry)
    assert entry == page.private
    assert app.mm.rss_stat[MM_SWAPENTS] == 1
    assert app.mm.rss_stat[MM_ANONPAGES] == 0
    gone.restore()
    assert peek_pte(app.mm, heap.start) != 0
    assert not pte_present(peek_pte(app.mm, heap.start))
    assert app.read(heap.start, 4) == b"data"


def test_a_poisoned_page_leaves_poison(machine, app):
    heap = anonymous(app)
    page = machine.page_of(app, heap.start)
    page.flags |= PG_hwpoison
    gone = Unmapped(machine, app, heap.start)
    assert is_hwpoison_entry(entry_at(app, heap.start))
    assert app.mm.rss_stat[MM_ANONPAGES] == 0
    page.flags &= ~PG_hwpoison
    gone.restore()
    with pytest.raises(OSError, match="SIGBUS"):
        app.read(heap.start, 1)
    app.munmap(heap)


def test_soft_dirty_survives_for_anonymous_pages_only(machine, app):
    heap = anonymous(app)
    view = app.mmap(pages=1, file=machine.file("f", 4096), shared=True)
    app.write(view.start, b"x")
    for address, survives in ((heap.start, True), (view.start, False)):
        table, index = find_leaf(app.mm, address), (address >> 12) & 511
        table.entries[index] = pte_mksoft_dirty(table.entries[index])
        gone = Unmapped(machine, app, address)
        assert pte_swp_soft_dirty(peek_pte(app.mm, address)) is survives
        gone.restore()
        assert pte_soft_dirty(peek_pte(app.mm, address)) is survives
    for cpu in machine.kernel.cpus:
        cpu.tlb.clear()


def test_mlock_stops_reclaim_and_not_migration(machine, app):
    heap = app.mmap(pages=1)
    app.mlock(heap)
    gone = Unmapped(machine, app, heap.start, TTU_UNMAP | TTU_IGNORE_ACCESS)
    assert gone.result == SWAP_MLOCK
    gone.restore()
    gone = Unmapped(machine, app, heap.start)
    assert gone.result == SWAP_SUCCESS
    gone.restore()


def test_a_young_pte_stops_reclaim(machine, app):
    view = app.mmap(pages=1, file=machine.file("f", 4096))
    app.read(view.start, 1)
    gone = Unmapped(machine, app, view.start, TTU_UNMAP)
    assert gone.result == SWAP_FAIL
    gone.restore()
    again = Unmapped(machine, app, view.start, TTU_UNMAP)
    assert again.result == SWAP_SUCCESS
    again.restore()


def test_an_anonymous_page_without_swap_cannot_be_reclaimed(machine, app):
    heap = anonymous(app)
    with pytest.raises(KernelBug, match="unmapped for reclaim without swap entry"):
        Unmapped(machine, app, heap.start, TTU_UNMAP | TTU_IGNORE_ACCESS)
    # the BUG left the kernel in the middle of it
    table, index = find_leaf(app.mm, heap.start), (heap.start >> 12) & 511
    known = [page for section in machine.kernel.mem_map.values() for page in section if page]
    page = next(page for page in known if page.flags & 1)
    with app.running() as task:
        from mmigrate.linux.kernel.rwsem import up_read
        from mmigrate.linux.kernel.spinlock import spin_unlock

        table.entries[index] = (page.pfn << 12) | PAGE_SHARED
        spin_unlock(table.ptl)
        for sem in list(task.held):
            up_read(sem)
        rmap.put_anon_vma(machine.kernel, page.mapping)
        unlock_page(page)
        put_page(page)


def test_nothing_is_found_where_nothing_is_mapped(machine, app):
    heap = anonymous(app)
    page = machine.page_of(app, heap.start)
    with app.running():
        get_page(page)
        app.munmap(heap)
        lock_page(page)
        assert rmap.page_get_anon_vma(page) is None
        assert rmap.try_to_unmap(page, MIGRATION) in (SWAP_AGAIN, SWAP_SUCCESS)
        unlock_page(page)
        put_page(page)


# --- what the restored pte may do ---


@pytest.mark.parametrize(
    ("shared", "prot", "writable"),
    [
        (False, "rw", True),  # write entry
        (True, "rw", True),
    ],
)
def test_restored_as_it_was(machine, app, shared, prot, writable):
    segment = machine.shmem("s", 4096) if shared else None
    heap = app.mmap(pages=1, prot=prot, file=segment, shared=shared)
    app.write(heap.start, b"x")
    gone = Unmapped(machine, app, heap.start)
    gone.restore()
    assert pte_write(peek_pte(app.mm, heap.start)) is writable


def test_mprotect_in_between_takes_the_right_to_write(machine, app):
    heap = anonymous(app)
    gone = Unmapped(machine, app, heap.start)
    app.mprotect(heap, "r")
    assert not is_write_migration_entry(entry_at(app, heap.start))
    gone.restore()
    assert not pte_write(peek_pte(app.mm, heap.start))


def test_mprotect_to_and_fro_costs_a_fault_and_no_more(machine, app):
    heap = anonymous(app)
    gone = Unmapped(machine, app, heap.start)
    app.mprotect(heap, "r")
    app.mprotect(heap, "rw")
    gone.restore()
    assert not pte_write(peek_pte(app.mm, heap.start))
    app.write(heap.start, b"more")
    assert machine.page_of(app, heap.start) is gone.page


def test_a_read_entry_of_a_shared_mapping_comes_back_writable(machine, app):
    segment = machine.shmem("s", 4096)
    view = app.mmap(pages=1, file=segment, shared=True)
    app.touch(view, write=False)
    gone = Unmapped(machine, app, view.start)
    gone.restore()
    assert pte_write(peek_pte(app.mm, view.start))  # from vm_page_prot


def test_a_read_entry_where_writes_are_noted_comes_back_read_only(machine, app):
    view = app.mmap(pages=1, file=machine.file("f", 4096), shared=True)
    app.touch(view, write=False)
    gone = Unmapped(machine, app, view.start)
    gone.restore()
    assert not pte_write(peek_pte(app.mm, view.start))


# --- who meets an entry ---


def test_fork_copies_it_and_makes_both_read_entries(machine, app):
    heap = anonymous(app)
    gone = Unmapped(machine, app, heap.start)
    child = app.fork()
    for process in (app, child):
        assert is_migration_entry(entry_at(process, heap.start))
        assert not is_write_migration_entry(entry_at(process, heap.start))
    assert child.mm.rss_stat[MM_ANONPAGES] == 1
    gone.restore()
    assert gone.page._mapcount == 1
    assert child.read(heap.start, 4) == b"data"


@pytest.mark.parametrize("call", ["munmap", "dontneed", "exit"])
def test_who_unmaps_clears_it(machine, app, call):
    heap = anonymous(app)
    child = app.fork()  # so that the anon_vma outlives the process
    gone = Unmapped(machine, app, heap.start)
    if call == "munmap":
        app.munmap(heap)
    elif call == "dontneed":
        app.madvise(heap, MADV_DONTNEED)
    else:
        gone.process = child
        app.exit()
    gone.restore()
    assert gone.page._mapcount == 0
    assert child.read(heap.start, 4) == b"data"


def test_truncation_clears_it_without_the_page_lock(machine, app):
    file = machine.file("f", 4096)
    view = app.mmap(pages=1, file=file, shared=True)
    app.touch(view, write=False)
    gone = Unmapped(machine, app, view.start)
    truncating = machine.start(machine.truncate, file, 0)
    from mmigrate.linux.mm import memory

    with app.running():
        memory.unmap_mapping_range(file.i_mapping, 0, 0, True)
    assert peek_pte(app.mm, view.start) == 0
    gone.restore()
    machine.run()
    assert truncating.finished
    assert app.mm.rss_stat[MM_FILEPAGES] == 0


def test_mremap_moves_it(machine, app):
    heap = app.mmap(pages=2)
    app.write(heap.start, b"data")
    app.munmap(heap[1:2])
    gone = Unmapped(machine, app, heap.start)
    moved = app.mremap(heap[0:1], 3 * 4096)
    if moved.start == heap.start:
        moved = app.mremap(moved, 4096, at=heap.start - (1 << 20))
    assert is_migration_entry(entry_at(app, moved.start))
    assert pte_swp_soft_dirty(peek_pte(app.mm, moved.start))
    gone.restore()
    assert app.read(moved.start, 4) == b"data"


def test_observers_see_it(machine, app):
    heap = anonymous(app)
    child = app.fork()
    gone = Unmapped(machine, app, heap.start)
    assert app.mincore(heap) == [True]
    [word] = app.pagemap(heap)
    assert word >> 62 & 1  # as swap
    assert word & 31 in (30, 31)
    assert "anon=" not in app.numa_maps()
    assert "Rss:                   4 kB" in app.smaps()
    assert app.move_pages(heap).status == (-2,)
    gone.restore()
    assert child.placement(heap) == {0: 1}


def test_soft_dirty_is_watched_anew(machine, app):
    heap = anonymous(app)
    app.clear_refs(4)
    assert not app.pagemap(heap)[0] >> 55 & 1
    app.write(heap.start, b"again")
    assert app.pagemap(heap)[0] >> 55 & 1
    with pytest.raises(OSError, match="Invalid argument"):
        app.clear_refs(5)


def test_a_store_after_a_migration_under_clear_refs_is_missed(machine, app):
    """A defect of v3.19: the write entry stays one."""
    heap = anonymous(app)
    gone = Unmapped(machine, app, heap.start)
    app.clear_refs(4)
    assert is_write_migration_entry(entry_at(app, heap.start))
    gone.restore()
    app.write(heap.start, b"unseen")
    assert not app.pagemap(heap)[0] >> 55 & 1


def test_clear_refs_forgets_accesses_and_passes_entries_by(machine, app):
    heap = anonymous(app)
    page = machine.page_of(app, heap.start)
    app.clear_refs(1)
    assert not pte_young(peek_pte(app.mm, heap.start))
    gone = Unmapped(machine, app, heap.start)
    before = peek_pte(app.mm, heap.start)
    app.clear_refs(2)
    assert peek_pte(app.mm, heap.start) == before
    gone.restore()
    assert page.mapping is not None


def test_a_pin_waits_for_it(machine, app):
    heap = anonymous(app)
    gone = Unmapped(machine, app, heap.start)
    pinning = machine.start(app.pin, heap)
    restoring = machine.start(gone.restore)
    machine.run()
    assert restoring.finished
    assert pinning.result.pages == [gone.page]
    pinning.result.release()


def test_a_fault_waits_for_it(machine, app):
    heap = anonymous(app)
    gone = Unmapped(machine, app, heap.start)
    reading = machine.start(app.read, heap.start, 4)
    machine.start(gone.restore)
    machine.run()
    assert reading.result == b"data"


def test_an_entry_must_name_a_locked_page(machine, app):
    heap = anonymous(app)
    page = machine.page_of(app, heap.start)
    with app.running(), pytest.raises(KernelBug, match="unlocked page"):
        migrate.make_migration_entry(page, True)
    gone = Unmapped(machine, app, heap.start)
    with app.running():
        unlock_page(gone.page)
        with pytest.raises(KernelBug, match="names an unlocked page"):
            app.read(heap.start, 1)
        assert trylock_page(gone.page)
        for lock in list(app.task.held):
            from mmigrate.linux.kernel.rwsem import RwSemaphore, up_read
            from mmigrate.linux.kernel.spinlock import spin_unlock

            (up_read if isinstance(lock, RwSemaphore) else spin_unlock)(lock)
    gone.restore()


# --- windows: another task really runs there ---


def test_between_clearing_and_storing_a_lockless_reader_sees_nothing(machine, app):
    heap = anonymous(app)
    table, index = find_leaf(app.mm, heap.start), (heap.start >> 12) & 511
    seen = []
    with in_window(
        lambda obj, field, kind: table.entries[index] == 0,
        lambda: seen.append(peek_pte(app.mm, heap.start)),
    ):
        assert app.move_pages(heap, 1).status == (1,)
    assert seen == [0]


def test_while_frozen_the_count_is_zero_and_the_slot_still_old(machine, app):
    file = machine.file("f", 4096)
    view = app.mmap(pages=1, file=file)
    app.touch(view, write=False)
    page = machine.page_of(app, view.start)
    machine.drain_pagevecs()
    seen = []
    with in_window(
        lambda obj, field, kind: page._count == 0,
        lambda: seen.append(file.i_mapping.page_tree.slots[0] is page),
    ):
        assert app.move_pages(view, 1).status == (1,)
    assert seen == [True]


def test_the_new_page_is_in_the_cache_before_its_contents(machine, app):
    file = machine.file("f", 4096, data=b"disk")
    view = app.mmap(pages=1, file=file)
    app.read(view.start, 1)
    page = machine.page_of(app, view.start)
    slots = file.i_mapping.page_tree.slots
    seen = []

    def look():
        new = slots[0]
        seen.append((new.flags & 1, bytes(new.data[:4]), new._mapcount))

    with in_window(lambda obj, field, kind: slots[0] is not page, look):
        assert app.move_pages(view, 1).status == (1,)
    assert seen == [(1, bytes(4), -1)]  # locked, hollow, unmapped


@pytest.mark.parametrize("operation", ["write", "fork", "munmap", "mprotect", "mlock", "read"])
def test_every_operation_may_come_at_any_moment(machine, app, operation):
    """A second process moves the pages, so that mmap_sem does not keep the first away."""
    mover = machine.process("mover")
    outcomes = set()
    for seed in range(40):
        owner = machine.process("owner")
        heap = owner.mmap(pages=1)
        owner.write(heap.start, b"first")
        child = owner.fork()
        moved = machine.start(
            mover.move_pages, [heap.start], 1, process=child, flags=MPOL_MF_MOVE_ALL, cpu=1
        )
        arguments = {
            "write": (heap.start, b"other"),
            "read": (heap.start, 5),
            "fork": (),
            "mprotect": (heap, "r"),
        }.get(operation, (heap,))
        machine.start(getattr(owner, operation), *arguments, cpu=2)
        machine.run(seed)
        outcomes.add(str(moved.result))
        assert child.read(heap.start, 5) == b"first"
        machine.drain_pagevecs()
        assert [str(v) for v in machine.check()] == []
        for process in [p for p in machine.processes if p.name.startswith("owner")]:
            process.exit()
    assert outcomes


def test_pages_of_a_stack_that_exec_is_building_stay(machine, app):
    heap = anonymous(app)
    vma = app.mm.mmap[0]
    from mmigrate.linux.include.mm import VM_GROWSDOWN, VM_STACK_INCOMPLETE_SETUP

    vma.vm_flags |= VM_GROWSDOWN | VM_STACK_INCOMPLETE_SETUP
    assert app.move_pages(heap, 1).status == (-11,)
    vma.vm_flags &= ~(VM_GROWSDOWN | VM_STACK_INCOMPLETE_SETUP)
    assert app.move_pages(heap, 1).status == (1,)
