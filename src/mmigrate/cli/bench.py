"""`mmigrate bench`: run the benchmarks of the source tree.

A benchmark is a file of the folder `benchmarks/` at the root of the checkout, with a function
`run() -> list[Figure]`. A figure is a ratio wherever one can be had, since only ratios can be
compared between machines: `against` says to what.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmigrate.cli import output
from mmigrate.errors import EnvironmentLacks, InternalError, UsageError

FOLDER = Path(__file__).parents[3] / "benchmarks"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    @against: what it is to be compared with: a figure, a bound, or what it is a ratio to.
    @conditions: what else one must know to measure it again.
    """

    name: str
    value: float
    unit: str
    against: str = ""
    conditions: str = ""


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Benchmarks to run; all, if none is named.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Run the benchmarks in the folder benchmarks/ of a source checkout.

    \b
    Example:  mmigrate bench
              mmigrate bench reference_loop --json

    \b
    Exit code: 0 measured; 2 no such benchmark; 3 this is no source checkout
    """
    there = benchmarks(FOLDER)
    chosen = _choose(there, names or [])
    figures: list[Figure] = []
    with output.progress() as report:
        for number, name in enumerate(chosen):
            report(name, number, len(chosen))
            figures += _load(name, there[name])()
    if as_json:
        output.print_json(as_object(figures))
    else:
        print_figures(figures)


def benchmarks(folder: Path) -> dict[str, Path]:
    """Name to file, in order of name.  Raises EnvironmentLacks: there is no such folder."""
    if not folder.is_dir():
        raise EnvironmentLacks(
            "the benchmarks are not installed with the package; clone the repository and type "
            "make bench"
        )
    return {file.stem: file for file in sorted(folder.glob("*.py")) if file.stem[0] != "_"}


def _choose(there: dict[str, Path], names: list[str]) -> list[str]:
    for name in names:
        if name not in there:
            raise UsageError(f"there is no benchmark {name}; there are {', '.join(there)}")
    return names or list(there)


def _load(name: str, file: Path) -> Callable[[], list[Figure]]:
    """The function `run` of a benchmark, which can import its neighbours from `benchmarks`."""
    root = str(file.parents[1])
    if root not in sys.path:
        sys.path.append(root)
    run: Callable[[], list[Figure]] | None = getattr(
        import_module(f"benchmarks.{name}"), "run", None
    )
    if run is None:
        raise InternalError(f"{file} has no function run")
    return run


def as_object(figures: list[Figure]) -> dict[str, Any]:
    """What --json prints."""
    return {
        figure.name: {
            "value": figure.value,
            "unit": figure.unit,
            "against": figure.against,
            "conditions": figure.conditions,
        }
        for figure in figures
    }


def print_figures(figures: list[Figure]) -> None:
    """The table for people, and under it what does not fit into a column."""
    table = Table()
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("against")
    for figure in figures:
        value = f"{figure.value:,.0f}" if abs(figure.value) >= 1000 else f"{figure.value:.4g}"
        table.add_row(escape(figure.name), value, escape(figure.unit), escape(figure.against))
    console = Console(highlight=False)
    console.print(table)
    for figure in figures:
        if figure.conditions:
            console.print(f"[bold]{escape(figure.name)}[/]: {escape(figure.conditions)}")
