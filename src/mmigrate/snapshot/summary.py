"""Totals of a snapshot, for tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmigrate.snapshot.records import VmaRecord, column

if TYPE_CHECKING:
    from mmigrate.snapshot.snapshot import Snapshot


@dataclass
class Summary:
    """Numbers of pages, of the machine's usual size."""

    areas: int = 0
    pages: int = 0  # of address space
    resident: int = 0  # present, the page of zeroes apart
    zero: int = 0
    swapped: int = 0
    huge: int = 0  # mapped by entries that cover many pages
    thp: int = 0  # of these, transparent and anonymous
    hugetlb: int = 0
    merged: int = 0  # with others of the same contents (KSM)
    shared: int = 0
    file: int = 0
    anonymous: int = 0
    soft_dirty: int = 0
    locked: int = 0
    unrecorded_areas: int = 0
    by_node: Counter[int] = field(default_factory=Counter)  # resident; -1: node unknown
    by_kind: Counter[str] = field(default_factory=Counter)  # resident, see Snapshot.kind


def summary_of(snapshot: Snapshot) -> Summary:
    """All areas together."""
    total = Summary(areas=len(snapshot.vmas))
    for vma in snapshot.vmas:
        _add_area(total, snapshot, vma)
    return total


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
    thp = merged = 0
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
        total.hugetlb += count if kind == "hugetlb" else 0
        thp += count if state.thp and kind != "hugetlb" else 0
        merged += count if state.ksm else 0
        if state.file:
            total.file += count
        else:
            total.anonymous += count
    # Of some areas only the sum is known.
    total.thp += max(thp, vma.anon_huge // snapshot.page_size)
    total.merged += max(merged, vma.merged // snapshot.page_size)
