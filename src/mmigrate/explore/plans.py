"""What is planned: the branches of a wakeup tree, and the interleavings that races ask for.

Interface: `insert(branches, wanted)` plans what is wanted behind what is planned already.
`Exported` is what is wanted in words that somebody without the trace understands, `Told` is how he
takes it; `state_of` and `branches_of` make lists of branches, for files and workers, and back.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

from mmigrate.explore.execution import PASSES
from mmigrate.explore.recording import Asleep
from mmigrate.explore.steps import KnownStep, Race, Step, dependent, disturbs
from mmigrate.explore.trace import Trace
from mmigrate.explore.words import name_of


class Starts(Enum):
    """Whether a step can come first in a wanted interleaving: UNWANTED if it is not part of
    it, but disturbs nothing."""

    NO = 0
    YES = 1
    UNWANTED = 2
    UNKNOWN = 3


PlannedStep = tuple[int, KnownStep | None, int]  # its task, the step, what it does to its CPU


class Branch:
    """A planned step of a task, and what is planned behind it.  @awake: tasks with earlier
    branches that must not sleep here, as it is not known whether they cover this one.
    @cpu_kind: what the step does to its CPU.

    Most branches are followed and never looked at.  So one that does not fork is the list of
    its steps, of which each is made a branch when somebody asks for its children.
    """

    __slots__ = ("_behind", "_children", "_row", "awake", "cpu_kind", "known", "task")

    def __init__(
        self,
        task: int,
        known: KnownStep | None = None,
        awake: list[int] | None = None,
        *,
        cpu_kind: int = PASSES,
    ) -> None:
        self.task = task
        self.known = known
        self.awake = [] if awake is None else awake
        self.cpu_kind = cpu_kind
        self._children: list[Branch] | None = []
        # if there are no children yet: a row of steps, and the place of the first of them there
        self._row: list[PlannedStep] = []
        self._behind = 0

    @classmethod
    def of_row(cls, row: list[PlannedStep], place: int = 0) -> Branch:
        """The steps from a place of a row on."""
        task, known, cpu_kind = row[place]
        branch = cls(task, known, cpu_kind=cpu_kind)
        if place + 1 < len(row):
            branch._children = None
            branch._row = row
            branch._behind = place + 1
        return branch

    @property
    def children(self) -> list[Branch]:
        if self._children is None:
            self._children = [Branch.of_row(self._row, self._behind)]
        return self._children

    def leftmost(self) -> list[Branch]:
        """The branches from here to the first leaf."""
        path, here = [self], self
        while here.children:
            here = here.children[0]
            path.append(here)
        return path

    @property
    def forks(self) -> bool:
        """Whether there are several children."""
        return self._children is not None and len(self._children) > 1

    def plan(self) -> tuple[list[int], list[Branch]]:
        """Whose steps the leftmost are; and those of the branches that may fork."""
        path, here = [self], self
        while here._children:
            here = here._children[0]
            path.append(here)
        tasks = [branch.task for branch in path]
        if here._children is None:
            tasks += [task for task, _, _ in here._row[here._behind :]]
        return tasks, path


class Wanted:
    """The interleaving that a race asks for: behind the steps before its first, those that do
    not happen after what is dropped, and its second."""

    def __init__(self, trace: Trace, race: Race, log: list[tuple[Any, Any]]) -> None:
        self.trace = trace
        self.log = log
        self.race = race
        self.first = race.first
        self.second = race.second
        self.second_task = race.task
        self.reached: dict[int, int] = {}  # by task: behind its last step that was taken
        self.unknown: set[int] = set()  # tasks that took another step than in the trace
        self.steps: list[int] = []  # what is left of it, from `lay_out` on
        self._mask = 0  # the same as bits, or 0
        self._needs = 0  # of its second, or 0

    def lay_out(self) -> None:
        """Find its steps, unless that was done."""
        if not self.steps:
            first, second, dropped = self.first, self.second, self.race.dropped
            before = self.trace.before
            self.steps = [
                index
                for index, past in enumerate(before[first + 1 :], first + 1)
                if not past & dropped or index == second
            ]
            if second >= len(before):
                self.steps.append(second)

    @property
    def mask(self) -> int:
        """The steps as bits."""
        if not self._mask:
            self._mask = sum(map((1).__lshift__, self.steps))
        return self._mask

    @property
    def needs(self) -> int:
        """What its second needs: what its task did, and what conflicts with it."""
        if self._needs:
            return self._needs
        trace, start, second = self.trace, self.race.start, self.second
        before = trace.before
        needs = before[start] if start >= 0 else 0
        last = self._step(second)
        if last.cpu in trace.cpu_accesses:
            for index in self.steps:
                if index < second and dependent(trace.step(index), last):
                    needs |= before[index]
        else:
            for index in self._touching(last):
                if index < second:
                    needs |= before[index]
        self._needs = needs
        return needs

    def _touching(self, step: Step) -> list[int]:
        """Which steps, all but the second, touch the word of @step and conflict with it."""
        trace, first, dropped = self.trace, self.first, self.race.dropped
        before = trace.before
        found: list[int] = []
        if step.word >= 0:
            for index in reversed((trace.accesses if step.kind else trace.writes)[step.word]):
                if index <= first:
                    break
                if not before[index] & dropped:
                    found.append(index)
        return found

    def task(self, index: int) -> int:
        return self.second_task if index == self.second else self.trace.tasks[index]

    def _step(self, index: int) -> Step:
        trace = self.trace
        return trace.step(index) if index < len(trace) else trace.pending[self.second_task]

    def covered_by(self, task: int) -> Starts:
        """`starts_with` before anything was taken.  The task's next step mostly tells: all steps
        are looked at only if it is on a CPU that tasks share."""
        trace, first, second = self.trace, self.first, self.second
        index = trace.index_of_next(task, first)
        if index is None:
            return Starts.NO
        taken = index < len(trace.tasks)
        if (trace.cpus[index] if taken else trace.pending[task].cpu) in trace.cpu_accesses:
            self.lay_out()
            return self.starts_with(task)
        if index == second and task == self.second_task:
            return Starts.NO if self.needs >> first + 1 else Starts.YES
        if taken and not trace.before[index] & self.race.dropped:
            # All that happened before it is wanted, too.
            alone = trace.before[index] >> first + 1 == 1 << index - first - 1
            return Starts.YES if alone else Starts.NO
        step = trace.step(index) if taken else trace.pending[task]
        if self._touching(step) or dependent(self._step(second), step):
            return Starts.NO
        return Starts.UNWANTED

    def starts_with(self, task: int, known: KnownStep | None = None) -> Starts:
        """Whether the task's next step could come first here.  @known: what it was when it was
        planned."""
        tasks, second, second_task = self.trace.tasks, self.second, self.second_task
        for place, index in enumerate(self.steps):
            if (second_task if index == second else tasks[index]) == task:
                if not place:
                    return Starts.YES  # what happened before it is in front of it
                past = self.needs if index == second else self.trace.before[index]
                return Starts.NO if past & self.mask & ~(1 << index) else Starts.YES
        if task in self.unknown:
            if known is None:
                return Starts.UNKNOWN
            disturbed = any(disturbs(known, self._known_step(index)) for index in self.steps)
        else:
            step = self.trace.next_of(task, self.reached.get(task, self.first))
            disturbed = step is None or self._disturbed(step)
        return Starts.NO if disturbed else Starts.UNWANTED

    def _disturbed(self, step: Step) -> bool:
        """Whether one of the steps depends on @step, which is another task's."""
        mask = self.mask
        if step.cpu in self.trace.cpu_accesses:
            return any(dependent(self._step(index), step) for index in self.steps)
        if mask >> self.second & 1 and dependent(self._step(self.second), step):
            return True
        return any(mask >> index & 1 for index in self._touching(step))

    def take(self, task: int) -> None:
        """It does come first."""
        for place, index in enumerate(self.steps):
            if self.task(index) == task:
                del self.steps[place]
                if self._mask:
                    self._mask &= ~(1 << index)
                self.reached[task] = index + 1
                return
        self.unknown.add(task)

    def branch(self) -> Branch:
        """A branch for what is left.  What its steps touch matters only if there are more than
        two tasks: otherwise all of them are the other task's."""
        trace, steps = self.trace, self.steps
        tasks, cpu_kinds, length = trace.tasks, trace.cpu_kinds, len(trace.tasks)
        several = len(trace.steps_of) > 2
        taken = steps if steps[-1] < length else steps[:-1]
        row: list[PlannedStep]
        if several:
            row = [(step[2], step, step[6]) for step in trace.known_steps(taken, self.log)]
        else:
            row = [(tasks[index], None, cpu_kinds[index]) for index in taken]
        if len(taken) < len(steps):
            last = self._known_step(steps[-1])
            row.append((last[2], last if several else None, last[6]))
        return Branch.of_row(row)

    def _taken(self) -> Branch:
        """The step that was taken instead."""
        trace, first = self.trace, self.first
        known = self._known(first, trace.tasks[first])
        return Branch(trace.tasks[first], known, cpu_kind=trace.cpu_kinds[first])

    def _known_step(self, index: int) -> KnownStep:
        return self._known(index, self.second_task)

    def _known(self, index: int, task: int) -> KnownStep:
        """@task: whose, if it is behind the last step."""
        trace = self.trace
        if index < len(trace):
            return trace.known_steps([index], self.log)[0]
        obj, field = trace.pending_words[task]
        step = trace.pending[task]
        return (name_of(obj), field, step.task, step.word, step.kind, step.cpu, step.cpu_kind)

    def export(self, asleep: list[Asleep]) -> Exported:
        """All of it, for somebody who does not have the trace."""
        place = {index: number for number, index in enumerate(self.steps)}
        steps = []
        last: dict[int, int] = {}
        for index in self.steps:
            past = self.needs if index == self.second else self.trace.before[index]
            before = sum(1 << place[other] for other in place if past >> other & 1)
            steps.append((self.task(index), self._known_step(index), before))
            last[self.task(index)] = index + 1
        following = {}
        for task in self.trace.all_tasks():
            place_of_next = self.trace.index_of_next(task, last.get(task, self.first))
            if place_of_next is not None:
                following[task] = self._known(place_of_next, task)
        return Exported(
            self.trace.tasks[: self.first],
            {n: sleepers for n, sleepers in enumerate(asleep[: self.first + 1]) if sleepers},
            self._taken(),
            steps,
            following,
        )


@dataclass
class Exported:
    """What a race asks for behind the steps of @tasks, by names.  @asleep: by place, up to
    there.  @taken: the step that was taken there.  @steps: (task, step, which of them happen
    before it, as bits).  @following: what tasks would do next."""

    tasks: list[int]
    asleep: dict[int, Asleep]
    taken: Branch
    steps: list[tuple[int, KnownStep, int]]
    following: dict[int, KnownStep]

    def renumbered(self, now: list[int]) -> Exported:
        taken = copy(self.taken)
        taken.task = now[taken.task]
        return Exported(
            [now[task] for task in self.tasks],
            {
                place: {now[task]: kind for task, kind in sleepers.items()}
                for place, sleepers in self.asleep.items()
            },
            taken,
            [(now[task], step, before) for task, step, before in self.steps],
            {now[task]: step for task, step in self.following.items()},
        )


class Told:
    """An exported `Wanted`."""

    def __init__(self, exported: Exported) -> None:
        self.told = exported
        self.steps = list(range(len(exported.steps)))
        self.mask = (1 << len(self.steps)) - 1
        self.unknown: set[int] = set()

    def saved(self) -> list[Any]:
        told = self.told
        return [
            [[task, step, before] for task, step, before in told.steps],
            dict(told.following),
            self.steps,
            sorted(self.unknown),
        ]

    @classmethod
    def loaded(cls, saved: list[Any]) -> Told:
        steps, following, left, unknown = saved
        told = cls(
            Exported(
                [],
                {},
                Branch(0),
                [(task, loaded_step(step), before) for task, step, before in steps],
                {int(task): loaded_step(step) for task, step in following.items()},
            )
        )
        told.steps = left
        told.mask = sum(1 << index for index in left)
        told.unknown = set(unknown)
        return told

    def starts_with(self, task: int, known: KnownStep | None = None) -> Starts:
        told = self.told
        for index in self.steps:
            if told.steps[index][0] == task:
                past = told.steps[index][2]
                return Starts.NO if past & self.mask & ~(1 << index) else Starts.YES
        step = known if task in self.unknown else told.following.get(task)
        if step is None:
            return Starts.UNKNOWN if task in self.unknown else Starts.NO
        disturbed = any(disturbs(step, told.steps[index][1]) for index in self.steps)
        return Starts.NO if disturbed else Starts.UNWANTED

    def take(self, task: int) -> None:
        for index in self.steps:
            if self.told.steps[index][0] == task:
                self.steps.remove(index)
                self.mask &= ~(1 << index)
                return
        self.unknown.add(task)

    def branch(self) -> Branch:
        steps = [self.told.steps[index] for index in self.steps]
        return Branch.of_row([(task, step, step[6]) for task, step, _ in steps])


def insert(branches: list[Branch], wanted: Wanted | Told) -> None:
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


def state_of(branches: list[Branch]) -> list[Any]:
    """Branches as lists: the steps of each up to where it forks, and what follows."""
    saved = []
    for branch in branches:
        steps = [branch]
        while len(steps[-1].children) == 1:
            steps.append(steps[-1].children[0])
        saved.append([[_saved(step) for step in steps], state_of(steps[-1].children)])
    return saved


def _saved(branch: Branch) -> list[Any]:
    return [branch.task, branch.known, branch.awake, branch.cpu_kind]


def loaded_step(saved: list[Any]) -> KnownStep:
    name, field, task, word, kind, cpu, cpu_kind = saved
    return (name, field, task, word, kind, cpu, cpu_kind)


def branches_of(saved: list[Any]) -> list[Branch]:
    branches = []
    for steps, children in saved:
        chain = [
            Branch(task, loaded_step(known) if known else None, awake, cpu_kind=cpu_kind)
            for task, known, awake, cpu_kind in steps
        ]
        for branch, following in pairwise(chain):
            branch.children.append(following)
        chain[-1].children.extend(branches_of(children))
        branches.append(chain[0])
    return branches
