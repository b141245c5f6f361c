"""A schedule: which task took how many steps, in order, and what it was good for.

It is kept as a small text file that says the same to every version of Python. Its hash is of
what the steps touched, so a replay notices when code or scenario have changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mmigrate
from mmigrate.errors import ReplayMismatch, UsageError, Violation
from mmigrate.explore.words import name_of

if TYPE_CHECKING:
    from mmigrate.explore.recording import Recording
    from mmigrate.explore.target import Target

FIRST_LINE: Final = "mmigrate schedule 1"
FIELDS: Final = ("scenario", "options", "violation", "mmigrate", "hash", "accesses")


@dataclass(frozen=True)
class Schedule:
    """@scenario: file.py:name.  @options: arguments of `Machine`.  @runs: (task, how many
    steps in a row).  @digest: what the steps touched."""

    scenario: str
    options: dict[str, Any] = field(default_factory=dict)
    violation: Violation | None = None
    runs: tuple[tuple[str, int], ...] = ()
    digest: str = ""
    version: str = ""

    @property
    def accesses(self) -> int:
        return sum(count for _, count in self.runs)

    def text(self) -> str:
        """The contents of its file."""
        violation = self.violation
        lines = [
            FIRST_LINE,
            f"scenario: {self.scenario}",
            f"options: {json.dumps(self.options, sort_keys=True)}",
            f"violation: {json.dumps([violation.oracle, violation.subject, violation.message])}"
            if violation is not None
            else "violation: null",
            f"mmigrate: {self.version}",
            f"accesses: {self.accesses}",
            f"hash: {self.digest}",
            "",
        ]
        lines += [f"{count:6} {task}" for task, count in self.runs]
        return "\n".join(lines) + "\n"

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.text())


def read_schedule(file: Path) -> Schedule:
    """Raises UsageError: it cannot be read.  ReplayMismatch: it is no schedule."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    return parse_schedule(text, str(file))


def parse_schedule(text: str, name: str) -> Schedule:
    head, _, body = text.partition("\n\n")
    first, *lines = head.splitlines() or [""]
    if first != FIRST_LINE:
        raise ReplayMismatch(
            f"{name} does not begin with {FIRST_LINE!r}: it is no schedule of ours"
        )
    found = dict(line.split(": ", 1) for line in lines if ": " in line)
    try:
        violation = json.loads(found["violation"])
        runs = tuple(
            (task, int(count))
            for count, task in (line.strip().split(" ", 1) for line in body.splitlines() if line)
        )
        schedule = Schedule(
            found["scenario"],
            json.loads(found["options"]),
            Violation(*violation) if violation else None,
            runs,
            found["hash"],
            found["mmigrate"],
        )
        accesses = int(found["accesses"])
    except (KeyError, ValueError, TypeError) as error:
        raise ReplayMismatch(f"{name} is a damaged schedule: {error}") from error
    if schedule.accesses != accesses or any(count < 1 for _, count in runs):
        raise ReplayMismatch(f"{name} is a damaged schedule: it should have {accesses} accesses")
    return schedule


def in_a_row(tasks: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """The steps, as (task, how many in a row)."""
    runs: list[tuple[str, int]] = []
    for task in tasks:
        if runs and runs[-1][0] == task:
            runs[-1] = (task, runs[-1][1] + 1)
        else:
            runs.append((task, 1))
    return tuple(runs)


def digest_of(steps: Iterable[tuple[str, str, Any, int]]) -> str:
    """What the steps touched: (task, object, field, kind) each."""
    digest = hashlib.sha256()
    for task, obj, name, kind in steps:
        digest.update(f"{task} {'RW'[kind]} {obj} {name}\n".encode())
    return digest.hexdigest()[:32]


def schedule_of(target: Target, run: Recording, violation: Violation | None) -> Schedule:
    """The schedule of an execution that has just ended."""
    names = [run.names[index] for index in run.all_tasks()]
    digest = digest_of(
        (name, name_of(obj), field, kind)
        for name, (obj, field), kind in zip(names, run.log, run.kinds, strict=True)
    )
    options = json.loads(json.dumps(target.options))
    return Schedule(target.place, options, violation, in_a_row(names), digest, mmigrate.__version__)
