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
from typing import Any, Final, NamedTuple

from mmigrate.explore.execution import ACQUIRES, INSIDE, PASSES, RELEASES, Execution
from mmigrate.explore.states import held_then
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel.rwsem import RwSemaphore
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


class Pending(NamedTuple):
    """What an unfinished task was about to do.  @state: of its object.  @cpu_kind: INSIDE if
    the task holds its CPU."""

    task: int
    access: tuple[Any, Any, int]
    until: Until
    state: Any
    cpu: int
    cpu_kind: int


@dataclass(slots=True)
class NewSteps:
    """What an execution did behind the steps that were known, by step, and how it ended.

    @waits: the condition that the step had to wait for.  @states: of its object, just before.
    @blocked: by step, the tasks that then waited for its word.  @sleep: by step, the tasks
    that need not go first there, and what they do to their CPU.  @pending: what the
    unfinished tasks would have done; @stuck: those whose condition does not hold.
    """

    tasks: list[int] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    cpu_kinds: list[int] = field(default_factory=list)
    waits: list[Until] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    blocked: dict[int, int] = field(default_factory=dict)
    sleep: list[dict[int, int]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
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


class Kept:
    """The steps that are neither dropped nor happened after something that is."""

    __slots__ = ("_before", "_dropped", "first")

    def __init__(self, before: list[int], dropped: int) -> None:
        self._before = before
        self._dropped = dropped
        self.first = (dropped & -dropped).bit_length() - 1

    def __contains__(self, index: int) -> bool:
        return not self._before[index] & self._dropped


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
        self.pending_words: dict[int, tuple[Any, Any]] = {}
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
            taken = self.steps_of[self.tasks[index]]
            taken.pop()
            if not taken:
                del self.steps_of[self.tasks[index]]
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
        own = [sum(1 << index for index in taken) for _, taken in sorted(self.steps_of.items())]
        return frozenset(
            (task, *((here & mine).bit_count() for mine in own))
            for task, here in zip(self.tasks, self.before, strict=True)
        )

    def next_of(self, task: int, index: int) -> Step | None:
        """What @task did, or would have done, first from step @index on."""
        taken = self.steps_of.get(task, ())
        place = bisect_left(taken, index)
        return self.step(taken[place]) if place < len(taken) else self.pending.get(task)

    def index_of_next(self, task: int, index: int) -> int | None:
        """The same as an index, which is behind the last step if it was not taken."""
        taken = self.steps_of.get(task, ())
        place = bisect_left(taken, index)
        if place < len(taken):
            return taken[place]
        return len(self.tasks) if task in self.pending else None

    def all_tasks(self) -> set[int]:
        return self.steps_of.keys() | self.pending.keys()

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
            here, found = self._place(step, key, new.states[offset], new.waits[offset])
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
        for pending in new.pending:
            obj, name, kind = pending.access
            word = numbers.get((obj, name), NOBODY - 1 - pending.task)  # nobody has touched it
            step = Step(pending.task, word, kind, pending.cpu, pending.cpu_kind)
            self.pending[pending.task] = step
            self.pending_words[pending.task] = (obj, name)
            races += self._place(step, (obj, name), pending.state, pending.until)[1]
        self.stuck = 0
        return races

    def _shares_cpu(self, step: Step) -> bool:
        others = self.cpu_tasks.get(step.cpu, 0) & ~(1 << step.task)
        return others != 0 and step.cpu_kind != INSIDE

    def _place(
        self, step: Step, key: tuple[Any, Any], now: Any, until: Until
    ) -> tuple[int, list[Race]]:
        """What happened before a step that comes next, and with which steps it races."""
        mine = self.steps_of.get(step.task)
        start = mine[-1] if mine else self.created_at[step.task]
        past = self.before[start] if start >= 0 else 0
        barrier = self.barriers[-1]
        if start < barrier:
            past |= (1 << barrier) - 1
            start = barrier - 1
        if key[1] == "finished" and isinstance(key[0], Task):
            past |= self._whole_of(key[0])
            if self.stuck >> step.task & 1:
                return past, []  # nothing that goes first ends what it waits for
        shares = self._shares_cpu(step)
        candidates = list(self._conflicting(step))
        if shares:
            candidates = sorted({*candidates, *self._conflicting_on_cpu(step)}, reverse=True)
        races = []
        needed = past
        for other in candidates:
            if not past >> other & 1:
                past |= self.before[other]
                if until is not None or shares:
                    race = self._reversal(step, other, (start, needed), key[0], now, until)
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

    def _reversal(
        self,
        step: Step,
        other: int,
        origin: tuple[int, int],
        obj: Any,
        now: Any,
        until: Until,
    ) -> Race | None:
        """How @step, which comes next, could come before @other.  @origin: where its task was,
        and all that it needs.  @obj: what it touches, in state @now.

        What kept it from being taken there is dropped too, until nothing does. None if
        something that its task needs would have to go.
        """
        start, needed = origin
        dropped = 0
        blocker = other
        while blocker != NOBODY:
            if needed >> blocker & 1 or blocker < self.barriers[-1]:
                return None
            dropped |= 1 << blocker
            kept = Kept(self.before, dropped)
            blocker = self._cpu_holder(step, kept)
            if blocker == NOBODY and until is not None and step.word >= 0:
                if step.kind and type(obj) is RwSemaphore:
                    blocker = self._holder(step, kept, now)
                elif not self._was_possible(step, kept, obj, until):
                    blocker = self._last_write(step, kept)
                    if blocker == NOBODY:
                        return None
        return Race(kept.first, len(self.tasks), step.task, start, dropped)

    def _cpu_holder(self, step: Step, kept: Kept) -> int:
        """The step by which another task took the CPU without giving it back, if one did."""
        holder = NOBODY
        if step.cpu_kind != INSIDE:
            for index in self.cpu_accesses.get(step.cpu, ()):
                kind = self.cpu_kinds[index]
                if kind and index in kept and self.tasks[index] != step.task:
                    if kind == ACQUIRES:
                        holder = index
                    elif kind == RELEASES:
                        holder = NOBODY
        return holder

    def _holder(self, step: Step, kept: Kept, now: Any) -> int:
        """The step by which somebody took a semaphore, whose state is @now, without giving it
        back, if somebody did."""
        accesses = self.accesses[step.word]
        changes = self._changes(accesses, now)
        took: dict[int, list[int]] = {}
        for index in accesses:
            if changes[index] and index in kept:
                mine = took.setdefault(self.tasks[index], [])
                if changes[index] > 0:
                    mine.append(index)
                elif mine:
                    mine.pop()
        return max((mine[-1] for mine in took.values() if mine), default=NOBODY)

    def _was_possible(self, step: Step, kept: Kept, obj: Any, until: Callable[[], bool]) -> bool:
        """Whether a condition on @obj held behind the steps that are kept.  Writes of a word
        are in one order, so that is just before the first write that is not."""
        for index in self.accesses[step.word]:
            if self.kinds[index] and index not in kept:
                waited = self.blocked[index] >> step.task & 1
                return not waited and held_then(until, obj, self.states[index])
        return not self.stuck >> step.task & 1

    def _last_write(self, step: Step, kept: Kept) -> int:
        accesses = reversed(self.accesses[step.word])
        return next((n for n in accesses if self.kinds[n] and n in kept), NOBODY)

    def _changes(self, accesses: list[int], now: Any) -> dict[int, int]:
        """By access: 1 if it took the semaphore, -1 if it gave it back, 0 if it only looked."""
        states = [*(self.states[index] for index in accesses), now]
        holders = [readers + (writer is not None) for readers, writer in states]
        return {index: holders[n + 1] - holders[n] for n, index in enumerate(accesses)}
