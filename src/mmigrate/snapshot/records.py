"""The parts of a snapshot: states of pages, areas, files, nodes, pools of huge pages, cgroups.

`docs/snapshot-format.md` describes every field.  What version 2 added has a default.
"""

from __future__ import annotations

import sys
from array import array
from typing import Annotated, Final

from msgspec import Meta, Struct

from mmigrate.snapshot.nodeset import MAX_NODES

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
HUGETLB: Final = 1 << 8  # known by the area, too
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
MAX_POOLS: Final = 16  # sizes of huge pages
MAX_GROUPS: Final = 64  # cgroups in each other

VERSION: Final = 2  # of the file format
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
    # since version 2:
    "merged pages",
    "merged totals",
    "huge page pools",
    "memory cgroup",
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
    def thp(self) -> bool:
        """Part of a transparent huge page of anonymous memory that one entry maps."""
        wanted = PRESENT | HUGE
        return self.bits & (wanted | FILE | ZERO | HUGETLB) == wanted

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


Numbers = Annotated[list[Natural], Meta(max_length=MAX_NODES)]


class PoolRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The machine's huge pages of @size bytes.  @overcommit, @reserved: of all nodes together; the
    lists have a number for each node of the snapshot.  All count huge pages."""

    size: Natural
    overcommit: Natural
    reserved: Natural
    total: Numbers
    free: Numbers
    surplus: Numbers


class MemoryGroup(Struct, frozen=True, forbid_unknown_fields=True):
    """A memory cgroup, sizes in bytes.  @limit: None is none; @usage: None is unknown."""

    path: Name
    limit: Natural | None
    usage: Natural | None


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
    # Since version 2; bytes, from smaps:
    anon_huge: Natural = 0  # AnonHugePages
    file_huge: Natural = 0  # ShmemPmdMapped and FilePmdMapped
    hugetlb: Natural = 0  # Private_Hugetlb and Shared_Hugetlb
    merged: Natural = 0  # KSM
    # Columns of runs over the merged pages only: how many, 32 bits each
    merged_counts: bytes = b""
    merged_groups: bytes = b""  # and whose contents they share: a number from 1, 32 bits each

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
