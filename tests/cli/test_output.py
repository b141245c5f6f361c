"""One JSON object on stdout; progress only where a person watches."""

from __future__ import annotations

import json
import time

import pytest
from rich.console import Console

from mmigrate.cli import output


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"pages": 3, "name": "ü"})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"pages": 3, "name": "ü"}
    assert shown.err == ""


def test_no_progress_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 100, 5))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with output.progress() as report:
        report("rebuilding", 1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "appears"), [(0.5, False), (2.0, True)])
def test_progress_on_a_terminal_after_a_second(
    seconds: float,
    appears: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def terminal(*, stderr: bool) -> Console:
        return Console(stderr=stderr, force_terminal=True)

    now = 100.0
    monkeypatch.setattr(output, "Console", terminal)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with output.progress() as report:
        report("rebuilding", 0, 2)
        now += seconds
        report("rebuilding", 1, 2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("rebuilding" in shown.err) is appears


def test_a_rate_where_there_is_a_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminal(*, stderr: bool) -> Console:
        return Console(stderr=stderr, force_terminal=True)

    now = 100.0
    monkeypatch.setattr(output, "Console", terminal)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with output.progress("pages") as report:
        report("rebuilding", 0, 100_000)
        now += 2
        report("rebuilding", 50_000, 100_000)
        now += 2
        report("rebuilding", 60_000, 100_000)
        report("rebuilding", 70_000, 100_000)  # too soon after the last look
    assert "15,000 pages/s" in capsys.readouterr().err
