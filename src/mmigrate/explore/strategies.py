"""Who goes on: the strategies that choose among tasks, execution after execution.

A strategy of one's own is a class with two methods (`Strategy`); it is given to `explore` as
an object. Those here are known by name: dfs (every interleaving), preemptions (every
interleaving with at most so many), delays, random, pct.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from mmigrate.explore.execution import Indices
from mmigrate.explore.recording import Recording
from mmigrate.linux.include.sched import Task


class Strategy(Protocol):
    """Chooses who goes on.  It may also say `complete = True`: when `begin` returns False,
    everything has been tried."""

    def begin(self) -> bool:
        """A new execution starts; False if there is nothing left to try."""
        ...

    def choose(self, enabled: Sequence[Task], running: Task | None) -> Task: ...


class Chosen(Recording):
    """An execution in which a strategy chooses among all tasks that could go on."""

    strategy: Strategy

    def choose(self, me: Task | None) -> Task | None:
        enabled = [task for task in self.scheduler.alive if self.may_run(task)]
        if not enabled:
            self.stuck()
            return None
        return self.strategy.choose(enabled, me)


class ByStrategy:
    """A search whose executions are chosen by a strategy."""

    def __init__(self, name: str, strategy: Strategy) -> None:
        self.name = name
        self.strategy = strategy
        self.complete: bool = getattr(strategy, "complete", False)
        self.ended = False
        self.indices = Indices()

    def next_execution(self, max_steps: int, *, keep_going: bool = False) -> Chosen | None:
        """The next one to be run; None when nothing is left."""
        if not self.strategy.begin():
            self.ended = True
            return None
        run = Chosen(self.indices, max_steps, [], keep_going=keep_going)
        run.strategy = self.strategy
        return run

    def learn(self, run: Recording) -> None:
        pass

    def bounds(self) -> dict[str, int]:
        """The bounds that have cut something off."""
        strategy = self.strategy
        if not isinstance(strategy, DepthFirst) or not strategy.bounded:
            return {}
        both = {"preemptions": strategy.preemptions, "delays": strategy.delays}
        return {name: bound for name, bound in both.items() if bound is not None}

    def share_done(self) -> float | None:
        """The share of the search tree that is done, if that can be said."""
        strategy = self.strategy
        return strategy.share_done() if isinstance(strategy, DepthFirst) else None


class DepthFirst:
    """Every interleaving, in depth-first order: the last choice that has an alternative left
    is changed, and what comes behind it begins anew.

    @preemptions: not more than so many switches away from a task that could have gone on.
    @delays: not more than so many turns passed over in the round-robin order.
    """

    complete = True

    def __init__(self, preemptions: int | None = None, delays: int | None = None) -> None:
        self.preemptions = preemptions
        self.delays = delays
        self.bounded = False  # a bound has cut something off
        self._path: list[list[int]] = []  # by choice: the one taken, how many there are
        self._depth = 0
        self.spent = 0
        self._begun = False

    def begin(self) -> bool:
        self._depth = self.spent = 0
        if not self._begun:
            self._begun = True
            return True
        while self._path:
            self._path[-1][0] += 1
            if self._path[-1][0] < self._path[-1][1]:
                return True
            self._path.pop()
        return False

    def choose(self, enabled: Sequence[Task], running: Task | None) -> Task:
        if running is not None and running in enabled:
            place = enabled.index(running)
            order = [running, *enabled[place + 1 :], *enabled[:place]]
        else:
            order = list(enabled)
        costs = [0] * len(order)
        if self.preemptions is not None and running in enabled:
            costs = [0] + [1] * (len(order) - 1)
        if self.delays is not None:
            costs = list(range(len(order)))
        limit = self.preemptions if self.preemptions is not None else self.delays
        allowed = len(order)
        if limit is not None:
            allowed = sum(1 for cost in costs if self.spent + cost <= limit)
            self.bounded = self.bounded or allowed < len(order)
        if self._depth == len(self._path):
            self._path.append([0, allowed])
        taken = self._path[self._depth][0]
        self._depth += 1
        self.spent += costs[taken]
        return order[taken]

    def share_done(self) -> float:
        """As if all branches of a choice were of a size."""
        share, weight = 0.0, 1.0
        for taken, choices in self._path:
            weight /= choices
            share += taken * weight
        return share


class RandomWalk:
    """Any task that could go on, at every step."""

    complete = False

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def begin(self) -> bool:
        return True

    def choose(self, enabled: Sequence[Task], running: Task | None) -> Task:
        return enabled[0] if len(enabled) == 1 else self._random.choice(enabled)


class Pct:
    """Random priorities, changed at @depth - 1 random steps: a defect that needs that many
    orderings is found with probability 1 / (tasks * steps ** (depth - 1)) or more each time
    (Burckhardt, Kothari, Musuvathi, Nagarakatte, ASPLOS 2010)."""

    complete = False

    def __init__(self, seed: int = 0, depth: int = 3) -> None:
        self._random = random.Random(seed)
        self._depth = depth
        self._longest = 1
        self._step = 0
        self._priorities: dict[int, float] = {}
        self._changes: list[int] = []

    def begin(self) -> bool:
        self._longest = max(self._longest, self._step)
        self._step = 0
        self._priorities = {}
        self._changes = [self._random.randrange(self._longest) for _ in range(self._depth - 1)]
        return True

    def choose(self, enabled: Sequence[Task], running: Task | None) -> Task:
        for task in enabled:
            if task.index not in self._priorities:
                self._priorities[task.index] = 1 + self._random.random()
        best = max(enabled, key=lambda task: self._priorities[task.index])
        for number, step in enumerate(self._changes):
            if step == self._step:
                self._priorities[best.index] = -number
                best = max(enabled, key=lambda task: self._priorities[task.index])
        self._step += 1
        return best
