"""Per-CPU variables: the page vectors in front of the LRU lists  (include/linux/percpu.h).

A task that changes its CPU's own must not lose that CPU meanwhile: `get_cpu_var` …
`put_cpu_var`. Tasks of other CPUs may look how full a vector is, and no more.
"""

from __future__ import annotations

from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.sched import Cpu
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import READ, WRITE


def get_cpu_var(name: str) -> list[Page]:
    """The vector of the running task's CPU, with preemption off."""
    if sched.hook is not None:
        sched.hook.announce(sched.task.cpu, name, WRITE)
    task = sched.task
    task.preempt_count += 1
    return task.cpu.pagevecs[name]


put_cpu_var = sched.preempt_enable


def per_cpu(cpu: Cpu, name: str) -> list[Page]:
    """The vector of any CPU, for a look."""
    if sched.hook is not None:
        sched.hook.announce(cpu, name, READ)
    return cpu.pagevecs.get(name) or []
