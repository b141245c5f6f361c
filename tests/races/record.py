"""Record again the schedules that are kept here, after the code that they go through has changed.

.venv/bin/python -m tests.races.record
"""

from __future__ import annotations

from pathlib import Path

from mmigrate.explore.verify import verify
from mmigrate.history import CATALOGUE, Kind

HERE = Path(__file__).parent
RACES = [row for row in CATALOGUE if row.kind is Kind.RACE and row.scenario is not None]


def record() -> None:
    """The finding of each race without its commit, as a schedule."""
    for row in RACES:
        verdict = verify(row, max_executions=1, max_without=1000, minimise=True)
        assert verdict.without is not None
        assert verdict.without.result is not None
        finding = verdict.without.result.finding
        assert finding is not None, row.commit
        finding.schedule.write(HERE / f"{row.commit}.schedule")


if __name__ == "__main__":
    record()
