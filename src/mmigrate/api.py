"""What a machine can do, whatever kernel is under it: reasons, results, and the protocols.

The model (`mmigrate.Machine`) and a real kernel both speak these types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable


class Reason(Enum):
    """Why a page did not move.  The value is a sentence for people."""

    SHARED = "mapped by more than one process, and only exclusive pages were asked for"
    PINNED = "somebody holds an extra reference, for example for direct I/O"
    WRITEBACK = "being written to disk"
    NOT_ON_LRU = "not on an LRU list: isolated by somebody else, or waiting in a per-CPU vector"
    NO_MEMORY = "no free memory on the target node"
    ZERO_PAGE = "the shared page of zeroes"
    NOT_PRESENT = "nothing is mapped there: never touched"
    SWAPPED = "swapped out"
    MIGRATING = "already being migrated by somebody else"
    NO_AREA = "no mapping at this address"
    NOT_MIGRATABLE = "the mapping is of a kind that never migrates (I/O or raw frames)"
    DEVICE = "device memory without an ordinary page"
    HUGETLB_UNSUPPORTED = "a huge page of a size that cannot migrate"
    HUGETLB_LIMITED = "a private huge page of a mount of hugetlbfs with a limit"
    HUGETLB_NO_POOL = "a huge page, and the pool of the target node has no free one"
    NOT_TRIED = "not tried: the call had ended at a page for which there was no memory"
    LOCKED = "the page lock is held by somebody else"
    DIRTY_NO_METHOD = "dirty, and its filesystem can only write it, which this mode forbids"
    WRITE_FAILED = "its filesystem failed to write it, or cannot"
    STILL_MAPPED = "some mapping of it could not be removed"
    BUFFERS_BUSY = "its buffers are in use"
    TRUNCATED = "it is being removed from its file"
    METHOD_REFUSED = "its filesystem refused to move it"
    ALREADY_THERE = "already on the target node"
    KEPT_BY_POLICY = "its node is one the policy allows"
    UNKNOWN = "the kernel gave no reason"


@dataclass(frozen=True)
class MoveResult:
    """What move_pages(2) answered.  @status: one value a page, a node or a negative errno."""

    status: tuple[int, ...]
    reasons: Counter[Reason] = field(default_factory=Counter)
    returned: int = 0

    def __str__(self) -> str:
        nodes = Counter(value for value in self.status if value >= 0)
        parts = [f"{count} on node {node}" for node, count in sorted(nodes.items())]
        stayed = len(self.status) - sum(nodes.values())
        if stayed:
            why = ", ".join(
                f"{count} {reason.name.lower().replace('_', ' ')}"
                for reason, count in sorted(self.reasons.items(), key=lambda item: item[0].name)
            )
            parts.append(f"{stayed} not moved" + (f" ({why})" if why else ""))
        return f"{len(self.status)} pages: " + (", ".join(parts) or "none")


@dataclass(frozen=True)
class Mapping:
    """A range of addresses that mmap returned; @length in bytes."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length

    def pages(self) -> range:
        """The address of each page."""
        return range(self.start, self.end, 4096)

    def __getitem__(self, part: slice) -> Mapping:
        """Some of the pages: `heap[0:4]` are the first four."""
        chosen = self.pages()[part]
        if chosen.step != 4096:
            raise ValueError("a part of a mapping has no gaps: use a step of 1")
        return Mapping(chosen.start, len(chosen) * 4096)


@runtime_checkable
class ProcessLike(Protocol):
    """A process, modelled or real."""

    def mmap(self, length: int | None = None, **options: Any) -> Mapping: ...
    def munmap(self, where: Mapping | int, length: int | None = None) -> None: ...
    def touch(self, where: Mapping | int, *, write: bool = True) -> None: ...
    def write(self, address: int, data: bytes) -> None: ...
    def read(self, address: int, length: int) -> bytes: ...
    def move_pages(
        self, where: Mapping | Sequence[int], node: int | Sequence[int] | None = None
    ) -> MoveResult: ...
    def placement(self, where: Mapping) -> dict[int, int]: ...


@runtime_checkable
class MachineLike(Protocol):
    """A machine, modelled or real."""

    def process(self, name: str = "app", **options: Any) -> Any: ...
    def start(self, function: Any, *arguments: Any, **options: Any) -> Any: ...
    def run(self, seed: int | None = None) -> None: ...
