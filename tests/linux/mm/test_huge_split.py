"""split_huge_page, and migration and reclaim of huge pages, which is by splitting."""

import pytest

from mmigrate import MiB, Reason
from mmigrate.errors import KernelBug
from mmigrate.linux.include.page_flags import PG_compound_lock, PG_head, PG_lru, PG_tail
from mmigrate.linux.include.pgtable import pmd_trans_splitting
from mmigrate.linux.include.vmstat import NR_ISOLATED_ANON
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_ref import get_page, put_page
from mmigrate.linux.kernel.pgtable import find_pmds
from mmigrate.linux.mm import huge_split, migrate, rmap
from tests.linux.mm.migration import in_window, isolated, moved
from tests.linux.mm.thp import (
    PAGE,
    huge_area,
    huge_page,
    is_huge,
    machine,
    parts,
    pmd_of,
    stats,
)


def split(app, head):
    with app.running():
        get_page(head)
        answer = huge_split.split_huge_page(head)
        put_page(head)
    return answer


def test_a_split_page_is_512_pages_with_the_same_contents():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    app.write(where.start + 100 * PAGE, b"in the middle")
    computer.drain_pagevecs()
    assert split(app, head) == 0
    assert not is_huge(app, where.start)
    assert not any(page.flags & (PG_head | PG_tail | PG_compound_lock) for page in parts(head))
    assert all((page._count, page._mapcount) == (1, 0) for page in parts(head))
    assert all(page.index == head.index + n for n, page in enumerate(parts(head)))
    assert app.read(where.start + 100 * PAGE, 13) == b"in the middle"
    assert stats(
        computer, "thp_split", "nr_anon_pages", "nr_anon_transparent_hugepages", "nr_active_anon"
    ) == (1, 512, 0, 512)
    assert computer.check() == []


def test_splitting_what_has_been_split_is_no_error():
    computer = machine()
    app = computer.process()
    _, head = huge_page(app)
    assert split(app, head) == 0
    assert split(app, head) == 0
    assert stats(computer, "thp_split") == (1,)


def test_a_page_that_nobody_maps_cannot_be_split():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    pin = app.pin(where[0:1])
    app.munmap(where)
    assert split(app, head) == 1
    assert stats(computer, "thp_split") == (0,)
    assert computer.check() == []
    pin.release()
    computer.drain_pagevecs()
    assert computer.check() == []


def test_every_process_that_maps_it_gets_ptes():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    child = app.fork()
    grandchild = child.fork()
    other = app.fork()
    other.munmap(where)
    assert split(app, head) == 0
    for process in (app, child, grandchild):
        assert not is_huge(process, where.start)
        assert process.placement(where) == {0: 512}
    assert all((page._count, page._mapcount) == (3, 2) for page in parts(head)[1:])
    child.write(where.start, b"mine")
    assert app.read(where.start, 4) == b"huge"
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_split_in_a_vector_puts_the_tails_on_the_list_alone():
    """The head has not been counted yet, and counts as one page when the vector is drained."""
    computer = machine()
    app = computer.process()
    _, head = huge_page(app)
    assert not head.flags & PG_lru
    split(app, head)
    assert all(page.flags & PG_lru for page in parts(head)[1:])
    assert stats(computer, "nr_active_anon") == (511,)
    assert computer.check() == []
    computer.drain_pagevecs()
    assert stats(computer, "nr_active_anon") == (512,)
    assert computer.check() == []


def test_tails_stand_next_to_the_head_on_the_list():
    computer = machine()
    app = computer.process()
    _, head = huge_page(app)
    huge_page(app)
    computer.drain_pagevecs()
    split(app, head)
    order = [page.pfn - head.pfn for page in reversed(head.zone.lruvec.lists[1])]
    assert order[:512] == list(range(512))


@pytest.mark.parametrize("where", ["file", "zero"])
def test_what_must_not_be_split(where):
    computer = machine()
    app = computer.process()
    if where == "file":
        file = computer.file("data", PAGE)
        area = app.mmap(pages=1, file=file, shared=True)
        address = area.start
    else:
        address = huge_area(app).start
    app.read(address, 1)
    with pytest.raises(KernelBug, match="split_huge_page of"):
        split(app, app.page_at(address))


def test_try_to_unmap_of_a_huge_page_is_a_bug():
    app = machine().process()
    _, head = huge_page(app)
    head.flags |= 1
    with app.running(), pytest.raises(KernelBug, match="try_to_unmap of a huge page"):
        rmap.try_to_unmap(head, 2)


# --- migration ---


def test_move_pages_splits_and_moves_base_pages():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    result = app.move_pages(where[0:10], 1)
    assert set(result.status) == {1}
    assert app.placement(where) == {0: 502, 1: 10}
    assert stats(computer, "thp_split", "pgmigrate_success") == (1, 10)
    assert app.read(where.start, 4) == b"huge"
    assert computer.check() == []


def test_asking_where_a_huge_page_is_leaves_it_alone():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    assert set(app.move_pages(where).status) == {0}
    assert is_huge(app, where.start)


def test_moving_the_huge_page_of_zeroes_splits_its_pmd():
    computer = machine()
    app = computer.process()
    where = huge_area(app)
    app.read(where.start, 1)
    result = app.move_pages(where[0:2], 1)
    assert set(result.status) == {-2}
    assert result.reasons[Reason.ZERO_PAGE] == 2
    assert not is_huge(app, where.start)
    assert computer.check() == []


@pytest.mark.parametrize("call", ["migrate_pages", "mbind"])
def test_calls_that_move_areas_split_huge_pages(call):
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    if call == "mbind":
        app.mbind(where, "bind", [1], move=True, strict=True)
    else:
        assert app.migrate_pages([0], [1]) == 0
    assert app.placement(where) == {1: 512}
    assert stats(computer, "thp_split") == (1,)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_an_isolated_head_is_split_and_moves_alone():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    with app.running():
        pagelist = isolated(computer, head)
        assert head.zone.vm_stat[NR_ISOLATED_ANON] == 1
        assert stats(computer, "nr_active_anon") == (0,)
        assert moved(pagelist) == 0
    assert app.placement(where) == {0: 511, 1: 1}
    computer.drain_pagevecs()
    assert stats(computer, "nr_active_anon", "thp_split", "pgmigrate_success") == (512, 1, 1)
    assert computer.check() == []


def test_a_pinned_huge_page_splits_and_the_pinned_page_stays():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    pin = app.pin(where[0:1])
    with app.running():
        pagelist = isolated(computer, head)
        assert moved(pagelist) == 1
        migrate.putback_movable_pages(pagelist)
    assert app.placement(where) == {0: 512}
    assert not is_huge(app, where.start)
    pin.release()
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_huge_page_that_nobody_maps_any_more_counts_as_moved():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    with app.running():
        pagelist = isolated(computer, head)
        pin = app.pin(where[0:1])
        app.munmap(where)
        assert moved(pagelist) == 0
    assert head.flags & PG_head
    assert stats(computer, "thp_split", "pgmigrate_success") == (0, 1)
    pin.release()
    computer.drain_pagevecs()
    assert computer.check() == []


# --- reclaim ---


def test_swapping_out_splits_and_writes_all_pages():
    computer = machine()
    computer.swapon(MiB(8))
    app = computer.process()
    where, _ = huge_page(app)
    app.write(where.start + 300 * PAGE, b"far")
    freed = computer.swap_out(app, where[0:1])
    assert freed == 512
    assert app.placement(where) == {}
    assert app.read(where.start + 300 * PAGE, 3) == b"far"
    assert stats(computer, "thp_split", "pswpout") == (1, 512)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_without_swap_a_huge_page_stays_whole():
    computer = machine()
    app = computer.process()
    where, _ = huge_page(app)
    assert computer.swap_out(app, where[0:1]) == 0
    assert is_huge(app, where.start)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_used_huge_page_is_seen_as_used():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    child = app.fork()
    with app.running():
        assert rmap.page_referenced(head, False)[0] == 1  # the child's copy is old
        assert rmap.page_referenced(head, False)[0] == 0
    child.read(where.start, 1)
    with app.running():
        assert rmap.page_referenced(head, False)[0] == 1
    assert computer.check() == []


# --- the windows of a split ---


def test_while_a_pmd_is_being_split_user_code_goes_on():
    """Between freezing and the new table the program still has the whole page."""
    computer = machine(cpus=(0, 0, 1))
    app = computer.process(cpu=1)
    where, head = huge_page(app)
    seen = []

    def look():
        seen.append(pmd_trans_splitting(pmd_of(app, where.start)))
        app.write(where.start + 8 * PAGE, b"meanwhile")

    splitter = computer.process(cpu=0)
    with in_window(lambda obj, field, kind: obj is head and field == PG_compound_lock, look):
        split(splitter, head)
    assert seen == [True]
    assert app.read(where.start + 8 * PAGE, 9) == b"meanwhile"
    assert computer.check() == []


def test_a_pmd_that_is_being_replaced_is_never_empty():
    computer = machine()
    app = computer.process()
    where, head = huge_page(app)
    pmds = find_pmds(app.mm, where.start)
    index = (where.start >> 21) & 511
    seen = []

    class Watch:
        def announce(self, obj, field, kind):
            seen.append(pmds.entries[index] is None)

        def wait(self, obj, field, kind, until):
            assert until()

    previous = sched.install(Watch())
    try:
        split(app, head)
    finally:
        sched.install(previous)
    assert seen and not any(seen)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rival", ["touch", "fork", "munmap", "dontneed", "mprotect", "pin"])
def test_a_split_against_everybody(rival, seed):
    computer = machine(MiB(10), cpus=(0, 0, 1))
    app = computer.process(cpu=0)
    where, _head = huge_page(app)
    mover = computer.process("mover", cpu=1)
    computer.start(mover.move_pages, where[0:3], 1, process=app, cpu=1)
    if rival == "touch":
        computer.start(app.write, where.start + 9 * PAGE, b"raced", cpu=0)
    elif rival == "fork":
        computer.start(app.fork, "child", cpu=0)
    elif rival == "munmap":
        computer.start(app.munmap, where, cpu=0)
    elif rival == "dontneed":
        computer.start(app.madvise, where[4:9], 4, cpu=0)
    elif rival == "mprotect":
        computer.start(app.mprotect, where, "r", cpu=0)
    else:
        computer.start(app.pin, where[1:3], cpu=0)
    computer.run(seed)
    for pin in list(computer.pins):
        pin.release()
    computer.drain_pagevecs()
    assert computer.check() == []
