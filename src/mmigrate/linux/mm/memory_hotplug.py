"""Memory that is taken out of use, and comes back  (mm/memory_hotplug.c).

Interface: `offline_pages`, `online_pages`; `mem_hotplug_begin` and `get_online_mems` exclude
each other; notifiers in `kernel.memory_chain` are asked, and can say no.
Differs: time passes in rounds, of which there are as many as the kernel waits seconds; cpusets
keep the nodes they have when memory goes.
Known defect of v3.19: free pages of hugetlb go with the range even if they are promised.
"""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EINVAL
from typing import Final

from mmigrate.linux.include.gfp import MIGRATE_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_MEMORY_HOTPLUG
from mmigrate.linux.include.mmzone import (
    MAX_ORDER,
    PAGEBLOCK_NR_PAGES,
    SECTION_SHIFT,
    ZONE_NORMAL,
    PglistData,
    Zone,
)
from mmigrate.linux.include.page_flags import PG_hwpoison, PG_reserved
from mmigrate.linux.include.vmstat import NR_ISOLATED_ANON
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_flags import PageHWPoison, PageLRU, page_is_file_cache
from mmigrate.linux.kernel.page_ref import (
    PageBuddy,
    compound_head,
    get_page_unless_zero,
    page_count,
)
from mmigrate.linux.kernel.rwsem import RwSemaphore, down_read, down_write
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.lib.list import ListHead, list_add_tail, list_empty
from mmigrate.linux.mm import (
    hugetlb_pool,
    migrate,
    page_alloc,
    page_boot,
    page_isolation,
    swap,
    taken_blocks,
    vmscan,
)
from mmigrate.linux.mm.page_isolation import page_or_none

MEM_ONLINE: Final = 1
MEM_GOING_OFFLINE: Final = 2
MEM_OFFLINE: Final = 4
MEM_GOING_ONLINE: Final = 8
MEM_CANCEL_ONLINE: Final = 16
MEM_CANCEL_OFFLINE: Final = 32

TIMEOUT: Final = 120  # seconds; rounds
RETRIES: Final = 5
NR_OFFLINE_AT_ONCE_PAGES: Final = 256
PFN_SECTION_SHIFT: Final = 15  # a section of the memory model, 128 MiB


def mem_hotplug_begin(kernel: Kernel) -> RwSemaphore:
    """For `with`: nobody who has called `get_online_mems` is at work
    (mm/memory_hotplug.c: mem_hotplug_begin)."""
    return down_write(_lock(kernel))


def get_online_mems(kernel: Kernel) -> RwSemaphore:
    """For `with`: no memory comes or goes  (mm/memory_hotplug.c: get_online_mems)."""
    return down_read(_lock(kernel))


def _lock(kernel: Kernel) -> RwSemaphore:
    if kernel.mem_hotplug is None:
        kernel.mem_hotplug = RwSemaphore("mem_hotplug")
    lock = kernel.mem_hotplug
    assert isinstance(lock, RwSemaphore)
    return lock


def memory_notify(kernel: Kernel, action: int, start_pfn: int, nr_pages: int) -> int:
    """Ask, or tell, in turn, until one says no; 0 or its -errno
    (drivers/base/memory.c: memory_notify)."""
    for notify in kernel.memory_chain:
        error = notify(action, start_pfn, nr_pages)
        if error:
            return error
    return 0


# --- out of use ---


def _can_offline_normal(zone: Zone, nr_pages: int) -> bool:
    """The last ordinary memory of a node goes only after all higher memory
    (mm/memory_hotplug.c: can_offline_normal, without CONFIG_MOVABLE_NODE)."""
    zones = zone.zone_pgdat.node_zones
    normal = sum(each.present_pages for each in zones if each.zone_idx <= ZONE_NORMAL)
    higher = sum(each.present_pages for each in zones if each.zone_idx > ZONE_NORMAL)
    return normal > nr_pages or higher == 0


def scan_movable_pages(kernel: Kernel, start_pfn: int, end_pfn: int) -> int:
    """The first frame with a page on an LRU list, or one of hugetlb in use; 0 if there is none
    (mm/memory_hotplug.c: scan_movable_pages)."""
    mem_map = kernel.mem_map
    for number in range(start_pfn >> SECTION_SHIFT, (end_pfn - 1 >> SECTION_SHIFT) + 1):
        for page in mem_map.get(number, ()):
            if page is None or not start_pfn <= page.pfn < end_pfn:
                continue
            if PageLRU(page):
                return page.pfn
            if hugetlb_pool.PageHuge(page) and hugetlb_pool.is_hugepage_active(page):
                return page.pfn
    return 0


def do_migrate_range(kernel: Kernel, start_pfn: int, end_pfn: int) -> int:
    """Move up to 256 pages away; what migrate_pages returned, or -EBUSY if a page in use cannot
    be isolated.  Quirk: with nothing to move it is the result of the last isolation, so it can
    be -EBUSY though nothing is wrong  (mm/memory_hotplug.c: do_migrate_range)."""
    source = ListHead()
    taken = ret = 0
    pfn = start_pfn - 1
    while (pfn := pfn + 1) < end_pfn and taken < NR_OFFLINE_AT_ONCE_PAGES:
        page = page_or_none(kernel, pfn)
        if page is None:
            continue
        if hugetlb_pool.PageHuge(page):
            head = compound_head(page)
            order = page_alloc.compound_order(head)
            pfn = head.pfn + (1 << order) - 1
            if order > PFN_SECTION_SHIFT:
                ret = -EBUSY
                break
            if hugetlb_pool.isolate_huge_page(head, source):
                taken += 1 << order
            continue
        if not get_page_unless_zero(page):
            continue
        ret = vmscan.isolate_lru_page(page)
        swap.put_page(page)
        if ret == 0:
            list_add_tail(page, source)
            taken += 1
            page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += 1
        elif page_count(page):
            migrate.putback_movable_pages(source)
            return -EBUSY
    if not list_empty(source):
        ret = migrate.migrate_pages(
            source, page_isolation.alloc_migrate_target, None, 0, MIGRATE_SYNC, MR_MEMORY_HOTPLUG
        )
        if ret:
            migrate.putback_movable_pages(source)
    return ret


def _empty_range(zone: Zone, start_pfn: int, end_pfn: int) -> int:
    """Until nothing is left on an LRU list; 0, or why it was given up."""
    kernel = zone.kernel
    retries, drain = RETRIES, False
    for _ in range(TIMEOUT):
        if drain:
            swap.lru_add_drain_all(kernel)
            sched.cond_resched()
            page_alloc.drain_all_pages(kernel, zone)
        pfn = scan_movable_pages(kernel, start_pfn, end_pfn)
        if not pfn:
            return 0
        ret = do_migrate_range(kernel, pfn, end_pfn)
        if ret < 0:
            retries -= 1
            if not retries:
                return ret
        drain = True
    return -EAGAIN


def offline_pages(kernel: Kernel, start_pfn: int, nr_pages: int) -> int:
    """Take a range of frames out of use; 0, or -EINVAL, -EBUSY, -EAGAIN, -ENOMEM, with the
    range in use as before  (mm/memory_hotplug.c: __offline_pages)."""
    end_pfn = start_pfn + nr_pages
    if nr_pages <= 0 or start_pfn % PAGEBLOCK_NR_PAGES or end_pfn % PAGEBLOCK_NR_PAGES:
        return -EINVAL
    with mem_hotplug_begin(kernel):
        zone = page_isolation.zone_of_frame(kernel, start_pfn)
        if zone is None or end_pfn > zone.end_pfn:
            return -EINVAL
        if any(first < end_pfn and start_pfn < last for first, last in zone.offline):
            return -EINVAL  # the state of the memory block, in drivers/base/memory.c
        if zone.zone_idx <= ZONE_NORMAL and not _can_offline_normal(zone, nr_pages):
            return -EINVAL
        ret = page_isolation.start_isolate_page_range(
            kernel, start_pfn, end_pfn, MIGRATE_MOVABLE, True
        )
        if ret:
            return ret
        ret = memory_notify(kernel, MEM_GOING_OFFLINE, start_pfn, nr_pages)
        if not ret:
            ret = _empty_range(zone, start_pfn, end_pfn)
        if not ret:
            swap.lru_add_drain_all(kernel)
            page_alloc.drain_all_pages(kernel, zone)
            hugetlb_pool.dissolve_free_huge_pages(kernel, start_pfn, end_pfn)
            ret = page_isolation.test_pages_isolated(kernel, start_pfn, end_pfn, True)
        if ret:
            memory_notify(kernel, MEM_CANCEL_OFFLINE, start_pfn, nr_pages)
            page_isolation.undo_isolate_page_range(kernel, start_pfn, end_pfn, MIGRATE_MOVABLE)
            return ret
        _offline_isolated_pages(zone, start_pfn, end_pfn)
        page_isolation.undo_isolate_page_range(kernel, start_pfn, end_pfn, MIGRATE_MOVABLE)
        _change_size(zone, -nr_pages)
        memory_notify(kernel, MEM_OFFLINE, start_pfn, nr_pages)
    return 0


def _offline_isolated_pages(zone: Zone, start_pfn: int, end_pfn: int) -> None:
    """Off the free lists, reserved  (mm/page_alloc.c: __offline_isolated_pages).

    Differs: frames that never had a page still have none.
    """
    with spin_lock(zone.lock):
        pfn = start_pfn
        while pfn < end_pfn:
            page = page_alloc.page_of_frame(zone, pfn)
            if not PageBuddy(page):  # known to be bad, and leaked
                page.flags |= PG_reserved
                pfn += 1
                continue
            order = taken_blocks.take_free_block_out(zone, page)
            for number in range(pfn, pfn + (1 << order)):
                part = page_or_none(zone.kernel, number)
                if part is not None:
                    part.flags |= PG_reserved
            pfn += 1 << order
        zone.offline.append((start_pfn, end_pfn))
        zone.offline.sort()


def _change_size(zone: Zone, nr_pages: int) -> None:
    """The zone has so many pages more: counts, watermarks, and in which order nodes are asked."""
    pgdat = zone.zone_pgdat
    kernel = zone.kernel
    was_populated = zone.present_pages > 0
    zone.managed_pages += nr_pages
    zone.present_pages += nr_pages
    pgdat.node_present_pages += nr_pages
    if was_populated != (zone.present_pages > 0):
        _populate(pgdat, zone)
        page_boot.build_all_zonelists(kernel)
    page_boot.init_per_zone_wmark_min(kernel)


def _populate(pgdat: PglistData, zone: Zone) -> None:
    """A zone without pages is not asked for any; a node without zones has no memory."""
    bit = 1 << pgdat.node_id
    if zone.present_pages:
        pgdat.node_zones.append(zone)
        pgdat.node_zones.sort(key=lambda each: each.zone_idx)
        pgdat.empty_zones.remove(zone)
        zone.kernel.node_states_memory |= bit
    else:
        pgdat.node_zones.remove(zone)
        pgdat.empty_zones.append(zone)
        if not pgdat.node_zones:
            zone.kernel.node_states_memory &= ~bit


# --- back in use ---


def online_pages(kernel: Kernel, start_pfn: int, nr_pages: int) -> int:
    """Take a range of frames into use again that was taken out; 0, -EINVAL if that is not so, or
    what a notifier says.  Pages known to be bad stay out
    (mm/memory_hotplug.c: online_pages).

    Differs: memory is freed in largest blocks, not page by page.
    """
    end_pfn = start_pfn + nr_pages
    if start_pfn % PAGEBLOCK_NR_PAGES or end_pfn % PAGEBLOCK_NR_PAGES:
        return -EINVAL
    with mem_hotplug_begin(kernel):
        zone = _zone_with_offline(kernel, start_pfn, end_pfn)
        if zone is None:
            return -EINVAL
        ret = memory_notify(kernel, MEM_GOING_ONLINE, start_pfn, nr_pages)
        if ret:
            memory_notify(kernel, MEM_CANCEL_ONLINE, start_pfn, nr_pages)
            return ret
        _forget_offline(zone, start_pfn, end_pfn)
        _change_size(zone, nr_pages)
        pfn = start_pfn
        while pfn < end_pfn:
            order = min(MAX_ORDER - 1, (pfn & -pfn).bit_length() - 1)
            while pfn + (1 << order) > end_pfn:
                order -= 1
            _online_block(zone, pfn, order)
            pfn += 1 << order
        memory_notify(kernel, MEM_ONLINE, start_pfn, nr_pages)
    return 0


def _zone_with_offline(kernel: Kernel, start_pfn: int, end_pfn: int) -> Zone | None:
    for node in kernel.nodes:
        for zone in (*node.node_zones, *node.empty_zones):
            if any(first <= start_pfn < end_pfn <= last for first, last in zone.offline):
                return zone
    return None


def _forget_offline(zone: Zone, start_pfn: int, end_pfn: int) -> None:
    parts = []
    for first, last in zone.offline:
        if first <= start_pfn < last:
            parts += [(first, start_pfn), (end_pfn, last)]
        else:
            parts.append((first, last))
    zone.offline[:] = [(first, last) for first, last in parts if first < last]


def _online_block(zone: Zone, start: int, order: int) -> None:
    """Free the frames of a block, as one if none of them is bad
    (mm/page_alloc.c: __free_reserved_page)."""
    kernel = zone.kernel
    bad = False
    for pfn in range(start, start + (1 << order)):
        page = page_or_none(kernel, pfn)
        if page is not None:
            page.flags &= ~PG_reserved
            bad = bad or PageHWPoison(page)
    if not bad:
        page_alloc.free_block(page_alloc.page_of_frame(zone, start), order)
        return
    for pfn in range(start, start + (1 << order)):
        page = page_alloc.page_of_frame(zone, pfn)
        if not page.flags & PG_hwpoison:
            page_alloc.free_block(page, 0)
