"""Snapshots made by hand, for the tests."""

from __future__ import annotations

import random
from array import array

from mmigrate.snapshot.snapshot import (
    ANON,
    DIRTY,
    EMPTY,
    EXCLUSIVE,
    FILE,
    LRU,
    PRESENT,
    SWAPPED,
    FileRecord,
    NodeRecord,
    PageState,
    Snapshot,
    VmaRecord,
    packed,
)

GiB = 1 << 30
BASE = 0x7F00_0000_0000


def area(start: int, pages: int, runs: list[tuple[int, int]], **changes: object) -> VmaRecord:
    """An anonymous area with @runs of (count, number of the state)."""
    fields: dict[str, object] = {
        "start": start,
        "end": start + pages * 4096,
        "perms": "rw-p",
        "flags": "rd wr mr mw me ac",
        "offset": 0,
        "file": 0,
        "name": "",
        "policy": "default",
        "page_size": 4096,
        "locked": 0,
        "counts": packed(array("I", [count for count, _state in runs])),
        "states": packed(array("H", [state for _count, state in runs])),
        "swap": b"",
    }
    return VmaRecord(**(fields | changes))  # type: ignore[arg-type]


def small(**changes: object) -> Snapshot:
    """Two nodes; a heap of 8 pages, a file of 4, and an area whose pages are not recorded."""
    fields: dict[str, object] = {
        "version": 1,
        "kernel": "6.1.0",
        "machine": "x86_64",
        "page_size": 4096,
        "taken_at": 1_700_000_000,
        "pid": 4711,
        "command": "app",
        "cpus_allowed": "0-3",
        "nodes_allowed": "0-1",
        "policy": "default",
        "nodes": [
            NodeRecord(0, 4 * GiB, GiB, "0-1", [10, 21]),
            NodeRecord(1, 4 * GiB, 2 * GiB, "2-3", [21, 10]),
        ],
        "known": ["pages", "nodes", "policies"],
        "missing": ["soft-dirty pages: this kernel does not track them"],
        "files": [FileRecord("fe:00", "42", "/usr/bin/app", "ext4")],
        "states": [
            EMPTY,
            PageState(PRESENT | EXCLUSIVE | ANON, 0, 1),
            PageState(PRESENT | EXCLUSIVE | ANON | DIRTY, 1, 1),
            PageState(SWAPPED),
            PageState(PRESENT | FILE | LRU, 0, 3),
        ],
        "vmas": [
            area(
                BASE,
                8,
                [(2, 1), (1, 2), (3, 0), (2, 3)],
                name="[heap]",
                swap=packed(array("Q", [6, 2, 0, 100])),
            ),
            area(BASE + 16 * 4096, 4, [(4, 4)], file=1, name="/usr/bin/app", perms="r-xp"),
            area(BASE + 32 * 4096, 2, [], name="[vvar]"),
        ],
    }
    return Snapshot(**(fields | changes))  # type: ignore[arg-type]


def fragmented(pages: int, seed: int = 1) -> Snapshot:
    """A process whose neighbouring pages differ in node, dirtiness, use and number of mappings."""
    random_numbers = random.Random(seed)
    states = [EMPTY]
    weights = [1.0]
    for node in range(4):
        for flags in range(8):
            for mapcount, weight in ((1, 30), (2, 4), (7, 1)):
                exclusive = EXCLUSIVE if mapcount == 1 else 0
                bits = PRESENT | ANON | exclusive | flags << 12
                states.append(PageState(bits, node, mapcount))
                weights.append(weight)
    pieces = 64
    vmas = []
    for index in range(pieces):
        chosen = random_numbers.choices(range(len(states)), weights, k=pages // pieces)
        start = BASE + index * (pages // pieces + 16) * 4096
        vmas.append(area(start, len(chosen), [(1, state) for state in chosen]))
    nodes = [NodeRecord(number, 64 * GiB, GiB, "", [10, 20, 20, 20]) for number in range(4)]
    return small(nodes=nodes, states=states, vmas=vmas, files=[])
