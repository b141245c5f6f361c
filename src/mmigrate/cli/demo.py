"""`mmigrate demo`: a real process of this machine, moved from one node to another."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from mmigrate.cli import output, plan
from mmigrate.cli import snapshot as snapshot_command
from mmigrate.errors import EnvironmentLacks
from mmigrate.explore.replay import replay
from mmigrate.explore.verify import verify
from mmigrate.history import row as race_row
from mmigrate.linux.include.switches import CLOSE_MPROTECT_RACE as RACE
from mmigrate.report.interleaving import interleaving_table
from mmigrate.snapshot import format as snapshot_format
from mmigrate.snapshot.recorder import record
from mmigrate.snapshot.snapshot import Snapshot
from mmigrate.units import MiB


def command(
    size: Annotated[int, typer.Option(help="Memory of the worker in MiB.", min=4, max=16384)] = 64,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Start a worker with several kinds of memory, record it, rebuild it on a modelled machine
    of two nodes, and migrate it from node 0 to node 1, page by page. Then show
    a race of the catalogue: found without its fix, gone with it.

    \b
    Example:  mmigrate demo
              mmigrate demo --size 256 --json

    \b
    Exit code: 0 shown; 1 an oracle found the model wrong, or the race is not as it must be;
               3 /proc is not mounted
    """
    console = Console(highlight=False, quiet=as_json)
    with tempfile.TemporaryDirectory(prefix="mmigrate-") as folder:
        file = Path(folder) / "worker.snap"
        with _worker(size) as pid:
            console.print(
                f"[bold]1.[/] A worker runs as process {pid}, with private, forked, file-backed, "
                "shared, locked and untouched memory. It is recorded while it runs.\n"
            )
            with output.progress("pages") as report:
                taken = record(pid, progress=report)
            written = snapshot_format.write(taken, file)
        snapshot = snapshot_format.read(file)
        if not as_json:
            snapshot_command.print_summary(snapshot, Path("worker.snap"), written)
        sizes = _two_nodes(snapshot)
        console.print(
            f"\n[bold]2.[/] It is rebuilt on a modelled machine of two nodes of "
            f"{sizes[0] >> 20} MiB each, every page on its node, and moved from node 0 to node 1 "
            "as migrate_pages(2) of Linux v3.19 would do it for an ordinary user.\n"
        )
        with output.progress("pages") as report:
            planned, violations = plan.make_plan(snapshot, sizes, "0", "1", report)
        if not as_json:
            plan.print_plan(planned, snapshot, "0", "1", all_areas=False)
        console.print(
            "\n[bold]3.[/] Every oracle was asked afterwards: "
            + ("no violation." if not violations else f"{len(violations)} violations.")
        )
        console.print(
            f"\n[bold]4.[/] One race of the catalogue, {RACE}: {race_row(RACE).title}. "
            f"{race_row(RACE).problem} All interleavings of a migration and an mprotect, on a "
            "kernel without the commit and on one with it:\n"
        )
        race, table = _race()
        console.print(table)
        console.print(
            f"\nWithout the commit: found in {race['without']['executions']} executions. With it: "
            f"{race['with']['executions']} executions, "
            + ("exhausted, nothing found." if race["with"]["exhausted"] else "NOT exhausted.")
        )
        console.print(
            "\nNext: mmigrate snapshot PID -o app.snap, then mmigrate plan app.snap --from 0 --to "
            "1; all commits: mmigrate history"
        )
        if as_json:
            found: dict[str, Any] = {
                "snapshot": snapshot_command.as_object(snapshot, Path("worker.snap"), written),
                "plan": plan.as_object(planned),
                "race": race,
                "violations": [str(violation) for violation in violations],
            }
            output.print_json(found)
    if violations or not race["verified"]:
        raise typer.Exit(1)


def _two_nodes(snapshot: Snapshot) -> list[int]:
    """Two nodes, each with room for the whole process and more."""
    numbers = snapshot.node_numbers()
    needed = snapshot.summary().resident * snapshot.page_size * 2 + MiB(64)
    size = (needed + MiB(64) - 1) // MiB(64) * MiB(64)
    return [size] * max(2, max(numbers) + 1)


@contextmanager
def _worker(size: int) -> Iterator[int]:
    """A process with several kinds of memory; its pid."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "mmigrate.snapshot.example_process", "--size", str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None and worker.stdout is not None
    try:
        line = worker.stdout.readline()
        if not line.startswith("READY"):
            raise EnvironmentLacks("the worker of the demo could not be started")
        yield worker.pid
    finally:
        worker.stdin.close()
        try:
            worker.wait(timeout=10)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        worker.stdout.close()


def _race() -> tuple[dict[str, Any], RenderableType]:
    """A race of the catalogue, verified now; and its finding as a table."""
    verdict = verify(race_row(RACE))
    sides: dict[str, Any] = {}
    for name, seen in (("without", verdict.without), ("with", verdict.fixed)):
        assert seen is not None
        assert seen.result is not None
        sides[name] = {
            "violation": str(seen.result.violation) if seen.result.found else None,
            "executions": seen.result.executions,
            "exhausted": seen.result.exhausted,
            "seconds": round(seen.seconds, 3),
        }
    assert verdict.without is not None
    assert verdict.without.result is not None
    table: RenderableType = "nothing found"
    if verdict.without.result.finding is not None:
        shown = replay(verdict.without.result.finding.schedule, verdict.row.scenario)
        table = interleaving_table(
            shown.steps,
            shown.tasks,
            shown.violations,
            shown.conflict,
            f"mmigrate history {RACE}",
        )
    title, problem = verdict.row.title, verdict.row.problem
    race = {"commit": RACE, "title": title, "problem": problem, "verified": verdict.verified}
    return {**race, **sides}, table
