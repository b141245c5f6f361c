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

from dataclasses import astuple, dataclass, field, replace
from enum import Enum
from itertools import pairwise
from typing import Any, NamedTuple

from mmigrate.errors import ScenarioError
from mmigrate.explore.execution import PASSES, Indices
from mmigrate.explore.recording import Asleep, Recording
from mmigrate.explore.target import Target
from mmigrate.explore.trace import Race, Step, Trace, dependent
from mmigrate.explore.words import name_of
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
    cpu_kind: int = PASSES  # what the step does to its CPU

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
        known_kinds: list[int],
        plan: list[int],
        asleep: Asleep,
        *,
        keep_going: bool = False,
    ) -> None:
        super().__init__(indices, max_steps, prefix, known_kinds, keep_going=keep_going)
        self.plan = plan
        self.asleep = asleep
        self._begin = len(known_kinds)  # of the plan
        self._end = self._begin + len(plan)

    def choose(self, me: Task | None) -> Task | None:
        index = len(self.log)
        if index < self._end:
            position = index - self._begin
            number = self.plan[position]
            planned = self.tasks.get(number)
            if planned is not None and not planned.finished and self.may_run(planned):
                more = 0
                while index + more + 1 < self._end and self.plan[position + more + 1] == number:
                    more += 1
                self.more = more
                return planned
            self.diverged = True
            self._end = index
        asleep = self.asleep
        if me is not None and me.index not in asleep and self.may_run(me):
            self.more = self.max_steps - index - 1
            return me
        rest = False
        for task in self.scheduler.alive:
            if self.may_run(task):
                if task.index not in asleep:
                    self.more = self.max_steps - index - 1
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
            for index, past in enumerate(before[race.first + 1 :], race.first + 1)
            if not past & dropped or index == race.second
        ]
        if race.second >= len(before):
            self.steps.append(race.second)
        self.second = race.second
        self.second_task = race.task
        self.mask = sum(map((1).__lshift__, self.steps))
        self.reached: dict[int, int] = {}  # by task: behind its last step that was taken
        self.unknown: set[int] = set()  # tasks that took another step than in the trace
        # what the second step needs here: what its task did, and what conflicts with it
        needs = before[race.start] if race.start >= 0 else 0
        last = self._step(race.second)
        if last.cpu in trace.cpu_accesses:
            for index in self.steps:
                if index < race.second and dependent(trace.step(index), last):
                    needs |= before[index]
        elif last.word >= 0:
            for index in (trace.accesses if last.kind else trace.writes)[last.word]:
                if index < race.second and self.mask >> index & 1:
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
        branch = Branch(self.task(index), self._known_step(index) if named else None)
        branch.cpu_kind = self._step(index).cpu_kind
        return branch

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
            return KnownStep(name_of(self.log[index][0]), self.log[index][1], trace.step(index))
        obj, field = trace.pending_words[task]
        return KnownStep(name_of(obj), field, trace.pending[task])

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
        return Exported(
            [now[task] for task in self.tasks],
            {
                place: {now[task]: kind for task, kind in sleepers.items()}
                for place, sleepers in self.asleep.items()
            },
            replace(self.taken, task=now[self.taken.task]),
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
            [[task, saved_step(step), before] for task, step, before in told.steps],
            {task: saved_step(step) for task, step in told.following.items()},
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
        disturbed = any(step.disturbs(told.steps[index][1]) for index in self.steps)
        return Starts.NO if disturbed else Starts.UNWANTED

    def take(self, task: int) -> None:
        for index in self.steps:
            if self.told.steps[index][0] == task:
                self.steps.remove(index)
                self.mask &= ~(1 << index)
                return
        self.unknown.add(task)

    def branch(self) -> Branch:
        branches = []
        for index in self.steps:
            task, step, _ = self.told.steps[index]
            branches.append(Branch(task, step, cpu_kind=step.step.cpu_kind))
        for branch, following in pairwise(branches):
            branch.children.append(following)
        return branches[0]


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


class Optimal:
    """The search: a stack of steps, with who is asleep and what is planned before each."""

    name = "dpor"
    complete = True

    def __init__(self) -> None:
        self.indices = Indices()
        self.trace = Trace()
        self.asleep: list[Asleep] = []
        self.planned: list[list[Branch]] = []
        self.explored: list[int] = []  # by step: how many branches are done there
        self.hidden: list[Race] = []  # races that a sleeping task hid, to be looked at again
        self.diverged = 0
        self.ended = False
        self.floor = 0  # what is planned before it is somebody else's to explore
        self.exported: list[Exported] = []  # what races ask for there
        # the next execution: what it is to do behind the trace
        self._path: list[Branch] = []
        self._others: list[Branch] = []  # planned at the same place, for later
        self._asleep: Asleep = {}
        self._done = 0

    def next_execution(self, max_steps: int, *, keep_going: bool = False) -> Guided | None:
        """The next one to be run; None when nothing is left."""
        if self.ended:
            return None
        return Guided(
            self.indices,
            max_steps,
            self.trace.rows(),
            list(self.trace.kinds),
            [branch.task for branch in self._path],
            self._asleep,
            keep_going=keep_going,
        )

    def bounds(self) -> dict[str, int]:
        return {}

    def learn(self, run: Recording) -> None:
        """Take in what an execution did, and find the next."""
        self.take_in(run)
        self.backtrack()

    def take_in(self, run: Recording) -> None:
        """Add its steps to the stack, and plan what its races ask for."""
        known = len(self.trace)
        run.must_have_repeated()
        self.diverged += run.diverged
        races = self.trace.extend(run, run.new)
        self.asleep += run.new.sleep
        steps = len(run.new.sleep)
        self.planned += [[] for _ in range(steps)]
        self.explored += [0] * steps
        if len(self.planned) > known:
            self.planned[known] = self._others
            self.explored[known] = self._done
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
        if race.first < self.floor:
            self.exported.append(wanted.export(self.asleep))
        else:
            insert(self.planned[race.first], wanted)

    def backtrack(self) -> None:
        """Go back to the last place where something is planned."""
        for place in range(len(self.trace) - 1, self.floor - 1, -1):
            if self.planned[place]:
                taken = self.trace.step(place)
                self._asleep = {**self.asleep[place], taken.task: taken.cpu_kind}
                branch, *self._others = self.planned[place]
                for task in branch.awake:
                    self._asleep.pop(task, None)
                self._path = branch.leftmost()
                self.trace.cut(place)
                self._done = self.explored[place] + 1
                del self.asleep[place:], self.planned[place:], self.explored[place:]
                self.hidden = [race for race in self.hidden if race.second < place]
                return
        self.ended = True

    def share_done(self) -> float:
        """The share of the search tree that is done, as if all branches of a place were of a
        size, and no more were to be planned: more than is really done."""
        share, weight = 0.0, 1.0
        for done, planned in zip(
            [*self.explored, self._done], [*self.planned, self._others], strict=True
        ):
            if done or planned:
                weight /= done + 1 + len(planned)
                share += done * weight
        return share

    # --- leaving off and going on ---

    def state(self) -> dict[str, Any]:
        """Where the search is, for a file."""
        return {
            "keys": self.indices.keys,
            "tasks": self.trace.tasks,
            "asleep": {n: asleep for n, asleep in enumerate(self.asleep) if asleep},
            "planned": {n: state_of(plans) for n, plans in enumerate(self.planned) if plans},
            "explored": {n: done for n, done in enumerate(self.explored) if done},
            "hidden": [astuple(race) for race in self.hidden],
            "path": state_of(self._path[:1]),
            "others": state_of(self._others),
            "next asleep": self._asleep,
            "done": self._done,
            "ended": self.ended,
            "floor": self.floor,
            "cpu kinds": self.trace.cpu_kinds,
        }

    def restore(self, state: dict[str, Any], target: Target, max_steps: int) -> None:
        """Be where a search was left off: the scenario is run once to get there."""
        for creator, number in state["keys"]:
            self.indices.index((creator, number))
        run = Halfway(self.indices, max_steps, [], [], state["tasks"], {})
        target.execute(run)
        if run.diverged or len(run.log) != len(state["tasks"]):
            raise ScenarioError("the search that was left off does not fit this scenario any more")
        self.trace.extend(run, run.new)
        self.trace.pending = {}
        length = len(state["tasks"])
        numbers = [str(n) for n in range(length)]
        self.asleep = [_asleep(state["asleep"].get(n, {})) for n in numbers]
        self.planned = [branches_of(state["planned"].get(n, [])) for n in numbers]
        self.explored = [state["explored"].get(n, 0) for n in numbers]
        self.hidden = [Race(*race) for race in state["hidden"]]
        self._path = [branch for root in branches_of(state["path"]) for branch in root.leftmost()]
        self._others = branches_of(state["others"])
        self._asleep = _asleep(state["next asleep"])
        self._done = state["done"]
        self.ended = state["ended"]
        self.floor = state["floor"]


class Halfway(Guided):
    """Stops where its plan ends."""

    def choose(self, me: Task | None) -> Task | None:
        if len(self.log) == len(self.plan):
            self.give_up()
            return None
        return super().choose(me)


def _asleep(saved: dict[str, int]) -> Asleep:
    return {int(task): kind for task, kind in saved.items()}


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
    known = branch.known
    step = known and [known.name, known.field, *astuple(known.step)]
    return [branch.task, step, branch.awake, branch.cpu_kind]


def saved_step(known: KnownStep) -> list[Any]:
    return [known.name, known.field, *astuple(known.step)]


def loaded_step(saved: list[Any]) -> KnownStep:
    return KnownStep(saved[0], saved[1], Step(*saved[2:]))


def branches_of(saved: list[Any]) -> list[Branch]:
    branches = []
    for steps, children in saved:
        chain = [
            Branch(
                task,
                loaded_step(known) if known else None,
                [],
                awake,
                cpu_kind,
            )
            for task, known, awake, cpu_kind in steps
        ]
        for branch, following in pairwise(chain):
            branch.children.append(following)
        chain[-1].children = branches_of(children)
        branches.append(chain[0])
    return branches
