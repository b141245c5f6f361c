"""mprotect alone, and against migration."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.mm import VM_WRITE
from mmigrate.linux.include.pgtable import (
    SWP_MIGRATION_READ,
    SWP_MIGRATION_WRITE,
    is_migration_entry,
    is_swap_pte,
    pte_numa,
    pte_swp_mksoft_dirty,
    pte_swp_soft_dirty,
    pte_to_swp_entry,
    pte_write,
    swp_entry,
    swp_entry_to_pte,
    swp_type,
)
from mmigrate.linux.kernel.pgtable import find_leaf
from mmigrate.linux.mm import mmap, mprotect
from mmigrate.linux.mm.mmu_notifier import MmuNotifier
from mmigrate.machine.process import peek_pte

PAGE = 4096


def machine(**options):
    return Machine(nodes=(MiB(4), MiB(4)), **options)


def protect(app, start, length, prot):
    with app.running() as task:
        return mprotect.sys_mprotect(task, start, length, prot)


def test_errors():
    app = machine().process()
    where = app.mmap(pages=2)
    assert protect(app, where.start + 1, PAGE, 1) == -errno.EINVAL
    assert protect(app, where.start, 0, 1) == 0
    assert protect(app, where.start, PAGE, 0x10) == -errno.EINVAL
    assert protect(app, where.start - PAGE, PAGE, 1) == -errno.ENOMEM
    assert protect(app, where.start, 1 << 64, 1) == -errno.ENOMEM


def test_what_stands_before_a_hole_is_changed_although_the_call_fails():
    app = machine().process()
    where = app.mmap(pages=3)
    app.munmap(where.start + PAGE, PAGE)
    assert protect(app, where.start, 3 * PAGE, 1) == -errno.ENOMEM
    assert [bool(area.vm_flags & VM_WRITE) for area in app.mm.mmap] == [False, True]


def test_growsdown_reaches_to_the_start_of_a_stack_and_refuses_others():
    app = machine().process()
    stack = app.mmap(pages=4, flags=0x100)
    other = app.mmap(pages=1)
    assert protect(app, stack.start + 3 * PAGE, PAGE, 1 | mprotect.PROT_GROWSDOWN) == 0
    assert app.mm.mmap[-1].vm_end - app.mm.mmap[-1].vm_start == 4 * PAGE
    assert protect(app, other.start, PAGE, 1 | mprotect.PROT_GROWSDOWN) == -errno.EINVAL
    assert protect(app, other.start, PAGE, 1 | mprotect.PROT_GROWSUP) == -errno.EINVAL


def test_a_store_through_a_protected_page_is_refused_also_where_the_tlb_had_it():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=1)
    app.write(where.start, b"x")
    app.mprotect(where, "r")
    with pytest.raises(OSError, match="SIGSEGV"):
        app.write(where.start, b"y")
    app.mprotect(where, "rw")
    app.write(where.start, b"z")
    assert app.read(where.start, 1) == b"z"
    assert computer.check() == []


def test_shared_memory_that_counts_no_dirty_pages_is_writable_again_at_once():
    app = machine().process()
    where = app.mmap(pages=1, shared=True)
    app.touch(where)
    app.mprotect(where, "r")
    assert not pte_write(peek_pte(app.mm, where.start))
    app.mprotect(where, "rw")
    assert pte_write(peek_pte(app.mm, where.start))


def test_of_a_file_that_counts_dirty_pages_only_the_counted_ones_are():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=2, file=computer.file("data", 2 * PAGE), shared=True)
    app.touch(where.start)
    app.touch(where.start + PAGE, write=False)
    app.mprotect(where, "r")
    app.mprotect(where, "rw")
    assert pte_write(peek_pte(app.mm, where.start))
    assert not pte_write(peek_pte(app.mm, where.start + PAGE))
    assert computer.check() == []


@pytest.mark.parametrize("prot", [0, 1, 3])
@pytest.mark.parametrize("soft_dirty", [False, True])
def test_a_write_migration_entry_becomes_a_read_one_whatever_the_protection(prot, soft_dirty):
    app = machine().process()
    where = app.mmap(pages=1)
    app.touch(where)
    if prot == 3:
        app.mprotect(where, "r")
    (area,) = app.mm.mmap
    page = app.page_at(where.start)
    leaf = find_leaf(app.mm, where.start)
    pte = swp_entry_to_pte(swp_entry(SWP_MIGRATION_WRITE, page.pfn))
    leaf.entries[(where.start >> 12) & 511] = pte_swp_mksoft_dirty(pte) if soft_dirty else pte
    with app.running():
        changed = mprotect.change_protection(
            area, where.start, where.start + PAGE, mmap.vm_get_page_prot(prot), False, False
        )
        again = mprotect.change_protection(
            area, where.start, where.start + PAGE, mmap.vm_get_page_prot(3), False, False
        )
    after = peek_pte(app.mm, where.start)
    assert (changed, again) == (1, 0)
    assert swp_type(pte_to_swp_entry(after)) == SWP_MIGRATION_READ
    assert pte_swp_soft_dirty(after) == soft_dirty


def test_numa_marking_is_counted_once_and_ends_with_the_next_mprotect():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=3)
    app.touch(where)
    (area,) = app.mm.mmap
    with app.running():
        assert mprotect.change_prot_numa(area, where.start, where.start + 3 * PAGE) == 3
        assert mprotect.change_prot_numa(area, where.start, where.start + 3 * PAGE) == 0
    assert computer.vmstat["numa_pte_updates"] == 3
    assert pte_numa(peek_pte(app.mm, where.start))
    app.mprotect(where, "r")
    assert not pte_numa(peek_pte(app.mm, where.start))


def test_the_flush_is_announced_while_ptes_change_and_not_after():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=1)
    app.touch(where)
    seen = []

    class Notifier(MmuNotifier):
        def invalidate_range_start(self, mm, start, end):
            seen.append((mm.tlb_flush_pending, start, end))

        def invalidate_range_end(self, mm, start, end):
            seen.append((mm.tlb_flush_pending, start, end))

    app.mm.mmu_notifiers.append(Notifier("test"))
    app.mprotect(where, "r")
    end = where.start + PAGE
    assert seen == [(True, where.start, end)] * 2
    assert not app.mm.tlb_flush_pending


def test_nobody_is_notified_of_a_range_without_page_tables():
    app = machine().process()
    where = app.mmap(pages=1)
    seen = []

    class Notifier(MmuNotifier):
        def invalidate_range_start(self, mm, start, end):
            seen.append(start)

        invalidate_range_end = invalidate_range_start

    app.mm.mmu_notifiers.append(Notifier("test"))
    app.mprotect(where, "r")
    assert seen == []


def test_no_order_of_mprotect_and_migration_leaves_a_writable_page(preempt):
    """The child moves the page, because move_pages holds mmap_sem of its own process."""
    for n in range(0, 90, 6):
        for k in (4, 7, 12):
            computer = machine()
            app = computer.process(cpu=0)
            where = app.mmap(pages=1, shared=True)
            app.write(where.start, b"before")
            child = app.fork(cpu=1)
            child.touch(where)
            moved = computer.start(child.move_pages, where, 1, flags=MPOL_MF_MOVE_ALL, cpu=1)
            protected = computer.start(app.mprotect, where, "r", cpu=0)
            at = where.start
            computer.kernel.scheduler.run(
                preempt(n, k, lambda app=app, at=at: is_entry(peek_pte(app.mm, at)))
            )
            assert computer.check() == []
            assert protected.result is None
            assert moved.result.status == (1,)
            pte = peek_pte(app.mm, where.start)
            assert not pte_write(pte)
            assert pte_write(peek_pte(child.mm, where.start))
            with pytest.raises(OSError, match="SIGSEGV"):
                app.write(where.start, b"after")
            assert app.read(where.start, 6) == b"before"


def is_entry(pte):
    return is_swap_pte(pte) and is_migration_entry(pte_to_swp_entry(pte))
