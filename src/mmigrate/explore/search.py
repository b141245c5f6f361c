"""Explore a scenario: run it again and again, differently each time.

Interface: `explore(scenario, …)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import mmigrate
from mmigrate.errors import ScenarioError, Violation
from mmigrate.explore.dpor import Guided, Optimal
from mmigrate.explore.execution import Ending, Execution
from mmigrate.explore.result import Finding, Result
from mmigrate.explore.schedule import Schedule, digest_of, in_a_row
from mmigrate.explore.target import Outcome, Target, base_options
from mmigrate.linux.include.switches import BASE
from mmigrate.machine.conditions import Condition


def explore(
    scenario: Any,
    *,
    strategy: str = "dpor",
    without: Any = (),
    backports: Any = (),
    kernel: str = BASE,
    machine: Mapping[str, Any] | None = None,
    max_executions: int | None = None,
    max_steps: int = 20_000,
    keep_going: bool = False,
    sometimes: Mapping[str, Condition] | None = None,
    always: Mapping[str, Condition] | None = None,
) -> Result:
    """Run a scenario in all interleavings that can differ, or as many as asked for.

    @scenario: a function of a machine (`machine`) or of shared words (`tasks`).
    @without, @backports, @kernel: as in `Machine`; @machine: its other arguments.
    @max_executions: stop after so many; the result then says that it is not exhausted.
    @max_steps: an execution with more accesses is a livelock.
    @keep_going: look for further findings behind the first.
    @sometimes, @always: conditions of a machine at the end of an execution, by name.
    """
    options = base_options(kernel, without, backports, machine)
    target = Target.of(scenario, options, sometimes=sometimes, always=always)
    search = Search(target, strategy, max_steps, keep_going)
    started = perf_counter()
    search.run(max_executions)
    return search.result(perf_counter() - started, max_executions)


class Search:
    """Executions one after the other, and what they found."""

    def __init__(self, target: Target, strategy: str, max_steps: int, keep_going: bool) -> None:
        if strategy != "dpor":
            raise ScenarioError(f"there is no strategy {strategy!r}")
        self.target = target
        self.strategy = strategy
        self.max_steps = max_steps
        self.keep_going = keep_going
        self.dpor = Optimal()
        self.executions = 0
        self.redundant = 0
        self.exhausted = False
        self.findings: dict[tuple[str, str, str], Finding] = {}
        self.met = dict.fromkeys(target.conditions.sometimes, 0)

    def run(self, max_executions: int | None) -> None:
        while max_executions is None or self.executions < max_executions:
            run = self.dpor.next_execution(self.max_steps, keep_going=self.keep_going)
            if run is None:
                self.exhausted = True
                return
            outcome = self.target.execute(run)
            self.executions += 1
            self._note(run, outcome)
            if self.findings and not self.keep_going:
                return
            self.dpor.learn(run)
        self.exhausted = self.dpor.ended

    def _note(self, run: Guided, outcome: Outcome) -> None:
        if outcome.ending is Ending.REDUNDANT:
            self.redundant += 1
        for name in outcome.met:
            self.met[name] += 1
        for violation in outcome.violations[:1]:
            key = (violation.oracle, violation.subject, violation.message)
            if key not in self.findings:
                tasks = [*self.dpor.trace.tasks, *run.new.tasks]
                self.findings[key] = Finding(
                    violation, schedule_of(self.target, run, tasks, violation)
                )

    def result(self, seconds: float, max_executions: int | None) -> Result:
        bounds = {}
        if not self.exhausted and max_executions is not None:
            bounds["max_executions"] = max_executions
        return Result(
            scenario=self.target.place,
            options=self.target.options,
            strategy=self.strategy,
            bounds=bounds,
            findings=tuple(self.findings.values()),
            executions=self.executions,
            redundant=self.redundant,
            classes=self.executions - self.redundant,
            exhausted=self.exhausted,
            interrupted=False,
            seconds=seconds,
            met=self.met,
            version=mmigrate.__version__,
        )


def schedule_of(
    target: Target, run: Execution, tasks: list[int], violation: Violation | None
) -> Schedule:
    """The schedule of an execution that has just ended."""
    names = [run.names[index] for index in tasks]
    digest = digest_of(
        (name, repr(obj), field, kind)
        for name, (obj, field), kind in zip(names, run.log, run.kinds, strict=True)
    )
    return Schedule(
        target.place,
        json.loads(json.dumps(target.options)),
        violation,
        in_a_row(names),
        digest,
        mmigrate.__version__,
    )
