"""Intervals of page offsets in the order of the kernel's trees  (lib/interval_tree.c).

No library gives that order, and correctness of migration hangs on it: entries come by
their first offset, and equal ones in order of insertion, so that a forked or moved area
stands behind its source. `insert_after` is the fork case.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Interval(Protocol):
    """What can be kept: a first and a last page offset, both inclusive."""

    def interval(self) -> tuple[int, int]: ...


T = TypeVar("T", bound=Interval)


class IntervalTree(Generic[T]):
    """A sorted list with a running maximum of the ends, which bounds a search from below."""

    __slots__ = ("_ends", "_highest", "_items", "_starts")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._highest: list[int] = []  # _highest[i] = max(_ends[: i + 1])

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._items))

    def insert(self, item: T) -> None:
        """Behind all that start at or before it."""
        start, _ = item.interval()
        self._insert_at(bisect_right(self._starts, start), item)

    def insert_after(self, item: T, previous: T) -> None:
        """Directly behind @previous, which must start at the same offset."""
        self._insert_at(self._position(previous) + 1, item)

    def remove(self, item: T) -> None:
        position = self._position(item)
        del self._items[position], self._starts[position], self._ends[position]
        self._recompute(position)

    def overlapping(self, first: int, last: int) -> list[T]:
        """All that share an offset with first..last, in tree order."""
        items = self._items
        found: list[T] = []
        index = bisect_right(self._starts, last) - 1
        while index >= 0 and self._highest[index] >= first:
            if self._ends[index] >= first:
                found.append(items[index])
            index -= 1
        found.reverse()
        return found

    def _position(self, item: T) -> int:
        # @item's own offsets may have changed only while it is out of the tree.
        index = bisect_left(self._starts, item.interval()[0])
        items = self._items
        while items[index] is not item:
            index += 1
        return index

    def _insert_at(self, position: int, item: T) -> None:
        start, end = item.interval()
        self._items.insert(position, item)
        self._starts.insert(position, start)
        self._ends.insert(position, end)
        self._recompute(position)

    def _recompute(self, position: int) -> None:
        highest = self._highest
        del highest[position:]
        top = highest[-1] if highest else -1
        for end in self._ends[position:]:
            top = max(top, end)
            highest.append(top)


def overlapping(tree: IntervalTree[T], first: int, last: int) -> list[T]:
    """`tree.overlapping(first, last)`, made short for a tree of one: nearly always."""
    items = tree._items
    if len(items) != 1:
        return tree.overlapping(first, last)
    return [items[0]] if tree._starts[0] <= last and tree._ends[0] >= first else []
