"""What a cpuset of cgroups of version 2 would do unasked."""

from dataclasses import dataclass

import pytest

from mmigrate.errors import Missing
from mmigrate.real.groups import Cpuset


@dataclass
class Member:
    text: str
    pid: int = 7
    exited: bool = False

    def numa_maps(self):
        return self.text


def cpuset(folder, moves_unasked):
    group = Cpuset(folder, moves_unasked)
    group.set_mems([0, 1])
    return group


def test_memory_that_is_allowed_may_join_and_stay(tmp_path):
    group = cpuset(tmp_path, True)
    group.attach(Member("7f00 default anon=3 dirty=3 N0=2 N1=1 kernelpagesize_kB=4"))
    group.attach(Member("7f00 default"))
    group.set_mems([0, 1, 2])
    assert (tmp_path / "cgroup.procs").read_text() == "7"
    assert group.mems == "0,1,2"


def test_memory_that_would_follow_unasked_is_missing(tmp_path):
    group = cpuset(tmp_path, True)
    with pytest.raises(Missing, match="version 2"):
        group.attach(Member("7f00 default anon=1 N2=1"))
    group.attach(Member("7f00 default anon=1 N0=1"))
    with pytest.raises(Missing, match="version 2"):
        group.set_mems([1])
    assert group.mems == "0,1"


def test_where_it_was_asked_for_or_version_1_stays_as_it_is(tmp_path):
    group = cpuset(tmp_path, False)
    group.attach(Member("7f00 default anon=1 N2=1"))
    group.set_mems([1])
    assert group.mems == "1"
