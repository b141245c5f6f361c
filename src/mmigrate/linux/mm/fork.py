"""The life of an address space: made, copied, dropped  (kernel/fork.c)."""

from __future__ import annotations

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    VM_DONTCOPY,
    VM_HUGETLB,
    VM_LOCKED,
    VM_NOHUGEPAGE,
    VM_NONLINEAR,
    VM_SHARED,
)
from mmigrate.linux.include.mm_types import Mm, PageTable, Vma
from mmigrate.linux.include.sched import Task
from mmigrate.linux.include.vmstat import MM_ANONPAGES, MM_FILEPAGES
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import WRITE_ONCE, atomic_dec_and_test, atomic_inc
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.rwsem import RwSemaphore, down_write, down_write_nested, up_write
from mmigrate.linux.kernel.spinlock import SpinLock
from mmigrate.linux.kernel.tlb import flush_tlb_mm, switch_mm
from mmigrate.linux.mm import hugetlb, khugepaged, ksm, memory, mempolicy, mmap, rmap, swapfile

START_BRK = 0x602000  # behind a small program that is linked to fixed addresses


def mm_alloc(kernel: Kernel, name: str) -> Mm:
    """An empty address space  (kernel/fork.c: mm_alloc).

    Differs: it has its layout already, as execve would give it, without randomness.
    """
    mm = _mm_init(kernel, name)
    mm.mmap_base = mmap.MMAP_BASE
    mm.start_brk = mm.brk = START_BRK
    return mm


def _mm_init(kernel: Kernel, name: str) -> Mm:
    """kernel/fork.c: mm_init."""
    number = sched.fresh_number(kernel, "table_numbers")
    mm = Mm(
        kernel,
        name,
        RwSemaphore("mmap_sem", f"{name} mmap_sem"),
        SpinLock("page_table_lock", f"{name} page_table_lock"),
        PageTable(4, number, SpinLock("page_table_lock", f"{name} pgd")),
    )
    kernel.mms.append(mm)
    return mm


def dup_mm(task: Task, name: str) -> Mm:
    """A copy of @task's address space, for its child  (kernel/fork.c: dup_mm).

    Differs: cannot fail, because neither areas nor page tables take memory.
    """
    oldmm = task.mm
    assert oldmm is not None
    mm = _mm_init(oldmm.kernel, name)
    mm.def_flags = oldmm.def_flags & VM_NOHUGEPAGE
    mm.mmap_base = oldmm.mmap_base
    mm.start_brk, mm.brk = oldmm.start_brk, oldmm.brk
    mm.start_stack = oldmm.start_stack
    mm.memcg = oldmm.memcg
    error = dup_mmap(mm, oldmm)
    BUG_ON(error != 0, f"dup_mmap failed with {error}", mm)
    mm.hiwater_rss = mm.rss_stat[MM_FILEPAGES] + mm.rss_stat[MM_ANONPAGES]
    return mm


def dup_mmap(mm: Mm, oldmm: Mm) -> int:
    """Copy the areas and the ptes that cannot be faulted in again.  0 or -errno
    (kernel/fork.c: dup_mmap).

    An area of the child enters each tree of the reverse maps behind its parent's, before
    its ptes are copied: a walk that meets a pte too early here meets it again there.
    """
    retval = 0
    down_write(oldmm.mmap_sem)
    down_write_nested(mm.mmap_sem)  # nobody knows it yet
    mm.total_vm = oldmm.total_vm
    ksm.ksm_fork(mm, oldmm)
    khugepaged.khugepaged_fork(mm, oldmm)
    for mpnt in oldmm.mmap:
        if mpnt.vm_flags & VM_DONTCOPY:
            mm.total_vm -= mmap.vma_pages(mpnt)
            continue
        retval = _dup_vma(mm, oldmm, mpnt)
        if retval:
            break
    up_write(mm.mmap_sem)
    # Ptes of the parent have lost their write bit.
    flush_tlb_mm(oldmm)
    up_write(oldmm.mmap_sem)
    return retval


def _dup_vma(mm: Mm, oldmm: Mm, mpnt: Vma) -> int:
    tmp = mmap.copy_vm_area_struct(mm, mpnt)
    retval = mempolicy.vma_dup_policy(mpnt, tmp)
    if retval:
        return retval
    if tmp.vm_flags & VM_HUGETLB:
        hugetlb.reset_vma_resv_huge_pages(tmp)
    retval = rmap.anon_vma_fork(tmp, mpnt)
    if retval:
        mempolicy.mpol_put(tmp.vm_policy)
        return retval
    WRITE_ONCE(tmp, "vm_flags", tmp.vm_flags & ~VM_LOCKED)  # memory locks are not inherited
    if tmp.vm_file is not None:
        mapping = tmp.vm_file.f_mapping
        with down_write(mapping.i_mmap_rwsem):
            if tmp.vm_flags & VM_SHARED:
                atomic_inc(mapping, "i_mmap_writable")
            if tmp.vm_flags & VM_NONLINEAR:
                mapping.i_mmap_nonlinear.append(tmp)
            else:
                mapping.i_mmap.insert_after(tmp, mpnt)
    mm.mmap.append(tmp)
    mm.starts.append(tmp.vm_start)
    mm.map_count += 1
    retval = memory.copy_page_range(mm, oldmm, mpnt)
    if tmp.vm_ops is not None and tmp.vm_ops.open is not None:
        tmp.vm_ops.open(tmp)
    return retval


def mmget(mm: Mm) -> Mm:
    """Another user of @mm, such as a thread or a system call on behalf of somebody else."""
    atomic_inc(mm, "mm_users")
    return mm


def mmput(mm: Mm) -> None:
    """Drop a user; with the last one the memory goes  (kernel/fork.c: mmput)."""
    if atomic_dec_and_test(mm, "mm_users"):
        ksm.ksm_exit(mm)
        khugepaged.khugepaged_exit(mm)
        mmap.exit_mmap(mm)
        swapfile.forget_mm(mm)
        mmdrop(mm)


def mmdrop(mm: Mm) -> None:
    """Drop a reference to the structure itself  (include/linux/sched.h: mmdrop).

    Differs: CPUs that still have @mm loaded are switched away from it here, and not when
    they next run something else.
    """
    if atomic_dec_and_test(mm, "mm_count"):
        for cpu in mm.kernel.cpus:
            if cpu.active_mm is mm:
                switch_mm(cpu, None)
        mm.kernel.mms.remove(mm)


def exit_mm(task: Task) -> None:
    """@task gives up its address space  (kernel/exit.c: exit_mm)."""
    mm = task.mm
    if mm is not None:
        task.mm = None
        mmput(mm)
