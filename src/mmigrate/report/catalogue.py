"""The catalogue in words: a paragraph for each commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.markup import escape
from rich.table import Table


class Line(Protocol):
    """What is shown of a row: @state is "verified", "WRONG" or "not yet there"."""

    @property
    def commit(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def without(self) -> str: ...
    @property
    def fixed(self) -> str: ...
    @property
    def more(self) -> Sequence[Line]: ...


STYLES = {"verified": "green", "WRONG": "bold red", "not yet there": "yellow"}


def catalogue_table(lines: Sequence[Line]) -> Table:
    """The commit and its state, and beside it what it changed and what is seen."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for line in lines:
        style = STYLES[line.state]
        table.add_row(f"[bold]{line.commit}[/]", f"[bold]{escape(line.title)}[/]")
        table.add_row(f"[{style}]{line.state}[/]", f"without: {escape(line.without)}")
        table.add_row(f"[dim]{line.kind}[/]", f"with:    {escape(line.fixed)}")
        for part in line.more:
            style = STYLES[part.state]
            table.add_row(f"[{style}]and {part.state}[/]", f"without: {escape(part.without)}")
            table.add_row(f"[dim]{part.kind}[/]", f"with:    {escape(part.fixed)}")
        table.add_row("", "")
    return table
