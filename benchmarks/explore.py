"""The explorer: classes and rates of classic programs beside its peers, of kernel scenarios, and
of two workers beside one.

Each peer is run in an environment of its own, which the first run makes, and beside it mmigrate
with the same interpreter; rates are executions a second of CPU time, on both sides.
interleave-test needs Python 3.12 or later. Where a peer cannot be run its figure is left out, and
the figure of classes says so.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from mmigrate import explore
from mmigrate.cli.bench import Figure
from mmigrate.explore import Shared
from mmigrate.explore.program import RwSemaphore, SpinLock, down_write, spin_lock
from mmigrate.history import CATALOGUE, Kind

GOAL_PEERS = 10
GOAL_KERNEL = 1_500
LEAST_EXECUTIONS = 10
GOAL_TWO_WORKERS = 1.7
REPOSITORY = Path(__file__).parents[1]
Program = Callable[[Any], None]
FRONTRUN = """
import sys
from time import process_time
import frontrun

class Counter:
    value = 0

def increment(counter):
    counter.value = counter.value + 1

executions, started = 0, process_time()
while process_time() - started < 1.5:
    executions += frontrun.explore(
        Counter, increment, lambda counter: True, count=int(sys.argv[1]), stop_on_first=False,
        reproduce_on_failure=0, detect_io=False, preemption_bound=None,
    ).num_explored
print(executions / (process_time() - started))
"""
INTERLEAVE_TEST = """
import sys
from time import process_time
from interleave_test import explore, spawn

class Counter:
    value = 0

def model():
    counter = Counter()

    def increment():
        counter.value = counter.value + 1

    for task in [spawn(increment) for _ in range(int(sys.argv[1]))]:
        task.join()

executions, started = 0, process_time()
while process_time() - started < 1.5:
    executions += explore(
        model, iterations=300, strategy="dfs", max_preemptions=1000, raise_on_failure=False
    ).schedules_run
print(executions / (process_time() - started))
"""
OURS = """
import sys
from benchmarks.explore import increments, rate
print(rate(increments(int(sys.argv[1]))))
"""


def increments(number: int, times: int = 1) -> Program:
    def program(tasks: Any) -> None:
        counter = Shared(0, "counter")

        def increment() -> None:
            for _ in range(times):
                counter.store(counter.load() + 1)

        for _ in range(number):
            tasks.start(increment)

    return program


def locked_increments(number: int) -> Program:
    def program(tasks: Any) -> None:
        counter, lock = Shared(0, "counter"), SpinLock("lock")

        def increment() -> None:
            with spin_lock(lock):
                counter.store(counter.load() + 1)

        for _ in range(number):
            tasks.start(increment)

    return program


def philosophers(number: int) -> Program:
    def program(tasks: Any) -> None:
        forks = [RwSemaphore("fork", f"fork {n}") for n in range(number)]

        def dine(seat: int) -> None:
            with down_write(forks[seat]), down_write(forks[(seat + 1) % number]):
                pass

        for seat in range(number):
            tasks.start(dine, seat)

    return program


def bounded_buffer(items: int, room: int) -> Program:
    def program(tasks: Any) -> None:
        buffer = Shared((), "buffer")

        def produce() -> None:
            for item in range(items):
                buffer.wait(lambda held: len(held) < room)
                buffer.store((*buffer.value, item))

        def consume() -> None:
            for _ in range(items):
                buffer.wait(bool)
                buffer.store(buffer.value[1:])

        tasks.start(produce)
        tasks.start(consume)

    return program


# name: (program, classes: those that brute force over all interleavings gives, see tests/explore)
CLASSIC: dict[str, tuple[Program, int]] = {
    "two increments": (increments(2), 4),
    "three increments": (increments(3), 36),
    "two times two increments": (increments(2, 2), 34),
    "two locked increments": (locked_increments(2), 2),
    "three locked increments": (locked_increments(3), 6),
    "three philosophers": (philosophers(3), 7),
}


def run() -> list[Figure]:
    figures = []
    missing = []
    for peer in PEERS:
        folder = _environment(peer)
        if folder is None:
            version = ".".join(map(str, peer.oldest))
            missing.append(f"{peer.package} cannot be installed here (Python {version} or later)")
        else:
            figures.append(_against(peer, folder))
    figures.insert(0, _classes(missing))
    figures += _kernel()
    figures.append(_two_workers())
    return figures


def _classes(missing: list[str]) -> Figure:
    executions = 0
    for name, (program, classes) in CLASSIC.items():
        result = explore(program, keep_going=True, minimise=False)
        assert result.exhausted, name
        assert result.classes == classes, name
        executions += result.executions
    total = sum(classes for _, classes in CLASSIC.values())
    return Figure(
        "explore_executions_per_class",
        round(executions / total, 3),
        "executions",
        "1: one for each class",
        "; ".join([", ".join(CLASSIC), *missing]),
    )


def rate(program: Program, seconds: float = 1.5, **options: Any) -> float:
    """Executions per second of CPU time; a program is explored again and again."""
    executions, started = 0, process_time()
    while process_time() - started < seconds:
        executions += explore(program, keep_going=True, minimise=False, **options).executions
    return executions / (process_time() - started)


@dataclass(frozen=True)
class Peer:
    """@script: prints its rate for as many tasks as it is told.  @runner: what runs Python."""

    name: str
    version: str
    script: str
    oldest: tuple[int, int]
    runner: str = "python"

    @property
    def package(self) -> str:
        return f"{self.name}=={self.version}"


PEERS = (
    Peer("frontrun", "0.7.0", FRONTRUN, (3, 11), "frontrun"),
    Peer("interleave-test", "0.1.0", INTERLEAVE_TEST, (3, 12)),
)


def _against(peer: Peer, folder: Path) -> Figure:
    ratios = {}
    python = str(folder / "bin" / "python")
    runner = [python] if peer.runner == "python" else [str(folder / "bin" / peer.runner), python]
    for tasks in (2, 3):
        ours, its = [], []
        for _ in range(2):  # in turns, so that other load disturbs both
            ours.append(_printed([python, "-c", OURS, str(tasks)]))
            its.append(_printed([*runner, "-c", peer.script, str(tasks)]))
        ratios[tasks] = max(ours) / max(its)
    version = subprocess.check_output([python, "-V"], text=True).split()[1]
    return Figure(
        f"explore_against_{peer.name.replace('-', '_')}",
        round(min(ratios.values()), 1),
        "times its executions/s",
        f"{GOAL_PEERS} or more",
        f"two tasks that increment: {ratios[2]:.1f}, three: {ratios[3]:.1f}; {peer.package}, "
        f"by CPU time, CPython {version}",
    )


def _printed(command: list[str]) -> float:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "src"))),
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    return float(done.stdout.split()[-1])


def _interpreter(oldest: tuple[int, int]) -> str | None:
    """A Python that is young enough: this one, one in the path, or one of pyenv."""
    if sys.version_info >= oldest:
        return sys.executable
    found = [shutil.which(f"python3.{minor}") for minor in range(oldest[1], oldest[1] + 4)]
    found += map(str, sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python")))
    test = f"import sys, venv; sys.exit(sys.version_info < {oldest})"
    for python in filter(None, found):
        if not subprocess.run([python, "-c", test], check=False, capture_output=True).returncode:
            return python
    return None


def _environment(peer: Peer) -> Path | None:
    """A virtual environment with the peer and what mmigrate needs; None if there can be none."""
    folder = Path(tempfile.gettempdir()) / f"mmigrate-peers-{os.getuid()}" / peer.name
    if (folder / "installed").exists():
        return folder
    python = _interpreter(peer.oldest)
    if python is None:
        return None
    needs = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    for command in (
        [python, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", peer.package, *needs],
    ):
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return None
    (folder / "installed").touch()
    return folder


def _kernel() -> list[Figure]:
    """The races of the catalogue, with their fix, each again and again for half a second; those
    that end after a few executions would tell the rate of boots.  The best of three turns, as
    other load on the host disturbs all that runs in one of them."""
    races = [
        (row.scenario, row.options(True))
        for row in CATALOGUE
        if row.kind is Kind.RACE and row.scenario is not None
    ]
    enough = [
        (scenario, machine)
        for scenario, machine in races
        if explore(
            scenario, machine=machine, keep_going=True, max_executions=LEAST_EXECUTIONS
        ).executions
        == LEAST_EXECUTIONS
    ]
    turns = [
        [rate(scenario, 0.5, machine=machine, max_seconds=1) for scenario, machine in enough]
        for _ in range(3)
    ]
    ordered = sorted(map(max, zip(*turns, strict=True)))
    return [
        Figure(
            "explore_kernel_per_s",
            round(ordered[len(ordered) // 2]),
            "executions/s/core",
            f"{GOAL_KERNEL:,} or more",
            f"median of the {len(ordered)} races of the catalogue with {LEAST_EXECUTIONS} "
            f"executions or more; from {ordered[0]:.0f} to {ordered[-1]:.0f}; by CPU time, "
            f"best of 3, CPython {platform.python_version()}",
        )
    ]


def _larger(tasks: Any) -> None:
    counter = Shared(0, "counter")

    def increment(times: int) -> None:
        for _ in range(times):
            counter.store(counter.load() + 1)

    for times in (4, 2, 2):
        tasks.start(increment, times)


def _two_workers() -> Figure:
    """Rates of two workers and of one, taken in turns, so that other load disturbs both."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2):
        for jobs in (1, 2):
            started = perf_counter()
            result = explore(_larger, keep_going=True, minimise=False, jobs=jobs)
            assert (result.classes, result.exhausted) == (135_652, True)
            rates[jobs].append(result.executions / (perf_counter() - started))
    return Figure(
        "explore_two_workers",
        round(max(rates[2]) / max(rates[1]), 2),
        "times one worker",
        f"{GOAL_TWO_WORKERS} or more",
        f"four, two and two increments: 135,652 classes; {os.cpu_count()} CPUs, best of 2",
    )
