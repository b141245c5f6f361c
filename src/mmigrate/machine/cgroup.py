"""Memory cgroups as a user sees them: the files of a directory of the memory controller."""

from __future__ import annotations

import os
from errno import EBUSY
from typing import TYPE_CHECKING

from mmigrate.errors import ScenarioError
from mmigrate.linux.mm import memcontrol
from mmigrate.linux.mm.memcontrol import MOVE_ANON, MOVE_FILE, MemCgroup
from mmigrate.linux.mm.page_counter import PAGE_COUNTER_MAX
from mmigrate.units import PAGE_SIZE

if TYPE_CHECKING:
    from mmigrate.machine.machine import Machine


class Cgroup:
    """A memory cgroup.  Processes join it with `process.join(cgroup)`.

    Sizes are in bytes, whole pages.
    """

    def __init__(
        self, machine: Machine, name: str, limit: int | None, parent: Cgroup | None
    ) -> None:
        self.machine = machine
        self.name = name
        above = None if parent is None else parent.group
        self.group: MemCgroup = memcontrol.mem_cgroup_create(machine.kernel, name, above)
        if limit is not None:
            self.limit = limit

    def __repr__(self) -> str:
        return f"<cgroup {self.name}, {self.usage} bytes>"

    @property
    def usage(self) -> int:
        """memory.usage_in_bytes: charged here and below, with what CPUs keep in stock."""
        return self.group.memory.count * PAGE_SIZE

    @property
    def memsw_usage(self) -> int:
        """memory.memsw.usage_in_bytes: the same, and what is in swap."""
        return self.group.memsw.count * PAGE_SIZE

    @property
    def limit(self) -> int | None:
        """memory.limit_in_bytes; None: no limit.  To set it reclaims what is above it.

        Raises OSError EBUSY: that could not be reclaimed.
        """
        pages = self.group.memory.limit
        return None if pages == PAGE_COUNTER_MAX else pages * PAGE_SIZE

    @limit.setter
    def limit(self, size: int | None) -> None:
        if size is not None and size < 0:
            raise ScenarioError(f"{size} bytes is not a limit of {self.name}")
        pages = None if size is None else size // PAGE_SIZE
        error = memcontrol.mem_cgroup_resize_limit(self.group, pages)
        if error:
            raise OSError(-error, os.strerror(-error))

    @property
    def move_charge(self) -> bool:
        """memory.move_charge_at_immigrate: what a process has comes along when it joins."""
        return bool(self.group.move_charge_at_immigrate)

    @move_charge.setter
    def move_charge(self, value: bool) -> None:
        self.group.move_charge_at_immigrate = MOVE_ANON | MOVE_FILE if value else 0

    @property
    def stat(self) -> dict[str, int]:
        """memory.stat, the part without descendants: bytes, and the events pgpgin, pgpgout."""
        return {
            name: value if name in memcontrol.EVENTS else value * PAGE_SIZE
            for name, value in self.group.stat.items()
        }

    @property
    def failcnt(self) -> int:
        """memory.failcnt: how often the limit was met."""
        return self.group.memory.failcnt

    def remove(self) -> None:
        """Remove the directory.  What is charged stays so until it is freed.

        Raises OSError EBUSY: it has processes or children.
        """
        if memcontrol.mem_cgroup_css_offline(self.group):
            raise OSError(EBUSY, os.strerror(EBUSY))
