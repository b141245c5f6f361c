"""Cases: the scenarios of files, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmigrate.errors import UsageError
from mmigrate.machine.scenario import Scenario, load


@dataclass(frozen=True)
class Case:
    """A scenario of a file.  @name: "file:scenario", which the tables and recordings know."""

    name: str
    file: Path
    scenario: Scenario


def load_cases(files: Iterable[str]) -> list[Case]:
    """The scenarios of files, each FILE or FILE:NAME, or of all files of a folder.

    Raises ScenarioError: no such file, or no scenarios in it.  UsageError: two have one name.
    """
    found: dict[str, Case] = {}
    for text in files:
        given, _, name = text.partition(":")
        path = Path(given)
        paths = sorted(path.glob("*.py")) if path.is_dir() else [path]
        if not paths:
            raise UsageError(f"there are no scenario files in {path}")
        for file in paths:
            for scenario in load(file, name or None):
                case = Case(f"{file.stem}:{scenario.name}", file.absolute(), scenario)
                if case.name in found and found[case.name].file != case.file:
                    raise UsageError(f"two files have a scenario {case.name}")
                found[case.name] = case
    return list(found.values())
