"""Locked memory: areas, pages, counters."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.include.mm import MCL_CURRENT, MCL_FUTURE, VM_LOCKED
from mmigrate.linux.include.page_flags import PG_mlocked, PG_unevictable
from mmigrate.linux.kernel.page_flags import lock_page, unlock_page
from mmigrate.linux.mm import mlock, mmap, vmscan

PAGE = 4096


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4), MiB(4)))


def is_mlocked(page):
    return bool(page.flags & PG_mlocked)


def test_pages_of_a_locked_range_are_resident_mlocked_and_unevictable(computer):
    app = computer.process()
    where = app.mmap(pages=20)
    app.mlock(where)
    pages = [app.page_at(address) for address in where.pages()]
    assert all(is_mlocked(page) and page.flags & PG_unevictable for page in pages)
    assert (computer.vmstat["nr_mlock"], computer.vmstat["nr_unevictable"]) == (20, 20)
    assert app.mm.locked_vm == 20
    assert computer.check() == []


def test_pages_that_were_there_before_are_moved_to_the_unevictable_list(computer):
    app = computer.process()
    where = app.mmap(pages=3, file=computer.file("data", 3 * PAGE), shared=True)
    app.touch(where)
    app.mlock(where)
    assert computer.vmstat["nr_mlock"] == 3
    assert computer.vmstat["unevictable_pgs_culled"] == 3
    assert computer.check() == []


def test_munlock_rescues_in_batches_across_page_tables_and_nodes(computer):
    app = computer.process()
    where = app.mmap(pages=40, at=(1 << 21) - 20 * PAGE + (1 << 30))
    app.touch(where)
    app.move_pages(where.pages()[10:13], node=[1, 1, 1])
    app.mlock(where)
    app.munlock(where)
    assert computer.vmstat["nr_mlock"] == 0
    assert computer.vmstat["unevictable_pgs_munlocked"] == 40
    assert computer.vmstat["unevictable_pgs_rescued"] == 40
    assert not app.mm.mmap[0].vm_flags & VM_LOCKED
    assert computer.check() == []


def test_part_of_an_area_is_split_off_and_comes_back(computer):
    app = computer.process()
    where = app.mmap(pages=4)
    app.touch(where)
    app.mlock(where.start + PAGE + 17, 10)  # rounded to the page
    assert [bool(area.vm_flags & VM_LOCKED) for area in app.mm.mmap] == [False, True, False]
    assert app.mm.locked_vm == 1
    app.munlock(where)
    assert (app.mm.map_count, app.mm.locked_vm) == (1, 0)


def test_locking_ends_at_a_hole_and_keeps_what_it_did(computer):
    app = computer.process()
    where = app.mmap(pages=3)
    app.munmap(where.start + PAGE, PAGE)
    with app.running() as task:
        assert mlock.sys_mlock(task, where.start, 3 * PAGE) == -errno.ENOMEM
        assert mlock.sys_munlock(task, where.start - PAGE, PAGE) == -errno.ENOMEM
        assert mlock.sys_mlock(task, where.start, 0) == 0
    assert app.mm.locked_vm == 1


def test_memory_without_access_is_locked_but_cannot_be_faulted_in(computer):
    app = computer.process()
    where = app.mmap(pages=1, prot="")
    with app.running() as task:
        assert mlock.sys_mlock(task, where.start, PAGE) == -errno.ENOMEM
    assert app.mm.mmap[0].vm_flags & VM_LOCKED


def test_the_limit_binds_those_without_the_capability(computer):
    app = computer.process(uid=1)
    limit = mmap.RLIMIT_MEMLOCK
    where = app.mmap(limit + PAGE)
    with app.running() as task:
        assert mlock.sys_mlock(task, where.start, limit + PAGE) == -errno.ENOMEM
        assert mlock.sys_mlock(task, where.start, limit) == 0
        assert mlock.sys_mlockall(task, MCL_CURRENT) == -errno.ENOMEM
    with pytest.raises(BlockingIOError):
        app.mmap(pages=1, locked=True)


def test_mlockall_locks_what_is_and_what_will_be(computer):
    app = computer.process()
    app.mmap(pages=2)
    app.mmap(pages=1, prot="r")
    app.mlockall(MCL_CURRENT | MCL_FUTURE)
    later = app.mmap(pages=3)
    assert app.mm.locked_vm == 6
    assert app.placement(later) == {0: 3}
    with app.running() as task:
        assert mlock.sys_munlockall(task) == 0
        assert mlock.sys_mlockall(task, 0) == -errno.EINVAL
        assert mlock.sys_mlockall(task, 4) == -errno.EINVAL
    assert (app.mm.locked_vm, computer.vmstat["nr_mlock"]) == (0, 0)
    app.mmap(pages=1)
    assert app.mm.locked_vm == 0
    assert computer.check() == []


def test_a_page_that_another_process_has_locked_stays_mlocked(computer):
    app = computer.process()
    where = app.mmap(pages=1, shared=True)
    app.touch(where)
    child = app.fork()
    child.mlock(where)
    app.mlock(where)
    app.munlock(where)
    assert is_mlocked(app.page_at(where.start))
    assert computer.vmstat["nr_mlock"] == 1
    child.munlock(where)
    assert not is_mlocked(app.page_at(where.start))
    assert computer.check() == []


def test_fork_does_not_inherit_locks(computer):
    app = computer.process()
    app.mmap(pages=2, locked=True)
    child = app.fork()
    assert child.mm.locked_vm == 0
    assert not child.mm.mmap[0].vm_flags & VM_LOCKED


@pytest.mark.parametrize("end", ["munmap", "exit"])
def test_the_end_of_a_locked_area_leaves_nothing_behind(computer, end):
    app = computer.process()
    where = app.mmap(pages=4, locked=True)
    if end == "munmap":
        app.munmap(where)
        assert app.mm.locked_vm == 0
    else:
        app.exit()
    assert (computer.vmstat["nr_mlock"], computer.vmstat["nr_unevictable"]) == (0, 0)
    assert computer.check() == []


def test_the_last_unmap_of_a_mlocked_page_clears_the_mark(computer):
    """The page lives on in the cache."""
    app = computer.process()
    file = computer.file("data", PAGE)
    where = app.mmap(pages=1, file=file, shared=True, locked=True)
    page = app.page_at(where.start)
    with app.running():
        (area,) = app.mm.mmap
        area.vm_flags &= ~VM_LOCKED  # as reclaim leaves it: the page is mlocked, its area not
        app.mm.locked_vm = 0
    app.munmap(where)
    assert not is_mlocked(page)
    assert computer.vmstat["unevictable_pgs_cleared"] == 1
    assert computer.check() == []


def test_migration_of_a_mlocked_page_loses_the_mark_but_not_the_page(computer):
    """A quirk of v3.19; reclaim finds the locked area and marks the page again."""
    app = computer.process()
    where = app.mmap(pages=1, locked=True)
    assert app.move_pages(where, node=1).status == (1,)
    page = app.page_at(where.start)
    assert not is_mlocked(page)
    assert not page.flags & PG_unevictable
    vmstat = computer.vmstat
    assert vmstat["nr_mlock"] == 0
    assert vmstat["unevictable_pgs_cleared"] == vmstat["unevictable_pgs_stranded"] == 1
    assert vmstat["unevictable_pgs_rescued"] == 1
    assert app.mm.locked_vm == 1


def test_munlock_of_a_page_that_somebody_has_isolated_still_counts_it(computer):
    """The known defect of v3.19 in the batched form; the form for one page has it right."""
    app = computer.process()
    where = app.mmap(pages=2, locked=True)
    first, second = (app.page_at(address) for address in where.pages())
    with app.running():
        assert vmscan.isolate_lru_page(first) == 0
        assert vmscan.isolate_lru_page(second) == 0
        lock_page(second)
        mlock.munlock_vma_page(second)
        unlock_page(second)
        mlock.munlock_vma_pages_range(app.mm.mmap[0], where.start, where.start + PAGE)
        vmscan.putback_lru_page(first)
        vmscan.putback_lru_page(second)
    assert not is_mlocked(first)
    assert not is_mlocked(second)
    assert computer.vmstat["nr_mlock"] == 1


def test_the_mark_follows_the_contents_when_both_pages_are_locked(computer):
    app = computer.process()
    where = app.mmap(pages=2)
    app.touch(where)
    old, new = (app.page_at(address) for address in where.pages())
    with app.running():
        lock_page(old)
        lock_page(new)
        mlock.mlock_vma_page(old)
        mlock.mlock_migrate_page(new, old)
        assert (is_mlocked(old), is_mlocked(new)) == (False, True)
        mlock.mlock_migrate_page(new, old)
        unlock_page(old)
        unlock_page(new)
    assert computer.vmstat["nr_mlock"] == 1


def test_no_order_of_munlock_and_migration_leaves_a_page_mlocked(computer, preempt):
    for n in range(0, 120, 4):
        machine = Machine(nodes=(MiB(4), MiB(4)))
        app = machine.process(cpu=0)
        where = app.mmap(pages=2, shared=True, locked=True)
        app.write(where.start, b"x")
        child = app.fork(cpu=1)
        child.touch(where)
        machine.start(child.move_pages, where, 1, flags=4, cpu=1)
        machine.start(app.munlock, where, cpu=0)
        machine.kernel.scheduler.run(preempt(n, 12))
        assert machine.vmstat["nr_mlock"] == 0
        assert not any(is_mlocked(app.page_at(address)) for address in where.pages())
        assert machine.check() == []
