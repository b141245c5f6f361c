"""Reclaim by allocations, by groups at their limit, and by kswapd."""

import pytest

from mmigrate import Machine, MiB
from mmigrate.errors import MemoryFault
from mmigrate.linux.drivers import block
from mmigrate.linux.include.mm import PF_KSWAPD, PF_MEMALLOC
from mmigrate.linux.include.mmzone import WMARK_HIGH, ZONE_DIRTY
from mmigrate.linux.include.vmstat import LRU_ACTIVE_ANON, LRU_INACTIVE_ANON, NR_FREE_PAGES
from mmigrate.linux.mm import kswapd, memcontrol, reclaim
from mmigrate.linux.mm.vmscan import ScanControl

PAGE = 4096


def crowded(swap=1 << 23, **options):
    """A machine of one node with little memory, and a process that has half of it."""
    machine = Machine(nodes=(MiB(4),), **options)
    if swap:
        machine.swapon(swap)
    app = machine.process("app")
    heap = app.mmap(MiB(2))
    for number, address in enumerate(heap.pages()):
        app.write(address, b"%04d" % number)
    return machine, app, heap


def zone_of(machine):
    return machine.kernel.nodes[0].node_zones[-1]


def test_memory_that_does_not_fit_goes_to_swap_and_comes_back():
    machine, app, heap = crowded()
    more = app.mmap(MiB(4))
    app.touch(more, write=True)
    assert machine.vmstat["allocstall"] > 0
    assert machine.vmstat["pswpout"] > 0
    for number, address in enumerate(heap.pages()):
        assert app.read(address, 4) == b"%04d" % number
    machine.finish_io()
    assert machine.check() == []


def test_clean_files_go_first():
    machine, app, heap = crowded()
    file = machine.file("f", MiB(4))
    for offset in range(0, MiB(4), PAGE):
        app.pread(file, 1, offset)
    assert machine.vmstat["pswpout"] == 0
    assert sum(app.placement(heap).values()) == 512
    stolen = [machine.vmstat[f"pgsteal_direct_{zone}"] for zone in ("dma", "dma32", "normal")]
    assert sum(stolen) > 0
    assert machine.check() == []


def test_without_swap_and_files_there_is_no_way_out():
    machine, app, _ = crowded(swap=0)
    with pytest.raises(MemoryFault) as raised:
        app.touch(app.mmap(MiB(4)), write=True)
    assert "SIGKILL" in str(raised.value)
    assert machine.check() == []


def test_locked_memory_stays():
    machine, app, heap = crowded()
    app.mlock(heap)
    app.touch(app.mmap(MiB(3)), write=True)
    assert sum(app.placement(heap).values()) == 512
    machine.finish_io()
    assert machine.check() == []


def test_an_allocation_for_one_node_reclaims_there():
    machine = Machine(nodes=(MiB(4), MiB(4)))
    machine.swapon(MiB(8))
    app, other = machine.process("app", cpu=0), machine.process("other", cpu=1)
    heap = app.mmap(MiB(1))
    app.touch(heap, write=True)
    full = other.mmap(MiB(4) - 80 * PAGE)
    other.set_mempolicy("bind", {1})
    other.touch(full, write=True)
    result = app.move_pages(heap, node=1)
    assert list(result.status) == [1] * 256
    machine.finish_io()
    assert machine.check() == []


def test_kswapd_reclaims_up_to_the_high_watermark():
    machine, app, _ = crowded()
    zone = zone_of(machine)
    app.touch(app.mmap(MiB(2) - 24 * PAGE), write=True)
    machine.drain_pagevecs()
    assert not kswapd.zone_balanced(zone, 0, 0, 0)
    while not kswapd.zone_balanced(zone, 0, 0, 0):
        assert machine.kswapd(0) > 0 or block.busy(machine.kernel)
        machine.finish_io()
    assert zone.vm_stat[NR_FREE_PAGES] > zone.watermark[WMARK_HIGH]
    assert machine.vmstat["pageoutrun"] > 0
    assert machine.kswapd(0) == 0
    assert machine.check() == []


def test_there_is_a_kswapd_for_each_node_only():
    with pytest.raises(Exception, match="there is no node 3"):
        Machine().kswapd(3)


@pytest.mark.parametrize("kswapd", [True, False])
def test_who_writes_dirty_files(kswapd):
    """Only kswapd, and only where the end of the list is all dirty."""
    machine = Machine(nodes=(MiB(4),))
    app = machine.process("app")
    file = machine.file("f", 64 * PAGE)
    for offset in range(0, 64 * PAGE, PAGE):
        app.pwrite(file, b"dirty", offset)
    machine.drain_pagevecs()
    zone = zone_of(machine)
    zone.flags |= ZONE_DIRTY
    with app.running() as task:
        task.flags |= PF_MEMALLOC | (PF_KSWAPD if kswapd else 0)
        sc = ScanControl(priority=0)
        reclaim.shrink_zone(zone, sc)  # just written is not yet ready to go
        reclaim.shrink_zone(zone, sc)
        task.flags &= ~(PF_MEMALLOC | PF_KSWAPD)
    machine.finish_io()
    assert (machine.vmstat["nr_vmscan_write"] > 0) is kswapd
    assert (machine.vmstat["nr_vmscan_immediate_reclaim"] > 0) is not kswapd
    assert machine.check() == []


def test_pages_in_use_are_kept_a_while():
    machine, app, heap = crowded()
    machine.drain_pagevecs()
    zone = zone_of(machine)
    sizes = [memcontrol.lru_size(zone.lruvec, lru) for lru in (LRU_INACTIVE_ANON, LRU_ACTIVE_ANON)]
    assert sizes == [0, 512]
    with app.running():
        reclaim.shrink_active_list(32, zone.lruvec, ScanControl(), LRU_ACTIVE_ANON)
        assert memcontrol.lru_size(zone.lruvec, LRU_INACTIVE_ANON) == 32
        machine.kernel.cpus[0].tlb.clear()  # reclaim does not flush for a look
        app.touch(heap)
        # Used since: back to the active list, and nothing is freed.
        assert reclaim.shrink_inactive_list(32, zone.lruvec, ScanControl(), LRU_INACTIVE_ANON) == 0
    assert memcontrol.lru_size(zone.lruvec, LRU_INACTIVE_ANON) == 0
    assert machine.check() == []


@pytest.mark.parametrize(
    ("swap", "files", "priority", "expected"),
    [
        (0, 0, 0, (0, 1, 1)),  # nowhere to go with anonymous memory
        (MiB(1), 0, 0, (1, 1, 1)),  # everything
        (MiB(1), 64, 12, (0, 1, 1)),  # enough inactive files
    ],
)
def test_which_lists_are_scanned(swap, files, priority, expected):
    machine, app, _ = crowded(swap=swap)
    file = machine.file("f", files * PAGE)
    for index in range(files):
        app.pread(file, 1, index * PAGE)
    machine.drain_pagevecs()
    zone = zone_of(machine)
    zone.watermark[WMARK_HIGH] = 0
    with app.running():
        assert reclaim._balance(zone.lruvec, ScanControl(priority=priority)) == expected


def test_with_too_few_files_left_only_anonymous_memory_is_scanned():
    machine, app, _ = crowded()
    zone = zone_of(machine)
    zone.watermark[WMARK_HIGH] = 1 << 20
    with app.running():
        assert reclaim._balance(zone.lruvec, ScanControl(priority=12)) == (1, 0, 1)


def test_reclaim_races_with_migration():
    for seed in range(15):
        machine = Machine(nodes=(MiB(2), MiB(2)))
        machine.swapon(MiB(2))
        app = machine.process("app")
        heap = app.mmap(pages=6)
        app.touch(heap, write=True)
        machine.drain_pagevecs()
        zone = machine.page_of(app, heap.start).zone
        zone.watermark[WMARK_HIGH] = 1 << 20
        machine.start(app.move_pages, heap, node=1)
        machine.start(machine.kswapd, 0)
        machine.start(app.touch, heap)
        machine.run(seed=seed)
        zone.watermark[WMARK_HIGH] = 0
        machine.finish_io()
        assert machine.check() == []
