"""The daemon of each node that reclaims before memory is short: the kswapd half of mm/vmscan.c.

Interface: `wakeup_kswapd` for the allocator, `throttle_direct_reclaim` for direct reclaim,
`balance_pgdat` for one round, `kswapd_run` for a round on request.

While it sleeps there is no task. Who wakes it starts one, which ends where kswapd would go fully
to sleep; what it keeps meanwhile is in its node. In a straight run that task goes on at the end
of the page fault or system call that woke it, and where an allocation waits (`run_woken`);
interleaved, it races like any other.

Differs: it is asleep at boot, with a first round behind it that is not counted; how long a
tenth of a second is, for which it first sleeps lightly, is the scheduler's to say: in a straight
run it is over when no other task can go on; and it sleeps after sixteen rounds that freed nothing,
as from v4.12 on (c73322d098e4), where v3.19 may go round for ever, with lists so short that no page
is ever looked at.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from mmigrate.linux.include.gfp import __GFP_FS, __GFP_HARDWALL, GFP_KERNEL
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    PF_KSWAPD,
    PF_KTHREAD,
    PF_MEMALLOC,
    PF_SWAPWRITE,
    SWAP_CLUSTER_MAX,
)
from mmigrate.linux.include.mmzone import (
    KSWAPD_ASLEEP,
    KSWAPD_AWAKE,
    KSWAPD_WAITS,
    WMARK_HIGH,
    WMARK_LOW,
    WMARK_MIN,
    ZONE_CONGESTED,
    ZONE_DIRTY,
    ZONE_NORMAL,
    ZONE_WRITEBACK,
    PglistData,
    Zone,
)
from mmigrate.linux.include.sched import Cpu, Task
from mmigrate.linux.include.vmstat import (
    KSWAPD_HIGH_WMARK_HIT_QUICKLY,
    KSWAPD_LOW_WMARK_HIT_QUICKLY,
    NR_FREE_PAGES,
    PAGEOUTRUN,
    PGSCAN_DIRECT_THROTTLE,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.cpuset import cpuset_zone_allowed
from mmigrate.linux.kernel.sched import WRITE
from mmigrate.linux.mm import compaction, page_alloc, reclaim
from mmigrate.linux.mm.vmscan import ScanControl

KSWAPD_ZONE_BALANCE_GAP_RATIO: Final = 100
MAX_RECLAIM_RETRIES: Final = 16
_FLAGS: Final = PF_MEMALLOC | PF_SWAPWRITE | PF_KSWAPD


# --- throttling ---


def pfmemalloc_watermark_ok(pgdat: PglistData) -> bool:
    """Whether a node has half of what its lowest marks keep for those who free memory; if it has
    not, kswapd is woken  (mm/vmscan.c: pfmemalloc_watermark_ok)."""
    zones = [zone for zone in pgdat.node_zones if zone.zone_idx <= ZONE_NORMAL]
    pfmemalloc_reserve = sum(zone.watermark[WMARK_MIN] for zone in zones)
    if not pfmemalloc_reserve:
        return True
    if sum(zone.vm_stat[NR_FREE_PAGES] for zone in zones) > pfmemalloc_reserve // 2:
        return True
    if READ_ONCE(pgdat, "kswapd_wait") != KSWAPD_AWAKE:
        WRITE_ONCE(pgdat, "classzone_idx", min(pgdat.classzone_idx, ZONE_NORMAL))
        _wake_up(pgdat)
    return False


def throttle_direct_reclaim(gfp: int, zonelist: list[Zone], nodemask: int | None) -> None:
    """Wait for kswapd if so little is left that only who frees memory should have it
    (mm/vmscan.c: throttle_direct_reclaim).

    Differs: it is looked at once more when kswapd lets those who wait go on, and no more; who may
    not enter a filesystem does not wait, where C waits for a second at most.
    """
    task = sched.task
    if task.flags & PF_KTHREAD:
        return
    for zone in zonelist:
        if zone.zone_idx <= ZONE_NORMAL and (nodemask is None or nodemask >> zone.nid & 1):
            if not pfmemalloc_watermark_ok(zone.zone_pgdat):
                task.kernel.vm_events[PGSCAN_DIRECT_THROTTLE] += 1
                if gfp & __GFP_FS:
                    _wait_for_kswapd(zone.zone_pgdat)
            return


def _wait_for_kswapd(pgdat: PglistData) -> None:
    if sched.hook is not None:
        sched.hook.announce(pgdat, "pfmemalloc_wait", WRITE)
    ticket = pgdat.pfmemalloc_woken
    pgdat.pfmemalloc_wait += 1
    # Only now is kswapd sure to see that somebody waits.
    if not pfmemalloc_watermark_ok(pgdat):
        sched.block(
            pgdat,
            "pfmemalloc_wait",
            WRITE,
            lambda: pgdat.pfmemalloc_woken != ticket,
            f"kswapd{pgdat.node_id} to free memory",
        )
    elif sched.hook is not None:
        sched.hook.announce(pgdat, "pfmemalloc_wait", WRITE)
    pgdat.pfmemalloc_wait -= 1


def _wake_throttled(pgdat: PglistData) -> None:
    if READ_ONCE(pgdat, "pfmemalloc_wait"):
        if sched.hook is not None:
            sched.hook.announce(pgdat, "pfmemalloc_wait", WRITE)
        pgdat.pfmemalloc_woken += 1


# --- balance ---


def zone_balanced(zone: Zone, order: int, balance_gap: int, classzone_idx: int) -> bool:
    """Whether a zone has so much free that kswapd may leave it alone; for a larger block, whether
    there is one or compaction could make one  (mm/vmscan.c: zone_balanced)."""
    mark = zone.watermark[WMARK_HIGH] + balance_gap
    if not page_alloc.zone_watermark_ok(zone, order, mark, classzone_idx, 0):
        return False
    return not order or (
        compaction.compaction_suitable(zone, order, 0, classzone_idx) != compaction.COMPACT_SKIPPED
    )


def pgdat_balanced(pgdat: PglistData, order: int, classzone_idx: int) -> bool:
    """Whether all zones up to @classzone_idx are balanced or beyond help; for a larger order, those
    with a quarter of the memory  (mm/vmscan.c: pgdat_balanced)."""
    managed_pages = balanced_pages = 0
    for zone in pgdat.node_zones:
        if zone.zone_idx > classzone_idx:
            break
        managed_pages += zone.managed_pages
        if not reclaim.zone_reclaimable(zone) or zone_balanced(zone, order, 0, zone.zone_idx):
            balanced_pages += zone.managed_pages
        elif not order:
            return False
    return not order or balanced_pages >= managed_pages >> 2


def prepare_kswapd_sleep(
    pgdat: PglistData, order: int, remaining: bool, classzone_idx: int
) -> bool:
    """Whether kswapd may sleep; who waits for it looks again in any case.  @remaining: it was woken
    from its light sleep  (mm/vmscan.c: prepare_kswapd_sleep)."""
    if remaining:
        return False
    _wake_throttled(pgdat)
    if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES:
        return True
    return pgdat_balanced(pgdat, order, classzone_idx)


def kswapd_shrink_zone(zone: Zone, classzone_idx: int, sc: ScanControl) -> tuple[bool, int]:
    """Reclaim in a zone that is not far above its high mark.  (Whether so much was looked at that
    the priority need not change, how many pages were attempted)
    (mm/vmscan.c: kswapd_shrink_zone)."""
    testorder = sc.order
    sc.nr_to_reclaim = max(SWAP_CLUSTER_MAX, zone.watermark[WMARK_HIGH])
    if (
        sc.order
        and compaction.compaction_suitable(zone, sc.order, 0, classzone_idx)
        != compaction.COMPACT_SKIPPED
    ):
        testorder = 0  # compaction makes blocks of single pages
    balance_gap = min(
        zone.watermark[WMARK_LOW], -(-zone.managed_pages // KSWAPD_ZONE_BALANCE_GAP_RATIO)
    )
    if zone_balanced(zone, testorder, balance_gap, classzone_idx):
        return True, 0
    reclaim.shrink_zone(zone, sc)
    reclaim.clear_zone_flags(zone, ZONE_WRITEBACK)
    if reclaim.zone_reclaimable(zone) and zone_balanced(zone, testorder, 0, classzone_idx):
        reclaim.clear_zone_flags(zone, ZONE_CONGESTED | ZONE_DIRTY)
    return sc.nr_scanned >= sc.nr_to_reclaim, sc.nr_to_reclaim


def balance_pgdat(pgdat: PglistData, order: int, classzone_idx: int) -> tuple[int, int, int]:
    """Reclaim until the zones of a node are balanced, looking at more and more of their lists; and
    compact if much was freed and no zone has a block of @order.  (The order at which it ended, the
    highest zone that it looked at, how many pages were freed)  (mm/vmscan.c: balance_pgdat).

    Differs: memory groups have no soft limits.
    """
    pgdat.kernel.vm_events[PAGEOUTRUN] += 1
    sc = ScanControl(gfp_mask=GFP_KERNEL, order=order, priority=reclaim.DEF_PRIORITY)
    end_zone = freed = 0
    while True:
        nr_attempted = 0
        raise_priority = True
        sc.nr_reclaimed = 0
        end = _highest_to_scan(pgdat, order, sc)
        if end is None:
            break
        end_zone = end.zone_idx
        zones = [zone for zone in pgdat.node_zones if zone.zone_idx <= end_zone]
        needs_compaction = order > 0 and not any(
            page_alloc.zone_watermark_ok(zone, order, zone.watermark[WMARK_LOW], classzone_idx, 0)
            for zone in zones
        )
        for zone in zones:
            if sc.priority != reclaim.DEF_PRIORITY and not reclaim.zone_reclaimable(zone):
                continue
            sc.nr_scanned = 0
            enough, attempted = kswapd_shrink_zone(zone, end_zone, sc)
            nr_attempted += attempted
            if enough:
                raise_priority = False
        if READ_ONCE(pgdat, "pfmemalloc_wait") and pfmemalloc_watermark_ok(pgdat):
            _wake_throttled(pgdat)
        freed += sc.nr_reclaimed
        if order and sc.nr_reclaimed >= 2 << order:
            order = sc.order = 0  # whoever wants it can compact what is free now
        if needs_compaction and sc.nr_reclaimed > nr_attempted:
            compaction.compact_pgdat(pgdat, order)
        if raise_priority or not sc.nr_reclaimed:
            sc.priority -= 1
        if sc.priority < 1 or pgdat_balanced(pgdat, order, classzone_idx):
            break
    return order, end_zone, freed


def _highest_to_scan(pgdat: PglistData, order: int, sc: ScanControl) -> Zone | None:
    for zone in reversed(pgdat.node_zones):
        if sc.priority != reclaim.DEF_PRIORITY and not reclaim.zone_reclaimable(zone):
            continue
        reclaim.age_active_anon(zone, sc)
        if not zone_balanced(zone, order, 0, 0):
            return zone
        reclaim.clear_zone_flags(zone, ZONE_CONGESTED | ZONE_DIRTY)
    return None


# --- sleeping ---


def _prepare_to_wait(pgdat: PglistData) -> None:
    if sched.hook is not None:
        sched.hook.announce(pgdat, "kswapd_wait", WRITE)
    pgdat.kswapd_wait = KSWAPD_WAITS


def _finish_wait(pgdat: PglistData) -> None:
    if sched.hook is not None:
        sched.hook.announce(pgdat, "kswapd_wait", WRITE)
    pgdat.kswapd_wait = KSWAPD_AWAKE


def _sleep_lightly(pgdat: PglistData) -> bool:
    """For a tenth of a second; whether somebody woke us before  (schedule_timeout)."""
    if sched.hook is not None:
        sched.hook.announce(pgdat, "kswapd_wait", WRITE)  # who comes first: the clock, or he
    else:
        me = sched.task
        sched.block(
            pgdat,
            "kswapd_wait",
            WRITE,
            lambda: pgdat.kswapd_wait == KSWAPD_AWAKE or not _somebody_can_go_on(me.kernel),
            "a tenth of a second to pass",
        )
    return pgdat.kswapd_wait == KSWAPD_AWAKE


def _somebody_can_go_on(kernel: Kernel) -> bool:
    """Whether a task that has begun can take a step, but for the kswapds of nodes."""
    return any(
        bool(task.greenlet) and not task.flags & PF_KSWAPD and sched.may_run(task)
        for task in kernel.scheduler.alive
    )


def kswapd_try_to_sleep(pgdat: PglistData, order: int, classzone_idx: int) -> bool:
    """First lightly, then, if the node is still balanced and nobody has called, until it is woken:
    True, and the task may end; it starts again when it is needed
    (mm/vmscan.c: kswapd_try_to_sleep)."""
    remaining = False
    _prepare_to_wait(pgdat)
    if prepare_kswapd_sleep(pgdat, order, remaining, classzone_idx):
        remaining = _sleep_lightly(pgdat)
        _finish_wait(pgdat)
        _prepare_to_wait(pgdat)
    if prepare_kswapd_sleep(pgdat, order, remaining, classzone_idx):
        pgdat.kernel.trace("mm_vmscan_kswapd_sleep", nid=pgdat.node_id)
        compaction.reset_isolation_suitable(pgdat)
        if sched.hook is not None:
            sched.hook.announce(pgdat, "kswapd_wait", WRITE)
        if pgdat.kswapd_wait == KSWAPD_WAITS:
            pgdat.kswapd_wait = KSWAPD_ASLEEP
            return True
    else:
        quickly = KSWAPD_LOW_WMARK_HIT_QUICKLY if remaining else KSWAPD_HIGH_WMARK_HIT_QUICKLY
        pgdat.kernel.vm_events[quickly] += 1
    _finish_wait(pgdat)
    return False


# --- the daemon ---


def _take_request(pgdat: PglistData) -> tuple[int, int]:
    """(order, classzone) that is wanted, and forget it."""
    order: int = READ_ONCE(pgdat, "kswapd_max_order")
    classzone_idx: int = READ_ONCE(pgdat, "classzone_idx")
    WRITE_ONCE(pgdat, "kswapd_max_order", 0)
    WRITE_ONCE(pgdat, "classzone_idx", _highest(pgdat))
    return order, classzone_idx


def _highest(pgdat: PglistData) -> int:
    """The index of the highest zone."""
    return max((zone.zone_idx for zone in pgdat.node_zones), default=0)


def _kswapd(pgdat: PglistData) -> None:
    """From where it was woken to where it sleeps again  (mm/vmscan.c: kswapd)."""
    sched.task.flags |= _FLAGS | PF_KTHREAD
    pgdat.kswapd_failures = 0
    order, classzone_idx = new_order, new_classzone_idx = _take_request(pgdat)
    while True:
        pgdat.kernel.trace("mm_vmscan_kswapd_wake", nid=pgdat.node_id, order=order)
        balanced_order, balanced_classzone_idx, freed = balance_pgdat(pgdat, order, classzone_idx)
        pgdat.kswapd_failures = 0 if freed else pgdat.kswapd_failures + 1
        if balanced_classzone_idx >= new_classzone_idx and balanced_order == new_order:
            new_order, new_classzone_idx = _take_request(pgdat)
        if order < new_order or classzone_idx > new_classzone_idx:
            order, classzone_idx = new_order, new_classzone_idx
            continue
        if kswapd_try_to_sleep(pgdat, balanced_order, balanced_classzone_idx):
            pgdat.kernel.kswapd_woken.remove(sched.task)
            return
        order, classzone_idx = new_order, new_classzone_idx = _take_request(pgdat)


def wakeup_kswapd(zone: Zone, order: int, classzone_idx: int) -> None:
    """A zone could not spare a block of @order without falling below its low mark
    (mm/vmscan.c: wakeup_kswapd)."""
    if zone.kernel.cpusets is not None and not cpuset_zone_allowed(
        zone, GFP_KERNEL | __GFP_HARDWALL
    ):
        return
    pgdat = zone.zone_pgdat
    if READ_ONCE(pgdat, "kswapd_max_order") < order:
        WRITE_ONCE(pgdat, "kswapd_max_order", order)
        WRITE_ONCE(pgdat, "classzone_idx", min(pgdat.classzone_idx, classzone_idx))
    if READ_ONCE(pgdat, "kswapd_wait") == KSWAPD_AWAKE:
        return
    if zone_balanced(zone, order, 0, 0):
        return
    zone.kernel.trace("mm_vmscan_wakeup_kswapd", nid=pgdat.node_id, zid=zone.zone_idx, order=order)
    _wake_up(pgdat)


def _wake_up(pgdat: PglistData) -> None:
    """kswapd leaves its wait queue, if nobody else has taken it off."""
    if sched.hook is not None:
        sched.hook.announce(pgdat, "kswapd_wait", WRITE)
    before, pgdat.kswapd_wait = pgdat.kswapd_wait, KSWAPD_AWAKE
    if before != KSWAPD_ASLEEP:
        return
    kernel = pgdat.kernel
    task = kernel.scheduler.new_task(f"kswapd{pgdat.node_id}", cpu_of(pgdat), None)
    task.flags |= _FLAGS | PF_KTHREAD
    kernel.kswapd_woken.append(task)
    kernel.scheduler.start(task, partial(_kswapd, pgdat))


def cpu_of(pgdat: PglistData) -> Cpu:
    """Where kswapd runs: on the first CPU of its node, if it has one."""
    cpus: list[Cpu] = pgdat.kernel.cpus
    return next((cpu for cpu in cpus if cpu.node == pgdat.node_id), cpus[0])


def kswapd_init(kernel: Kernel) -> None:
    """From now on the allocator wakes them  (mm/vmscan.c: kswapd_init, kswapd_run)."""
    kernel.kswapd_started = True
    for pgdat in kernel.nodes:
        pgdat.kswapd_wait = KSWAPD_ASLEEP
        pgdat.classzone_idx = _highest(pgdat)


def run_woken(kernel: Kernel) -> None:
    """In a straight run: let every kswapd that was woken go on, with the disks that it waits
    for, until it sleeps.  Tasks that have stacks of their own leave it to the scheduler."""
    if sched.hook is not None or sched.task.greenlet is not None:
        return
    scheduler = kernel.scheduler
    while kernel.kswapd_woken:
        if not scheduler.step(_is_kswapd) and not scheduler.step(_is_kernel_thread):
            break


def _is_kswapd(task: Task) -> bool:
    return bool(task.flags & PF_KSWAPD)


def _is_kernel_thread(task: Task) -> bool:
    return bool(task.flags & PF_KTHREAD)


def kswapd_run(pgdat: PglistData, order: int = 0) -> int:
    """One round for a node by the running task, for who asks for it; how many pages were freed."""
    task = sched.task
    flags = task.flags
    task.flags |= _FLAGS
    try:
        return balance_pgdat(pgdat, order, _highest(pgdat))[2]
    finally:
        task.flags = flags
