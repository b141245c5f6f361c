"""The steps of the execution at hand, what happened before what, and which pairs race.

Two steps depend on each other if a task took both, if they touch the same word and one of
them writes, or if one takes or gives back a CPU that the other needs. What happens before a
step is a set of steps, kept as the bits of an int. Words are numbered in order of first use.

Words of the papers: Abdulla, Aronis, Jonsson, Sagonas, "Source Sets: A Foundation for Optimal
Dynamic Partial Order Reduction" (JACM 2017).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from mmigrate.explore.execution import ACQUIRES, INSIDE, PASSES, Execution
from mmigrate.explore.states import held_then
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel.sched import READ

NOBODY: Final = -1
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


@dataclass(slots=True)
class NewSteps:
    """What an execution did behind the steps that were known, by step, and how it ended.

    @waits: the condition that the step had to wait for.  @states: of its object, just before.
    @blocked: by step, the tasks that then waited for its word.  @sleep: by step, the tasks
    that need not go first there, and what they do to their CPU.  @pending: the unfinished
    tasks; @stuck: those whose condition does not hold.
    """

    tasks: list[int] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    cpu_kinds: list[int] = field(default_factory=list)
    waits: list[Until] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    blocked: dict[int, int] = field(default_factory=dict)
    sleep: list[dict[int, int]] = field(default_factory=list)
    pending: dict[int, Task] = field(default_factory=dict)
    stuck: int = 0


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


class Trace:
    """Lists by step, which grow at the end and are cut back together."""

    def __init__(self) -> None:
        self.tasks: list[int] = []
        self.words: list[int] = []
        self.kinds: list[int] = []
        self.cpus: list[int] = []
        self.cpu_kinds: list[int] = []
        self.before: list[int] = []  # the steps that happened before, and the step itself
        self.blocked: list[int] = []  # tasks that waited, just before it, for its word to change
        self.states: list[Any] = []  # of its object, just before it
        self.accesses: list[list[int]] = []  # by word: its steps
        self.cpu_accesses: dict[int, list[int]] = {}  # by CPU: the steps that are not INSIDE
        self.cpu_tasks: dict[int, int] = {}  # by CPU: the tasks that took steps there
        self.steps_of: dict[int, list[int]] = {}  # by task
        self.first_word: list[int] = []  # how many words were known before the step
        self.pending: dict[int, Step] = {}  # what tasks would have done next, at the end
        self.created_at: dict[int, int] = {}
        self.barriers: list[int] = [0]
        self.stuck = 0

    def __len__(self) -> int:
        return len(self.tasks)

    def step(self, index: int) -> Step:
        return Step(
            self.tasks[index],
            self.words[index],
            self.kinds[index],
            self.cpus[index],
            self.cpu_kinds[index],
        )

    def cut(self, length: int) -> None:
        """Forget all steps from @length on."""
        for index in range(len(self.tasks) - 1, length - 1, -1):
            self.accesses[self.words[index]].pop()
            self.steps_of[self.tasks[index]].pop()
            if self.cpu_kinds[index] != INSIDE:
                self.cpu_accesses[self.cpus[index]].pop()
        if length < len(self.tasks):
            del self.accesses[self.first_word[length] :]
        for column in (
            self.tasks,
            self.words,
            self.kinds,
            self.cpus,
            self.cpu_kinds,
            self.before,
            self.blocked,
            self.states,
            self.first_word,
        ):
            del column[length:]

    def fingerprint(self) -> frozenset[tuple[int, ...]]:
        """The same for executions that differ only in the order of independent steps: of each
        step, its task and how many steps of each task happened before it."""
        own = {task: sum(1 << index for index in taken) for task, taken in self.steps_of.items()}
        return frozenset(
            (task, *((here & own.get(other, 0)).bit_count() for other in range(max(own) + 1)))
            for task, here in zip(self.tasks, self.before, strict=True)
        )

    def next_of(self, task: int, index: int) -> Step | None:
        """What @task did, or would have done, first from step @index on."""
        taken = self.steps_of.get(task, ())
        place = bisect_left(taken, index)
        return self.step(taken[place]) if place < len(taken) else self.pending.get(task)

    def extend(self, run: Execution, new: NewSteps) -> list[Race]:
        """Add the steps of @run behind those known already; the races of the new ones."""
        known = len(self.tasks)
        self.created_at = run.created_at
        self.barriers = run.barriers
        numbers: dict[tuple[Any, Any], int] = dict(zip(run.log, self.words, strict=False))
        races: list[Race] = []
        for offset, task in enumerate(new.tasks):
            index = known + offset
            key = run.log[index]
            self.first_word.append(len(self.accesses))
            word = numbers.get(key, NOBODY)
            if word == NOBODY:
                word = numbers[key] = len(self.accesses)
                self.accesses.append([])
            cpu, cpu_kind = new.cpus[offset], new.cpu_kinds[offset]
            step = Step(task, word, run.kinds[index], cpu, cpu_kind)
            here, found = self._place(step, key, new.waits[offset])
            races += found
            self.tasks.append(task)
            self.words.append(word)
            self.kinds.append(step.kind)
            self.cpus.append(cpu)
            self.cpu_kinds.append(cpu_kind)
            self.before.append(here | 1 << index)
            self.blocked.append(new.blocked.get(index, 0))
            self.states.append(new.states[offset])
            self.accesses[word].append(index)
            self.steps_of.setdefault(task, []).append(index)
            self.cpu_tasks[cpu] = self.cpu_tasks.get(cpu, 0) | 1 << task
            if cpu_kind != INSIDE:
                self.cpu_accesses.setdefault(cpu, []).append(index)
        return races + self._races_of_pending(new, numbers)

    def _races_of_pending(self, new: NewSteps, numbers: dict[tuple[Any, Any], int]) -> list[Race]:
        """What the unfinished tasks would have done takes part, as if it came last."""
        self.pending = {}
        self.stuck = new.stuck
        races: list[Race] = []
        for number, waiting in new.pending.items():
            obj, name, kind = waiting.access
            word = numbers.get((obj, name), NOBODY - 1 - number)  # a word nobody has touched
            cpu_kind = INSIDE if waiting.preempt_count else PASSES
            step = Step(number, word, kind, waiting.cpu.number, cpu_kind)
            self.pending[number] = step
            races += self._place(step, (obj, name), waiting.until)[1]
        self.stuck = 0
        return races

    def _shares_cpu(self, step: Step) -> bool:
        others = self.cpu_tasks.get(step.cpu, 0) & ~(1 << step.task)
        return others != 0 and step.cpu_kind != INSIDE

    def _place(self, step: Step, key: tuple[Any, Any], until: Until) -> tuple[int, list[Race]]:
        """What happened before a step that comes next, and with which steps it races."""
        mine = self.steps_of.get(step.task)
        start = mine[-1] if mine else self.created_at[step.task]
        past = self.before[start] if start >= 0 else 0
        barrier = self.barriers[-1]
        if start < barrier:
            past |= (1 << barrier) - 1
            start = barrier - 1
        if key[1] == "finished" and isinstance(key[0], Task):
            return past | self._whole_of(key[0]), []
        shares = self._shares_cpu(step)
        candidates = list(self._conflicting(step))
        if shares:
            candidates = sorted({*candidates, *self._conflicting_on_cpu(step)}, reverse=True)
        races = []
        for other in candidates:
            if not past >> other & 1:
                past |= self.before[other]
                if until is not None or shares:
                    race = self._reversal(step, other, start, key[0], until)
                else:
                    race = Race(other, len(self.tasks), step.task, start, 1 << other)
                if race is not None:
                    races.append(race)
        return past, races

    def _whole_of(self, worker: Task) -> int:
        """All that a finished task did."""
        taken = self.steps_of.get(worker.index)
        if taken:
            return self.before[taken[-1]]
        created = self.created_at[worker.index]
        return self.before[created] if created >= 0 else 0

    def _conflicting(self, step: Step) -> Iterator[int]:
        """Steps on the same word that the step depends on, the latest first, back to the last
        write; all others happened before that."""
        if step.word < 0:
            return
        kinds = self.kinds
        if step.kind == READ:
            for index in reversed(self.accesses[step.word]):
                if kinds[index]:
                    yield index
                    return
        else:
            for index in reversed(self.accesses[step.word]):
                yield index
                if kinds[index]:
                    return

    def _conflicting_on_cpu(self, step: Step) -> Iterator[int]:
        kinds = self.cpu_kinds
        if step.cpu_kind == PASSES:
            for index in reversed(self.cpu_accesses[step.cpu]):
                if kinds[index]:
                    yield index
                    return
        else:
            for index in reversed(self.cpu_accesses[step.cpu]):
                yield index
                if kinds[index]:
                    return

    # --- races that can be turned round ---

    def _reversal(self, step: Step, other: int, start: int, obj: Any, until: Until) -> Race | None:
        """How @step, which comes next, could come before @other.  @start: where its task was.
        @obj: what it touches.

        It must have been possible there. If not, then it goes to the latest place where it
        was, and everything since that it depends on is dropped.
        """
        commuting = (
            until is not None and self.kinds[other] == READ
        )  # one of several that all must go
        if not commuting and self._was_possible(step, other, obj, until):
            return Race(other, len(self.tasks), step.task, start, 1 << other)
        dropped = 0
        needed = self.before[start] if start >= 0 else 0
        for place in range(len(self.tasks) - 1, self.barriers[-1] - 1, -1):
            there = self.step(place)
            if there.task != step.task and dependent(there, step):
                if needed >> place & 1:
                    return None
                dropped |= 1 << place
                if place <= other and self._was_possible(step, place, obj, until):
                    return Race(place, len(self.tasks), step.task, start, dropped)
        return None

    def _was_possible(self, step: Step, place: int, obj: Any, until: Until) -> bool:
        """Whether its task could have taken the next step just before step @place."""
        if until is not None and step.word >= 0:
            accesses = self.accesses[step.word]
            following = bisect_left(accesses, place)
            if following < len(accesses):
                there = accesses[following]
                if self.blocked[there] >> step.task & 1:
                    return False
                if not held_then(until, obj, self.states[there]):
                    return False
            elif self.stuck >> step.task & 1:
                return False
        if step.cpu_kind != INSIDE:
            for earlier in reversed(self.cpu_accesses.get(step.cpu, ())):
                if earlier < place and self.cpu_kinds[earlier]:
                    return self.cpu_kinds[earlier] != ACQUIRES or self.tasks[earlier] == step.task
        return True
