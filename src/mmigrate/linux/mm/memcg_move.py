"""Charges that follow a task into another memory cgroup
(mm/memcontrol.c: mem_cgroup_can_attach, mem_cgroup_move_task).

The target is charged for all that could be moved first, page by page what can be isolated
changes owner, and at the end the source is relieved of as much, and the target of the rest.
A migration entry is neither a page nor a place in swap: its page stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.linux.include.gfp import __GFP_NORETRY, GFP_KERNEL
from mmigrate.linux.include.mm import VM_HUGETLB
from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    HPAGE_PMD_NR,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    is_swap_pte,
    non_swap_entry,
    pmd_trans_huge,
    pte_present,
    pte_to_swp_entry,
)
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE, atomic_add
from mmigrate.linux.kernel.page_flags import PageAnon
from mmigrate.linux.kernel.page_ref import get_page, get_page_unless_zero
from mmigrate.linux.kernel.pgtable import find_leaf, find_pmds, pmd_get, ptep_get
from mmigrate.linux.kernel.rcu import synchronize_rcu
from mmigrate.linux.kernel.rwsem import down_read, up_read
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import filemap, huge_memory, memcontrol, memory, swap, swap_state
from mmigrate.linux.mm.memcontrol import MOVE_ANON, MOVE_FILE, MemCgroup
from mmigrate.linux.mm.page_counter import page_counter_uncharge


class _Move:
    """struct move_charge_struct."""

    __slots__ = ("moved_charge", "moved_swap", "precharge", "source", "target")

    def __init__(self, source: MemCgroup, target: MemCgroup) -> None:
        self.source = source
        self.target = target
        self.precharge = 0
        self.moved_charge = 0
        self.moved_swap = 0


def mem_cgroup_attach(mm: Mm, target: MemCgroup) -> int:
    """The task that owns @mm changes to a group; its charges come along if the group says so.
    0 or -ENOMEM, and then it stays where it was  (mm/memcontrol.c: mem_cgroup_can_attach)."""
    source = memcontrol.mem_cgroup_from_mm(mm)
    move = _Move(source, target)
    if source is target or not target.move_charge_at_immigrate:
        WRITE_ONCE(mm, "memcg", target)
        return 0
    error = _precharge(move, _count(mm, move))
    if error:
        _clear(move)
        return error
    WRITE_ONCE(mm, "memcg", target)
    swap.lru_add_drain_all(mm.kernel)
    atomic_add(1, source, "moving_account")
    synchronize_rcu(mm.kernel)  # who began to count before has ended
    down_read(mm.mmap_sem)
    for vma, address, pt in _tables(mm):
        _move_pte_range(mm, vma, address, pt, move)
    up_read(mm.mmap_sem)
    atomic_add(-1, source, "moving_account")
    _clear(move)
    return 0


def _precharge(move: _Move, number: int) -> int:
    """mm/memcontrol.c: mem_cgroup_do_precharge."""
    for _ in range(number):
        error = memcontrol.try_charge(move.target, GFP_KERNEL | __GFP_NORETRY, 1)
        if error:
            return error
        groups = memcontrol.state(move.target.kernel)
        if move.target is not groups.root:
            groups.tries += 1
        move.precharge += 1
    return 0


def _count(mm: Mm, move: _Move) -> int:
    """How much may be moved  (mm/memcontrol.c: mem_cgroup_count_precharge)."""
    found = 0
    down_read(mm.mmap_sem)
    for vma, first, pt in _tables(mm):
        if pt is None:
            with spin_lock(_pmds(mm, first).ptl):
                found += HPAGE_PMD_NR * (_huge_target(mm, first, move) is not None)
            continue
        with spin_lock(pt.ptl):
            for address in _addresses(vma, first):
                page, entry = _target(vma, address, pt, move)
                found += page is not None or entry != 0
                if page is not None:
                    swap.put_page(page)
    up_read(mm.mmap_sem)
    return found


def _tables(mm: Mm) -> Iterator[tuple[Vma, int, PageTable | None]]:
    """Each part of an area that has a table of ptes, with that table, or a huge page."""
    for vma in mm.mmap:
        if vma.vm_flags & VM_HUGETLB:
            continue
        for first in range(vma.vm_start & PMD_MASK, vma.vm_end, PMD_SIZE):
            pmds = find_pmds(mm, first)
            if pmds is not None and pmd_trans_huge(pmd_get(pmds, first)):
                yield vma, first, None
                continue
            pt = find_leaf(mm, first)
            if pt is not None:
                yield vma, first, pt


def _pmds(mm: Mm, address: int) -> PageTable:
    pmds = find_pmds(mm, address)
    assert pmds is not None
    return pmds


def _addresses(vma: Vma, first: int) -> range:
    return range(max(first, vma.vm_start), min(first + PMD_SIZE, vma.vm_end), PAGE_SIZE)


def _target(vma: Vma, address: int, pt: PageTable, move: _Move) -> tuple[Page | None, int]:
    """What a pte names that is charged to the source: a page, with a reference, or a swap entry
    (mm/memcontrol.c: get_mctgt_type)."""
    kernel = vma.vm_mm.kernel
    flags = move.target.move_charge_at_immigrate
    pte = ptep_get(pt, address)
    page: Page | None = None
    entry = 0
    if pte_present(pte):
        page = memory.vm_normal_page(vma, address, pte)
        if page is None or not flags & (MOVE_ANON if PageAnon(page) else MOVE_FILE):
            return None, 0
        if not get_page_unless_zero(page):
            return None, 0
    elif is_swap_pte(pte):
        entry = pte_to_swp_entry(pte)
        if not flags & MOVE_ANON or non_swap_entry(entry):
            return None, 0
        page = filemap.find_get_page(swap_state.swap_address_space(kernel, entry), entry)
    elif vma.vm_file is not None and flags & MOVE_FILE and pte == 0:
        # A page of the file that this process has not mapped counts as its own too.
        index = vma.vm_pgoff + ((address - vma.vm_start) >> 12)
        page = filemap.find_get_page(vma.vm_file.f_mapping, index)
    if page is not None:
        if READ_ONCE(page, "mem_cgroup") is move.source:
            return page, 0
        swap.put_page(page)
    groups = memcontrol.state(kernel)
    if entry and groups.swap_cgroup.get(entry) == move.source.css_id:
        return None, entry
    return None, 0


def _huge_target(mm: Mm, address: int, move: _Move) -> Page | None:
    """The huge page of a pmd, if it is the source's  (mm/memcontrol.c: get_mctgt_type_thp)."""
    pmds = _pmds(mm, address)
    pmd = pmd_get(pmds, address)
    if not pmd_trans_huge(pmd) or not move.target.move_charge_at_immigrate & MOVE_ANON:
        return None
    if huge_memory.is_huge_zero_pmd(mm.kernel, pmd):
        return None
    page = huge_memory.pmd_page(mm.kernel, pmd)
    return page if READ_ONCE(page, "mem_cgroup") is move.source else None


def _move_pte_range(mm: Mm, vma: Vma, first: int, pt: PageTable | None, move: _Move) -> None:
    """mm/memcontrol.c: mem_cgroup_move_charge_pte_range."""
    if pt is None:
        with spin_lock(_pmds(mm, first).ptl):
            if move.precharge < HPAGE_PMD_NR:
                return
            page = _huge_target(mm, first, move)
            if page is not None:
                get_page(page)
                if memcontrol.isolate_and_move(page, move.source, move.target) == 0:
                    move.precharge -= HPAGE_PMD_NR
                    move.moved_charge += HPAGE_PMD_NR
                swap.put_page(page)
        return
    addresses = list(_addresses(vma, first))
    while addresses:
        with spin_lock(pt.ptl):
            while addresses and move.precharge:
                _move_pte(vma, addresses.pop(0), pt, move)
        # Others have come meanwhile: one by one.
        if addresses and _precharge(move, 1):
            return


def _move_pte(vma: Vma, address: int, pt: PageTable, move: _Move) -> None:
    page, entry = _target(vma, address, pt, move)
    if page is not None:
        if memcontrol.isolate_and_move(page, move.source, move.target) == 0:
            move.precharge -= 1
            move.moved_charge += 1
        swap.put_page(page)
    elif entry and not memcontrol.mem_cgroup_move_swap_account(entry, move.source, move.target):
        move.precharge -= 1
        move.moved_swap += 1


def _clear(move: _Move) -> None:
    """Relieve the source of what was moved, and the target of what was not
    (mm/memcontrol.c: __mem_cgroup_clear_mc)."""
    source, target = move.source, move.target
    groups = memcontrol.state(target.kernel)
    if move.precharge:
        memcontrol.cancel_charge(target, move.precharge)
    if move.moved_charge:
        memcontrol.cancel_charge(source, move.moved_charge)
    if move.moved_swap:
        if source is not groups.root:
            page_counter_uncharge(source.memsw, move.moved_swap)
            groups.ends += move.moved_swap
        if target is not groups.root:
            page_counter_uncharge(target.memory, move.moved_swap)
        if source is not groups.root:
            memcontrol.css_put_many(source, move.moved_swap)
