"""`mmigrate explore FILE[:NAME]`: all interleavings of a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mmigrate.cli import output
from mmigrate.cli.sizes import parse_sizes
from mmigrate.explore.replay import replay
from mmigrate.explore.result import Finding, Result
from mmigrate.explore.search import explore
from mmigrate.machine.scenario import load
from mmigrate.report.interleaving import interleaving_table


def command(
    file: Annotated[
        str, typer.Argument(metavar="FILE[:NAME]", help="A scenario file.", show_default=False)
    ],
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="COMMIT", help="Take a commit away; may be given several times."),
    ] = None,
    backport: Annotated[
        list[str] | None,
        typer.Option(metavar="COMMIT", help="Add a later commit; may be given several times."),
    ] = None,
    nodes: Annotated[
        str | None,
        typer.Option(help="Memory of each node, such as 64M,64M, in place of the file's."),
    ] = None,
    strategy: Annotated[str, typer.Option(help="How to search.")] = "dpor",
    max_executions: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many; that is no pass.")
    ] = None,
    findings: Annotated[
        Path, typer.Option(help="The folder in which schedules of findings are kept.")
    ] = Path("findings"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Run a scenario in all interleavings that can differ, with every oracle asked after each.

    \b
    Example:  mmigrate explore examples/racing.py:writer_and_mover
              mmigrate explore my.py:mine --without d3cb8bf6081b --max-executions 10000

    \b
    Exit code: 0 exhausted, nothing found; 1 a finding, or nothing found but not exhausted, or
               a `sometimes` that was never met; 2 bad input
    """
    path, _, name = file.partition(":")
    options: dict[str, Any] = {} if nodes is None else {"nodes": parse_sizes(nodes)}
    results: dict[str, Result] = {}
    kept: dict[str, Path] = {}
    scenarios = load(Path(path), name or None)
    with output.progress() as report:
        for number, scenario in enumerate(scenarios):
            report(scenario.name, number, len(scenarios))
            result = explore(
                scenario,
                strategy=strategy,
                without=tuple(without or ()),
                backports=tuple(backport or ()),
                machine=options,
                max_executions=max_executions,
            )
            results[scenario.name] = result
            if result.finding is not None:
                kept[scenario.name] = _keep(result.finding, scenario.name, findings)
    if as_json:
        found = {name: _json(result, kept.get(name)) for name, result in results.items()}
        output.print_json(next(iter(found.values())) if name else {"scenarios": found})
    else:
        _print(results, kept)
    if not all(result.clean for result in results.values()):
        raise typer.Exit(1)


def _keep(finding: Finding, name: str, folder: Path) -> Path:
    """Write the schedule beside those that are there already."""
    number = 1
    while True:
        file = folder / f"{name}-{number}.schedule"
        if not file.exists() or file.read_text() == finding.schedule.text():
            break
        number += 1
    finding.schedule.write(file)
    return file


def _print(results: dict[str, Result], kept: dict[str, Path]) -> None:
    console = Console(highlight=False)
    for name, result in results.items():
        console.print(f"{name}: {result}  [dim]({result.seconds:.2f} s)[/]", soft_wrap=True)
        finding = result.finding
        if finding is not None:
            shown = replay(finding.schedule)
            console.print(
                interleaving_table(
                    shown.steps,
                    shown.tasks,
                    shown.violations,
                    shown.conflict,
                    f"mmigrate replay {kept[name]}",
                )
            )


def _json(result: Result, file: Path | None) -> dict[str, Any]:
    return {
        "found": result.found,
        "violation": str(result.violation) if result.found else None,
        "executions": result.executions,
        "classes": result.classes,
        "exhausted": result.exhausted,
        "bounds": result.bounds,
        "seconds": round(result.seconds, 3),
        "schedule": str(file) if file is not None else None,
        "sometimes": result.met,
        "certificate": result.certificate,
    }
