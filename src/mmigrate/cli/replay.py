"""`mmigrate replay SCHEDULE`: repeat a recorded schedule, and show it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmigrate.cli import output
from mmigrate.explore.replay import replay
from mmigrate.explore.schedule import read_schedule
from mmigrate.report.interleaving import interleaving_table


def command(
    schedule: Annotated[
        Path, typer.Argument(help="A file that `mmigrate explore` wrote.", show_default=False)
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="All steps, also of long runs of one task.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Repeat a recorded schedule step by step, a column for each task.

    \b
    Example:  mmigrate replay findings/mprotect_meets_restore-1.schedule

    \b
    Exit code: 0 it found nothing when it was recorded, and finds nothing now;
               1 the violation it was recorded for; 2 it does not fit the code or
               the scenario any more, or is no schedule
    """
    repeated = replay(read_schedule(schedule))
    if as_json:
        output.print_json(
            {
                "violation": str(repeated.violation) if repeated.violation else None,
                "steps": [asdict(step) for step in repeated.steps],
                "conflict": repeated.conflict,
            }
        )
    else:
        Console(highlight=False).print(
            interleaving_table(
                repeated.steps,
                repeated.tasks,
                repeated.violations,
                repeated.conflict,
                f"mmigrate replay {schedule}",
                everything=everything,
            )
        )
    if repeated.violation is not None:
        raise typer.Exit(1)
