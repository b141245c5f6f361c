"""Merging of pages with the same contents  (mm/ksm.c).

Interface: `ksm_madvise` says what may be merged; `ksm_do_scan` is what ksmd does; `rmap_walk_ksm`
finds all ptes of a merged page; `ksm_migrate_page` and `ksm_might_need_to_copy` are called by
migration and by swap-in.

A merged page is write-protected everywhere and named by a stable node.  What has been seen once
with the same contents waits in the unstable tree, which is not protected and is thrown away
after each scan.  The whole of scanning is under ksm_thread_mutex.
"""

from __future__ import annotations

from errno import EBUSY, EFAULT, ENOMEM
from typing import Any, Final

from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.ksm import (
    KSM_RUN_UNMERGE,
    NO_STABLE_NODE,
    KsmState,
    MmSlot,
    RmapItem,
    StableNode,
)
from mmigrate.linux.include.mm import (
    FAULT_FLAG_WRITE,
    FOLL_GET,
    FOLL_MIGRATION,
    MADV_MERGEABLE,
    SWAP_AGAIN,
    VM_DONTEXPAND,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    VM_FAULT_WRITE,
    VM_HUGETLB,
    VM_IO,
    VM_MAYSHARE,
    VM_MERGEABLE,
    VM_MIXEDMAP,
    VM_NONLINEAR,
    VM_PFNMAP,
    VM_SHARED,
)
from mmigrate.linux.include.mm_types import Mm, Page, Vma
from mmigrate.linux.include.pgtable import PAGE_SIZE
from mmigrate.linux.include.switches import (
    FOLL_MIGRATION_WAITS,
    UNSHARE_MERGED,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE, atomic_inc
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.highmem import copy_user_highpage
from mmigrate.linux.kernel.page_flags import (
    PageAnon,
    PageCompound,
    PageKsm,
    PageLocked,
    PageSwapCache,
    PageUptodate,
    SetPageDirty,
    SetPageUptodate,
    lock_page,
    page_anon_vma,
    page_mapping_of,
    set_page_mapping,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import (
    compound_head,
    get_page,
    get_page_unless_zero,
    wait_until_unfrozen,
)
from mmigrate.linux.kernel.rwsem import (
    RwSemaphore,
    down_read,
    down_write,
    mutex_lock,
    up_read,
    up_write,
)
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_unlock
from mmigrate.linux.mm import (
    fork,
    gup,
    ksm_merge,
    memory,
    mempolicy,
    mmap,
    rmap,
    swap,
)
from mmigrate.linux.mm.rmap_walk_control import RmapWalkControl

MMF_VM_MERGEABLE: Final = 1 << 16
_NEVER: Final = (
    VM_MERGEABLE
    | VM_SHARED
    | VM_MAYSHARE
    | VM_PFNMAP
    | VM_IO
    | VM_DONTEXPAND
    | VM_HUGETLB
    | VM_NONLINEAR
    | VM_MIXEDMAP
)


def ksm_init(kernel: Kernel) -> KsmState:
    return KsmState(
        len(kernel.nodes),
        RwSemaphore("ksm_thread_mutex", "ksm_thread_mutex"),
        SpinLock("ksm_mmlist_lock", "ksm_mmlist_lock"),
    )


def state(kernel: Kernel) -> KsmState:
    found: KsmState = kernel.ksm
    return found


def page_stable_node(page: Page) -> StableNode | None:
    """The node of a merged page; None for other pages, and for one between two nodes
    (mm/ksm.c: page_stable_node)."""
    mapping = page_mapping_of(page)
    return mapping if isinstance(mapping, StableNode) and mapping.kpfn >= 0 else None


def _get_kpfn_nid(kernel: Kernel, kpfn: int) -> int:
    return 0 if state(kernel).merge_across_nodes else kernel.page_of(kpfn).zone.nid


# --- who takes part ---


def __ksm_enter(mm: Mm) -> None:
    """mm/ksm.c: __ksm_enter."""
    ksm = state(mm.kernel)
    slot = MmSlot(mm)
    with spin_lock(ksm.mmlist_lock):
        # Just behind the scan, so that it comes last; or at the end while all is undone.
        if ksm.ksm_run & KSM_RUN_UNMERGE or ksm.mm_slot is None:
            ksm.mm_list.append(slot)
        else:
            ksm.mm_list.insert(ksm.mm_list.index(ksm.mm_slot), slot)
    WRITE_ONCE(mm, "flags", mm.flags | MMF_VM_MERGEABLE)
    atomic_inc(mm, "mm_count")


def ksm_fork(mm: Mm, oldmm: Mm) -> None:
    """include/linux/ksm.h: ksm_fork."""
    if READ_ONCE(oldmm, "flags") & MMF_VM_MERGEABLE:
        __ksm_enter(mm)


def ksm_exit(mm: Mm) -> None:
    """The process exits: forget it, or let the scan do that; if the scan is in it now, wait until
    it has left the page tables  (mm/ksm.c: __ksm_exit)."""
    if not READ_ONCE(mm, "flags") & MMF_VM_MERGEABLE:
        return
    ksm = state(mm.kernel)
    easy_to_free = False
    with spin_lock(ksm.mmlist_lock):
        slot = next((slot for slot in ksm.mm_list if slot.mm is mm), None)
        if slot is not None and ksm.mm_slot is not slot:
            ksm.mm_list.remove(slot)
            if not slot.rmap_list:
                easy_to_free = True
            elif ksm.mm_slot is None:
                ksm.mm_list.insert(0, slot)  # the next to be looked at
            else:
                ksm.mm_list.insert(ksm.mm_list.index(ksm.mm_slot) + 1, slot)
    if easy_to_free:
        WRITE_ONCE(mm, "flags", mm.flags & ~MMF_VM_MERGEABLE)
        fork.mmdrop(mm)
    elif slot is not None:
        down_write(mm.mmap_sem)
        up_write(mm.mmap_sem)


def _test_exit(mm: Mm) -> bool:
    return bool(READ_ONCE(mm, "mm_users") == 0)


def ksm_madvise(vma: Vma, start: int, end: int, advice: int, vm_flags: int) -> tuple[int, int]:
    """MADV_MERGEABLE and MADV_UNMERGEABLE: (0 or -errno, the flags the range shall have)
    (mm/ksm.c: ksm_madvise)."""
    if advice == MADV_MERGEABLE:
        if vm_flags & _NEVER:
            return 0, vm_flags
        if not READ_ONCE(vma.vm_mm, "flags") & MMF_VM_MERGEABLE:
            __ksm_enter(vma.vm_mm)
        return 0, vm_flags | VM_MERGEABLE
    if not vm_flags & VM_MERGEABLE:
        return 0, vm_flags
    if vma.anon_vma is not None:
        error = unmerge_ksm_pages(vma, start, end)
        if error:
            return error, vm_flags
    return 0, vm_flags & ~VM_MERGEABLE


# --- undoing ---


def _follow_page(vma: Vma, addr: int, flags: int) -> Page | int | None:
    return None if gup.hides_pages(vma) else gup.follow_page(vma, addr, flags)


def break_ksm(vma: Vma, addr: int) -> int:
    """Copy a merged page as a store would, and wait for migration first; 0 or -ENOMEM
    (mm/ksm.c: break_ksm)."""
    done = VM_FAULT_WRITE | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV | VM_FAULT_OOM
    ret = 0
    waits = FOLL_MIGRATION if vma.vm_mm.kernel.has(FOLL_MIGRATION_WAITS) else 0
    while not ret & done:
        sched.cond_resched()
        page = _follow_page(vma, addr, FOLL_GET | waits)
        if not isinstance(page, Page):
            break
        if PageKsm(page) and vma.vm_mm.kernel.has(UNSHARE_MERGED):
            ret = memory.unshare(vma.vm_mm, vma, addr) or VM_FAULT_WRITE
        elif PageKsm(page):
            ret = memory.handle_mm_fault(vma.vm_mm, vma, addr, FAULT_FLAG_WRITE)
        else:
            ret = VM_FAULT_WRITE
        swap.put_page(page)
    return -ENOMEM if ret & VM_FAULT_OOM else 0


def _find_mergeable_vma(mm: Mm, addr: int) -> Vma | None:
    if _test_exit(mm):
        return None
    vma = mmap.find_vma(mm, addr)
    if vma is None or vma.vm_start > addr:
        return None
    return vma if vma.vm_flags & VM_MERGEABLE and vma.anon_vma is not None else None


def _drop_anon_vma(kernel: Kernel, item: RmapItem) -> None:
    anon_vma, item.anon_vma = item.anon_vma, None
    if anon_vma is not None:
        rmap.put_anon_vma(kernel, anon_vma)


def _break_cow(item: RmapItem) -> None:
    """mm/ksm.c: break_cow."""
    mm = item.mm
    _drop_anon_vma(mm.kernel, item)
    with down_read(mm.mmap_sem):
        vma = _find_mergeable_vma(mm, item.address)
        if vma is not None:
            break_ksm(vma, item.address)


def _get_mergeable_page(item: RmapItem) -> Page | None:
    """mm/ksm.c: get_mergeable_page."""
    mm = item.mm
    with down_read(mm.mmap_sem):
        vma = _find_mergeable_vma(mm, item.address)
        if vma is None:
            return None
        page = _follow_page(vma, item.address, FOLL_GET)
        if not isinstance(page, Page):
            return None
        if PageAnon(page) or _compound_anon(page):
            return page
        swap.put_page(page)
        return None


def _compound_anon(page: Page) -> bool:
    return bool(PageCompound(page)) and PageAnon(compound_head(page))


def unmerge_ksm_pages(vma: Vma, start: int, end: int) -> int:
    """mm/ksm.c: unmerge_ksm_pages."""
    for addr in range(start, end, PAGE_SIZE):
        if _test_exit(vma.vm_mm):
            break
        error = break_ksm(vma, addr)
        if error:
            return error
    return 0


def unmerge_and_remove_all_rmap_items(kernel: Kernel) -> int:
    """Write 2 to /sys/kernel/mm/ksm/run: no merged page is left; ksm_thread_mutex is held
    (mm/ksm.c: unmerge_and_remove_all_rmap_items)."""
    ksm = state(kernel)
    for slot in list(ksm.mm_list):
        mm = slot.mm
        with down_read(mm.mmap_sem):
            for vma in () if _test_exit(mm) else mm.mmap:
                if vma.vm_flags & VM_MERGEABLE and vma.anon_vma is not None:
                    error = unmerge_ksm_pages(vma, vma.vm_start, vma.vm_end)
                    if error:
                        return error
            _remove_trailing_rmap_items(kernel, slot, 0)
            exits = _test_exit(mm)
            with spin_lock(ksm.mmlist_lock):
                if exits:
                    ksm.mm_list.remove(slot)
        if exits:
            WRITE_ONCE(mm, "flags", mm.flags & ~MMF_VM_MERGEABLE)
            fork.mmdrop(mm)
    for tree in ksm.root_unstable_tree:
        tree.clear()
    for node in [*(node for tree in ksm.root_stable_tree for node in tree), *ksm.migrate_nodes]:
        page = get_ksm_page(kernel, node, False)
        if page is not None:
            swap.put_page(page)
            return -EBUSY
    ksm.seqnr = 0
    return 0


# --- stable nodes and their pages ---


def _remove_node_from_stable_tree(kernel: Kernel, node: StableNode) -> None:
    """The page is gone, or has become another's  (mm/ksm.c: remove_node_from_stable_tree)."""
    ksm = state(kernel)
    for item in list(node.hlist):
        if item is not node.hlist[-1]:
            ksm.pages_sharing -= 1
        else:
            ksm.pages_shared -= 1
        _drop_anon_vma(kernel, item)
        item.head = None
        sched.cond_resched()
    node.hlist = []
    node.gone = True
    if node.migrating:
        ksm.migrate_nodes.remove(node)
    elif node in ksm.root_stable_tree[node.nid]:
        ksm.root_stable_tree[node.nid].remove(node)


def get_ksm_page(kernel: Kernel, node: StableNode, lock_it: bool) -> Page | None:
    """The page of a node, with a reference and, if @lock_it, locked.  None: it is gone, and so is
    the node.  Migration moves the node to another page: frame first, then the old page's
    mapping, which is why the frame is looked at again  (mm/ksm.c: get_ksm_page)."""
    while True:
        kpfn: int = READ_ONCE(node, "kpfn")
        page = kernel.page_of(kpfn)
        if _reference(page, node, lock_it):
            return page
        if READ_ONCE(node, "kpfn") == kpfn:
            _remove_node_from_stable_tree(kernel, node)
            return None


def _reference(page: Page, node: StableNode, lock_it: bool) -> bool:
    if page_mapping_of(page) is not node:
        return False
    while not get_page_unless_zero(page):
        # 0 and in the swap cache: frozen, by reclaim or by migration.
        if not PageSwapCache(page):
            return False
        wait_until_unfrozen(page, lambda: page.mapping is not node)
    if page_mapping_of(page) is not node:
        swap.put_page(page)
        return False
    if lock_it:
        lock_page(page)
        if page_mapping_of(page) is not node:
            unlock_page(page)
            swap.put_page(page)
            return False
    return True


def _remove_rmap_item_from_tree(kernel: Kernel, item: RmapItem) -> None:
    """mm/ksm.c: remove_rmap_item_from_tree."""
    ksm = state(kernel)
    node = item.head
    if node is not None:
        page = get_ksm_page(kernel, node, True)
        if page is None:
            return
        node.hlist.remove(item)
        unlock_page(page)
        swap.put_page(page)
        if node.hlist:
            ksm.pages_sharing -= 1
        else:
            ksm.pages_shared -= 1
        _drop_anon_vma(kernel, item)
        item.head = None
    elif item.unstable:
        BUG_ON(ksm.seqnr - item.seqnr > 1, "an rmap item has been in a tree for too long", item)
        if ksm.seqnr == item.seqnr:
            ksm.root_unstable_tree[item.nid].remove(item)
        ksm.pages_unshared -= 1
        item.unstable = False
    sched.cond_resched()


def _remove_trailing_rmap_items(kernel: Kernel, slot: MmSlot, position: int) -> None:
    """mm/ksm.c: remove_trailing_rmap_items."""
    while len(slot.rmap_list) > position:
        item = slot.rmap_list.pop()
        _remove_rmap_item_from_tree(kernel, item)
        state(kernel).rmap_items -= 1


# --- merging; of one page, see ksm_merge.py ---


def _try_to_merge_with_ksm_page(item: RmapItem, page: Page, kpage: Page | None) -> int:
    """mm/ksm.c: try_to_merge_with_ksm_page."""
    mm = item.mm
    with down_read(mm.mmap_sem):
        if _test_exit(mm):
            return -EFAULT
        vma = mmap.find_vma(mm, item.address)
        if vma is None or vma.vm_start > item.address:
            return -EFAULT
        error = ksm_merge.try_to_merge_one_page(vma, page, kpage)
        if error:
            return error
        _remove_rmap_item_from_tree(mm.kernel, item)
        # While mmap_sem keeps it alive.
        item.anon_vma = vma.anon_vma
        assert item.anon_vma is not None
        rmap.get_anon_vma(item.anon_vma)
    return 0


def _try_to_merge_two_pages(
    item: RmapItem, page: Page, tree_item: RmapItem, tree_page: Page
) -> Page | None:
    """mm/ksm.c: try_to_merge_two_pages."""
    error = _try_to_merge_with_ksm_page(item, page, None)
    if not error:
        error = _try_to_merge_with_ksm_page(tree_item, tree_page, page)
        if error:
            _break_cow(item)
    return None if error else page


# --- trees ---


def _stable_tree_search(kernel: Kernel, page: Page) -> Page | None:
    """The merged page with the contents of @page, with a reference  (mm/ksm.c:
    stable_tree_search)."""
    ksm = state(kernel)
    page_node = page_stable_node(page)
    if page_node is not None and not page_node.migrating:
        get_page(page)
        return page
    nid = _get_kpfn_nid(kernel, page.pfn)
    tree = ksm.root_stable_tree[nid]
    while True:
        low, high = 0, len(tree)
        found: StableNode | None = None
        while low < high:
            middle = (low + high) // 2
            node = tree[middle]
            tree_page = get_ksm_page(kernel, node, False)
            if tree_page is None:
                return None
            order = ksm_merge.memcmp_pages(page, tree_page)
            swap.put_page(tree_page)
            if order == 0:
                found = node
                break
            low, high = (low, middle) if order < 0 else (middle + 1, high)
        if found is None:
            if page_node is None:
                return None
            ksm.migrate_nodes.remove(page_node)
            page_node.migrating, page_node.nid = False, nid
            tree.insert(low, page_node)
            get_page(page)
            return page
        # Locked and unlocked: it may be moved just now, and what is returned must be the last.
        tree_page = get_ksm_page(kernel, found, True)
        if tree_page is not None:
            unlock_page(tree_page)
            if _get_kpfn_nid(kernel, READ_ONCE(found, "kpfn")) == found.nid:
                return tree_page
            swap.put_page(tree_page)
            return _replace_node(ksm, tree, found, page_node, page, nid)
        if page_node is None:
            return None


def _replace_node(
    ksm: KsmState,
    tree: list[StableNode],
    node: StableNode,
    page_node: StableNode | None,
    page: Page,
    nid: int,
) -> Page | None:
    """A node whose page has moved to another node of memory leaves this tree."""
    place = tree.index(node)
    result: Page | None = None
    if page_node is not None:
        ksm.migrate_nodes.remove(page_node)
        page_node.migrating, page_node.nid = False, nid
        tree[place] = page_node
        get_page(page)
        result = page
    else:
        del tree[place]
    node.migrating = True
    ksm.migrate_nodes.insert(0, node)
    return result


def _stable_tree_insert(kernel: Kernel, kpage: Page) -> StableNode | None:
    """A new node for a page that has just been made a KSM page  (mm/ksm.c:
    stable_tree_insert)."""
    ksm = state(kernel)
    nid = _get_kpfn_nid(kernel, kpage.pfn)
    tree = ksm.root_stable_tree[nid]
    low, high = 0, len(tree)
    while low < high:
        middle = (low + high) // 2
        tree_page = get_ksm_page(kernel, tree[middle], False)
        if tree_page is None:
            return None
        order = ksm_merge.memcmp_pages(kpage, tree_page)
        swap.put_page(tree_page)
        if order == 0:
            return None
        low, high = (low, middle) if order < 0 else (middle + 1, high)
    ksm.numbers += 1
    node = StableNode(kpage.pfn, nid, ksm.numbers)
    set_page_mapping(kpage, node)
    tree.insert(low, node)
    return node


def _unstable_tree_search_insert(
    kernel: Kernel, item: RmapItem, page: Page
) -> tuple[RmapItem, Page] | None:
    """What has the same contents, with a reference on its page; else @item waits here
    (mm/ksm.c: unstable_tree_search_insert)."""
    ksm = state(kernel)
    nid = _get_kpfn_nid(kernel, page.pfn)
    tree = ksm.root_unstable_tree[nid]
    low, high = 0, len(tree)
    while low < high:
        middle = (low + high) // 2
        tree_item = tree[middle]
        tree_page = _get_mergeable_page(tree_item)
        if tree_page is None:
            return None
        if page is tree_page:
            swap.put_page(tree_page)
            return None
        order = ksm_merge.memcmp_pages(page, tree_page)
        if order == 0:
            if not ksm.merge_across_nodes and tree_page.zone.nid != nid:
                swap.put_page(tree_page)  # it has moved since
                return None
            return tree_item, tree_page
        swap.put_page(tree_page)
        low, high = (low, middle) if order < 0 else (middle + 1, high)
    item.unstable, item.seqnr, item.nid = True, ksm.seqnr, nid
    tree.insert(low, item)
    ksm.pages_unshared += 1
    return None


def _stable_tree_append(kernel: Kernel, item: RmapItem, node: StableNode) -> None:
    """One more address has the node's page, which is locked  (mm/ksm.c: stable_tree_append)."""
    ksm = state(kernel)
    if node.hlist:
        ksm.pages_sharing += 1
    else:
        ksm.pages_shared += 1
    item.head = node
    node.hlist.insert(0, item)


def cmp_and_merge_page(kernel: Kernel, page: Page, item: RmapItem) -> None:
    """Look one page up, and merge it with what there is  (mm/ksm.c: cmp_and_merge_page)."""
    ksm = state(kernel)
    node = page_stable_node(page)
    if node is not None:
        if not node.migrating and _get_kpfn_nid(kernel, READ_ONCE(node, "kpfn")) != node.nid:
            ksm.root_stable_tree[node.nid].remove(node)
            node.migrating = True
            ksm.migrate_nodes.insert(0, node)
        if not node.migrating and item.head is node:
            return
    kpage = _stable_tree_search(kernel, page)
    if kpage is page and node is not None and item.head is node:
        swap.put_page(kpage)
        return
    _remove_rmap_item_from_tree(kernel, item)
    if kpage is not None:
        if _try_to_merge_with_ksm_page(item, page, kpage) == 0:
            lock_page(kpage)
            found = page_stable_node(kpage)
            assert found is not None
            _stable_tree_append(kernel, item, found)
            unlock_page(kpage)
        swap.put_page(kpage)
        return
    if sched.hook is not None:
        READ_ONCE(page, "data")
    checksum = bytes(page.data or b"")  # Differs: the contents themselves, no hash of them
    if item.oldchecksum != checksum:
        item.oldchecksum = checksum  # it changes too often, as far as we know
        return
    twin = _unstable_tree_search_insert(kernel, item, page)
    if twin is None:
        return
    tree_item, tree_page = twin
    kpage = _try_to_merge_two_pages(item, page, tree_item, tree_page)
    swap.put_page(tree_page)
    if kpage is not None:
        lock_page(kpage)
        new_node = _stable_tree_insert(kernel, kpage)
        if new_node is not None:
            _stable_tree_append(kernel, tree_item, new_node)
            _stable_tree_append(kernel, item, new_node)
        unlock_page(kpage)
        if new_node is None:
            _break_cow(tree_item)
            _break_cow(item)


# --- scanning ---


def _get_next_rmap_item(kernel: Kernel, slot: MmSlot, addr: int) -> RmapItem:
    """The item of an address; those that were passed are forgotten  (mm/ksm.c:
    get_next_rmap_item)."""
    ksm = state(kernel)
    items = slot.rmap_list
    while ksm.position < len(items):
        item = items[ksm.position]
        if item.address == addr:
            return item
        if item.address > addr:
            break
        del items[ksm.position]
        _remove_rmap_item_from_tree(kernel, item)
        ksm.rmap_items -= 1
    item = RmapItem(slot.mm, addr)
    items.insert(ksm.position, item)
    ksm.rmap_items += 1
    return item


def _scan_get_next_rmap_item(kernel: Kernel) -> tuple[RmapItem, Page] | None:
    """The next page to look at, with a reference; None at the end of a full scan
    (mm/ksm.c: scan_get_next_rmap_item)."""
    ksm = state(kernel)
    if not ksm.mm_list:
        return None
    if ksm.mm_slot is None:
        swap.lru_add_drain_all(kernel)  # a page in a vector has a reference too many
        if not ksm.merge_across_nodes:
            for node in list(ksm.migrate_nodes):
                page = get_ksm_page(kernel, node, False)
                if page is not None:
                    swap.put_page(page)
        for tree in ksm.root_unstable_tree:
            tree.clear()
        with spin_lock(ksm.mmlist_lock):
            ksm.mm_slot = ksm.mm_list[0] if ksm.mm_list else None
        if ksm.mm_slot is None:
            return None
        ksm.address, ksm.position = 0, 0
    while ksm.mm_slot is not None:
        slot = ksm.mm_slot
        mm = slot.mm
        down_read(mm.mmap_sem)
        found = _scan_mm(kernel, slot)
        if found is not None:
            up_read(mm.mmap_sem)
            return found
        if _test_exit(mm):
            ksm.address, ksm.position = 0, 0
        _remove_trailing_rmap_items(kernel, slot, ksm.position)
        _leave_mm(ksm, slot)
    ksm.seqnr += 1
    ksm.full_scans += 1
    return None


def _scan_mm(kernel: Kernel, slot: MmSlot) -> tuple[RmapItem, Page] | None:
    ksm, mm = state(kernel), slot.mm
    for vma in [] if _test_exit(mm) else list(mm.mmap):
        if vma.vm_end <= ksm.address or not vma.vm_flags & VM_MERGEABLE:
            continue
        ksm.address = max(ksm.address, vma.vm_start)
        if vma.anon_vma is None:
            ksm.address = vma.vm_end
        while ksm.address < vma.vm_end and not _test_exit(mm):
            page = _follow_page(vma, ksm.address, FOLL_GET)
            if isinstance(page, Page):
                if PageAnon(page) or _compound_anon(page):
                    item = _get_next_rmap_item(kernel, slot, ksm.address)
                    ksm.position += 1
                    ksm.address += PAGE_SIZE
                    return item, page
                swap.put_page(page)
            ksm.address += PAGE_SIZE
            sched.cond_resched()
    return None


def _leave_mm(ksm: KsmState, slot: MmSlot) -> None:
    """On to the next process; one without anything mergeable is forgotten."""
    mm = slot.mm
    spin_lock(ksm.mmlist_lock)
    position = ksm.mm_list.index(slot)
    following = ksm.mm_list[position + 1 :]
    ksm.mm_slot = following[0] if following else None
    forget = ksm.address == 0
    if forget:
        ksm.mm_list.remove(slot)
    spin_unlock(ksm.mmlist_lock)
    if forget:
        WRITE_ONCE(mm, "flags", mm.flags & ~MMF_VM_MERGEABLE)
    up_read(mm.mmap_sem)
    if forget:
        fork.mmdrop(mm)
    ksm.address, ksm.position = 0, 0


def ksm_do_scan(kernel: Kernel, scan_npages: int) -> None:
    """What ksmd does between two sleeps  (mm/ksm.c: ksm_do_scan, ksm_scan_thread)."""
    with mutex_lock(state(kernel).thread_mutex):
        for _ in range(scan_npages):
            sched.cond_resched()
            found = _scan_get_next_rmap_item(kernel)
            if found is None:
                return
            item, page = found
            cmp_and_merge_page(kernel, page, item)
            swap.put_page(page)


def set_merge_across_nodes(kernel: Kernel, across: bool) -> int:
    """Write to merge_across_nodes: 0, or -EBUSY while pages are merged
    (mm/ksm.c: merge_across_nodes_store)."""
    ksm = state(kernel)
    with mutex_lock(ksm.thread_mutex):
        if ksm.merge_across_nodes != across:
            if ksm.pages_shared:
                return -EBUSY
            for tree in (*ksm.root_stable_tree, ksm.migrate_nodes):
                for node in list(tree):
                    page = get_ksm_page(kernel, node, False)
                    if page is not None:
                        swap.put_page(page)
                        return -EBUSY
            ksm.merge_across_nodes = across
    return 0


def set_run(kernel: Kernel, run: int) -> int:
    """Write to run: 2 undoes all merging; 0 or -ENOMEM, -EBUSY  (mm/ksm.c: run_store)."""
    ksm = state(kernel)
    with mutex_lock(ksm.thread_mutex):
        if ksm.ksm_run == run:
            return 0
        ksm.ksm_run = run
        return unmerge_and_remove_all_rmap_items(kernel) if run & KSM_RUN_UNMERGE else 0


# --- for others ---


def ksm_might_need_to_copy(page: Page, vma: Vma, address: int) -> Page | None:
    """A page of the swap cache that swap-in wants to map at @address: itself, or a locked copy if
    it belongs to another family of processes, or was merged; None: no memory
    (mm/ksm.c: ksm_might_need_to_copy)."""
    kernel = vma.vm_mm.kernel
    anon_vma = page_anon_vma(page)
    if PageKsm(page):
        if page_stable_node(page) is not None and not state(kernel).ksm_run & KSM_RUN_UNMERGE:
            return page
    elif anon_vma is None or (
        vma.anon_vma is not None
        and anon_vma.root is vma.anon_vma.root
        and page.index == rmap.linear_page_index(vma, address)
    ):
        return page
    if not PageUptodate(page):
        return page
    new_page = mempolicy.alloc_page_vma(GFP_HIGHUSER_MOVABLE, vma, address)
    if new_page is not None:
        copy_user_highpage(new_page, page)
        SetPageDirty(new_page)
        SetPageUptodate(new_page)
        lock_page(new_page)
    return new_page


def rmap_walk_ksm(page: Page, rwc: RmapWalkControl, arg: Any) -> int:
    """Visit the areas that can map a merged page: at each address the process it was merged in,
    then, in a second pass, those forked from it since  (mm/ksm.c: rmap_walk_ksm)."""
    BUG_ON(not PageLocked(page), "rmap_walk_ksm of an unlocked page", page)
    node = page_stable_node(page)
    ret = SWAP_AGAIN
    if node is None:
        return ret
    for search_new_forks in (False, True):
        for item in list(node.hlist):
            anon_vma = item.anon_vma
            assert anon_vma is not None
            sched.cond_resched()
            down_read(anon_vma.root.rwsem)
            for chain in anon_vma.rb_root.overlapping(0, 1 << 62):
                vma = chain.vma
                if not vma.vm_start <= item.address < vma.vm_end:
                    continue
                if (item.mm is vma.vm_mm) == search_new_forks:
                    continue
                if rwc.invalid_vma is not None and rwc.invalid_vma(vma, arg):
                    continue
                ret = rwc.rmap_one(page, vma, item.address, arg)
                if ret != SWAP_AGAIN or (rwc.done is not None and rwc.done(page)):
                    up_read(anon_vma.root.rwsem)
                    return ret
            up_read(anon_vma.root.rwsem)
    return ret


def ksm_migrate_page(newpage: Page, oldpage: Page) -> None:
    """The node names @newpage from now on; first the frame, then the old page's mapping
    (mm/ksm.c: ksm_migrate_page)."""
    BUG_ON(not PageLocked(oldpage), "ksm_migrate_page of an unlocked page", oldpage)
    node = page_stable_node(newpage)
    if node is not None:
        BUG_ON(node.kpfn != oldpage.pfn, "a stable node names another page", oldpage)
        WRITE_ONCE(node, "kpfn", newpage.pfn)
        set_page_mapping(oldpage, NO_STABLE_NODE)


def ksm_check_stable_tree(kernel: Kernel, start_pfn: int, end_pfn: int) -> None:
    """Memory is about to go away: forget the nodes whose pages were there
    (mm/ksm.c: ksm_check_stable_tree)."""
    ksm = state(kernel)
    for tree in (*ksm.root_stable_tree, ksm.migrate_nodes):
        for node in list(tree):
            if start_pfn <= node.kpfn < end_pfn:
                _remove_node_from_stable_tree(kernel, node)
