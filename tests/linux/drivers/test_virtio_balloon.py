"""The balloon, in the design of v3.18 and in the one before it."""

import pytest

from mmigrate import Machine, MiB, ScenarioError
from mmigrate.errors import KernelBug
from mmigrate.explore import explore
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC, MIGRATE_SYNC, MR_COMPACTION
from mmigrate.linux.include.vmstat import NR_ISOLATED_FILE
from mmigrate.linux.kernel.page_ref import get_page_unless_zero
from mmigrate.linux.kernel.rwsem import mutex_lock, mutex_unlock
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.lib.list import ListHead, list_add_tail
from mmigrate.linux.mm import balloon_compaction, compaction, migrate, page_alloc
from tests.linux.mm.migration import ToNode

OLD = ("d6d86c0a7f8d",)


def inflated(pages=4, **options):
    machine = Machine(nodes=(MiB(8), MiB(8)), **options)
    assert machine.balloon.inflate(pages) == pages
    return machine, list(machine.balloon.device.vb_dev_info.pages)


def isolated(page, old=False):
    """The page on a private list, as the scanner has it."""
    found = ListHead()
    take = balloon_compaction.balloon_page_isolate
    if old:
        take = balloon_compaction.v317_balloon_page_isolate
    if take(page):
        list_add_tail(page, found)
        page.zone.vm_stat[NR_ISOLATED_FILE] += 1
    return found


def moved(pagelist, get=None, mode=MIGRATE_SYNC):
    get = get or ToNode(1)
    result = migrate.migrate_pages(pagelist, get, None, None, mode, MR_COMPACTION)
    return result, get.given[-1] if get.given else None


# --- inflation and deflation ---


def test_inflate_and_deflate():
    machine, pages = inflated(300)
    assert machine.balloon.pages == 300
    assert machine.balloon.given == sorted(page.pfn for page in pages)
    assert machine.vmstat["balloon_inflate"] == 300
    assert machine.check() == []
    assert machine.balloon.deflate(400) == 300
    assert machine.balloon.given == []
    assert machine.vmstat["balloon_deflate"] == 300
    assert machine.check() == []
    with pytest.raises(ScenarioError):
        machine.balloon.inflate(-1)


def test_it_ends_when_memory_does():
    machine = Machine(nodes=(MiB(4),))
    got = machine.balloon.inflate(2000)
    assert 0 < got < 1024
    assert machine.balloon.pages == got
    assert machine.check() == []


# --- migration ---


def test_a_page_can_move_any_number_of_times():
    machine, [page] = inflated(1)
    for turn in (1, 2, 3):
        node = turn % 2
        pagelist = isolated(page)
        assert page._count == 2
        result, new = moved(pagelist, ToNode(node))
        assert result == 0
        machine.drain_pagevecs()
        assert (page._count, new._count, new.zone.nid) == (0, 1, node)
        assert machine.balloon.given == [new.pfn]
        assert machine.balloon.device.host.told[-2:] == [
            ("inflate", new.pfn),
            ("deflate", page.pfn),
        ]
        assert machine.vmstat["balloon_migrate"] == turn
        assert balloon_compaction.balloon_page_movable(new)
        assert machine.check() == []
        page = new
    assert machine.vmstat["pgmigrate_success"] == 3


def test_in_the_old_design_it_moves_once_and_is_stuck():
    machine, [page] = inflated(1, without=OLD)
    result, new = moved(isolated(page, old=True))
    assert result == 0
    machine.drain_pagevecs()
    assert (page._count, new._count) == (0, 1)
    assert new.mapping is None  # taken for an error, and cleaned
    assert not isolated(new, old=True).next.__class__ is not ListHead
    assert [v.message for v in machine.check()] == ["in the balloon, without its mark"]
    assert machine.balloon.deflate(1) == 1


def test_a_busy_driver_is_not_waited_for():
    machine, [page, *_] = inflated(1)
    device = machine.balloon.device
    other = machine.process("other")
    with other.running():
        mutex_lock(device.balloon_lock)
    pagelist = isolated(page)
    get = ToNode(1)
    assert moved(pagelist, get)[0] == 1
    assert len(get.given) == 10
    migrate.putback_movable_pages(pagelist)
    with other.running():
        mutex_unlock(device.balloon_lock)
    machine.drain_pagevecs()
    assert page._count == 1
    assert machine.check() == []


def test_deflation_leaves_an_isolated_page_for_later():
    machine, [page] = inflated(1)
    pagelist = isolated(page)
    assert machine.balloon.deflate(1) == 0
    migrate.putback_movable_pages(pagelist)
    assert machine.balloon.deflate(1) == 1
    assert machine.check() == []


def test_a_lost_page_is_a_bug():
    machine, [page] = inflated(1)
    isolated(page)
    machine.balloon.device.vb_dev_info.isolated_pages = 0
    with pytest.raises(KernelBug, match="pages of the balloon were lost"):
        machine.balloon.deflate(1)


def test_what_is_no_balloon_page_is_not_isolated():
    machine, [page] = inflated(1)
    pagelist = isolated(page)
    assert not balloon_compaction.balloon_page_isolate(page)  # by another scanner
    assert page._count == 2
    migrate.putback_movable_pages(pagelist)
    free = page_alloc.alloc_pages_node(machine.kernel, 0, balloon_compaction.GFP_BALLOON, 0)
    page_alloc.__free_pages(free, 0)
    assert not balloon_compaction.balloon_page_isolate(free)
    assert machine.check() == []


# --- compaction ---


def full_of_balloon(without=()):
    """Pageblocks of which every fourth page is in the balloon, and all others free."""
    machine = Machine(nodes=(MiB(8),), without=without)
    machine.balloon.inflate(900)
    device = machine.balloon.device
    pages = sorted(device.vb_dev_info.pages, key=lambda page: page.pfn)
    return machine, pages


@pytest.mark.parametrize("lock_held", [False, True])
def test_a_block_of_balloon_pages_only(lock_held):
    """All of it is isolated, whether or not somebody has lru_lock, which is not taken."""
    machine, pages = full_of_balloon()
    zone = pages[0].zone
    cc = compaction.CompactControl(zone, -1, MIGRATE_ASYNC, ignore_skip_hint=True)
    holder = machine.process("holder")
    if lock_held:
        with holder.running():
            spin_lock(zone.lru_lock)
    start = pages[0].pfn & ~511
    zone.vm_stat[5] += 1000  # enough on the LRU not to be throttled
    compaction.isolate_migratepages_block(cc, start, start + 512, 0)
    zone.vm_stat[5] -= 1000
    assert cc.nr_migratepages == 32
    compaction.acct_isolated(zone, cc)
    if lock_held:
        with holder.running():
            spin_unlock(zone.lru_lock)
    migrate.putback_movable_pages(cc.migratepages)
    assert machine.check() == []


def test_in_the_old_design_nothing_of_it_is_isolated():
    _, pages = full_of_balloon(without=OLD)
    zone = pages[0].zone
    cc = compaction.CompactControl(zone, -1, MIGRATE_SYNC, ignore_skip_hint=True)
    start = pages[0].pfn & ~511
    zone.vm_stat[5] += 1000
    compaction.isolate_migratepages_block(cc, start, start + 512, 0)
    zone.vm_stat[5] -= 1000
    assert cc.nr_migratepages == 0


def test_the_balloon_is_compacted():
    machine, _ = full_of_balloon()
    device = machine.balloon.device
    keep = 5
    for page in list(device.vb_dev_info.pages)[::keep]:
        assert page._count == 1
    machine.balloon.deflate(300)
    machine.compact()
    machine.drain_pagevecs()
    assert machine.balloon.pages == 600
    assert machine.check() == []


# --- races, in all interleavings ---


def dequeue_against_isolate(machine):
    """A deflation and a scanner want the same page."""
    machine.balloon.inflate(1)
    [page] = machine.balloon.device.vb_dev_info.pages
    redesigned = machine.kernel.has(OLD[0])

    def scan():
        pagelist = isolated(page, old=not redesigned)
        migrate.putback_movable_pages(pagelist)

    machine.start(machine.balloon.deflate, 1, cpu=0)
    machine.start(scan, cpu=1)


def test_exactly_one_of_dequeue_and_isolate_gets_the_page():
    result = explore(dequeue_against_isolate)
    assert result.clean, str(result)


def test_in_the_old_design_both_can():
    result = explore(dequeue_against_isolate, without=OLD)
    assert result.found


def scan_against_fault(machine):
    """The scanner looks at a page that is just being given to a process."""
    app = machine.process("app")
    area = app.mmap(pages=2)
    app.touch(area[0:1])
    machine.drain_pagevecs()
    zone = machine.kernel.nodes[0].node_zones[0]
    page = zone.pageset[1].lists[2].next
    if page is zone.pageset[1].lists[2]:
        new = page_alloc.alloc_pages_node(machine.kernel, 0, balloon_compaction.GFP_BALLOON, 0)
        page = new
        page_alloc.__free_pages(new, 0)
    movable = balloon_compaction.balloon_page_movable
    if not machine.kernel.has(OLD[0]):
        movable = balloon_compaction.v317_balloon_page_movable

    def scan():
        if get_page_unless_zero(page):
            from mmigrate.linux.mm import swap

            swap.put_page(page)
        movable(page)

    machine.start(app.touch, area[1:2], cpu=0)
    machine.start(scan, cpu=1)


def test_the_scanner_never_reads_a_mapping():
    result = explore(scan_against_fault, max_executions=5000)
    assert result.clean, str(result)


def test_in_the_old_design_the_scanner_reads_an_anon_vma():
    result = explore(scan_against_fault, without=OLD, max_executions=5000)
    assert result.found
    assert "was read as if it were an address space" in str(result.violation)
