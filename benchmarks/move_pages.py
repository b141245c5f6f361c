"""The rate of straight move_pages, and the memory a resident page takes."""

from __future__ import annotations

import gc
import platform
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from benchmarks.reference_loop import seconds_a_round
from mmigrate import Machine, Mapping, MiB
from mmigrate.cli.bench import Figure
from mmigrate.machine.process import Process

PAGES = 262_144
GOAL_PAGES_PER_S = 40_000
GOAL_BYTES = 700


def run() -> list[Figure]:
    machine, app, heap = _machine()
    rates, loops = [], []
    for target in (1, 0, 1, 0, 1):
        loops.append(1 / seconds_a_round())
        started = perf_counter()
        result = app.move_pages(heap, target)
        rates.append(PAGES / (perf_counter() - started))
        assert set(result.status) == {target}
    assert machine.check() == []
    best = max(rates)
    per_page = _bytes_per_page()
    python = f"CPython {platform.python_version()}, one core"
    return [
        Figure(
            "straight_move_pages_per_s",
            round(best),
            "pages/s",
            f"{GOAL_PAGES_PER_S:,} or more",
            f"{PAGES:,} mapped anonymous pages, all accounting, best of 5, {python}",
        ),
        Figure(
            "straight_move_pages_per_reference_loop",
            round(best / max(loops), 6),
            "pages a round",
            f"the reference loop: {max(loops):,.0f} rounds/s in the same run",
            "compares machines of different speed",
        ),
        Figure(
            "bytes_per_resident_page",
            round(per_page, 1),
            "bytes",
            f"{GOAL_BYTES} or less",
            f"growth of the process by {PAGES:,} touched pages, everything included",
        ),
    ]


def _machine() -> tuple[Machine, Process, Mapping]:
    machine = Machine(nodes=(MiB(1536), MiB(1536)))
    app = machine.process("app")
    heap = app.mmap(PAGES * 4096)
    app.touch(heap)
    return machine, app, heap


def _bytes_per_page() -> float:
    """Measured in a process of its own, so that nothing else has grown it before."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.move_pages"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _grow() -> float:
    gc.collect()
    before = _resident()
    kept = _machine()
    after = _resident()
    assert kept
    return (after - before) / PAGES


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    print(_grow())
