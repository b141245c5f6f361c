"""Steps, which of them depend on each other, and how two may change places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmigrate.explore.execution import INSIDE

Until = Callable[[], bool] | None


@dataclass(slots=True)
class Step:
    """What a task does, as far as others can tell.  @word: its number, or NOBODY.
    @cpu_kind: what it does to its CPU (execution.py)."""

    task: int
    word: int
    kind: int
    cpu: int
    cpu_kind: int


def dependent(one: Step, other: Step) -> bool:
    """Whether the order of two steps of different tasks matters."""
    if one.word == other.word and (one.kind or other.kind):
        return True
    if one.cpu != other.cpu or one.cpu_kind == INSIDE or other.cpu_kind == INSIDE:
        return False
    return bool(one.cpu_kind or other.cpu_kind)


# A step of another execution: its object by name, and then what a Step has.
KnownStep = tuple[str, Any, int, int, int, int, int]


def disturbs(one: KnownStep, other: KnownStep) -> bool:
    """Whether the order of two steps of different tasks matters."""
    same = one[:2] == other[:2]
    mine, its = Step(*one[2:]), Step(*other[2:])
    mine.word, its.word = 0, 0 if same else 1
    return dependent(mine, its)


class Pending(NamedTuple):
    """What an unfinished task was about to do.  @state: of its object.  @cpu_kind: INSIDE if
    the task holds its CPU."""

    task: int
    access: tuple[Any, Any, int]
    until: Until
    state: Any
    cpu: int
    cpu_kind: int


class NewSteps:
    """What an execution did behind the steps that were known, by step, and how it ended.

    @rows: (task, CPU, how many steps in a row).  @states: of the object of the step, just before,
    if it is a write or one of a semaphore.  @sleep: the tasks that need not go first there, and
    what they do to their CPU.  @waits: the conditions that steps had to wait for, by index.
    @blocked: by index, the tasks that then waited for the word.  @pending: what the unfinished
    tasks would have done; @stuck: those whose condition does not hold.
    """

    __slots__ = (
        "blocked",
        "cpu_kinds",
        "pending",
        "rows",
        "sleep",
        "states",
        "stuck",
        "waits",
    )

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []
        self.cpu_kinds: list[int] = []
        self.states: list[Any] = []
        self.waits: dict[int, Callable[[], bool]] = {}
        self.blocked: dict[int, int] = {}
        self.sleep: list[dict[int, int]] = []
        self.pending: list[Pending] = []
        self.stuck = 0


@dataclass(slots=True)
class Race:
    """Step @second, of @task, could be taken before @first, the steps in @dropped, and what they
    caused.  @start: the last step that it needs.  A @second behind the last step is one that
    its task would have taken."""

    first: int
    second: int
    task: int
    start: int
    dropped: int
