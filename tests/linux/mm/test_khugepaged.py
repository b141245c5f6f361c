"""khugepaged: what it collapses, what it leaves, and its rivals."""

import pytest

from mmigrate import Mapping, MiB
from mmigrate.linux.include.mm import MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE
from mmigrate.linux.include.page_flags import PG_locked, PG_referenced
from mmigrate.linux.include.pgtable import pte_mkold
from mmigrate.linux.kernel.pgtable import find_leaf, find_pmds
from mmigrate.linux.mm import huge_memory, khugepaged, vmscan
from tests.linux.mm.migration import in_window
from tests.linux.mm.thp import HUGE, PAGE, huge_area, huge_page, is_huge, machine, stats


def small(computer, name="app", pages=512, **options):
    """(process, aligned range with @pages base pages, which may be huge from now on)"""
    app = computer.process(name, **options)
    where = huge_area(app, advise=False)
    app.touch(where[0:pages])
    app.write(where.start, b"small")
    app.madvise(where, MADV_HUGEPAGE)
    computer.drain_pagevecs()
    return app, where


def test_base_pages_become_a_huge_page():
    computer = machine()
    app, where = small(computer)
    app.write(where.start + 300 * PAGE, b"far")
    assert computer.khugepaged_scan() == 1
    assert is_huge(app, where.start)
    assert app.placement(where) == {0: 512}
    assert app.read(where.start, 5) == b"small"
    assert app.read(where.start + 300 * PAGE, 3) == b"far"
    assert stats(
        computer, "thp_collapse_alloc", "nr_anon_transparent_hugepages", "nr_isolated_anon"
    ) == (1, 1, 0)
    assert computer.khugepaged_scan() == 0
    computer.drain_pagevecs()
    assert computer.check() == []


def test_what_is_not_there_becomes_zeroes_and_is_counted():
    computer = machine()
    app, where = small(computer, pages=1)
    assert app.placement(where) == {0: 1}
    assert computer.khugepaged_scan() == 1
    assert app.placement(where) == {0: 512}
    assert app.read(where.start + 9 * PAGE, 4) == bytes(4)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_too_much_that_is_not_there():
    computer = machine()
    huge_memory.state(computer.kernel).khugepaged.max_ptes_none = 10
    app, where = small(computer, pages=501)
    assert computer.khugepaged_scan() == 0
    app.touch(where[501:502])
    computer.drain_pagevecs()
    assert computer.khugepaged_scan() == 1
    assert computer.check() == []


@pytest.mark.parametrize(
    "why",
    ["read-only", "zero page", "swapped", "pinned", "shared", "locked", "in a vector", "old"],
)
def test_pages_that_speak_against_a_collapse(why):
    computer = machine(numa_balancing=True)
    app, where = small(computer)
    page = app.page_at(where.start + 7 * PAGE)
    pin = None
    if why == "read-only":
        app.mprotect(where, "r")
        app.mprotect(where, "rw")
    elif why == "zero page":
        app.madvise(where[7:8], MADV_DONTNEED)
        app.read(where.start + 7 * PAGE, 1)
    elif why == "swapped":
        computer.swapon(MiB(1))
        computer.swap_out(app, where[7:8])
    elif why == "pinned":
        pin = app.pin(where[7:8])
    elif why == "shared":
        app.fork("child")
    elif why == "locked":
        page.flags |= PG_locked
    elif why == "in a vector":
        app.madvise(where[7:8], MADV_DONTNEED)
        app.touch(where[7:8])
    else:
        table = find_leaf(app.mm, where.start)
        table.entries[:] = [pte_mkold(pte) for pte in table.entries]
        for cpu in computer.kernel.cpus:
            cpu.tlb.clear()
    assert computer.khugepaged_scan() == 0
    assert not is_huge(app, where.start)
    page.flags &= ~PG_locked
    if pin is not None:
        pin.release()
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_page_that_is_marked_as_used_is_enough():
    computer = machine()
    app, where = small(computer)
    table = find_leaf(app.mm, where.start)
    table.entries[:] = [pte_mkold(pte) for pte in table.entries]
    for cpu in computer.kernel.cpus:
        cpu.tlb.clear()
    app.page_at(where.start).flags |= PG_referenced
    assert computer.khugepaged_scan() == 1
    computer.drain_pagevecs()
    assert computer.check() == []


@pytest.mark.parametrize("why", ["not advised", "advised against", "file", "too small", "shm"])
def test_areas_that_are_not_collapsed(why):
    computer = machine()
    app = computer.process()
    if why == "file":
        area = app.mmap(3 * HUGE, file=computer.file("data", 3 * HUGE))
    elif why == "shm":
        area = app.mmap(3 * HUGE, shared=True)
    else:
        area = app.mmap(HUGE + PAGE if why == "too small" else 3 * HUGE)
    where = Mapping((area.start + HUGE - 1) & -HUGE, PAGE)
    app.touch(where)
    if why == "advised against":
        app.madvise(area, MADV_NOHUGEPAGE)
    computer.drain_pagevecs()
    assert computer.khugepaged_scan() == 0
    assert computer.check() == []


def test_always_needs_no_advice():
    computer = machine(thp="always")
    app = computer.process()
    where = huge_area(app, advise=False)
    huge_memory.state(computer.kernel).enabled = "never"
    app.touch(where)
    huge_memory.state(computer.kernel).enabled = "always"
    computer.drain_pagevecs()
    app.touch(huge_area(app, advise=False)[0:1])  # a fault registers the process
    computer.drain_pagevecs()
    assert computer.khugepaged_scan() >= 1
    assert is_huge(app, where.start)
    assert computer.check() == []


def test_without_a_free_block_nothing_is_collapsed():
    computer = machine(MiB(6))
    app, where = small(computer)
    hog = computer.process("hog")
    zone = computer.kernel.nodes[0].node_zones[0]
    for page in hog.mmap(MiB(4)).pages():
        if all(zone.free_area[order].nr_free == 0 for order in (9, 10)) and not zone.untouched:
            break
        hog.touch(page)
    for node in computer.kernel.nodes[1:]:
        for other in node.node_zones:
            other.watermark[:] = [1 << 30] * 3
    assert computer.khugepaged_scan() == 0
    assert stats(computer, "thp_collapse_alloc_failed") == (1,)
    assert not is_huge(app, where.start)


def test_the_huge_page_comes_from_the_node_with_most_pages():
    computer = machine()
    app, where = small(computer)
    app.move_pages(where[0:300], 1)
    computer.drain_pagevecs()
    assert computer.khugepaged_scan() == 1
    assert app.placement(where) == {1: 512}
    computer.drain_pagevecs()
    assert computer.check() == []


def test_nodes_with_as_many_pages_take_turns():
    computer = machine()
    nodes = []
    for name in ("one", "two", "three"):
        app, where = small(computer, name)
        app.move_pages(where[0:256], 1)
        computer.drain_pagevecs()
        computer.khugepaged_scan()
        nodes += app.placement(where)
    assert nodes == [0, 1, 0]


# --- which processes ---


def slots(computer):
    return [slot.mm.name for slot in huge_memory.state(computer.kernel).khugepaged.mm_head]


def test_who_is_scanned():
    computer = machine()
    app = computer.process("app")
    assert slots(computer) == []
    where = huge_area(app)
    assert slots(computer) == []  # nothing there yet
    app.touch(where[0:1])
    assert slots(computer) == ["app"]
    child = app.fork("child")
    assert slots(computer) == ["app", "child"]
    child.exit()
    assert slots(computer) == ["app"]
    app.exit()
    assert slots(computer) == []
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_scan_has_a_measure_and_goes_on_where_it_was():
    computer = machine()
    app, where = small(computer)
    other, elsewhere = small(computer, "other")
    daemon = huge_memory.state(computer.kernel).khugepaged
    with app.running():
        assert khugepaged.khugepaged_do_scan(computer.kernel, 512) == 1
        assert is_huge(app, where.start) and not is_huge(other, elsewhere.start)
        assert daemon.full_scans == 0
        assert khugepaged.khugepaged_do_scan(computer.kernel, 4096) == 1
    assert is_huge(other, elsewhere.start)
    assert daemon.full_scans >= 1
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_process_that_exits_while_it_is_scanned():
    """The exit waits for mmap_sem; who scans finds it dead, and forgets it."""
    computer = machine(MiB(12), cpus=(0, 0, 1))
    app, where = small(computer)
    del where
    ended = computer.start(app.exit, cpu=1)
    computer.start(computer.khugepaged_scan, cpu=2)
    computer.run(5)
    assert ended.finished
    computer.khugepaged_scan()
    computer.drain_pagevecs()
    assert slots(computer) == []
    assert computer.check() == []


# --- the windows ---


@pytest.mark.parametrize("what", ["munmap", "no advice", "shrunk", "another page table"])
def test_everything_is_looked_at_anew_after_the_allocation(what):
    computer = machine()
    app, where = small(computer)

    def change():
        if what == "munmap":
            app.munmap(where)
        elif what == "no advice":
            app.madvise(where, MADV_NOHUGEPAGE)
        elif what == "shrunk":
            app.munmap(where[500:512])
        else:
            app.munmap(where.start - HUGE, 3 * HUGE)

    def when(obj, field, kind):
        return obj is app.mm.mmap_sem and field == "count" and kind == 1

    with in_window(when, change):
        assert computer.khugepaged_scan() == 0
    assert stats(computer, "thp_collapse_alloc") == (1,)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_page_that_is_isolated_in_the_window_puts_the_table_back():
    computer = machine()
    app, where = small(computer)
    pmds = find_pmds(app.mm, where.start)
    index = (where.start >> 21) & 511
    page = app.page_at(where.start + 400 * PAGE)

    def isolate():
        with app.running():
            assert vmscan.isolate_lru_page(page) == 0

    with in_window(lambda obj, field, kind: pmds.entries[index] is None, isolate):
        assert computer.khugepaged_scan() == 0
    assert app.placement(where) == {0: 512}
    with app.running():
        vmscan.putback_lru_page(page)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_device_follows_a_collapse():
    for kind in ("iommu", "kvm"):
        computer = machine()
        app, where = small(computer)
        device = computer.device(app, kind)
        device.write(where.start, b"device")
        assert computer.khugepaged_scan() == 1
        assert not device.driver.translations
        device.write(where.start + PAGE, b"after")
        assert app.read(where.start, 6) == b"device"
        assert app.read(where.start + PAGE, 5) == b"after"
        computer.drain_pagevecs()
        assert computer.check() == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "rival",
    ["write", "move_pages", "munmap", "fork", "numa", "dontneed", "swap", "device", "split"],
)
def test_a_collapse_against_everybody(rival, seed):
    computer = machine(MiB(12), cpus=(0, 0, 1), numa_balancing=True)
    computer.swapon(MiB(4))
    app, where = small(computer)
    mover = computer.process("mover", cpu=1)
    computer.start(computer.khugepaged_scan, cpu=2)
    if rival == "write":
        computer.start(app.write, where.start + 9 * PAGE, b"raced", cpu=0)
    elif rival == "move_pages":
        computer.start(mover.move_pages, where[3:6], 1, process=app, cpu=1)
    elif rival == "munmap":
        computer.start(app.munmap, where[5:9], cpu=0)
    elif rival == "fork":
        computer.start(app.fork, "child", cpu=0)
    elif rival == "numa":
        computer.start(app.numa_scan, cpu=0)
        computer.start(app.write, where.start + 9 * PAGE, b"raced", cpu=1)
    elif rival == "dontneed":
        computer.start(app.madvise, where[5:9], MADV_DONTNEED, cpu=0)
    elif rival == "swap":
        computer.start(computer.swap_out, app, where[5:9], cpu=0)
    elif rival == "device":
        device = computer.device(app)
        computer.start(device.write, where.start + 3 * PAGE, b"raced", cpu=1)
    else:
        huge_page(app)
        computer.start(app.mprotect, where[4:5], "r", cpu=0)
    computer.run(seed)
    computer.finish_io()
    computer.drain_pagevecs()
    assert computer.check() == []
