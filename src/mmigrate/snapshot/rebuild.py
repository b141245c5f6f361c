"""From a snapshot to a process on a modelled machine, page by page on the same nodes.

Pages that the process shared with others are shared with a second process here, forked
half-way: what it shared is touched before the fork, what was its own after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mmigrate.linux.include.mm_types import Vma
from mmigrate.machine.machine import Machine
from mmigrate.machine.process import Process

Progress = Callable[[str, int, int], None]

SHMEM_NAMES = ("/dev/shm/", "/SYSV", "/memfd:", "/dev/zero")


@dataclass
class Rebuilt:
    """A process that looks like the recorded one.  @sharer: who shares its pages."""

    machine: Machine
    process: Process
    sharer: Process | None
    names: dict[int, str] = field(default_factory=dict)  # by start address

    def name_of(self, vma: Vma) -> str:
        """What the area was called in the recorded process."""
        start = max((s for s in self.names if s <= vma.vm_start), default=None)
        return self.names[start] if start is not None else ""
