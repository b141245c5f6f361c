"""Runs a case on a machine, and says what it saw.

In a guest this is what a job calls, so nothing here may load the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from mmigrate.errors import Missing, ScenarioError
from mmigrate.observe import Counters, plain

Answer = dict[str, Any]

COUNTERS: Final = "(migrations)"  # the observation that is made of every case
RAISED: Final = "(raised)"  # the errno that a scenario did not expect
COMPLAINTS: Final = "(complaints)"  # and what a kernel complained of, if it did
RACE_RUNS: Final = 10  # of a case whose tasks race, on a real kernel


class Watched:
    """A machine, and whether tasks of a scenario ran on it side by side."""

    def __init__(self, machine: Any, seed: int | None = None) -> None:
        self._machine = machine
        self._seed = seed
        self.raced = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def run(self) -> None:
        self.raced = True
        self._machine.run(seed=self._seed)


def answer(function: Callable[[Any], Any], machine: Watched) -> Answer:
    """What the case saw on @machine, as JSON can hold it."""
    counters = Counters(machine)
    try:
        seen = function(machine)
    except OSError as error:
        seen = {RAISED: plain(error)}
    if not isinstance(seen, dict):
        raise ScenarioError("a scenario that is compared returns a dict of what it saw")
    if not machine.raced and COUNTERS not in seen:
        seen = {**seen, COUNTERS: counters.change()}
    complaints = [str(complaint) for complaint in machine.check()]
    if complaints:
        seen = {**seen, COMPLAINTS: complaints}
    found: Answer = json.loads(json.dumps(seen))
    return found


def prepare(file: str, **others: Any) -> None:
    """Import the file of a case."""
    from mmigrate.real.scenario import load

    load(file)


def observe(file: str, name: str, repeat: int = 1, **options: Any) -> dict[str, Any]:
    """The answers of the kernel that runs here to one case, and how often each came.

    A case whose tasks race is run RACE_RUNS times at least.  @options: arguments of the machine
    in place of the file's.
    Raises Missing: this kernel cannot run it.  ScenarioError: it raised something.
    """
    from mmigrate.real import RealMachine
    from mmigrate.real.scenario import load

    module = load(file)
    function = getattr(module, name, None)
    if function is None:
        raise ScenarioError(f"{file} has no scenario {name}")
    options = {**getattr(module, "MACHINE", {}), **options}
    found: list[tuple[Answer, int]] = []
    runs, done = repeat, 0
    while done < runs:
        with RealMachine(**options) as machine:
            watched = Watched(machine, seed=done)
            add_answer(found, answer(function, watched))
            if watched.raced:
                runs = max(repeat, RACE_RUNS)
        done += 1
    return {"answers": found}


def observe_many(file: str, names: list[str]) -> dict[str, Any]:
    """The answers of the kernel that runs here to several programs, all on one machine, each with
    processes of its own; {"answers": …} or {"error": …} of each."""
    from mmigrate.real import RealMachine
    from mmigrate.real.scenario import load

    module = load(file)
    outcomes: dict[str, Any] = {}
    with RealMachine(**module.MACHINE) as machine:
        for name in names:
            try:
                seen = answer(getattr(module, name), Watched(machine))
                outcomes[name] = {"answers": [(seen, 1)]}
            except Missing as error:
                outcomes[name] = {"missing": str(error)}
            except (OSError, ScenarioError) as error:
                outcomes[name] = {"error": f"{type(error).__name__}: {error}"}
            for process in list(machine.processes):
                if not process.exited:
                    with suppress(OSError, ScenarioError):
                        process.exit()
    return outcomes


def add_answer(found: list[tuple[Answer, int]], new: Answer, count: int = 1) -> None:
    """Count one more answer."""
    for position, (known, seen) in enumerate(found):
        if known == new:
            found[position] = (known, seen + count)
            return
    found.append((new, count))
