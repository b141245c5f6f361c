"""Every row of the catalogue is as it says, without its commit and with it.

In `make test` a race with its fix is searched for so many executions only; the whole is what
`mmigrate history` does, or HISTORY=long with these tests.
"""

import os
from dataclasses import replace

import pytest

from mmigrate import Machine, ScenarioError
from mmigrate.explore.verify import verify
from mmigrate.history import CATALOGUE, SEED, Kind, kill_vma_migrate, row
from mmigrate.linux.include.switches import SWITCHES

BOUND = 200_000 if os.environ.get("HISTORY") == "long" else 60
THERE = [found for found in CATALOGUE if found.scenario is not None]


@pytest.mark.slow
@pytest.mark.parametrize("found", THERE, ids=lambda found: found.commit)
def test_row(found):
    verdict = verify(found, max_executions=BOUND, max_without=1000)
    assert verdict.without.right, verdict.without.told
    assert verdict.fixed.right or verdict.fixed.cut_off, verdict.fixed.told


def test_the_seed_comes_first_and_whole():
    assert tuple(found.commit for found in CATALOGUE[: len(SEED)]) == SEED
    assert len(SEED) == 10


def test_every_row_has_a_switch_and_says_what_is_seen():
    for found in CATALOGUE:
        assert found.commit in SWITCHES
        assert found.problem.endswith(".")
        assert all(found.seen)
        if found.kind is Kind.RACE and found.scenario is not None:
            assert found.finding


def test_a_row_that_is_not_there_is_never_verified():
    absent = replace(row("d3cb8bf"), scenario=None)
    verdict = verify(absent)
    assert (verdict.there, verdict.verified) == (False, False)


def test_a_row_that_is_wrong_is_not_verified():
    """The check can fail: the scenario of one commit says nothing of another."""
    wrong = [
        type(row("d3cb8bf"))(
            commit=row("20841405940e").commit,
            problem="x.",
            kind=Kind.RACE,
            scenario=row("d3cb8bf").scenario,
            seen=("x", "x"),
            finding="contents",
        ),
        type(row("d3cb8bf"))(
            commit=row("51afb12ba809").commit,
            problem="x.",
            kind=Kind.STATE,
            scenario=lambda machine: {"value": machine.kernel.has("51afb12ba809")},
            seen=("x", "x"),
            without={"value": True},
            fixed={"value": True},
        ),
    ]
    assert [verify(found).verified for found in wrong] == [False, False]


def test_a_row_is_found_by_the_beginning_of_its_commit():
    assert row("d3cb8bf").commit == "d3cb8bf6081b"
    with pytest.raises(ScenarioError, match="no switch for commit"):
        row("0123456")


def test_areas_without_the_method_are_migrated_alike():
    """But for the call of sysfs, which asks nobody."""
    without = kill_vma_migrate.areas_without_the_method(Machine(without=["50062175ffc8"]))
    fixed = kill_vma_migrate.areas_without_the_method(Machine())
    assert (without.pop("calls"), fixed.pop("calls")) == (1, 0)
    assert without == fixed == {"answer": 0, "placement": {1: 5}}
