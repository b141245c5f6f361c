"""`mmigrate snapshot`, as it is typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer
from typer.testing import CliRunner

from mmigrate.cli.snapshot import command
from mmigrate.errors import UsageError
from mmigrate.snapshot import format

application = typer.Typer()
application.command()(command)


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "self.snap"
    result = CliRunner().invoke(application, [str(os.getpid()), "-o", str(path), "--json"])
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    snapshot = format.read(path)
    assert answer["pages"] == snapshot.summary().resident
    assert answer["pages"] == sum(vma["pages"] for vma in answer["vmas"])
    assert len(answer["vmas"]) == len(snapshot.vmas)
    assert answer["bytes"] == path.stat().st_size


def test_table(tmp_path: Path) -> None:
    path = tmp_path / "self.snap"
    result = CliRunner().invoke(application, [str(os.getpid()), "-o", str(path)])
    assert result.exit_code == 0
    assert "resident" in result.stdout
    assert "address space" in result.stdout


def test_nothing_is_written_when_nothing_is_recorded(tmp_path: Path) -> None:
    result = CliRunner().invoke(application, ["999999999", "-o", str(tmp_path / "x.snap")])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == "there is no process 999999999"
    assert list(tmp_path.iterdir()) == []
