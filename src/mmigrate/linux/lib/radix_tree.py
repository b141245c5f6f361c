"""Sparse array from index to object, with tags  (lib/radix-tree.c).

A dict has the same meaning: a slot holds a page, an exceptional entry, or nothing. The
tags belong to the slot, not to what is in it. Lookups and stores that race are primitives
in `linux/kernel/rcu.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class RadixTree:
    """@slots: index to entry; @tags: for each of the three tags the indices that have it."""

    __slots__ = ("name", "slots", "tags")

    def __init__(self, name: str = "radix tree") -> None:
        self.name = name
        self.slots: dict[int, Any] = {}
        self.tags: tuple[set[int], set[int], set[int]] = (set(), set(), set())

    def __repr__(self) -> str:
        return self.name

    def tag_set(self, index: int, tag: int) -> None:
        self.tags[tag].add(index)

    def tag_clear(self, index: int, tag: int) -> None:
        self.tags[tag].discard(index)

    def tag_get(self, index: int, tag: int) -> bool:
        return index in self.tags[tag]

    def tagged(self, tag: int) -> bool:
        return bool(self.tags[tag])

    def delete(self, index: int) -> Any:
        """Empty the slot, tags included; what was in it."""
        for indices in self.tags:
            indices.discard(index)
        return self.slots.pop(index, None)

    def indices(self, first: int, last: int, tag: int | None = None) -> Iterator[int]:
        """The used (or tagged) indices from first to last, ascending, as they are now."""
        source = self.slots if tag is None else self.tags[tag]
        if last - first < len(source):
            return iter([index for index in range(first, last + 1) if index in source])
        return iter(sorted(index for index in source if first <= index <= last))
