"""`mmigrate explore FILE[:NAME]`: all interleavings of a scenario."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mmigrate.cli import output
from mmigrate.cli.sizes import parse_sizes
from mmigrate.explore.replay import replay
from mmigrate.explore.result import Finding, Result, words_of
from mmigrate.explore.search import Progress, explore
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
    strategy: Annotated[
        str,
        typer.Option(help="dpor (one of each class), dfs (all), pct or random (never end)."),
    ] = "dpor",
    preemptions: Annotated[
        int | None, typer.Option(min=0, help="All interleavings with at most so many.")
    ] = None,
    delays: Annotated[
        int | None, typer.Option(min=0, help="All interleavings with at most so many turns lost.")
    ] = None,
    max_executions: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many; that is no pass.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after so long; that is no pass.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of pct and random.")] = 0,
    depth: Annotated[int, typer.Option(min=1, help="Of pct: places where priorities change.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    executor: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Workers of a cluster, such as dask://host:8786."),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Look for more behind the first finding.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Where a search that is interrupted is left off.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with a search that was left off.")
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
    Example:  mmigrate explore examples/racing.py:forker_and_mover
              mmigrate explore my.py:mine --without d3cb8bf6081b --max-executions 10000
              mmigrate explore my.py:mine --jobs 2 --save left.json

    \b
    Exit code: 0 exhausted (within the bounds asked for), nothing found; 1 a finding, or nothing
               found but not exhausted, or a `sometimes` that was never met; 2 bad input
               3 there is no such executor
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
                preemptions=preemptions,
                delays=delays,
                max_executions=max_executions,
                max_seconds=max_seconds,
                seed=seed,
                depth=depth,
                jobs=jobs,
                executor=executor,
                keep_going=keep_going,
                progress=partial(_show, report, scenario.name),
                resume=resume,
                save=save,
            )
            results[scenario.name] = result
            if result.finding is not None:
                kept[scenario.name] = _keep(result.finding, scenario.name, findings)
            if result.interrupted:
                break
    if as_json:
        found = {name: _json(result, kept.get(name)) for name, result in results.items()}
        output.print_json(next(iter(found.values())) if name else {"scenarios": found})
    else:
        _print(results, kept)
    if not all(map(_passes, results.values())):
        raise typer.Exit(1)


def _passes(result: Result) -> bool:
    """Clean, or all that was asked for by a bound has been tried and nothing was found."""
    return result.exhausted and not result.found and not result.unmet


def _show(report: output.Report, name: str, progress: Progress) -> None:
    """How far a search is: its rate, and how much there may be of it."""
    words = f"{name}: {progress.executions:,} executions, {progress.rate:,.0f}/s"
    if progress.estimate is None and progress.first is not None:
        words = f"{name}: an execution has {progress.first}"
    if progress.findings:
        words += f", {progress.findings} found"
    if progress.estimate is not None:
        words += f", of about {progress.estimate:,.0f}"
    report(words, progress.executions, round(progress.estimate or 0))


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
        words = str(result)
        if not result.exhausted and not result.found:
            why = words_of(result.bounds) or ("interrupted" if result.interrupted else "no end")
            words = f"no finding in {result.executions:,} executions, NOT exhausted ({why})"
        size = f"; an execution has {result.first}" if result.first is not None else ""
        console.print(f"{name}: {words}  [dim]({result.seconds:.2f} s{size})[/]", soft_wrap=True)
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
        "interrupted": result.interrupted,
        "exhausted": result.exhausted,
        "bounds": result.bounds,
        "estimate": None if result.estimate is None else round(result.estimate),
        "expected": result.expected,
        "first": result.first and asdict(result.first),
        "seconds": round(result.seconds, 3),
        "schedule": str(file) if file is not None else None,
        "sometimes": result.met,
        "certificate": result.certificate,
    }
