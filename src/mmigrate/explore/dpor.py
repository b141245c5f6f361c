"""Optimal dynamic partial-order reduction: one execution for each class of interleavings.

Interleavings that differ only in the order of independent steps are equivalent; one of each
class is run. Before a step that raced with a later one, the interleaving in which the later
one comes first is planned as a branch of a *wakeup tree*; what has been explored from a place
goes to sleep there, until a step that depends on it wakes it.

Words of the papers: source sets, sleep sets, wakeup trees, weak initials (Abdulla, Aronis, Jonsson,
Sagonas, JACM 2017). A race is planned once, with the rest of the execution in which it was
first seen; only one that a sleeping task hides is looked at again with other rests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from mmigrate.explore.execution import Indices
from mmigrate.explore.recording import Asleep, Recording
from mmigrate.explore.trace import Race, Step, Trace, dependent
from mmigrate.linux.include.sched import Task


class Starts(Enum):
    """Whether a step can come first in a wanted interleaving: UNWANTED if it is not part of
    it, but disturbs nothing."""

    NO = 0
    YES = 1
    UNWANTED = 2
    UNKNOWN = 3


class KnownStep(NamedTuple):
    """A step of another execution: its object by name."""

    name: str
    field: Any
    step: Step

    def disturbs(self, other: KnownStep) -> bool:
        mine, its = self.step, other.step
        if self.name == other.name and self.field == other.field and (mine.kind or its.kind):
            return True
        return dependent(
            Step(mine.task, 0, mine.kind, mine.cpu, mine.cpu_kind),
            Step(its.task, 1, its.kind, its.cpu, its.cpu_kind),
        )


@dataclass(slots=True)
class Branch:
    """A planned step of a task, and what is planned behind it.  @awake: tasks with earlier
    branches that must not sleep here, as it is not known whether they cover this one."""

    task: int
    known: KnownStep | None = None
    children: list[Branch] = field(default_factory=list)
    awake: list[int] = field(default_factory=list)

    def leftmost(self) -> list[Branch]:
        """The branches from here to the first leaf."""
        path, here = [self], self
        while here.children:
            here = here.children[0]
            path.append(here)
        return path


class Guided(Recording):
    """Repeats a prefix, follows a plan, and then goes on with as few switches as possible."""

    def __init__(
        self,
        indices: Indices,
        max_steps: int,
        prefix: list[tuple[int, int]],
        plan: list[int],
        asleep: Asleep,
        *,
        keep_going: bool = False,
    ) -> None:
        super().__init__(indices, max_steps, prefix, keep_going=keep_going)
        self.plan = plan
        self.asleep = asleep
        self.diverged = False
        self._planned = 0

    def choose(self, me: Task | None) -> Task | None:
        if self._planned < len(self.plan):
            planned = self.tasks.get(self.plan[self._planned])
            self._planned += 1
            if planned is not None and not planned.finished and self.may_run(planned):
                return planned
            self.diverged = True
            self._planned = len(self.plan)
        asleep = self.asleep
        if me is not None and me.index not in asleep and self.may_run(me):
            return me
        rest = False
        for task in self.scheduler.alive:
            if self.may_run(task):
                if task.index not in asleep:
                    return task
                rest = True
        if rest:
            self.give_up()
        else:
            self.stuck()
        return None


class Wanted:
    """The interleaving that a race asks for: behind the steps before its first, those that do
    not happen after what is dropped, and its second."""

    def __init__(self, trace: Trace, race: Race, log: list[tuple[Any, Any]]) -> None:
        self.trace = trace
        self.log = log
        self.first = race.first
        before, dropped = trace.before, race.dropped
        self.steps = [
            index
            for index in range(race.first + 1, len(before))
            if index == race.second or not before[index] & dropped
        ]
        if race.second >= len(before):
            self.steps.append(race.second)
        self.second = race.second
        self.second_task = race.task
        self.mask = sum(1 << index for index in self.steps)
        self.reached: dict[int, int] = {}  # by task: behind its last step that was taken
        self.unknown: set[int] = set()  # tasks that took another step than in the trace
        # what the second step needs here: what its task did, and what conflicts with it
        needs = before[race.start] if race.start >= 0 else 0
        last = self._step(race.second)
        for index in self.steps:
            if index >= race.second:
                break
            if dependent(trace.step(index), last):
                needs |= before[index]
        self.needs = needs

    def task(self, index: int) -> int:
        return self.second_task if index == self.second else self.trace.tasks[index]

    def _step(self, index: int) -> Step:
        trace = self.trace
        return trace.step(index) if index < len(trace) else trace.pending[self.second_task]

    def starts_with(self, task: int, known: KnownStep | None = None) -> Starts:
        """Whether the task's next step could come first here.  @known: what it was when it was
        planned."""
        for index in self.steps:
            if self.task(index) == task:
                past = self.needs if index == self.second else self.trace.before[index]
                return Starts.NO if past & self.mask & ~(1 << index) else Starts.YES
        if task in self.unknown:
            if known is None:
                return Starts.UNKNOWN
            disturbed = any(known.disturbs(self._known_step(index)) for index in self.steps)
        else:
            step = self.trace.next_of(task, self.reached.get(task, self.first))
            disturbed = step is None or any(
                dependent(self._step(index), step) for index in self.steps
            )
        return Starts.NO if disturbed else Starts.UNWANTED

    def take(self, task: int) -> None:
        """It does come first."""
        for index in self.steps:
            if self.task(index) == task:
                self.steps.remove(index)
                self.mask &= ~(1 << index)
                self.reached[task] = index + 1
                return
        self.unknown.add(task)

    def branch(self) -> Branch:
        """A branch for what is left.  What its steps touch matters only if there are more than
        two tasks: otherwise all of them are the other task's."""
        named = len(self.trace.steps_of) > 2
        first = here = self._branch(self.steps[0], named)
        for index in self.steps[1:]:
            following = self._branch(index, named)
            here.children.append(following)
            here = following
        return first

    def _branch(self, index: int, named: bool) -> Branch:
        return Branch(self.task(index), self._known_step(index) if named else None)

    def _known_step(self, index: int) -> KnownStep:
        if index < len(self.log):
            obj, field = self.log[index]
        else:
            obj, field = self.trace.pending_words[self.second_task]
        return KnownStep(repr(obj), field, self._step(index))


def insert(branches: list[Branch], wanted: Wanted) -> None:
    """Plan what is wanted behind what is planned, unless some branch leads there already."""
    while True:
        awake = []
        for branch in branches:
            starts = wanted.starts_with(branch.task, branch.known)
            if starts is Starts.YES or starts is Starts.UNWANTED:
                wanted.take(branch.task)
                if not branch.children or not wanted.steps:
                    return
                branches = branch.children
                break
            if starts is Starts.UNKNOWN:
                awake.append(branch.task)
        else:
            planned = wanted.branch()
            planned.awake = awake
            branches.append(planned)
            return


class Optimal:
    """The search: a stack of steps, with who is asleep and what is planned before each."""

    def __init__(self) -> None:
        self.indices = Indices()
        self.trace = Trace()
        self.asleep: list[Asleep] = []
        self.planned: list[list[Branch]] = []
        self.hidden: list[Race] = []  # races that a sleeping task hid, to be looked at again
        self.diverged = 0
        self.ended = False
        # the next execution: what it is to do behind the trace
        self._path: list[Branch] = []
        self._others: list[Branch] = []  # planned at the same place, for later
        self._asleep: Asleep = {}

    def next_execution(self, max_steps: int, *, keep_going: bool = False) -> Guided | None:
        """The next one to be run; None when nothing is left."""
        if self.ended:
            return None
        return Guided(
            self.indices,
            max_steps,
            runs_of(self.trace),
            [branch.task for branch in self._path],
            self._asleep,
            keep_going=keep_going,
        )

    def learn(self, run: Guided) -> None:
        """Take in what an execution did, and find the next."""
        self.take_in(run)
        self.backtrack()

    def take_in(self, run: Guided) -> None:
        """Add its steps to the stack, and plan what its races ask for."""
        known = len(self.trace)
        run.must_have_repeated()
        self.diverged += run.diverged
        races = self.trace.extend(run, run.new)
        self.asleep += run.new.sleep
        self.planned += [[] for _ in run.new.tasks]
        if len(self.planned) > known:
            self.planned[known] = self._others
        for place, branch in enumerate(self._path[:-1], known + 1):
            if place < len(self.planned):
                self.planned[place] = branch.children[1:]
        again, self.hidden = self.hidden, []
        for race in again + races:
            self._plan(race, run.log)

    def _plan(self, race: Race, log: list[tuple[Any, Any]]) -> None:
        """Plan the interleaving in which the second step of a race comes first."""
        wanted = Wanted(self.trace, race, log)
        for task in self.asleep[race.first]:
            starts = wanted.starts_with(task)
            if starts is Starts.YES:
                return  # it has been explored
            if starts is Starts.UNWANTED:
                self.hidden.append(race)
                return
        insert(self.planned[race.first], wanted)

    def backtrack(self) -> None:
        """Go back to the last place where something is planned."""
        for place in range(len(self.trace) - 1, -1, -1):
            if self.planned[place]:
                taken = self.trace.step(place)
                self._asleep = {**self.asleep[place], taken.task: taken.cpu_kind}
                branch, *self._others = self.planned[place]
                for task in branch.awake:
                    self._asleep.pop(task, None)
                self._path = branch.leftmost()
                self.trace.cut(place)
                del self.asleep[place:], self.planned[place:]
                self.hidden = [race for race in self.hidden if race.second < place]
                return
        self.ended = True


def runs_of(trace: Trace) -> list[tuple[int, int]]:
    """The steps of a trace as (task, how many in a row).  A step that created a task ends a
    row, so that the new task is brought to its first access at the same place."""
    ends = {index for index in trace.created_at.values() if index >= 0}
    runs: list[tuple[int, int]] = []
    count = 0
    tasks = trace.tasks
    for index, task in enumerate(tasks):
        count += 1
        if index + 1 == len(tasks) or tasks[index + 1] != task or index in ends:
            runs.append((task, count))
            count = 0
    return runs
