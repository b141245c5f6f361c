"""Who must go when a page fault finds no memory that could be freed  (mm/oom_kill.c).

Interface: `pagefault_out_of_memory`.

Differs: v3.19 asks here only for faults whose group is at its limit, and within the allocator
for all others, so that a system call waits for the victim where it fails with -ENOMEM here.
Who has threads that run at this moment is not ended: then, and where tasks are interleaved, the
signal goes to who faulted, who lives on. Nobody gets at the reserves (TIF_MEMDIE), because a
victim is gone at once; oom_score_adj is 0 for all; no notifiers, no panic.
"""

from __future__ import annotations

from typing import Any

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import PageTable
from mmigrate.linux.include.sched import Task, capable
from mmigrate.linux.include.vmstat import MM_ANONPAGES, MM_FILEPAGES, MM_SWAPENTS
from mmigrate.linux.kernel import sched
from mmigrate.linux.mm import memcontrol


def oom_unkillable_task(task: Task, memcg: memcontrol.MemCgroup | None) -> bool:
    """Whether the end of a task would not help: it has no memory, or none of the group, or none on
    nodes that the running task may use  (mm/oom_kill.c: oom_unkillable_task)."""
    mm = task.mm
    if mm is None or task.greenlet is not None:  # a thread goes with its process
        return True
    if memcg is not None:
        return not memcontrol.mem_cgroup_is_descendant(memcontrol.mem_cgroup_from_mm(mm), memcg)
    return not task.mems_allowed & sched.task.mems_allowed


def oom_badness(task: Task, memcg: memcontrol.MemCgroup | None) -> int:
    """How much memory the end of a task would free, in pages: what it has, in swap too, and page
    tables; 3 % less for an administrator  (mm/oom_kill.c: oom_badness)."""
    if oom_unkillable_task(task, memcg):
        return 0
    mm = task.mm
    assert mm is not None
    stat = mm.rss_stat
    points = stat[MM_FILEPAGES] + stat[MM_ANONPAGES] + stat[MM_SWAPENTS]
    points += _nr_ptes(mm.pgd)
    if capable(task, "CAP_SYS_ADMIN"):
        points -= points * 3 // 100
    return max(points, 1)


def _nr_ptes(table: Any) -> int:
    """How many tables of ptes there are below a table, with those kept for huge pages."""
    if type(table) is not PageTable:
        return 0
    if table.level == 1:
        return 1
    return sum(map(_nr_ptes, table.entries)) + len(table.pmd_huge_pte)


def select_bad_process(kernel: Kernel, memcg: memcontrol.MemCgroup | None) -> Task | None:
    """The task with the most points, the oldest of several
    (mm/oom_kill.c: select_bad_process, mm/memcontrol.c: mem_cgroup_out_of_memory)."""
    chosen, chosen_points = None, 0
    for task in kernel.tasks:
        points = oom_badness(task, memcg)
        if points > chosen_points:
            chosen, chosen_points = task, points
    return chosen


def oom_kill_process(kernel: Kernel, chosen: Task, memcg: memcontrol.MemCgroup | None) -> Task:
    """Who dies for the chosen one: the child with the most points that has memory of its own, so
    that the least work is lost, or else he himself  (mm/oom_kill.c: oom_kill_process)."""
    victim, victim_points = chosen, 0
    for task in kernel.tasks:
        if task.parent is chosen and task.mm is not chosen.mm:
            points = oom_badness(task, memcg)
            if points > victim_points:
                victim, victim_points = task, points
    return victim


def pagefault_out_of_memory(task: Task) -> str:
    """A fault of the running task found no memory: end a process, of the group that is full if it
    is one.  "": the fault may be repeated, else the signal that the task gets
    (mm/oom_kill.c: pagefault_out_of_memory, mm/memcontrol.c: mem_cgroup_oom_synchronize)."""
    kernel = task.kernel
    memcg, task.memcg_oom = task.memcg_oom, None
    if sched.hook is not None or task.greenlet is not None:
        return "SIGKILL"
    chosen = select_bad_process(kernel, memcg)
    if chosen is None:
        return "SIGKILL"
    victim = oom_kill_process(kernel, chosen, memcg)
    points = oom_badness(victim, memcg)
    kernel.trace("oom_kill", pid=victim.pid, points=points)
    if not kernel.kill_process(victim):
        return "SIGKILL"
    return "SIGKILL" if victim is task else ""
