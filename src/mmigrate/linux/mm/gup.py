"""Finding and pinning the pages of a user address space  (mm/gup.c, arch/x86/mm/gup.c)."""

from __future__ import annotations

from errno import EAGAIN, EBUSY, EFAULT, ENOMEM

from mmigrate.linux.include.mm import (
    FAULT_FLAG_WRITE,
    FOLL_DUMP,
    FOLL_FORCE,
    FOLL_GET,
    FOLL_MIGRATION,
    FOLL_MLOCK,
    FOLL_NUMA,
    FOLL_SPLIT,
    FOLL_TOUCH,
    FOLL_WRITE,
    VM_EXEC,
    VM_FAULT_ERROR,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_WRITE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYREAD,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    _PAGE_PRESENT,
    _PAGE_RW,
    _PAGE_SPECIAL,
    _PAGE_USER,
    _PRESENT_ANY,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    is_migration_entry,
    is_swap_pte,
    pmd_numa,
    pmd_trans_huge,
    pmd_trans_splitting,
    pte_dirty,
    pte_numa,
    pte_pfn,
    pte_to_swp_entry,
    pte_write,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.include.switches import PROTNONE_FOLLOWED_AGAIN, PROTNONE_NOT_FOLLOWED
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.page_flags import (
    PageCompound,
    PageDirty,
    SetPageReferenced,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import get_page, get_page_foll
from mmigrate.linux.kernel.pgtable import find_pmds, pmd_get, ptep_get
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.straight import hot, small
from mmigrate.linux.kernel.tlb import switch_mm
from mmigrate.linux.mm import (
    huge_memory,
    huge_split,
    hugetlb,
    memory,
    migrate,
    mlock,
    mmap,
    page_tables,
    page_writeback,
    swap,
)


@small
def follow_page(vma: Vma, addr: int, flags: int) -> Page | int | None:
    """The page that is mapped at @addr now: None if none is, -EFAULT if it is no ordinary
    page. With FOLL_GET a reference is taken; FOLL_MIGRATION waits for a migration
    (mm/gup.c: follow_page_mask)."""
    if vma.vm_flags & VM_HUGETLB:
        return hugetlb.follow_huge_page(vma, addr, flags)
    pmds = find_pmds(vma.vm_mm, addr)
    if pmds is None:
        return _no_page_table(vma, flags)
    pmd = pmd_get(pmds, addr)
    if type(pmd) is PageTable:
        return _follow_page_pte(vma, addr, pmd, flags)
    if pmd is None:
        return _no_page_table(vma, flags)
    if flags & FOLL_NUMA and pmd_numa(pmd):
        return None
    if flags & FOLL_SPLIT:
        huge_split.split_huge_page_pmd(vma, addr, pmds)
    else:
        ptl = pmds.ptl
        spin_lock(ptl)
        pmd = pmd_get(pmds, addr)
        if pmd_trans_huge(pmd) and not pmd_trans_splitting(pmd):
            page = huge_memory.follow_trans_huge_pmd(vma, addr, pmds, flags)
            spin_unlock(ptl)
            return page
        spin_unlock(ptl)
        if pmd_trans_huge(pmd):
            huge_memory.wait_split_huge_page(vma.anon_vma, pmds, addr)
    pmd = pmd_get(pmds, addr)
    return _follow_page_pte(vma, addr, pmd, flags) if type(pmd) is PageTable else None


def hides_pages(vma: Vma) -> bool:
    """Whether `follow_page` of later kernels finds nothing: the area gives no access, and its ptes
    are taken for those that NUMA balancing has marked."""
    kernel = vma.vm_mm.kernel
    return (
        not vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC)
        and kernel.has(PROTNONE_NOT_FOLLOWED)
        and not kernel.has(PROTNONE_FOLLOWED_AGAIN)
    )


def _no_page_table(vma: Vma, flags: int) -> int | None:
    """What stands for memory that was never touched: nothing, or for a dump, which leaves out
    what would be zeroes, -EFAULT  (mm/gup.c: no_page_table)."""
    if flags & FOLL_DUMP and (vma.vm_ops is None or vma.vm_ops.fault is None):
        return -EFAULT
    return None


@hot
def _follow_page_pte(vma: Vma, addr: int, pt: PageTable, flags: int) -> Page | int | None:
    """mm/gup.c: follow_page_pte."""
    ptl = pt.ptl
    while True:
        spin_lock(ptl)
        pte = ptep_get(pt, addr)
        if pte & _PRESENT_ANY:
            break
        spin_unlock(ptl)
        if pte == 0:
            return _no_page_table(vma, flags)
        if not flags & FOLL_MIGRATION or not is_swap_pte(pte):
            return None
        if not is_migration_entry(pte_to_swp_entry(pte)):
            return None
        migrate.migration_entry_wait(vma.vm_mm, pt, addr)
    page: Page | int | None = None
    if not (flags & FOLL_NUMA and pte_numa(pte)) and not (
        flags & FOLL_WRITE and not pte_write(pte)
    ):
        page = page_tables.vm_normal_page(vma, addr, pte)
        if page is None:
            zero = vma.vm_mm.kernel.zero_page
            page = -EFAULT if flags & FOLL_DUMP or pte_pfn(pte) != zero.pfn else zero
        if not isinstance(page, int):
            if flags & FOLL_GET:
                get_page(page)
            if flags & (FOLL_TOUCH | FOLL_MLOCK):
                _touch(vma, page, pte, flags)
    spin_unlock(ptl)
    return page


def _touch(vma: Vma, page: Page, pte: int, flags: int) -> None:
    """Mark a page that was found as used, or as locked; the pte lock is held."""
    if flags & FOLL_TOUCH:
        if flags & FOLL_WRITE and not pte_dirty(pte) and not PageDirty(page):
            page_writeback.set_page_dirty(page)
        swap.mark_page_accessed(page)
    if (
        flags & FOLL_MLOCK
        and vma.vm_flags & VM_LOCKED
        and READ_ONCE(page, "mapping") is not None
        and trylock_page(page)
    ):
        swap.lru_add_drain()  # push cached pages to the LRU, where mlock can move them
        mlock.mlock_vma_page(page)
        unlock_page(page)


def get_user_pages(
    task: Task, mm: Mm, start: int, nr_pages: int, write: bool, force: bool = False
) -> list[Page] | int:
    """References on the pages of a range, faulted in; -errno if not even the first could be
    had. mmap_sem is held for read  (mm/gup.c: get_user_pages)."""
    flags = FOLL_GET | FOLL_TOUCH
    flags |= (FOLL_WRITE if write else 0) | (FOLL_FORCE if force else 0)
    return _get_user_pages(mm, start, nr_pages, flags)


def _get_user_pages(mm: Mm, start: int, nr_pages: int, flags: int) -> list[Page] | int:
    """mm/gup.c: __get_user_pages."""
    if not flags & FOLL_FORCE:
        flags |= FOLL_NUMA
    pages: list[Page] = []
    addr = start & PAGE_MASK
    end = addr + nr_pages * PAGE_SIZE
    while addr < end:
        vma = mmap.find_extend_vma(mm, addr)
        if vma is None or not _may_access(vma, flags):
            return pages or -EFAULT
        if vma.vm_flags & VM_HUGETLB:
            found = hugetlb.follow_hugetlb_page(vma, addr, flags)
            if isinstance(found, int):
                return pages or (-ENOMEM if found & VM_FAULT_OOM else -EFAULT)
            if flags & FOLL_GET:
                pages.append(found)
                addr += PAGE_SIZE
            else:
                addr = hugetlb.populate_step(vma, addr)
            continue
        foll = flags
        while True:
            sched.cond_resched()
            page = follow_page(vma, addr, foll)
            if isinstance(page, Page):
                break
            if page is not None:
                return pages or page
            error = _faultin_page(mm, vma, addr, foll)
            if error < 0:
                return pages or error
            if error and not vma.vm_flags & VM_WRITE:
                foll &= ~FOLL_WRITE  # forced: the copy was made, the pte stays read-only
        if flags & FOLL_GET:
            pages.append(page)
            addr += PAGE_SIZE
        elif PageCompound(page):  # nobody wants to have each of them
            addr = (addr & PMD_MASK) + PMD_SIZE
        else:
            addr += PAGE_SIZE
    return pages


def _may_access(vma: Vma, flags: int) -> bool:
    """mm/gup.c: check_vma_flags."""
    vm_flags = vma.vm_flags
    if vm_flags & (VM_IO | VM_PFNMAP):
        return False
    if flags & FOLL_WRITE:
        if not vm_flags & VM_WRITE:
            if not flags & FOLL_FORCE:
                return False
            return memory.is_cow_mapping(vm_flags)
    elif not vm_flags & VM_READ:
        return bool(flags & FOLL_FORCE and vm_flags & VM_MAYREAD)
    return True


def _faultin_page(mm: Mm, vma: Vma, addr: int, flags: int) -> int:
    """Fault a page in: 0, 1 if a store was satisfied by a copy, or -ENOMEM, -EFAULT, -EBUSY
    (mm/gup.c: faultin_page)."""
    fault = memory.handle_mm_fault(mm, vma, addr, FAULT_FLAG_WRITE if flags & FOLL_WRITE else 0)
    if fault & VM_FAULT_ERROR:
        return -ENOMEM if fault & VM_FAULT_OOM else -EFAULT
    if fault & VM_FAULT_RETRY:
        return -EBUSY
    if not fault:  # perhaps nothing was done: then this is asked again and again
        memory.wait_while_splitting(mm, addr)
    return 1 if fault & VM_FAULT_WRITE else 0


def get_user_pages_fast(start: int, nr_pages: int, write: bool) -> list[Page] | int:
    """References on pages of the running process: those that are mapped without any lock,
    with interrupts off so that no TLB flush, hence no freeing, can pass; the rest the slow
    way  (arch/x86/mm/gup.c: get_user_pages_fast)."""
    task = sched.task
    mm = task.mm
    assert mm is not None
    start &= PAGE_MASK
    wanted = _PAGE_PRESENT | _PAGE_USER | (_PAGE_RW if write else 0)
    pages: list[Page] = []
    sched.local_irq_disable()
    switch_mm(task.cpu, mm)  # a flush must know that it has to wait for this CPU
    for addr in range(start, start + nr_pages * PAGE_SIZE, PAGE_SIZE):
        pmds = find_pmds(mm, addr)
        pt = None if pmds is None else pmd_get(pmds, addr)
        if type(pt) is int:
            page = _gup_huge_pmd(mm, pt, addr, wanted)
            if page is None:
                break
            pages.append(page)
            continue
        pte = ptep_get(pt, addr) if type(pt) is PageTable else 0
        if pte & (wanted | _PAGE_SPECIAL) != wanted:
            break
        page = mm.kernel.page_of(pte_pfn(pte))
        get_page(page)
        SetPageReferenced(page)
        pages.append(page)
    sched.local_irq_enable()
    if len(pages) == nr_pages:
        return pages
    with down_read(mm.mmap_sem):
        rest = get_user_pages(
            task, mm, start + (len(pages) << PAGE_SHIFT), nr_pages - len(pages), write
        )
    if isinstance(rest, int):
        return pages or rest
    return pages + rest


def _gup_huge_pmd(mm: Mm, pmd: int, addr: int, wanted: int) -> Page | None:
    """A base page of a huge page, pinned without any lock: a split marks the pmd and then waits
    until interrupts are on again on all CPUs  (arch/x86/mm/gup.c: gup_huge_pmd)."""
    if pmd_trans_splitting(pmd) or pmd_numa(pmd) or pmd & wanted != wanted:
        return None
    head = huge_memory.pmd_page(mm.kernel, pmd)
    page = huge_memory.huge_parts(head)[(addr & ~PMD_MASK) >> PAGE_SHIFT]
    get_page_foll(page)
    SetPageReferenced(head)
    return page


def populate_vma_page_range(vma: Vma, start: int, end: int) -> int:
    """Fault in part of an area as mlock and MAP_POPULATE do; mmap_sem is held.  0 or -errno
    (mm/mlock.c: __mlock_vma_pages_range)."""
    flags = FOLL_TOUCH | FOLL_MLOCK
    # Break copy on write now: locked pages must not need it later.
    if vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE:
        flags |= FOLL_WRITE
    if vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC):
        flags |= FOLL_FORCE
    result = _get_user_pages(vma.vm_mm, start, (end - start) >> PAGE_SHIFT, flags)
    return result if isinstance(result, int) else 0


def __mm_populate(start: int, length: int, ignore_errors: bool) -> int:
    """Fault in what is mapped of a range of the running process; 0 or -errno
    (mm/mlock.c: __mm_populate)."""
    mm = sched.task.mm
    assert mm is not None
    end = start + length
    addr = start
    while addr < end:
        with down_read(mm.mmap_sem):
            vma = mmap.find_vma(mm, addr)
            if vma is None or vma.vm_start >= end:
                return 0
            first, stop = max(addr, vma.vm_start), min(end, vma.vm_end)
            if not vma.vm_flags & (VM_IO | VM_PFNMAP):
                error = populate_vma_page_range(vma, first, stop)
                if error and not ignore_errors:
                    # as mlock answers: __mlock_posix_error_return
                    return {-EFAULT: -ENOMEM, -ENOMEM: -EAGAIN}.get(error, error)
        addr = stop
    return 0
