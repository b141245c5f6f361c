"""An execution that writes down what the search needs to know of each step.

Somebody is asked who goes on only where that may change: elsewhere the running task takes its
steps with nothing but a few entries in lists, and what follows from them is worked out
for all of them together (`_complete`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from mmigrate.errors import ScenarioError
from mmigrate.explore.execution import (
    ACQUIRES,
    INSIDE,
    PASSES,
    RELEASES,
    TRIED,
    Ending,
    Execution,
    Indices,
)
from mmigrate.explore.states import GETS, UNKNOWN, state_of
from mmigrate.explore.steps import NewSteps, Pending, Step, dependent
from mmigrate.explore.words import name_of
from mmigrate.linux.include.sched import Cpu, Task
from mmigrate.linux.kernel.spinlock import SpinLock

Asleep = dict[int, int]  # task to what its next step does to its CPU


class Recording(Execution):
    """A subclass says in `choose` who goes on, from the end of the prefix on, and may set `more`:
    how many steps more the chosen task may take before it is asked again, unless it must wait or
    creates a task."""

    __slots__ = (
        "_cpu",
        "_from",
        "_held",
        "_last",
        "_position",
        "_waited",
        "asleep",
        "diverged",
        "new",
        "prefix",
    )

    def __init__(
        self,
        indices: Indices,
        max_steps: int,
        prefix: list[tuple[int, int]],
        known_kinds: list[int] | None = None,
        *,
        keep_going: bool = False,
    ) -> None:
        super().__init__(indices, max_steps, keep_going=keep_going)
        self.prefix = prefix  # (task, how many steps), to be repeated
        if known_kinds is not None:  # of the steps of the prefix
            self.kinds = known_kinds
        self.new = NewSteps()
        self.asleep: Asleep = {}
        self.diverged = False  # a plan could not be followed
        self._position = 0
        # the task that runs, and its steps that have not been worked out yet: from which on, and
        # whether it held its CPU just before each
        self._last: Task = None  # type: ignore[assignment]
        self._cpu: Cpu | None = None
        self._from = 0
        self._held: list[int] = []
        self._waited: list[tuple[Any, Any]] = []  # the words that other tasks wait for

    # --- the hook ---

    def announce(self, obj: Any, field: Any, kind: int) -> None:
        if self.left:
            self.left -= 1
            self.log.append((obj, field))
            return
        if self.more and (key := (obj, field)) not in self._waited:
            self.more -= 1
            self.log.append(key)
            self.kinds.append(kind)
            self._held.append(self._last.preempt_count)
            get = GETS[kind].get(type(obj))  # `state_of`, without its call  (explore_kernel_per_s)
            self.new.states.append(UNKNOWN if get is None else get(obj))
            return
        self._stop(obj, field, kind, None)

    def wait(self, obj: Any, field: Any, kind: int, until: Callable[[], bool]) -> None:
        if self.left:
            self.left -= 1
            self.log.append((obj, field))
            return
        if self.more and (key := (obj, field)) not in self._waited and until():
            self.more -= 1
            self.new.waits[len(self.log)] = until
            self.log.append(key)
            self.kinds.append(kind)
            self._held.append(self._last.preempt_count)
            self.new.states.append(state_of(obj))
            return
        self._stop(obj, field, kind, until)

    # --- decisions ---

    def choose(self, me: Task | None) -> Task | None:
        """Who takes the next step; None ends the run."""
        raise AssertionError("a subclass decides")

    def pick(self, me: Task | None) -> Task | None:
        self.more = 0
        if self.kernel.task_numbers != self._numbers:
            self.note_new_tasks(me)
        if self.left:
            raise self.differs()
        if self._position < len(self.prefix):
            return self._repeat()
        self._complete()
        index = len(self.log)
        if index >= self.max_steps:
            self.too_long()
            return None
        chosen = self.choose(me)
        if chosen is None:
            return None
        obj, name, kind = chosen.access
        new = self.new
        waited = []
        for other in self.scheduler.alive:
            if other.until is not None and other is not chosen:
                access = other.access
                waited.append((access[0], access[1]))
                if access[0] is obj and access[1] == name and not other.until():
                    new.blocked[index] = new.blocked.get(index, 0) | 1 << other.index
        self._waited = waited
        if chosen.until is not None:
            new.waits[index] = chosen.until
        self.log.append((obj, name))
        self.kinds.append(kind)
        new.states.append(state_of(obj))
        self._last = chosen
        self._cpu = chosen.cpu
        self._from = index
        self._held = [chosen.preempt_count]
        return chosen

    def all_tasks(self) -> list[int]:
        """By step, who took it."""
        return [task for task, count in self.all_rows() for _ in range(count)]

    def all_rows(self) -> list[tuple[int, int]]:
        """(task, how many steps in a row)."""
        return [*self.prefix, *((task, count) for task, _, count in self.new.rows)]

    def words(self) -> list[tuple[int, str, Any]]:
        """(task, object, field) of each step, by name."""
        objects = {id(obj): obj for obj, _ in self.log}  # most are touched again and again
        names = {number: name_of(obj) for number, obj in objects.items()}
        return [
            (task, names[id(obj)], field)
            for task, (obj, field) in zip(self.all_tasks(), self.log, strict=True)
        ]

    def _repeat(self) -> Task:
        number, count = self.prefix[self._position]
        self._position += 1
        chosen = self.tasks.get(number)
        if chosen is None or chosen.finished:
            raise self.differs()
        self.log.append(chosen.access[:2])
        self.left = count - 1
        return chosen

    def _complete(self) -> None:
        """The steps of the running task are over: what they did to its CPU is known, and whom
        they wake."""
        last = self._last
        if last is None:
            return
        self._last = None  # type: ignore[assignment]
        assert self._cpu is not None
        new, held = self.new, self._held
        steps = self.log[self._from :]
        held.append(0 if last.finished else last.preempt_count)
        cpu_kinds = []
        if any(held):  # it never is in most small programs  (explore_against_frontrun)
            cpu_kinds = [
                (INSIDE if after else RELEASES)
                if before
                else (ACQUIRES if after else TRIED if type(step[0]) is SpinLock else PASSES)
                for step, (before, after) in zip(steps, pairwise(held), strict=True)
            ]
        else:
            for obj, _ in steps:
                cpu_kinds.append(TRIED if type(obj) is SpinLock else PASSES)
        cpu, count = self._cpu.number, len(steps)
        new.rows.append((last.index, cpu, count))
        new.cpu_kinds += cpu_kinds
        if self.asleep:
            self._wake(last.index, cpu, steps, cpu_kinds)
        else:
            new.sleep += [self.asleep] * count

    def _wake(
        self, task: int, cpu: int, steps: list[tuple[Any, Any]], cpu_kinds: list[int]
    ) -> None:
        """Whom steps of a task wake, one after the other."""
        sleep = self.new.sleep
        words = []
        same_cpu = False
        for number in self.asleep:
            sleeper = self.tasks[number]
            words.append(sleeper.access[:2])
            same_cpu = same_cpu or sleeper.cpu.number == cpu
        first = self._from
        for place, key in enumerate(steps):
            sleep.append(self.asleep)
            cpu_kind = cpu_kinds[place]
            if key in words or (same_cpu and cpu_kind != INSIDE):
                step = Step(task, 0, self.kinds[first + place], cpu, cpu_kind)
                self.asleep = {
                    number: its_kind
                    for number, its_kind in self.asleep.items()
                    if not self._wakes(step, key, self.tasks[number], its_kind)
                }
                if not self.asleep:
                    sleep += [self.asleep] * (len(steps) - place - 1)
                    return

    def _wakes(self, step: Step, key: tuple[Any, Any], sleeper: Task, its_kind: int) -> bool:
        access = sleeper.access
        same = access[0] is key[0] and access[1] == key[1]
        if same and (step.kind or access[2]):
            return True  # what `dependent` says, too, without a Step  (explore_against_frontrun)
        its = Step(sleeper.index, 1, access[2], sleeper.cpu.number, its_kind)
        return dependent(step, its)

    def must_have_repeated(self) -> None:
        """Raises ScenarioError: the run ended within the prefix."""
        if self._position < len(self.prefix) or self.left:
            raise self.differs()

    def differs(self) -> ScenarioError:
        """What is to be said of a run that did not repeat its prefix."""
        return ScenarioError(
            "the scenario did not do the same twice: something in it is random, or remembers an "
            "earlier run"
        )

    def finish(self) -> None:
        self.more = 0
        self._complete()
        for task in self.scheduler.alive:
            state = state_of(task.access[0])
            cpu_kind = INSIDE if task.preempt_count else would_do(task)
            self.new.pending.append(
                Pending(task.index, task.access, task.until, state, task.cpu.number, cpu_kind)
            )
            if task.until is not None and not task.until():
                self.new.stuck |= 1 << task.index

    def again(self) -> Again:
        """A run that is to take the same steps."""
        return Again(
            self.indices, self.max_steps, self.all_rows(), self.kinds[:], keep_going=self.keep_going
        )

    def give_up(self) -> None:
        """Tasks could go on, and need not."""
        self.ending = Ending.REDUNDANT


class Again(Recording):
    """Repeats steps, and takes no others."""

    def choose(self, me: Task | None) -> Task | None:
        return None


def would_do(task: Task) -> int:
    """What the next step of a task would do to its CPU, as far as its kind tells."""
    obj, _, kind = task.access
    if type(obj) is SpinLock:
        return TRIED if task.until is None else ACQUIRES
    if type(obj) is Cpu and kind and task.until is None:
        return ACQUIRES
    return PASSES
