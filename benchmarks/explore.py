"""The explorer: classes and rates of classic programs beside its peers, of kernel scenarios, and
of two workers beside one.

The peer, frontrun, is run in an environment of its own, which the first run makes; where it
cannot be installed its figure is left out.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from mmigrate import explore
from mmigrate.cli.bench import Figure
from mmigrate.explore import Shared
from mmigrate.explore.program import RwSemaphore, SpinLock, down_write, spin_lock
from mmigrate.history import CATALOGUE, Kind

PEER = "frontrun==0.7.0"
GOAL_PEERS = 10
GOAL_KERNEL = 1_500
GOAL_TWO_WORKERS = 1.7
Program = Callable[[Any], None]
FRONTRUN = """
import sys
from time import perf_counter
import frontrun

class Counter:
    value = 0

def increment(counter):
    counter.value = counter.value + 1

executions, started = 0, perf_counter()
while perf_counter() - started < 2:
    executions += frontrun.explore(
        Counter, increment, lambda counter: True, count=int(sys.argv[1]), stop_on_first=False,
        reproduce_on_failure=0, detect_io=False, preemption_bound=None,
    ).num_explored
print(executions / (perf_counter() - started))
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
    figures = [_classes()]
    figures += _peers()
    figures += _kernel()
    figures.append(_two_workers())
    return figures


def _classes() -> Figure:
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
        ", ".join(CLASSIC),
    )


def _rate(program: Program, seconds: float = 1.0) -> float:
    """Executions per second; a program is explored again and again."""
    executions, started = 0, perf_counter()
    while perf_counter() - started < seconds:
        executions += explore(program, keep_going=True, minimise=False).executions
    return executions / (perf_counter() - started)


def _peers() -> list[Figure]:
    folder = _peer_environment()
    if folder is None:
        return []
    ratios = []
    for tasks in (2, 3):
        ours = _rate(increments(tasks))
        done = subprocess.run(
            [folder / "bin" / "frontrun", folder / "bin" / "python", "-c", FRONTRUN, str(tasks)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        ratios.append(max(ours, _rate(increments(tasks))) / float(done.stdout.split()[-1]))
    return [
        Figure(
            "explore_against_frontrun",
            round(min(ratios), 1),
            "times its executions/s",
            f"{GOAL_PEERS} or more",
            f"two tasks that increment: {ratios[0]:.1f}, three: {ratios[1]:.1f}; {PEER}",
        )
    ]


def _peer_environment() -> Path | None:
    """A virtual environment with the peer; None if it cannot be installed."""
    folder = Path(tempfile.gettempdir()) / f"mmigrate-peers-{os.getuid()}"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq", PEER]
        if subprocess.run(pip, check=False).returncode:
            return None
        (folder / "installed").touch()
    return folder


def _kernel() -> list[Figure]:
    """The races of the catalogue, with their fix, each for not more than a few seconds."""
    rates = {}
    for row in CATALOGUE:
        if row.kind is not Kind.RACE or row.scenario is None:
            continue
        started = process_time()
        result = explore(
            row.scenario,
            machine=row.options(True),
            keep_going=True,
            minimise=False,
            max_seconds=4,
        )
        rates[row.commit] = result.executions / (process_time() - started)
    ordered = sorted(rates.values())
    return [
        Figure(
            "explore_kernel_per_s",
            round(ordered[len(ordered) // 2]),
            "executions/s/core",
            f"{GOAL_KERNEL:,} or more",
            f"median of {len(ordered)} races of the catalogue; from {ordered[0]:.0f} to "
            f"{ordered[-1]:.0f}; by CPU time, CPython {platform.python_version()}",
        )
    ]


def _larger(tasks: Any) -> None:
    counter = Shared(0, "counter")

    def increment(times: int) -> None:
        for _ in range(times):
            counter.store(counter.load() + 1)

    for times in (3, 2, 2):
        tasks.start(increment, times)


def _two_workers() -> Figure:
    """Rates of two workers and of one, taken in turns, so that other load disturbs both."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for jobs in (1, 2):
            started = perf_counter()
            result = explore(_larger, keep_going=True, minimise=False, jobs=jobs)
            assert (result.classes, result.exhausted) == (36_078, True)
            rates[jobs].append(result.executions / (perf_counter() - started))
    return Figure(
        "explore_two_workers",
        round(max(rates[2]) / max(rates[1]), 2),
        "times one worker",
        f"{GOAL_TWO_WORKERS} or more",
        f"three, two and two increments: 36,078 classes; {os.cpu_count()} CPUs, best of 3",
    )
