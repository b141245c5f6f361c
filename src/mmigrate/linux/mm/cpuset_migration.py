"""What happens to memory when a cpuset changes or a task joins one  (kernel/cpuset.c)."""

from __future__ import annotations

from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.mm_types import Mm
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.cpuset import Cpuset, cpuset_mems_allowed
from mmigrate.linux.kernel.rwsem import down_write
from mmigrate.linux.mm import mempolicy
from mmigrate.linux.mm.policy_migration import do_migrate_pages


def cpuset_set_mems(cpuset: Cpuset, mems: int) -> None:
    """Write a cpuset's `mems`  (kernel/cpuset.c: update_nodemask)."""
    cpuset.mems = mems
    new = cpuset.effective_mems
    old = cpuset.old_mems_allowed
    moved: list[Mm] = []
    for task in list(cpuset.kernel.tasks):
        if task.cpuset is cpuset:
            _change_task_nodemask(task, new)
            if task.mm is not None and task.mm not in moved:
                moved.append(task.mm)
                mpol_rebind_mm(task.mm, mems)
                if cpuset.memory_migrate:
                    cpuset_migrate_mm(task.mm, old, new)
    cpuset.old_mems_allowed = new


def cpuset_attach(cpuset: Cpuset, task: Task) -> None:
    """Move a task into a cpuset  (kernel/cpuset.c: cpuset_attach)."""
    before: Cpuset | None = task.cpuset
    old = task.kernel.node_states_memory if before is None else before.old_mems_allowed
    task.cpuset = cpuset
    _change_task_nodemask(task, cpuset.effective_mems)
    if task.mm is not None:
        mpol_rebind_mm(task.mm, cpuset.effective_mems)
        if cpuset.memory_migrate:
            cpuset_migrate_mm(task.mm, old, cpuset.effective_mems)


def _change_task_nodemask(task: Task, new: int) -> None:
    """mm side of kernel/cpuset.c: cpuset_change_task_nodemask."""
    task.mems_allowed |= new
    mempolicy.mpol_rebind_task(task, new)
    task.mems_allowed = new


def mpol_rebind_mm(mm: Mm, new: int) -> None:
    """mm/mempolicy.c: mpol_rebind_mm."""
    with down_write(mm.mmap_sem):
        for vma in mm.mmap:
            mempolicy.mpol_rebind_policy(vma.vm_policy, new)


def cpuset_migrate_mm(mm: Mm, from_: int, to: int) -> None:
    """Take the memory along; the caller borrows the right to allocate there
    (kernel/cpuset.c: cpuset_migrate_mm)."""
    task = sched.task
    task.mems_allowed = to
    do_migrate_pages(mm, from_, to, MPOL_MF_MOVE_ALL)
    task.mems_allowed = cpuset_mems_allowed(task)
