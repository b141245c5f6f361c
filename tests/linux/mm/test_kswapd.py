"""kswapd: who wakes it, what it does, when it sleeps, and that it races with the others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmigrate import Machine, MiB, explore
from mmigrate.linux.drivers import block
from mmigrate.linux.include.gfp import (
    GFP_ATOMIC,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_THISNODE,
    GFP_TRANSHUGE,
)
from mmigrate.linux.include.mm import PF_KTHREAD, PF_MEMALLOC
from mmigrate.linux.include.mmzone import (
    KSWAPD_ASLEEP,
    KSWAPD_AWAKE,
    KSWAPD_WAITS,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    ZONE_CONGESTED,
    ZONE_DIRTY,
    ZONE_MOVABLE,
    ZONE_NORMAL,
    ZONE_WRITEBACK,
)
from mmigrate.linux.include.vmstat import NR_FREE_PAGES, NR_PAGES_SCANNED
from mmigrate.linux.kernel import sched
from mmigrate.linux.mm import compaction, kswapd, page_alloc, reclaim
from mmigrate.linux.mm.vmscan import ScanControl

PAGE = 4096
COUNTERS = ("pageoutrun", "allocstall")


def booted(*sizes, swap=16, **options):
    """A machine with kswapd, as its first process' thread."""
    machine = Machine(nodes=[MiB(size) for size in sizes], kswapd=True, **options)
    if swap:
        machine.swapon(MiB(swap))
    app = machine.process("app")
    sched.run_as(app.task)
    return machine, app


def zone_of(machine, node=0):
    return machine.kernel.nodes[node].node_zones[-1]


def fill_to(machine, app, mark, zone=None):
    """Touch pages until only @mark pages are free in the zone, without any help of kswapd."""
    zone = zone or zone_of(machine)
    machine.kernel.kswapd_started = False
    held = app.mmap(MiB(16))
    for address in held.pages():
        if zone.vm_stat[NR_FREE_PAGES] <= mark:
            break
        app.touch(address, length=1)
    machine.kernel.kswapd_started = True
    return held


def with_file(machine, app, pages=300):
    """Pages that can go at once."""
    file = machine.file("clean", pages * PAGE)
    for offset in range(0, pages * PAGE, PAGE):
        app.pread(file, 1, offset)
    sched.run_as(app.task)


def asleep(machine):
    return all(
        node.kswapd_wait == KSWAPD_ASLEEP for node in machine.kernel.nodes if node.node_zones
    )


# --- who wakes it ---


def test_memory_that_gets_short_is_made_before_anybody_must_wait():
    machine, app = booted(8)
    app.touch(app.mmap(MiB(12)))
    machine.finish_io()
    assert machine.vmstat["allocstall"] == 0
    assert machine.vmstat["pageoutrun"] > 0
    assert machine.vmstat["pgscan_kswapd_normal"] >= machine.vmstat["pgsteal_kswapd_normal"] > 0
    assert machine.vmstat["pgscan_direct_normal"] == machine.vmstat["pgsteal_direct_normal"] == 0
    assert asleep(machine)
    assert machine.check() == []


def test_it_is_off_unless_asked_for():
    machine = Machine(nodes=(MiB(8),))
    machine.swapon(MiB(16))
    app = machine.process("app")
    app.touch(app.mmap(MiB(12)))
    assert machine.vmstat["allocstall"] > 0
    assert machine.vmstat["pageoutrun"] == 0
    assert machine.check() == []


def test_it_reclaims_to_the_high_mark_and_sleeps():
    machine, app = booted(8)
    zone = zone_of(machine)
    fill_to(machine, app, zone.watermark[WMARK_LOW] - 2)
    app.touch(app.mmap(pages=1))
    assert machine.vmstat["pageoutrun"] > 0
    assert zone.vm_stat[NR_FREE_PAGES] > zone.watermark[WMARK_HIGH]
    assert asleep(machine) and not machine.kernel.kswapd_woken
    assert machine.check() == []


@pytest.mark.parametrize(
    ("gfp", "order", "wakes"),
    [
        (GFP_HIGHUSER_MOVABLE, 0, True),
        (GFP_ATOMIC, 0, True),
        (GFP_NOFS, 3, True),
        (GFP_TRANSHUGE, 9, False),  # __GFP_NO_KSWAPD
        (GFP_KERNEL | GFP_THISNODE, 0, False),  # gives up before
    ],
)
def test_whose_requests_wake_it(gfp, order, wakes):
    machine, app = booted(8, swap=0)
    fill_to(machine, app, zone_of(machine).watermark[WMARK_LOW] - 2)
    machine.kernel.kswapd_woken.clear()
    page = page_alloc.alloc_pages_node(machine.kernel, 0, gfp, order)
    assert (len(machine.kernel.kswapd_woken) > 0) is wakes
    kswapd.run_woken(machine.kernel)
    if page is not None:
        page_alloc.__free_pages(page, order)
    assert machine.check() == []


def test_every_zone_of_the_list_is_woken_for():
    machine, app = booted(8, 8)
    for node in (0, 1):
        fill_to(
            machine, app, zone_of(machine, node).watermark[WMARK_LOW] - 2, zone_of(machine, node)
        )
    for node in machine.kernel.nodes:
        assert node.kswapd_wait == KSWAPD_ASLEEP
    held = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_ATOMIC, 0)
    names = [task.name for task in machine.kernel.kswapd_woken]
    assert names == ["kswapd0", "kswapd1"]
    assert [task.cpu.node for task in machine.kernel.kswapd_woken] == [0, 1]
    page_alloc.__free_pages(held, 0)
    machine.run()
    assert asleep(machine)
    machine.finish_io()
    assert machine.check() == []


def test_a_node_that_the_mask_leaves_out_sleeps_on():
    machine, app = booted(8, 8)
    app.set_mempolicy("bind", [1])
    fill_to(machine, app, zone_of(machine, 1).watermark[WMARK_LOW] - 2, zone_of(machine, 1))
    sched.run_as(app.task)
    with app.running():
        page = page_alloc.alloc_pages_nodemask(
            GFP_ATOMIC, 0, machine.kernel.nodes[1].node_zonelists[0], 1 << 1
        )
        assert [task.name for task in machine.kernel.kswapd_woken] == ["kswapd1"]
        page_alloc.__free_pages(page, 0)
    machine.finish_io()
    assert machine.check() == []


# wakeup_kswapd, condition by condition


def test_a_cpuset_without_the_zone_does_not_wake_it():
    machine, app = booted(8, 8)
    app.join(machine.cpuset("other", [1]))
    zone = zone_of(machine)
    zone.vm_stat[NR_FREE_PAGES] -= zone.managed_pages
    sched.run_as(app.task)
    kswapd.wakeup_kswapd(zone, 2, ZONE_NORMAL)
    assert machine.kernel.nodes[0].kswapd_max_order == 0
    assert not machine.kernel.kswapd_woken


def test_a_balanced_zone_does_not_wake_it_but_the_wish_is_noted():
    machine, _ = booted(8, movable=[MiB(4)])
    pgdat = machine.kernel.nodes[0]
    assert pgdat.classzone_idx == ZONE_MOVABLE
    kswapd.wakeup_kswapd(pgdat.node_zones[0], 3, ZONE_NORMAL)
    assert (pgdat.kswapd_max_order, pgdat.classzone_idx) == (3, ZONE_NORMAL)
    kswapd.wakeup_kswapd(pgdat.node_zones[0], 2, ZONE_MOVABLE)  # less than is wanted already
    assert (pgdat.kswapd_max_order, pgdat.classzone_idx) == (3, ZONE_NORMAL)
    assert pgdat.kswapd_wait == KSWAPD_ASLEEP


def test_who_is_awake_is_not_woken():
    machine, _ = booted(8)
    zone = zone_of(machine)
    zone.zone_pgdat.kswapd_wait = KSWAPD_AWAKE
    zone.vm_stat[NR_FREE_PAGES] -= zone.managed_pages
    kswapd.wakeup_kswapd(zone, 1, ZONE_NORMAL)
    assert zone.zone_pgdat.kswapd_max_order == 1
    assert not machine.kernel.kswapd_woken


def test_who_sleeps_lightly_is_woken_without_a_new_task():
    machine, _ = booted(8)
    zone = zone_of(machine)
    zone.zone_pgdat.kswapd_wait = KSWAPD_WAITS
    zone.vm_stat[NR_FREE_PAGES] -= zone.managed_pages
    kswapd.wakeup_kswapd(zone, 0, ZONE_NORMAL)
    assert zone.zone_pgdat.kswapd_wait == KSWAPD_AWAKE
    assert not machine.kernel.kswapd_woken


# --- balanced or not ---


@pytest.mark.parametrize(
    ("free", "order", "gap", "expected"),
    [
        ("high", 0, 0, False),
        ("above high", 0, 0, True),
        ("above high", 0, 1, False),
        ("all", 0, 0, True),
        ("all", 9, 0, True),
    ],
)
def test_zone_balanced(free, order, gap, expected):
    machine, _ = booted(8)
    zone = zone_of(machine)
    high = zone.watermark[WMARK_HIGH]
    wanted = {"high": high, "above high": high + 1, "all": zone.managed_pages}[free]
    zone.vm_stat[NR_FREE_PAGES] = wanted
    assert kswapd.zone_balanced(zone, order, gap, ZONE_NORMAL) is expected


def test_a_zone_is_not_balanced_for_a_block_that_compaction_could_not_make(monkeypatch):
    machine, _ = booted(8)
    zone = zone_of(machine)
    for answer, expected in (
        (compaction.COMPACT_SKIPPED, False),
        (compaction.COMPACT_CONTINUE, True),
        (compaction.COMPACT_PARTIAL, True),
    ):
        monkeypatch.setattr(compaction, "compaction_suitable", lambda *_, found=answer: found)
        assert kswapd.zone_balanced(zone, 3, 0, ZONE_NORMAL) is expected
        assert kswapd.zone_balanced(zone, 0, 0, ZONE_NORMAL)


@pytest.mark.parametrize(
    ("low", "order", "classzone", "expected"),
    [
        ((), 0, ZONE_MOVABLE, True),
        (("normal",), 0, ZONE_MOVABLE, False),  # all must be
        (("movable",), 0, ZONE_MOVABLE, False),
        (("movable",), 0, ZONE_NORMAL, True),  # nobody asks for that one
        (("movable",), 3, ZONE_MOVABLE, True),  # a quarter of the memory is enough
        (("normal", "movable"), 3, ZONE_MOVABLE, False),
        (("normal",), 0, 0, True),  # no zone at all
    ],
)
def test_pgdat_balanced(low, order, classzone, expected):
    machine, app = booted(16, movable=[MiB(8)])
    pgdat = machine.kernel.nodes[0]
    app.touch(app.mmap(MiB(9)))  # both have something to reclaim
    machine.drain_pagevecs()
    for zone in pgdat.node_zones:
        short = zone.name.lower() in low
        zone.vm_stat[NR_FREE_PAGES] = 0 if short else zone.managed_pages
    assert kswapd.pgdat_balanced(pgdat, order, classzone) is expected


def test_a_zone_beyond_help_counts_as_balanced():
    machine, app = booted(8)
    fill_to(machine, app, 10)
    machine.drain_pagevecs()
    zone = zone_of(machine)
    assert not kswapd.pgdat_balanced(zone.zone_pgdat, 0, ZONE_NORMAL)
    zone.vm_stat[NR_PAGES_SCANNED] = 6 * reclaim.zone_reclaimable_pages(zone)
    assert kswapd.pgdat_balanced(zone.zone_pgdat, 0, ZONE_NORMAL)


# --- a round ---


def test_a_round_of_a_balanced_node_does_nothing():
    machine, app = booted(8)
    zone = zone_of(machine)
    zone.flags = ZONE_CONGESTED | ZONE_DIRTY | ZONE_WRITEBACK
    with app.running():
        # It says of the lowest zone that it looked there.
        assert kswapd.balance_pgdat(zone.zone_pgdat, 0, ZONE_NORMAL) == (0, 0, 0)
    assert zone.flags == ZONE_WRITEBACK
    assert machine.vmstat["pageoutrun"] == 1


def test_a_round_ends_when_nothing_can_be_freed():
    machine, app = booted(8, swap=0)
    zone = zone_of(machine)
    fill_to(machine, app, zone.watermark[WMARK_LOW] - 2)
    machine.drain_pagevecs()
    before = zone.vm_stat[NR_FREE_PAGES]
    order, end, freed = kswapd.balance_pgdat(zone.zone_pgdat, 0, ZONE_NORMAL)
    assert (order, end, freed) == (0, ZONE_NORMAL, 0)
    assert zone.vm_stat[NR_FREE_PAGES] == before


@pytest.mark.parametrize(("freed", "order"), [(31, 4), (32, 0)])
def test_a_large_order_is_given_up_when_twice_as_much_was_freed(monkeypatch, freed, order):
    machine, app = booted(8)
    zone = zone_of(machine)
    fill_to(machine, app, 10)
    machine.drain_pagevecs()

    def shrink(_zone, _classzone_idx, sc):
        sc.nr_reclaimed += freed
        zone.vm_stat[NR_FREE_PAGES] = zone.managed_pages  # enough
        return True, 0

    monkeypatch.setattr(kswapd, "kswapd_shrink_zone", shrink)
    assert kswapd.balance_pgdat(zone.zone_pgdat, 4, ZONE_NORMAL) == (order, ZONE_NORMAL, freed)


def test_a_round_for_a_large_block():
    machine, app = booted(8)
    with_file(machine, app)
    fill_to(machine, app, zone_of(machine).watermark[WMARK_LOW] - 2)
    machine.drain_pagevecs()
    with app.running():
        assert kswapd.kswapd_run(machine.kernel.nodes[0], 4) > 0
    machine.finish_io()
    assert machine.check() == []


@pytest.mark.parametrize(
    ("order", "low", "freed", "compacts"),
    [
        (0, True, 1000, False),  # nobody wants a block
        (3, False, 1000, False),  # there is one
        (3, True, 0, False),  # not more was freed than attempted
        (3, True, 1000, True),
    ],
)
def test_when_kswapd_compacts(monkeypatch, order, low, freed, compacts):
    machine, app = booted(8)
    zone = zone_of(machine)
    fill_to(machine, app, 300)
    machine.drain_pagevecs()
    if low:
        zone.vm_stat[NR_FREE_PAGES] = zone.watermark[WMARK_LOW]
    compacted = []

    def shrink(zone, _classzone_idx, sc):
        sc.nr_reclaimed += freed
        return False, 100

    monkeypatch.setattr(kswapd, "kswapd_shrink_zone", shrink)
    monkeypatch.setattr(kswapd, "zone_balanced", lambda *_: False)
    monkeypatch.setattr(compaction, "compact_pgdat", lambda *given: compacted.append(given))
    kswapd.balance_pgdat(zone.zone_pgdat, order, ZONE_NORMAL)
    # Enough was freed for the block: it is wanted no more, so only single pages are.
    expected = 0 if freed >= 2 << order else order
    assert compacted[:1] == ([(zone.zone_pgdat, expected)] if compacts else [])


@pytest.mark.parametrize(
    ("scanned", "reclaimed", "rounds"),
    [
        (True, 0, 12),  # nothing comes of it: one priority after the other
        (False, 0, 12),
        (False, 5, 12),  # too little is looked at
    ],
)
def test_priorities(monkeypatch, scanned, reclaimed, rounds):
    machine, app = booted(8)
    fill_to(machine, app, 10)
    machine.drain_pagevecs()
    seen = []

    def shrink(_zone, _classzone_idx, sc):
        seen.append(sc.priority)
        sc.nr_reclaimed += reclaimed
        return scanned, 100

    monkeypatch.setattr(kswapd, "kswapd_shrink_zone", shrink)
    kswapd.balance_pgdat(machine.kernel.nodes[0], 0, ZONE_NORMAL)
    assert seen == list(range(12, 12 - rounds, -1))


def test_a_zone_well_above_its_high_mark_is_left_alone():
    """By a gap: 1 % of the zone, or its low mark."""
    machine, app = booted(8)
    zone = zone_of(machine)
    fill_to(machine, app, 300)
    machine.drain_pagevecs()
    gap = min(zone.watermark[WMARK_LOW], -(-zone.managed_pages // 100))
    for above, left_alone in ((gap + 1, True), (gap, False)):
        zone.vm_stat[NR_FREE_PAGES] = zone.watermark[WMARK_HIGH] + above
        sc = ScanControl(priority=12)
        _, attempted = kswapd.kswapd_shrink_zone(zone, ZONE_NORMAL, sc)
        assert (attempted == 0) is left_alone
        assert sc.nr_to_reclaim == max(32, zone.watermark[WMARK_HIGH])


def test_flags_of_a_zone_go_when_it_is_balanced():
    machine, app = booted(8)
    zone = zone_of(machine)
    fill_to(machine, app, 300)
    machine.drain_pagevecs()
    for above, left in ((0, ZONE_CONGESTED | ZONE_DIRTY), (1, 0)):
        zone.flags = ZONE_CONGESTED | ZONE_DIRTY | ZONE_WRITEBACK
        zone.vm_stat[NR_FREE_PAGES] = zone.watermark[WMARK_HIGH] + above
        kswapd.kswapd_shrink_zone(zone, ZONE_NORMAL, ScanControl(priority=12))
        assert zone.flags == left


# --- sleeping ---


def test_hints_of_compaction_are_forgotten_before_it_sleeps():
    machine, app = booted(8)
    zone = zone_of(machine)
    zone.pageblock_skip.add(zone.zone_start_pfn >> 9)
    zone.compact_blockskip_flush = True
    fill_to(machine, app, zone.watermark[WMARK_LOW] - 2)
    app.touch(app.mmap(pages=1))
    assert asleep(machine)
    assert not zone.pageblock_skip and not zone.compact_blockskip_flush
    assert machine.check() == []


@pytest.mark.parametrize(
    ("remaining", "balanced", "expected"),
    [(True, True, False), (False, True, True), (False, False, False)],
)
def test_prepare_kswapd_sleep(monkeypatch, remaining, balanced, expected):
    machine, _ = booted(8)
    pgdat = machine.kernel.nodes[0]
    monkeypatch.setattr(kswapd, "pgdat_balanced", lambda *_: balanced)
    pgdat.pfmemalloc_wait = 1
    assert kswapd.prepare_kswapd_sleep(pgdat, 0, remaining, ZONE_NORMAL) is expected
    assert pgdat.pfmemalloc_woken == (not remaining)  # who waits looks again


@pytest.mark.parametrize(
    ("answers", "woken", "sleeps", "low", "high"),
    [
        ([True, True], False, True, 0, 0),  # all is well before and after
        ([False, False], False, False, 0, 1),  # not balanced at once
        ([True, False], False, False, 0, 1),  # not any more a tenth of a second later
        ([True, False], True, False, 1, 0),  # called before that was over
        ([False, True], False, True, 0, 0),  # balanced at the second look
    ],
)
def test_kswapd_try_to_sleep(monkeypatch, answers, woken, sleeps, low, high):
    machine, _ = booted(8)
    pgdat = machine.kernel.nodes[0]
    given = iter(answers)
    looked = []

    def prepare(_pgdat, _order, remaining, _classzone_idx):
        looked.append(remaining)
        return next(given) and not remaining

    monkeypatch.setattr(kswapd, "prepare_kswapd_sleep", prepare)
    monkeypatch.setattr(kswapd, "_sleep_lightly", lambda _pgdat: woken)
    assert kswapd.kswapd_try_to_sleep(pgdat, 0, ZONE_NORMAL) is sleeps
    assert looked == [False, woken]
    assert pgdat.kswapd_wait == (KSWAPD_ASLEEP if sleeps else KSWAPD_AWAKE)
    vmstat = machine.vmstat
    assert vmstat["kswapd_low_wmark_hit_quickly"] == low
    assert vmstat["kswapd_high_wmark_hit_quickly"] == high


def test_who_calls_at_the_last_moment_is_heard(monkeypatch):
    """Between the look and the sleep."""
    machine, _ = booted(8)
    pgdat = machine.kernel.nodes[0]
    monkeypatch.setattr(compaction, "reset_isolation_suitable", lambda node: kswapd._wake_up(node))
    assert not kswapd.kswapd_try_to_sleep(pgdat, 0, ZONE_NORMAL)
    assert pgdat.kswapd_wait == KSWAPD_AWAKE
    assert not machine.kernel.kswapd_woken  # it is the same task


def test_a_wish_that_comes_while_it_works_is_worked_on_before_it_sleeps(monkeypatch):
    machine, _ = booted(8)
    pgdat = machine.kernel.nodes[0]
    rounds = []

    def balance(node, order, classzone_idx):
        rounds.append((order, classzone_idx))
        if len(rounds) == 1:
            node.kswapd_max_order = 5
        return order, classzone_idx, 0

    monkeypatch.setattr(kswapd, "balance_pgdat", balance)
    pgdat.kswapd_max_order = 2
    kswapd._wake_up(pgdat)
    machine.run()
    assert rounds == [(2, ZONE_NORMAL), (5, ZONE_NORMAL)]
    assert pgdat.kswapd_max_order == 0
    assert asleep(machine)


def test_it_does_not_go_round_for_ever():
    """One page, of which no part is looked at before the last priority, and no way to free more."""
    machine, app = booted(8)
    zone = zone_of(machine)
    app.touch(app.mmap(pages=1))
    machine.drain_pagevecs()
    zone.watermark = [mark + zone.managed_pages for mark in zone.watermark]
    kswapd.wakeup_kswapd(zone, 0, ZONE_NORMAL)
    machine.run()
    assert asleep(machine)
    assert machine.vmstat["pageoutrun"] == kswapd.MAX_RECLAIM_RETRIES
    assert machine.vmstat["kswapd_high_wmark_hit_quickly"] == kswapd.MAX_RECLAIM_RETRIES - 1
    kswapd.wakeup_kswapd(zone, 0, ZONE_NORMAL)  # and is there for the next who calls
    assert machine.kernel.kswapd_woken


# --- throttling ---


def test_direct_reclaim_waits_while_only_the_reserve_of_reclaim_is_left():
    machine, app = booted(8)
    zone = zone_of(machine)
    fill_to(machine, app, zone.watermark[WMARK_LOW] - 2)
    machine.drain_pagevecs()
    machine.finish_io()
    task = sched.task
    task.flags |= PF_MEMALLOC
    machine.kernel.kswapd_started = False
    held = []
    while zone.vm_stat[NR_FREE_PAGES] > zone.watermark[WMARK_MIN] // 2:
        held.append(page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0))
    machine.kernel.kswapd_started = True
    task.flags &= ~PF_MEMALLOC
    assert asleep(machine)
    app.touch(app.mmap(pages=1))
    assert machine.vmstat["pgscan_direct_throttle"] > 0
    assert machine.vmstat["pgsteal_kswapd_normal"] > 0
    assert zone.zone_pgdat.pfmemalloc_wait == 0
    for page in held:
        page_alloc.__free_pages(page, 0)
    machine.finish_io()
    assert machine.check() == []


@pytest.mark.parametrize(
    ("gfp", "flags", "throttled", "waits"),
    [
        (GFP_KERNEL, 0, 1, 1),
        (GFP_NOFS, 0, 1, 0),
        (GFP_KERNEL, PF_KTHREAD, 0, 0),
    ],
)
def test_who_is_throttled(monkeypatch, gfp, flags, throttled, waits):
    machine, _ = booted(8, 8)
    zone = zone_of(machine)
    zone.vm_stat[NR_FREE_PAGES] = 0
    waited = []
    monkeypatch.setattr(kswapd, "_wait_for_kswapd", waited.append)
    sched.task.flags |= flags
    zonelist = machine.kernel.nodes[0].node_zonelists[0]
    kswapd.throttle_direct_reclaim(gfp, zonelist, None)
    sched.task.flags &= ~flags
    assert machine.vmstat["pgscan_direct_throttle"] == throttled
    assert len(waited) == waits
    kswapd.throttle_direct_reclaim(gfp, zonelist, 1 << 1)  # that node has enough
    assert machine.vmstat["pgscan_direct_throttle"] == throttled


def test_a_node_without_a_reserve_throttles_nobody():
    machine, _ = booted(8)
    zone = zone_of(machine)
    zone.vm_stat[NR_FREE_PAGES] = 0
    zone.watermark[WMARK_MIN] = 0
    assert kswapd.pfmemalloc_watermark_ok(zone.zone_pgdat)


def test_who_finds_the_reserve_used_wakes_it():
    machine, _ = booted(8)
    zone = zone_of(machine)
    zone.vm_stat[NR_FREE_PAGES] = zone.watermark[WMARK_MIN] // 2
    assert not kswapd.pfmemalloc_watermark_ok(zone.zone_pgdat)
    assert [task.name for task in machine.kernel.kswapd_woken] == ["kswapd0"]


# --- beside others ---


def crowded(machine):
    """Two processes that touch what does not fit, at the same time."""
    machine.swapon(MiB(4))
    first, second = machine.process("first", cpu=0), machine.process("second", cpu=1)
    heap = first.mmap(MiB(3))
    for number, address in enumerate(heap.pages()):
        first.write(address, b"%04d" % number)
    return first, second, heap


@pytest.mark.parametrize("seed", [None, *range(4)])
def test_it_races_with_those_who_need_memory(seed):
    machine = Machine(nodes=(MiB(4),), cpus=(0, 0), kswapd=True)
    first, second, heap = crowded(machine)
    other = second.mmap(pages=300)
    machine.start(second.touch, other)
    machine.start(first.touch, heap[0:100])
    machine.run(seed)
    machine.finish_io()
    assert machine.vmstat["pageoutrun"] > 0
    assert asleep(machine)
    for number, address in enumerate(heap.pages()):
        assert first.read(address, 4) == b"%04d" % number
    machine.finish_io()
    assert machine.check() == []


@pytest.mark.parametrize(
    ("mark", "low", "high"),
    [
        (WMARK_LOW, 1, 0),  # called again before it had slept a tenth of a second
        (WMARK_HIGH, 0, 1),  # not called, and yet not balanced any more when it looks
    ],
)
def test_marks_that_are_hit_quickly(mark, low, high):
    machine, app = booted(8)
    zone = zone_of(machine)
    with_file(machine, app)
    fill_to(machine, app, zone.watermark[WMARK_LOW] + 40)
    machine.drain_pagevecs()
    held = []

    def take_until(enough):
        while zone.vm_stat[NR_FREE_PAGES] > enough:
            held.append(page_alloc.alloc_pages_node(machine.kernel, 0, GFP_ATOMIC, 0))

    def wants_more():
        take_until(zone.watermark[WMARK_LOW] - 5)
        pgdat = zone.zone_pgdat
        assert pgdat.kswapd_wait == KSWAPD_AWAKE
        sched.block(pgdat, "kswapd_wait", 0, lambda: pgdat.kswapd_wait == KSWAPD_WAITS, "a nap")
        take_until(zone.watermark[mark] - 5)

    machine.start(wants_more)
    machine.run()
    assert machine.vmstat["kswapd_low_wmark_hit_quickly"] == low
    assert machine.vmstat["kswapd_high_wmark_hit_quickly"] == high
    assert asleep(machine)
    for page in held:
        page_alloc.__free_pages(page, 0)
    machine.finish_io()
    assert machine.check() == []


@pytest.mark.slow
def test_explored_its_wakeups_are_never_lost():
    """Every interleaving of two that call it, as far as the bound goes."""

    def scenario(machine):
        zone = zone_of(machine)
        zone.watermark = [zone.vm_stat[NR_FREE_PAGES] + mark for mark in (1, 2, 3)]
        for order in (0, 1):
            machine.start(kswapd.wakeup_kswapd, zone, order, ZONE_NORMAL, cpu=0)

    result = explore(scenario, machine={"nodes": (MiB(4),), "kswapd": True}, max_executions=400)
    assert not result.found, result


@settings(max_examples=20)
@given(st.integers(0, 1 << 16), st.integers(1, 3), st.booleans())
def test_whatever_the_order_nothing_is_lost(seed, tasks, with_files):
    machine = Machine(nodes=(MiB(2), MiB(2)), cpus=(0, 1), kswapd=True)
    machine.swapon(MiB(8))
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=700)
    file = machine.file("f", 200 * PAGE)
    for task in range(tasks):
        part = heap[task * 230 : task * 230 + 230]
        machine.start(app.touch, part)
        if with_files:
            machine.start(app.pwrite, file, b"x" * 50 * PAGE, task * 50 * PAGE)
    machine.run(seed)
    machine.finish_io()
    machine.drain_pagevecs()
    assert not block.busy(machine.kernel)
    assert asleep(machine)
    assert machine.check() == []
