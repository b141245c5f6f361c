"""Copies of address spaces."""

from __future__ import annotations

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.mm import MCL_FUTURE
from mmigrate.linux.include.pgtable import (
    is_migration_entry,
    is_swap_pte,
    pte_to_swp_entry,
    pte_write,
)
from mmigrate.linux.mm import fork
from mmigrate.machine.process import peek_pte

PAGE = 4096


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4), MiB(4)))


def test_both_see_what_was_there_and_neither_sees_what_the_other_writes(computer):
    app = computer.process()
    where = app.mmap(pages=2)
    app.write(where.start, b"old")
    child = app.fork()
    assert child.read(where.start, 3) == b"old"
    assert child.page_at(where.start) is app.page_at(where.start)
    app.write(where.start, b"app")
    child.write(where.start, b"new")
    assert (app.read(where.start, 3), child.read(where.start, 3)) == (b"app", b"new")
    assert computer.check() == []


def test_the_parents_stale_translations_are_flushed(computer):
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.write(where.start, b"old")
    child = app.fork(cpu=1)
    app.write(where.start, b"new")  # would go through the TLB into the shared page
    assert child.read(where.start, 3) == b"old"


def test_layout_and_accounts_are_copied_but_not_locks(computer):
    app = computer.process()
    app.mmap(pages=3, locked=True)
    app.mlockall(MCL_FUTURE)
    child = app.fork()
    mine, its = app.mm, child.mm
    assert [(a.vm_start, a.vm_end, a.vm_pgoff) for a in its.mmap] == [
        (a.vm_start, a.vm_end, a.vm_pgoff) for a in mine.mmap
    ]
    assert (its.total_vm, its.rss_stat, its.hiwater_rss) == (3, [0, 3, 0], 3)
    assert (its.brk, its.mmap_base) == (mine.brk, mine.mmap_base)
    assert (its.locked_vm, its.def_flags) == (0, 0)
    assert its.starts == [area.vm_start for area in its.mmap]


def test_file_pages_are_not_copied_but_faulted_in_again(computer):
    app = computer.process()
    where = app.mmap(pages=2, file=computer.file("data", 2 * PAGE), shared=True)
    app.touch(where)
    child = app.fork()
    assert child.mm.rss_stat == [0, 0, 0]
    child.touch(where)
    assert child.page_at(where.start) is app.page_at(where.start)
    assert computer.check() == []


def test_the_child_stands_behind_the_parent_in_the_tree_of_the_file(computer):
    """Not behind all that start at the same offset: directly behind its parent's area."""
    app = computer.process()
    file = computer.file("data", PAGE)
    app.mmap(pages=1, file=file, shared=True)
    other = computer.process("other")
    other.mmap(pages=1, file=file, shared=True)
    child = app.fork()
    order = [area.vm_mm.name for area in file.i_mapping.i_mmap]
    assert order == [app.name, child.name, other.name]
    assert file.i_mapping.i_mmap_writable == 3


def test_generations_come_and_go(computer):
    app = computer.process()
    where = app.mmap(pages=4)
    app.touch(where)
    child = app.fork()
    child.touch(where.start)
    grandchild = child.fork()
    grandchild.touch(where.start + PAGE)
    child.exit()
    assert computer.check() == []
    assert set(grandchild.move_pages(where, 1, flags=MPOL_MF_MOVE_ALL).status) == {1}
    app.exit()
    grandchild.exit()
    assert computer.check() == []
    assert computer.kernel.anon_vmas == {}
    assert computer.kernel.mms == []


def test_a_migration_entry_that_fork_copies_is_restored_in_the_child(preempt):
    """Somebody who does not hold the parent's mmap_sem moves the page."""
    for n in range(0, 45, 3):
        machine = Machine(nodes=(MiB(4), MiB(4)))
        app = machine.process(cpu=0)
        where = app.mmap(pages=1)
        app.write(where.start, b"cargo")
        other = app.fork(cpu=1)
        moved = machine.start(other.move_pages, where, 1, flags=MPOL_MF_MOVE_ALL, cpu=1)
        forked = machine.start(app.fork, "late", cpu=0)
        machine.kernel.scheduler.run(
            preempt(n, 40, lambda app=app, at=where.start: is_entry(peek_pte(app.mm, at)))
        )
        child = forked.result
        assert machine.check() == []
        assert moved.result.status == (1,)
        for process in (app, child, other):
            assert not pte_write(peek_pte(process.mm, where.start))
            assert process.read(where.start, 5) == b"cargo"
        assert len({process.page_at(where.start) for process in (app, child, other)}) == 1


def is_entry(pte):
    return is_swap_pte(pte) and is_migration_entry(pte_to_swp_entry(pte))


def test_users_and_references(computer):
    app = computer.process()
    where = app.mmap(pages=1)
    app.touch(where)
    with app.running():
        fork.mmget(app.mm)
        fork.mmput(app.mm)
    assert app.read(where.start, 1) == b"\0"
    mm = app.mm
    app.exit()
    assert mm.mm_users == mm.mm_count == 0
    assert mm not in computer.kernel.mms
    assert all(cpu.active_mm is not mm for cpu in computer.kernel.cpus)
