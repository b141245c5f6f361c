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
from operator import sub
from typing import Any, Final

from mmigrate.explore.execution import ACQUIRES, INSIDE, PASSES, RELEASES, Execution
from mmigrate.explore.states import held_then
from mmigrate.explore.steps import KnownStep, NewSteps, Race, Step, Until
from mmigrate.explore.words import name_of
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel.rwsem import RwSemaphore
from mmigrate.linux.kernel.sched import READ

NOBODY: Final = -1
SEVERAL: Final = -2  # tasks use a word
OF_TASKS: Final = -3  # a word that is written by the end of a task


def _cut(steps: list[int], length: int) -> None:
    del steps[bisect_left(steps, length) :]


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
        self.states: list[Any] = []  # of its object, just before it
        # by step: the tasks that waited, just before it, for its word to change
        self.blocked: dict[int, int] = {}
        # by word
        self.accesses: list[list[int]] = []  # its steps
        self.writes: list[list[int]] = []  # those that write
        self.first: list[int] = []  # the first of them
        self.user: list[int] = []  # the task that alone took steps on it, or SEVERAL
        self.names: list[str] = []  # what its object is called, or "" before anybody asks
        self.steps_of: dict[int, list[int]] = {}  # by task
        # rows of steps of one task: whose, and the first; a step that creates a task ends one
        self.row_tasks: list[int] = []
        self.row_starts: list[int] = []
        self.cpu_tasks: dict[int, int] = {}  # by CPU: the tasks that took steps there
        # by CPU, if several tasks did: the steps that are not INSIDE
        self.cpu_accesses: dict[int, list[int]] = {}
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

    def known_steps(self, steps: list[int], log: list[tuple[Any, Any]]) -> list[KnownStep]:
        """Steps as somebody knows them who has another trace."""
        names, words = self.names, self.words
        for index in steps:
            if not names[words[index]]:
                names[words[index]] = name_of(log[index][0])
        return [
            (
                names[words[index]],
                log[index][1],
                self.tasks[index],
                words[index],
                self.kinds[index],
                self.cpus[index],
                self.cpu_kinds[index],
            )
            for index in steps
        ]

    def cut(self, length: int) -> None:
        """Forget all steps from @length on."""
        accesses, writes = self.accesses, self.writes
        _cut(self.first, length)
        words = len(self.first)
        del accesses[words:], writes[words:], self.user[words:], self.names[words:]
        for word, kind in zip(self.words[length:], self.kinds[length:], strict=True):
            if word < words:
                accesses[word].pop()
                if kind:
                    writes[word].pop()
        _cut(self.row_starts, length)
        del self.row_tasks[len(self.row_starts) :]
        for task in set(self.tasks[length:]):
            taken = self.steps_of[task]
            _cut(taken, length)
            if not taken:
                del self.steps_of[task]
        for taken in self.cpu_accesses.values():
            _cut(taken, length)
        if self.blocked:
            self.blocked = {n: tasks for n, tasks in self.blocked.items() if n < length}
        for column in (
            self.tasks,
            self.words,
            self.kinds,
            self.cpus,
            self.cpu_kinds,
            self.before,
            self.states,
        ):
            del column[length:]

    def rows(self) -> list[tuple[int, int]]:
        """The steps, as (task, how many in a row).  A step that created a task ends a row, so
        that the new task is brought to its first access at the same place."""
        ends = [*self.row_starts[1:], len(self.tasks)]
        counts = map(sub, ends, self.row_starts)
        return list(zip(self.row_tasks, counts, strict=True))

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
        """Add the steps of @run behind those known already; the races of the new ones.

        Only steps on words that several tasks touched, or on a CPU that they share, can race:
        what happened before all others is what happened before the last step of their task.
        """
        known, log = len(self.tasks), run.log
        self.created_at = run.created_at
        created = self.created_at.values()
        self.barriers = run.barriers
        barrier = run.barriers[-1] if run.barriers else 0
        if new.blocked:
            self.blocked.update(new.blocked)
        self.kinds += run.kinds[known:]
        self.cpu_kinds += new.cpu_kinds
        self.states += new.states
        numbers: dict[tuple[Any, Any], int] = {
            log[here]: word for word, here in enumerate(self.first)
        }
        accesses, writes, user = self.accesses, self.writes, self.user
        before, words, kinds = self.before, self.words, self.kinds
        cpu_kinds, cpu_tasks, waits = self.cpu_kinds, self.cpu_tasks, new.waits
        races: list[Race] = []
        index = known
        for task, cpu, count in new.rows:
            mine = self.steps_of.setdefault(task, [])
            if mine and mine[-1] >= barrier:
                past = before[start := mine[-1]]
            else:
                start, past = self._start(task)
            if not self.row_tasks or self.row_tasks[-1] != task or index - 1 in created:
                self.row_tasks.append(task)
                self.row_starts.append(index)
            shared_cpu = cpu_tasks.get(cpu) != 1 << task and self._shared(cpu, task)
            places = range(index, index + count)
            index += count
            self.tasks += [task] * count
            self.cpus += [cpu] * count
            mine += places
            for here in places:
                key = log[here]
                kind = kinds[here]
                word = numbers.get(key, NOBODY)
                if word == NOBODY:
                    word = numbers[key] = len(accesses)
                    accesses.append([])
                    writes.append([])
                    self.first.append(here)
                    user.append(OF_TASKS if key[1] == "finished" else task)
                    self.names.append("")
                words.append(word)
                whose = user[word]
                if shared_cpu and cpu_kinds[here] != INSIDE:
                    past, found = self._place(
                        here, self.step(here), key, waits.get(here), (start, past)
                    )
                    races += found
                    self.cpu_accesses[cpu].append(here)
                    if whose != task and whose != OF_TASKS:
                        user[word] = SEVERAL
                elif whose == task:
                    pass
                elif here in waits or whose == OF_TASKS:
                    past, found = self._place(
                        here, self.step(here), key, waits.get(here), (start, past)
                    )
                    races += found
                    if whose != OF_TASKS:
                        user[word] = SEVERAL
                else:
                    user[word] = SEVERAL
                    for other in self._conflicting(word, kind):
                        if not past >> other & 1:
                            past |= before[other]
                            races.append(Race(other, here, task, start, 1 << other))
                accesses[word].append(here)
                if kind:
                    writes[word].append(here)
                past |= 1 << here
                before.append(past)
                start = here
        self.pending = {}
        if new.pending:
            races += self._races_of_pending(new, numbers)
        return races

    def _start(self, task: int) -> tuple[int, int]:
        """The last step that the next one of a task needs, and all that happened before."""
        mine = self.steps_of.get(task)
        start = mine[-1] if mine else self.created_at[task]
        past = self.before[start] if start >= 0 else 0
        barrier = self.barriers[-1]
        if start < barrier:
            past |= (1 << barrier) - 1
            start = barrier - 1
        return start, past

    def _shared(self, cpu: int, task: int) -> bool:
        """Whether other tasks than @task have taken steps on a CPU; now it has."""
        tasks = self.cpu_tasks.get(cpu, 0)
        self.cpu_tasks[cpu] = tasks | 1 << task
        if not tasks & ~(1 << task):
            return False
        if cpu not in self.cpu_accesses:
            self.cpu_accesses[cpu] = [
                index
                for index, (there, kind) in enumerate(zip(self.cpus, self.cpu_kinds, strict=False))
                if there == cpu and kind != INSIDE
            ]
        return True

    def _races_of_pending(self, new: NewSteps, numbers: dict[tuple[Any, Any], int]) -> list[Race]:
        """What the unfinished tasks would have done takes part, as if it came last."""
        self.stuck = new.stuck
        races: list[Race] = []
        for pending in new.pending:
            obj, name, kind = pending.access
            word = numbers.get((obj, name), NOBODY - 1 - pending.task)  # nobody has touched it
            step = Step(pending.task, word, kind, pending.cpu, pending.cpu_kind)
            self.pending[pending.task] = step
            self._shared(pending.cpu, pending.task)
            self.pending_words[pending.task] = (obj, name)
            races += self._place(
                len(self.tasks),
                step,
                (obj, name),
                pending.until,
                self._start(pending.task),
                pending.state,
            )[1]
        self.stuck = 0
        return races

    def _place(
        self,
        index: int,
        step: Step,
        key: tuple[Any, Any],
        until: Until,
        origin: tuple[int, int],
        now: Any = NOBODY,
    ) -> tuple[int, list[Race]]:
        """What happened before a step that comes next, and with which steps it races.  @origin:
        where its task was, and all that happened before that.  @now: the state of its object,
        if the step has not been taken."""
        start, past = origin
        if key[1] == "finished" and isinstance(key[0], Task):
            past |= self._whole_of(key[0])
            if self.stuck >> step.task & 1:
                return past, []  # nothing that goes first ends what it waits for
        others = self.cpu_tasks.get(step.cpu, 0) & ~(1 << step.task)
        shares = others != 0 and step.cpu_kind != INSIDE
        candidates = self._conflicting(step.word, step.kind) if step.word >= 0 else []
        if shares:
            candidates = sorted({*candidates, *self._conflicting_on_cpu(step)}, reverse=True)
        races: list[Race] = []
        needed = past
        for other in candidates:
            if not past >> other & 1:
                past |= self.before[other]
                if until is not None or shares:
                    state = self.states[index] if now is NOBODY else now
                    races += self._reversals(index, step, other, (start, needed), key, state, until)
                else:
                    races.append(Race(other, index, step.task, start, 1 << other))
        return past, races

    def _whole_of(self, worker: Task) -> int:
        """All that a finished task did."""
        taken = self.steps_of.get(worker.index)
        if taken:
            return self.before[taken[-1]]
        created = self.created_at[worker.index]
        return self.before[created] if created >= 0 else 0

    def _conflicting(self, word: int, kind: int) -> list[int]:
        """Steps on a word that the next one depends on, the latest first, back to the last
        write; all others happened before that."""
        written = self.writes[word]
        if kind == READ:
            return written[-1:]
        accesses = self.accesses[word]
        if not written:
            return accesses[::-1]
        if accesses[-1] == written[-1]:
            return written[-1:]
        return accesses[bisect_left(accesses, written[-1]) :][::-1]

    def _conflicting_on_cpu(self, step: Step) -> Iterator[int]:
        kinds = self.cpu_kinds
        if step.cpu_kind == PASSES:
            for index in reversed(self.cpu_accesses.get(step.cpu, ())):
                if kinds[index]:
                    yield index
                    return
        else:
            for index in reversed(self.cpu_accesses.get(step.cpu, ())):
                yield index
                if kinds[index]:
                    return

    # --- races that can be turned round ---

    def _reversals(
        self,
        index: int,
        step: Step,
        other: int,
        origin: tuple[int, int],
        key: tuple[Any, Any],
        now: Any,
        until: Until,
    ) -> Iterator[Race]:
        """How @step, which comes next, could come before @other.  @origin: where its task was,
        and all that it needs.  @key: what it touches, in state @now.

        What kept it from being taken there is dropped too, until nothing does. Where that cannot
        be said, because its condition looks at more than its word, both are tried. None at all
        if something that its task needs would have to go.
        """
        start, needed = origin
        dropped = 0
        blocker = other
        while blocker != NOBODY:
            if needed >> blocker & 1 or blocker < self.barriers[-1]:
                return
            dropped |= 1 << blocker
            kept = Kept(self.before, dropped)
            blocker = self._cpu_holder(step, kept)
            if blocker == NOBODY and until is not None and step.word >= 0:
                if step.kind and type(key[0]) is RwSemaphore:
                    blocker = self._holder(step, kept, now)
                else:
                    possible = self._was_possible(step, kept, key, until)
                    if not possible:
                        blocker = self._last_write(step, kept)
                        if possible is None and blocker != NOBODY:
                            yield Race(kept.first, index, step.task, start, dropped)
                        elif possible is False and blocker == NOBODY:
                            return
        yield Race(kept.first, index, step.task, start, dropped)

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

    def _was_possible(
        self, step: Step, kept: Kept, key: tuple[Any, Any], until: Callable[[], bool]
    ) -> bool | None:
        """Whether a condition on a word held behind the steps that are kept; None if that is not
        known.  Writes of a word are in one order, so that is just before the first write that is
        not."""
        for index in self.writes[step.word]:
            if index not in kept:
                if self.blocked.get(index, 0) >> step.task & 1:
                    return False
                return held_then(until, *key, self.states[index])
        return not self.stuck >> step.task & 1

    def _last_write(self, step: Step, kept: Kept) -> int:
        return next((n for n in reversed(self.writes[step.word]) if n in kept), NOBODY)

    def _changes(self, accesses: list[int], now: Any) -> dict[int, int]:
        """By access: 1 if it took the semaphore, -1 if it gave it back, 0 if it only looked."""
        states = [*(self.states[index] for index in accesses), now]
        holders = [readers + (writer is not None) for readers, writer in states]
        return {index: holders[n + 1] - holders[n] for n, index in enumerate(accesses)}
