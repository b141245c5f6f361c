"""Pages that were merged with others of the same contents (KSM), merged again by ksmd's scan.

Which pages share a frame is recorded where it could be seen; each group gets contents of its own
here.  Mappings that other processes have of a merged page are those of one other process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from mmigrate.api import Mapping
from mmigrate.linux.include.mm import MADV_MERGEABLE
from mmigrate.linux.kernel.page_flags import PageKsm
from mmigrate.machine.machine import Machine
from mmigrate.machine.process import Process
from mmigrate.snapshot.forms import Form, pieces
from mmigrate.snapshot.records import VmaRecord
from mmigrate.snapshot.snapshot import Snapshot
from mmigrate.units import PAGE_SIZE

MAX_GROUPS: Final = 1 << 16  # each has contents of 4 KiB
MAX_OTHERS: Final = 1 << 17  # pages of the other process
_GUESS: Final = "guessed"


@dataclass
class Group:
    """Pages with the same contents.  @mapcount: as recorded, of all processes; 0 is unknown."""

    node: int
    addresses: list[int] = field(default_factory=list)
    mapcount: int = 0


def groups_of(
    snapshot: Snapshot, areas: Sequence[tuple[VmaRecord, Mapping]]
) -> tuple[dict[object, Group], int]:
    """The groups, and how many pages were given a partner because theirs is unknown."""
    groups: dict[object, Group] = {}
    paired = 0
    for vma, _ in areas:
        numbers = [group for count, group in snapshot.merged_runs(vma) for _ in range(count)]
        position = 0
        for piece in pieces(snapshot, vma):
            if piece.form is not Form.MERGED:
                continue
            node = max(piece.state.node, 0)
            for page in range(piece.first, piece.first + piece.count):
                if position < len(numbers) and not piece.guessed:
                    name: object = (numbers[position], node)
                    position += 1
                else:
                    name = (_GUESS, paired // 2, node)
                    paired += 1
                group = groups.setdefault(name, Group(node))
                group.addresses.append(vma.start + page * PAGE_SIZE)
                group.mapcount = max(group.mapcount, piece.state.mapcount)
    return groups, paired


def merge(
    machine: Machine,
    process: Process,
    groups: Sequence[Group],
    go_to: Callable[[int], None],
    note: Callable[[str], None],
) -> int:
    """Fault the pages in, give them contents, and let ksmd merge them; how many did."""
    others = _Others(machine)
    addresses: list[int] = []
    for number, group in enumerate(groups):
        contents = number.to_bytes(8, "big").ljust(PAGE_SIZE, b"k")
        go_to(group.node)
        for address in group.addresses:
            process.touch(address)
            if number < MAX_GROUPS:
                _fill(process, address, contents)
        if number < MAX_GROUPS:
            addresses += group.addresses
            elsewhere = max(group.mapcount - len(group.addresses), 0)
            others.add(group.node, contents, elsewhere, len(group.addresses))
    if len(groups) > MAX_GROUPS:
        note(f"only {MAX_GROUPS:,} of {len(groups):,} merged pages are merged here")
    for start, end in _ranges(addresses):
        process.madvise(start, MADV_MERGEABLE, end - start)
    others.appear()
    machine.ksm_scan()
    others.leave()
    if others.left_out:
        note(f"{others.left_out:,} mappings of merged pages by other processes are left out here")
    pages = map(process.page_at, addresses)
    return sum(1 for page in pages if page is not None and PageKsm(page))


class _Others:
    """The other process: its pages by node, and whether they go again after the merge, because
    the page is mapped once only and one alone merges with nobody."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.left_out = 0
        self._pages: dict[int, list[tuple[bytes, bool]]] = {}
        self._leaving: list[int] = []
        self._room = MAX_OTHERS
        self._process: Process | None = None

    def add(self, node: int, contents: bytes, count: int, partners: int) -> None:
        """@count pages like @partners of the recorded process."""
        possible = min(count, self._room)
        self.left_out += count - possible
        self._room -= possible
        pages = self._pages.setdefault(node, [])
        pages += [(contents, False)] * possible
        pages += [(contents, True)] * max(0, 2 - partners - possible)

    def appear(self) -> None:
        for node, pages in sorted(self._pages.items()):
            if not pages:
                continue
            if self._process is None:
                self._process = self.machine.process("merged-elsewhere")
            self._process.set_mempolicy("bind", [node])
            where = self._process.mmap(pages=len(pages))
            self._process.touch(where)
            for address, (contents, leaves) in zip(where.pages(), pages, strict=True):
                _fill(self._process, address, contents)
                self._leaving += [address] if leaves else []
            self._process.madvise(where, MADV_MERGEABLE)

    def leave(self) -> None:
        for start, end in _ranges(self._leaving):
            assert self._process is not None
            self._process.munmap(start, end - start)


def _fill(process: Process, address: int, contents: bytes) -> None:
    """What the page holds: as if it had been read from somewhere, not stored by the process, so
    that all pages of a group can have the same bytes object."""
    page = process.page_at(address)
    assert page is not None
    page.data = contents


def _ranges(addresses: Iterable[int]) -> list[tuple[int, int]]:
    """(start, end) of adjacent pages."""
    found: list[tuple[int, int]] = []
    for address in sorted(addresses):
        if found and found[-1][1] == address:
            found[-1] = (found[-1][0], address + PAGE_SIZE)
        else:
            found.append((address, address + PAGE_SIZE))
    return found
