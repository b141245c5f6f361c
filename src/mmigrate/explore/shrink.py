"""Make the schedule of a finding as simple as can be: fewest preemptions, then shortest.

A preemption is a switch away from a task that could have gone on. First the rows of steps are
dropped, lengthened and exchanged as long as the same violation comes out (a greedy descent);
then all schedules with fewer preemptions are tried, as far as a budget goes, so that it can be
said whether there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from mmigrate.errors import Violation
from mmigrate.explore.execution import Indices
from mmigrate.explore.recording import Recording
from mmigrate.explore.result import Finding
from mmigrate.explore.schedule import Schedule, schedule_of
from mmigrate.explore.strategies import Chosen, DepthFirst
from mmigrate.explore.target import Target
from mmigrate.linux.include.sched import Task

BUDGET: Final = 400  # executions for the descent, and as many for the proof
Rows = list[tuple[str, int]]  # (task, how many steps; at most, as far as it can)
AS_FAR_AS_IT_CAN: Final = 1 << 30


class Following(Recording):
    """Follows rows of steps as far as they fit, and then goes on with few switches."""

    def __init__(self, rows: Rows, max_steps: int) -> None:
        super().__init__(Indices(), max_steps, [])
        self.rows = rows
        self.preemptions = 0
        self._row = 0
        self._taken = 0

    def choose(self, me: Task | None) -> Task | None:
        enabled = {self.names[t.index]: t for t in self.scheduler.alive if self.may_run(t)}
        if not enabled:
            self.stuck()
            return None
        chosen = self._follow(enabled)
        if chosen is None:
            mine = me is not None and enabled.get(self.names[me.index]) is me
            chosen = me if mine else next(iter(enabled.values()))
            assert chosen is not None
        if me is not None and chosen is not me and me in enabled.values():
            self.preemptions += 1
        return chosen

    def _follow(self, enabled: dict[str, Task]) -> Task | None:
        while self._row < len(self.rows):
            name, count = self.rows[self._row]
            if self._taken < count and name in enabled:
                self._taken += 1
                return enabled[name]
            self._row += 1
            self._taken = 0
        return None


@dataclass(frozen=True)
class Attempt:
    """A schedule that leads to the violation.  `cost` is what is made small."""

    schedule: Schedule
    violation: Violation
    preemptions: int

    @property
    def cost(self) -> tuple[int, int, int]:
        return self.preemptions, len(self.schedule.runs), self.schedule.accesses


def shrink(target: Target, finding: Finding, max_steps: int) -> Finding:
    """The same finding with a simpler schedule, and what is known of its simplicity."""
    wanted = kind_of(finding.violation)
    best = attempt(target, list(finding.schedule.runs), wanted, max_steps)
    if best is None:  # a run that was cut short, such as a livelock
        return finding
    best = descend(target, best, wanted, max_steps)
    best, proven = fewer_preemptions(target, best, wanted, max_steps)
    minimal = (
        "no schedule with fewer preemptions leads to it"
        if proven
        else "schedules with fewer preemptions were not all tried"
    )
    return replace(
        finding,
        violation=best.violation,
        schedule=best.schedule,
        preemptions=best.preemptions,
        minimal=minimal,
    )


def kind_of(violation: Violation) -> tuple[str, str]:
    """What stays the same of a violation when other frames or addresses are used."""
    return violation.oracle, re.sub(r"0x[0-9a-f]+|\d+", "N", violation.message)


def attempt(target: Target, rows: Rows, wanted: tuple[str, str], max_steps: int) -> Attempt | None:
    """Follow some rows of steps; None if that does not lead to the violation."""
    run = Following(rows, max_steps)
    outcome = target.execute(run)
    found = next((v for v in outcome.violations if kind_of(v) == wanted), None)
    if found is None:
        return None
    return Attempt(schedule_of(target, run, found), found, run.preemptions)


def descend(target: Target, best: Attempt, wanted: tuple[str, str], max_steps: int) -> Attempt:
    budget = BUDGET
    improved = True
    while improved:
        improved = False
        for rows in simpler(list(best.schedule.runs)):
            if not budget:
                return best
            budget -= 1
            tried = attempt(target, rows, wanted, max_steps)
            if tried is not None and tried.cost < best.cost:
                best, improved = tried, True
                break
    return best


def simpler(rows: Rows) -> Iterator[Rows]:
    """Neighbours of a schedule, the boldest first."""
    for place in range(len(rows)):
        yield [*rows[:place], (rows[place][0], AS_FAR_AS_IT_CAN)]
    for place in range(len(rows)):
        yield rows[:place] + rows[place + 1 :]
    for place in range(len(rows)):
        yield [*rows[:place], (rows[place][0], AS_FAR_AS_IT_CAN), *rows[place + 1 :]]
    for place in range(len(rows) - 1):
        yield [*rows[:place], rows[place + 1], rows[place], *rows[place + 2 :]]


def fewer_preemptions(
    target: Target, best: Attempt, wanted: tuple[str, str], max_steps: int
) -> tuple[Attempt, bool]:
    """The violation with the fewest preemptions, and whether that is proven."""
    budget = BUDGET
    for bound in range(best.preemptions):
        strategy = DepthFirst(preemptions=bound)
        indices = Indices()
        while strategy.begin():
            if not budget:
                return best, False
            budget -= 1
            run = Chosen(indices, max_steps, [])
            run.strategy = strategy
            outcome = target.execute(run)
            found = next((v for v in outcome.violations if kind_of(v) == wanted), None)
            if found is not None:
                schedule = schedule_of(target, run, found)
                better = Attempt(schedule, found, strategy.spent)
                return descend(target, better, wanted, max_steps), True
    return best, True
