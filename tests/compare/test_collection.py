"""The collection runs on the model and says something."""

import ast
from pathlib import Path

import pytest

from mmigrate.compare.answers import COMPLAINTS, COUNTERS
from mmigrate.compare.cases import load_cases
from mmigrate.compare.kernels import Told
from mmigrate.compare.model import allowed_answers
from mmigrate.compare.verdicts import judge

COLLECTION = Path(__file__).parents[2] / "examples/collection"
CASES = load_cases([str(COLLECTION)])


DEFECTS_OF_V3_19 = (
    "huge_pages:soft_offline",  # a bad page takes the free block that it is the head of along
    "huge_pages:hugetlbfs_limit_and_moves",  # a page that moves forgets its mount
    "huge_pages:hugetlbfs_limit_and_private_moves",
)


def test_it_is_large_and_every_case_says_what_it_shows():
    assert len(CASES) >= 120
    assert [case.name for case in CASES if not case.scenario.title] == []


def test_it_uses_nothing_but_the_user_level_api():
    for path in COLLECTION.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module in ("mmigrate", "mmigrate.observe"), path


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["v3.19"])
def test_the_model_answers_and_no_oracle_objects(kernel):
    for case in CASES:
        allowed = allowed_answers(case, kernel, seeds=3)
        assert allowed.answers or allowed.missing
        if case.name not in DEFECTS_OF_V3_19:
            assert all(COMPLAINTS not in answer for answer in allowed.answers), case.name


def case_named(name):
    return next(case for case in CASES if case.name == name)


def test_a_kernel_that_answers_otherwise_differs():
    case = case_named("move_pages_statuses:moved")
    (right,) = allowed_answers(case, "v3.19").answers
    assert judge(case, Told(((right, 1),)), "v3.19", "v3.19").outcome == "same"
    verdict = judge(case, Told((({**right, "status": "1 2 2"}, 1),)), "v3.19", "v3.19")
    assert verdict.outcome == "different"
    (observation,) = verdict.observations
    assert (observation.key, observation.model, observation.kernel) == (
        "status",
        ("1 2 1",),
        (("1 2 2", 1),),
    )
    assert right[COUNTERS] == {"pgmigrate_success": 3, "pgmigrate_fail": 0}


def test_a_kernel_that_lacks_something_is_skipped_and_one_that_fails_differs():
    case = case_named("move_pages_statuses:moved")
    assert judge(case, Told(missing="no nodes"), "v3.19", "v3.19").outcome == "skipped"
    assert judge(case, Told(error="it hung"), "v3.19", "v3.19").outcome == "different"
