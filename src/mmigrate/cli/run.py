"""`mmigrate run FILE`: run the scenarios of a file on the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from mmigrate.cli import output
from mmigrate.cli.sizes import parse_sizes
from mmigrate.errors import MmigrateError
from mmigrate.machine.scenario import Outcome, load, run


def command(
    file: Annotated[
        str, typer.Argument(metavar="FILE[:NAME]", help="A scenario file.", show_default=False)
    ],
    nodes: Annotated[
        str | None,
        typer.Option(help="Memory of each node, such as 64M,64M, in place of the file's."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="The longest a scenario may take.")] = 60,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Run scenarios: functions that take a machine. Every oracle is asked at the end.

    \b
    Example:  mmigrate run examples/first_move.py
              mmigrate run examples/racing.py:writer_and_mover --json

    \b
    Exit code: 0 all clean; 1 a violation or an assertion that failed;
               2 no such file, not a scenario, or it raised or did not end
    """
    path, _, name = file.partition(":")
    scenarios = load(Path(path), name or None)
    options = {} if nodes is None else {"nodes": parse_sizes(nodes)}
    outcomes: list[Outcome] = []
    errors: list[tuple[str, MmigrateError]] = []
    with output.progress() as report:
        for number, scenario in enumerate(scenarios):
            report(scenario.name, number, len(scenarios))
            try:
                outcomes.append(run(scenario, seconds=seconds, **options))
            except MmigrateError as error:
                errors.append((scenario.name, error))
    if as_json:
        output.print_json(
            {
                "results": [
                    {"name": o.name, "clean": o.clean, "failed": o.failed} for o in outcomes
                ]
                + [{"name": n, "clean": False, "failed": str(e)} for n, e in errors],
                "vmstat": {o.name: o.vmstat for o in outcomes},
                "violations": [
                    {
                        "scenario": o.name,
                        "oracle": v.oracle,
                        "subject": v.subject,
                        "message": v.message,
                    }
                    for o in outcomes
                    for v in o.violations
                ],
            }
        )
    else:
        _print(outcomes, {scenario.name: scenario.title for scenario in scenarios})
    if errors:
        raise errors[0][1]
    if not all(outcome.clean for outcome in outcomes):
        raise typer.Exit(1)


def _print(outcomes: list[Outcome], titles: dict[str, str]) -> None:
    console = Console(highlight=False)
    for outcome in outcomes:
        mark = "[green]ok[/]  " if outcome.clean else "[red]FAIL[/]"
        console.print(
            f"{mark} {outcome.name}  [dim]{escape(titles[outcome.name])}[/]",
            soft_wrap=True,
        )
        if outcome.failed:
            console.print(f"     {escape(outcome.failed)}")
        for violation in outcome.violations:
            console.print(f"     [red]{escape(str(violation))}[/]")
