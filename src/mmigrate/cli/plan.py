"""`mmigrate plan FILE --from 0 --to 1`: what would move, what would stay, and why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from errno import EPERM
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mmigrate.api import Reason
from mmigrate.cli import output
from mmigrate.cli.sizes import parse_counts, parse_sizes
from mmigrate.errors import EnvironmentLacks, UsageError
from mmigrate.report.migration_plan import plan_tables
from mmigrate.snapshot import format as snapshot_format
from mmigrate.snapshot.forms import Form
from mmigrate.snapshot.garbage import uncollected
from mmigrate.snapshot.machine_files import available_memory
from mmigrate.snapshot.nodeset import describe, parse_nodes
from mmigrate.snapshot.plan import FormPlan, Plan, plan_migration
from mmigrate.snapshot.rebuild import machine_sizes, rebuild
from mmigrate.snapshot.snapshot import Snapshot
from mmigrate.units import GiB

SHOWN_AREAS = 15
BYTES_A_PAGE = 1100  # that the model takes at most, while the oracles read it


def command(
    file: Annotated[Path, typer.Argument(help="A file of mmigrate snapshot.", show_default=False)],
    sources: Annotated[
        str, typer.Option("--from", metavar="NODES", help="Nodes to move from: 0, 0-1, all, !0.")
    ],
    targets: Annotated[str, typer.Option("--to", metavar="NODES", help="Nodes to move to.")],
    nodes: Annotated[
        str | None,
        typer.Option(
            help="Memory of each node of the machine to rebuild on, such as 16G,16G; "
            "by default that of the recorded one."
        ),
    ] = None,
    hugepages: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N…]",
            help="Free huge pages of hugetlb (2 MiB) on each node; by default as recorded.",
        ),
    ] = None,
    privileged: Annotated[
        bool,
        typer.Option(
            "--privileged",
            help="As root would: pages that other processes share move too (MPOL_MF_MOVE_ALL).",
        ),
    ] = False,
    all_areas: Annotated[bool, typer.Option("--all", help="List every area.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Rebuild a recorded process in the model and migrate it as migrate_pages(2) would.

    Node sets are written as for numactl: 0, 0-1, 0,2-3, all, !0 (all but), +0 (among those the
    process may use).

    \b
    Example:  mmigrate plan app.snap --from 0 --to 1
              mmigrate plan app.snap --from all --to 1 --nodes 16G,16G --hugepages 0,512

    \b
    Exit code: 0 planned, even if pages stay; 1 an oracle found the model wrong;
               2 the file cannot be read, or a node does not exist or has no room
               3 this computer has not the memory for a model of so many pages
    """
    snapshot = snapshot_format.read(file)
    sizes = None if nodes is None else parse_sizes(nodes)
    started = time.perf_counter()
    with output.progress("pages") as report:
        plan, violations = make_plan(
            snapshot,
            sizes,
            sources,
            targets,
            report,
            privileged=privileged,
            free_huge=None if hugepages is None else parse_counts(hugepages),
        )
    seconds = time.perf_counter() - started
    if as_json:
        found = as_object(plan)
        found["seconds"] = round(seconds, 3)
        found["violations"] = [str(violation) for violation in violations]
        output.print_json(found)
    else:
        print_plan(plan, snapshot, sources, targets, all_areas=all_areas)
        for violation in violations:
            Console(stderr=True).print(f"[red]violation:[/] {escape(str(violation))}")
    if violations:
        raise typer.Exit(1)


def make_plan(
    snapshot: Snapshot,
    sizes: Sequence[int] | None,
    sources: str,
    targets: str,
    report: output.Report,
    *,
    privileged: bool = False,
    free_huge: Sequence[int] | None = None,
) -> tuple[Plan, list[Any]]:
    """The plan, and what the oracles say of the machine afterwards."""
    by_node = machine_sizes(snapshot) if sizes is None else list(sizes)
    there = [number for number, size in enumerate(by_node) if size]
    try:
        chosen_sources = parse_nodes(sources, there)
        chosen_targets = parse_nodes(targets, there)
    except UsageError as error:
        if sizes is None and "does not exist" in str(error):
            raise UsageError(
                f"{error} on the recorded machine; --nodes 16G,16G, for example, rebuilds the "
                "process on another one"
            ) from None
        raise
    if free_huge is not None and len(free_huge) > len(by_node):
        raise UsageError(
            f"--hugepages has {len(free_huge)} numbers, and the machine {len(by_node)} nodes"
        )
    _check_room_here(snapshot)
    rebuilt = rebuild(snapshot, sizes, privileged=privileged, free_huge=free_huge, progress=report)
    try:
        plan = plan_migration(rebuilt, chosen_sources, chosen_targets, progress=report)
    except OSError as error:
        if error.errno == EPERM and rebuilt.allowed is not None:
            raise UsageError(
                f"migrate_pages would fail with EPERM: the cpuset of the process allows memory on "
                f"{describe(rebuilt.allowed)} only; root may do it (--privileged)"
            ) from None
        raise UsageError(f"migrate_pages would fail: {error.strerror}") from error
    report("checking", 0, 0)
    with uncollected():
        return plan, rebuilt.machine.check()


def _check_room_here(snapshot: Snapshot) -> None:
    """Raises EnvironmentLacks: the model of the process would not fit in this computer."""
    total = snapshot.summary()
    pages = total.resident + total.swapped
    available = available_memory()
    if available is not None and pages * BYTES_A_PAGE > available:
        raise EnvironmentLacks(
            f"a model of {pages:,} pages takes about {pages * BYTES_A_PAGE / GiB(1):,.1f} GiB of "
            f"memory, and {available / GiB(1):,.1f} GiB are to be had on this computer; "
            "plan on a larger one"
        )


def as_object(plan: Plan) -> dict[str, Any]:
    """What --json prints."""
    charges = plan.charges
    return {
        "pages": plan.pages,
        "moved": plan.moved,
        "stayed": plan.stayed,
        "elsewhere": plan.elsewhere,
        "returned": plan.left,
        "reasons": _named(plan.reasons),
        "forms": _forms(plan.forms),
        "before": {str(node): count for node, count in plan.before.items()},
        "after": {str(node): count for node, count in plan.after.items()},
        "pools": [
            {"size": pool.size, "free_before": pool.before, "free_after": pool.after}
            for pool in plan.pools
        ],
        "cgroup": charges
        and {
            "path": charges.group,
            "limit": charges.limit,
            "charged_before": charges.before,
            "charged_after": charges.after,
        },
        "cpuset_nodes": plan.allowed,
        "vmas": [
            {
                "start": area.area.start,
                "end": area.area.end,
                "name": area.area.name,
                "kind": area.area.kind,
                "pages": area.pages,
                "moved": area.moved,
                "stayed": area.stayed,
                "reasons": _named(area.reasons),
                "forms": _forms(area.forms),
            }
            for area in plan.areas
        ],
        "notes": plan.notes,
    }


def _named(reasons: Counter[Reason]) -> dict[str, int]:
    return {reason.name.lower(): count for reason, count in reasons.most_common()}


def _forms(forms: dict[Form, FormPlan]) -> dict[str, dict[str, Any]]:
    return {
        form.name.lower(): {
            "units": found.units,
            "pages": found.pages,
            "moved": found.moved,
            "moved_whole": found.whole,
            "split": found.split,
            "reasons": _named(found.reasons),
        }
        for form, found in forms.items()
    }


def print_plan(
    plan: Plan, snapshot: Snapshot, sources: str, targets: str, *, all_areas: bool
) -> None:
    """The tables for people: by area, by form of page, by reason."""
    console = Console(highlight=False)
    title = f"{snapshot.command} (pid {snapshot.pid}): from {sources} to {targets}"
    console.print(plan_tables(plan, title, None if all_areas else SHOWN_AREAS))
    for sentence in (*snapshot.missing, *plan.notes):
        console.print(f"[yellow]note:[/] {escape(sentence)}")
