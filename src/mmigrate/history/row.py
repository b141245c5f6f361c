"""A row of the catalogue: one commit, and what is seen without and with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final

from mmigrate.linux.include.switches import BASE, SWITCHES, Switch, release_number
from mmigrate.units import MiB

Scenario = Callable[[Any], Any]

# Nodes of races that need no others: a CPU fetches 3 free pages at a time there, not 31, and who
# runs a scenario thousands of times has less to put back and to check  (explore_kernel_per_s).
SMALL: Final = (MiB(64), MiB(64))


class Kind(Enum):
    """How a commit is shown."""

    RACE = "race"  # all interleavings of a scenario: a finding without, none with
    STATE = "state"  # a straight scenario ends differently
    COST = "cost"  # a straight scenario ends the same and costs more
    NONE = "none"  # nothing can be seen: a rename, a removal; asserted


@dataclass(frozen=True)
class Row:
    """@problem: what the author says was wrong, in a sentence.  @scenario: a function of a machine;
    None where the parts it needs are not there yet.  @without, @fixed: what it returns, for state
    and cost; @violations: the oracles that object without the commit.  @finding: how the
    violation begins that the explorer must find, for a race.  @seen: what is seen without and
    with, in words.  @machine: arguments of `Machine`.  @note: what else there is to know.  @more:
    what else the commit cured; the row is verified if all of it is.
    """

    commit: str
    problem: str
    kind: Kind
    scenario: Scenario | None
    seen: tuple[str, str]
    finding: str = ""
    without: Any = None
    fixed: Any = None
    violations: tuple[str, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    more: tuple[Row, ...] = ()

    @cached_property
    def switch(self) -> Switch:
        return SWITCHES[self.commit]

    @property
    def title(self) -> str:
        return self.switch.subject

    @property
    def later(self) -> bool:
        """Whether the commit came after the modelled kernel, which so has the defect."""
        return release_number(self.switch.release) > release_number(BASE)

    def options(self, present: bool) -> dict[str, Any]:
        """Arguments of `Machine` for a kernel with or without the commit."""
        options = dict(self.machine)
        if self.kind is Kind.RACE:
            options.setdefault("nodes", SMALL)
        if present and self.later:
            options["backports"] = (*options.get("backports", ()), self.commit)
        elif not present and not self.later:
            options["without"] = (self.commit,)
        return options
