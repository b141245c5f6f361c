"""One search by several workers: the places of the search tree are shared out.

A *unit* is a part of the tree: a prefix, and all that is planned behind its floor. A worker
explores it for a while and gives back what is left, which may then be split. What its races ask
for above its floor is told to the coordinator, which keeps the places that several units
have in common: who is asleep there, which branches were handed out, which are planned.
A branch that was handed out earlier sleeps for those that follow, as if it were done, since
somebody does it. What a race asks for and a branch handed out later leads to is planned behind that
branch, as when one worker does all. So each class is run once, however many there are.

Any executor of `concurrent.futures` will do; "dask://host:port" is that of a Dask cluster.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from mmigrate.errors import EnvironmentLacks, ScenarioError
from mmigrate.explore.dpor import Optimal
from mmigrate.explore.execution import Indices
from mmigrate.explore.plans import Branch, Exported, Starts, Told, branches_of, insert, state_of
from mmigrate.explore.result import Finding
from mmigrate.explore.search import Limits, Search
from mmigrate.explore.target import Target

ALONE: Final = 0.2  # seconds: a search that ends sooner needs no workers
HUNGRY, FED = 0.1, 0.5  # seconds of a unit, when others wait for work and when not

State = dict[str, Any]
Prefix = tuple[int, ...]
Submit = Callable[..., Any]


@dataclass
class Place:
    """A place that units have in common.  @above: who is asleep at the places before it.
    @sent: the branches that were handed out, in order, without what is planned behind them."""

    asleep: dict[int, int]
    above: dict[int, dict[int, int]]
    sent: list[Branch] = field(default_factory=list)
    planned: list[Branch] = field(default_factory=list)


@dataclass
class Done:
    """What a worker gives back."""

    executions: int
    redundant: int
    findings: list[Finding]
    met: dict[str, int]
    keys: list[tuple[int, int]]
    exported: list[Exported]
    rest: State | None
    # the steps before its floor, and who is asleep there
    tasks: list[int]
    cpu_kinds: list[int]
    asleep: dict[int, dict[int, int]]


def run_unit(
    target: Target | tuple[Any, ...],
    state: State,
    seconds: float,
    executions: int | None,
    max_steps: int,
    keep_going: bool,
) -> Done:
    """Explore a unit for a while; this runs in a worker."""
    if isinstance(target, tuple):
        target = Target.found(*target)
    driver = Optimal()
    driver.restore(state, target, max_steps)
    search = Search(target, driver, Limits(executions, seconds, max_steps, keep_going))
    search.run()
    over = driver.ended or search.done
    return Done(
        search.executions,
        search.redundant,
        list(search.findings.values()),
        search.met,
        driver.indices.keys,
        driver.exported,
        None if over else driver.state(),
        driver.trace.tasks[: driver.floor],
        driver.trace.cpu_kinds[: driver.floor],
        {n: asleep for n, asleep in enumerate(driver.asleep[: driver.floor]) if asleep},
    )


def run_in_parallel(search: Search, jobs: int, executor: Any) -> None:
    """Run a search to its end with @jobs workers of @executor."""
    if jobs < 1:
        raise ScenarioError(f"jobs={jobs}: there must be at least one")
    if isinstance(executor, str):
        _scheduler_of(executor)
    driver = search.driver
    assert isinstance(driver, Optimal)
    if search.shared is None:
        search.run(pause=ALONE)
        if not search.paused:
            return
    with workers(jobs, executor, search.target) as (submit, target):
        Coordinator(search, driver).run(submit, target, jobs)


@contextmanager
def workers(jobs: int, executor: Any, target: Target) -> Iterator[tuple[Submit, Any]]:
    """How to submit work, and the target as the workers take it."""
    if executor is None:
        methods = multiprocessing.get_all_start_methods()
        method = "fork" if "fork" in methods else None
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_remember, initargs=(target,)
        ) as pool:
            yield pool.submit, None
    elif isinstance(executor, str):
        with _dask(executor) as client:
            yield client.submit, target.portable()
    else:
        yield executor.submit, target.portable()


_remembered: list[Target] = []  # of a worker process, which has one for its whole life


def _remember(target: Target) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator
    _remembered[:] = [target]


def run_remembered(_: None, *arguments: Any) -> Done:
    """run_unit with what the process was started for, so that it need not be picklable."""
    return run_unit(_remembered[0], *arguments)


def _scheduler_of(address: str) -> str:
    """host:port.  Raises ScenarioError: that is none."""
    scheme, _, place = address.partition("://")
    if scheme != "dask" or not place:
        raise ScenarioError(f"{address!r} names no executor; dask://host:port does")
    return place


@contextmanager
def _dask(address: str) -> Iterator[Any]:
    place = _scheduler_of(address)
    try:
        from distributed import Client
    except ImportError:
        raise EnvironmentLacks(
            "a Dask cluster needs the package distributed: pip install 'mmigrate[dask]'"
        ) from None
    try:
        client = Client(f"tcp://{place}", timeout=10)
    except OSError as error:
        raise EnvironmentLacks(f"there is no Dask scheduler at {place}: {error}") from None
    try:
        yield client.get_executor(pure=False, retries=0)
    finally:
        client.close()


class Coordinator:
    """Hands out units, and keeps the places that they have in common."""

    def __init__(self, search: Search, driver: Optimal) -> None:
        self.search = search
        self.indices = Indices()
        self.places: dict[Prefix, Place] = {}
        self.units: list[State] = []
        # by the steps to the end of a branch that was handed out, and by place on the way:
        # the branch's own step, and what else was planned there
        self.forks: dict[Prefix, dict[int, list[Branch]]] = {}
        # what races ask for at places of which nobody has told yet who is asleep there
        self.waiting: dict[Prefix, list[Told]] = {}
        self.ends: set[Prefix] = set()
        if search.shared is not None:
            self._load(search.shared)
        else:
            state = driver.state()
            self._learn_keys(state["keys"])
            self.units.append(state)

    def run(self, submit: Submit, target: Any, jobs: int) -> None:
        search, limits = self.search, self.search.limits
        running: dict[Future[Done], State] = {}
        work = run_remembered if target is None else run_unit
        try:
            while (self.units or running) and not search.done and not search.at_limit():
                self._split(jobs - len(running))
                while self.units and len(running) < jobs:
                    unit = self.units[-1]
                    unit["keys"] = list(self.indices.keys)
                    budget = FED if len(self.units) >= jobs else HUNGRY
                    left = self._left(len(running) + 1)
                    unit = json.loads(json.dumps(unit))
                    future = submit(
                        work, target, unit, budget, left, search.steps, limits.keep_going
                    )
                    running[future] = self.units.pop()
                ready, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    done = future.result()
                    del running[future]
                    self._take_in(done)
                search.report()
            if not self.units and not running:
                search.exhausted, search.cut = not search.done, {}
        except KeyboardInterrupt:
            search.interrupted = True
            self.units += running.values()
            search.shared = self._saved()
        finally:
            for future in running:
                future.cancel()

    def _left(self, workers: int) -> int | None:
        limit = self.search.limits.executions
        return None if limit is None else max(1, (limit - self.search.executions) // workers)

    def _take_in(self, done: Done) -> None:
        search = self.search
        search.executions += done.executions
        search.redundant += done.redundant
        for name, times in done.met.items():
            search.met[name] += times
        for finding in done.findings:
            search.findings.setdefault(finding.key, finding)
        now = self._learn_keys(done.keys)
        self._open_places(done, now)
        for exported in done.exported:
            self._insert(exported.renumbered(now))
        if done.rest is not None:
            self.units.append(renumbered(done.rest, now))

    def _open_places(self, done: Done, now: list[int]) -> None:
        """Now it is known who is asleep on the way to the end of a branch."""
        tasks = tuple(now[task] for task in done.tasks)
        forks = self.forks.pop(tasks, None)
        if forks is None:
            return
        above = {
            n: {now[task]: kind for task, kind in sleepers.items()}
            for n, sleepers in done.asleep.items()
        }
        for at in forks:
            prefix = tasks[:at]
            taken, *others = forks[at]
            taken.cpu_kind = done.cpu_kinds[at]
            place = self._place(prefix, above, taken)
            place.planned += others
            for wanted in self.waiting.pop(prefix, ()):
                self._plan(prefix, place, place.sent, wanted)
            self._hand_out(prefix, place)

    def _place(self, prefix: Prefix, above: dict[int, dict[int, int]], taken: Branch) -> Place:
        """The place behind @prefix, made of what a unit knows of it."""
        place = self.places.get(prefix)
        if place is None:
            at = len(prefix)
            before = {n: sleepers for n, sleepers in above.items() if n < at}
            place = self.places[prefix] = Place(above.get(at, {}), before, [taken])
        for branch in place.sent:
            if branch.task == taken.task and branch.known is None:
                branch.known = taken.known
        return place

    def _learn_keys(self, keys: list[Any]) -> list[int]:
        """The numbers that tasks have here, by the number they had there."""
        now: list[int] = []
        for creator, number in keys:
            here = now[creator] if creator >= 0 else -1
            now.append(self.indices.index((here, number)))
        return now

    # --- the places in common ---

    def _insert(self, exported: Exported) -> None:
        """Plan what a race asks for above the floor of its unit."""
        prefix = tuple(exported.tasks)
        place = self._place(prefix, exported.asleep, exported.taken)
        own = [branch.task for branch in place.sent].index(exported.taken.task)
        self._plan(prefix, place, place.sent[own + 1 :], Told(exported))
        self._hand_out(prefix, place)

    def _plan(self, prefix: Prefix, place: Place, sent: list[Branch], wanted: Told) -> None:
        """Plan it at a place, or behind one of the branches in @sent if that leads there."""
        awake = []
        for branch in sent:
            starts = wanted.starts_with(branch.task, branch.known)
            if starts is Starts.UNKNOWN:
                awake.append(branch.task)
            elif starts is not Starts.NO:
                wanted.take(branch.task)
                behind = (*prefix, branch.task)
                if behind in self.ends or not wanted.steps:
                    return
                there = self.places.get(behind)
                if there is None:
                    self.waiting.setdefault(behind, []).append(wanted)
                else:
                    self._plan(behind, there, there.sent, wanted)
                    self._hand_out(behind, there)
                return
        before = len(place.planned)
        insert(place.planned, wanted)
        for added in place.planned[before:]:
            added.awake += awake

    def _hand_out(self, prefix: Prefix, place: Place, hidden: Any = ()) -> None:
        """Make units of all that is planned at a place, one for each end of a branch."""
        while place.planned:
            branch = place.planned.pop(0)
            asleep = {**place.asleep, **{sent.task: sent.cpu_kind for sent in place.sent}}
            for task in branch.awake:
                asleep.pop(task, None)
            place.sent.append(bare(branch))
            path = branch.leftmost()
            end = (*prefix, *(step.task for step in path))
            self.ends.add(end)
            self.forks[end] = {
                at: [bare(path[n + 1]), *step.children[1:]]
                for n, (at, step) in enumerate(enumerate(path[:-1], len(prefix) + 1))
            }
            chain = [bare(step) for step in path]
            for step, following in pairwise(chain):
                step.children.append(following)
            self.units.append(
                {
                    "tasks": list(prefix),
                    "floor": len(end),
                    "asleep": place.above | {len(prefix): asleep},
                    "planned": {},
                    "explored": {},
                    "hidden": [race for race in hidden if race[1] < len(prefix)],
                    "path": state_of(chain[:1]),
                    "others": [],
                    "next asleep": asleep,
                    "done": 0,
                    "ended": False,
                }
            )

    def _split(self, idle: int) -> None:
        """Make more units out of one, from its shallowest place, if there are too few."""
        for unit in list(self.units):
            if len(self.units) >= idle:
                return
            above = {int(n): _asleep_at(unit["asleep"], int(n)) for n in unit["asleep"]}
            planned = sorted(int(place) for place in unit["planned"])
            if planned:
                at = planned[0]
                plans = branches_of(unit["planned"].pop(_key(unit["planned"], at)))
                taken = Branch(unit["tasks"][at], cpu_kind=unit["cpu kinds"][at])
            elif unit["others"]:
                at = len(unit["tasks"])
                plans, unit["others"] = branches_of(unit["others"]), []
                taken = bare(branches_of(unit["path"])[0])
                above[at] = {int(task): kind for task, kind in unit["next asleep"].items()}
            else:
                continue
            unit["floor"] = at + 1
            prefix = tuple(unit["tasks"][:at])
            place = self._place(prefix, above, taken)
            place.planned += plans
            self._hand_out(prefix, place, unit["hidden"])

    # --- leaving off and going on ---

    def _saved(self) -> State:
        return {
            "keys": self.indices.keys,
            "units": self.units,
            "places": [
                [list(prefix), place.asleep, place.above, state_of(place.sent)]
                for prefix, place in self.places.items()
            ],
            "forks": [
                [list(end), {at: state_of(plans) for at, plans in forks.items()}]
                for end, forks in self.forks.items()
            ],
            "waiting": [
                [list(prefix), told.saved()]
                for prefix, waiting in self.waiting.items()
                for told in waiting
            ],
            "ends": [list(end) for end in self.ends],
        }

    def _load(self, saved: State) -> None:
        self._learn_keys(saved["keys"])
        self.units = saved["units"]
        for prefix, asleep, above, sent in saved["places"]:
            self.places[tuple(prefix)] = Place(
                {int(task): kind for task, kind in asleep.items()},
                {int(n): _asleep_at(above, int(n)) for n in above},
                branches_of(sent),
            )
        for end, forks in saved["forks"]:
            self.forks[tuple(end)] = {int(at): branches_of(plans) for at, plans in forks.items()}
        for prefix, told in saved["waiting"]:
            self.waiting.setdefault(tuple(prefix), []).append(Told.loaded(told))
        self.ends = {tuple(end) for end in saved["ends"]}


def bare(branch: Branch) -> Branch:
    """A branch without what is planned behind it."""
    return Branch(branch.task, branch.known, cpu_kind=branch.cpu_kind)


def _key(saved: dict[Any, Any], place: int) -> Any:
    return place if place in saved else str(place)


def _asleep_at(saved: dict[Any, Any], place: int) -> dict[int, int]:
    return {int(task): kind for task, kind in saved.get(_key(saved, place), {}).items()}


def renumbered(state: State, now: list[int]) -> State:
    """A state whose tasks have other numbers."""

    def asleep(saved: dict[Any, int]) -> dict[int, int]:
        return {now[int(task)]: kind for task, kind in saved.items()}

    def branches(saved: list[Any]) -> list[Any]:
        return [
            [
                [
                    [now[task], known, [now[t] for t in awake], kind]
                    for task, known, awake, kind in row
                ],
                branches(children),
            ]
            for row, children in saved
        ]

    return {
        **state,
        "tasks": [now[task] for task in state["tasks"]],
        "asleep": {place: asleep(saved) for place, saved in state["asleep"].items()},
        "planned": {place: branches(saved) for place, saved in state["planned"].items()},
        "hidden": [
            [first, second, now[task], *rest] for first, second, task, *rest in state["hidden"]
        ],
        "path": branches(state["path"]),
        "others": branches(state["others"]),
        "next asleep": asleep(state["next asleep"]),
    }
