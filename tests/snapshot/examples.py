"""Snapshots made by hand, for the tests."""

from __future__ import annotations

import random
from array import array

from mmigrate.snapshot.records import (
    ANON,
    DIRTY,
    EMPTY,
    EXCLUSIVE,
    FILE,
    HUGE,
    HUGETLB,
    KSM,
    LRU,
    PRESENT,
    SWAPPED,
    FileRecord,
    MemoryGroup,
    NodeRecord,
    PageState,
    PoolRecord,
    VmaRecord,
    packed,
)
from mmigrate.snapshot.snapshot import Snapshot

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
        "version": 2,
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
            PageState(PRESENT | ANON | KSM, 0, 2),
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
        "thp": "always",
        "pools": [POOL],
        "cgroup_version": 1,
        "memory_groups": [MemoryGroup("/app", 1 << 30, None)],
        "cpuset": "/app",
    }
    return Snapshot(**(fields | changes))  # type: ignore[arg-type]


MiB2 = 1 << 21
UNIT = 512  # base pages in a huge page
OWN = PRESENT | EXCLUSIVE | ANON
POOL = PoolRecord(MiB2, 0, 1, [4, 2], [2, 2], [0, 0])
GROUPS = [MemoryGroup("/all", None, 1 << 30), MemoryGroup("/all/app", 256 << 20, 1 << 20)]


def special(**changes: object) -> Snapshot:
    """Two nodes of 256 MiB; an area of two huge pages and 100 base pages around them, two pages of
    hugetlb of which one was touched (a third one on node 1), and 12 merged pages of three frames,
    the last of which another process has as well."""
    hugetlb = {"page_size": MiB2, "flags": "rd wr mr mw me de ht", "file": 2}
    fields: dict[str, object] = {
        "nodes": [
            NodeRecord(0, 256 << 20, GiB, "0-1", [10, 21]),
            NodeRecord(1, 256 << 20, GiB, "2-3", [21, 10]),
        ],
        "files": [
            FileRecord("fe:00", "42", "/usr/bin/app", "ext4"),
            FileRecord("00:11", "7", "/anon_hugepage (deleted)", "hugetlbfs"),
        ],
        "states": [
            EMPTY,
            PageState(OWN, 0, 1),
            PageState(OWN | HUGE, 0, 1),
            PageState(OWN | HUGE | HUGETLB, 0, 1),
            PageState(OWN | HUGE | HUGETLB, 1, 1),
            PageState(PRESENT | ANON | KSM, 0, 4),
            PageState(PRESENT | ANON | KSM, 0, 6),
        ],
        "vmas": [
            area(
                BASE + MiB2 - 50 * 4096,
                2 * UNIT + 100,
                [(50, 1), (2 * UNIT, 2), (50, 1)],
                flags="rd wr mr mw me ac hg",
                anon_huge=2 * MiB2,
            ),
            area(BASE + 8 * MiB2, 2 * UNIT, [(UNIT, 3), (UNIT, 0)], hugetlb=MiB2, **hugetlb),
            area(BASE + 10 * MiB2, UNIT, [(UNIT, 4)], hugetlb=MiB2, offset=2 * MiB2, **hugetlb),
            area(
                BASE + 16 * MiB2,
                16,
                [(8, 5), (4, 0), (4, 6)],
                flags="rd wr mr mw me ac mg",
                merged=12 * 4096,
                merged_counts=packed(array("I", [4, 2, 2, 4])),
                merged_groups=packed(array("I", [1, 2, 2, 3])),
            ),
        ],
        "thp": "madvise",
        "pools": [POOL],
        "cgroup_version": 2,
        "memory_groups": GROUPS,
        "cpuset": "/all",
    }
    return small(**(fields | changes))


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
    return small(nodes=nodes, states=states, vmas=vmas, files=[], pools=[])
