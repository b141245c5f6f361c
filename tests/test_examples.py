"""Every scenario of examples/ runs, holds what it asserts, and leaves every oracle content."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmigrate.machine.scenario import Scenario, load, run

FILES = sorted(Path(__file__).parents[1].glob("examples/*.py"))
SCENARIOS = [
    pytest.param(scenario, id=f"{file.stem}:{scenario.name}")
    for file in FILES
    for scenario in load(file)
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: Scenario) -> None:
    outcome = run(scenario)
    assert outcome.failed is None
    assert outcome.violations == []
    assert scenario.title, "a scenario says in its docstring what it shows"
