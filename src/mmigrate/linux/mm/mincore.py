"""Which pages are resident  (mm/mincore.c)."""

from __future__ import annotations

from errno import EINVAL, ENOMEM

from mmigrate.linux.include.mm import VM_HUGETLB
from mmigrate.linux.include.mm_types import Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    PAGE_MASK,
    PAGE_SIZE,
    TASK_SIZE,
    non_swap_entry,
    pmd_trans_huge,
    pte_file,
    pte_present,
    pte_to_pgoff,
    pte_to_swp_entry,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel.huge_pte import huge_pte_offset, huge_ptep_get
from mmigrate.linux.kernel.page_flags import PageUptodate
from mmigrate.linux.kernel.pgtable import find_pmds, pmd_get, ptep_get
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import filemap, rmap, swap, swap_state
from mmigrate.linux.mm import vma as areas


def sys_mincore(task: Task, start: int, length: int) -> bytes | int:
    """A byte a page, bit 0 set for resident; -EINVAL, or -ENOMEM for a hole
    (mm/mincore.c: mincore)."""
    if start & ~PAGE_MASK:
        return -EINVAL
    mm = task.mm
    assert mm is not None
    end = start + ((length + PAGE_SIZE - 1) & PAGE_MASK)
    if end > TASK_SIZE:
        return -ENOMEM
    answer = bytearray()
    with down_read(mm.mmap_sem):
        while start < end:
            vma = areas.find_vma(mm, start)
            if vma is None or vma.vm_start > start:
                return -ENOMEM
            stop = min(end, vma.vm_end)
            for addr in range(start, stop, PAGE_SIZE):
                answer.append(_mincore_pte(vma, addr))
            start = stop
    return bytes(answer)


def _mincore_pte(vma: Vma, addr: int) -> int:
    """mm/mincore.c: mincore_pte_range, mincore_hugetlb_page_range.  A migration entry counts as
    resident."""
    if vma.vm_flags & VM_HUGETLB:
        table = huge_pte_offset(vma.vm_mm, addr)
        return int(table is not None and huge_ptep_get(table, addr) != 0)
    pmds = find_pmds(vma.vm_mm, addr)
    pt = None if pmds is None else pmd_get(pmds, addr)
    if pmd_trans_huge(pt):
        return 1
    if type(pt) is not PageTable:
        return _mincore_file(vma, rmap.linear_page_index(vma, addr))
    with spin_lock(pt.ptl):
        pte = ptep_get(pt, addr)
    if pte == 0:
        return _mincore_file(vma, rmap.linear_page_index(vma, addr))
    if pte_present(pte):
        return 1
    if pte_file(pte):
        return _mincore_file(vma, pte_to_pgoff(pte))
    entry = pte_to_swp_entry(pte)
    if non_swap_entry(entry):
        return 1
    return _up_to_date(
        filemap.find_get_page(swap_state.swap_address_space(vma.vm_mm.kernel, entry), entry)
    )


def _mincore_file(vma: Vma, pgoff: int) -> int:
    if vma.vm_file is None:
        return 0
    return _up_to_date(filemap.find_get_page(vma.vm_file.f_mapping, pgoff))


def _up_to_date(page: Page | None) -> int:
    if page is None:
        return 0
    present = int(PageUptodate(page))
    swap.put_page(page)
    return present
