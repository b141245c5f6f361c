"""What real scenarios did in a real guest; one boot for all.

MMIGRATE_LIVE_KERNEL chooses another kernel by the beginning of its release, such as 6.12.
"""

import pytest

from tests.lab.conftest import LIVE

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        *LIVE,
        "shape",
        "numastat_agrees",
        "memory_follows_its_cpuset",
        "own_pages_do_not_count",
        "huge_pages",
        "mounts_of_hugetlbfs",
        "transparent_huge_pages",
        "equal_pages_are_merged",
        "a_page_is_soft_offlined",
        "a_balloon_is_filled_from_outside",
        "charges",
        "balancing",
        "compaction_and_caches",
        "complaints_of_the_kernel_are_found",
        "files_of_all_kinds",
    ],
)
def test_scenario(live, name):
    outcome = live[name].get("result", live[name])
    assert outcome.get("failed", outcome) is None
    assert outcome["violations"] == []


def test_what_takes_too_long_is_ended(live):
    assert live["never_ends"]["error"] == "did not end within 1 s"


def test_what_kills_its_process_is_told(live):
    assert live["kills_its_process"]["error"] == "was killed by SIGKILL"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("needs_five_nodes", "the scenario needs 5 nodes; this kernel has 4"),
        ("needs_other_distances", "node 0 must be at distances [10, 20]; they are [10, 15]"),
    ],
)
def test_what_this_kernel_cannot_run_is_told(live, name, reason):
    assert live[name]["missing"] == reason
