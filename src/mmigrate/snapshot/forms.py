"""In which form a page is mapped: base page, transparent huge page, hugetlb, merged (KSM).

    for piece in pieces(snapshot, vma):    # ascending, only what is present or swapped
        piece.form, piece.first, piece.count, piece.state

Where the kernel told only how many pages of an area are huge or merged, the first ones that can
be are taken for them, and `piece.guessed` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mmigrate.snapshot.records import PageState, VmaRecord
from mmigrate.snapshot.snapshot import Snapshot
from mmigrate.units import MiB

HUGE_SIZE: Final = MiB(2)


class Form(Enum):
    """The value is a word for people."""

    BASE = "base pages"
    HUGE = "transparent huge pages"
    HUGETLB = "hugetlb pages"
    MERGED = "merged pages (KSM)"


@dataclass(frozen=True, slots=True)
class Piece:
    """Pages of an area that are alike; of HUGE and HUGETLB exactly one huge page.

    @first: counted from the start of the area.  @state: of the first.
    """

    form: Form
    first: int
    count: int
    state: PageState
    guessed: bool = False


Run = tuple[int, int, PageState]


def pieces(snapshot: Snapshot, vma: VmaRecord) -> Iterator[Piece]:
    """The pages of an area that are present or swapped out."""
    runs = [run for run in snapshot.runs(vma) if run[2].present or run[2].swapped]
    if snapshot.kind(vma) == "hugetlb":
        yield from _hugetlb(snapshot, vma, runs)
        return
    huge = _spans(snapshot, vma, runs, [state.thp for _, _, state in runs])
    known = len(huge)
    missing = vma.anon_huge // HUGE_SIZE - known
    if missing > 0:
        able = [_may_be_huge(state) for _, _, state in runs]
        there = set(huge)
        huge += [first for first in _spans(snapshot, vma, runs, able) if first not in there][
            :missing
        ]
    if not huge and not vma.merged and not any(state.ksm for _, _, state in runs):
        for first, count, state in runs:
            yield Piece(Form.BASE, first, count, state)
        return
    certain = set(huge[:known])
    base = list(_without(runs, sorted(huge), HUGE_SIZE // snapshot.page_size))
    merged = sum(count for _, count, state in base if state.ksm)
    unknown = vma.merged // snapshot.page_size - merged
    guesses = _guess_merged(base, unknown) if unknown > 0 else {}
    found = [*_huge_pieces(snapshot, runs, huge, certain), *_base_pieces(base, guesses)]
    yield from sorted(found, key=lambda piece: piece.first)


def _hugetlb(snapshot: Snapshot, vma: VmaRecord, runs: list[Run]) -> Iterator[Piece]:
    unit = vma.page_size // snapshot.page_size
    reached = 0
    for first, count, state in runs:
        start = max(reached, first // unit * unit)
        for number in range(start, first + count, unit):
            if state.present and number + unit <= snapshot.page_count(vma):
                yield Piece(Form.HUGETLB, number, unit, state)
                reached = number + unit


def _spans(snapshot: Snapshot, vma: VmaRecord, runs: list[Run], able: list[bool]) -> list[int]:
    """The first page of every aligned range of 2 MiB that only has @able runs."""
    unit = HUGE_SIZE // snapshot.page_size
    shift = (vma.start // snapshot.page_size) % unit
    stretches: list[list[int]] = []  # [first page, the page after the last]
    for (first, count, _), good in zip(runs, able, strict=True):
        if good and stretches and stretches[-1][1] == first:
            stretches[-1][1] += count
        elif good:
            stretches.append([first, first + count])
    found: list[int] = []
    for start, end in stretches:
        found += range(start + -(start + shift) % unit, end - unit + 1, unit)
    return found


def _may_be_huge(state: PageState) -> bool:
    return state.present and not (state.file or state.zero or state.ksm)


def _without(runs: list[Run], huge: list[int], unit: int) -> Iterator[Run]:
    """What of @runs is in none of the huge pages."""
    position = 0
    for first, count, state in runs:
        end = first + count
        while first < end:
            while position < len(huge) and huge[position] + unit <= first:
                position += 1
            start = huge[position] if position < len(huge) else end
            if start > first:
                stop = min(start, end)
                yield first, stop - first, state
                first = stop
            else:
                first = start + unit


def _huge_pieces(
    snapshot: Snapshot, runs: list[Run], huge: list[int], certain: set[int]
) -> Iterator[Piece]:
    unit = HUGE_SIZE // snapshot.page_size
    position = 0
    for first in sorted(huge):
        while runs[position][0] + runs[position][1] <= first:
            position += 1
        yield Piece(Form.HUGE, first, unit, runs[position][2], first not in certain)


def _guess_merged(base: list[Run], pages: int) -> dict[int, int]:
    """First page of a run to how many of it are taken for merged: anonymous ones that are
    mapped more than once before those that are not."""
    guesses: dict[int, int] = {}
    for wanted in (True, False):
        for first, count, state in base:
            if pages and _may_be_huge(state) and state.shared == wanted:
                guesses[first] = min(count, pages)
                pages -= guesses[first]
    return guesses


def _base_pieces(base: list[Run], guesses: dict[int, int]) -> Iterator[Piece]:
    for first, count, state in base:
        guessed = guesses.get(first, 0)
        if guessed:
            yield Piece(Form.MERGED, first, guessed, state, True)
        if guessed < count:
            form = Form.MERGED if state.ksm and state.present else Form.BASE
            yield Piece(form, first + guessed, count - guessed, state)
