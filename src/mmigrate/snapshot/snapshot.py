"""What is known of a recorded process: its areas, and the state of every page as runs.

Page states are few and repeat, so a snapshot keeps each distinct state once and an area keeps
runs of (number of pages, index of the state).  Runs begin at the first page of their area and
cover all of it; an area without runs is one whose pages could not be recorded.

    for area in snapshot.vmas:
        for first, count, state in snapshot.runs(area):     # pages first .. first + count - 1
            if state.present: ...                           # state.node, state.shared, state.zero

`docs/snapshot-format.md` describes every field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from mmigrate.snapshot.checks import validate
from mmigrate.snapshot.nodeset import MAX_NODES
from mmigrate.snapshot.records import (
    KNOWN,
    MAX_AREAS,
    MAX_GROUPS,
    MAX_NAME,
    MAX_POOLS,
    MAX_STATES,
    FileRecord,
    MemoryGroup,
    Name,
    Natural,
    NodeRecord,
    PageState,
    PoolRecord,
    VmaRecord,
    Word,
    column,
)
from mmigrate.snapshot.summary import Summary, summary_of


class Snapshot(Struct, forbid_unknown_fields=True):
    """A process as it was at one moment, as far as it may be read.  @known: a part of KNOWN."""

    version: Annotated[int, Meta(ge=1, le=0xFFFF)]
    kernel: Word
    machine: Word  # as uname -m says
    page_size: Annotated[int, Meta(ge=4096, le=1 << 16)]
    taken_at: Natural  # seconds since 1970
    pid: Annotated[int, Meta(ge=1, le=1 << 31)]
    command: Word
    cpus_allowed: Annotated[str, Meta(max_length=MAX_NAME)]
    nodes_allowed: Annotated[str, Meta(max_length=MAX_NAME)]
    policy: Word  # of the process; "" is unknown
    nodes: Annotated[list[NodeRecord], Meta(max_length=MAX_NODES)]
    known: Annotated[list[Word], Meta(max_length=len(KNOWN))]
    missing: Annotated[list[Name], Meta(max_length=1000)]
    files: Annotated[list[FileRecord], Meta(max_length=MAX_AREAS)]
    states: Annotated[list[PageState], Meta(min_length=1, max_length=MAX_STATES)]
    vmas: Annotated[list[VmaRecord], Meta(max_length=MAX_AREAS)]
    # Since version 2:
    thp: Word = ""  # /sys/kernel/mm/transparent_hugepage/enabled; "" is unknown
    pools: Annotated[list[PoolRecord], Meta(max_length=MAX_POOLS)] = []
    cgroup_version: Annotated[int, Meta(ge=0, le=2)] = 0  # of the memory controller; 0 is unknown
    memory_groups: Annotated[list[MemoryGroup], Meta(max_length=MAX_GROUPS)] = []  # outermost first
    cpuset: Name = ""  # its path; the nodes that it allows are `nodes_allowed`

    def runs(self, vma: VmaRecord) -> Iterator[tuple[int, int, PageState]]:
        """(index of the first page in the area, number of pages, their state), gapless.

        Nothing at all where the area's pages were not recorded.
        """
        states = self.states
        first = 0
        for count, state in zip(column("I", vma.counts), column("H", vma.states), strict=True):
            yield first, count, states[state]
            first += count

    def swap_runs(self, vma: VmaRecord) -> Iterator[tuple[int, int, int, int]]:
        """(first page, number of pages, swap area, offset of the first), offsets rising by one."""
        numbers = column("Q", vma.swap)
        for position in range(0, len(numbers), 4):
            first, count, area, offset = numbers[position : position + 4]
            yield first, count, area, offset

    def merged_runs(self, vma: VmaRecord) -> Iterator[tuple[int, int]]:
        """(number of merged pages, whose contents they share), over the merged pages of an area;
        nothing at all where that is not known."""
        counts, groups = column("I", vma.merged_counts), column("I", vma.merged_groups)
        yield from zip(counts, groups, strict=True)

    def file_of(self, vma: VmaRecord) -> FileRecord | None:
        return self.files[vma.file - 1] if vma.file else None

    def kind(self, vma: VmaRecord) -> str:
        """One of "hugetlb", "file", "shmem", "heap", "stack", "special" and "anonymous"."""
        file = self.file_of(vma)
        if vma.has_flag("ht") or (file is not None and file.filesystem == "hugetlbfs"):
            return "hugetlb"
        if file is not None:
            return "shmem" if file.filesystem in ("tmpfs", "devtmpfs") else "file"
        if vma.name == "[heap]":
            return "heap"
        if vma.name.startswith("[stack"):
            return "stack"
        if vma.name.startswith("[anon"):
            return "shmem" if vma.shared else "anonymous"
        return "special" if vma.name.startswith("[") else "anonymous"

    def page_count(self, vma: VmaRecord) -> int:
        return (vma.end - vma.start) // self.page_size

    def node_numbers(self) -> tuple[int, ...]:
        return tuple(node.number for node in self.nodes)

    def summary(self) -> Summary:
        """Totals for a table."""
        return summary_of(self)

    def validate(self) -> None:
        """Check what no single number can show.  Raises SnapshotError with what is wrong."""
        validate(self)
