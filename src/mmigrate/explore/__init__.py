"""The explorer: all interleavings of a scenario, up to equivalence.

Interface: `explore(scenario, …)` gives a `Result`; its findings have a `Schedule`, which
`replay` repeats. `sometimes` and `always` decorate scenarios; `Tasks` and `Shared` are for small
programs without a kernel. The room itself can be called: `mmigrate.explore(scenario)`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from mmigrate.explore.program import Shared, Tasks
from mmigrate.explore.replay import Replayed, ReplayedStep, replay
from mmigrate.explore.result import Finding, Result
from mmigrate.explore.schedule import Schedule, read_schedule
from mmigrate.explore.search import explore
from mmigrate.machine.conditions import always, sometimes

__all__ = [
    "Finding",
    "Replayed",
    "ReplayedStep",
    "Result",
    "Schedule",
    "Shared",
    "Tasks",
    "always",
    "explore",
    "read_schedule",
    "replay",
    "sometimes",
]


class _Room(ModuleType):
    """A room with the name of the function that everybody wants from it."""

    def __call__(self, scenario: Any, **options: Any) -> Result:
        return explore(scenario, **options)


sys.modules[__name__].__class__ = _Room
