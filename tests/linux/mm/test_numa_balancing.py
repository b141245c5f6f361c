"""NUMA balancing: the scan, hinting faults on base pages, the filter, and how much may move."""

import pytest

from mmigrate import MiB, ScenarioError
from mmigrate.errors import KernelBug
from mmigrate.linux.include.mm import PF_EXITING, VM_EXEC, VM_IO
from mmigrate.linux.include.page_flags import PG_lru
from mmigrate.linux.include.pgtable import is_migration_entry, pte_numa, pte_to_swp_entry, pte_write
from mmigrate.linux.include.vmstat import NR_FREE_PAGES, NR_PAGES_SCANNED
from mmigrate.linux.kernel import fair
from mmigrate.linux.kernel.pgtable import find_pmds
from mmigrate.linux.mm import memory, migrate_misplaced
from mmigrate.linux.mm.task_numa import task_numa_work
from mmigrate.machine.process import peek_pte
from tests.linux.mm.migration import in_window
from tests.linux.mm.thp import machine, stats

PAGE = 4096


def balanced(**options):
    return machine(numa_balancing=True, **options)


def marked(app, where):
    return sum(pte_numa(peek_pte(app.mm, address)) for address in where.pages())


# --- the scan ---


def test_a_scan_marks_what_is_mapped():
    app = balanced().process()
    where = app.mmap(pages=8)
    app.touch(where[0:5])
    assert app.numa_scan() == 5
    assert marked(app, where) == 5
    assert stats(app.machine, "numa_pte_updates", "numa_huge_pte_updates") == (5, 0)
    assert app.numa_scan() == 0  # all are marked already
    assert app.machine.check() == []


def test_a_scan_without_balancing_is_refused():
    app = machine().process()
    with pytest.raises(ScenarioError, match="NUMA balancing is off"):
        app.numa_scan()


def test_the_zero_page_shared_code_and_forbidden_memory_are_not_marked():
    computer = balanced()
    app = computer.process()
    zeroes, forbidden = app.mmap(pages=2), app.mmap(pages=2)
    app.touch(zeroes, write=False)
    app.touch(forbidden)
    app.mprotect(forbidden, "")
    file = computer.file("lib", 2 * PAGE, data=b"code")
    code = app.mmap(pages=2, file=file, prot="rx")
    app.touch(code, write=False)
    assert app.numa_scan() == 0


def test_writable_file_mappings_are_marked():
    computer = balanced()
    app = computer.process()
    file = computer.file("data", 2 * PAGE)
    view = app.mmap(pages=2, file=file, shared=True)
    app.touch(view)
    assert app.numa_scan() == 2


@pytest.mark.parametrize("why", ["policy of the area", "policy of the task", "device"])
def test_areas_that_the_scan_passes_over(why):
    app = balanced().process()
    where = app.mmap(pages=2)
    app.touch(where)
    if why == "policy of the area":
        app.mbind(where, "bind", [0])
    elif why == "policy of the task":
        app.set_mempolicy("preferred", [0])
    else:
        app.mm.mmap[0].vm_flags |= VM_IO
    assert app.numa_scan() == 0


def test_a_scan_goes_on_where_the_last_one_ended():
    computer = balanced()
    computer.kernel.numa_balancing.scan_size = 2
    app = computer.process()
    where = app.mmap(MiB(10))
    app.touch(where)
    first = app.numa_scan()
    assert 512 <= first <= 1024  # rounded up to a whole huge page
    assert app.mm.numa_scan_offset == where.start + first * PAGE
    total = first
    while app.mm.numa_scan_seq == 0:
        total += app.numa_scan()
    assert total == 2560
    assert app.mm.numa_scan_offset == 0


def test_a_scan_that_is_not_due_and_one_that_another_thread_won():
    app = balanced().process()
    where = app.mmap(pages=2)
    app.touch(where)
    app.numa_scan()
    with app.running() as task:
        assert task_numa_work(task) == 0
    app.read(where.start, 1)
    app.machine.kernel.jiffies = app.mm.numa_next_scan
    with (
        app.running() as task,
        in_window(
            lambda obj, field, kind: field == "numa_next_scan" and kind == 1,
            lambda: setattr(app.mm, "numa_next_scan", 1 << 40),
        ),
    ):
        assert task_numa_work(task) == 0
    assert marked(app, where) == 1


def test_a_process_that_exits_is_not_scanned():
    app = balanced().process()
    with app.running() as task:
        task.flags |= PF_EXITING
        assert task_numa_work(task) == 0


# --- hinting faults ---


def test_a_page_follows_its_user():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=4)
    app.write(where.start, b"mine")
    app.touch(where)
    computer.drain_pagevecs()
    app.numa_scan()
    app.on_cpu(1)
    assert app.read(where.start, 4) == b"mine"
    assert app.placement(where) == {0: 3, 1: 1}
    assert stats(computer, "numa_hint_faults", "numa_hint_faults_local", "numa_pages_migrated") == (
        1,
        0,
        1,
    )
    assert stats(computer, "pgmigrate_success") == (1,)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_local_fault_moves_nothing():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)
    app.numa_scan()
    app.touch(where)
    assert app.placement(where) == {0: 1}
    assert stats(computer, "numa_hint_faults", "numa_hint_faults_local", "numa_pages_migrated") == (
        1,
        1,
        0,
    )
    assert marked(app, where) == 0
    assert pte_write(peek_pte(app.mm, where.start))
    assert computer.check() == []


def test_it_takes_two_faults_in_a_row_from_a_node():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)
    for cpu, node in ((0, 0), (1, 0), (1, 1), (0, 1), (1, 1), (0, 1), (0, 0)):
        computer.drain_pagevecs()
        app.numa_scan()
        app.on_cpu(cpu)
        app.read(where.start, 1)
        assert app.placement(where) == {node: 1}, cpu
    computer.drain_pagevecs()
    assert computer.check() == []


def test_the_last_user_goes_with_the_page_and_is_forgotten_when_it_is_freed():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)
    app.numa_scan()
    app.read(where.start, 1)
    page = app.page_at(where.start)
    mine = fair.cpu_pid_to_cpupid(0, app.pid)
    assert page._last_cpupid == mine
    app.move_pages(where, 1)
    assert app.page_at(where.start)._last_cpupid == mine
    assert page._last_cpupid == -1
    moved = app.page_at(where.start)
    app.munmap(where)
    computer.drain_pagevecs()
    assert moved._last_cpupid == -1


def test_a_page_with_a_policy_stays_although_it_was_marked():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)
    app.numa_scan()
    app.mbind(where, "interleave", [0, 1])
    app.on_cpu(1)
    app.read(where.start, 1)
    assert app.placement(where) == {0: 1}
    assert stats(computer, "numa_hint_faults") == (1,)


def test_a_shared_page_moves_with_all_its_ptes():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1, shared=True, file=computer.file("data", PAGE))
    app.write(where.start, b"ours")
    computer.drain_pagevecs()
    child = app.fork(cpu=1)
    assert child.read(where.start, 4) == b"ours"
    child.numa_scan()
    assert child.read(where.start, 4) == b"ours"
    assert app.placement(where) == child.placement(where) == {1: 1}
    computer.drain_pagevecs()
    assert computer.check() == []


def test_shared_memory_without_a_policy_of_its_own_is_not_scanned():
    """A quirk of v3.19: an area that can be asked for its policy, and has none, has none that
    lets pages move."""
    app = balanced().process()
    where = app.mmap(pages=1, shared=True)
    app.touch(where)
    assert app.numa_scan() == 0


def test_executable_file_pages_that_are_shared_stay():
    computer = balanced()
    app = computer.process(cpu=0)
    file = computer.file("data", PAGE)
    view = app.mmap(pages=1, file=file, shared=True)
    app.touch(view)
    child = app.fork(cpu=1)
    child.touch(view)
    for vma in child.mm.mmap:
        vma.vm_flags |= VM_EXEC
    child.numa_scan()
    child.read(view.start, 1)
    assert child.placement(view) == {0: 1}
    assert stats(computer, "numa_hint_faults", "numa_pages_migrated") == (1, 0)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_pinned_page_stays():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    pin = app.pin(where)
    app.numa_scan()
    app.on_cpu(1)
    app.read(where.start, 1)
    assert app.placement(where) == {0: 1}
    assert stats(computer, "numa_pages_migrated") == (0,)
    pin.release()
    computer.drain_pagevecs()
    assert computer.check() == []


def test_the_pte_is_mended_before_anything_moves():
    """Another thread uses the page while the first tries to move it."""
    computer = balanced(cpus=(0, 1))
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.write(where.start, b"one")
    computer.drain_pagevecs()
    app.numa_scan()
    app.on_cpu(1)
    page = app.page_at(where.start)
    seen = []

    def look():
        seen.append(pte_numa(peek_pte(app.mm, where.start)))

    with in_window(lambda obj, field, kind: obj is page and field == PG_lru, look):
        app.read(where.start, 1)
    assert seen == [False]


def test_a_hinting_fault_on_the_zero_page_is_a_bug():
    app = balanced().process()
    where = app.mmap(pages=1)
    app.read(where.start, 1)
    page = app.machine.kernel.zero_page
    pt = find_pmds(app.mm, where.start).entries[(where.start >> 21) & 511]
    pt.entries[(where.start >> 12) & 511] = page.pfn << 12 | 0x225 & ~1
    for cpu in app.machine.kernel.cpus:
        cpu.tlb.clear()
    with pytest.raises(KernelBug, match="hinting fault on the zero page"):
        app.read(where.start, 1)


def test_a_pte_that_changed_meanwhile_is_left_alone():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)
    app.numa_scan()
    pt = find_pmds(app.mm, where.start).entries[(where.start >> 21) & 511]
    with app.running():
        assert memory.do_numa_page(app.mm, app.mm.mmap[0], where.start, pt, 0x1234) == 0
    assert marked(app, where) == 1
    assert stats(computer, "numa_hint_faults") == (0,)


def test_get_user_pages_answers_a_hinting_fault_first():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)
    computer.drain_pagevecs()
    app.numa_scan()
    app.on_cpu(1)
    pin = app.pin(where)
    assert pin.pages[0].zone.nid == 1
    assert stats(computer, "numa_pages_migrated") == (1,)
    pin.release()
    computer.drain_pagevecs()
    assert computer.check() == []


# --- limits ---


def test_the_rate_limit_of_a_node_and_its_window():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=2)
    app.touch(where)
    computer.drain_pagevecs()
    node = computer.kernel.nodes[1]
    node.numabalancing_migrate_next_window = computer.kernel.jiffies + 10_000
    node.numabalancing_migrate_nr_pages = migrate_misplaced.RATELIMIT_PAGES
    computer.kernel.events = []
    app.numa_scan()
    app.on_cpu(1)
    app.read(where.start, 1)  # may overshoot by one request
    app.read(where.start + PAGE, 1)
    assert app.placement(where) == {0: 1, 1: 1}
    names = [name for name, _ in computer.kernel.events]
    assert names.count("mm_numa_migrate_ratelimit") == 1
    computer.kernel.jiffies = node.numabalancing_migrate_next_window + 1
    app.numa_scan()
    app.touch(where)
    assert app.placement(where) == {1: 2}
    assert node.numabalancing_migrate_nr_pages == 1
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_node_without_memory_to_spare_gets_nothing():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)
    zone = computer.kernel.nodes[1].node_zones[0]
    zone.watermark[2] = zone.vm_stat[NR_FREE_PAGES]
    app.numa_scan()
    app.on_cpu(1)
    app.read(where.start, 1)
    assert app.placement(where) == {0: 1}
    assert not migrate_misplaced.migrate_balanced_pgdat(computer.kernel.nodes[1], 1)
    assert computer.check() == []


def test_a_zone_that_reclaim_has_given_up_gets_nothing():
    computer = balanced()
    zone = computer.kernel.nodes[1].node_zones[0]
    assert migrate_misplaced.migrate_balanced_pgdat(computer.kernel.nodes[1], 1)
    zone.vm_stat[NR_PAGES_SCANNED] = 1
    assert not migrate_misplaced.migrate_balanced_pgdat(computer.kernel.nodes[1], 1)


def test_a_page_that_cannot_be_isolated_stays():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)  # it waits in the vector of CPU 0
    app.numa_scan()
    app.on_cpu(1)
    app.read(where.start, 1)
    assert app.placement(where) == {0: 1}
    assert stats(computer, "numa_pages_migrated", "numa_hint_faults") == (0, 1)
    assert computer.check() == []


# --- what the scheduler makes of it ---


def test_the_node_with_most_faults_is_preferred():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=6)
    app.touch(where)
    app.move_pages(where[0:2], 1)
    for _ in range(3):
        app.numa_scan()
        app.touch(where)
    faults = fair.faults_of(app.task)
    assert faults.preferred_nid == 0
    assert sum(faults.memory.values()) == faults.total > 0
    assert computer.check() == []


def test_local_faults_make_scans_rare_and_remote_ones_frequent():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=4)
    app.touch(where)
    for _ in range(4):
        app.numa_scan()
        app.touch(where)
    slow = fair.faults_of(app.task).scan_period
    assert slow > 1000
    pin = app.pin(where)  # so that they stay where they are
    app.on_cpu(1)
    app.touch(elsewhere := app.mmap(pages=1))
    for _ in range(6):
        app.numa_scan()
        app.touch(where)
        app.touch(elsewhere)
    assert fair.faults_of(app.task).scan_period < slow
    pin.release()


def test_remote_faults_alone_are_taken_for_idleness():
    """A quirk of v3.19: without a local or a shared fault the scan becomes rarer."""
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=4)
    pin = app.pin(where)
    app.on_cpu(1)
    periods = []
    for _ in range(4):
        app.numa_scan()
        app.touch(where)
        periods.append(fair.faults_of(app.task).scan_period)
    assert periods == sorted(periods)
    assert periods[-1] > 2000
    pin.release()


def test_who_does_nothing_is_scanned_ever_more_rarely():
    computer = balanced()
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.touch(where)
    app.numa_scan()
    app.touch(where)
    faults = fair.faults_of(app.task)
    faults.locality = [0, 0]
    period = faults.scan_period
    with app.running() as task:
        fair.update_task_scan_period(task, 0, 0)
    assert faults.scan_period == period * 2
    assert app.mm.numa_next_scan == computer.kernel.jiffies + period * 2


def test_faults_of_a_kernel_thread_or_without_balancing_are_not_recorded():
    for computer in (machine(), balanced()):
        app = computer.process()
        with app.running() as task:
            mm, task.mm = task.mm, None if computer.kernel.numa_balancing else task.mm
            fair.task_numa_fault(-1, 0, 1, 0)
            assert task.numa is None
            task.mm = mm


@pytest.mark.parametrize("seed", range(8))
def test_two_threads_on_two_nodes_and_one_page(seed):
    """The worked example: the second thread waits for the migration, and makes it fail once."""
    computer = balanced(cpus=(0, 0, 1))
    app = computer.process(cpu=0)
    where = app.mmap(pages=1)
    app.write(where.start, b"data")
    computer.drain_pagevecs()
    app.numa_scan()
    computer.start(app.write, where.start, b"from", cpu=1)
    computer.start(app.write, where.start + 8, b"node", cpu=2)
    computer.start(app.numa_scan, cpu=1)
    computer.run(seed)
    pte = peek_pte(app.mm, where.start)
    assert not is_migration_entry(pte_to_swp_entry(pte)) or pte & 1
    computer.drain_pagevecs()
    assert computer.check() == []
