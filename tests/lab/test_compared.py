"""Cases of the collection, live in the guest of the other tests, against the model of it."""

from dataclasses import replace

import pytest

from mmigrate.compare.cases import load_cases
from mmigrate.compare.kernels import Told, release_of
from mmigrate.compare.verdicts import judge
from tests.lab.conftest import COMPARED, EXAMPLES, TWO_NODES, chosen_kernel

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("file", "name"), COMPARED)
def test_the_kernel_answers_as_the_model(live, file, name):
    (case,) = load_cases([f"{EXAMPLES}/collection/{file}.py:{name}"])
    case = replace(case, scenario=replace(case.scenario, options=TWO_NODES))
    release = release_of(chosen_kernel().release)

    verdict = judge(case, Told.of(live[case.name]), release, release)

    assert verdict.outcome == "same", verdict
