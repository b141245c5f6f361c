"""Scenario files: Python modules whose functions take a machine.

Every public function of the file whose only required parameter is called `machine` is a
scenario. A module constant `MACHINE`, a dict, gives the arguments of its `Machine`.
"""

from __future__ import annotations

import importlib.util
import inspect
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from mmigrate.errors import KernelBug, ScenarioError, Violation
from mmigrate.machine.conditions import is_condition
from mmigrate.machine.machine import Machine


@dataclass(frozen=True)
class Scenario:
    """A function of a machine, and the machine it wants."""

    name: str
    function: Callable[[Machine], Any]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]


@dataclass(frozen=True)
class Outcome:
    """What one run came to.  @failed: an assertion of the scenario that did not hold."""

    name: str
    violations: list[Violation]
    vmstat: dict[str, int]
    failed: str | None = None

    @property
    def clean(self) -> bool:
        return not self.violations and self.failed is None


def load(path: Path, name: str | None = None) -> list[Scenario]:
    """The scenarios of a file, or the one called @name.

    Raises ScenarioError: no such file, not Python, no scenarios in it.
    """
    module = _import(path)
    options = getattr(module, "MACHINE", {})
    if not isinstance(options, dict):
        raise ScenarioError(f"{path}: MACHINE must be a dict of arguments for Machine")
    found = [
        Scenario(function_name, function, options)
        for function_name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not function_name.startswith("_")
        and _takes_a_machine(function)
        and not is_condition(function)
    ]
    if name is not None:
        found = [scenario for scenario in found if scenario.name == name]
    if not found:
        what = f"no scenario {name}" if name else "no function that takes a machine"
        raise ScenarioError(f"{path} has {what}")
    return found


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise ScenarioError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"scenario_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ScenarioError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ScenarioError(f"{path} cannot be loaded: {_sentence(error, path)}") from error
    return module


def _takes_a_machine(function: Callable[..., Any]) -> bool:
    required = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
    ]
    return required == ["machine"]


def run(scenario: Scenario, *, seconds: float = 60, **options: Any) -> Outcome:
    """Run a scenario on a machine of its own and ask every oracle.

    @options: arguments of `Machine` in place of the file's.
    Raises ScenarioError: it raised, or did not end within @seconds.
    """
    machine = Machine(**{**scenario.options, **options})
    violations: list[Violation] = []
    failed = None
    try:
        with _time_limit(seconds, scenario.name):
            scenario.function(machine)
    except KernelBug as bug:
        violations.append(Violation("BUG", scenario.name, str(bug)))
    except AssertionError as error:
        failed = _sentence(error)
    except ScenarioError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    except Exception as error:
        raise ScenarioError(f"{scenario.name} raised {_sentence(error)}") from error
    if not violations:
        violations = machine.check()
    return Outcome(scenario.name, violations, machine.vmstat, failed)


@contextmanager
def _time_limit(seconds: float, name: str) -> Iterator[None]:
    """Stop what takes too long; where signals can be had, that is in the main thread."""

    def expired(_signal: int, _frame: FrameType | None) -> None:
        raise ScenarioError(f"did not end within {seconds:g} s")

    try:
        before = signal.signal(signal.SIGALRM, expired)
    except ValueError:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _sentence(error: BaseException, path: Path | None = None) -> str:
    """An exception in one line, with the line of the scenario it came from."""
    frames = list(traceback.extract_tb(error.__traceback__))
    frames = [f for f in frames if path is None or Path(f.filename) == path] or frames
    inside = [f for f in frames if "/mmigrate/" not in f.filename]
    where = f" (line {inside[-1].lineno})" if inside else ""
    text = str(error) or (inside[-1].line if inside else "") or ""
    return f"{type(error).__name__}: {text}{where}"
