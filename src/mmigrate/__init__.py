"""Linux page migration (v3.19) as a library: run it, pause it, break it, check it.

Floors, bottom to top; imports go down only:

    0  errors units api arguments observe, linux/include linux/lib   words and data
    1  linux/kernel                                  where a task can lose the CPU
    2  linux/mm linux/fs linux/drivers               the kernel itself
    3  machine lab                                   a modelled computer; a real kernel, booted
    4  check snapshot real                           oracles; real processes; real kernels
    5  explore compare                               all interleavings; model against kernel
    7  cli                                           a module per command

    from mmigrate import Machine, MiB
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmigrate.api import Mapping, MoveResult, Reason
from mmigrate.errors import MmigrateError, ScenarioError, Violation
from mmigrate.units import PAGE_SIZE, GiB, KiB, MiB

if TYPE_CHECKING:
    from mmigrate.explore.search import explore
    from mmigrate.machine.machine import Machine
    from mmigrate.machine.process import Process

__version__ = "0.1.0"
__all__ = [
    "PAGE_SIZE",
    "GiB",
    "KiB",
    "Machine",
    "Mapping",
    "MiB",
    "MmigrateError",
    "MoveResult",
    "Process",
    "Reason",
    "ScenarioError",
    "Violation",
    "explore",
]


def __getattr__(name: str) -> Any:
    """Load the model when it is first asked for: `mmigrate --help` needs none of it."""
    if name == "Machine":
        from mmigrate.machine.machine import Machine

        return Machine
    if name == "Process":
        from mmigrate.machine.process import Process

        return Process
    if name == "explore":
        from mmigrate.explore.search import explore

        return explore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
