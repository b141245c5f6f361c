"""Printing: one JSON object, or tables; progress for what takes longer than a second."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

Report = Callable[[str, int, int], None]


def print_json(found: Any) -> None:
    """One object on stdout and nothing else."""
    print(json.dumps(found, indent=2))


@contextmanager
def progress() -> Iterator[Report]:
    """report(what, done, of) on stderr: on a terminal only, and from the second second on."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("starting", total=None, start=True)
    begun = time.monotonic()
    shown = False

    def report(what: str, done: int, of: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - begun > 1:
            shown = True
            bar.start()
        if shown:
            bar.update(task, description=what, completed=done, total=of or None)

    try:
        yield report
    finally:
        bar.stop()
