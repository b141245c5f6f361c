"""The scan of NUMA balancing: marks a task's memory, piece by piece, so that the next access to
each page faults and tells from where it comes  (kernel/sched/fair.c: task_numa_work)."""

from __future__ import annotations

from mmigrate.linux.include.mempolicy import MPOL_F_MOF
from mmigrate.linux.include.mm import PF_EXITING, VM_EXEC, VM_READ, VM_WRITE
from mmigrate.linux.include.mm_types import Mm, Vma
from mmigrate.linux.include.pgtable import HPAGE_PMD_SIZE, PAGE_SHIFT
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import fair, sched
from mmigrate.linux.kernel.atomic import READ_ONCE, atomic_cmpxchg, atomic_inc
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.mm import mempolicy, mmap, mprotect


def task_numa_work(task: Task) -> int:
    """Mark the next piece of the running task's memory if a scan is due, and no other thread has
    begun it; how many pages were marked  (kernel/sched/fair.c: task_numa_work)."""
    mm = task.mm
    if task.flags & PF_EXITING or mm is None:
        return 0
    settings = fair.settings_of(task.kernel)
    now = task.kernel.jiffies
    if not mm.numa_next_scan:
        mm.numa_next_scan = now + settings.scan_delay
    due = READ_ONCE(mm, "numa_next_scan")
    if now < due:
        return 0
    faults = fair.faults_of(task)
    if faults.scan_period == 0:
        faults.scan_period_max = fair.task_scan_max(task)
        faults.scan_period = fair.task_scan_min(task)
    if atomic_cmpxchg(mm, "numa_next_scan", due, now + faults.scan_period) != due:
        return 0
    pages = settings.scan_size << (20 - PAGE_SHIFT)
    with down_read(mm.mmap_sem):
        return _scan(mm, pages)


def _scan(mm: Mm, pages: int) -> int:
    start = mm.numa_scan_offset
    updated = 0
    vma = mmap.find_vma(mm, start)
    if vma is None:
        reset_ptenuma_scan(mm)
        start = 0
        vma = mm.mmap[0] if mm.mmap else None
    while vma is not None:
        if _wants_scan(vma):
            while True:
                start = max(start, vma.vm_start)
                end = (start + (pages << PAGE_SHIFT) + HPAGE_PMD_SIZE - 1) & -HPAGE_PMD_SIZE
                end = min(end, vma.vm_end)
                updated += mprotect.change_prot_numa(vma, start, end)
                # Address space that is not in use is passed over quickly.
                if updated:
                    pages -= (end - start) >> PAGE_SHIFT
                start = end
                if pages <= 0:
                    mm.numa_scan_offset = start
                    return updated
                sched.cond_resched()
                if end == vma.vm_end:
                    break
        vma = mmap.vma_next(vma)
    reset_ptenuma_scan(mm)
    return updated


def reset_ptenuma_scan(mm: Mm) -> None:
    """All areas have been scanned: begin anew  (kernel/sched/fair.c: reset_ptenuma_scan)."""
    atomic_inc(mm, "numa_scan_seq")
    mm.numa_scan_offset = 0


def _wants_scan(vma: Vma) -> bool:
    """Pages of libraries stay where they are, and memory that nobody may access must not be
    taken for marked memory."""
    if not mempolicy.vma_migratable(vma) or not vma_policy_mof(vma):
        return False
    if vma.vm_file is not None and vma.vm_flags & (VM_READ | VM_WRITE) == VM_READ:
        return False
    return bool(vma.vm_flags & (VM_READ | VM_EXEC | VM_WRITE))


def vma_policy_mof(vma: Vma) -> bool:
    """Whether the policy of an area lets pages follow faults  (mm/mempolicy.c: vma_policy_mof)."""
    if vma.vm_ops is not None and vma.vm_ops.get_policy is not None:
        pol = vma.vm_ops.get_policy(vma, vma.vm_start)
        return pol is not None and bool(pol.flags & MPOL_F_MOF)
    pol = vma.vm_policy
    if pol is None:
        pol = mempolicy.get_task_policy(sched.task)
    return pol is None or bool(pol.flags & MPOL_F_MOF)  # the built-in one does
