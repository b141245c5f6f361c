"""The pools of huge pages: free lists, surplus, reservations  (mm/hugetlb.c).

Interface: `set_max_huge_pages` sizes a pool; `alloc_huge_page` and `alloc_huge_page_node` take a
page out, for a fault and for migration; `free_huge_page` is where one goes with its last
reference; `isolate_huge_page` and `putback_active_hugepage` are migration's.  Everything is
counted under hugetlb_lock.  A free page of a pool has no references.

Differs: no memory cgroups of hugetlb; a page of 1 GiB is made of memory that nobody has used
yet, as at boot.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOMEM, ENOSPC
from typing import Final

from mmigrate.linux.include.gfp import (
    __GFP_COMP,
    __GFP_NOWARN,
    __GFP_REPEAT,
    __GFP_THISNODE,
    GFP_HIGHUSER,
    GFP_HIGHUSER_MOVABLE,
    MIGRATE_ISOLATE,
)
from mmigrate.linux.include.hugetlb import (
    HPAGE_RESV_OWNER,
    Hstate,
    HugetlbState,
    ResvMap,
    Subpool,
    VmaReservation,
    hstate_vma,
)
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mempolicy import MPOL_BIND, MPOL_INTERLEAVE
from mmigrate.linux.include.mm import VM_HUGETLB, VM_MAYSHARE, VM_NORESERVE
from mmigrate.linux.include.mm_types import Inode, Page, Vma
from mmigrate.linux.include.mmzone import MAX_ORDER
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_dirty,
    PG_error,
    PG_hugetlb,
    PG_locked,
    PG_private,
    PG_referenced,
    PG_tail,
    PG_writeback,
)
from mmigrate.linux.include.pgtable import PMD_SHIFT
from mmigrate.linux.include.switches import (
    ACTIVE_HUGE_PAGES,
    RENAME_HUGEPAGE_MIGRATION_SUPPORT,
)
from mmigrate.linux.include.vmstat import (
    HTLB_BUDDY_PGALLOC,
    HTLB_BUDDY_PGALLOC_FAIL,
    NR_FREE_PAGES,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG_ON, VM_BUG_ON_PAGE
from mmigrate.linux.kernel.cpuset import cpuset_mems_allowed, cpuset_zone_allowed
from mmigrate.linux.kernel.page_flags import (
    ClearPagePrivate,
    PageHead,
    PagePrivate,
    SetPagePrivate,
    page_private,
    set_page_mapping,
    set_page_private,
)
from mmigrate.linux.kernel.page_ref import (
    get_page_unless_zero,
    page_count,
    page_mapped,
    page_ref_add,
    put_page_testzero,
)
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_unlock
from mmigrate.linux.lib.list import (
    ListHead,
    list_add,
    list_del,
    list_empty,
    list_move,
    list_move_tail,
)
from mmigrate.linux.mm import mempolicy, page_alloc, page_isolation, swap
from mmigrate.linux.mm.hugetlb_regions import region_add, region_chg, region_count

NUMA_NO_NODE: Final = -1
_CLEARED_ON_RELEASE: Final = (
    PG_locked | PG_error | PG_referenced | PG_dirty | PG_active | PG_private | PG_writeback
)


def hugetlb_init(
    kernel: Kernel, file_setup: Callable[[Kernel, int, Hstate], Inode]
) -> HugetlbState:
    """Empty pools of all sizes  (mm/hugetlb.c: hugetlb_init)."""
    return HugetlbState(kernel, SpinLock("hugetlb_lock", "hugetlb_lock"), file_setup)


def state(kernel: Kernel) -> HugetlbState:
    found: HugetlbState = kernel.hugetlb
    return found


def PageHuge(page: Page) -> bool:
    """Whether this is a page of hugetlb, head or tail  (mm/hugetlb.c: PageHuge)."""
    if not page.flags & (PG_hugetlb | PG_tail):
        return False
    head = page.first_page if page.flags & PG_tail else page
    return head is not None and head.flags & PG_hugetlb != 0


def page_hstate(page: Page) -> Hstate:
    """The pool of a head  (include/linux/hugetlb.h: page_hstate)."""
    order = page_alloc.compound_order(page)
    return next(h for h in state(page.zone.kernel).hstates if h.order == order)


def is_vm_hugetlb_page(vma: Vma) -> bool:
    return vma.vm_flags & VM_HUGETLB != 0


def hugepage_migration_support(h: Hstate) -> bool:
    """The name that was too much like hugepages_supported(), before commit 100873d7a777."""
    return h.shift == PMD_SHIFT


def hugepage_migration_supported(h: Hstate) -> bool:
    """Whether migration can handle pages of this size: 2 MiB only on x86-64
    (include/linux/hugetlb.h: hugepage_migration_supported)."""
    return h.shift == PMD_SHIFT


def migration_supported(kernel: Kernel, h: Hstate) -> bool:
    """The question under the name that this kernel has for it."""
    if kernel.has(RENAME_HUGEPAGE_MIGRATION_SUPPORT):
        return hugepage_migration_supported(h)
    return hugepage_migration_support(h)


def htlb_alloc_mask(kernel: Kernel, h: Hstate) -> int:
    """Pages that can move may come from movable memory  (mm/hugetlb.c: htlb_alloc_mask)."""
    if state(kernel).treat_as_movable or migration_supported(kernel, h):
        return GFP_HIGHUSER_MOVABLE
    return GFP_HIGHUSER


# --- free lists; hugetlb_lock is held ---


def enqueue_huge_page(h: Hstate, page: Page) -> None:
    """mm/hugetlb.c: enqueue_huge_page."""
    nid = page.zone.nid
    list_move(page, h.hugepage_freelists[nid])
    h.free_huge_pages += 1
    h.free_huge_pages_node[nid] += 1


def dequeue_huge_page_node(h: Hstate, nid: int) -> Page | None:
    """A free page of a node, with a reference, on the active list; None if there is none
    (mm/hugetlb.c: dequeue_huge_page_node)."""
    for page in h.hugepage_freelists[nid]:
        if page_alloc.get_pageblock_migratetype(page.zone, page.pfn) == MIGRATE_ISOLATE:
            continue
        list_move(page, h.hugepage_activelist)
        page_ref_add(page, 1)  # set_page_refcounted
        h.free_huge_pages -= 1
        h.free_huge_pages_node[nid] -= 1
        found: Page = page
        return found
    return None


def dequeue_huge_page_vma(
    h: Hstate, vma: Vma, address: int, avoid_reserve: bool, chg: int
) -> Page | None:
    """A free page for an address, by the policy there; from the reserves if they are the area's
    (mm/hugetlb.c: dequeue_huge_page_vma)."""
    kernel = vma.vm_mm.kernel
    spare = h.free_huge_pages - h.resv_huge_pages
    if not vma_has_reserves(vma, chg) and spare == 0:
        return None
    if avoid_reserve and spare == 0:
        return None
    gfp = htlb_alloc_mask(kernel, h)
    pol = mempolicy.get_vma_policy(vma, address)
    nid = sched.task.cpu.node
    if pol is not None and pol.mode == MPOL_INTERLEAVE:
        nid = mempolicy.interleave_nid(pol, vma, address, h.shift)
    nodemask = pol.v if pol is not None and pol.mode == MPOL_BIND else None
    for zone in mempolicy.policy_zonelist(pol, gfp, nid):
        if nodemask is not None and not nodemask >> zone.nid & 1:
            continue
        if not cpuset_zone_allowed(zone, gfp):
            continue
        page = dequeue_huge_page_node(h, zone.nid)
        if page is not None:
            if not avoid_reserve and vma_has_reserves(vma, chg):
                SetPagePrivate(page)  # to be given back if it is freed before it is mapped
                h.resv_huge_pages -= 1
            return page
    return None


def alloc_gigantic_page(kernel: Kernel, nid: int, order: int) -> Page | None:
    """An aligned compound page that is larger than any block of the buddy allocator
    (mm/hugetlb.c: alloc_bootmem_huge_page).

    Differs: of memory that nobody has used yet, where the kernel moves things away.
    """
    size = 1 << order
    for zone in kernel.nodes[nid].node_zones:
        for place, (start, end) in enumerate(zone.untouched):
            first = (start + size - 1) & -size
            if first + size > end:
                continue
            rest = [(start, first), (first + size, end)]
            zone.untouched[place : place + 1] = [(low, high) for low, high in rest if low < high]
            zone.vm_stat[NR_FREE_PAGES] -= size
            page = page_alloc.page_of_frame(zone, first)
            page_alloc.prep_block(zone, page, order, __GFP_COMP)
            return page
    return None


def free_gigantic_page(page: Page, order: int) -> None:
    """The end of one: it goes to the buddy allocator in pieces  (mm/hugetlb.c:
    free_gigantic_page)."""
    zone = page.zone
    if not page_alloc.free_pages_prepare(page, order):
        return
    largest = MAX_ORDER - 1
    with spin_lock(zone.lock):
        for pfn in range(page.pfn, page.pfn + (1 << order), 1 << largest):
            migratetype = page_alloc.get_pageblock_migratetype(zone, pfn)
            block = page_alloc.page_of_frame(zone, pfn)
            page_alloc.__free_one_page(zone, block, largest, migratetype)
        zone.vm_stat[NR_FREE_PAGES] += 1 << order


def update_and_free_page(h: Hstate, page: Page) -> None:
    """Give a page back to the buddy allocator  (mm/hugetlb.c: update_and_free_page)."""
    h.nr_huge_pages -= 1
    h.nr_huge_pages_node[page.zone.nid] -= 1
    page.flags &= ~(_CLEARED_ON_RELEASE | PG_hugetlb)
    if h.gigantic:
        free_gigantic_page(page, h.order)
        return
    page_ref_add(page, 1)
    page_alloc.__free_pages(page, h.order)


# --- the last reference ---


def free_huge_page(page: Page) -> None:
    """A page without references goes back to its pool, or out of it if the node has more than
    it should have  (mm/hugetlb.c: free_huge_page)."""
    h = page_hstate(page)
    nid = page.zone.nid
    spool = page_private(page)
    set_page_private(page, 0)
    set_page_mapping(page, None)
    BUG_ON(page_count(page) != 0, "a huge page is freed and has references", page)
    BUG_ON(page_mapped(page), "a huge page is freed and is mapped", page)
    restore_reserve = PagePrivate(page)
    ClearPagePrivate(page)
    with spin_lock(state(page.zone.kernel).lock):
        if restore_reserve:
            h.resv_huge_pages += 1
        if h.surplus_huge_pages_node[nid]:
            list_del(page)
            update_and_free_page(h, page)
            h.surplus_huge_pages -= 1
            h.surplus_huge_pages_node[nid] -= 1
        else:
            enqueue_huge_page(h, page)
    hugepage_subpool_put_pages(spool, 1)


# --- making pages ---


def _prep_new_huge_page(h: Hstate, page: Page) -> None:
    """A fresh compound page becomes the pool's, and free  (mm/hugetlb.c: prep_new_huge_page)."""
    page.flags |= PG_hugetlb
    with spin_lock(state(page.zone.kernel).lock):
        h.nr_huge_pages += 1
        h.nr_huge_pages_node[page.zone.nid] += 1
    swap.put_page(page)


def _alloc_fresh_huge_page_node(kernel: Kernel, h: Hstate, nid: int) -> bool:
    """mm/hugetlb.c: alloc_fresh_huge_page_node, alloc_fresh_gigantic_page_node."""
    gfp = htlb_alloc_mask(kernel, h) | __GFP_COMP | __GFP_THISNODE | __GFP_REPEAT | __GFP_NOWARN
    if h.gigantic:
        page = alloc_gigantic_page(kernel, nid, h.order)
    else:
        page = page_alloc.alloc_pages_exact_node(kernel, nid, gfp, h.order)
    if page is None:
        return False
    _prep_new_huge_page(h, page)
    return True


def _alloc_fresh_huge_page(kernel: Kernel, h: Hstate, nodes_allowed: list[int]) -> bool:
    """One page more, from the nodes in turn  (mm/hugetlb.c: alloc_fresh_huge_page)."""
    for nid in _nodes_to_alloc(h, nodes_allowed):
        if _alloc_fresh_huge_page_node(kernel, h, nid):
            kernel.vm_events[HTLB_BUDDY_PGALLOC] += 1
            return True
    if not h.gigantic:
        kernel.vm_events[HTLB_BUDDY_PGALLOC_FAIL] += 1
    return False


def _nodes_to_alloc(h: Hstate, nodes_allowed: list[int]) -> list[int]:
    """Every node once, and the next call begins one further  (for_each_node_mask_to_alloc).

    Differs: the turn passes on by one at a call, not at a node that is tried.
    """
    order = _in_turn(h.next_nid_to_alloc, nodes_allowed)
    h.next_nid_to_alloc = order[1 % len(order)]
    return order


def _nodes_to_free(h: Hstate, nodes_allowed: list[int]) -> list[int]:
    order = _in_turn(h.next_nid_to_free, nodes_allowed)
    h.next_nid_to_free = order[1 % len(order)]
    return order


def _in_turn(first: int, nodes_allowed: list[int]) -> list[int]:
    return [nid for nid in nodes_allowed if nid >= first] + [
        nid for nid in nodes_allowed if nid < first
    ]


def alloc_buddy_huge_page(kernel: Kernel, h: Hstate, nid: int) -> Page | None:
    """A surplus page, from @nid only unless that is NUMA_NO_NODE; None if that many are not
    allowed, or there is no memory.  It is on no list  (mm/hugetlb.c: alloc_buddy_huge_page)."""
    if h.gigantic:
        return None
    lock = state(kernel).lock
    with spin_lock(lock):
        if h.surplus_huge_pages >= h.nr_overcommit_huge_pages:
            return None
        h.nr_huge_pages += 1
        h.surplus_huge_pages += 1
    gfp = htlb_alloc_mask(kernel, h) | __GFP_COMP | __GFP_REPEAT | __GFP_NOWARN
    if nid == NUMA_NO_NODE:
        page = page_alloc.alloc_pages_node(kernel, nid, gfp, h.order)
    else:
        page = page_alloc.alloc_pages_exact_node(kernel, nid, gfp | __GFP_THISNODE, h.order)
    with spin_lock(lock):
        if page is not None:
            page.flags |= PG_hugetlb
            h.nr_huge_pages_node[page.zone.nid] += 1
            h.surplus_huge_pages_node[page.zone.nid] += 1
            kernel.vm_events[HTLB_BUDDY_PGALLOC] += 1
        else:
            h.nr_huge_pages -= 1
            h.surplus_huge_pages -= 1
            kernel.vm_events[HTLB_BUDDY_PGALLOC_FAIL] += 1
    return page


def alloc_huge_page_node(kernel: Kernel, h: Hstate, nid: int) -> Page | None:
    """A destination for migration on a node: a free page that is not promised, else a surplus
    one  (mm/hugetlb.c: alloc_huge_page_node)."""
    page = None
    with spin_lock(state(kernel).lock):
        if h.free_huge_pages - h.resv_huge_pages > 0:
            page = dequeue_huge_page_node(h, nid)
    return alloc_buddy_huge_page(kernel, h, nid) if page is None else page


# --- the size of a pool ---


def persistent_huge_pages(h: Hstate) -> int:
    return h.nr_huge_pages - h.surplus_huge_pages


def free_pool_huge_page(h: Hstate, nodes_allowed: list[int], acct_surplus: bool) -> bool:
    """One free page leaves the pool; hugetlb_lock is held  (mm/hugetlb.c: free_pool_huge_page)."""
    for nid in _nodes_to_free(h, nodes_allowed):
        if acct_surplus and not h.surplus_huge_pages_node[nid]:
            continue
        if list_empty(h.hugepage_freelists[nid]):
            continue
        page: Page = h.hugepage_freelists[nid].next
        list_del(page)
        h.free_huge_pages -= 1
        h.free_huge_pages_node[nid] -= 1
        if acct_surplus:
            h.surplus_huge_pages -= 1
            h.surplus_huge_pages_node[nid] -= 1
        update_and_free_page(h, page)
        return True
    return False


def _adjust_pool_surplus(h: Hstate, nodes_allowed: list[int], delta: int) -> bool:
    """Call a page surplus (1), or not any more (-1)  (mm/hugetlb.c: adjust_pool_surplus)."""
    order = _nodes_to_alloc if delta < 0 else _nodes_to_free
    for nid in order(h, nodes_allowed):
        surplus = h.surplus_huge_pages_node[nid]
        if surplus if delta < 0 else surplus < h.nr_huge_pages_node[nid]:
            h.surplus_huge_pages += delta
            h.surplus_huge_pages_node[nid] += delta
            return True
    return False


def set_max_huge_pages(kernel: Kernel, h: Hstate, count: int, nid: int = NUMA_NO_NODE) -> int:
    """Write to nr_hugepages, of one node if @nid says so; how many there are now
    (mm/hugetlb.c: set_max_huge_pages)."""
    nodes_allowed = [node.node_id for node in kernel.nodes if node.node_zones]
    if nid != NUMA_NO_NODE:
        nodes_allowed = [nid]
        count += h.nr_huge_pages - h.nr_huge_pages_node[nid]
    lock = state(kernel).lock
    spin_lock(lock)
    while h.surplus_huge_pages and count > persistent_huge_pages(h):
        if not _adjust_pool_surplus(h, nodes_allowed, -1):
            break
    while count > persistent_huge_pages(h):
        spin_unlock(lock)
        made = _alloc_fresh_huge_page(kernel, h, nodes_allowed)
        spin_lock(lock)
        if not made:
            break
    # What is promised or in use stays; it becomes surplus, and goes when it is freed.
    min_count = max(count, h.resv_huge_pages + h.nr_huge_pages - h.free_huge_pages)
    while min_count < persistent_huge_pages(h):
        if not free_pool_huge_page(h, nodes_allowed, False):
            break
    while count < persistent_huge_pages(h):
        if not _adjust_pool_surplus(h, nodes_allowed, 1):
            break
    left = persistent_huge_pages(h)
    spin_unlock(lock)
    return left


# --- promises ---


def _gather_surplus_pages(kernel: Kernel, h: Hstate, delta: int) -> int:
    """Promise @delta pages, made as surplus where free ones do not suffice.  0 or -ENOMEM;
    hugetlb_lock is held, and let go meanwhile  (mm/hugetlb.c: gather_surplus_pages)."""
    needed = h.resv_huge_pages + delta - h.free_huge_pages
    if needed <= 0:
        h.resv_huge_pages += delta
        return 0
    lock = state(kernel).lock
    surplus = ListHead()
    allocated, alloc_ok, ret = 0, True, -ENOMEM
    while True:
        spin_unlock(lock)
        for _ in range(needed):
            page = alloc_buddy_huge_page(kernel, h, NUMA_NO_NODE)
            if page is None:
                alloc_ok = False
                break
            list_add(page, surplus)
            allocated += 1
        spin_lock(lock)
        needed = h.resv_huge_pages + delta - (h.free_huge_pages + allocated)
        if needed <= 0 or not alloc_ok:
            break
    if needed <= 0:
        needed += allocated
        h.resv_huge_pages += delta
        ret = 0
        for page in surplus:
            needed -= 1
            if needed < 0:
                break
            VM_BUG_ON_PAGE(not put_page_testzero(page), page, "a surplus page has other users")
            enqueue_huge_page(h, page)
    spin_unlock(lock)
    for page in surplus:  # too many
        list_del(page)
        swap.put_page(page)
    spin_lock(lock)
    return ret


def _return_unused_surplus_pages(kernel: Kernel, h: Hstate, unused: int) -> None:
    """Take back a promise, and surplus pages with it  (mm/hugetlb.c:
    return_unused_surplus_pages)."""
    h.resv_huge_pages -= unused
    if h.gigantic:
        return
    nodes = [node.node_id for node in kernel.nodes if node.node_zones]
    for _ in range(min(unused, h.surplus_huge_pages)):
        if not free_pool_huge_page(h, nodes, True):
            break


def hugetlb_acct_memory(kernel: Kernel, h: Hstate, delta: int) -> int:
    """Promise @delta pages, or (negative) take promises back; 0 or -ENOMEM
    (mm/hugetlb.c: hugetlb_acct_memory)."""
    ret = -ENOMEM
    with spin_lock(state(kernel).lock):
        if delta > 0:
            if _gather_surplus_pages(kernel, h, delta) < 0:
                return ret
            allowed = cpuset_mems_allowed(sched.task)
            free = sum(n for nid, n in enumerate(h.free_huge_pages_node) if allowed >> nid & 1)
            if delta > free:
                _return_unused_surplus_pages(kernel, h, delta)
                return ret
        ret = 0
        if delta < 0:
            _return_unused_surplus_pages(kernel, h, -delta)
    return ret


def hugepage_new_subpool(nr_blocks: int) -> Subpool:
    """mm/hugetlb.c: hugepage_new_subpool."""
    return Subpool(SpinLock("subpool lock", "hugepage_subpool lock"), nr_blocks)


def hugepage_subpool_get_pages(spool: Subpool | None, delta: int) -> int:
    """0, or -ENOMEM if the mount may not have so many  (mm/hugetlb.c:
    hugepage_subpool_get_pages)."""
    if spool is None:
        return 0
    with spin_lock(spool.lock):
        if spool.used_hpages + delta > spool.max_hpages:
            return -ENOMEM
        spool.used_hpages += delta
    return 0


def hugepage_subpool_put_pages(spool: object, delta: int) -> None:
    if isinstance(spool, Subpool):
        with spin_lock(spool.lock):
            spool.used_hpages -= delta


# --- promises of an area ---


def vma_hugecache_offset(h: Hstate, vma: Vma, address: int) -> int:
    """The offset of an address in its file, in huge pages  (mm/hugetlb.c: vma_hugecache_offset)."""
    return ((address - vma.vm_start) >> h.shift) + (vma.vm_pgoff >> h.order)


def vma_reservation(vma: Vma) -> VmaReservation | None:
    found = vma.vm_private_data
    return found if isinstance(found, VmaReservation) else None


def is_vma_resv_set(vma: Vma, flag: int) -> bool:
    found = vma_reservation(vma)
    return found is not None and bool(found.flags & flag)


def set_vma_resv_flags(vma: Vma, flags: int) -> None:
    found = vma_reservation(vma)
    if found is None:
        vma.vm_private_data = VmaReservation(None, flags)
    else:
        # A half of a split area shares its map, and not its flags.
        vma.vm_private_data = VmaReservation(found.map, found.flags | flags)


def vma_resv_map(vma: Vma) -> ResvMap | None:
    """The file's for a shared area, its own for a private one  (mm/hugetlb.c: vma_resv_map)."""
    if vma.vm_flags & VM_MAYSHARE:
        assert vma.vm_file is not None
        of_file: ResvMap = vma.vm_file.f_inode.fs.resv_map
        return of_file
    found = vma_reservation(vma)
    return None if found is None else found.map


def vma_has_reserves(vma: Vma, chg: int) -> bool:
    """Whether the pool has promised this area a page  (mm/hugetlb.c: vma_has_reserves)."""
    if vma.vm_flags & VM_NORESERVE:
        # A shared page that somebody else reserved
        return bool(vma.vm_flags & VM_MAYSHARE) and chg == 0
    if vma.vm_flags & VM_MAYSHARE:
        return True
    return is_vma_resv_set(vma, HPAGE_RESV_OWNER)


def vma_needs_reservation(h: Hstate, vma: Vma, addr: int) -> int:
    """0 if a page for @addr has been promised, else 1  (mm/hugetlb.c: vma_needs_reservation)."""
    resv = vma_resv_map(vma)
    if resv is None:
        return 1
    index = vma_hugecache_offset(h, vma, addr)
    chg = region_chg(resv, index, index + 1)
    return chg if vma.vm_flags & VM_MAYSHARE else 0


def vma_commit_reservation(h: Hstate, vma: Vma, addr: int) -> None:
    """mm/hugetlb.c: vma_commit_reservation."""
    resv = vma_resv_map(vma)
    if resv is not None:
        index = vma_hugecache_offset(h, vma, addr)
        region_add(resv, index, index + 1)


def vma_unused_reservation(h: Hstate, vma: Vma, resv: ResvMap) -> int:
    """How many pages an area that goes away was promised and never took."""
    start = vma_hugecache_offset(h, vma, vma.vm_start)
    end = vma_hugecache_offset(h, vma, vma.vm_end)
    return end - start - region_count(resv, start, end)


def alloc_huge_page(vma: Vma, addr: int, avoid_reserve: bool) -> Page | int:
    """A page for an address of an area; -ENOMEM or -ENOSPC.  @avoid_reserve: not from what is
    promised to it, because that page is meant for another use  (mm/hugetlb.c: alloc_huge_page)."""
    kernel = vma.vm_mm.kernel
    h = hstate_vma(vma)
    assert vma.vm_file is not None
    spool: Subpool | None = vma.vm_file.f_inode.fs.spool
    chg = vma_needs_reservation(h, vma, addr)
    if chg < 0:
        return -ENOMEM
    if (chg or avoid_reserve) and hugepage_subpool_get_pages(spool, 1):
        return -ENOSPC
    lock = state(kernel).lock
    spin_lock(lock)
    page = dequeue_huge_page_vma(h, vma, addr, avoid_reserve, chg)
    if page is None:
        spin_unlock(lock)
        page = alloc_buddy_huge_page(kernel, h, NUMA_NO_NODE)
        if page is None:
            if chg or avoid_reserve:
                hugepage_subpool_put_pages(spool, 1)
            return -ENOSPC
        spin_lock(lock)
        list_move(page, h.hugepage_activelist)
    spin_unlock(lock)
    set_page_private(page, spool or 0)
    vma_commit_reservation(h, vma, addr)
    return page


def alloc_huge_page_noerr(vma: Vma, addr: int, avoid_reserve: bool) -> Page | None:
    """mm/hugetlb.c: alloc_huge_page_noerr."""
    page = alloc_huge_page(vma, addr, avoid_reserve)
    return None if isinstance(page, int) else page


# --- isolation, for migration ---


def isolate_huge_page(page: Page, list: ListHead) -> bool:
    """Take a head off its list, with a reference; False if it is free
    (mm/hugetlb.c: isolate_huge_page).

    Known defect of v3.19: whether somebody else has isolated it already is not asked; the page
    then leaves the list of who was first, with whom its reference stays for ever.
    Differs: the later kernel marks active pages, not those that are isolated.
    """
    VM_BUG_ON_PAGE(not PageHead(page), page, "isolate_huge_page of no head")
    kernel = page.zone.kernel
    if kernel.has(ACTIVE_HUGE_PAGES):
        isolated = page_hstate(page).isolated
        with spin_lock(state(kernel).lock):
            if page in isolated or not get_page_unless_zero(page):
                return False
            isolated[page] = None
            list_move_tail(page, list)
        return True
    if not get_page_unless_zero(page):
        return False
    with spin_lock(state(kernel).lock):
        list_move_tail(page, list)
    return True


def putback_active_hugepage(page: Page) -> None:
    """Undo an isolation  (mm/hugetlb.c: putback_active_hugepage)."""
    VM_BUG_ON_PAGE(not PageHead(page), page, "putback_active_hugepage of no head")
    with spin_lock(state(page.zone.kernel).lock):
        page_hstate(page).isolated.pop(page, None)
        list_move_tail(page, page_hstate(page).hugepage_activelist)
    swap.put_page(page)


def is_hugepage_active(page: Page) -> bool:
    """Whether a page that is known to be of hugetlb is in use  (mm/hugetlb.c:
    is_hugepage_active)."""
    VM_BUG_ON_PAGE(not PageHuge(page), page, "not a page of hugetlb")
    if page.flags & PG_tail:
        return False
    return page_count(page) > 0


def dequeue_hwpoisoned_huge_page(hpage: Page) -> bool:
    """Take a free page that is not to be used any more off its list; whether it was free
    (mm/hugetlb.c: dequeue_hwpoisoned_huge_page)."""
    h = page_hstate(hpage)
    nid = hpage.zone.nid
    with spin_lock(state(hpage.zone.kernel).lock):
        if hpage not in h.hugepage_freelists[nid]:
            return False
        list_del(hpage)
        page_ref_add(hpage, 1)
        h.free_huge_pages -= 1
        h.free_huge_pages_node[nid] -= 1
    return True


def dissolve_free_huge_pages(kernel: Kernel, start_pfn: int, end_pfn: int) -> None:
    """Free pages of a range that goes out of use leave their pools
    (mm/hugetlb.c: dissolve_free_huge_pages)."""
    for pfn in range(start_pfn, end_pfn, 1 << min(h.order for h in state(kernel).hstates)):
        page = page_isolation.page_or_none(kernel, pfn)
        if page is None:
            continue
        with spin_lock(state(kernel).lock):
            if page.flags & PG_hugetlb and not page_count(page):
                h = page_hstate(page)
                list_del(page)
                h.free_huge_pages -= 1
                h.free_huge_pages_node[page.zone.nid] -= 1
                update_and_free_page(h, page)


def first_of(parts: Page, index: int) -> Page:
    """The base page @index of a huge page  (mm/internal.h: mem_map_offset)."""
    return parts.zone.kernel.page_of(parts.pfn + index)
