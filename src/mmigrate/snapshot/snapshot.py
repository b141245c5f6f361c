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

import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final

from msgspec import Meta, Struct

from mmigrate.errors import SnapshotError
from mmigrate.snapshot.nodeset import MAX_NODES, parse_list, parse_policy

# Bits of PageState.bits.  Positions are part of the file format: only ever add.
# From pagemap:
PRESENT: Final = 1 << 0
SWAPPED: Final = 1 << 1
FILE: Final = 1 << 2  # of a file, or shared anonymous memory
EXCLUSIVE: Final = 1 << 3  # mapped once
SOFT_DIRTY: Final = 1 << 4
# From pagemap, move_pages or kpageflags, whichever could tell:
ZERO: Final = 1 << 5  # the shared page of zeroes
HUGE: Final = 1 << 6  # mapped by one entry that covers many pages
# From kpageflags:
THP: Final = 1 << 7  # part of a compound page, which newer kernels make in all sizes
HUGETLB: Final = 1 << 8
LOCKED: Final = 1 << 9  # the page lock, which I/O and migration hold; not mlock
MLOCKED: Final = 1 << 10
UNEVICTABLE: Final = 1 << 11
DIRTY: Final = 1 << 12
LRU: Final = 1 << 13
ACTIVE: Final = 1 << 14
REFERENCED: Final = 1 << 15
WRITEBACK: Final = 1 << 16
KSM: Final = 1 << 17
ANON: Final = 1 << 18
SWAPCACHE: Final = 1 << 19
SWAPBACKED: Final = 1 << 20
PRIVATE: Final = 1 << 21  # the filesystem keeps buffers or other data with it
HWPOISON: Final = 1 << 22
RESERVED: Final = 1 << 23
NO_PAGE: Final = 1 << 24  # a frame without a page behind it: device memory
ALL_BITS: Final = (1 << 25) - 1

MAX_MAPCOUNT: Final = 255  # means "255 or more"
MAX_NAME: Final = 4096
MAX_STATES: Final = 60_000  # an index is 16 bits wide
MAX_RUN: Final = 0xFFFF_FFFF
MAX_PAGES: Final = 1 << 52
MAX_AREAS: Final = 1 << 20
MAX_POLICIES: Final = 10_000

# What `Snapshot.known` may say.
KNOWN: Final = (
    "pages",
    "nodes",
    "policies",
    "page types",
    "mapping counts",
    "exclusive",
    "soft-dirty",
    "swap offsets",
    "huge pages",
    "area flags",
)

Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
NodeNumber = Annotated[int, Meta(ge=0, lt=MAX_NODES)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
Word = Annotated[str, Meta(max_length=256)]


class PageState(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What is known of a page.  @node: -1 is unknown; @mapcount: 0 is unknown, 255 that or more."""

    bits: Annotated[int, Meta(ge=0, le=ALL_BITS)]
    node: Annotated[int, Meta(ge=-1, lt=MAX_NODES)] = -1
    mapcount: Annotated[int, Meta(ge=0, le=MAX_MAPCOUNT)] = 0

    @property
    def present(self) -> bool:
        return bool(self.bits & PRESENT)

    @property
    def swapped(self) -> bool:
        return bool(self.bits & SWAPPED)

    @property
    def zero(self) -> bool:
        return bool(self.bits & ZERO)

    @property
    def huge(self) -> bool:
        return bool(self.bits & HUGE)

    @property
    def file(self) -> bool:
        """A page of a file or of shared memory, not one of anonymous memory."""
        return bool(self.bits & FILE)

    @property
    def shared(self) -> bool:
        """Mapped more than once, the page of zeroes apart."""
        if self.bits & (PRESENT | ZERO) != PRESENT:
            return False
        return self.mapcount > 1 if self.mapcount else not self.bits & EXCLUSIVE

    @property
    def soft_dirty(self) -> bool:
        return bool(self.bits & SOFT_DIRTY)

    @property
    def mlocked(self) -> bool:
        return bool(self.bits & MLOCKED)

    @property
    def ksm(self) -> bool:
        return bool(self.bits & KSM)

    @property
    def dirty(self) -> bool:
        return bool(self.bits & DIRTY)

    @property
    def writeback(self) -> bool:
        return bool(self.bits & WRITEBACK)

    @property
    def lru(self) -> bool:
        return bool(self.bits & LRU)


EMPTY: Final = PageState(0)  # always state 0


class NodeRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A node of the machine.  @memory, @free: bytes; @distances: to each node of the snapshot."""

    number: NodeNumber
    memory: Natural
    free: Natural
    cpus: Word
    distances: Annotated[list[Annotated[int, Meta(ge=0, le=255)]], Meta(max_length=MAX_NODES)]


class FileRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapped file.  @device, @inode: its identity; @filesystem: "" where it is unknown."""

    device: Annotated[str, Meta(pattern=r"\A[0-9a-f]{1,8}:[0-9a-f]{1,8}\Z")]
    inode: Annotated[str, Meta(pattern=r"\A[0-9]{1,20}\Z")]
    name: Name
    filesystem: Annotated[str, Meta(max_length=64)]


class VmaRecord(Struct, forbid_unknown_fields=True):
    """An area.  @file: a number from 1, `snapshot.files[file - 1]`, or 0; @offset: in bytes."""

    start: Natural
    end: Natural
    perms: Annotated[str, Meta(pattern=r"\A[r-][w-][x-][ps]\Z")]
    flags: Word  # VmFlags of smaps: two letters each; "" is unknown
    offset: Natural
    file: Natural
    name: Name
    policy: Word  # as in numa_maps; "" is unknown
    page_size: Natural  # of the kernel for this area: larger for hugetlbfs
    locked: Natural  # bytes, from smaps
    counts: bytes = b""  # columns of the runs: how many pages, 32 bits each
    states: bytes = b""  # and which state, 16 bits each
    swap: bytes = b""  # (first page, pages, swap area, first offset), 64 bits each

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def shared(self) -> bool:
        return self.perms[3] == "s"

    @property
    def writable(self) -> bool:
        return self.perms[1] == "w"

    def has_flag(self, flag: str) -> bool:
        """Whether smaps shows a flag, such as "lo" (locked), "io", "pf" or "ht" (hugetlbfs)."""
        return flag in self.flags.split()


def column(kind: str, data: bytes) -> array[int]:
    """The numbers of a column, which a file stores with their lowest byte first."""
    numbers = array(kind)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def packed(numbers: array[int]) -> bytes:
    """The opposite of `column`."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


@dataclass
class Summary:
    """Numbers of pages, of the machine's usual size."""

    areas: int = 0
    pages: int = 0  # of address space
    resident: int = 0  # present, the page of zeroes apart
    zero: int = 0
    swapped: int = 0
    huge: int = 0
    shared: int = 0
    file: int = 0
    anonymous: int = 0
    soft_dirty: int = 0
    locked: int = 0
    unrecorded_areas: int = 0
    by_node: Counter[int] = field(default_factory=Counter)  # resident; -1: node unknown
    by_kind: Counter[str] = field(default_factory=Counter)  # resident, see Snapshot.kind


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

    def file_of(self, vma: VmaRecord) -> FileRecord | None:
        return self.files[vma.file - 1] if vma.file else None

    def kind(self, vma: VmaRecord) -> str:
        """One of "hugetlb", "file", "shmem", "heap", "stack", "special" and "anonymous"."""
        if vma.has_flag("ht"):
            return "hugetlb"
        file = self.file_of(vma)
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
        total = Summary(areas=len(self.vmas))
        for vma in self.vmas:
            _add_area(total, self, vma)
        return total

    def validate(self) -> None:
        """Check what no single number can show.  Raises SnapshotError with what is wrong."""
        page_size = self.page_size
        _require(page_size & (page_size - 1) == 0, f"a page of {page_size} bytes is impossible")
        numbers = self.node_numbers()
        _require(list(numbers) == sorted(set(numbers)), "its nodes are not in order")
        _require(len(numbers) > 0, "it has no nodes")
        _require(len(self.vmas) <= MAX_AREAS, f"it has {len(self.vmas)} areas, and {MAX_AREAS} fit")
        for node in self.nodes:
            _require(
                len(node.distances) == len(numbers),
                f"node {node.number} has {len(node.distances)} distances for {len(numbers)} nodes",
            )
        _require(self.states[0] == EMPTY, "its first page state is not the empty one")
        anywhere = {-1, *numbers}
        for state in self.states:
            _require(state.node in anywhere, f"it has pages on node {state.node}, not listed")
        _require(len(set(self.known)) == len(self.known), "it says twice what it knows")
        for word in self.known:
            _require(word in KNOWN, "it knows something this version has no name for")
        _check_texts(self)
        pages = 0
        previous_end = 0
        for vma in self.vmas:
            _require(
                previous_end <= vma.start < vma.end, f"the area at {vma.start:#x} is out of place"
            )
            previous_end = vma.end
            _check_area(self, vma)
            pages += self.page_count(vma)
        _require(pages <= MAX_PAGES, "it has more pages than an address space can")


def _add_area(total: Summary, snapshot: Snapshot, vma: VmaRecord) -> None:
    total.pages += snapshot.page_count(vma)
    total.locked += vma.locked // snapshot.page_size
    if not vma.counts:
        total.unrecorded_areas += 1
        return
    per_state: Counter[int] = Counter()
    for count, number in zip(column("I", vma.counts), column("H", vma.states), strict=True):
        per_state[number] += count
    kind = snapshot.kind(vma)
    for number, count in per_state.items():
        state = snapshot.states[number]
        if state.swapped:
            total.swapped += count
        if state.soft_dirty:
            total.soft_dirty += count
        if not state.present:
            continue
        if state.zero:
            total.zero += count
            continue
        total.resident += count
        total.by_node[state.node] += count
        total.by_kind[kind] += count
        total.huge += count if state.huge else 0
        total.shared += count if state.shared else 0
        if state.file:
            total.file += count
        else:
            total.anonymous += count


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise SnapshotError(complaint)


def _check_texts(snapshot: Snapshot) -> None:
    # What is printed later must not be able to steer a terminal.
    texts = [snapshot.kernel, snapshot.machine, snapshot.command, snapshot.policy]
    texts += snapshot.missing
    texts += [file.name for file in snapshot.files]
    texts += [file.filesystem for file in snapshot.files]
    for vma in snapshot.vmas:
        texts += (vma.name, vma.flags, vma.policy)
    _require(all(text.isprintable() for text in texts), "one of its texts is not printable")
    cpu_lists = [snapshot.cpus_allowed, *(node.cpus for node in snapshot.nodes)]
    policies = sorted({snapshot.policy, *(vma.policy for vma in snapshot.vmas)})
    _require(len(policies) <= MAX_POLICIES, f"it has {len(policies)} different policies")
    try:
        parse_list(snapshot.nodes_allowed, MAX_NODES)
        for text in cpu_lists:
            parse_list(text)
        for policy in policies:
            if policy:
                parse_policy(policy)
    except ValueError as error:
        raise SnapshotError(f"one of its lists makes no sense: {error}") from None


def _check_area(snapshot: Snapshot, vma: VmaRecord) -> None:
    where = f"the area at {vma.start:#x}"
    page_size = snapshot.page_size
    _require(
        vma.start % page_size == vma.end % page_size == vma.offset % page_size == 0,
        f"{where} is not made of whole pages",
    )
    _require(
        vma.page_size >= page_size and vma.page_size & (vma.page_size - 1) == 0,
        f"{where} has pages of {vma.page_size} bytes",
    )
    _require(vma.file <= len(snapshot.files), f"{where} maps a file that is not listed")
    _require(vma.locked <= vma.length, f"{where} has more locked memory than memory")
    _require(
        len(vma.counts) % 4 == len(vma.states) % 2 == len(vma.swap) % 32 == 0,
        f"{where} has a broken column",
    )
    counts = column("I", vma.counts)
    states = column("H", vma.states)
    _require(len(counts) == len(states), f"{where} has columns of different length")
    pages = snapshot.page_count(vma)
    if counts:
        _require(min(counts) > 0, f"{where} has an empty run")
        _require(sum(counts) == pages, f"the runs of {where} do not cover it exactly")
        _require(max(states) < len(snapshot.states), f"{where} uses a state that is not listed")
    reached = 0
    for first, count, _area, offset in snapshot.swap_runs(vma):
        _require(
            reached <= first and count > 0 and first + count <= pages and offset < 1 << 58,
            f"{where} has swap offsets out of place",
        )
        reached = first + count
