"""The catalogue as a table."""

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


STYLES = {"verified": "green", "WRONG": "bold red", "not yet there": "yellow"}


def catalogue_table(lines: Sequence[Line]) -> Table:
    table = Table(show_lines=True)
    table.add_column("commit", no_wrap=True)
    table.add_column("what it changed")
    table.add_column("without it")
    table.add_column("with it")
    table.add_column("", no_wrap=True)
    for line in lines:
        style = STYLES[line.state]
        table.add_row(
            f"{line.commit}\n[dim]{line.kind}[/]",
            escape(line.title),
            escape(line.without),
            escape(line.fixed),
            f"[{style}]{line.state}[/]",
        )
    return table
