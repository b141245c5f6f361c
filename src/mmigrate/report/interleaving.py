"""A replayed schedule as a table: a column for each task, and the word it touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text


class Step(Protocol):
    """What the table shows of an access."""

    @property
    def number(self) -> int: ...
    @property
    def task(self) -> str: ...
    @property
    def function(self) -> str: ...
    @property
    def primitive(self) -> str: ...
    @property
    def word(self) -> str: ...
    @property
    def writes(self) -> bool: ...
    @property
    def old(self) -> str: ...
    @property
    def new(self) -> str: ...


def interleaving_table(
    steps: Sequence[Step],
    tasks: Sequence[str],
    violations: Sequence[object],
    conflict: str,
    repeat: str,
    *,
    everything: bool = False,
) -> RenderableType:
    """The violation, the steps, what mattered, and the command that repeats it.

    Shown are the steps that touch what several tasks touch and some change, and the first and
    last of each task's turns.  @everything: all steps.
    """
    head = Text(
        f"violation at step {len(steps)}: {violations[0]}" if violations else "no violation",
        style="bold red" if violations else "green",
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("step", justify="right", style="dim", no_wrap=True)
    for task in tasks:
        table.add_column(task, overflow="fold")
    table.add_column("word", overflow="fold")
    shared = _shared(steps)
    for run in _runs(steps):
        left_out = 0
        for step in run:
            if everything or step.word in shared or step is run[0] or step is run[-1]:
                if left_out:
                    _add(table, tasks, "", step.task, f"… {left_out} more", "")
                    left_out = 0
                _add(table, tasks, str(step.number), step.task, _did(step), _word(step))
            else:
                left_out += 1
    return Group(head, "", table, "", Text(conflict), Text(f"repeat with: {repeat}"))


def _shared(steps: Sequence[Step]) -> set[str]:
    """The words that several tasks touch and at least one changes."""
    by: dict[str, set[str]] = {}
    for step in steps:
        by.setdefault(step.word, set()).add(step.task)
    changed = {step.word for step in steps if step.writes and step.old != step.new}
    return {word for word, who in by.items() if len(who) > 1 and word in changed}


def _runs(steps: Sequence[Step]) -> list[list[Step]]:
    runs: list[list[Step]] = []
    for step in steps:
        if runs and runs[-1][0].task == step.task:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs


def _add(table: Table, tasks: Sequence[str], number: str, task: str, did: str, word: str) -> None:
    cells = [escape(did) if name == task else "" for name in tasks]
    table.add_row(number, *cells, escape(word))


def _did(step: Step) -> str:
    done = "release" if step.primitive == "__exit__" else step.primitive
    return f"{step.function}: {done}" if done else step.function


def _word(step: Step) -> str:
    if step.writes and step.old != step.new:
        return f"{step.word}: {step.old} → {step.new}"
    return f"{step.word} = {step.new}" if step.new else step.word
