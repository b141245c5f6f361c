"""Schedules of findings that are kept: each leads to its violation again, and with the commit
that cures it to none.

`python -m tests.races.record` records them anew when the code they go through has changed; until
then the same search must still find the same, and the replay must say that it does not fit.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from mmigrate.errors import ReplayMismatch
from mmigrate.explore import read_schedule, replay
from mmigrate.explore.verify import verify
from tests.races.record import HERE, RACES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("row", RACES, ids=lambda row: row.commit)
def test_a_kept_finding_is_repeated(row):
    schedule = read_schedule(HERE / f"{row.commit}.schedule")
    try:
        repeated = replay(schedule, row.scenario)
    except ReplayMismatch:
        verdict = verify(row, max_executions=1, max_without=1000)
        repeated = replay(verdict.without.result.finding.schedule, row.scenario)
    assert not [step for step in repeated.steps if " at 0x" in step.word + step.old + step.new]
    assert repeated.violation == schedule.violation
    assert str(repeated.violation).startswith(row.finding)


def test_each_race_has_one_and_no_other():
    assert {file.stem for file in HERE.glob("*.schedule")} == {row.commit for row in RACES}


@pytest.mark.parametrize("row", RACES, ids=lambda row: row.commit)
def test_they_name_a_scenario_of_this_repository(row):
    file, _, name = read_schedule(HERE / f"{row.commit}.schedule").scenario.rpartition(":")
    assert not Path(file).is_absolute()
    assert (ROOT / file).is_file()
    assert name == row.scenario.__name__


def test_with_the_commit_the_schedule_of_the_finding_finds_nothing():
    """As far as it can be followed: the fixed kernel may take other steps from some point on."""
    row = next(row for row in RACES if row.commit == "d3cb8bf6081b")
    schedule = read_schedule(HERE / f"{row.commit}.schedule")
    fixed = replace(schedule, options=row.options(True), violation=None, digest="")
    assert replay(fixed, row.scenario).violations == ()
