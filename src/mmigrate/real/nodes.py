"""The nodes and CPUs of this computer, and the tables of /sys and /proc about them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mmigrate.errors import Missing, ScenarioError
from mmigrate.units import PAGE_SIZE, MiB

_FREED: Final = MiB(4)
FOLDER: Final = Path("/sys/devices/system/node")


def numbers_in(text: str) -> list[int]:
    """ "0-2,5" as [0, 1, 2, 5]."""
    found: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    return found


def online_nodes() -> list[int]:
    """A kernel without NUMA has node 0."""
    try:
        return numbers_in((FOLDER / "online").read_text())
    except OSError:
        return [0]


def nodes_with_memory() -> list[int]:
    for name in ("has_memory", "has_normal_memory"):
        if (FOLDER / name).exists():
            return numbers_in((FOLDER / name).read_text())
    return [0]


def cpus_of(node: int) -> list[int]:
    """The CPUs of a node that this process may use."""
    allowed = os.sched_getaffinity(0)
    try:
        cpus = numbers_in((FOLDER / f"node{node}/cpulist").read_text())
    except OSError:
        cpus = sorted(allowed) if node == 0 else []
    return [cpu for cpu in cpus if cpu in allowed]


def meminfo(node: int) -> dict[str, int]:
    """/sys/devices/system/node/nodeN/meminfo, in kB."""
    found = {}
    for line in _text(node, "meminfo").splitlines():
        words = line.split()
        if len(words) >= 4:
            found[words[2].rstrip(":")] = int(words[3])
    return found


def numastat(node: int) -> dict[str, int]:
    """/sys/devices/system/node/nodeN/numastat."""
    return {
        name: int(value)
        for name, value in (line.split() for line in _text(node, "numastat").splitlines())
    }


def usable_memory(node: int) -> int:
    """Bytes of a node that an ordinary request can have: what is free or clean file cache, but for
    what the kernel keeps for itself."""
    kept, here = 0, False
    for line in Path("/proc/zoneinfo").read_text().splitlines():
        words = line.split()
        if line.startswith("Node"):
            here = words[1] == f"{node},"
        elif here and words[0] == "min":
            kept += int(words[1])
    table = meminfo(node)
    free = table["MemFree"] + table.get("Active(file)", 0) + table.get("Inactive(file)", 0)
    return 1024 * free - kept * PAGE_SIZE


def shorten_cpu_lists() -> None:
    """Let each CPU free so many pages that it gives back what its lists hold too much."""
    usual = os.sched_getaffinity(0)
    try:
        for cpu in sorted(usual):
            os.sched_setaffinity(0, {cpu})
            with mmap.mmap(-1, _FREED, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
                memory[::PAGE_SIZE] = bytes(_FREED // PAGE_SIZE)
    finally:
        os.sched_setaffinity(0, usual)


def distances(node: int) -> list[int]:
    return [int(word) for word in _text(node, "distance").split()]


def _text(node: int, name: str) -> str:
    try:
        return (FOLDER / f"node{node}" / name).read_text()
    except OSError as error:
        raise Missing(f"this kernel does not show {name} of node {node}") from error


def choose_cpus(nodes: Sequence[int], cpus: Sequence[int] | None) -> list[int]:
    """The CPU of this computer for each CPU of the machine that was asked for.

    @nodes: bytes on each node; @cpus: the node of each CPU, by default one CPU a node.
    Raises Missing: too few nodes, or nodes of another kind.
    """
    online, with_memory = online_nodes(), nodes_with_memory()
    for number, size in enumerate(nodes):
        if number not in online:
            raise Missing(
                f"the scenario needs {len(nodes)} nodes; this kernel has {len(online)}"
                if len(online) < len(nodes)
                else f"the scenario needs node {number}, which is not online"
            )
        if (size > 0) != (number in with_memory):
            wanted, has = ("memory", "none") if size else ("none", "memory")
            raise Missing(f"the scenario needs a node {number} with {wanted}; it has {has}")
        if size and size > 1024 * meminfo(number).get("MemTotal", 1 << 62):
            raise Missing(f"the scenario needs {size} bytes on node {number}; it has less")
    chosen = []
    used: dict[int, int] = {}
    for node in range(len(nodes)) if cpus is None else cpus:
        if not 0 <= node < len(nodes):
            raise ScenarioError(
                f"cpus={list(cpus or ())} must name the node of each CPU, 0 to {len(nodes) - 1}"
            )
        own = cpus_of(node)
        if not own:
            raise Missing(f"the scenario needs a CPU on node {node}; it has none for us")
        # With fewer CPUs than were asked for some share one: their tasks then take turns.
        chosen.append(own[used.get(node, 0) % len(own)])
        used[node] = used.get(node, 0) + 1
    return chosen


def check_distances(wanted: Sequence[Sequence[int]] | None) -> None:
    """Raises Missing: the nodes are not at these distances."""
    for node, row in enumerate(wanted or ()):
        found = distances(node)[: len(row)]
        if found != list(row):
            raise Missing(f"node {node} must be at distances {list(row)}; they are {found}")
