"""Memory control groups: who pays for a page  (mm/memcontrol.c).

A charge is made in two steps: `mem_cgroup_try_charge` before the page is anybody's, then
`mem_cgroup_commit_charge` once its mapping is set, or `mem_cgroup_cancel_charge`.  It ends
when nobody can reach the page any more: `mem_cgroup_uncharge` and `mem_cgroup_uncharge_list`,
after the last reference.  Migration hands it on: `mem_cgroup_migrate`.

`page.mem_cgroup` says who pays; None: nobody, which counts as the root group for the LRU.
It is written while the page is off the LRU, or under lru_lock, because the list a page is on
follows from it.  The root group's counters never change.

Differs: nothing is charged until the first group is made, and pages of before stay without an
owner.  Statistics are not kept by CPU.
"""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EINTR, EINVAL, ENOMEM
from typing import Any, Final

from mmigrate.linux.include.gfp import (
    __GFP_NOFAIL,
    __GFP_NORETRY,
    __GFP_WAIT,
    GFP_KERNEL,
)
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import POISON, Mm, Page
from mmigrate.linux.include.mmzone import Lruvec, Zone
from mmigrate.linux.include.page_flags import PG_head, PG_lru
from mmigrate.linux.include.pgtable import HPAGE_PMD_NR
from mmigrate.linux.include.sched import Cpu
from mmigrate.linux.include.switches import MEMCG_UNCHARGE_REWRITE
from mmigrate.linux.include.vmstat import NR_LRU_BASE
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE, atomic_add
from mmigrate.linux.kernel.bug import BUG, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    ClearPageLRU,
    PageAnon,
    PageLocked,
    PageLRU,
    PageSwapCache,
    PageTransHuge,
    PageWriteback,
    SetPageLRU,
    hpage_nr_pages,
    page_lru,
    page_private,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import page_mapped
from mmigrate.linux.kernel.rcu import rcu_read_lock, rcu_read_unlock
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_unlock
from mmigrate.linux.kernel.straight import hot, small
from mmigrate.linux.kernel.workqueue import run_on_cpus
from mmigrate.linux.lib.list import ListHead
from mmigrate.linux.mm import memcontrol_v316, reclaim, swap, vmscan
from mmigrate.linux.mm.page_counter import (
    PAGE_COUNTER_MAX,
    PageCounter,
    page_counter_limit,
    page_counter_try_charge,
    page_counter_uncharge,
)

CHARGE_BATCH: Final = 32
RECLAIM_RETRIES: Final = 5
COSTLY: Final = 1 << 3  # pages; PAGE_ALLOC_COSTLY_ORDER
STATS: Final = ("cache", "rss", "rss_huge", "mapped_file", "writeback", "swap")
EVENTS: Final = ("pgpgin", "pgpgout")
MOVE_ANON: Final = 1
MOVE_FILE: Final = 2


class MemCgroup:
    """A memory control group  (struct mem_cgroup)."""

    __slots__ = (
        "children",
        "css_id",
        "kernel",
        "lruvecs",
        "memory",
        "memsw",
        "move_charge_at_immigrate",
        "move_lock",
        "moving_account",
        "name",
        "online",
        "oom_kills",
        "parent",
        "refs",
        "stat",
    )

    def __init__(self, kernel: Kernel, name: str, css_id: int, parent: MemCgroup | None) -> None:
        # fixed
        self.kernel = kernel
        self.name = name
        self.css_id = css_id
        self.parent = parent
        # cgroup_mutex
        self.children: list[MemCgroup] = []
        self.online = True
        self.move_charge_at_immigrate = 0
        # atomic; the root's counters never change
        above = parent if parent is not None and parent.parent is not None else None
        self.memory: PageCounter = PageCounter(None if above is None else above.memory)
        self.memsw: PageCounter = PageCounter(None if above is None else above.memsw)
        self.refs = 1  # charged pages, those in stock, swap entries, and one while it is online
        self.moving_account = 0
        # mapped_file and writeback of pages that are being moved to another group
        self.move_lock = SpinLock("move_lock", f"{name} move_lock")
        # lru_lock of each zone
        self.lruvecs: dict[Zone, Lruvec] = {}
        # statistics
        self.stat = dict.fromkeys(STATS + EVENTS, 0)
        self.oom_kills = 0

    def __repr__(self) -> str:
        return f"memcg {self.name}"


class Stock:
    """Charges of one CPU that have no page yet  (struct memcg_stock_pcp)."""

    __slots__ = ("cached", "nr_pages")

    def __init__(self) -> None:
        self.cached: MemCgroup | None = None
        self.nr_pages = 0


class MemcgState:
    """All groups of a kernel.  @swap_cgroup: who pays for a swap entry, by entry.
    @tries, @ends: pages whose charge began and ended, for observers.  @rewritten: the kernel has
    commit 0a31bc97c80c; without it page_cgroups stand beside the pages."""

    __slots__ = (
        "ends",
        "groups",
        "next_id",
        "page_cgroups",
        "rewritten",
        "root",
        "stocks",
        "swap_cgroup",
        "tries",
    )

    def __init__(self, kernel: Kernel) -> None:
        self.root = MemCgroup(kernel, "/", 1, None)
        self.root.lruvecs = {zone: zone.lruvec for zone in _all_zones(kernel)}
        self.groups: dict[int, MemCgroup] = {1: self.root}  # by css_id
        self.next_id = 2
        self.stocks = [Stock() for _ in kernel.cpus]
        # the lock of the area and the page lock, as swap_cgroup_ctrl.lock
        self.swap_cgroup: dict[int, int] = {}
        self.rewritten = kernel.has(MEMCG_UNCHARGE_REWRITE)
        self.page_cgroups: dict[int, memcontrol_v316.PageCgroup] = {}
        self.tries = 0
        self.ends = 0


def state(kernel: Kernel) -> MemcgState:
    found: MemcgState = kernel.memcg
    return found


# --- groups ---


def _all_zones(kernel: Kernel) -> list[Zone]:
    """Also those that are out of use for now."""
    return [zone for node in kernel.nodes for zone in (*node.node_zones, *node.empty_zones)]


def mem_cgroup_create(kernel: Kernel, name: str, parent: MemCgroup | None = None) -> MemCgroup:
    """A new group, by default below the root; the first one switches charging on
    (mm/memcontrol.c: mem_cgroup_css_alloc, mem_cgroup_css_online)."""
    if kernel.memcg is None:
        kernel.memcg = MemcgState(kernel)
    groups = state(kernel)
    above = parent or groups.root
    memcg = MemCgroup(kernel, name, groups.next_id, above)
    groups.next_id += 1
    memcg.lruvecs = {zone: Lruvec(zone) for zone in _all_zones(kernel)}
    groups.groups[memcg.css_id] = memcg
    above.children.append(memcg)
    if above is not groups.root:
        css_get_many(above, 1)
    return memcg


def mem_cgroup_css_offline(memcg: MemCgroup) -> int:
    """Remove a group that has neither tasks nor children: 0 or -EBUSY.  What is still charged to
    it stays until it is freed  (mm/memcontrol.c: mem_cgroup_css_offline)."""
    kernel = memcg.kernel
    if any(mm.memcg is memcg for mm in kernel.mms) or memcg.children:
        return -EBUSY
    memcg.online = False
    assert memcg.parent is not None
    memcg.parent.children.remove(memcg)
    drain_all_stock(memcg)
    css_put_many(memcg, 1)
    return 0


def css_get_many(memcg: MemCgroup, number: int) -> None:
    atomic_add(number, memcg, "refs")


def css_put_many(memcg: MemCgroup, number: int) -> None:
    """Drop references; with the last one the group is no more, and any use of it a finding
    (mm/memcontrol.c: mem_cgroup_css_free)."""
    atomic_add(-number, memcg, "refs")
    if memcg.refs > 0:
        return
    if memcg.refs < 0:
        BUG(f"{memcg!r}: {memcg.refs} references")
    groups = state(memcg.kernel)
    if not groups.rewritten:
        return  # pages that are not charged any more may still be on its lists
    del groups.groups[memcg.css_id]
    parent = memcg.parent
    memcg.lruvecs = POISON  # type: ignore[assignment]
    memcg.stat = POISON  # type: ignore[assignment]
    if parent is not None and parent is not groups.root:
        css_put_many(parent, 1)


def mem_cgroup_from_mm(mm: Mm) -> MemCgroup:
    """mm/memcontrol.c: get_mem_cgroup_from_mm."""
    return READ_ONCE(mm, "memcg") or state(mm.kernel).root


def mem_cgroup_is_descendant(memcg: MemCgroup, root: MemCgroup) -> bool:
    above: MemCgroup | None = memcg
    while above is not None:
        if above is root:
            return True
        above = above.parent
    return False


def mem_cgroup_iter(root: MemCgroup) -> list[MemCgroup]:
    """A group and all below it, those too that were removed while they had pages
    (mm/memcontrol.c: mem_cgroup_iter)."""
    groups = list(state(root.kernel).groups.values())
    return [memcg for memcg in groups if mem_cgroup_is_descendant(memcg, root)]


def mem_cgroup_margin(memcg: MemCgroup) -> int:
    """How many pages may still be charged  (mm/memcontrol.c: mem_cgroup_margin)."""
    return min(
        counter.limit - int(READ_ONCE(counter, "count")) for counter in (memcg.memory, memcg.memsw)
    )


def mem_cgroup_resize_limit(memcg: MemCgroup, limit: int | None) -> int:
    """Set memory.limit_in_bytes, in pages, and reclaim what is above it; 0 or -EBUSY
    (mm/memcontrol.c: mem_cgroup_resize_limit)."""
    pages = PAGE_COUNTER_MAX if limit is None else limit
    retries = RECLAIM_RETRIES * max(1, len(mem_cgroup_iter(memcg)))
    while not page_counter_limit(memcg.memory, pages):
        before = memcg.memory.count
        drain_all_stock(memcg)
        reclaim.try_to_free_mem_cgroup_pages(memcg, 1, GFP_KERNEL, True)
        if memcg.memory.count >= before:
            if not retries:
                return -EBUSY
            retries -= 1
    return 0


# --- the LRU list of a page; lru_lock is held ---


@small
def mem_cgroup_page_lruvec(page: Page, zone: Zone) -> Lruvec:
    """The lists on which a page is, or belongs  (mm/memcontrol.c: mem_cgroup_page_lruvec)."""
    memcg: MemCgroup | None = page.mem_cgroup
    return zone.lruvec if memcg is None else memcg.lruvecs[zone]


@small
def lruvec_to_add_to(page: Page, zone: Zone, lru: int) -> Lruvec:
    """The same, and it has one page more."""
    if page.mem_cgroup is None:
        return zone.lruvec
    groups = zone.kernel.memcg
    if not groups.rewritten and not memcontrol_v316.is_used(page):
        page.mem_cgroup = groups.root  # v3.16: nobody's any more, and on no list
    lruvec = mem_cgroup_page_lruvec(page, zone)
    lruvec.lru_size[lru] += HPAGE_PMD_NR if page.flags & PG_head else 1
    return lruvec


@small
def mem_cgroup_update_lru_size(page: Page, zone: Zone, lru: int, nr_pages: int) -> None:
    """mm/memcontrol.c: mem_cgroup_update_lru_size."""
    lruvec = mem_cgroup_page_lruvec(page, zone)
    lruvec.lru_size[lru] += nr_pages
    if lruvec.lru_size[lru] < 0 and lruvec is not zone.lruvec:
        BUG(
            f"{page!r} left list {lru} of {page.mem_cgroup!r}, whose size is {lruvec.lru_size[lru]}"
        )


def lru_size(lruvec: Lruvec, lru: int) -> int:
    """How many pages a list has  (mm/vmscan.c: get_lru_size)."""
    zone = lruvec.zone
    if lruvec is not zone.lruvec:
        return lruvec.lru_size[lru]
    size = zone.vm_stat[NR_LRU_BASE + lru]
    if zone.kernel.memcg is not None:
        for memcg in state(zone.kernel).groups.values():
            if memcg.lruvecs[zone] is not lruvec:
                size -= memcg.lruvecs[zone].lru_size[lru]
    return size


# --- stock of a CPU ---


def _consume_stock(memcg: MemCgroup, nr_pages: int) -> bool:
    """mm/memcontrol.c: consume_stock."""
    if nr_pages > CHARGE_BATCH:
        return False
    sched.preempt_disable()
    stock = state(memcg.kernel).stocks[sched.task.cpu.number]
    enough = READ_ONCE(stock, "cached") is memcg and stock.nr_pages >= nr_pages
    if enough:
        WRITE_ONCE(stock, "nr_pages", stock.nr_pages - nr_pages)
    sched.preempt_enable()
    return enough


def _refill_stock(memcg: MemCgroup, nr_pages: int) -> None:
    """mm/memcontrol.c: refill_stock."""
    sched.preempt_disable()
    stock = state(memcg.kernel).stocks[sched.task.cpu.number]
    if READ_ONCE(stock, "cached") is not memcg:
        _drain_stock(stock)
        WRITE_ONCE(stock, "cached", memcg)
    WRITE_ONCE(stock, "nr_pages", stock.nr_pages + nr_pages)
    sched.preempt_enable()


def _drain_stock(stock: Stock) -> None:
    """mm/memcontrol.c: drain_stock."""
    old: MemCgroup | None = READ_ONCE(stock, "cached")
    nr_pages = stock.nr_pages
    WRITE_ONCE(stock, "nr_pages", 0)
    WRITE_ONCE(stock, "cached", None)
    if old is not None and nr_pages:
        page_counter_uncharge(old.memory, nr_pages)
        page_counter_uncharge(old.memsw, nr_pages)
        css_put_many(old, nr_pages)


def drain_all_stock(root: MemCgroup) -> None:
    """Give back the stocks of a group and of those below it, on all CPUs
    (mm/memcontrol.c: drain_all_stock).  Differs: waits for the other CPUs."""
    kernel = root.kernel
    groups = state(kernel)
    busy = []
    for cpu, stock in zip(kernel.cpus, groups.stocks, strict=True):
        cached: MemCgroup | None = READ_ONCE(stock, "cached")
        if cached is not None and stock.nr_pages and mem_cgroup_is_descendant(cached, root):
            busy.append(cpu)

    def drain(cpu: Cpu) -> None:
        sched.preempt_disable()
        _drain_stock(groups.stocks[cpu.number])
        sched.preempt_enable()

    run_on_cpus(busy, drain, "memcg_drain")


# --- charging ---


def try_charge(memcg: MemCgroup, gfp: int, nr_pages: int) -> int:
    """Charge pages, with reclaim from the group that is at its limit: 0, -ENOMEM, or -EINTR:
    go on without  (mm/memcontrol.c: try_charge)."""
    if memcg is state(memcg.kernel).root:
        return 0
    batch = max(CHARGE_BATCH, nr_pages)
    retries, drained = RECLAIM_RETRIES, False
    if _consume_stock(memcg, nr_pages):
        return 0
    while True:
        may_swap = True
        over = page_counter_try_charge(memcg.memsw, batch)
        if over is None:
            over = page_counter_try_charge(memcg.memory, batch)
            if over is None:
                css_get_many(memcg, batch)
                if batch > nr_pages:
                    _refill_stock(memcg, batch - nr_pages)
                return 0
            page_counter_uncharge(memcg.memsw, batch)
        else:
            may_swap = False  # to swap out changes nothing
        if batch > nr_pages:
            batch = nr_pages
            continue
        if not gfp & __GFP_WAIT:
            return -ENOMEM
        full = _group_of(over, memcg)
        nr_reclaimed = reclaim.try_to_free_mem_cgroup_pages(full, nr_pages, gfp, may_swap)
        if mem_cgroup_margin(full) >= nr_pages:
            continue
        if not drained:
            drain_all_stock(full)
            drained = True
            continue
        if gfp & __GFP_NORETRY:
            return -ENOMEM
        if nr_reclaimed and nr_pages <= COSTLY:
            continue
        if _wait_acct_move(full):
            continue
        if retries:
            retries -= 1
            continue
        if gfp & __GFP_NOFAIL:
            return -EINTR
        full.oom_kills += 1
        sched.task.memcg_oom = full
        return -ENOMEM


def _group_of(counter: PageCounter, memcg: MemCgroup) -> MemCgroup:
    """The group above @memcg that has a counter."""
    above: MemCgroup | None = memcg
    while above is not None:
        if counter in (above.memory, above.memsw):
            return above
        above = above.parent
    raise AssertionError("a counter of no group")


def _wait_acct_move(memcg: MemCgroup) -> bool:
    """Whether charges were just being moved away, which has been waited for
    (mm/memcontrol.c: mem_cgroup_wait_acct_move)."""
    if not READ_ONCE(memcg, "moving_account"):
        return False
    sched.block(
        memcg, "moving_account", sched.READ, lambda: not memcg.moving_account, f"moves of {memcg!r}"
    )
    return True


@small
def _size(page: Page) -> int:
    return HPAGE_PMD_NR if page.flags & PG_head else 1


def mem_cgroup_try_charge(page: Page, mm: Mm | None, gfp: int) -> MemCgroup | int | None:
    """Begin to charge a page to @mm's group; the group, to be committed or cancelled, None if
    there is nothing to do, or -ENOMEM.  No trace is left in the page
    (mm/memcontrol.c: mem_cgroup_try_charge)."""
    kernel = page.zone.kernel
    if kernel.memcg is None:
        return None
    groups = state(kernel)
    memcg: MemCgroup | None = None
    if PageSwapCache(page):
        # Several may fault on it: the first one charges it, under the page lock.
        if READ_ONCE(page, "mem_cgroup") is not None and (
            groups.rewritten or memcontrol_v316.is_used(page)
        ):
            return None
        # It is on its way to swap and nobody's, so it is older than the groups, and the end of
        # its writing must not be counted where the beginning was not.
        if PageWriteback(page):
            return None
        entry: Any = page_private(page)
        memcg = groups.groups.get(groups.swap_cgroup.get(entry, 0))
        if memcg is not None and not memcg.online:
            memcg = None
    if memcg is None:
        memcg = groups.root if mm is None else mem_cgroup_from_mm(mm)
    nr_pages = _size(page)
    css_get_many(memcg, 1)
    error = try_charge(memcg, gfp, nr_pages)
    css_put_many(memcg, 1)
    if error == -EINTR:
        memcg = groups.root
    elif error:
        return error
    if memcg is not groups.root:
        groups.tries += nr_pages
    return memcg


@small
def commit_charge(page: Page, memcg: MemCgroup, lrucare: bool) -> None:
    """The page is @memcg's from now on.  @lrucare: it may be on the LRU, and changes lists
    (mm/memcontrol.c: commit_charge)."""
    if not memcg.kernel.memcg.rewritten:
        memcontrol_v316.commit_charge(page, memcg, lrucare)
        return
    VM_BUG_ON_PAGE(page.mem_cgroup is not None, page, f"charged to {page.mem_cgroup!r} already")
    isolated = lock_page_lru(page) if lrucare else False
    WRITE_ONCE(page, "mem_cgroup", memcg)
    if lrucare:
        unlock_page_lru(page, isolated)


def lock_page_lru(page: Page) -> bool:
    """Take lru_lock, and the page off the list it is on; whether it was
    (mm/memcontrol.c: lock_page_lru)."""
    zone = page.zone
    spin_lock(zone.lru_lock)
    if not PageLRU(page):
        return False
    ClearPageLRU(page)
    swap.del_page_from_lru_list(page, zone, page_lru(page))
    return True


def unlock_page_lru(page: Page, isolated: bool) -> None:
    """Put it on the list where it belongs now  (mm/memcontrol.c: unlock_page_lru)."""
    zone = page.zone
    if isolated:
        VM_BUG_ON_PAGE(bool(page.flags & PG_lru), page, "put on the LRU by somebody else")
        SetPageLRU(page)
        swap.add_page_to_lru_list(page, zone, page_lru(page))
    spin_unlock(zone.lru_lock)


def _charge_statistics(memcg: MemCgroup, page: Page, nr_pages: int) -> None:
    """mm/memcontrol.c: mem_cgroup_charge_statistics."""
    stat = memcg.stat
    stat["rss" if PageAnon(page) else "cache"] += nr_pages
    if PageTransHuge(page):
        stat["rss_huge"] += nr_pages
    stat["pgpgin" if nr_pages > 0 else "pgpgout"] += 1


def mem_cgroup_commit_charge(page: Page, memcg: MemCgroup | None, lrucare: bool) -> None:
    """End what mem_cgroup_try_charge began; the mapping of the page is set
    (mm/memcontrol.c: mem_cgroup_commit_charge)."""
    if memcg is None:
        return
    VM_BUG_ON_PAGE(page.mapping is None, page, "charged before it had a mapping")
    VM_BUG_ON_PAGE(
        bool(page.flags & PG_lru) and not lrucare, page, "on the LRU when it was charged"
    )
    commit_charge(page, memcg, lrucare)
    _charge_statistics(memcg, page, _size(page))
    if PageSwapCache(page):
        # The entry's own charge ends now, and not with the entry: the page has one.
        entry: Any = page_private(page)
        mem_cgroup_uncharge_swap(memcg.kernel, entry)


def mem_cgroup_cancel_charge(page: Page, memcg: MemCgroup | None) -> None:
    """Give back what mem_cgroup_try_charge took
    (mm/memcontrol.c: mem_cgroup_cancel_charge)."""
    if memcg is not None:
        cancel_charge(memcg, _size(page))


def cancel_charge(memcg: MemCgroup, nr_pages: int) -> None:
    """mm/memcontrol.c: cancel_charge."""
    groups = state(memcg.kernel)
    if memcg is groups.root:
        return
    page_counter_uncharge(memcg.memory, nr_pages)
    page_counter_uncharge(memcg.memsw, nr_pages)
    groups.ends += nr_pages
    css_put_many(memcg, nr_pages)


def group_with_room(mm: Mm, nr_pages: int) -> MemCgroup | None:
    """The group of @mm, if so many pages can be charged to it without reclaim, whatever the stocks
    of the CPUs hold; for `charge_new_anon_pages`."""
    if mm.kernel.memcg is None or not state(mm.kernel).rewritten:
        return None
    memcg = mem_cgroup_from_mm(mm)
    above: MemCgroup | None = memcg
    while above is not None:
        for counter in (above.memory, above.memsw):
            if counter.count > counter.limit - nr_pages - 2 * CHARGE_BATCH:
                return None
        above = above.parent
    return memcg


def charge_new_anon_pages(memcg: MemCgroup, pages: list[Page], gfp: int) -> None:
    """Charge new pages, as many calls of mem_cgroup_try_charge and mem_cgroup_commit_charge would;
    there is room for them."""
    groups = state(memcg.kernel)
    left = len(pages)
    if memcg is not groups.root:
        groups.tries += left
        stock = groups.stocks[sched.task.cpu.number]
        while left:
            if stock.cached is memcg and stock.nr_pages:
                taken = min(left, stock.nr_pages)
                stock.nr_pages -= taken
                left -= taken
            elif try_charge(memcg, gfp, 1):
                BUG(f"no room for {left} pages in {memcg!r}")
            else:
                left -= 1
    for page in pages:
        page.mem_cgroup = memcg
    memcg.stat["rss"] += len(pages)
    memcg.stat["pgpgin"] += len(pages)


# --- the end of a charge ---


def mem_cgroup_uncharge(page: Page) -> None:
    """End the charge of a page that nobody has any more
    (mm/memcontrol.c: mem_cgroup_uncharge)."""
    if page.mem_cgroup is not None:
        _uncharge([page])


def mem_cgroup_uncharge_list(pages: ListHead) -> None:
    """The same for the pages of a list  (mm/memcontrol.c: mem_cgroup_uncharge_list)."""
    _uncharge(list(pages))


@hot
def _uncharge(pages: list[Page]) -> None:
    """Each run of pages of one group at once  (mm/memcontrol.c: uncharge_list)."""
    memcg: MemCgroup | None = None
    counts = dict.fromkeys(("rss", "cache", "rss_huge", "pgpgout"), 0)
    for page in pages:
        if page.mem_cgroup is not None and not page.zone.kernel.memcg.rewritten:
            memcontrol_v316.forget(page)
            continue
        VM_BUG_ON_PAGE(bool(page.flags & PG_lru), page, "uncharged on the LRU")
        VM_BUG_ON_PAGE(page._count != 0, page, f"uncharged with {page._count} references")
        owner: MemCgroup | None = page.mem_cgroup
        if owner is None:
            continue
        if owner is not memcg:
            if memcg is not None:
                _uncharge_batch(memcg, counts)
            memcg = owner
            counts = dict.fromkeys(counts, 0)
        nr_pages = _size(page)
        # The mapping of anonymous memory stays until the page is freed: it tells the kind.
        counts["rss" if PageAnon(page) else "cache"] += nr_pages
        counts["rss_huge"] += nr_pages if page.flags & PG_head else 0
        counts["pgpgout"] += 1
        WRITE_ONCE(page, "mem_cgroup", None)
    if memcg is not None:
        _uncharge_batch(memcg, counts)


def _uncharge_batch(memcg: MemCgroup, counts: dict[str, int]) -> None:
    """mm/memcontrol.c: uncharge_batch."""
    groups = state(memcg.kernel)
    nr_pages = counts["rss"] + counts["cache"]
    if memcg is not groups.root:
        page_counter_uncharge(memcg.memory, nr_pages)
        page_counter_uncharge(memcg.memsw, nr_pages)
        groups.ends += nr_pages
    for name in ("rss", "cache", "rss_huge"):
        memcg.stat[name] -= counts[name]
    memcg.stat["pgpgout"] += counts["pgpgout"]
    if memcg is not groups.root:
        css_put_many(memcg, nr_pages)


# --- migration and replacement ---


@hot
def mem_cgroup_migrate(oldpage: Page, newpage: Page, lrucare: bool) -> None:
    """Hand the charge of @oldpage on to @newpage, which takes its place; no counter changes.
    Nothing happens if @newpage has a charge of its own, or @oldpage none.  Both are locked.
    @lrucare: either may be on the LRU  (mm/memcontrol.c: mem_cgroup_migrate)."""
    VM_BUG_ON_PAGE(not PageLocked(oldpage), oldpage, "its charge moved while it was unlocked")
    VM_BUG_ON_PAGE(not PageLocked(newpage), newpage, "charged by migration while unlocked")
    VM_BUG_ON_PAGE(not lrucare and PageLRU(oldpage), oldpage, "migrated while on the LRU")
    VM_BUG_ON_PAGE(not lrucare and PageLRU(newpage), newpage, "migrated to while on the LRU")
    old_anon = PageAnon(oldpage)
    new_anon = PageAnon(newpage)
    VM_BUG_ON_PAGE(old_anon != new_anon, newpage, "of another kind")
    old_huge = PageTransHuge(oldpage)
    new_huge = PageTransHuge(newpage)
    VM_BUG_ON_PAGE(old_huge != new_huge, newpage, "of another size")
    if oldpage.zone.kernel.memcg is None:
        return
    if not oldpage.zone.kernel.memcg.rewritten:
        if lrucare:
            memcontrol_v316.mem_cgroup_replace_page_cache(oldpage, newpage)
        elif PageTransHuge(oldpage):
            end_migration(begin_migration(oldpage, newpage), oldpage, newpage, True)
        return  # base pages: `begin_migration`, `end_migration`
    if newpage.mem_cgroup is not None:  # taken from the cache of another file
        return
    # Without a charge: read ahead from swap, or migrated before and found again by a scanner
    # of frames.
    memcg: MemCgroup | None = oldpage.mem_cgroup
    if memcg is None:
        return
    isolated = lock_page_lru(oldpage) if lrucare else False
    WRITE_ONCE(oldpage, "mem_cgroup", None)
    if lrucare:
        unlock_page_lru(oldpage, isolated)
    commit_charge(newpage, memcg, lrucare)


def mem_cgroup_split_huge_fixup(head: Page, tails: list[Page]) -> None:
    """The tails of a huge page that is being split have its owner, before they get on a list
    (mm/memcontrol.c: mem_cgroup_split_huge_fixup)."""
    memcg: MemCgroup | None = head.mem_cgroup
    if memcg is not None:
        groups = state(memcg.kernel)
        for tail in tails:
            tail.mem_cgroup = memcg
            if not groups.rewritten:
                flags = memcontrol_v316.lookup_page_cgroup(head).flags
                memcontrol_v316.lookup_page_cgroup(tail).flags = flags
        memcg.stat["rss_huge"] -= HPAGE_PMD_NR


# --- where pages were uncharged before commit 0a31bc97c80c ---


@small
def page_unmapped(page: Page) -> None:
    """The last pte of an anonymous page has gone."""
    if not page.zone.kernel.memcg.rewritten:
        memcontrol_v316.mem_cgroup_uncharge_page(page)


def page_left_cache(page: Page) -> None:
    """A page is in no file any more."""
    if page.mem_cgroup is not None and not state(page.zone.kernel).rewritten:
        memcontrol_v316.mem_cgroup_uncharge_cache_page(page)


def page_left_swap_cache(page: Page, entry: int, named: bool) -> None:
    """A page is not in the swap cache any more.  @named: its place is still in use."""
    if page.mem_cgroup is not None and not state(page.zone.kernel).rewritten:
        memcontrol_v316.mem_cgroup_uncharge_swapcache(page, entry, named)


@small
def begin_migration(page: Page, newpage: Page) -> MemCgroup | None:
    """What is handed to `end_migration`."""
    if page.zone.kernel.memcg.rewritten:
        return None
    return memcontrol_v316.mem_cgroup_prepare_migration(page, newpage)


@small
def end_migration(memcg: MemCgroup | None, page: Page, newpage: Page, moved: bool) -> None:
    if memcg is not None:
        memcontrol_v316.mem_cgroup_end_migration(memcg, page, newpage, moved)


# --- swap ---


def mem_cgroup_swapout(page: Page, entry: int) -> None:
    """The page is about to be freed, and its contents stay in swap: the entry keeps the
    memory+swap charge, and the reference.  The tree lock is held, and the count of the page 0
    (mm/memcontrol.c: mem_cgroup_swapout)."""
    VM_BUG_ON_PAGE(bool(page.flags & PG_lru), page, "swapped out on the LRU")
    VM_BUG_ON_PAGE(page._count != 0, page, f"swapped out with {page._count} references")
    memcg: MemCgroup | None = page.mem_cgroup
    if memcg is None or not state(memcg.kernel).rewritten:
        return
    groups = state(memcg.kernel)
    old = groups.swap_cgroup.get(entry, 0)
    VM_BUG_ON_PAGE(old != 0, page, f"its swap entry is charged to group {old} already")
    groups.swap_cgroup[entry] = memcg.css_id
    memcg.stat["swap"] += 1
    WRITE_ONCE(page, "mem_cgroup", None)
    if memcg is not groups.root:
        page_counter_uncharge(memcg.memory, 1)
    memcg.stat["rss" if PageAnon(page) else "cache"] -= 1
    memcg.stat["pgpgout"] += 1


def mem_cgroup_uncharge_swap(kernel: Kernel, entry: int) -> None:
    """End the charge of a swap entry, if it has one
    (mm/memcontrol.c: mem_cgroup_uncharge_swap)."""
    groups = state(kernel)
    css_id = groups.swap_cgroup.pop(entry, 0)
    memcg = groups.groups.get(css_id)
    if memcg is None:
        return
    memcg.stat["swap"] -= 1
    if memcg is not groups.root:
        page_counter_uncharge(memcg.memsw, 1)
        groups.ends += 1
        css_put_many(memcg, 1)


# --- statistics that need a group that stays ---


def mem_cgroup_begin_page_stat(page: Page) -> tuple[MemCgroup | None, bool]:
    """The group of a page, which stays that of the page for the caller until
    `mem_cgroup_end_page_stat`, and whether its move_lock is held
    (mm/memcontrol.c: mem_cgroup_begin_page_stat)."""
    rcu_read_lock()
    if page.zone.kernel.memcg is None:
        return None, False
    while True:
        memcg: MemCgroup | None = READ_ONCE(page, "mem_cgroup")
        if memcg is None or not READ_ONCE(memcg, "moving_account"):
            return memcg, False
        spin_lock(memcg.move_lock)
        if READ_ONCE(page, "mem_cgroup") is memcg:
            return memcg, True
        spin_unlock(memcg.move_lock)


def mem_cgroup_end_page_stat(memcg: MemCgroup | None, locked: bool) -> None:
    """mm/memcontrol.c: mem_cgroup_end_page_stat."""
    if memcg is not None and locked:
        spin_unlock(memcg.move_lock)
    rcu_read_unlock()


def mem_cgroup_update_page_stat(memcg: MemCgroup | None, name: str, value: int) -> None:
    """mm/memcontrol.c: mem_cgroup_update_page_stat."""
    if memcg is not None:
        memcg.stat[name] += value


# --- a task changes groups ---


def mem_cgroup_move_account(page: Page, nr_pages: int, source: MemCgroup, target: MemCgroup) -> int:
    """Let an isolated page change from one group to another; the counters are the caller's.
    0, -EBUSY if the page is locked, -EINVAL if it is not @source's
    (mm/memcontrol.c: mem_cgroup_move_account)."""
    VM_BUG_ON_PAGE(PageLRU(page), page, "changes groups while on the LRU")
    if nr_pages > 1 and not PageTransHuge(page):
        return -EBUSY
    # Isolation alone would not keep a replacement of the page away.
    if not trylock_page(page):
        return -EBUSY
    if READ_ONCE(page, "mem_cgroup") is not source or (
        not state(source.kernel).rewritten and not memcontrol_v316.is_used(page)
    ):
        unlock_page(page)
        return -EINVAL
    spin_lock(source.move_lock)
    if not PageAnon(page) and page_mapped(page):
        source.stat["mapped_file"] -= nr_pages
        target.stat["mapped_file"] += nr_pages
    if PageWriteback(page):
        source.stat["writeback"] -= nr_pages
        target.stat["writeback"] += nr_pages
    WRITE_ONCE(page, "mem_cgroup", target)
    spin_unlock(source.move_lock)
    _charge_statistics(target, page, nr_pages)
    _charge_statistics(source, page, -nr_pages)
    unlock_page(page)
    return 0


def isolate_and_move(page: Page, source: MemCgroup, target: MemCgroup) -> int:
    """The same for a page on the LRU, of which the caller has a reference; -EAGAIN if somebody
    else has it isolated."""
    if vmscan.isolate_lru_page(page):
        return -EAGAIN
    error = mem_cgroup_move_account(page, hpage_nr_pages(page), source, target)
    vmscan.putback_lru_page(page)
    return error


def mem_cgroup_move_swap_account(entry: int, source: MemCgroup, target: MemCgroup) -> int:
    """Let a swap entry change groups: 0 or -EINVAL
    (mm/memcontrol.c: mem_cgroup_move_swap_account)."""
    groups = state(source.kernel)
    if groups.swap_cgroup.get(entry) != source.css_id:
        return -EINVAL
    groups.swap_cgroup[entry] = target.css_id
    source.stat["swap"] -= 1
    target.stat["swap"] += 1
    return 0
