"""Hinting faults on huge pages: each branch of the way to another node, and back."""

import pytest

from mmigrate import MiB
from mmigrate.linux.include.page_flags import PG_active, PG_head, PG_locked, PG_lru, PG_mlocked
from mmigrate.linux.include.pgtable import pmd_numa, pte_present
from mmigrate.linux.kernel.page_ref import put_page
from mmigrate.linux.kernel.pgtable import find_pmds
from mmigrate.linux.mm import memory, migrate_misplaced, vmscan
from tests.linux.mm.migration import in_window
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

COUNTERS = ("numa_pages_migrated", "pgmigrate_success", "pgmigrate_fail", "thp_split")


def marked(**options):
    """A huge page on node 0 whose pmd is marked; its process is on node 1 now."""
    computer = machine(numa_balancing=True, **options)
    app = computer.process(cpu=0)
    where, head = huge_page(app)
    computer.drain_pagevecs()
    assert app.numa_scan() == 512
    assert pmd_numa(pmd_of(app, where.start))
    app.on_cpu(1)
    return computer, app, where, head


def check(computer):
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_huge_page_follows_its_user_whole():
    computer, app, where, head = marked()
    app.write(where.start + 7 * PAGE, b"there")
    assert is_huge(app, where.start)
    assert app.placement(where) == {1: 512}
    assert app.read(where.start, 4) == b"huge"
    assert not head.flags & PG_head
    assert stats(computer, *COUNTERS) == (512, 512, 0, 0)
    assert stats(computer, "numa_huge_pte_updates", "numa_pte_updates") == (1, 512)
    assert stats(computer, "numa_hint_faults", "nr_anon_transparent_hugepages") == (1, 1)
    check(computer)


def test_a_local_fault_unmarks_the_pmd():
    computer, app, where, head = marked()
    app.on_cpu(0)
    app.read(where.start, 1)
    assert app.page_at(where.start) is head
    assert not pmd_numa(pmd_of(app, where.start))
    assert stats(computer, "numa_hint_faults_local", *COUNTERS) == (1, 0, 0, 0, 0)
    check(computer)


def test_the_rate_limit():
    computer, app, where, head = marked()
    node = computer.kernel.nodes[1]
    node.numabalancing_migrate_next_window = computer.kernel.jiffies + 1000
    node.numabalancing_migrate_nr_pages = migrate_misplaced.RATELIMIT_PAGES + 1
    app.read(where.start, 1)
    assert app.page_at(where.start) is head
    assert not pmd_numa(pmd_of(app, where.start))
    assert stats(computer, *COUNTERS) == (0, 0, 0, 0)
    check(computer)


@pytest.mark.parametrize("why", ["no memory", "not balanced", "not on the LRU", "pinned", "shared"])
def test_what_fails_before_the_copy_counts_512_failures(why):
    computer, app, where, head = marked()
    zone = computer.kernel.nodes[1].node_zones[0]
    pin = None
    if why == "no memory":
        hog = computer.process("hog", cpu=1, policy=("bind", [1]))
        area = hog.mmap(MiB(30))
        for page in area.pages():
            if all(zone.free_area[order].nr_free == 0 for order in (9, 10)) and not zone.untouched:
                break
            hog.touch(page)
    elif why == "not balanced":
        zone.watermark[2] = zone.vm_stat[0]
    elif why == "not on the LRU":
        with app.running():
            vmscan.isolate_lru_page(head)
    elif why == "pinned":
        app.on_cpu(0)
        pin = app.pin(where[3:4])  # which unmarks it
        app.on_cpu(1)
        app.numa_scan()
        app.read(where.start, 1)  # the first from here after one from node 0
        app.numa_scan()
    else:
        app.fork().on_cpu(0)
    app.read(where.start, 1)
    if why == "not on the LRU":
        with app.running():
            vmscan.putback_lru_page(head)
    assert app.page_at(where.start) is head
    assert not pmd_numa(pmd_of(app, where.start))
    assert not head.flags & PG_locked
    assert stats(computer, *COUNTERS) == (0, 0, 512, 0)
    if pin is not None:
        pin.release()
    check(computer)


def test_a_locked_page_is_waited_for_and_nothing_is_recorded():
    computer, app, where, head = marked()
    head.flags |= PG_locked
    holder = computer.process("holder", cpu=0)

    def hold():
        from mmigrate.linux.kernel.page_flags import unlock_page

        with holder.running():
            unlock_page(head)

    computer.start(app.read, where.start, 1, cpu=1)
    computer.start(hold, cpu=0)
    computer.run()
    assert app.placement(where) == {1: 512}  # at the second fault
    assert stats(computer, "numa_hint_faults") == (1,)
    check(computer)


@pytest.mark.parametrize("late", [False, True])
def test_a_pin_between_isolation_and_the_end_takes_everything_back(late):
    """Once before the new pmd is set, once after: the old page is the page, and still marked."""
    computer, app, where, head = marked()
    pmds = find_pmds(app.mm, where.start)
    index = (where.start >> 21) & 511
    old = pmds.entries[index]

    def when(obj, field, kind):
        if late:  # the last look for pins: the new page is mapped already
            return obj is head and field == "_count" and pmds.entries[index] not in (None, old)
        return obj is pmds.ptl and not head.flags & PG_lru and head._count == 2

    def pin():
        head._count += 1

    with in_window(when, pin), app.running() as task:
        memory.page_fault(task, where.start, False)
    assert app.page_at(where.start) is head
    assert pmds.entries[index] == old
    assert stats(computer, *COUNTERS) == (0, 0, 0, 0)
    assert head.flags & PG_active
    assert not head.flags & PG_locked
    with app.running():
        put_page(head)
    check(computer)


def test_mlock_follows_the_page():
    computer = machine(numa_balancing=True)
    app = computer.process(cpu=0)
    where, head = huge_page(app)
    app.mlock(where)
    app.numa_scan()
    app.on_cpu(1)
    app.read(where.start, 1)
    moved = app.page_at(where.start)
    assert moved is not head and moved.flags & PG_mlocked
    assert stats(computer, "nr_mlock", "nr_unevictable") == (512, 512)
    check(computer)


def test_the_huge_page_of_zeroes_is_not_marked():
    computer = machine(numa_balancing=True)
    app = computer.process()
    where = huge_area(app)
    app.read(where.start, 1)
    assert app.numa_scan() == 0
    check(computer)


def test_mprotect_and_split_unmark():
    computer, app, where, _ = marked()
    app.mprotect(where, "r")
    assert not pmd_numa(pmd_of(app, where.start))
    app.mprotect(where, "rw")
    app.numa_scan()
    app.move_pages(where[0:1], 1)
    assert not is_huge(app, where.start)
    assert app.numa_scan() == 512  # ptes now
    check(computer)


def test_fork_copies_the_mark():
    computer, app, where, _ = marked()
    child = app.fork(cpu=1)
    assert pmd_numa(pmd_of(child, where.start))
    child.read(where.start, 1)
    assert not pmd_numa(pmd_of(child, where.start))
    assert pte_present(pmd_of(app, where.start))
    check(computer)


def test_a_pin_answers_the_hinting_fault_first():
    computer, app, where, _ = marked()
    pin = app.pin(where[2:4])
    assert {page.zone.nid for page in pin.pages} == {1}
    assert parts(app.page_at(where.start))[2] is pin.pages[0]
    pin.release()
    check(computer)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("rival", ["write", "munmap", "move_pages", "dontneed", "pin", "scan"])
def test_a_misplaced_huge_page_against_everybody(rival, seed):
    computer, app, where, _ = marked(cpus=(0, 1, 1))
    computer.start(app.write, where.start + 3 * PAGE, b"raced", cpu=1)
    if rival == "write":
        computer.start(app.write, where.start + 4 * PAGE, b"too", cpu=2)
    elif rival == "munmap":
        app.write(where.start, b"huge")
        other = app.fork(cpu=0)
        computer.start(other.munmap, where, cpu=0)
    elif rival == "move_pages":
        mover = computer.process("mover", cpu=0)
        computer.start(mover.move_pages, where[0:2], 1, process=app, cpu=0)
    elif rival == "dontneed":
        computer.start(app.madvise, where[9:12], 4, cpu=2)
    elif rival == "pin":
        computer.start(app.pin, where[1:2], write=False, cpu=2)
    else:
        computer.kernel.jiffies += 100_000
        computer.start(app.numa_scan, cpu=2)
    computer.run(seed)
    for pin in list(computer.pins):
        pin.release()
    found = [v for v in computer.check() if "bad pmd" not in str(v)]
    computer.drain_pagevecs()
    if not any("bad pmd" in text for text in computer.kernel.warnings):
        assert found == []
        assert computer.check() == []
