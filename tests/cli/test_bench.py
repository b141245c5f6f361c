"""`mmigrate bench`, and that every benchmark can be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmigrate.cli import bench, main
from mmigrate.cli.bench import Figure


def test_json_names_each_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "reference_loop", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    figure = figures["reference_loop"]
    assert figure["value"] > 0
    assert figure["unit"] == "rounds/s"
    assert set(figure) >= {"value", "unit", "against"}


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    bench.print_figures([Figure("move_pages", 25_000, "pages/s", "goal 40,000", "[4 KiB]")])
    shown = capsys.readouterr().out
    for word in ("move_pages", "25,000", "pages/s", "goal 40,000", "[4 KiB]"):
        assert word in shown


def test_unknown_name_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "nothing"]) == 2
    assert "reference_loop" in capsys.readouterr().err


def test_without_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "FOLDER", tmp_path / "benchmarks")
    assert main.run(["bench"]) == 3
    assert "clone the repository" in capsys.readouterr().err


@pytest.mark.parametrize("name", bench.benchmarks(bench.FOLDER))
def test_every_benchmark_loads(name: str) -> None:
    assert callable(bench._load(name, bench.FOLDER / f"{name}.py"))


def test_the_benchmarks_that_there_are():
    """Each can be loaded, and the cheap ones give the figures they promise."""
    there = bench.benchmarks(bench.FOLDER)
    assert {"boot", "move_pages", "plan", "reference_loop"} <= set(there)
    names = [figure.name for figure in bench._load("boot", there["boot"])()]
    assert names == ["boot_64g_ms"]


def test_memory_is_measured_in_a_process_of_its_own():
    from benchmarks import move_pages

    move_pages_pages, move_pages.PAGES = move_pages.PAGES, 256
    try:
        assert move_pages._grow() >= 0
    finally:
        move_pages.PAGES = move_pages_pages
