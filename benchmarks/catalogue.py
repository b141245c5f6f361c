"""The races of the catalogue: how long each is searched for without its commit, and to the end
with it; and the rate of such executions."""

from __future__ import annotations

import platform

from benchmarks.reference_loop import seconds_a_round
from mmigrate.cli.bench import Figure
from mmigrate.explore.verify import verify
from mmigrate.history import CATALOGUE, Kind

GOAL_FOUND_S = 5.0
GOAL_EXHAUSTED_S = 60.0
GOAL_PER_S = 1500


def run() -> list[Figure]:
    found: dict[str, float] = {}
    exhausted: dict[str, float] = {}
    rates: dict[str, float] = {}
    loop = 1 / seconds_a_round()
    for row in CATALOGUE:
        if row.kind is not Kind.RACE or row.scenario is None:
            continue
        verdict = verify(row)
        assert verdict.verified, row.commit
        assert verdict.without is not None
        assert verdict.fixed is not None
        assert verdict.fixed.result is not None
        found[row.commit] = verdict.without.seconds
        exhausted[row.commit] = verdict.fixed.seconds
        rates[row.commit] = verdict.fixed.result.executions / verdict.fixed.seconds
    conditions = f"{len(found)} races, default strategy, one core, CPython "
    conditions += platform.python_version()
    slowest, longest = max(found, key=found.__getitem__), max(exhausted, key=exhausted.__getitem__)
    quickest = max(rates, key=rates.__getitem__)
    return [
        Figure(
            "catalogue_slowest_race_found_s",
            round(found[slowest], 2),
            "s",
            f"{GOAL_FOUND_S} or less",
            f"{slowest}; {conditions}",
        ),
        Figure(
            "catalogue_longest_exhausted_s",
            round(exhausted[longest], 2),
            "s",
            f"{GOAL_EXHAUSTED_S} or less",
            f"{longest}; {conditions}",
        ),
        Figure(
            "catalogue_executions_per_s",
            round(rates[quickest]),
            "executions/s",
            f"{GOAL_PER_S:,} or more",
            f"{quickest}, the best of {conditions}",
        ),
        Figure(
            "catalogue_executions_per_reference_loop",
            round(rates[quickest] / loop, 6),
            "executions a round",
            f"the reference loop: {loop:,.0f} rounds/s in the same run",
            "compares machines of different speed",
        ),
    ]
