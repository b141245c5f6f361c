"""Cpusets: on which nodes tasks may have memory  (kernel/cpuset.c).

What moves memory when a cpuset changes is in `linux/mm/cpuset_migration.py`.
Differs: one level below the root; CPUs are not confined.
"""

from __future__ import annotations

from mmigrate.linux.include.gfp import __GFP_HARDWALL, __GFP_THISNODE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mmzone import Zone
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import sched


class Cpuset:
    """@mems: the configured nodes; @memory_migrate: whether memory follows its tasks.
    @old_mems_allowed: what @mems was when tasks were last moved."""

    __slots__ = ("kernel", "memory_migrate", "mems", "name", "old_mems_allowed")

    def __init__(self, kernel: Kernel, name: str, mems: int) -> None:
        self.kernel = kernel
        self.name = name
        self.mems = mems
        self.memory_migrate = False
        self.old_mems_allowed = self.effective_mems

    @property
    def effective_mems(self) -> int:
        """The nodes with memory among @mems, or the root's if none has."""
        memory = self.kernel.node_states_memory
        return self.mems & memory or memory

    def __repr__(self) -> str:
        return f"cpuset {self.name}"


def new_cpuset(kernel: Kernel, name: str, mems: int) -> Cpuset:
    """A cpuset below the root."""
    created = Cpuset(kernel, name, mems)
    if kernel.cpusets is None:
        kernel.cpusets = []
    kernel.cpusets.append(created)
    return created


def cpuset_mems_allowed(task: Task) -> int:
    """The nodes that the task's cpuset allows  (kernel/cpuset.c: cpuset_mems_allowed)."""
    cpuset: Cpuset | None = task.cpuset
    return task.kernel.node_states_memory if cpuset is None else cpuset.effective_mems


def cpuset_zone_allowed(zone: Zone, gfp: int) -> bool:
    """Whether the running task may take memory of a zone
    (kernel/cpuset.c: __cpuset_node_allowed).  Differs: without __GFP_HARDWALL C also allows
    the nearest hardwalled ancestor's nodes; that is the root, so all."""
    if gfp & __GFP_THISNODE or sched.task.mems_allowed >> zone.nid & 1:
        return True
    return not gfp & __GFP_HARDWALL
