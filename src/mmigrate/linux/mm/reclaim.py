"""Which pages go when memory is short: the scanning half of mm/vmscan.c.

Interface: `try_to_free_pages` is direct reclaim, `try_to_free_mem_cgroup_pages` that of a group
at its limit; `shrink_zone` is for kswapd, which is in `kswapd.py`.  All look at the ends of the
inactive lists, first at a small part of them, at a lower `priority` at more, and refill them
from the active ones.  `vmscan.shrink_page_list` decides about each page.

Differs: no shrinkers of other caches, no refault distances, no throttling of processes by
dirty pages; a wait for congestion ends when the disks that may work have done so.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.drivers import block
from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_RECLAIM_MASK
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    ISOLATE_CLEAN,
    ISOLATE_UNMAPPED,
    SWAP_CLUSTER_MAX,
    TTU_UNMAP,
    VM_EXEC,
)
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import (
    WMARK_HIGH,
    ZONE_CONGESTED,
    ZONE_DIRTY,
    ZONE_WRITEBACK,
    Lruvec,
    Zone,
)
from mmigrate.linux.include.vmstat import (
    ALLOCSTALL,
    LRU_ACTIVE_ANON,
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    NR_ACTIVE_FILE,
    NR_FREE_PAGES,
    NR_INACTIVE_ANON,
    NR_INACTIVE_FILE,
    NR_ISOLATED_ANON,
    NR_LRU_BASE,
    NR_PAGES_SCANNED,
    PGDEACTIVATE,
    PGREFILL_DMA,
    PGSCAN_DIRECT_DMA,
    PGSCAN_KSWAPD_DMA,
    PGSTEAL_DIRECT_DMA,
    PGSTEAL_KSWAPD_DMA,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.page_flags import (
    ClearPageActive,
    SetPageLRU,
    hpage_nr_pages,
    page_is_file_cache,
    page_lru,
)
from mmigrate.linux.kernel.page_ref import put_page_testzero
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.lib.list import ListHead, list_add, list_del, list_empty, list_move
from mmigrate.linux.mm import (
    kswapd,
    memcontrol,
    page_writeback,
    rmap,
    swap,
    swapfile,
    vmscan,
)
from mmigrate.linux.mm.vmscan import ReclaimStat, ScanControl

DEF_PRIORITY: Final = 12
SWAPPINESS: Final = 60
EVICTABLE: Final = (LRU_INACTIVE_ANON, LRU_ACTIVE_ANON, LRU_INACTIVE_FILE, LRU_ACTIVE_FILE)


def global_reclaim(sc: ScanControl) -> bool:
    return sc.target_mem_cgroup is None


def congestion_wait(kernel: Kernel) -> None:
    """Give the disks time, and kswapd  (mm/backing-dev.c: congestion_wait)."""
    kernel.jiffies += 100
    block.drain(kernel)
    if kernel.kswapd_woken:
        kswapd.run_woken(kernel)


def zone_reclaimable_pages(zone: Zone) -> int:
    """mm/vmscan.c: zone_reclaimable_pages."""
    stat = zone.vm_stat
    pages = stat[NR_ACTIVE_FILE] + stat[NR_INACTIVE_FILE]
    if _nr_swap_pages(zone.kernel) > 0:
        pages += stat[NR_LRU_BASE + LRU_ACTIVE_ANON] + stat[NR_INACTIVE_ANON]
    return pages


def zone_reclaimable(zone: Zone) -> bool:
    """Whether reclaim is still of use: a page was freed not long ago
    (mm/vmscan.c: zone_reclaimable)."""
    return zone.vm_stat[NR_PAGES_SCANNED] < zone_reclaimable_pages(zone) * 6


def _nr_swap_pages(kernel: Kernel) -> int:
    return int(swapfile.swap_of(kernel).nr_swap_pages)


# --- isolation of many pages ---


def isolate_lru_pages(
    nr_to_scan: int, lruvec: Lruvec, dst: ListHead, sc: ScanControl, mode: int, lru: int
) -> tuple[int, int]:
    """Take up to @nr_to_scan pages from the end of a list, under lru_lock; how many pages were
    taken, and how many looked at  (mm/vmscan.c: isolate_lru_pages)."""
    src = lruvec.lists[lru]
    zone = lruvec.zone
    taken = scanned = 0
    while scanned < nr_to_scan and not list_empty(src):
        page: Page = src.prev
        scanned += 1
        if vmscan.__isolate_lru_page(page, mode) == 0:
            nr_pages = hpage_nr_pages(page)
            swap.del_page_from_lru_list(page, zone, lru)
            list_add(page, dst)
            taken += nr_pages
        else:
            list_move(page, src)  # somebody is freeing it
    return taken, scanned


def too_many_isolated(zone: Zone, file: int, sc: ScanControl) -> bool:
    """So many direct reclaimers have taken pages that others had better wait
    (mm/vmscan.c: too_many_isolated)."""
    if vmscan.current_is_kswapd() or not global_reclaim(sc):
        return False
    inactive = zone.vm_stat[NR_INACTIVE_FILE if file else NR_INACTIVE_ANON]
    if sc.gfp_mask & GFP_KERNEL == GFP_KERNEL:
        inactive >>= 3  # those who may do less must not wait for those who may do more
    return zone.vm_stat[NR_ISOLATED_ANON + file] > inactive


def putback_inactive_pages(lruvec: Lruvec, page_list: ListHead) -> list[Page]:
    """Put what was not freed back, under lru_lock, and drop the isolation's references; the pages
    of which that was the last  (mm/vmscan.c: putback_inactive_pages)."""
    zone = lruvec.zone
    dead: list[Page] = []
    unevictable: list[Page] = []
    while not list_empty(page_list):
        page: Page = page_list.prev
        list_del(page)
        if not vmscan.page_evictable(page):
            unevictable.append(page)
            continue
        SetPageLRU(page)
        lru = page_lru(page)
        swap.add_page_to_lru_list(page, zone, lru)
        if lru in (LRU_ACTIVE_ANON, LRU_ACTIVE_FILE):
            lruvec.recent_rotated[lru // 2] += hpage_nr_pages(page)
        if put_page_testzero(page):
            swap.take_dead_page_off(page, zone)
            dead.append(page)
    for page in unevictable:
        list_add(page, page_list)
    return dead


def _free_dead(pages: list[Page]) -> None:
    """Those that went while they were isolated; lru_lock is not held."""
    for page in pages:
        swap.free_page(page)


# --- the inactive lists ---


def shrink_inactive_list(nr_to_scan: int, lruvec: Lruvec, sc: ScanControl, lru: int) -> int:
    """Reclaim from the end of an inactive list; how many pages were freed
    (mm/vmscan.c: shrink_inactive_list)."""
    zone = lruvec.zone
    file = int(lru == LRU_INACTIVE_FILE)
    if too_many_isolated(zone, file, sc):
        congestion_wait(zone.kernel)
        if too_many_isolated(zone, file, sc):
            return 0  # Differs: does not wait for ever for others who wait for us
    swap.lru_add_drain()
    mode = (0 if sc.may_unmap else ISOLATE_UNMAPPED) | (0 if sc.may_writepage else ISOLATE_CLEAN)
    page_list = ListHead()
    events = zone.kernel.vm_events
    kswapd = vmscan.current_is_kswapd()
    with spin_lock(zone.lru_lock):
        taken, scanned = isolate_lru_pages(nr_to_scan, lruvec, page_list, sc, mode, lru)
        # The kind of the list, not of each page: the same number is subtracted below.
        zone.vm_stat[NR_ISOLATED_ANON + file] += taken
        if global_reclaim(sc):
            zone.vm_stat[NR_PAGES_SCANNED] += scanned
            events[(PGSCAN_KSWAPD_DMA if kswapd else PGSCAN_DIRECT_DMA) + zone.zone_idx] += scanned
    if not taken:
        return 0
    stat = ReclaimStat()
    freed = vmscan.shrink_page_list(page_list, zone, sc, TTU_UNMAP, stat, False)
    with spin_lock(zone.lru_lock):
        lruvec.recent_scanned[file] += taken
        if global_reclaim(sc):
            events[(PGSTEAL_KSWAPD_DMA if kswapd else PGSTEAL_DIRECT_DMA) + zone.zone_idx] += freed
        dead = putback_inactive_pages(lruvec, page_list)
        zone.vm_stat[NR_ISOLATED_ANON + file] -= taken
    while not list_empty(page_list):
        page: Page = page_list.prev
        list_del(page)
        vmscan.putback_lru_page(page)
    _free_dead(dead)
    _learn(zone, sc, stat, taken)
    return freed


def _learn(zone: Zone, sc: ScanControl, stat: ReclaimStat, taken: int) -> None:
    """Tell others, by flags of the zone, what was found at the end of the list; and wait."""
    if stat.nr_writeback and stat.nr_writeback == taken:
        _set_zone_flag(zone, ZONE_WRITEBACK)
    if global_reclaim(sc):
        if stat.nr_dirty and stat.nr_dirty == stat.nr_congested:
            _set_zone_flag(zone, ZONE_CONGESTED)
        if stat.nr_unqueued_dirty == taken:
            _set_zone_flag(zone, ZONE_DIRTY)
        if stat.nr_immediate:
            congestion_wait(zone.kernel)
    if not vmscan.current_is_kswapd() and READ_ONCE(zone, "flags") & ZONE_CONGESTED:
        congestion_wait(zone.kernel)  # wait_iff_congested


def _set_zone_flag(zone: Zone, flag: int) -> None:
    WRITE_ONCE(zone, "flags", zone.flags | flag)


def clear_zone_flags(zone: Zone, flags: int) -> None:
    if READ_ONCE(zone, "flags") & flags:
        WRITE_ONCE(zone, "flags", zone.flags & ~flags)


# --- the active lists ---


def shrink_active_list(nr_to_scan: int, lruvec: Lruvec, sc: ScanControl, lru: int) -> None:
    """Move pages from the end of an active list to the inactive one; only code that is in use
    stays  (mm/vmscan.c: shrink_active_list)."""
    zone = lruvec.zone
    file = int(lru == LRU_ACTIVE_FILE)
    swap.lru_add_drain()
    mode = (0 if sc.may_unmap else ISOLATE_UNMAPPED) | (0 if sc.may_writepage else ISOLATE_CLEAN)
    hold, active, inactive = ListHead(), ListHead(), ListHead()
    with spin_lock(zone.lru_lock):
        taken, scanned = isolate_lru_pages(nr_to_scan, lruvec, hold, sc, mode, lru)
        if global_reclaim(sc):
            zone.vm_stat[NR_PAGES_SCANNED] += scanned
        lruvec.recent_scanned[file] += taken
        zone.kernel.vm_events[PGREFILL_DMA + zone.zone_idx] += scanned
        zone.vm_stat[NR_ISOLATED_ANON + file] += taken
    rotated = 0
    while not list_empty(hold):
        sched.cond_resched()
        page: Page = hold.prev
        list_del(page)
        if not vmscan.page_evictable(page):
            vmscan.putback_lru_page(page)
            continue
        referenced, vm_flags = rmap.page_referenced(page, False, sc.target_mem_cgroup)
        if referenced:
            rotated += hpage_nr_pages(page)
            if vm_flags & VM_EXEC and page_is_file_cache(page):
                list_add(page, active)
                continue
        ClearPageActive(page)
        list_add(page, inactive)
    with spin_lock(zone.lru_lock):
        # Used ones count for the balance of the two kinds, though they become inactive too.
        lruvec.recent_rotated[file] += rotated
        dead = _move_to_lru(zone, active, lru) + _move_to_lru(zone, inactive, lru - 1)
        zone.vm_stat[NR_ISOLATED_ANON + file] -= taken
    _free_dead(dead)


def _move_to_lru(zone: Zone, pages: ListHead, lru: int) -> list[Page]:
    """Pages that had no other reference  (mm/vmscan.c: move_active_pages_to_lru)."""
    dead: list[Page] = []
    moved = 0
    while not list_empty(pages):
        page: Page = pages.prev
        list_del(page)
        SetPageLRU(page)
        moved += hpage_nr_pages(page)
        swap.add_page_to_lru_list(page, zone, lru)
        if put_page_testzero(page):
            swap.take_dead_page_off(page, zone)
            dead.append(page)
    if lru in (LRU_INACTIVE_ANON, LRU_INACTIVE_FILE):
        zone.kernel.vm_events[PGDEACTIVATE] += moved
    return dead


def age_active_anon(zone: Zone, sc: ScanControl) -> None:
    """Give anonymous pages a chance to be used before they must go
    (mm/vmscan.c: age_active_anon)."""
    if inactive_list_is_low(zone.lruvec, False):
        shrink_active_list(SWAP_CLUSTER_MAX, zone.lruvec, sc, LRU_ACTIVE_ANON)


def inactive_list_is_low(lruvec: Lruvec, file: bool) -> bool:
    """Whether the inactive list should be refilled  (mm/vmscan.c: inactive_anon_is_low,
    inactive_file_is_low)."""
    if file:
        active = memcontrol.lru_size(lruvec, LRU_ACTIVE_FILE)
        return active > memcontrol.lru_size(lruvec, LRU_INACTIVE_FILE)
    if not swapfile.swap_of(lruvec.zone.kernel).total_swap_pages:
        return False
    inactive = memcontrol.lru_size(lruvec, LRU_INACTIVE_ANON)
    active = memcontrol.lru_size(lruvec, LRU_ACTIVE_ANON)
    zone = lruvec.zone
    counted = zone.managed_pages if lruvec is zone.lruvec else inactive + active
    return inactive * inactive_ratio(counted) < active


def inactive_ratio(pages: int) -> int:
    """How many active anonymous pages for an inactive one: the root of ten times the GiB
    (mm/page_alloc.c: calculate_zone_inactive_ratio)."""
    gigabytes = pages >> 18
    return int((10 * gigabytes) ** 0.5) if gigabytes else 1


# --- how much of each list ---


def get_scan_count(lruvec: Lruvec, sc: ScanControl) -> list[int]:
    """How many pages of each list to look at  (mm/vmscan.c: get_scan_count)."""
    zone = lruvec.zone
    force_scan = not global_reclaim(sc) or (
        vmscan.current_is_kswapd() and not zone_reclaimable(zone)
    )
    anon_part, file_part, whole = _balance(lruvec, sc)
    for second_pass in (False, True):
        counts = []
        for lru in EVICTABLE:
            size = memcontrol.lru_size(lruvec, lru)
            scan = size >> sc.priority
            if not scan and second_pass and force_scan:
                scan = min(size, SWAP_CLUSTER_MAX)
            counts.append(scan * (file_part if lru >= LRU_INACTIVE_FILE else anon_part) // whole)
        if any(counts):
            break
    return counts


def _balance(lruvec: Lruvec, sc: ScanControl) -> tuple[int, int, int]:
    """Anonymous memory against files: the parts of each, and what they are parts of.

    Known defect of v3.19: lists without any file page count as having enough of them, so the
    anonymous pages of a group are only looked at when all others have been.
    """
    zone = lruvec.zone
    if not sc.may_swap or _nr_swap_pages(zone.kernel) <= 0:
        return 0, 1, 1
    if not sc.priority:
        return 1, 1, 1
    stat = zone.vm_stat
    if global_reclaim(sc):
        files = stat[NR_ACTIVE_FILE] + stat[NR_INACTIVE_FILE]
        # With so few files left they would only be read again and again.
        if files + stat[NR_FREE_PAGES] <= zone.watermark[WMARK_HIGH]:
            return 1, 0, 1
    if not inactive_list_is_low(lruvec, True):
        return 0, 1, 1
    sizes = [memcontrol.lru_size(lruvec, lru) for lru in EVICTABLE]
    kinds = (sizes[0] + sizes[1], sizes[2] + sizes[3])
    with spin_lock(zone.lru_lock):
        for kind in (0, 1):
            if lruvec.recent_scanned[kind] > kinds[kind] // 4:
                lruvec.recent_scanned[kind] //= 2
                lruvec.recent_rotated[kind] //= 2
        parts = [
            priority * (lruvec.recent_scanned[kind] + 1) // (lruvec.recent_rotated[kind] + 1)
            for kind, priority in ((0, SWAPPINESS), (1, 200 - SWAPPINESS))
        ]
    return parts[0], parts[1], parts[0] + parts[1] + 1


def _shrink_list(lru: int, nr_to_scan: int, lruvec: Lruvec, sc: ScanControl) -> int:
    """mm/vmscan.c: shrink_list."""
    if lru in (LRU_ACTIVE_ANON, LRU_ACTIVE_FILE):
        if inactive_list_is_low(lruvec, lru == LRU_ACTIVE_FILE):
            shrink_active_list(nr_to_scan, lruvec, sc, lru)
        return 0
    return shrink_inactive_list(nr_to_scan, lruvec, sc, lru)


def shrink_lruvec(lruvec: Lruvec, sc: ScanControl) -> None:
    """Look at the part of each list that `get_scan_count` allots; once enough is freed, only
    as much more as keeps the proportion of the two kinds  (mm/vmscan.c: shrink_lruvec)."""
    counts = get_scan_count(lruvec, sc)
    targets = list(counts)
    reclaimed = 0
    adjusted = global_reclaim(sc) and not vmscan.current_is_kswapd() and sc.priority == DEF_PRIORITY
    while counts[LRU_INACTIVE_ANON] or counts[LRU_ACTIVE_FILE] or counts[LRU_INACTIVE_FILE]:
        for lru in EVICTABLE:
            if counts[lru]:
                nr_to_scan = min(counts[lru], SWAP_CLUSTER_MAX)
                counts[lru] -= nr_to_scan
                reclaimed += _shrink_list(lru, nr_to_scan, lruvec, sc)
        if reclaimed < sc.nr_to_reclaim or adjusted:
            continue
        anon = counts[LRU_INACTIVE_ANON] + counts[LRU_ACTIVE_ANON]
        file = counts[LRU_INACTIVE_FILE] + counts[LRU_ACTIVE_FILE]
        if not anon or not file:
            break
        # The smaller rest stays; of the other kind the same part is left out.
        less, more = (0, 2) if file > anon else (2, 0)
        percentage = min(anon, file) * 100 // (targets[less] + targets[less + 1] + 1)
        counts[less] = counts[less + 1] = 0
        for lru in (more, more + 1):
            scanned = targets[lru] - counts[lru]
            counts[lru] = max(0, targets[lru] * (100 - percentage) // 100 - scanned)
        adjusted = True
    sc.nr_reclaimed += reclaimed
    if inactive_list_is_low(lruvec, False):
        shrink_active_list(SWAP_CLUSTER_MAX, lruvec, sc, LRU_ACTIVE_ANON)


def shrink_zone(zone: Zone, sc: ScanControl) -> bool:
    """Reclaim from the lists of all groups concerned in a zone; whether a page was freed.
    Differs: does not go on for the sake of compaction  (mm/vmscan.c: shrink_zone)."""
    before = sc.nr_reclaimed
    if zone.kernel.memcg is None:
        shrink_lruvec(zone.lruvec, sc)
        return sc.nr_reclaimed > before
    for memcg in memcontrol.mem_cgroup_iter(
        sc.target_mem_cgroup or memcontrol.state(zone.kernel).root
    ):
        if memcg.refs > 0:  # it may have gone while others were looked at
            shrink_lruvec(memcg.lruvecs[zone], sc)
        if not global_reclaim(sc) and sc.nr_reclaimed >= sc.nr_to_reclaim:
            break
    return sc.nr_reclaimed > before


# --- direct reclaim ---


def _shrink_zones(zones: list[Zone], sc: ScanControl) -> bool:
    """Whether it is of use to go on  (mm/vmscan.c: shrink_zones)."""
    reclaimable = False
    for zone in zones:
        if global_reclaim(sc) and sc.priority != DEF_PRIORITY and not zone_reclaimable(zone):
            continue
        if shrink_zone(zone, sc):
            reclaimable = True
        if global_reclaim(sc) and not reclaimable and zone_reclaimable(zone):
            reclaimable = True
    return reclaimable


def _do_try_to_free_pages(kernel: Kernel, zones: list[Zone], sc: ScanControl) -> int:
    """mm/vmscan.c: do_try_to_free_pages."""
    if global_reclaim(sc):
        kernel.vm_events[ALLOCSTALL] += 1
    total_scanned = 0
    reclaimable = False
    flushing = False
    for priority in range(DEF_PRIORITY, -1, -1):
        sc.priority = priority
        sc.nr_scanned = 0
        reclaimable = _shrink_zones(zones, sc)
        total_scanned += sc.nr_scanned
        if sc.nr_reclaimed >= sc.nr_to_reclaim:
            break
        if total_scanned > sc.nr_to_reclaim + sc.nr_to_reclaim // 2 and not flushing:
            page_writeback.wakeup_flusher_threads(kernel)
            flushing = True
    return sc.nr_reclaimed or int(reclaimable)


def try_to_free_pages(
    kernel: Kernel, zonelist: list[Zone], order: int, gfp: int, nodemask: int | None
) -> int:
    """Direct reclaim for an allocation: how many pages were freed, or 1 if it is of use to try
    again  (mm/vmscan.c: try_to_free_pages)."""
    if kernel.kswapd_started:
        kswapd.throttle_direct_reclaim(gfp, zonelist, nodemask)
    zones = [zone for zone in zonelist if nodemask is None or nodemask >> zone.nid & 1]
    sc = ScanControl(gfp_mask=gfp, order=order, nr_to_reclaim=SWAP_CLUSTER_MAX)
    return _do_try_to_free_pages(kernel, zones, sc)


def try_to_free_mem_cgroup_pages(
    memcg: memcontrol.MemCgroup, nr_pages: int, gfp: int, may_swap: bool
) -> int:
    """Reclaim from a group and those below it, from this CPU's node first
    (mm/vmscan.c: try_to_free_mem_cgroup_pages)."""
    kernel = memcg.kernel
    sc = ScanControl(
        gfp_mask=gfp & GFP_RECLAIM_MASK | GFP_HIGHUSER_MOVABLE & ~GFP_RECLAIM_MASK,
        target_mem_cgroup=memcg,
        nr_to_reclaim=max(nr_pages, SWAP_CLUSTER_MAX),
        may_swap=may_swap,
    )
    zones = kernel.nodes[sched.task.cpu.node].node_zonelists[0]
    return _do_try_to_free_pages(kernel, zones, sc)
