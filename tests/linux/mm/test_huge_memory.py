"""Transparent huge pages: faults, copies, and what system calls make of them."""

import pytest

from mmigrate import Machine, Mapping, MiB, ScenarioError
from mmigrate.linux.include.mm import (
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    VM_NOHUGEPAGE,
)
from mmigrate.linux.include.page_flags import PG_head, PG_tail
from mmigrate.linux.include.pgtable import pte_young
from mmigrate.linux.kernel.page_ref import get_page, page_mapped, put_page
from mmigrate.linux.mm import huge_memory
from tests.linux.mm.thp import (
    HUGE,
    PAGE,
    huge_area,
    huge_page,
    is_huge,
    machine,
    parts,
    pmd_of,
    stats,
)


def test_a_store_brings_a_huge_page():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    assert head.flags & PG_head
    assert all(tail.flags & PG_tail and tail.first_page is head for tail in parts(head)[1:])
    assert app.placement(where) == {0: 512}
    computer.drain_pagevecs()
    assert stats(
        computer,
        "nr_anon_transparent_hugepages",
        "nr_anon_pages",
        "nr_active_anon",
        "thp_fault_alloc",
    ) == (1, 512, 512, 1)
    assert app.read(where.start, 4) == b"huge"
    assert computer.check() == []


@pytest.mark.parametrize(
    ("thp", "advice", "huge"),
    [
        ("always", None, True),
        ("always", MADV_HUGEPAGE, True),
        ("always", MADV_NOHUGEPAGE, False),
        ("madvise", None, False),
        ("madvise", MADV_HUGEPAGE, True),
        ("madvise", MADV_NOHUGEPAGE, False),
        ("never", MADV_HUGEPAGE, False),
    ],
)
def test_who_gets_huge_pages(thp, advice, huge):
    app = machine(thp=thp).process()
    where = huge_area(app, advise=False)
    if advice is not None:
        app.madvise(where, advice)
    app.touch(where[0:1])
    assert is_huge(app, where.start) is huge
    assert app.machine.check() == []


def test_an_area_that_is_too_small_gets_base_pages():
    app = machine(thp="always").process()
    where = huge_area(app, advise=False)
    app.munmap(where.start + HUGE - PAGE, 2 * HUGE)
    app.touch(where[0:1])
    assert not is_huge(app, where.start)
    assert app.placement(where) == {0: 1}


def test_files_are_never_huge():
    computer = machine(thp="always")
    app = computer.process()
    file = computer.file("data", 3 * HUGE)
    area = app.mmap(3 * HUGE, file=file)
    app.write(area.start + HUGE, b"x")
    assert not is_huge(app, area.start + HUGE)


def test_a_choice_that_does_not_exist():
    with pytest.raises(ScenarioError, match='thp="sometimes"; use "always"'):
        Machine(thp="sometimes")


def test_without_a_free_block_a_fault_falls_back():
    computer = machine(MiB(2))
    app = computer.process()
    where = huge_area(app)
    app.write(where.start, b"x")  # the watermarks keep the only blocks of that size
    assert not is_huge(app, where.start)
    assert stats(computer, "thp_fault_fallback", "thp_fault_alloc") == (1, 0)
    assert computer.check() == []


# --- the huge page of zeroes ---


def test_a_load_maps_the_huge_page_of_zeroes_and_a_store_copies_it():
    computer = machine()
    app, other = computer.process(), computer.process()
    mine, theirs = huge_area(app), huge_area(other)
    assert app.read(mine.start, 1) == other.read(theirs.start, 1) == b"\0"
    thp = huge_memory.state(computer.kernel)
    assert thp.huge_zero_refcount == 3
    assert stats(computer, "thp_zero_page_alloc", "nr_anon_pages") == (1, 0)
    assert app.placement(mine) == {}
    app.write(mine.start + PAGE, b"mine")
    assert is_huge(app, mine.start)
    assert thp.huge_zero_refcount == 2
    assert other.read(theirs.start + PAGE, 4) == bytes(4)
    assert computer.check() == []


def test_the_huge_page_of_zeroes_is_copied_by_base_pages_if_there_is_no_memory():
    computer = machine()
    app = computer.process()
    where = huge_area(app)
    app.read(where.start, 1)
    huge_memory.state(computer.kernel).enabled = "never"
    app.write(where.start + PAGE, b"mine")
    assert not is_huge(app, where.start)
    assert app.placement(where) == {0: 1}
    assert huge_memory.state(computer.kernel).huge_zero_refcount == 1
    assert stats(computer, "thp_fault_fallback") == (1,)
    assert computer.check() == []


def test_the_shrinker_frees_the_huge_page_of_zeroes_when_nobody_maps_it():
    computer = machine()
    app = computer.process()
    where = huge_area(app)
    app.read(where.start, 1)
    with app.running():
        assert huge_memory.shrink_huge_zero_page(computer.kernel) == 0
    app.munmap(where)
    with app.running():
        assert huge_memory.shrink_huge_zero_page(computer.kernel) == 512
        assert huge_memory.shrink_huge_zero_page(computer.kernel) == 0
    assert huge_memory.state(computer.kernel).huge_zero_page is None
    assert computer.check() == []


def test_fork_shares_the_huge_page_of_zeroes():
    computer = machine()
    app = computer.process()
    where = huge_area(app)
    app.read(where.start, 1)
    child = app.fork()
    assert huge_memory.state(computer.kernel).huge_zero_refcount == 3
    child.exit()
    assert huge_memory.state(computer.kernel).huge_zero_refcount == 2
    assert computer.check() == []


# --- copy on write ---


def test_a_store_after_fork_copies_the_whole_page():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    child = app.fork()
    assert head._mapcount == 1
    child.write(where.start + PAGE, b"child")
    assert is_huge(child, where.start)
    assert child.page_at(where.start) is not head
    app.write(where.start, b"MINE")  # alone now: reused
    assert app.page_at(where.start) is head
    assert child.read(where.start, 4) == b"huge"
    assert stats(computer, "thp_fault_alloc", "nr_anon_transparent_hugepages") == (2, 2)
    assert computer.check() == []


def test_a_copy_by_base_pages():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    child = app.fork()
    huge_memory.state(computer.kernel).enabled = "never"
    child.write(where.start + PAGE, b"child")
    assert not is_huge(child, where.start)
    assert is_huge(app, where.start)
    assert head._mapcount == 0
    assert child.placement(where) == {0: 512}
    assert child.read(where.start, 4) == b"huge"
    assert stats(computer, "thp_fault_fallback", "thp_split") == (1, 0)
    assert computer.check() == []


def test_a_copy_for_which_not_even_base_pages_are_there():
    """The page is split, and the fault goes on with the one base page it needs."""
    computer = machine(MiB(6))
    app = computer.process()
    where, _ = huge_page(app)
    child = app.fork()
    hog = computer.process("hog")
    for page in hog.mmap(MiB(16)).pages():
        free = sum(
            z.vm_stat[0] - z.watermark[0] for n in computer.kernel.nodes for z in n.node_zones
        )
        if free < 300:
            break
        hog.touch(page)
    child.write(where.start + PAGE, b"child")
    assert not is_huge(child, where.start)
    assert not is_huge(app, where.start)
    assert child.page_at(where.start) is app.page_at(where.start)
    assert child.page_at(where.start + PAGE) is not app.page_at(where.start + PAGE)
    assert stats(computer, "thp_split") == (1,)
    assert computer.check() == []


def test_an_old_huge_page_becomes_young_when_it_is_used():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    child = app.fork()  # copies are old
    child.read(where.start, 1)
    assert pte_young(pmd_of(child, where.start))
    assert computer.check() == []


# --- unmapping, protecting, moving ---


def test_a_huge_page_is_unmapped_whole():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    computer.drain_pagevecs()
    app.munmap(where)
    assert stats(computer, "nr_anon_pages", "thp_split", "nr_active_anon") == (0, 0, 0)
    assert computer.check() == []


@pytest.mark.parametrize("call", ["munmap", "dontneed", "mprotect", "mlock", "mbind"])
def test_what_needs_a_part_splits(call):
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    part = where[3:7]
    app.write(part.end, b"behind")
    if call == "munmap":
        app.munmap(part)
    elif call == "dontneed":
        app.madvise(part, MADV_DONTNEED)
    elif call == "mprotect":
        app.mprotect(part, "r")
    elif call == "mlock":
        app.mlock(part)
    else:
        app.mbind(part, "bind", [1], move=True)
    assert not is_huge(app, where.start)
    assert stats(computer, "thp_split", "nr_anon_transparent_hugepages") == (1, 0)
    assert app.read(where.start, 4) == b"huge"
    assert app.read(part.end, 6) == b"behind"
    if call == "mbind":
        assert app.placement(where) == {0: 508, 1: 4}
    computer.drain_pagevecs()
    assert computer.check() == []


def test_mprotect_of_a_whole_huge_page_leaves_it_huge():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    app.mprotect(where, "r")
    assert is_huge(app, where.start)
    with pytest.raises(OSError, match="SIGSEGV"):
        app.write(where.start, b"no")
    app.mprotect(where, "rw")
    app.write(where.start, b"yes")
    assert is_huge(app, where.start)
    assert stats(computer, "thp_split") == (0,)
    assert computer.check() == []


def test_mremap_moves_a_huge_pmd_where_both_ends_are_aligned():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    target = huge_area(app, 2)
    moved = app.mremap(where, HUGE, at=target.start)
    assert is_huge(app, moved.start)
    assert app.page_at(moved.start) is head
    assert app.read(moved.start, 4) == b"huge"
    assert stats(computer, "thp_split") == (0,)
    assert computer.check() == []


def test_mremap_between_tables_of_pmds_takes_the_reserve_along():
    computer = machine()
    app = computer.process()
    where, _head = huge_page(app)
    far = (where.start & -(1 << 30)) - (1 << 30)
    moved = app.mremap(where, HUGE, at=far)
    assert is_huge(app, moved.start)
    app.munmap(moved[0:1])  # which needs the table
    assert not is_huge(app, moved.start)
    assert computer.check() == []


def test_mremap_to_an_address_that_is_not_aligned_splits():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    target = huge_area(app, 2)
    moved = app.mremap(where, HUGE, at=target.start + PAGE)
    assert not is_huge(app, moved.start)
    assert app.read(moved.start, 4) == b"huge"
    assert stats(computer, "thp_split") == (1,)
    assert computer.check() == []


def test_mremap_into_an_area_without_huge_pages_splits():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    for vma in app.mm.mmap:
        vma.vm_flags |= VM_NOHUGEPAGE
    moved = app.mremap(where, HUGE, at=(where.start & -(1 << 30)) - (1 << 30))
    assert not is_huge(app, moved.start)
    assert computer.check() == []


# --- mlock ---


def test_a_locked_huge_page_counts_for_all_its_pages():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    app.mlock(where)
    assert is_huge(app, where.start)
    assert stats(computer, "nr_mlock", "nr_unevictable", "unevictable_pgs_mlocked") == (512, 512, 1)
    assert computer.check() == []
    app.munlock(where)
    computer.drain_pagevecs()
    assert stats(computer, "nr_mlock", "nr_unevictable", "unevictable_pgs_munlocked") == (0, 0, 1)
    assert computer.check() == []


def test_a_huge_page_faulted_into_a_locked_area():
    computer = machine()
    app = computer.process()
    where = huge_area(app)
    app.mlock(where)
    assert is_huge(app, where.start)
    assert stats(computer, "nr_mlock", "nr_unevictable", "thp_fault_alloc") == (512, 512, 1)
    app.munmap(where)
    assert stats(computer, "nr_mlock") == (0,)
    assert computer.check() == []


def test_the_tails_of_a_locked_huge_page_are_locked_too():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    app.mlock(where)
    app.mprotect(where[0:1], "r")
    assert not is_huge(app, where.start)
    assert stats(computer, "nr_mlock", "nr_unevictable") == (512, 512)
    assert computer.check() == []


# --- pins ---


def test_pins_of_tails_are_kept_twice_and_survive_the_split():
    """The table of counts before and after the split: m mappings, h pins of the head, g of a
    tail."""
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    app.fork()
    computer.drain_pagevecs()
    pins = [app.pin(where[0:1], write=False), app.pin(where[5:6], write=False)]
    pins += [app.pin(where[5:6], write=False)]
    tail = parts(head)[5]
    assert (head._count, head._mapcount, tail._count, tail._mapcount) == (2 + 1 + 2, 1, 0, 1)
    assert computer.check() == []
    app.munmap(where[9:10])
    assert (head._count, head._mapcount, tail._count, tail._mapcount) == (2 + 1, 1, 2 + 2, 1)
    assert computer.check() == []
    for pin in pins:
        pin.release()
    assert (head._count, tail._count) == (2, 2)
    assert computer.check() == []


def test_the_slow_way_of_pinning():
    computer = machine()
    app = computer.process()
    where = huge_area(app)
    pin = app.pin(where[1:4])
    assert is_huge(app, where.start)
    assert computer.check() == []
    app.munmap(where)
    assert all(page.data is not None for page in pin.pages)
    assert computer.check() == []
    pin.release()
    assert computer.check() == []


def test_a_reference_on_a_tail_by_itself():
    computer = machine()
    app = computer.process()
    _where, head = huge_page(app)
    tail = parts(head)[7]
    with app.running():
        get_page(tail)
        assert (tail._count, tail._mapcount) == (0, 0)
        assert page_mapped(tail)
        put_page(tail)
    assert (tail._count, tail._mapcount) == (0, -1)
    assert computer.check() == []


# --- looking ---


def test_what_proc_tells_of_a_huge_page():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    assert "AnonHugePages:      2048 kB" in app.smaps()
    assert "anon=512 dirty=512" in app.numa_maps()
    words = app.pagemap(where[0:3])
    assert [word & (1 << 54) - 1 for word in words] == [head.pfn, head.pfn + 1, head.pfn + 2]
    assert all(word >> 63 for word in words)
    assert all(app.mincore(where))
    app.clear_refs(1)  # which splits
    assert not is_huge(app, where.start)
    assert "AnonHugePages:         0 kB" in app.smaps()
    assert computer.check() == []


def test_the_huge_page_of_zeroes_in_proc():
    app = machine().process()
    where = huge_area(app)
    app.read(where.start, 1)
    assert "Rss:                   0 kB" in app.smaps()
    assert all(app.mincore(where))
    assert Mapping(where.start, PAGE).pages()[0] == where.start
