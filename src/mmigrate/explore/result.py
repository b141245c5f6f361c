"""What an exploration came to, in words and for machines."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from functools import cached_property
from math import lgamma, log
from typing import Any

from mmigrate.errors import Violation
from mmigrate.explore.recording import Recording
from mmigrate.explore.schedule import Schedule


@dataclass(frozen=True)
class Finding:
    """A violation and a schedule that leads to it.  @minimal: what is known of the schedule,
    such as "no schedule with fewer preemptions leads to it"."""

    violation: Violation
    schedule: Schedule
    preemptions: int = 0
    minimal: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Findings with the same key are the same."""
        return self.violation.oracle, self.violation.subject, self.violation.message

    def __str__(self) -> str:
        return f"{self.violation} (after {self.schedule.accesses} accesses)"


@dataclass(frozen=True)
class FirstExecution:
    """How large a search may become, by its first execution.  @interleavings: the decimal
    logarithm of in how many orders the accesses of its tasks can be put, if none has to wait for
    another."""

    accesses: int
    tasks: int
    interleavings: float

    @classmethod
    def of(cls, run: Recording) -> FirstExecution:
        taken: dict[int, int] = {}
        for task, steps in run.all_rows():
            taken[task] = taken.get(task, 0) + steps
        total = sum(taken.values())
        orders = lgamma(total + 1) - sum([lgamma(steps + 1) for steps in taken.values()])
        return cls(total, len(taken), orders / log(10))

    def __str__(self) -> str:
        return (
            f"{self.accesses:,} accesses by {self.tasks} tasks, "
            f"about 10^{self.interleavings:.0f} interleavings"
        )


@dataclass(frozen=True)
class Result:
    """@executions: runs of the scenario, of which @redundant were given up because nothing new
    could follow.  @classes: different interleavings up to the order of independent steps.
    @exhausted: nothing is left to try within @bounds.  @met: each `sometimes`, and in how many
    executions it was met.  @estimate: executions in all, as far as could be guessed; @expected:
    what was guessed after the first hundred; @first: what the first one told of the size.
    """

    scenario: str
    options: dict[str, Any]
    strategy: str
    bounds: dict[str, int]
    findings: tuple[Finding, ...]
    executions: int
    redundant: int
    classes: int
    exhausted: bool
    interrupted: bool
    seconds: float
    met: dict[str, int]
    version: str
    estimate: float | None = None
    expected: int | None = None
    first: FirstExecution | None = None

    @property
    def found(self) -> bool:
        return bool(self.findings)

    @property
    def finding(self) -> Finding | None:
        return self.findings[0] if self.findings else None

    @property
    def violation(self) -> Violation | None:
        return self.findings[0].violation if self.findings else None

    @property
    def unmet(self) -> list[str]:
        """The `sometimes` that no execution met: without them the run shows nothing."""
        return [name for name, times in self.met.items() if not times]

    @property
    def clean(self) -> bool:
        """Everything was tried, nothing was found, and every `sometimes` was met."""
        return self.exhausted and not self.bounds and not self.findings and not self.unmet

    @cached_property
    def certificate(self) -> dict[str, Any]:
        """What was done, for machines; `hash` is of all the rest but the time it took."""
        body: dict[str, Any] = {
            "scenario": self.scenario,
            "options": self.options,
            "strategy": self.strategy,
            "bounds": self.bounds,
            "executions": self.executions,
            "classes": self.classes,
            "exhausted": self.exhausted,
            "interrupted": self.interrupted,
            "violations": [str(finding.violation) for finding in self.findings],
            "schedules": [finding.schedule.digest for finding in self.findings],
            "sometimes": self.met,
            "mmigrate": self.version,
        }
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return {**body, "hash": digest, "python": platform.python_version()}

    def __str__(self) -> str:
        parts = [f"{self.executions:,} execution{'s' * (self.executions != 1)}"]
        if self.interrupted:
            parts.append("interrupted, incomplete")
        elif self.exhausted and self.bounds:
            parts.append(f"exhausted within {words_of(self.bounds)}, not beyond")
        elif self.exhausted:
            parts.append("exhausted")
        elif not self.findings:
            parts.append(f"not exhausted ({words_of(self.bounds) or self.strategy})")
        if self.findings:
            number = len(self.findings)
            parts.append(f"{number} finding{'s' * (number != 1)}")
        elif self.unmet:
            parts.append(f"shows nothing: never met {', '.join(self.unmet)}")
        elif self.clean:
            parts.append("clean")
        else:
            parts.append("nothing found so far")
        lines = [", ".join(parts)]
        lines += [f"  {finding}" for finding in self.findings]
        return "\n".join(lines)


def words_of(bounds: dict[str, int]) -> str:
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in bounds.items())
