"""What this computer says of itself: its nodes, its pools of huge pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mmigrate.snapshot import procfs
from mmigrate.snapshot.nodeset import MAX_NODES
from mmigrate.snapshot.process_files import PROC
from mmigrate.snapshot.records import MAX_POOLS, NodeRecord, PoolRecord

NODES: Final = Path("/sys/devices/system/node")
MM: Final = Path("/sys/kernel/mm")


def machine_nodes() -> list[NodeRecord]:
    """The nodes of this computer; a kernel without NUMA has one."""
    numbers = procfs.parse_number_list(text_or_empty(NODES / "online")) or (0,)
    numbers = tuple(number for number in numbers if number < MAX_NODES)
    found = []
    for number in numbers:
        folder = NODES / f"node{number}"
        meminfo = text_or_empty(folder / "meminfo") or (
            text_or_empty(PROC / "meminfo") if len(numbers) == 1 else ""
        )
        memory, free = procfs.parse_node_sizes(meminfo)
        distances = procfs.parse_distances(text_or_empty(folder / "distance"))
        if len(distances) != len(numbers):
            distances = [10 if other == number else 20 for other in numbers]
        cpus = list_text(text_or_empty(folder / "cpulist").strip())
        found.append(NodeRecord(number, memory, free, cpus[:256], distances))
    return found


def machine_pools(
    nodes: Sequence[NodeRecord], mm: Path = MM, node_folders: Path = NODES
) -> list[PoolRecord] | None:
    """The pools of huge pages, by size; None if this kernel has none or does not show them.

    @mm, @node_folders: where to look.  A kernel without NUMA has no numbers by node.
    """
    try:
        names = [folder.name for folder in (mm / "hugepages").iterdir()]
    except OSError:
        return None
    pools = []
    for size, name in sorted((procfs.parse_pool_size(name), name) for name in names):
        whole = mm / "hugepages" / name
        folders = [node_folders / f"node{node.number}" / "hugepages" / name for node in nodes]
        if len(nodes) == 1 and not folders[0].is_dir():
            folders = [whole]
        if size:
            pools.append(
                PoolRecord(
                    size,
                    _number(whole / "nr_overcommit_hugepages"),
                    _number(whole / "resv_hugepages"),
                    [_number(folder / "nr_hugepages") for folder in folders],
                    [_number(folder / "free_hugepages") for folder in folders],
                    [_number(folder / "surplus_hugepages") for folder in folders],
                )
            )
    return pools[:MAX_POOLS]


def thp_setting(mm: Path = MM) -> str:
    """Which areas get transparent huge pages: "always", "madvise", "never", or "" if the kernel
    has none."""
    return procfs.parse_choice(text_or_empty(mm / "transparent_hugepage" / "enabled"))


def available_memory(proc: Path = PROC) -> int | None:
    """Bytes that a program can still have here without swapping; None where that is not told."""
    found = re.search(r"^MemAvailable:\s*([0-9]{1,15}) kB", text_or_empty(proc / "meminfo"), re.M)
    return None if found is None else int(found[1]) << 10


def text_or_empty(path: Path) -> str:
    try:
        return path.read_text("utf-8", "backslashreplace")
    except OSError:
        return ""


def list_text(text: str) -> str:
    """@text if it is a list such as "0-3,8", else ""."""
    return text if procfs.parse_number_list(text) else ""


def _number(path: Path) -> int:
    text = text_or_empty(path).strip()
    return int(text) if text.isdecimal() and len(text) < 19 else 0
