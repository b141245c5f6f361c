"""A comparison of the model with a kernel, for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from mmigrate.compare.verdicts import Report, Verdict

_STYLES = {"different": "red", "known": "yellow", "missing": "dim", "skipped": "dim"}


def print_report(report: Report) -> None:
    """What differs, how races came out, and the counts."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"kernel {report.kernel}, model of {report.model}")
    for verdict in report.verdicts:
        if verdict.outcome != "same":
            _print_verdict(console, verdict)
        for word, answer, count in verdict.frequencies:
            times = f" ({count})" if count else ""
            console.print(f"  {word:9} {escape(verdict.case)}: {escape(_short(answer))}{times}")
    words = ", ".join(
        f"{len(report.of(outcome))} {outcome}"
        for outcome in ("same", "known", "different", "missing", "skipped")
    )
    console.print(f"{len(report.verdicts)} cases: {words}")


def _print_verdict(console: Console, verdict: Verdict) -> None:
    style = _STYLES[verdict.outcome]
    commits = ", ".join(row.commit for row in verdict.rows)
    why = f": {verdict.why}" if verdict.why else ""
    why += f" ({commits})" if commits else ""
    console.print(f"[{style}]{verdict.outcome}[/] {escape(verdict.case)}{escape(why)}")
    for observation in verdict.observations if verdict.outcome == "different" else ():
        model = " or ".join(_short(value) for value in observation.model)
        console.print(f"  {escape(observation.key)}")
        console.print(f"    model:  {escape(model)}")
        for value, count in observation.kernel:
            times = f" ({count} times)" if count > 1 else ""
            console.print(f"    kernel: {escape(_short(value))}{times}")


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
