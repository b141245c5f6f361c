"""Memory cgroups before commit 0a31bc97c80c: as v3.16 charged and uncharged.

A page was charged before it had a mapping, so it had to be uncharged where the context still
told its kind: at the last unmap (anonymous), at the removal from the page cache (files), and
at the removal from the swap cache, which happens on the way out and on the way in.  All of that
comes before the page is freed.  Migration unmaps a page and means to keep it, so it had to say
so beforehand (`mem_cgroup_prepare_migration`) and to clean up (`mem_cgroup_end_migration`).

Beside each page stands a `PageCgroup`, with flags of its own and a bit spinlock that every
charge, uncharge, migration and move takes.

Differs: the charge is committed where v3.19 does it, once the mapping is set; counters in pages;
a group that is removed stays, as its pages do.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.page_flags import PG_head
from mmigrate.linux.include.pgtable import HPAGE_PMD_NR
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.bug import VM_BUG_ON_PAGE
from mmigrate.linux.kernel.page_flags import (
    PageAnon,
    PageSwapCache,
    page_is_file_cache,
)
from mmigrate.linux.kernel.page_ref import page_mapped
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock
from mmigrate.linux.mm import memcontrol
from mmigrate.linux.mm.page_counter import page_counter_uncharge

if TYPE_CHECKING:
    from mmigrate.linux.mm.memcontrol import MemCgroup

PCG_USED: Final = 1
PCG_MIGRATION: Final = 2


class ChargeType(Enum):
    """What kind of page the caller takes it for  (enum charge_type)."""

    CACHE = auto()
    ANON = auto()
    SWAPOUT = auto()
    DROP = auto()


class PageCgroup:
    """struct page_cgroup; `page.mem_cgroup` stands for its mem_cgroup, and stays after the
    page is uncharged, because the LRU list the page is on follows from it.  @taken: how often
    the bit lock was taken, for observers."""

    __slots__ = ("flags", "lock", "taken")

    def __init__(self, page: Page) -> None:
        self.lock = SpinLock("page_cgroup", f"{page!r} page_cgroup")
        self.flags = 0
        self.taken = 0


def lookup_page_cgroup(page: Page) -> PageCgroup:
    """mm/page_cgroup.c: lookup_page_cgroup."""
    table = memcontrol.state(page.zone.kernel).page_cgroups
    found: PageCgroup | None = table.get(page.pfn)
    if found is None:
        found = table[page.pfn] = PageCgroup(page)
    return found


def is_used(page: Page) -> bool:
    """Whether the page is charged, for observers."""
    found = memcontrol.state(page.zone.kernel).page_cgroups.get(page.pfn)
    return found is not None and bool(found.flags & PCG_USED)


def _lock(pc: PageCgroup) -> SpinLock:
    pc.taken += 1
    return spin_lock(pc.lock)


def _size(page: Page) -> int:
    return HPAGE_PMD_NR if page.flags & PG_head else 1


def commit_charge(page: Page, memcg: MemCgroup, lrucare: bool) -> None:
    """mm/memcontrol.c: __mem_cgroup_commit_charge, but its statistics."""
    pc = lookup_page_cgroup(page)
    with _lock(pc):
        VM_BUG_ON_PAGE(bool(pc.flags & PCG_USED), page, "charged while it is charged")
        isolated = memcontrol.lock_page_lru(page) if lrucare else False
        WRITE_ONCE(page, "mem_cgroup", memcg)
        WRITE_ONCE(pc, "flags", pc.flags | PCG_USED)
        if lrucare:
            memcontrol.unlock_page_lru(page, isolated)


def uncharge_common(page: Page, ctype: ChargeType, end_migration: bool) -> MemCgroup | None:
    """Uncharge a page unless somebody still uses it as what it was charged for; its group
    (mm/memcontrol.c: __mem_cgroup_uncharge_common)."""
    pc = lookup_page_cgroup(page)
    if not READ_ONCE(pc, "flags") & PCG_USED:
        return None
    nr_pages = _size(page)
    with _lock(pc):
        if not pc.flags & PCG_USED or _in_use(page, pc, ctype, end_migration):
            return None
        memcg: MemCgroup = page.mem_cgroup
        anon = PageAnon(page) or ctype is ChargeType.ANON
        memcg.stat["rss" if anon else "cache"] -= nr_pages
        memcg.stat["rss_huge"] -= nr_pages if page.flags & PG_head else 0
        memcg.stat["pgpgout"] += 1
        WRITE_ONCE(pc, "flags", pc.flags & ~PCG_USED)
    groups = memcontrol.state(memcg.kernel)
    if ctype is ChargeType.SWAPOUT:
        memcg.stat["swap"] += 1
    if not end_migration and memcg is not groups.root:
        page_counter_uncharge(memcg.memory, nr_pages)
        if ctype is not ChargeType.SWAPOUT:
            page_counter_uncharge(memcg.memsw, nr_pages)
            groups.ends += nr_pages
            memcontrol.css_put_many(memcg, nr_pages)
    return memcg


def _in_use(page: Page, pc: PageCgroup, ctype: ChargeType, end_migration: bool) -> bool:
    if ctype in (ChargeType.ANON, ChargeType.DROP):
        # Migration unmaps a page that it means to keep; only its end may uncharge it.
        return page_mapped(page) or (not end_migration and bool(pc.flags & PCG_MIGRATION))
    if ctype is ChargeType.SWAPOUT:
        if PageAnon(page):
            return page_mapped(page)
        return page.mapping is not None and not page_is_file_cache(page)
    return False


def mem_cgroup_uncharge_page(page: Page) -> None:
    """The last pte of an anonymous page has gone  (mm/memcontrol.c: mem_cgroup_uncharge_page)."""
    if page_mapped(page) or PageSwapCache(page):
        return
    uncharge_common(page, ChargeType.ANON, False)


def mem_cgroup_uncharge_cache_page(page: Page) -> None:
    """A page has left the page cache  (mm/memcontrol.c: mem_cgroup_uncharge_cache_page)."""
    uncharge_common(page, ChargeType.CACHE, False)


def mem_cgroup_uncharge_swapcache(page: Page, entry: int, swapout: bool) -> None:
    """A page has left the swap cache; @swapout: somebody still names its place, so it was
    probably swapped out  (mm/memcontrol.c: mem_cgroup_uncharge_swapcache)."""
    ctype = ChargeType.SWAPOUT if swapout else ChargeType.DROP
    memcg = uncharge_common(page, ctype, False)
    if swapout and memcg is not None:
        memcontrol.state(memcg.kernel).swap_cgroup[entry] = memcg.css_id


def forget(page: Page) -> None:
    """The page is being freed, and counts for nobody."""
    pc = lookup_page_cgroup(page)
    VM_BUG_ON_PAGE(bool(pc.flags & PCG_USED), page, f"freed while charged to {page.mem_cgroup!r}")
    VM_BUG_ON_PAGE(bool(pc.flags & PCG_MIGRATION), page, "freed under migration")
    page.mem_cgroup = None


# --- migration and replacement ---


def mem_cgroup_prepare_migration(page: Page, newpage: Page) -> MemCgroup | None:
    """Say that @page will be unmapped and kept, and mark @newpage as charged too, without
    charging the counter; the group, for the end
    (mm/memcontrol.c: mem_cgroup_prepare_migration)."""
    memcg: MemCgroup | None = None
    pc = lookup_page_cgroup(page)
    with _lock(pc):
        if pc.flags & PCG_USED:
            memcg = page.mem_cgroup
            assert memcg is not None
            memcontrol.css_get_many(memcg, 1)
            # Anonymous memory may be unmapped for good meanwhile; the end will look.
            if PageAnon(page):
                WRITE_ONCE(pc, "flags", pc.flags | PCG_MIGRATION)
    if memcg is None:
        return None
    commit_charge(newpage, memcg, False)
    memcg.stat["rss" if PageAnon(page) else "cache"] += _size(page)
    memcg.stat["rss_huge"] += _size(page) if page.flags & PG_head else 0
    memcg.stat["pgpgin"] += 1
    return memcg


def mem_cgroup_end_migration(
    memcg: MemCgroup | None, oldpage: Page, newpage: Page, migration_ok: bool
) -> None:
    """Uncharge the one of the two that is not used, without its counter, and the other one if
    it was unmapped for good meanwhile  (mm/memcontrol.c: mem_cgroup_end_migration)."""
    if memcg is None:
        return
    used, unused = (newpage, oldpage) if migration_ok else (oldpage, newpage)
    anon = PageAnon(used)
    uncharge_common(unused, ChargeType.ANON if anon else ChargeType.CACHE, True)
    memcontrol.css_put_many(memcg, 1)
    pc = lookup_page_cgroup(oldpage)
    with _lock(pc):
        WRITE_ONCE(pc, "flags", pc.flags & ~PCG_MIGRATION)
    if anon:
        mem_cgroup_uncharge_page(used)


def mem_cgroup_replace_page_cache(oldpage: Page, newpage: Page) -> None:
    """@newpage has taken the place of @oldpage in a file; it is taken for one that nobody pays
    for  (mm/memcontrol.c: mem_cgroup_replace_page_cache)."""
    memcg: MemCgroup | None = None
    pc = lookup_page_cgroup(oldpage)
    with _lock(pc):
        if pc.flags & PCG_USED:
            memcg = page_memcg = oldpage.mem_cgroup
            assert page_memcg is not None
            page_memcg.stat["cache"] -= 1
            WRITE_ONCE(pc, "flags", pc.flags & ~PCG_USED)
    if memcg is not None:
        commit_charge(newpage, memcg, True)
        memcg.stat["cache"] += 1
        memcg.stat["pgpgin"] += 1
