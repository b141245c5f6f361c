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

from dataclasses import astuple
from typing import Any

from mmigrate.errors import ScenarioError
from mmigrate.explore.execution import Indices
from mmigrate.explore.plans import (
    Branch,
    Exported,
    Starts,
    Wanted,
    branches_of,
    insert,
    state_of,
)
from mmigrate.explore.recording import Asleep, Recording
from mmigrate.explore.steps import Race
from mmigrate.explore.target import Target
from mmigrate.explore.trace import Trace
from mmigrate.linux.include.sched import Task


class Guided(Recording):
    """Repeats a prefix, follows a plan, and then goes on with as few switches as possible."""

    __slots__ = ("_begin", "_end", "plan")

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


class Optimal:
    """The search: a stack of steps, with who is asleep and what is planned before each."""

    name = "dpor"
    complete = True

    def __init__(self) -> None:
        self.indices = Indices()
        self.trace = Trace()
        self.asleep: list[Asleep] = []
        # by place, where there are any: what is planned, and how many branches are done
        self.planned: dict[int, list[Branch]] = {}
        self.explored: dict[int, int] = {}
        self.hidden: list[Race] = []  # races that a sleeping task hid, to be looked at again
        self.diverged = 0
        self.ended = False
        self.floor = 0  # what is planned before it is somebody else's to explore
        self.exported: list[Exported] = []  # what races ask for there
        # the next execution: whose steps it is to take behind the trace, the branches of the
        # first of them, and what else is planned at the same place, for later
        self._plan: list[int] = []
        self._path: list[Branch] = []
        self._others: list[Branch] = []
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
            self.trace.kinds.copy(),
            self._plan,
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
        trace = self.trace
        known = len(trace.tasks)
        run.must_have_repeated()
        self.diverged += run.diverged
        races = trace.extend(run, run.new)
        self.asleep += run.new.sleep
        length = len(trace.tasks)
        if known < length:
            self.explored[known] = self._done
            if self._others:
                self.planned[known] = self._others
        for place, branch in enumerate(self._path, known + 1):
            if branch.forks and place < length:
                self.planned[place] = branch.children[1:]
        if self.hidden:
            races = self.hidden + races
            self.hidden = []
        for race in races:
            self._plan_reversal(race, run.log)

    def _plan_reversal(self, race: Race, log: list[tuple[Any, Any]]) -> None:
        """Plan the interleaving in which the second step of a race comes first."""
        wanted = Wanted(self.trace, race, log)
        for task in self.asleep[race.first]:
            starts = wanted.covered_by(task)
            if starts is Starts.YES:
                return  # it has been explored
            if starts is Starts.UNWANTED:
                self.hidden.append(race)
                return
        wanted.lay_out()
        if race.first < self.floor:
            self.exported.append(wanted.export(self.asleep))
        else:
            insert(self.planned.setdefault(race.first, []), wanted)

    def backtrack(self) -> None:
        """Go back to the last place where something is planned."""
        place = max(self.planned, default=-1)
        if place < self.floor:
            self.ended = True
            return
        trace = self.trace
        branch, *self._others = self.planned.pop(place)
        self._asleep = {**self.asleep[place], trace.tasks[place]: trace.cpu_kinds[place]}
        for task in branch.awake:
            self._asleep.pop(task, None)
        self._plan, self._path = branch.plan()
        explored = self.explored  # in order of their places
        while explored and next(reversed(explored)) > place:
            explored.popitem()
        self._done = explored.pop(place, 0) + 1
        trace.cut(place)
        del self.asleep[place:]
        if self.hidden:
            self.hidden = [race for race in self.hidden if race.second < place]

    def share_done(self) -> float:
        """The share of the search tree that is done, as if all branches of a place were of a
        size, and no more were to be planned: more than is really done."""
        share, weight = 0.0, 1.0
        for place in sorted(self.explored.keys() | self.planned.keys()):
            done = self.explored.get(place, 0)
            weight /= done + 1 + len(self.planned.get(place, ()))
            share += done * weight
        weight /= self._done + 1 + len(self._others)
        share += self._done * weight
        return share

    # --- leaving off and going on ---

    def state(self) -> dict[str, Any]:
        """Where the search is, for a file."""
        return {
            "keys": self.indices.keys,
            "tasks": self.trace.tasks,
            "asleep": {n: asleep for n, asleep in enumerate(self.asleep) if asleep},
            "planned": {n: state_of(plans) for n, plans in self.planned.items()},
            "explored": {n: done for n, done in self.explored.items() if done},
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
        self.planned = {int(n): branches_of(plans) for n, plans in state["planned"].items()}
        self.explored = {int(n): done for n, done in state["explored"].items()}
        self.hidden = [Race(*race) for race in state["hidden"]]
        for branch in branches_of(state["path"]):
            self._plan, self._path = branch.plan()
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
