"""Commits taken away and added."""

import pytest

from mmigrate import Machine, ScenarioError
from mmigrate.linux.include.switches import CLOSE_MPROTECT_RACE, SWITCHES, absent_commits


def test_the_default_kernel_has_all_of_its_release_and_nothing_later():
    absent = absent_commits()
    assert CLOSE_MPROTECT_RACE not in absent
    assert Machine().kernel.has(CLOSE_MPROTECT_RACE)
    assert absent_commits("v99.0") == frozenset()


def test_a_commit_can_be_named_short_or_whole():
    for name in ("d3cb8bf", "d3cb8bf6081b8b7a2dabb1264fe968fd870fa595"):
        assert CLOSE_MPROTECT_RACE in absent_commits(without=[name])
        assert not Machine(without=[name]).kernel.has(CLOSE_MPROTECT_RACE)


@pytest.mark.parametrize("name", ["", "d3cb8", "0000000000000"])
def test_no_such_commit(name):
    with pytest.raises(ScenarioError, match="no switch for commit"):
        Machine(without=[name])


@pytest.mark.parametrize("release", ["v2.6.20", "six"])
def test_no_such_release(release):
    with pytest.raises(ScenarioError, match=release.removeprefix("v2.6.20") or "begins at"):
        Machine(kernel=release)


def test_ids_are_twelve_digits():
    for commit in SWITCHES:
        named = "-" in commit  # the id is not known for sure
        assert named or (len(commit) == 12 and int(commit, 16))
