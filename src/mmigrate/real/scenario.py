"""A scenario function of a file, run on the kernel that runs here."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from mmigrate.errors import ScenarioError
from mmigrate.real.machine import RealMachine


@cache
def load(file: str) -> ModuleType:
    """A scenario file as a module.  Raises ScenarioError: no such file, or not Python."""
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"scenario_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ScenarioError(f"there is no scenario file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ScenarioError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def prepare(file: str, **others: Any) -> None:
    """Import the file of a scenario."""
    load(file)


def run(file: str, name: str, **options: Any) -> dict[str, Any]:
    """Run scenario @name of @file; whether an assertion failed, what the kernel complained of.

    @options: arguments of the machine in place of the file's.
    Raises Missing: this kernel cannot run it.  ScenarioError: there is no such scenario.
    """
    module = load(file)
    function = getattr(module, name, None)
    if function is None:
        raise ScenarioError(f"{file} has no scenario {name}")
    failed = None
    with RealMachine(**{**getattr(module, "MACHINE", {}), **options}) as machine:
        try:
            function(machine)
        except AssertionError as error:
            failed = _where(error)
        violations = [str(violation) for violation in machine.check()]
        vmstat = {name: value for name, value in machine.vmstat.items() if value}
    return {"failed": failed, "violations": violations, "vmstat": vmstat}


def _where(error: AssertionError) -> str:
    """An assertion in one line, with the line of the scenario it came from."""
    frame = error.__traceback__
    line = 0
    while frame is not None:
        if "/mmigrate/" not in frame.tb_frame.f_code.co_filename:
            line = frame.tb_lineno
        frame = frame.tb_next
    return f"AssertionError: {error} (line {line})"
