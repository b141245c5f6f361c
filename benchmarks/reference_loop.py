"""A fixed loop of plain Python, by whose speed the other figures are divided.

A figure in rounds of this loop says the same on a fast and on a slow computer. So the loop
never changes: a change would make all older figures incomparable.
"""

from __future__ import annotations

import platform
import time
from functools import cache
from typing import Final

from mmigrate.cli.bench import Figure

ROUNDS: Final = 20_000
REPETITIONS: Final = 9


class _Cell:
    """What the loop works on: an object with slots, in a ring, as the model's objects are."""

    __slots__ = ("count", "flags", "following")

    def __init__(self) -> None:
        self.count = 0
        self.flags = 0
        self.following: _Cell = self


def _ring(size: int) -> _Cell:
    first = last = _Cell()
    for _ in range(size - 1):
        last.following = _Cell()
        last = last.following
    last.following = first
    return first


def _visit(cell: _Cell, number: int) -> _Cell:
    if not cell.flags & 1:
        cell.count += number
        cell.flags ^= 2
    return cell.following


def loop(rounds: int) -> int:
    """A round is a call, a test of a bit, two stores and an entry of a dict."""
    cell = _ring(64)
    seen: dict[int, int] = {}
    for number in range(rounds):
        cell = _visit(cell, number)
        seen[number & 255] = cell.count
    return sum(seen.values())


@cache
def seconds_a_round() -> float:
    """The best of several measurements, since whatever disturbs one can only slow it down."""
    best = float("inf")
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        loop(ROUNDS)
        best = min(best, time.perf_counter() - started)
    return best / ROUNDS


def run() -> list[Figure]:
    conditions = (
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"best of {REPETITIONS} times {ROUNDS:,} rounds"
    )
    return [
        Figure(
            "reference_loop",
            1 / seconds_a_round(),
            "rounds/s",
            "itself: other figures are given in its rounds",
            conditions,
        )
    ]
