"""An execution that writes down what the search needs to know of each step."""

from __future__ import annotations

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
from mmigrate.explore.states import state_of
from mmigrate.explore.trace import NewSteps, Pending, Step, dependent
from mmigrate.linux.include.sched import Cpu, Task
from mmigrate.linux.kernel.spinlock import SpinLock

Asleep = dict[int, int]  # task to what its next step does to its CPU


class Recording(Execution):
    """A subclass says in `choose` who goes on, from the end of the prefix on."""

    def __init__(
        self,
        indices: Indices,
        max_steps: int,
        prefix: list[tuple[int, int]],
        *,
        keep_going: bool = False,
    ) -> None:
        super().__init__(indices, max_steps, keep_going=keep_going)
        self.prefix = prefix  # (task, how many steps), to be repeated
        self.new = NewSteps()
        self.asleep: Asleep = {}
        self.diverged = False  # a plan could not be followed
        self._position = 0
        self._last: Task | None = None
        self._inside = False

    def choose(self, me: Task | None) -> Task | None:
        """Who takes the next step; None ends the run."""
        raise AssertionError("a subclass decides")

    def pick(self, me: Task | None) -> Task | None:
        if self.kernel.task_numbers != self._numbers:
            self.note_new_tasks(me)
        if self.left:
            raise self.differs()
        if self._position < len(self.prefix):
            return self._repeat()
        if self._last is not None:
            self._complete(self._last)
        index = len(self.log)
        if index >= self.max_steps:
            self.too_long()
            return None
        chosen = self.choose(me)
        if chosen is None:
            return None
        obj, name, kind = chosen.access
        new = self.new
        for other in self.scheduler.alive:
            if other.until is not None and other is not chosen:
                access = other.access
                if access[0] is obj and access[1] == name and not other.until():
                    new.blocked[index] = new.blocked.get(index, 0) | 1 << other.index
        self.log.append((obj, name))
        self.kinds.append(kind)
        new.tasks.append(chosen.index)
        new.cpus.append(chosen.cpu.number)
        new.waits.append(chosen.until)
        new.states.append(state_of(obj))
        new.sleep.append(self.asleep)
        self._last = chosen
        self._inside = chosen.preempt_count > 0
        return chosen

    def all_tasks(self) -> list[int]:
        """By step, who took it."""
        return [task for task, count in self.prefix for _ in range(count)] + self.new.tasks

    def _repeat(self) -> Task:
        number, count = self.prefix[self._position]
        self._position += 1
        chosen = self.tasks.get(number)
        if chosen is None or chosen.finished:
            raise self.differs()
        obj, name, kind = chosen.access
        self.log.append((obj, name))
        self.kinds.append(kind)
        self.left = count - 1
        return chosen

    def _complete(self, last: Task) -> None:
        """The last step is over: what it did to its CPU is known, and whom it wakes."""
        if last.preempt_count and not last.finished:
            cpu_kind = INSIDE if self._inside else ACQUIRES
        else:
            cpu_kind = RELEASES if self._inside else PASSES
            if not self._inside and type(self.log[-1][0]) is SpinLock:
                cpu_kind = TRIED
        self.new.cpu_kinds.append(cpu_kind)
        if self.asleep:
            obj, name = self.log[-1]
            step = Step(last.index, 0, self.kinds[-1], self.new.cpus[-1], cpu_kind)
            self.asleep = {
                number: its_kind
                for number, its_kind in self.asleep.items()
                if not self._wakes(step, obj, name, self.tasks[number], its_kind)
            }
        self._last = None

    def _wakes(self, step: Step, obj: Any, name: Any, sleeper: Task, its_kind: int) -> bool:
        access = sleeper.access
        same = access[0] is obj and access[1] == name
        its = Step(sleeper.index, 0 if same else 1, access[2], sleeper.cpu.number, its_kind)
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
        if self._last is not None:
            self._complete(self._last)
        for task in self.scheduler.alive:
            state = state_of(task.access[0])
            cpu_kind = INSIDE if task.preempt_count else would_do(task)
            self.new.pending.append(
                Pending(task.index, task.access, task.until, state, task.cpu.number, cpu_kind)
            )
            if task.until is not None and not task.until():
                self.new.stuck |= 1 << task.index

    def give_up(self) -> None:
        """Tasks could go on, and need not."""
        self.ending = Ending.REDUNDANT


def would_do(task: Task) -> int:
    """What the next step of a task would do to its CPU, as far as its kind tells."""
    obj, _, kind = task.access
    if type(obj) is SpinLock:
        return TRIED if task.until is None else ACQUIRES
    if type(obj) is Cpu and kind and task.until is None:
        return ACQUIRES
    return PASSES
