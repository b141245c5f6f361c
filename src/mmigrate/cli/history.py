"""`mmigrate history [COMMIT]`: the catalogue, verified again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from mmigrate.cli import output
from mmigrate.explore.verify import Seen, Verdict, verify
from mmigrate.history import CATALOGUE, SEED, row
from mmigrate.report.catalogue import catalogue_table


@dataclass(frozen=True)
class Line:
    """A verdict as the report shows it."""

    commit: str
    title: str
    kind: str
    state: str
    without: str
    fixed: str
    more: tuple[Line, ...] = ()


def command(
    commit: Annotated[
        str | None,
        typer.Argument(metavar="[COMMIT]", help="One row only, by its commit.", show_default=False),
    ] = None,
    max_executions: Annotated[
        int, typer.Option(min=1, help="The most executions of a race; a race cut off is no pass.")
    ] = 200_000,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, an object a row, and nothing else.")
    ] = False,
) -> None:
    """Show each commit of the catalogue without it and with it, verified now.

    \b
    Example:  mmigrate history
              mmigrate history d3cb8bf6081b --json

    \b
    Exit code: 0 every row is as it must be; 1 one is not, or is not there yet;
               2 no such commit
    """
    rows = CATALOGUE if commit is None else (row(commit),)
    verdicts: list[Verdict] = []
    with output.progress() as report:
        for number, found in enumerate(rows):
            report(f"{found.commit} {found.title}", number, len(rows))
            verdicts.append(verify(found, max_executions=max_executions))
    if as_json:
        output.print_json([_json(verdict) for verdict in verdicts])
    else:
        _print(verdicts, whole=commit is None)
    if not all(verdict.verified for verdict in verdicts):
        raise typer.Exit(1)


def _print(verdicts: list[Verdict], *, whole: bool) -> None:
    console = Console(highlight=False)
    console.print(catalogue_table([_line(verdict) for verdict in verdicts]))
    if not whole:
        [verdict] = verdicts
        for part in (verdict.row, *verdict.row.more):
            console.print(f"problem: {part.problem}", markup=False)
        if verdict.row.note:
            console.print(f"note: {verdict.row.note}", markup=False)
        return
    seed = sum(verdict.verified for verdict in verdicts if verdict.row.commit in SEED)
    others = [verdict for verdict in verdicts if verdict.row.commit not in SEED]
    absent = sum(not verdict.there for verdict in verdicts)
    words = f"{seed} of the {len(SEED)} commits of the seed verified"
    words += f", {sum(v.verified for v in others)} of {len(others)} others"
    if absent:
        words += f"; {absent} not yet there"
    console.print(words)


def _line(verdict: Verdict) -> Line:
    found = verdict.row
    if not verdict.there:
        state = "not yet there"
    else:
        state = "verified" if verdict.verified else "WRONG"
    return Line(
        found.commit,
        f"{found.title} ({found.switch.release})",
        found.kind.value,
        state,
        _told(found.seen[0], verdict.without),
        _told(found.seen[1], verdict.fixed),
        tuple(_line(part) for part in verdict.more),
    )


def _told(seen: str, now: Seen | None) -> str:
    return seen if now is None else f"{seen} ({now.told}; {now.seconds:.2f} s)"


def _json(verdict: Verdict) -> dict[str, Any]:
    found = verdict.row
    return {
        "commit": found.commit,
        "title": found.title,
        "release": found.switch.release,
        "kind": found.kind.value,
        "problem": found.problem,
        "seed": found.commit in SEED,
        "state": _line(verdict).state,
        "without": _side(found.seen[0], verdict.without),
        "with": _side(found.seen[1], verdict.fixed),
        "more": [_json(part) for part in verdict.more],
    }


def _side(seen: str, now: Seen | None) -> dict[str, Any]:
    if now is None:
        return {"seen": seen, "right": False, "told": "not yet there"}
    return {
        "seen": seen,
        "right": now.right,
        "told": now.told,
        "seconds": round(now.seconds, 3),
        "violations": [str(violation) for violation in now.violations],
        "executions": now.result.executions if now.result is not None else 1,
        "exhausted": now.result.exhausted if now.result is not None else True,
    }
