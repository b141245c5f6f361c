"""What compaction wins on a real kernel: benchmarks/compaction.py, in a guest, for its result.

The guest is emulated, so its speed says nothing.  A node of 4 GiB is filled for nine tenths with
base pages, of which some at random are freed again, so that half of it stays in use; then
it is compacted through sysfs, and /proc/buddyinfo tells in which blocks the free memory is.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from mmigrate import GiB, MiB
from mmigrate.cli.bench import Figure
from mmigrate.errors import MmigrateError
from mmigrate.lab import Guest, find_tools, installed_kernels, run_jobs

REPOSITORY = Path(__file__).parents[1]
NODE = Path("/sys/devices/system/node/node0")
PAGE = 4096
SECONDS = 900


def run() -> list[Figure]:
    try:
        find_tools()
        kernels = installed_kernels()
    except MmigrateError as error:
        print(f"compaction_in_guest: no kernel is booted: {error}", file=sys.stderr)
        return []
    figures = []
    job = {
        "name": "fragmented",
        "call": "benchmarks.compaction_in_guest:fragmented",
        "arguments": {},
        "seconds": SECONDS,
    }
    for kernel in kernels:
        [event] = run_jobs(
            Guest(kernel.path, nodes=(GiB(4), MiB(768))),
            [job],
            server="mmigrate.real.serve",
            environment={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}"},
        )
        if "result" not in event:
            print(f"compaction_in_guest: {kernel}: {event.get('error')}", file=sys.stderr)
            continue
        seen = event["result"]
        suffix = "" if kernel is kernels[0] else f"_{kernel.release.split('-')[0]}"
        figures.append(
            Figure(
                f"guest_compaction_blocks_won{suffix}",
                round(seen["after"] / seen["free"], 3),
                "of all free memory",
                "compaction_blocks_won of the model",
                f"{seen['after']:,} blocks of 2 MiB of {seen['free']:,} possible, "
                f"{seen['before']:,} before; {seen['moved']:,} pages moved; {kernel}",
            )
        )
    return figures


def fragmented() -> dict[str, Any]:
    """In the guest: blocks of 2 MiB before and after, how many there could be, pages moved."""
    os.sched_setaffinity(0, _numbers((NODE / "cpulist").read_text()))
    size = _free() * 9 // 10 // PAGE * PAGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory[::PAGE] = bytes(size // PAGE)
    chosen = random.Random(1)
    goes = [chosen.random() > 0.5 / 0.9 for _ in range(size // PAGE)]
    for freed, pages in groupby(range(len(goes)), goes.__getitem__):
        first, *others = pages
        if freed:
            memory.madvise(mmap.MADV_DONTNEED, first * PAGE, (1 + len(others)) * PAGE)
    before, moved = _blocks(), _moved()
    (NODE / "compact").write_text("1")
    seen = {"before": before, "after": _blocks(), "moved": _moved() - moved}
    return {**seen, "free": _free() // MiB(2)}


def _numbers(text: str) -> set[int]:
    """Those of a list such as "0-1,4"."""
    ranges = [list(map(int, part.split("-"))) for part in text.split(",")]
    return {number for first, *last in ranges for number in range(first, (last or [first])[0] + 1)}


def _free() -> int:
    """Bytes free on node 0."""
    [kib] = re.findall(r"MemFree:\s+(\d+)", (NODE / "meminfo").read_text())
    return int(kib) * 1024


def _blocks() -> int:
    """Free blocks of 2 MiB of node 0, of two in one of order 10, and so on."""
    rows = [row.split() for row in Path("/proc/buddyinfo").read_text().splitlines()]
    return sum(
        int(count) << order
        for row in rows
        if row[1] == "0,"
        for order, count in enumerate(row[4 + 9 :])
    )


def _moved() -> int:
    [pages] = re.findall(r"^pgmigrate_success (\d+)", Path("/proc/vmstat").read_text(), re.M)
    return int(pages)
