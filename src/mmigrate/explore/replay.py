"""Repeat a recorded schedule exactly, and tell what each step did.

Interface: `replay(schedule)` gives a `Replayed` with its steps and what it found; it
refuses with `ReplayMismatch` where code or scenario do not fit the schedule any more.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from mmigrate.errors import MmigrateError, ReplayMismatch, ScenarioError, Violation
from mmigrate.explore.execution import Execution, Indices
from mmigrate.explore.schedule import Schedule, digest_of
from mmigrate.explore.target import HERE, Outcome, Target
from mmigrate.explore.words import name_of, value_of, word_name
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import sched
from mmigrate.machine.scenario import load

PRIMITIVES: Final = str(HERE / "linux" / "kernel")
EXPLORER: Final = str(HERE / "explore")
# Words by which tasks wait for each other; they seldom tell why something went wrong.
OF_LOCKS: Final = (" owner", " count", " mm_users", " mm_count", " rcu", " tlb")


@dataclass(frozen=True)
class ReplayedStep:
    """One access: @function called @primitive, which touched @word.

    @writes: whether it may change it.  @old, @new: its value before and after, as text.
    """

    number: int
    task: str
    function: str
    primitive: str
    word: str
    writes: bool
    old: str
    new: str


@dataclass(frozen=True)
class Replayed:
    """@violations: what the repeated run found.  @conflict: why it happened, in a paragraph
    that names the accesses whose order mattered."""

    schedule: Schedule
    steps: tuple[ReplayedStep, ...]
    violations: tuple[Violation, ...]
    tasks: tuple[str, ...]
    conflict: str

    @property
    def violation(self) -> Violation | None:
        return self.violations[0] if self.violations else None


class Repeating(Execution):
    """Follows a schedule by the names of its tasks; every step is noted."""

    def __init__(self, schedule: Schedule, *, strict: bool = True) -> None:
        super().__init__(Indices(), schedule.accesses)
        self.schedule = schedule
        self.wanted = [task for task, count in schedule.runs for _ in range(count)]
        self.noted: list[ReplayedStep] = []
        self.touched: list[tuple[str, str, Any, int]] = []
        self.events: list[tuple[int, str, Any, Any, int]] = []
        self.mismatch: str | None = None
        self._callers: dict[int, tuple[str, str]] = {}
        self._open: tuple[Any, ...] | None = None

    def _stop(self, obj: Any, field: Any, kind: int, until: Any) -> None:
        me = sched.task
        if not self.scheduler.abandoned and me.greenlet is not None:
            self._callers[me.number] = caller(sys._getframe(2))
        super()._stop(obj, field, kind, until)

    def pick(self, me: Task | None) -> Task | None:
        self.note_new_tasks(me)
        self._close()
        number = len(self.log)
        by_name = {self.names[task.index]: task for task in self.scheduler.alive}
        enabled = [name for name, task in by_name.items() if self.may_run(task)]
        if number == len(self.wanted):
            if not enabled:
                self.stuck()
            elif self.schedule.violation is None or self.schedule.violation.oracle != "livelock":
                self.mismatch = f"all {number} steps are taken, and {enabled[0]} has not ended"
            else:
                self.too_long()
            return None
        name = self.wanted[number]
        chosen = by_name.get(name)
        if chosen is None or name not in enabled:
            why = "has ended or does not exist" if chosen is None else "cannot go on"
            self.mismatch = f"at step {number + 1} {name} should go on, but it {why}"
            return None
        obj, field, kind = chosen.access
        self.log.append((obj, field))
        self.kinds.append(kind)
        self.touched.append((name, name_of(obj), field, kind))
        by = self._callers.get(chosen.number, ("", ""))
        self._open = (number + 1, name, by, obj, field, kind, value_of(obj, field))
        return chosen

    def _close(self) -> None:
        if self._open is None:
            return
        number, name, (function, primitive), obj, field, kind, old = self._open
        self._open = None
        new = value_of(obj, field)
        word = word_name(obj, field)
        self.noted.append(
            ReplayedStep(number, name, function, primitive, word, bool(kind), old, new)
        )

    def finish(self) -> None:
        self._close()


def caller(frame: FrameType | None) -> tuple[str, str]:
    """(the function that called a primitive, the primitive)."""
    primitive = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PRIMITIVES) or (file.startswith(EXPLORER) and "program" in file):
            primitive = frame.f_code.co_name
        elif not file.startswith(EXPLORER):
            return frame.f_code.co_name, primitive
        frame = frame.f_back
    return "", primitive


def target_of(schedule: Schedule, scenario: Any = None, folder: Path | None = None) -> Target:
    """What a schedule is of: its scenario is loaded from its file, or given."""
    if scenario is None:
        file, _, name = schedule.scenario.rpartition(":")
        path = Path(file) if folder is None else folder / file
        try:
            scenario = load(path, name)[0]
        except ScenarioError as error:
            raise ReplayMismatch(f"the scenario of the schedule is gone: {error}") from error
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in schedule.options.items()
    }
    return Target.of(scenario, options)


def replay(schedule: Schedule, scenario: Any = None, *, folder: Path | None = None) -> Replayed:
    """Repeat a schedule.  @scenario: its function, if not from its file, which is looked for
    in @folder.

    Raises ReplayMismatch: code or scenario do not fit it any more.
    """
    target = target_of(schedule, scenario, folder)
    run = Repeating(schedule)
    try:
        outcome: Outcome = target.execute(run)
    except ReplayMismatch:
        raise
    except MmigrateError as error:
        raise ReplayMismatch(f"{target.name} does not run any more: {error}") from error
    if run.mismatch is not None:
        raise ReplayMismatch(f"the schedule does not fit {target.name} any more: {run.mismatch}")
    if len(run.log) != len(run.wanted):
        raise ReplayMismatch(
            f"the schedule does not fit {target.name} any more: it ended after {len(run.log)} of "
            f"{len(run.wanted)} steps"
        )
    digest = digest_of(run.touched)
    if schedule.digest and digest != schedule.digest:
        raise ReplayMismatch(
            f"the schedule does not fit {target.name} any more: its steps touched {digest}, "
            f"recorded was {schedule.digest}"
        )
    wanted = schedule.violation
    if wanted is not None and wanted not in outcome.violations:
        found = "; ".join(map(str, outcome.violations)) or "nothing"
        raise ReplayMismatch(f"the schedule led to {wanted}, and now to {found}")
    violations = outcome.violations
    if wanted is not None:
        violations = (wanted, *(v for v in violations if v != wanted))
    return Replayed(
        Schedule(
            schedule.scenario,
            schedule.options,
            schedule.violation,
            schedule.runs,
            digest,
            schedule.version,
        ),
        tuple(run.noted),
        violations,
        tuple(run.names[index] for index in sorted(run.names)),
        conflict(run.noted, violations),
    )


def conflict(steps: list[ReplayedStep], violations: tuple[Violation, ...]) -> str:
    """The accesses whose order mattered: of words that the first violation names or, if there
    are none, of words that two tasks touched, the last; locks only where there is nothing else."""
    pairs: list[tuple[ReplayedStep, ReplayedStep]] = []
    last: dict[str, ReplayedStep] = {}
    written: dict[str, ReplayedStep] = {}
    for step in steps:
        before = last.get(step.word) if step.writes else written.get(step.word)
        if before is not None and before.task != step.task and (before.writes or step.writes):
            pairs.append((before, step))
        last[step.word] = step
        if step.writes:
            written[step.word] = step
    if not pairs:
        return "No two tasks touched the same word."
    chosen = [pair for pair in pairs if not pair[0].word.endswith(OF_LOCKS)] or pairs
    chosen = [pair for pair in chosen if _changed(pair)] or chosen
    chosen = [
        pair
        for pair in chosen
        if violations and any(_object(pair[0].word) in (v.subject, v.message) for v in violations)
    ] or chosen
    sentences = [
        f"{first.task} ({first.function}) {_did(first)} {first.word} at step {first.number}, and "
        f"{second.task} ({second.function}) {_did(second)} it at step {second.number}"
        for first, second in chosen[-3:]
    ]
    return "The order of these accesses mattered: " + "; ".join(sentences) + "."


def _changed(pair: tuple[ReplayedStep, ReplayedStep]) -> bool:
    """Whether one of the two left another value than it found, as far as can be told."""
    return any(step.writes and step.old != step.new for step in pair)


def _object(word: str) -> str:
    return word.rsplit(" ", 1)[0]


def _did(step: ReplayedStep) -> str:
    if not step.writes:
        return "read"
    return f"changed ({step.old} to {step.new})" if step.old != step.new else "wrote"
