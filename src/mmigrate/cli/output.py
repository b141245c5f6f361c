"""Printing: one JSON object, or tables; progress for what takes longer than a second."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

Report = Callable[[str, int, int], None]

SELDOM: Final = 0.1  # seconds between two looks


def print_json(found: Any) -> None:
    """One object on stdout and nothing else."""
    print(json.dumps(found, indent=2))


@contextmanager
def progress(unit: str = "") -> Iterator[Report]:
    """report(what, done, of) on stderr: on a terminal only, and from the second second on.  With a
    @unit, such as "pages", also how many of them have been done in a second."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("starting", total=None, start=True, rate="")
    begun = last = time.monotonic()
    part, part_begun, part_done = "", begun, 0
    shown = False

    def report(what: str, done: int, of: int) -> None:
        nonlocal shown, last, part, part_begun, part_done
        now = time.monotonic()
        if what != part:
            part, part_begun, part_done = what, now, done
        elif now - last < SELDOM:
            return  # of a process in a thousand pieces each piece is told
        if not shown and now - begun > 1:
            shown = True
            bar.start()
        if shown:
            last = now
            rate = ""
            if unit and done > part_done and now > part_begun:
                rate = f"{(done - part_done) / (now - part_begun):,.0f} {unit}/s"
            bar.update(task, description=what, completed=done, total=of or None, rate=rate)

    try:
        yield report
    finally:
        bar.stop()
