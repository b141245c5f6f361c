"""Explore a scenario: run it again and again, differently each time.

Interface: `explore(scenario, …)`.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from mmigrate.errors import ScenarioError, Violation
from mmigrate.explore.dpor import Optimal
from mmigrate.explore.execution import Ending
from mmigrate.explore.recording import Recording
from mmigrate.explore.result import Finding, FirstExecution, Result
from mmigrate.explore.rewind import Stage
from mmigrate.explore.schedule import Schedule, schedule_of
from mmigrate.explore.shrink import shrink
from mmigrate.explore.strategies import ByStrategy, DepthFirst, Pct, RandomWalk, Strategy
from mmigrate.explore.target import Outcome, Target, base_options
from mmigrate.linux.include.switches import BASE
from mmigrate.machine.conditions import Condition

STRATEGIES = ("dpor", "dfs", "pct", "random")
REPORT_EVERY = 0.5  # seconds
# An execution with more accesses than so many, and so many times those of the first, is a
# livelock; the first may have more, as there may be huge pages in it.
STEPS, TIMES, FIRST_STEPS = 20_000, 4, 1_000_000
EARLY = 100  # executions, behind which it is guessed for the first time how many there will be


@dataclass(frozen=True)
class Progress:
    """How far a search is.  @estimate: executions in all, as far as can be guessed; @first: what
    is known of its size from the beginning."""

    executions: int
    findings: int
    seconds: float
    estimate: float | None
    first: FirstExecution | None = None

    @property
    def rate(self) -> float:
        """Executions per second."""
        return self.executions / self.seconds if self.seconds else 0.0


def explore(
    scenario: Any,
    *,
    strategy: str | Strategy = "dpor",
    without: Any = (),
    backports: Any = (),
    kernel: str = BASE,
    machine: Mapping[str, Any] | None = None,
    preemptions: int | None = None,
    delays: int | None = None,
    max_executions: int | None = None,
    max_seconds: float | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    depth: int = 3,
    jobs: int = 1,
    executor: Any = None,
    keep_going: bool = False,
    minimise: bool = True,
    sometimes: Mapping[str, Condition] | None = None,
    always: Mapping[str, Condition] | None = None,
    progress: Callable[[Progress], None] | None = None,
    resume: Path | None = None,
    save: Path | None = None,
) -> Result:
    """Run a scenario in all interleavings that can differ, or as many as asked for.

    @scenario: a function of a machine (`machine`) or of shared words (`tasks`).
    @strategy: "dpor" runs one of each class of interleavings; "dfs" runs all, "random" and "pct"
    (with @depth) choose by @seed and never end by themselves; or a `Strategy` of one's own.
    @without, @backports, @kernel: as in `Machine`; @machine: its other arguments.
    @preemptions, @delays: all interleavings with not more than so many.
    @max_executions, @max_seconds: stop then; the result says that it is not exhausted.
    @max_steps: an execution with more accesses is a livelock; by default 20,000, or four times
    as many as the first has if that is more.
    @jobs: processes; @executor: or those of any `concurrent.futures` executor, or "dask://…".
    @keep_going: look for further findings behind the first.
    @minimise: look for a schedule of each finding with fewer preemptions, and a shorter one.
    @sometimes, @always: conditions of a machine at the end of an execution, by name.
    @progress: called twice a second.  @save: where to leave off if interrupted; @resume: go on
    from there.
    Raises ScenarioError: the scenario cannot be run at all, or an argument makes no sense.
    """
    options = base_options(kernel, without, backports, machine)
    target = Target.of(scenario, options, sometimes=sometimes, always=always)
    driver = driver_of(strategy, preemptions, delays, seed, depth)
    limits = Limits(max_executions, max_seconds, max_steps, keep_going)
    search = Search(target, driver, limits, progress)
    if resume is not None:
        search.resume(resume)
    if jobs != 1 or executor is not None or search.shared is not None:
        from mmigrate.explore.parallel import run_in_parallel

        if not isinstance(driver, Optimal):
            raise ScenarioError("only the strategy dpor can be run by several workers")
        run_in_parallel(search, jobs, executor)
    else:
        search.run()
    if search.interrupted and save is not None:
        search.save(save)
    findings = list(search.findings.values())
    if minimise:
        findings = [shrink(target, finding, search.steps) for finding in findings]
    return search.result(findings)


class Driver(Protocol):
    """What proposes executions and learns from them."""

    name: str
    complete: bool  # when it has ended, everything within its bounds has been tried
    ended: bool

    def next_execution(self, max_steps: int, *, keep_going: bool = False) -> Recording | None: ...
    def learn(self, run: Recording) -> None: ...
    def bounds(self) -> dict[str, int]: ...
    def share_done(self) -> float | None: ...


def driver_of(
    strategy: str | Strategy, preemptions: int | None, delays: int | None, seed: int, depth: int
) -> Driver:
    """Raises ScenarioError: there is no such strategy, or a bound makes no sense."""
    for name, bound in (("preemptions", preemptions), ("delays", delays)):
        if bound is not None and bound < 0:
            raise ScenarioError(f"{name}={bound}: it must be 0 or more")
    if preemptions is not None or delays is not None:
        if strategy not in ("dpor", "dfs"):
            raise ScenarioError(f"a bound goes with the strategy dfs, not with {strategy}")
        return ByStrategy("dfs", DepthFirst(preemptions, delays))
    if strategy == "dpor":
        return Optimal()
    if strategy == "dfs":
        return ByStrategy("dfs", DepthFirst())
    if strategy == "random":
        return ByStrategy("random", RandomWalk(seed))
    if strategy == "pct":
        return ByStrategy("pct", Pct(seed, depth))
    if isinstance(strategy, str):
        raise ScenarioError(f"there is no strategy {strategy}; there are {', '.join(STRATEGIES)}")
    return ByStrategy(type(strategy).__name__, strategy)


@dataclass(frozen=True)
class Limits:
    """When to stop.  @seconds: of all executions together."""

    executions: int | None
    seconds: float | None
    steps: int | None
    keep_going: bool


class Search:
    """Executions one after the other, and what they found."""

    def __init__(
        self,
        target: Target,
        driver: Driver,
        limits: Limits,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.target = target
        self.stage = Stage(target)
        self.driver = driver
        self.limits = limits
        self.executions = 0
        self.redundant = 0
        self.interrupted = False
        self.cut: dict[str, int] = {}  # limits that were met
        self.exhausted = False
        self.findings: dict[tuple[str, str, str], Finding] = {}
        self.met = dict.fromkeys(target.conditions.sometimes, 0)
        self.paused = False
        self.shared: dict[str, Any] | None = None  # what is left of a search by several workers
        self.earlier = 0.0  # seconds of the search that is resumed
        self.expected: int | None = None  # executions in all, after the first EARLY of them
        self.first: FirstExecution | None = None
        self._progress = progress
        self._started = perf_counter()
        self._reported = self._started

    @property
    def steps(self) -> int:
        """Accesses of an execution behind which it is a livelock."""
        if self.limits.steps is not None:
            return self.limits.steps
        if self.first is None:
            return FIRST_STEPS
        return max(STEPS, TIMES * self.first.accesses)

    @property
    def seconds(self) -> float:
        return self.earlier + perf_counter() - self._started

    @property
    def done(self) -> bool:
        """Whether a finding ends the search."""
        return bool(self.findings) and not self.limits.keep_going

    def run(self, pause: float | None = None) -> None:
        """Until nothing is left, a limit is met, or the user interrupts; or for @pause
        seconds."""
        with rare_collections():
            self._run(pause)

    def _run(self, pause: float | None) -> None:
        driver, limits = self.driver, self.limits
        end = None if pause is None else perf_counter() + pause
        max_steps = self.steps
        try:
            while not self.at_limit():
                self.paused = end is not None and perf_counter() > end
                if self.paused:
                    return
                run = driver.next_execution(max_steps, keep_going=limits.keep_going)
                if run is None:
                    self.exhausted = driver.complete
                    return
                outcome = self.stage.execute(run)
                self.executions += 1
                if self.first is None:
                    self.first = FirstExecution.of(run)
                    max_steps = self.steps
                    self.report(now=True)
                self.note(run, outcome)
                if self.done:
                    return
                driver.learn(run)
                if self.executions == EARLY:
                    self._expect()
                self.report()
            self.exhausted = driver.ended and driver.complete
            if self.exhausted:
                self.cut = {}
        except KeyboardInterrupt:
            self.interrupted = True

    def at_limit(self) -> bool:
        limits = self.limits
        if limits.executions is not None and self.executions >= limits.executions:
            self.cut = {"max_executions": limits.executions}
        elif self.executions and limits.seconds is not None and self.seconds >= limits.seconds:
            self.cut = {"max_seconds": round(limits.seconds)}
        return bool(self.cut)

    def note(self, run: Recording, outcome: Outcome) -> None:
        """Count an execution in, and keep what it found."""
        if outcome.ending is Ending.REDUNDANT:
            self.redundant += 1
        for name in outcome.met:
            self.met[name] += 1
        for violation in outcome.violations[:1]:
            if (violation.oracle, violation.subject, violation.message) not in self.findings:
                found = Finding(violation, schedule_of(self.target, run, violation))
                self.findings[found.key] = found

    def report(self, *, now: bool = False) -> None:
        """Tell how far we are, now and then."""
        if self._progress is not None:
            moment = perf_counter()
            if now or moment - self._reported >= REPORT_EVERY:
                self._reported = moment
                guess = None if now else self.estimate()
                self._progress(
                    Progress(self.executions, len(self.findings), self.seconds, guess, self.first)
                )

    def estimate(self) -> float | None:
        """Executions in all, judged by the share of the search tree that is done."""
        if self.exhausted:
            return float(self.executions)
        share = self.driver.share_done()
        return self.executions / share if share else None

    def _expect(self) -> None:
        guess = self.estimate()
        self.expected = None if guess is None else round(guess)

    # --- leaving off and going on ---

    def save(self, file: Path) -> None:
        """Raises ScenarioError: the strategy cannot be resumed."""
        if not isinstance(self.driver, Optimal):
            raise ScenarioError("only the strategy dpor can be left off and resumed")
        state = {
            "mmigrate search": 1,
            "scenario": self.target.place,
            "options": json.loads(json.dumps(self.target.options)),
            "executions": self.executions,
            "redundant": self.redundant,
            "seconds": self.seconds,
            "first": self.first and astuple(self.first),
            "met": self.met,
            "findings": [finding.schedule.text() for finding in self.findings.values()],
            "search": self.shared or self.driver.state(),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(state) + "\n")

    def resume(self, file: Path) -> None:
        """Raises ScenarioError: that was another search, or none."""
        from mmigrate.explore.schedule import parse_schedule

        try:
            state = json.loads(file.read_text())
            same = state["mmigrate search"] == 1
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScenarioError(f"{file} is no search that was left off: {error}") from error
        options = json.loads(json.dumps(self.target.options))
        if not same or (state["scenario"], state["options"]) != (self.target.place, options):
            raise ScenarioError(
                f"{file} is a search of {state['scenario']} with {state['options']}, not of "
                f"{self.target.place} with {options}"
            )
        if not isinstance(self.driver, Optimal):
            raise ScenarioError("only the strategy dpor can be resumed")
        self.executions, self.redundant = state["executions"], state["redundant"]
        self.earlier = state["seconds"]
        self.met = state["met"]
        self.first = state.get("first") and FirstExecution(*state["first"])
        for text in state["findings"]:
            schedule = parse_schedule(text, str(file))
            assert isinstance(schedule.violation, Violation)
            found = Finding(schedule.violation, schedule)
            self.findings[found.key] = found
        if "units" in state["search"]:
            self.shared = state["search"]
        else:
            self.driver.restore(state["search"], self.target, self.steps)

    def result(self, findings: list[Finding]) -> Result:
        import mmigrate

        return Result(
            scenario=self.target.place,
            options=self.target.options,
            strategy=self.driver.name,
            bounds={**self.driver.bounds(), **self.cut},
            findings=tuple(findings),
            executions=self.executions,
            redundant=self.redundant,
            classes=self.executions - self.redundant,
            exhausted=self.exhausted,
            interrupted=self.interrupted,
            seconds=self.seconds,
            met=self.met,
            version=mmigrate.__version__,
            estimate=self.estimate(),
            expected=self.expected,
            first=self.first,
        )


@contextmanager
def rare_collections() -> Iterator[None]:
    """Each execution leaves objects behind, in circles. Collected without a look at what was
    there before, and soon enough that their memory is still at hand, they cost less
    (explore_kernel_per_s)."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(2_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


__all__ = ["STRATEGIES", "Progress", "Schedule", "Search", "explore"]
