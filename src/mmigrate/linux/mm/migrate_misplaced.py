"""Migration by hinting faults: to the node that uses the page
(mm/migrate.c: migrate_misplaced_page, migrate_misplaced_transhuge_page).

How much goes to a node in a time is limited, and the node must have memory to spare. A huge page
is moved whole, in a way of its own: its contents are copied while the pmd is marked but still
leads to the old page.
"""

from __future__ import annotations

from typing import Any, Final

from mmigrate.linux.include.gfp import (
    __GFP_NOMEMALLOC,
    __GFP_NORETRY,
    __GFP_NOWARN,
    __GFP_THISNODE,
    __GFP_WAIT,
    GFP_HIGHUSER_MOVABLE,
    GFP_IOFS,
    GFP_TRANSHUGE,
)
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC, MR_NUMA_MISPLACED
from mmigrate.linux.include.mm import VM_EXEC
from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.mmzone import WMARK_HIGH, PglistData, Zone
from mmigrate.linux.include.pgtable import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_ORDER,
    HPAGE_PMD_SIZE,
    PAGE_SHIFT,
    pte_mkdirty,
    pte_mknonnuma,
)
from mmigrate.linux.include.switches import DRM_NEXT_NOTIFIERS
from mmigrate.linux.include.vmstat import (
    NR_ACTIVE_ANON,
    NR_ACTIVE_FILE,
    NR_INACTIVE_ANON,
    NR_INACTIVE_FILE,
    NR_ISOLATED_ANON,
    NR_PAGES_SCANNED,
    NUMA_PAGE_MIGRATE,
    PGMIGRATE_FAIL,
    PGMIGRATE_SUCCESS,
)
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON, WARN_ON
from mmigrate.linux.kernel.page_flags import (
    PageLRU,
    PageTransHuge,
    SetPageActive,
    SetPageSwapBacked,
    SetPageUnevictable,
    TestClearPageActive,
    TestClearPageUnevictable,
    hpage_nr_pages,
    page_is_file_cache,
    page_mapping_of,
    set_page_mapping,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import get_page, page_count, page_mapcount
from mmigrate.linux.kernel.pgtable import pmd_get, pmdp_clear_flush, set_pmd_at
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.tlb import flush_tlb_range
from mmigrate.linux.lib.list import ListHead, list_add, list_del, list_empty
from mmigrate.linux.mm import (
    huge_memory,
    memcontrol,
    migrate,
    mlock,
    mmu_notifier,
    page_alloc,
    rmap,
    swap,
    swapfile,
    vmscan,
)

MIGRATE_INTERVAL_MILLISECS: Final = 100
RATELIMIT_PAGES: Final = 128 << (20 - PAGE_SHIFT)
GFP_MISPLACED: Final = (
    GFP_HIGHUSER_MOVABLE | __GFP_THISNODE | __GFP_NOMEMALLOC | __GFP_NORETRY | __GFP_NOWARN
) & ~GFP_IOFS


def migrate_balanced_pgdat(pgdat: PglistData, nr_migrate_pages: int) -> bool:
    """Whether a node could take that many pages without waking kswapd
    (mm/migrate.c: migrate_balanced_pgdat)."""
    for zone in reversed(pgdat.node_zones):
        if not _zone_reclaimable(zone):
            continue
        mark = zone.watermark[WMARK_HIGH] + nr_migrate_pages
        if page_alloc.zone_watermark_ok(zone, 0, mark, 0, 0):
            return True
    return False


def _zone_reclaimable(zone: Zone) -> bool:
    """Whether reclaim has not given up on a zone  (mm/vmscan.c: zone_reclaimable).

    Differs: a zone that has nothing to reclaim is reclaimable until a scan was in vain; a
    real one is never that empty.
    """
    stat = zone.vm_stat
    reclaimable = stat[NR_INACTIVE_FILE] + stat[NR_ACTIVE_FILE]
    if swapfile.swap_of(zone.kernel).nr_swap_pages > 0:
        reclaimable += stat[NR_INACTIVE_ANON] + stat[NR_ACTIVE_ANON]
    scanned = stat[NR_PAGES_SCANNED]
    return scanned == 0 or scanned < reclaimable * 6


def numamigrate_update_ratelimit(pgdat: PglistData, nr_pages: int) -> bool:
    """Whether the node has got its pages for this time already; if not, count @nr_pages, which
    may overshoot  (mm/migrate.c: numamigrate_update_ratelimit)."""
    kernel = pgdat.kernel
    if kernel.jiffies > READ_ONCE(pgdat, "numabalancing_migrate_next_window"):
        with spin_lock(pgdat.numabalancing_migrate_lock):
            WRITE_ONCE(pgdat, "numabalancing_migrate_nr_pages", 0)
            window = kernel.jiffies + MIGRATE_INTERVAL_MILLISECS
            WRITE_ONCE(pgdat, "numabalancing_migrate_next_window", window)
    if READ_ONCE(pgdat, "numabalancing_migrate_nr_pages") > RATELIMIT_PAGES:
        kernel.trace("mm_numa_migrate_ratelimit", dst_nid=pgdat.node_id, nr_pages=nr_pages)
        return True
    # Not atomic: counts may be lost.
    counted = READ_ONCE(pgdat, "numabalancing_migrate_nr_pages") + nr_pages
    WRITE_ONCE(pgdat, "numabalancing_migrate_nr_pages", counted)
    return False


def numamigrate_isolate_page(pgdat: PglistData, page: Page) -> bool:
    """Isolate a page that is to move to @pgdat, and drop the caller's reference; False: neither
    (mm/migrate.c: numamigrate_isolate_page)."""
    if not migrate_balanced_pgdat(pgdat, 1 << page_alloc.compound_order(page)):
        return False
    if vmscan.isolate_lru_page(page):
        return False
    # One mapping, the caller's and ours: whoever has more, or has pinned it, keeps it here.
    if PageTransHuge(page) and page_count(page) != 3:
        vmscan.putback_lru_page(page)
        return False
    page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += hpage_nr_pages(page)
    swap.put_page(page)
    return True


def alloc_misplaced_dst_page(page: Page, node: int, _result: list[Any]) -> Page | None:
    """mm/migrate.c: alloc_misplaced_dst_page."""
    return page_alloc.alloc_pages_exact_node(page.zone.kernel, node, GFP_MISPLACED, 0)


def migrate_misplaced_page(page: Page, vma: Vma, node: int) -> bool:
    """Try to move a page to @node; the caller's reference goes in any case
    (mm/migrate.c: migrate_misplaced_page)."""
    pgdat = page.zone.kernel.nodes[node]
    # The code of programs and libraries is cached everywhere anyway.
    if page_mapcount(page) != 1 and page_is_file_cache(page) and vma.vm_flags & VM_EXEC:
        swap.put_page(page)
        return False
    if numamigrate_update_ratelimit(pgdat, 1) or not numamigrate_isolate_page(pgdat, page):
        swap.put_page(page)
        return False
    pagelist = ListHead()
    list_add(page, pagelist)
    remaining = migrate.migrate_pages(
        pagelist, alloc_misplaced_dst_page, None, node, MIGRATE_ASYNC, MR_NUMA_MISPLACED
    )
    if remaining:
        if not list_empty(pagelist):
            list_del(page)
            page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] -= 1
            vmscan.putback_lru_page(page)
    else:
        page.zone.kernel.vm_events[NUMA_PAGE_MIGRATE] += 1
    BUG_ON(not list_empty(pagelist), "left behind by a misplaced migration", page)
    return remaining == 0


def migrate_misplaced_transhuge_page(
    mm: Mm, vma: Vma, pmds: PageTable, entry: int, address: int, page: Page, node: int
) -> bool:
    """Try to move a huge page to @node. It is locked and referenced by the caller, both of which
    end here; the anon_vma is locked for read; @entry is the marked pmd that led here
    (mm/migrate.c: migrate_misplaced_transhuge_page).

    Known windows of v3.19: the pmd is empty for a moment; and the new page can be stored to
    before the last look for pins, which may take the old page back.

    Known defect of v3.19: once the lock of the pmd is let go, only the mapping has a reference
    on the new page, and madvise(MADV_DONTNEED) of another thread can free it before it is put on
    the LRU.  It went with Linux kernel commit c5b5a3dd2c1f ("mm: thp: refactor NUMA fault
    handling") (in v5.14).
    """
    kernel = mm.kernel
    pgdat = kernel.nodes[node]
    haddr = address & HPAGE_PMD_MASK
    if numamigrate_update_ratelimit(pgdat, HPAGE_PMD_NR):
        return _dropref(mm, pmds, haddr, entry, page)
    gfp = (GFP_TRANSHUGE | __GFP_THISNODE) & ~__GFP_WAIT
    new_page = page_alloc.alloc_pages_node(kernel, node, gfp, HPAGE_PMD_ORDER)
    if new_page is None:
        return _fail(mm, pmds, haddr, entry, page)
    if not numamigrate_isolate_page(pgdat, page):
        swap.put_page(new_page)
        return _fail(mm, pmds, haddr, entry, page)

    if READ_ONCE(mm, "tlb_flush_pending"):
        flush_tlb_range(vma, haddr, haddr + HPAGE_PMD_SIZE)

    # Marked pmds keep writers away, and this lock whoever faults.
    trylock_page(new_page)
    SetPageSwapBacked(new_page)
    set_page_mapping(new_page, page_mapping_of(page))
    new_page.index = page.index
    migrate.migrate_page_copy(new_page, page)
    WARN_ON(PageLRU(new_page), "the copy of a huge page is on the LRU")

    ptl = pmds.ptl
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, haddr, haddr + HPAGE_PMD_SIZE)
    spin_lock(ptl)
    if pmd_get(pmds, address) != entry or page_count(page) != 2:
        return _putback(mm, pmds, haddr, page, new_page)

    orig_entry = pmd_get(pmds, address)
    new_entry = huge_memory.mk_huge_pmd(new_page, vma.vm_page_prot)
    new_entry = huge_memory.maybe_pmd_mkwrite(pte_mkdirty(new_entry), vma)
    rmap.page_add_anon_rmap(new_page, vma, haddr)
    # Here the merge of drm-next changed this function, and below at the way back.
    if kernel.has(DRM_NEXT_NOTIFIERS):
        huge_memory.pmdp_clear_flush_notify(vma, haddr, pmds)
    else:
        pmdp_clear_flush(vma, haddr, pmds)
    set_pmd_at(mm, haddr, pmds, new_entry)
    flush_tlb_range(vma, haddr, haddr + HPAGE_PMD_SIZE)
    if page_count(page) != 2:
        set_pmd_at(mm, haddr, pmds, orig_entry)
        flush_tlb_range(vma, haddr, haddr + HPAGE_PMD_SIZE)
        if kernel.has(DRM_NEXT_NOTIFIERS):
            mmu_notifier.mmu_notifier_invalidate_range(mm, haddr, haddr + HPAGE_PMD_SIZE)
        rmap.page_remove_rmap(new_page)
        return _putback(mm, pmds, haddr, page, new_page)

    memcontrol.mem_cgroup_migrate(page, new_page, False)
    rmap.page_remove_rmap(page)
    spin_unlock(ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, haddr, haddr + HPAGE_PMD_SIZE)
    get_page(new_page)  # putback_lru_page drops one
    vmscan.putback_lru_page(new_page)
    unlock_page(new_page)
    unlock_page(page)
    swap.put_page(page)  # the mapping's
    swap.put_page(page)  # the isolation's, which frees it
    kernel.vm_events[PGMIGRATE_SUCCESS] += HPAGE_PMD_NR
    kernel.vm_events[NUMA_PAGE_MIGRATE] += HPAGE_PMD_NR
    page.zone.vm_stat[NR_ISOLATED_ANON] -= HPAGE_PMD_NR
    return True


def _putback(mm: Mm, pmds: PageTable, haddr: int, page: Page, new_page: Page) -> bool:
    """Somebody changed the pmd, or pinned the page: give the flags back and forget the copy. The
    pmd, whose lock is held, stays as it is.

    Known defect of v3.19: the dirty flag and the last user of the page are not given back.
    """
    spin_unlock(pmds.ptl)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, haddr, haddr + HPAGE_PMD_SIZE)
    if TestClearPageActive(new_page):
        SetPageActive(page)
    if TestClearPageUnevictable(new_page):
        SetPageUnevictable(page)
    mlock.mlock_migrate_page(page, new_page)
    unlock_page(new_page)
    swap.put_page(new_page)
    get_page(page)  # putback_lru_page drops one
    vmscan.putback_lru_page(page)
    page.zone.vm_stat[NR_ISOLATED_ANON] -= HPAGE_PMD_NR
    return _unlock(page)


def _fail(mm: Mm, pmds: PageTable, haddr: int, entry: int, page: Page) -> bool:
    mm.kernel.vm_events[PGMIGRATE_FAIL] += HPAGE_PMD_NR
    return _dropref(mm, pmds, haddr, entry, page)


def _dropref(mm: Mm, pmds: PageTable, haddr: int, entry: int, page: Page) -> bool:
    """The page stays: unmark the pmd."""
    with spin_lock(pmds.ptl):
        if pmd_get(pmds, haddr) == entry:
            set_pmd_at(mm, haddr, pmds, pte_mknonnuma(entry))
    return _unlock(page)


def _unlock(page: Page) -> bool:
    unlock_page(page)
    swap.put_page(page)
    return False
