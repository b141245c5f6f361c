"""Page migration: from a list of isolated pages to moved pages  (mm/migrate.c).

Interface: `migrate_pages` moves a list; `migrate_page`, `buffer_migrate_page` and the
fallback are the methods of mappings; migration entries stand in page tables meanwhile.
In every step both pages' names are the kernel's: `page` is the old one, `newpage` the new.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EBUSY, EINVAL, EIO, ENOMEM, ENOSYS
from typing import Any, Final

from mmigrate.api import Reason
from mmigrate.linux.fs import buffer
from mmigrate.linux.include.gfp import GFP_KERNEL
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.ksm import StableNode
from mmigrate.linux.include.migrate_mode import (
    MIGRATE_ASYNC,
    MIGRATE_SYNC,
    MIGRATEPAGE_SUCCESS,
    MigrateMode,
    MigrateReason,
)
from mmigrate.linux.include.mm import (
    AOP_WRITEPAGE_ACTIVATE,
    PF_MEMALLOC,
    PF_SWAPWRITE,
    SWAP_AGAIN,
    TTU_IGNORE_ACCESS,
    TTU_IGNORE_MLOCK,
    TTU_MIGRATION,
    VM_LOCKED,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import AddressSpace, Mm, Page, PageTable, Vma
from mmigrate.linux.include.page_flags import PG_head, PG_hugetlb, PG_locked, PG_writeback
from mmigrate.linux.include.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_FILE,
    _PAGE_RW,
    _PAGE_SOFT_DIRTY,
    _PAGE_SWP_SOFT_DIRTY,
    _PRESENT_NONUMA,
    PAGE_SHIFT,
    SWP_MIGRATION_READ,
    SWP_MIGRATION_WRITE,
    is_migration_entry,
    is_swap_pte,
    pte_to_swp_entry,
    swp_entry,
    swp_offset,
    swp_type,
)
from mmigrate.linux.include.switches import (
    BALLOON_REDESIGN,
    CLEAR_SWAPBACKED_OF_DESTINATION,
    CLOSE_MPROTECT_RACE,
    DESTINATION_FREEING_CALLBACK,
    HUGE_PAGES_COUNT_IN_FULL,
    KEEP_ANON_VMA,
    KEEP_SOFT_DIRTY,
    MLOCK_MIGRATED,
    NO_LOOK_BEFORE_LOCK,
    NO_MEMORY_COUNTS_AS_FAILED,
    REMAP_NONLINEAR,
    RETRIES_COUNT_AS_FAILED,
    SUBPOOL_COMES_ALONG,
    UNMAPPED_NO_RMAP_WALK,
    UNTOUCHED_DESTINATION,
)
from mmigrate.linux.include.vmstat import (
    NR_FILE_PAGES,
    NR_ISOLATED_ANON,
    NR_SHMEM,
    PGMIGRATE_FAIL,
    PGMIGRATE_SUCCESS,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.area import vma_flags, vma_page_prot
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.frames import pfn_to_page
from mmigrate.linux.kernel.highmem import copy_highpage
from mmigrate.linux.kernel.page_flags import (
    ClearPagePrivate,
    ClearPageSwapBacked,
    PageAnon,
    PageAnonNotKsm,
    PageDirty,
    PagePrivate,
    PageSwapBacked,
    PageSwapCache,
    PageTransHuge,
    PageWriteback,
    SetPageDirty,
    SetPagePrivate,
    SetPageSwapBacked,
    SetPageSwapCache,
    copy_page_flags,
    forget_owner,
    lock_page,
    page_anon_vma,
    page_has_private,
    page_is_file_cache,
    page_mapping,
    page_mapping_of,
    page_private,
    set_page_mapping,
    set_page_private,
    trylock_page,
    unlock_page,
    wait_on_page_locked,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import (
    PageBalloon,
    get_page,
    get_page_unless_zero,
    page_count,
    page_freeze_refs,
    page_mapped,
    page_unfreeze_refs,
    wait_until_unfrozen,
)
from mmigrate.linux.kernel.pgtable import ptep_get, set_pte_at
from mmigrate.linux.kernel.rcu import radix_tree_lookup, radix_tree_store
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.straight import hot, small
from mmigrate.linux.lib.list import ListHead, list_del
from mmigrate.linux.mm import (
    balloon_compaction,
    filemap,
    huge_memory,
    huge_split,
    hugetlb_pool,
    hugetlb_rmap,
    ksm,
    memcontrol,
    mlock,
    page_alloc,
    page_writeback,
    rmap,
    swap,
    vmscan,
)
from mmigrate.linux.mm.rmap_walk_control import RmapWalkControl

# (page, private, result) -> destination or None; result[0] may be set to an object whose
# `status` will be told how it went.
NewPage = Callable[[Page, Any, list[Any]], Page | None]
FreePage = Callable[[Page, Any], None]

PASSES: Final = 10
_NOT_SWAP: Final = _PRESENT_NONUMA | _PAGE_FILE
_UNMAP_FLAGS: Final = TTU_MIGRATION | TTU_IGNORE_MLOCK | TTU_IGNORE_ACCESS


def migrate_prep(kernel: Kernel) -> int:
    """Empty the page vectors of all CPUs: a page in one cannot be isolated, and has a
    reference too many  (mm/migrate.c: migrate_prep).  Sleeps; 0."""
    swap.lru_add_drain_all(kernel)
    return 0


def migrate_prep_local() -> int:
    """The same on this CPU only  (mm/migrate.c: migrate_prep_local)."""
    swap.lru_add_drain()
    return 0


def putback_movable_pages(pages: ListHead) -> None:
    """Give back what was isolated and not moved  (mm/migrate.c: putback_movable_pages)."""
    for page in pages:
        if page.flags & PG_hugetlb:
            hugetlb_pool.putback_active_hugepage(page)
            continue
        list_del(page)
        page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] -= 1
        if not page.zone.kernel.has(BALLOON_REDESIGN):
            if balloon_compaction.v317_isolated_balloon_page(page):
                balloon_compaction.v317_balloon_page_putback(page)
            else:
                vmscan.putback_lru_page(page)
        elif balloon_compaction.isolated_balloon_page(page):
            balloon_compaction.balloon_page_putback(page)
        else:
            vmscan.putback_lru_page(page)


# --- migration entries ---


@small
def make_migration_entry(page: Page, write: int) -> int:
    """The entry that stands for @page in a page table  (include/linux/swapops.h)."""
    if not page.flags & PG_locked:
        BUG("migration entry for an unlocked page", page)
    return swp_entry(SWP_MIGRATION_WRITE if write else SWP_MIGRATION_READ, page.pfn)


@small
def migration_entry_to_page(kernel: Kernel, entry: int) -> Page:
    """The page an entry names; it must be locked, or the entry was left behind
    (include/linux/swapops.h)."""
    page = pfn_to_page(kernel, swp_offset(entry))
    if not page.flags & PG_locked:
        BUG("a migration entry names an unlocked page", page)
    return page


def migration_entry_wait(mm: Mm, pt: PageTable, address: int) -> None:
    """Sleep until the page whose entry is at @address has been moved or given up
    (mm/migrate.c: migration_entry_wait)."""
    ptl = pt.ptl
    spin_lock(ptl)
    pte = ptep_get(pt, address)
    if not is_swap_pte(pte):
        spin_unlock(ptl)
        return
    entry = pte_to_swp_entry(pte)
    if not is_migration_entry(entry):
        spin_unlock(ptl)
        return
    page = migration_entry_to_page(mm.kernel, entry)
    # Frozen just now: the caller faults again, and finds it finished or can wait.
    if not get_page_unless_zero(page):
        spin_unlock(ptl)
        _fault_until_unfrozen(pt, address, pte, page)
        return
    spin_unlock(ptl)
    wait_on_page_locked(page)
    swap.put_page(page)


def _fault_until_unfrozen(pt: PageTable, address: int, pte: int, page: Page) -> None:
    """The faults that would come back for nothing, as one wait."""
    index = (address >> PAGE_SHIFT) & 511
    wait_until_unfrozen(page, lambda: pt.entries[index] != pte)


@hot
def remove_migration_pte(new: Page, vma: Vma, address: int, old: Page) -> int:
    """Turn an entry that names @old into a pte that maps @new
    (mm/migrate.c: remove_migration_pte)."""
    if new.flags & PG_hugetlb:
        return hugetlb_rmap.remove_migration_pte(new, vma, address, old)
    mm = vma.vm_mm
    # No look before the lock: mremap may be moving the entry, without any rmap lock.
    pt = rmap.mm_find_pmd(mm, address)
    if pt is None:
        return SWAP_AGAIN
    absent = mm.kernel.absent
    if absent and NO_LOOK_BEFORE_LOCK in absent and not is_swap_pte(ptep_get(pt, address)):
        return SWAP_AGAIN
    ptl = pt.ptl
    spin_lock(ptl)
    pte = ptep_get(pt, address)
    if pte == 0 or pte & _NOT_SWAP:
        spin_unlock(ptl)
        return SWAP_AGAIN
    entry = pte_to_swp_entry(pte)
    kind = swp_type(entry)
    if kind < SWP_MIGRATION_READ or migration_entry_to_page(mm.kernel, entry) is not old:
        spin_unlock(ptl)
        return SWAP_AGAIN
    get_page(new)
    prot = vma_page_prot(vma)
    restored = (new.pfn << PAGE_SHIFT | prot) & ~_PAGE_ACCESSED
    if pte & _PAGE_SWP_SOFT_DIRTY and KEEP_SOFT_DIRTY not in absent:
        restored |= _PAGE_SOFT_DIRTY
    # mprotect may have taken the right to write away meanwhile.
    if kind == SWP_MIGRATION_WRITE and (vma_flags(vma) & VM_WRITE or CLOSE_MPROTECT_RACE in absent):
        restored |= _PAGE_RW
    set_pte_at(mm, address, pt, restored)
    if PageAnon(new):
        rmap.do_page_add_anon_rmap(new, vma, address, False)
    else:
        rmap.page_add_file_rmap(new)
    flags = vma.vm_flags
    if flags & VM_LOCKED and MLOCK_MIGRATED not in absent:
        mlock.mlock_vma_page(new)
    if mm.kernel.events is not None:
        mm.kernel.trace(
            "remove_migration_pte",
            address=address,
            writable=bool(restored & _PAGE_RW),
            area_writable=bool(flags & VM_WRITE),
        )
    spin_unlock(ptl)
    return SWAP_AGAIN


def _remove_linear_migration_ptes_from_nonlinear(
    page: Page, mapping: AddressSpace, old: Page
) -> int:
    """An area may have become nonlinear since the unmap; what was not remapped is still
    at its linear place  (mm/migrate.c: remove_linear_migration_ptes_from_nonlinear)."""
    if not page.zone.kernel.has(REMAP_NONLINEAR):
        return SWAP_AGAIN
    pgoff = page.index
    for vma in mapping.i_mmap_nonlinear:
        address = vma.vm_start + ((pgoff - vma.vm_pgoff) << 12)
        if vma.vm_start <= address < vma.vm_end:
            remove_migration_pte(page, vma, address, old)
    return SWAP_AGAIN


_REMAP = RmapWalkControl(
    remove_migration_pte, file_nonlinear=_remove_linear_migration_ptes_from_nonlinear
)


@small
def remove_migration_ptes(old: Page, new: Page) -> None:
    """Turn all entries that name @old into ptes that map @new, which may be @old itself
    (mm/migrate.c: remove_migration_ptes)."""
    rmap.rmap_walk(new, _REMAP, old)


# --- moving the mapping ---


@small
def migrate_page_move_mapping(
    mapping: AddressSpace | None,
    newpage: Page,
    page: Page,
    head: Any,
    mode: MigrateMode,
    extra_count: int,
) -> int:
    """Let @newpage take the place of @page in its tree, if nobody else holds @page.

    @head: its buffers; in MIGRATE_ASYNC they are locked on success.  @extra_count: more
    references that the caller knows of.  0 or -EAGAIN
    (mm/migrate.c: migrate_page_move_mapping).
    """
    if mapping is not None:
        return _move_in_tree(mapping, newpage, page, head, mode, extra_count)
    # Not frozen: without ptes and tree slot only those come who wait for the lock.
    if page_count(page) != 1 + extra_count:
        return _refuse(page, Reason.PINNED)
    if UNTOUCHED_DESTINATION not in page.zone.kernel.absent:
        _become(newpage, page)
    return MIGRATEPAGE_SUCCESS


def _move_in_tree(
    mapping: AddressSpace,
    newpage: Page,
    page: Page,
    head: Any,
    mode: MigrateMode,
    extra_count: int,
) -> int:
    tree = mapping.page_tree
    with spin_lock(mapping.tree_lock):
        index = rmap.page_index(page)
        expected_count = 2 + extra_count + page_has_private(page)
        if page_count(page) != expected_count or radix_tree_lookup(tree, index) is not page:
            return _refuse(page, Reason.PINNED)
        if not page_freeze_refs(page, expected_count):
            return _refuse(page, Reason.PINNED)
        # Once the slot is changed there is no way back, so an asynchronous migration
        # must have the buffers before.
        if (
            mode == MIGRATE_ASYNC
            and head is not None
            and not buffer_migrate_lock_buffers(head, mode)
        ):
            page_unfreeze_refs(page, expected_count)
            return _refuse(page, Reason.BUFFERS_BUSY)

        if UNTOUCHED_DESTINATION not in page.zone.kernel.absent:
            _become(newpage, page)
        get_page(newpage)  # the tree's
        if PageSwapCache(page):
            SetPageSwapCache(newpage)
            set_page_private(newpage, page_private(page))
        radix_tree_store(tree, index, newpage)
        page_unfreeze_refs(page, expected_count - 1)

        page.zone.vm_stat[NR_FILE_PAGES] -= 1
        newpage.zone.vm_stat[NR_FILE_PAGES] += 1
        if not PageSwapCache(page) and PageSwapBacked(page):
            page.zone.vm_stat[NR_SHMEM] -= 1
            newpage.zone.vm_stat[NR_SHMEM] += 1
    return MIGRATEPAGE_SUCCESS


def migrate_huge_page_move_mapping(mapping: AddressSpace, newpage: Page, page: Page) -> int:
    """Let @newpage take the place of a page of hugetlb in its file; 0 or -EAGAIN.  Known defect of
    v3.19: nr_file_pages of the zones stays as it was  (mm/migrate.c:
    migrate_huge_page_move_mapping)."""
    tree = mapping.page_tree
    with spin_lock(mapping.tree_lock):
        expected_count = 2 + page_has_private(page)
        if page_count(page) != expected_count or radix_tree_lookup(tree, page.index) is not page:
            return _refuse(page, Reason.PINNED)
        if not page_freeze_refs(page, expected_count):
            return _refuse(page, Reason.PINNED)
        if page.zone.kernel.has(UNTOUCHED_DESTINATION):
            _become(newpage, page)
        get_page(newpage)
        radix_tree_store(tree, page.index, newpage)
        page_unfreeze_refs(page, expected_count - 1)
    return MIGRATEPAGE_SUCCESS


def _refuse(page: Page, why: Reason, rc: int = -EAGAIN) -> int:
    """Remember why @page stays where it is; @rc."""
    page.zone.kernel.reasons[page.pfn] = why
    return rc


@small
def migrate_page_copy(newpage: Page, page: Page) -> None:
    """Contents and flags, in the kernel's order  (mm/migrate.c: migrate_page_copy)."""
    if page.flags & PG_head:
        copy_huge_page(newpage, page)
    else:
        copy_highpage(newpage, page)
    copy_page_flags(newpage, page)
    if PageDirty(page):
        # Not set_page_dirty: that would tell a filesystem that all buffers are dirty.
        page_writeback.clear_page_dirty_for_io(page)
        if PageSwapBacked(page):
            SetPageDirty(newpage)
        else:
            page_writeback.__set_page_dirty_nobuffers(newpage)
    newpage._last_cpupid, page._last_cpupid = page._last_cpupid, -1
    mlock.mlock_migrate_page(newpage, page)
    if type(newpage.mapping) is StableNode:
        ksm.ksm_migrate_page(newpage, page)
    forget_owner(page)
    if PageWriteback(newpage):
        page_writeback.end_page_writeback(newpage)


def copy_huge_page(dst: Page, src: Page) -> None:
    """The contents of all base pages  (mm/migrate.c: copy_huge_page)."""
    for copy, part in zip(huge_memory.huge_parts(dst), huge_memory.huge_parts(src), strict=True):
        sched.cond_resched()
        copy_highpage(copy, part)


# --- methods of mappings; both pages are locked ---


@small
def migrate_page(mapping: AddressSpace | None, newpage: Page, page: Page, mode: MigrateMode) -> int:
    """For pages without private data  (mm/migrate.c: migrate_page)."""
    if page.flags & PG_writeback:
        BUG("migrated under writeback", page)
    rc = migrate_page_move_mapping(mapping, newpage, page, None, mode, 0)
    if rc != MIGRATEPAGE_SUCCESS:
        return rc
    migrate_page_copy(newpage, page)
    return MIGRATEPAGE_SUCCESS


def buffer_migrate_lock_buffers(head: Any, mode: MigrateMode) -> bool:
    """Lock all buffers of a page; asynchronously all or none
    (mm/migrate.c: buffer_migrate_lock_buffers)."""
    if mode != MIGRATE_ASYNC:
        for bh in head:
            buffer.get_bh(bh)
            buffer.lock_buffer(bh)
        return True
    locked: list[Any] = []
    for bh in head:
        buffer.get_bh(bh)
        if not buffer.trylock_buffer(bh):
            buffer.put_bh(bh)
            for earlier in locked:
                buffer.unlock_buffer(earlier)
                buffer.put_bh(earlier)
            return False
        locked.append(bh)
    return True


def buffer_migrate_page(mapping: AddressSpace, newpage: Page, page: Page, mode: MigrateMode) -> int:
    """For pages whose private data are buffers, which come along
    (mm/migrate.c: buffer_migrate_page)."""
    if not PagePrivate(page):
        return migrate_page(mapping, newpage, page, mode)
    head: Any = page_private(page)
    rc = migrate_page_move_mapping(mapping, newpage, page, head, mode, 0)
    if rc != MIGRATEPAGE_SUCCESS:
        return rc
    if mode != MIGRATE_ASYNC and not buffer_migrate_lock_buffers(head, mode):
        BUG("buffers not locked", page)
    ClearPagePrivate(page)
    set_page_private(newpage, page_private(page))
    set_page_private(page, 0)
    swap.put_page(page)
    get_page(newpage)
    for bh in head:
        buffer.set_bh_page(bh, newpage, buffer.bh_offset(bh))
    SetPagePrivate(newpage)
    migrate_page_copy(newpage, page)
    for bh in head:
        buffer.unlock_buffer(bh)
        buffer.put_bh(bh)
    return MIGRATEPAGE_SUCCESS


def _writeout(mapping: AddressSpace, page: Page) -> int:
    """Start writing a dirty page that cannot be moved dirty; a later pass may move it
    (mm/migrate.c: writeout)."""
    writepage = mapping.a_ops.writepage
    if writepage is None:
        return _refuse(page, Reason.WRITE_FAILED, -EINVAL)
    if not page_writeback.clear_page_dirty_for_io(page):
        return _refuse(page, Reason.DIRTY_NO_METHOD)
    # This attempt cannot succeed any more, and writepage unlocks the page: no entry may
    # name it then.
    remove_migration_ptes(page, page)
    rc = writepage(page, page_writeback.WritebackControl(nr_to_write=1, for_reclaim=True))
    if rc != AOP_WRITEPAGE_ACTIVATE:
        lock_page(page)  # writepage unlocked it
    if rc < 0:
        return _refuse(page, Reason.WRITE_FAILED, -EIO)
    return _refuse(page, Reason.DIRTY_NO_METHOD)


def fallback_migrate_page(
    mapping: AddressSpace, newpage: Page, page: Page, mode: MigrateMode
) -> int:
    """For mappings without a method: only clean pages without private data can go
    (mm/migrate.c: fallback_migrate_page)."""
    if PageDirty(page):
        if mode != MIGRATE_SYNC:
            return _refuse(page, Reason.DIRTY_NO_METHOD, -EBUSY)
        return _writeout(mapping, page)
    if page_has_private(page) and not filemap.try_to_release_page(page, GFP_KERNEL):
        return _refuse(page, Reason.BUFFERS_BUSY)
    return migrate_page(mapping, newpage, page, mode)


# --- one page ---


@small
def _become(newpage: Page, page: Page) -> None:
    """Give the destination the place and the kind of the old page."""
    newpage.index = page.index
    set_page_mapping(newpage, page_mapping_of(page))
    if PageSwapBacked(page):
        SetPageSwapBacked(newpage)


@hot
def move_to_new_page(newpage: Page, page: Page, page_was_mapped: bool, mode: MigrateMode) -> int:
    """Move an unmapped, locked page and bring its ptes back
    (mm/migrate.c: move_to_new_page)."""
    if not trylock_page(newpage):
        BUG("destination page is locked", newpage)
    absent = page.zone.kernel.absent
    if UNTOUCHED_DESTINATION in absent:
        _become(newpage, page)
    mapping = page_mapping(page)
    if mapping is None:
        rc = migrate_page(None, newpage, page, mode)
    elif mapping.a_ops.migratepage is not None:
        rc = mapping.a_ops.migratepage(mapping, newpage, page, mode)
    else:
        rc = fallback_migrate_page(mapping, newpage, page, mode)

    if rc != MIGRATEPAGE_SUCCESS:
        set_page_mapping(newpage, None)
    else:
        if page.mem_cgroup is not None:
            memcontrol.mem_cgroup_migrate(page, newpage, False)
        if page_was_mapped or (UNMAPPED_NO_RMAP_WALK in absent and _walks_anyway(page)):
            remove_migration_ptes(page, newpage)
        set_page_mapping(page, None)
    unlock_page(newpage)
    return rc


@small
def __unmap_and_move(page: Page, newpage: Page, force: bool, mode: MigrateMode) -> int:
    """Lock, unmap and move one page, or leave it as it was
    (mm/migrate.c: __unmap_and_move)."""
    if not trylock_page(page):
        if not force or mode == MIGRATE_ASYNC:
            return _refuse(page, Reason.LOCKED)
        # Direct compaction may be called with pages locked, for readahead: waiting
        # for one's own would never end.
        if sched.task.flags & PF_MEMALLOC:
            return _refuse(page, Reason.LOCKED)
        lock_page(page)
    if page.mem_cgroup is None:
        rc = _unmap_and_move_locked(page, newpage, force, mode)
    else:
        memcg = memcontrol.begin_migration(page, newpage)
        rc = _unmap_and_move_locked(page, newpage, force, mode)
        memcontrol.end_migration(memcg, page, newpage, rc == MIGRATEPAGE_SUCCESS)
    unlock_page(page)
    return rc


@hot
def _unmap_and_move_locked(page: Page, newpage: Page, force: bool, mode: MigrateMode) -> int:
    if PageWriteback(page):
        if mode != MIGRATE_SYNC:
            return _refuse(page, Reason.WRITEBACK, -EBUSY)
        if not force:
            return _refuse(page, Reason.WRITEBACK)
        wait_on_page_writeback(page)

    # Between unmapping and mapping again nothing else keeps the anon_vma alive.
    anon_vma = None
    absent = page.zone.kernel.absent
    if PageAnonNotKsm(page) and KEEP_ANON_VMA not in absent:
        anon_vma = rmap.page_get_anon_vma(page)
        if anon_vma is None and not PageSwapCache(page):
            return _refuse(page, Reason.TRUNCATED)  # unmapped: on its way to be freed

    if BALLOON_REDESIGN not in absent:
        if PageBalloon(page):
            return balloon_compaction.balloon_page_migrate(newpage, page, mode)
    elif balloon_compaction.v317_balloon_page_movable(page):
        # Never: the page is locked, so it has a flag, and two references.
        return balloon_compaction.balloon_page_migrate(newpage, page, mode)

    rc = -EAGAIN
    page_was_mapped = False
    if page_mapping_of(page) is None:
        if page_has_private(page):
            buffer.try_to_free_buffers(page)  # a truncated orphan; free, not moved
            return _refuse(page, Reason.TRUNCATED)
    elif page_mapped(page):
        rmap.try_to_unmap(page, _UNMAP_FLAGS)
        page_was_mapped = True
    elif UNMAPPED_NO_RMAP_WALK in absent:
        rmap.try_to_unmap(page, _UNMAP_FLAGS)

    if not page_mapped(page):
        rc = move_to_new_page(newpage, page, page_was_mapped, mode)
    else:
        _refuse(page, Reason.STILL_MAPPED)
    if rc and (page_was_mapped or (UNMAPPED_NO_RMAP_WALK in absent and _walks_anyway(page))):
        remove_migration_ptes(page, page)
    if anon_vma is not None:
        rmap.put_anon_vma(page.zone.kernel, anon_vma)
    return rc


def _walks_anyway(page: Page) -> bool:
    """Without commit 2ebba6b7e1d9: whether ptes are looked for although none was replaced;
    not for what is in the swap cache and has no anon_vma to walk
    (mm/migrate.c of v3.18: remap_swapcache)."""
    return not PageSwapCache(page) or page_anon_vma(page) is not None


@hot
def unmap_and_move(
    get_new_page: NewPage,
    put_new_page: FreePage | None,
    private: Any,
    page: Page,
    force: bool,
    mode: MigrateMode,
) -> int:
    """Find a destination for one page and move it there
    (mm/migrate.c: unmap_and_move).  0, -EAGAIN: still on the list, -ENOMEM: no
    destination, else an error with the page put back."""
    result: list[Any] = [None]
    newpage = get_new_page(page, private, result)
    if newpage is None:
        return _refuse(page, Reason.NO_MEMORY, -ENOMEM)
    # Only our reference is left: everybody else has freed it.
    rc = MIGRATEPAGE_SUCCESS
    if page_count(page) != 1:
        huge = PageTransHuge(page)
        # A huge page is split first, and its former head goes on alone. One that cannot be
        # split, because nobody maps it any more, goes back and counts as moved.
        if not huge or huge_split.split_huge_page(page) == 0:
            rc = __unmap_and_move(page, newpage, force, mode)

    absent = page.zone.kernel.absent
    if rc == balloon_compaction.MIGRATEPAGE_BALLOON_SUCCESS:  # of the old design
        page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] -= 1
        balloon_compaction.balloon_page_free(page)
        return MIGRATEPAGE_SUCCESS
    if rc != -EAGAIN:
        list_del(page)
        page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] -= 1
        vmscan.putback_lru_page(page)  # on success this frees it
    if (
        rc != MIGRATEPAGE_SUCCESS
        and put_new_page is not None
        and DESTINATION_FREEING_CALLBACK not in absent
    ):
        if CLEAR_SWAPBACKED_OF_DESTINATION not in absent:
            ClearPageSwapBacked(newpage)
        put_new_page(newpage, private)
    elif PageBalloon(newpage):
        swap.put_page(newpage)  # the balloon has one of its own
    else:
        vmscan.putback_lru_page(newpage)
    if result[0] is not None:
        result[0].status = rc if rc else newpage.zone.nid
    return rc


def unmap_and_move_huge_page(
    get_new_page: NewPage,
    put_new_page: FreePage | None,
    private: Any,
    hpage: Page,
    force: bool,
    mode: MigrateMode,
) -> int:
    """The same for a page of hugetlb, which moves as a whole.  -ENOSYS: pages of this size cannot,
    and no destination was asked for  (mm/migrate.c: unmap_and_move_huge_page)."""
    kernel = hpage.zone.kernel
    # Who comes by the frame number has not looked at page tables, so the size is asked here.
    if not hugetlb_pool.migration_supported(kernel, hugetlb_pool.page_hstate(hpage)):
        hugetlb_pool.putback_active_hugepage(hpage)
        return _refuse(hpage, Reason.HUGETLB_UNSUPPORTED, -ENOSYS)
    result: list[Any] = [None]
    new_hpage = get_new_page(hpage, private, result)
    if new_hpage is None:
        return _refuse(hpage, Reason.NO_MEMORY, -ENOMEM)
    rc = -EAGAIN
    if trylock_page(hpage):
        rc = _move_huge_page_locked(hpage, new_hpage, mode)
    elif force and mode == MIGRATE_SYNC:
        lock_page(hpage)
        rc = _move_huge_page_locked(hpage, new_hpage, mode)
    else:
        _refuse(hpage, Reason.LOCKED)
    if rc != -EAGAIN:
        hugetlb_pool.putback_active_hugepage(hpage)
    if rc != MIGRATEPAGE_SUCCESS and put_new_page is not None:
        put_new_page(new_hpage, private)
    else:
        swap.put_page(new_hpage)
    if result[0] is not None:
        result[0].status = rc if rc else new_hpage.zone.nid
    return rc


def _move_huge_page_locked(hpage: Page, new_hpage: Page, mode: MigrateMode) -> int:
    """Nobody asks here for writeback, or whether the page has been freed."""
    rc = -EAGAIN
    if hpage.private and hpage.zone.kernel.has(SUBPOOL_COMES_ALONG) and not page_mapping(hpage):
        unlock_page(hpage)  # there is no method that would hand the limit of its mount on
        return _refuse(hpage, Reason.HUGETLB_LIMITED, -EBUSY)
    anon_vma = rmap.page_get_anon_vma(hpage) if PageAnon(hpage) else None
    page_was_mapped = False
    if page_mapped(hpage):
        rmap.try_to_unmap(hpage, _UNMAP_FLAGS)
        page_was_mapped = True
    if not page_mapped(hpage):
        rc = move_to_new_page(new_hpage, hpage, page_was_mapped, mode)
    else:
        _refuse(hpage, Reason.STILL_MAPPED)
    if rc and page_was_mapped:
        remove_migration_ptes(hpage, hpage)
    if anon_vma is not None:
        rmap.put_anon_vma(hpage.zone.kernel, anon_vma)
    unlock_page(hpage)
    return rc


# --- a list of pages ---


@hot
def migrate_pages(
    from_: ListHead,
    get_new_page: NewPage,
    put_new_page: FreePage | None,
    private: Any,
    mode: MigrateMode,
    reason: MigrateReason,
) -> int:
    """Move the isolated pages of a list, in up to ten passes.

    Returns how many were not moved, or -ENOMEM. What still is on the list then belongs to
    the caller, for `putback_movable_pages`; everything else has been put back
    (mm/migrate.c: migrate_pages).
    """
    task = sched.task
    kernel = task.kernel
    nr_failed = nr_succeeded = 0
    # What users are told in base pages, or before b5bade978e9b in pages of whatever size.
    failed_for_users = retry_for_users = 0
    in_full = kernel.has(HUGE_PAGES_COUNT_IN_FULL)
    retry = 1
    rc = 0
    had_swapwrite = task.flags & PF_SWAPWRITE
    task.flags |= PF_SWAPWRITE
    pass_ = 0
    while pass_ < PASSES and retry and rc != -ENOMEM:
        retry = retry_for_users = 0
        for page in from_:
            count = 1 << page_alloc.compound_order(page) if in_full else 1
            move = unmap_and_move_huge_page if page.flags & PG_hugetlb else unmap_and_move
            rc = move(get_new_page, put_new_page, private, page, pass_ > 2, mode)
            if rc == MIGRATEPAGE_SUCCESS:
                nr_succeeded += count
            elif rc == -EAGAIN:
                retry += 1
                retry_for_users += count
            elif rc == -ENOMEM:
                failed_for_users += count * kernel.has(NO_MEMORY_COUNTS_AS_FAILED)
                break
            else:
                nr_failed += 1
                failed_for_users += count
        pass_ += 1
    if rc != -ENOMEM and kernel.has(RETRIES_COUNT_AS_FAILED):
        failed_for_users += retry_for_users
    if nr_succeeded:
        kernel.vm_events[PGMIGRATE_SUCCESS] += nr_succeeded
    if failed_for_users:
        kernel.vm_events[PGMIGRATE_FAIL] += failed_for_users
    kernel.trace(
        "mm_migrate_pages",
        succeeded=nr_succeeded,
        failed=failed_for_users,
        mode=mode,
        reason=reason,
    )
    if not had_swapwrite:
        task.flags &= ~PF_SWAPWRITE
    return rc if rc == -ENOMEM else nr_failed + retry
