"""How long a machine takes to boot."""

from __future__ import annotations

import platform
from time import perf_counter

from mmigrate import GiB, Machine
from mmigrate.cli.bench import Figure

GOAL_MS = 20


def run() -> list[Figure]:
    best = min(_boot() for _ in range(20))
    return [
        Figure(
            "boot_64g_ms",
            round(best, 3),
            "ms",
            f"{GOAL_MS} ms or less",
            f"two nodes of 32 GiB, best of 20, Python {platform.python_version()}",
        )
    ]


def _boot() -> float:
    started = perf_counter()
    Machine(nodes=(GiB(32), GiB(32)))
    return (perf_counter() - started) * 1e3
