"""`mmigrate bench`: the benchmarks of the source checkout, each a figure with its conditions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from mmigrate.cli import output
from mmigrate.errors import EnvironmentLacks, UsageError

FOLDER: Final = Path(__file__).resolve().parents[3] / "benchmarks"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    @value, @unit: the figure.  @against: what it is to be compared with: a goal, or a
    figure of the same run.  @conditions: what was measured, on what.
    @ok: whether the goal was met; None where there is none.
    """

    name: str
    value: float
    unit: str
    against: str
    conditions: str
    ok: bool | None = None


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Only these benchmarks.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Run the benchmarks in the folder `benchmarks` of a source checkout.

    \b
    Example:  mmigrate bench
              mmigrate bench boot move_pages --json

    \b
    Exit code: 0 measured (a goal that was missed is marked); 2 no such benchmark;
               3 this is not a source checkout
    """
    modules = find(names or [])
    figures: list[Figure] = []
    with output.progress() as report:
        for number, (name, run) in enumerate(modules):
            report(f"measuring {name}", number, len(modules))
            figures += run()
    if as_json:
        output.print_json(
            {
                figure.name: {
                    "value": figure.value,
                    "unit": figure.unit,
                    "against": figure.against,
                    "conditions": figure.conditions,
                    "ok": figure.ok,
                }
                for figure in figures
            }
        )
        return
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("against")
    table.add_column("conditions", overflow="fold")
    for figure in figures:
        mark = {True: "[green]ok[/] ", False: "[red]missed[/] ", None: ""}[figure.ok]
        table.add_row(
            figure.name,
            f"{figure.value:,.4g} {figure.unit}"
            if figure.value < 1000
            else f"{figure.value:,.0f} {figure.unit}",
            mark + figure.against,
            figure.conditions,
        )
    Console().print(table)


def find(names: list[str]) -> list[tuple[str, Callable[[], list[Figure]]]]:
    """The benchmarks called @names, or all: files with a function `run`."""
    files = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
    if not files:
        raise EnvironmentLacks(
            "the benchmarks are in the source checkout; clone it and run: make bench"
        )
    unknown = [name for name in names if name not in files]
    if unknown:
        raise UsageError(f"no benchmark is called {unknown[0]}; known: {', '.join(files)}")
    return [(name, _load(files[name]).run) for name in names or files]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
