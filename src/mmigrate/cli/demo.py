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
from rich.console import Console

from mmigrate.cli import output, plan
from mmigrate.cli import snapshot as snapshot_command
from mmigrate.errors import EnvironmentLacks
from mmigrate.machine.machine import Machine
from mmigrate.machine.process import Process
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
    of two nodes, and migrate it from node 0 to node 1, page by page.

    \b
    Example:  mmigrate demo
              mmigrate demo --size 256 --json

    \b
    Exit code: 0 shown; 1 an oracle found the model wrong; 3 /proc is not mounted
    """
    console = Console(highlight=False, quiet=as_json)
    with tempfile.TemporaryDirectory(prefix="mmigrate-") as folder:
        file = Path(folder) / "worker.snap"
        with _worker(size) as pid:
            console.print(
                f"[bold]1.[/] A worker runs as process {pid}, with private, forked, file-backed, "
                "shared, locked and untouched memory. It is recorded while it runs.\n"
            )
            with output.progress() as report:
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
        with output.progress() as report:
            planned, violations = plan.make_plan(snapshot, sizes, "0", "1", report)
        if not as_json:
            plan.print_plan(planned, snapshot, "0", "1", all_areas=False)
        console.print(
            "\n[bold]3.[/] Every oracle was asked afterwards: "
            + ("no violation." if not violations else f"{len(violations)} violations.")
        )
        race = _race()
        console.print(
            "\n[bold]4.[/] Two threads, one page: one moves it, the other writes to it thirty "
            f"times, in {race['interleavings']} interleavings at random. In {race['waited']} of "
            f"them the writer had to wait for the migration; stores lost: {race['lost']}."
        )
        console.print(
            "\nNext: mmigrate snapshot PID -o app.snap, then mmigrate plan app.snap --from 0 --to 1"
        )
        if as_json:
            found: dict[str, Any] = {
                "snapshot": snapshot_command.as_object(snapshot, Path("worker.snap"), written),
                "plan": plan.as_object(planned),
                "race": race,
                "violations": [str(violation) for violation in violations],
            }
            output.print_json(found)
    if violations or race["lost"]:
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


def _race() -> dict[str, int]:
    """A mover against a writer, at random: how often the writer met a migration entry, and
    how often a store was lost."""
    waited = lost = 0
    for seed in range(200):
        machine = Machine(nodes=(MiB(8), MiB(8)))
        app = machine.process("app")
        page = app.mmap(pages=1)
        app.write(page.start, b"before")
        machine.start(app.move_pages, page, 1, cpu=1)
        machine.start(_write_often, app, page.start, cpu=0)
        machine.run(seed)
        # Its page was mapped and writable: only a migration entry can have made it fault.
        waited += machine.vmstat["pgfault"] > 1
        lost += app.read(page.start, 6) != b"29    " or bool(machine.check())
    return {"interleavings": 200, "waited": waited, "lost": lost}


def _write_often(app: Process, address: int) -> None:
    for number in range(30):
        app.write(address, b"%-6d" % number)
