"""What is explored: a scenario, the machine it wants, and what must hold.

Interface: `Target.of(scenario, …)`, and `target.execute(run)`, which boots, runs the
scenario under an `Execution`, and asks the oracles.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Final, NamedTuple

from mmigrate.errors import KernelBug, MmigrateError, ScenarioError, Violation
from mmigrate.explore.execution import Ending, Execution, Over
from mmigrate.explore.program import Tasks
from mmigrate.linux.include.switches import BASE
from mmigrate.machine.conditions import Condition
from mmigrate.machine.machine import Machine
from mmigrate.machine.scenario import load

HERE: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Conditions:
    """What a scenario must have met in some execution, and what must hold after each."""

    sometimes: dict[str, Condition] = field(default_factory=dict)
    always: dict[str, Condition] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """@options: arguments of `Machine`.  @place: file and name, as in `mmigrate explore`."""

    function: Callable[..., Any]
    place: str
    options: dict[str, Any]
    conditions: Conditions
    needs_machine: bool

    @property
    def name(self) -> str:
        return self.place.rsplit(":", 1)[-1]

    @classmethod
    def of(
        cls,
        scenario: Any,
        options: Mapping[str, Any],
        *,
        sometimes: Mapping[str, Condition] | None = None,
        always: Mapping[str, Condition] | None = None,
    ) -> Target:
        """@scenario: a function of a machine or of `tasks`, or one from a scenario file."""
        function = getattr(scenario, "function", scenario)
        if not callable(function):
            raise ScenarioError(f"{scenario!r} is no scenario: it cannot be called")
        wants = _first_parameter(function)
        if wants not in ("machine", "tasks"):
            name = getattr(function, "__name__", repr(function))
            raise ScenarioError(f"the parameter of {name} must be called machine, or tasks")
        known = getattr(function, "__dict__", {})
        conditions = Conditions(
            {**known.get("_sometimes", {}), **(sometimes or {})},
            {**known.get("_always", {}), **(always or {})},
        )
        merged = {**getattr(scenario, "options", {}), **options}
        if wants == "tasks" and merged:
            raise ScenarioError(f"a program of tasks has no machine, so no {', '.join(merged)}")
        return cls(function, place_of(function), merged, conditions, wants == "machine")

    def portable(self) -> Target | tuple[Any, ...]:
        """As another process can take it: a scenario of a file by its place."""
        if not self.function.__module__.startswith("scenario_"):
            return self
        file = str(Path(inspect.getfile(self.function)).resolve())
        return file, self.name, self.place, self.options

    @classmethod
    def found(cls, file: str, name: str, place: str, options: dict[str, Any]) -> Target:
        """A scenario by its place."""
        found = cls.of(load(Path(file), name)[0], options)
        return replace(found, place=place)

    def boot(self) -> Any:
        return Machine(**self.options) if self.needs_machine else Tasks()

    def execute(
        self,
        run: Execution,
        machine: Any = None,
        *,
        before_tasks: Callable[[Any], None] | None = None,
    ) -> Outcome:
        """One run from boot to the oracles.  @machine: one on which the scenario has been run, all
        but its tasks.  @before_tasks: called where the tasks are about to run, if they have not
        been run by the scenario."""
        ready = machine is not None
        if machine is None:
            machine = self.boot()
        scheduler = machine.kernel.scheduler
        run.attach(scheduler)
        raised: Violation | None = None
        try:
            if not ready:
                self.function(machine)
            if scheduler.alive:
                if before_tasks is not None and not run.barriers:
                    before_tasks(machine)
                run.go()
        except Over:
            pass
        except MmigrateError:
            raise
        except Exception as error:
            raised = violation_of(self.name, error)
        finally:
            if scheduler.alive:
                scheduler.abandon()
        run.detach()
        violations = []
        if run.failures:
            violations = [violation_of(name, error) for name, error in run.failures]
        if run.deadlock is not None:
            violations.append(run.deadlock)
        elif run.ending is Ending.TOO_LONG:
            violations.append(
                Violation("livelock", self.name, f"no end after {run.max_steps} accesses")
            )
        elif raised is not None:
            violations.append(raised)
        elif run.ending is Ending.COMPLETE:
            violations += machine.check()
            for name, condition in self.conditions.always.items():
                if not condition(machine):
                    violations.append(Violation("always", self.name, f"{name} does not hold"))
        met: frozenset[str] = frozenset()
        if self.conditions.sometimes:
            met = frozenset(
                name for name, holds in self.conditions.sometimes.items() if holds(machine)
            )
        return Outcome(run.ending, tuple(violations), met, machine)


class Outcome(NamedTuple):
    """What one execution came to.  @met: the `sometimes` that it met."""

    ending: Ending
    violations: tuple[Violation, ...]
    met: frozenset[str]
    machine: Any


def violation_of(who: str, error: BaseException) -> Violation:
    """What a task or a scenario ended with, as a finding."""
    if isinstance(error, KernelBug):
        return Violation("BUG", who, str(error))
    inside = [f for f in traceback.extract_tb(error.__traceback__) if not _ours(f.filename)]
    where = f" (line {inside[-1].lineno})" if inside else ""
    if isinstance(error, AssertionError):
        text = str(error) or (inside[-1].line if inside else "") or "assertion failed"
        return Violation("assertion", who, f"{text}{where}")
    return Violation("exception", who, f"{type(error).__name__}: {error}{where}")


def _ours(filename: str) -> bool:
    return HERE in Path(filename).parents


def _first_parameter(function: Callable[..., Any]) -> str | None:
    """Its name.  A plain function tells it by its code: to ask for the signature takes longer
    than to make the tasks of a small program (explore_against_frontrun)."""
    if type(function) is FunctionType and not function.__dict__:
        code = function.__code__
        if code.co_argcount:
            return code.co_varnames[0]
    return next(iter(inspect.signature(function).parameters), None)


def place_of(function: Callable[..., Any]) -> str:
    """file.py:name, relative to the current directory where it is below it."""
    name = getattr(function, "__qualname__", getattr(function, "__name__", "scenario"))
    try:
        file = inspect.getfile(function)
    except TypeError:
        return str(name)
    return f"{_shortest(file, os.getcwd())}:{name}"


@cache
def _shortest(file: str, folder: str) -> str:
    """A file as it is called in a folder."""
    path = Path(file)
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def base_options(
    kernel: str, without: Any, backports: Any, machine: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The arguments of `Machine`, without those that change nothing."""
    options = dict(machine or {})
    if kernel != BASE:
        options["kernel"] = kernel
    if without:
        options["without"] = [without] if isinstance(without, str) else list(without)
    if backports:
        options["backports"] = [backports] if isinstance(backports, str) else list(backports)
    return options
