"""`mmigrate snapshot PID -o FILE`: record a real process."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmigrate.cli.output import print_json, progress
from mmigrate.snapshot import format as snapshot_format
from mmigrate.snapshot.recorder import record
from mmigrate.snapshot.records import VmaRecord
from mmigrate.snapshot.snapshot import Snapshot
from mmigrate.snapshot.summary import Summary


def command(
    pid: Annotated[
        int, typer.Argument(metavar="PID", help="The process to record.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write."),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Record a process: its areas and policies, and the state and node of every page.

    The process runs on and is not written to.  Without root, your own processes can be
    recorded with less detail; the table says what is missing.  No contents of memory are stored.

    \b
    Example:  mmigrate snapshot 4711 -o app.snap
              mmigrate plan app.snap --from 0 --to 1

    \b
    Exit code: 0 recorded (even if something is missing)
               2 no such process, or it ended meanwhile, or you may not read it,
                 or FILE cannot be written; an older FILE is then as it was
               3 /proc is not mounted
    """
    snapshot_format.check_target(output)
    with progress("pages") as report:
        snapshot = record(pid, progress=report)
        report("writing", 0, 0)
        size = snapshot_format.write(snapshot, output)
    if as_json:
        print_json(as_object(snapshot, output, size))
    else:
        print_summary(snapshot, output, size)


def as_object(snapshot: Snapshot, file: Path, size: int) -> dict[str, Any]:
    """What --json prints.  `pages` counts resident pages; `vmas` is a list of areas."""
    total = snapshot.summary()
    return {
        "file": os.fspath(file),
        "bytes": size,
        "pid": snapshot.pid,
        "command": snapshot.command,
        "page_size": snapshot.page_size,
        "pages": total.resident,
        "swapped": total.swapped,
        "zero": total.zero,
        "huge": total.huge,
        "transparent_huge": total.thp,
        "hugetlb": total.hugetlb,
        "merged": total.merged,
        "shared": total.shared,
        "locked": total.locked,
        "soft_dirty": total.soft_dirty,
        "nodes": _named(total.by_node),
        "kinds": dict(sorted(total.by_kind.items())),
        "vmas": [_area_object(snapshot, vma) for vma in snapshot.vmas],
        "pools": [
            {"size": pool.size, "reserved": pool.reserved, "total": pool.total, "free": pool.free}
            for pool in snapshot.pools
        ],
        "cgroups": [
            {"path": group.path, "limit": group.limit, "usage": group.usage}
            for group in snapshot.memory_groups
        ],
        "cpuset": {"path": snapshot.cpuset, "nodes": snapshot.nodes_allowed},
        "known": snapshot.known,
        "missing": snapshot.missing,
    }


def _area_object(snapshot: Snapshot, vma: VmaRecord) -> dict[str, Any]:
    nodes: Counter[int] = Counter()
    for _first, count, state in snapshot.runs(vma):
        if state.present and not state.zero:
            nodes[state.node] += count
    return {
        "start": vma.start,
        "end": vma.end,
        "perms": vma.perms,
        "name": vma.name,
        "kind": snapshot.kind(vma),
        "policy": vma.policy,
        "pages": nodes.total(),
        "nodes": _named(nodes),
    }


def _named(nodes: Counter[int]) -> dict[str, int]:
    return {str(node) if node >= 0 else "unknown": nodes[node] for node in sorted(nodes)}


def print_summary(snapshot: Snapshot, file: Path, size: int) -> None:
    """The table for people."""
    total = snapshot.summary()
    table = Table(
        title=f"process {snapshot.pid} ({escape(snapshot.command)})", title_justify="left"
    )
    table.add_column("what")
    table.add_column("pages", justify="right")
    table.add_column("MiB", justify="right")
    for what, pages in _rows(total):
        table.add_row(escape(what), f"{pages:,}", f"{pages * snapshot.page_size / (1 << 20):,.1f}")
    console = Console()
    console.print(table)
    console.print(f"{total.areas} areas, written to {escape(os.fspath(file))} ({size:,} bytes)")
    for sentence in _surroundings(snapshot):
        console.print(escape(sentence), highlight=False)
    for sentence in snapshot.missing:
        console.print(f"[yellow]missing:[/] {escape(sentence)}", highlight=False)


def _surroundings(snapshot: Snapshot) -> Iterator[str]:
    """What holds for the process and decides where its memory can go."""
    for pool in snapshot.pools:
        if any(pool.total):
            pairs = zip(snapshot.nodes, pool.total, pool.free, strict=True)
            yield f"pool of huge pages of {pool.size >> 20} MiB: " + ", ".join(
                f"{free:,} of {total:,} free on node {node.number}" for node, total, free in pairs
            )
    for group in snapshot.memory_groups[-1:]:
        limits = [above.limit for above in snapshot.memory_groups if above.limit is not None]
        limit = f"limit {min(limits) / (1 << 20):,.1f} MiB" if limits else "no limit"
        usage = "" if group.usage is None else f"{group.usage / (1 << 20):,.1f} MiB used, "
        yield f"memory cgroup {group.path}: {usage}{limit}"
    if snapshot.cpuset not in ("", "/"):
        yield f"cpuset {snapshot.cpuset}: memory on nodes {snapshot.nodes_allowed}"


def _rows(total: Summary) -> list[tuple[str, int]]:
    rows = [("address space", total.pages), ("resident", total.resident)]
    for node in sorted(total.by_node):
        rows.append((f"  on node {node}" if node >= 0 else "  node unknown", total.by_node[node]))
    rows += [(f"  {kind}", pages) for kind, pages in sorted(total.by_kind.items())]
    optional = [
        ("shared", total.shared),
        ("transparent huge", total.thp),
        ("other huge", total.huge - total.thp - total.hugetlb),
        ("hugetlb", total.hugetlb),
        ("merged (KSM)", total.merged),
        ("locked", total.locked),
        ("page of zeroes", total.zero),
        ("swapped out", total.swapped),
        ("soft-dirty", total.soft_dirty),
    ]
    return rows + [(what, pages) for what, pages in optional if pages > 0]
