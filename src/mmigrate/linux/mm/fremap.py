"""Nonlinear mappings: pages of a file in any order within one area  (mm/fremap.c)."""

from __future__ import annotations

from errno import EINVAL

from mmigrate.linux.include.mm import VM_LOCKED, VM_NONLINEAR, VM_SHARED
from mmigrate.linux.include.mm_types import Mm, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PTE_PFN_MASK,
    is_migration_entry,
    non_swap_entry,
    pgoff_to_pte,
    pte_dirty,
    pte_file,
    pte_file_mksoft_dirty,
    pte_present,
    pte_to_swp_entry,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.include.switches import RSS_OF_REMAPPED
from mmigrate.linux.include.vmstat import MM_ANONPAGES, MM_FILEPAGES, MM_SWAPENTS
from mmigrate.linux.kernel.area import vma_flags
from mmigrate.linux.kernel.atomic import WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.page_flags import PageAnon
from mmigrate.linux.kernel.pgtable import pte_clear, ptep_get, set_pte_at
from mmigrate.linux.kernel.rwsem import down_read, down_write, up_read, up_write
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import (
    gup,
    memory,
    migrate,
    mlock,
    mmap,
    mmu_notifier,
    page_writeback,
    rmap,
    swap,
    swapfile,
)

MAP_NONBLOCK = mmap.MAP_NONBLOCK


def zap_pte(mm: Mm, vma: Vma, addr: int, pt: PageTable) -> None:
    """Take away whatever stands at @addr; its lock is held  (mm/fremap.c: zap_pte)."""
    pte = ptep_get(pt, addr)
    if pte_present(pte):
        pte = mmu_notifier.ptep_clear_flush_notify(vma, addr, pt)
        page = memory.vm_normal_page(vma, addr, pte)
        if page is not None:
            if pte_dirty(pte):
                page_writeback.set_page_dirty(page)
            rmap.update_hiwater_rss(mm)
            mm.rss_stat[MM_FILEPAGES] -= 1
            rmap.page_remove_rmap(page)
            swap.put_page(page)
        return
    if not pte_file(pte):
        rmap.update_hiwater_rss(mm)
        entry = pte_to_swp_entry(pte)
        if not non_swap_entry(entry):
            swapfile.free_swap_and_cache(entry)
            mm.rss_stat[MM_SWAPENTS] -= 1
        elif is_migration_entry(entry) and mm.kernel.has(RSS_OF_REMAPPED):
            page = migrate.migration_entry_to_page(mm.kernel, entry)
            mm.rss_stat[MM_ANONPAGES if PageAnon(page) else MM_FILEPAGES] -= 1
    pte_clear(mm, addr, pt)


def install_file_pte(mm: Mm, vma: Vma, addr: int, pgoff: int) -> int:
    """Let the next access to @addr fault in the file's page @pgoff; 0
    (mm/fremap.c: install_file_pte)."""
    pt = memory.pte_alloc_map(mm, vma, addr)
    ptl = pt.ptl
    with spin_lock(ptl):
        if ptep_get(pt, addr):
            zap_pte(mm, vma, addr, pt)
        set_pte_at(mm, addr, pt, pte_file_mksoft_dirty(pgoff_to_pte(pgoff)))
    return 0


def generic_file_remap_pages(vma: Vma, addr: int, size: int, pgoff: int) -> int:
    """mm/fremap.c: generic_file_remap_pages.

    Differs: every filesystem of the model has it, so it is called and not looked up.
    """
    for address in range(addr, addr + size, PAGE_SIZE):
        error = install_file_pte(vma.vm_mm, vma, address, pgoff)
        if error:
            return error
        pgoff += 1
    return 0


def sys_remap_file_pages(
    task: Task, start: int, size: int, prot: int, pgoff: int, flags: int
) -> int:
    """The system call remap_file_pages: show other pages of the file in part of one shared
    area.  0 or -errno  (mm/fremap.c: sys_remap_file_pages)."""
    if prot:
        return -EINVAL
    start &= PAGE_MASK
    size &= PAGE_MASK
    pages = size >> PAGE_SHIFT
    if not size or start + size > 1 << 64:
        return -EINVAL
    if (pgoff + pages) << PAGE_SHIFT > PTE_PFN_MASK:
        return -EINVAL  # would not fit into a pte
    mm = task.mm
    assert mm is not None

    down_read(mm.mmap_sem)
    answer = _remap_locked(mm, start, size, pgoff, writer=False)
    up_read(mm.mmap_sem)
    if answer is None:
        down_write(mm.mmap_sem)
        answer = _remap_locked(mm, start, size, pgoff, writer=True)
        up_write(mm.mmap_sem)
        assert answer is not None
    error, vm_flags = answer
    if not error and (vm_flags & VM_LOCKED or not flags & MAP_NONBLOCK):
        gup.__mm_populate(start, size, True)
    return error


def _remap_locked(
    mm: Mm, start: int, size: int, pgoff: int, *, writer: bool
) -> tuple[int, int] | None:
    """(0 or -errno, the area's flags); None if mmap_sem is needed for write and is not."""
    vma = mmap.find_vma(mm, start)
    if vma is None:
        return -EINVAL, 0
    if not vma.vm_flags & VM_SHARED or vma.vm_ops is None or vma.vm_file is None:
        return -EINVAL, vma.vm_flags
    if start < vma.vm_start or start + size > vma.vm_end:
        return -EINVAL, vma.vm_flags

    if not vma.vm_flags & VM_NONLINEAR:
        # Reclaim will keep its cursor there.
        if vma.vm_private_data is not None:
            return -EINVAL, vma.vm_flags
        if pgoff == rmap.linear_page_index(vma, start):
            return 0, vma.vm_flags
        if not writer:
            return None
        mapping = vma.vm_file.f_mapping
        if mmap.mapping_cap_account_dirty(mapping):
            # page_mkclean cannot find the ptes of a nonlinear area: where dirty pages
            # are counted, an area of its own has to do.
            vm_flags = int(vma_flags(vma))
            addr = mmap.mmap_region(vma.vm_file, start, size, vm_flags, pgoff)
            if mmap.is_error(addr):
                return addr, vm_flags
            BUG_ON(addr != start, f"mapped at {addr:#x} for {start:#x}", mm)
            return 0, vm_flags
        with down_write(mapping.i_mmap_rwsem):
            WRITE_ONCE(vma, "vm_flags", vma.vm_flags | VM_NONLINEAR)
            mapping.i_mmap.remove(vma)
            mapping.i_mmap_nonlinear.append(vma)

    if vma.vm_flags & VM_LOCKED:
        # What is mapped over shall not stay mlocked.
        if not writer:
            return None
        vm_flags = vma.vm_flags
        mlock.munlock_vma_pages_range(vma, start, start + size)
        WRITE_ONCE(vma, "vm_flags", vm_flags)
    mmu_notifier.mmu_notifier_invalidate_range_start(mm, start, start + size)
    error = generic_file_remap_pages(vma, start, size, pgoff)
    mmu_notifier.mmu_notifier_invalidate_range_end(mm, start, start + size)
    return error, vma.vm_flags
