"""What user programs stored, byte by byte, kept outside the kernel.

Interface: a store calls `stored` in the same step in which it changes the page; whoever
unmaps, copies or truncates says so with `changing`. The contents oracle compares this with
what the page tables lead to. What became ambiguous because two tasks raced is forgotten:
no false alarm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

PAGE: Final = 4096

# (mm name and virtual page number) of private memory, (file name and page offset) of shared
Key = tuple[str, int]


class _Journal:
    """What changed while somebody copied memory: single pages, and ranges of them."""

    def __init__(self) -> None:
        self.keys: set[Key] = set()
        self.ranges: list[tuple[str, int, int]] = []

    def has(self, key: Key) -> bool:
        return key in self.keys or any(
            key[0] == name and first <= key[1] <= last for name, first, last in self.ranges
        )


class Shadow:
    """@pages: key to (bytes, mask): a mask byte of 1 says that the byte is known."""

    def __init__(self) -> None:
        self.pages: dict[Key, tuple[bytearray, bytearray]] = {}
        self._journals: list[_Journal] = []

    def stored(self, key: Key, offset: int, data: bytes) -> None:
        known = self.pages.get(key)
        if known is None:
            known = self.pages[key] = (bytearray(PAGE), bytearray(PAGE))
        end = offset + len(data)
        known[0][offset:end] = data
        known[1][offset:end] = b"\1" * len(data)
        for journal in self._journals:
            journal.keys.add(key)

    def differs(self, key: Key, offset: int, found: bytes) -> int | None:
        """The first offset from @offset on where @found is not what was stored."""
        known = self.pages.get(key)
        if known is None:
            return None
        end = offset + len(found)
        if known[0][offset:end] == found:
            return None
        expected, mask = known
        for position, byte in enumerate(found, offset):
            if mask[position] and expected[position] != byte:
                return position
        return None

    def forget(self, name: str, first: int, last: int) -> None:
        """The pages from first to last have no known contents any more.  Copies of them that
        are under way have not either."""
        for key in self.keys_in(name, first, last):
            del self.pages[key]
        for journal in self._journals:
            journal.ranges.append((name, first, last))

    def keys_in(self, name: str, first: int, last: int) -> list[Key]:
        """The known pages of one address space or file from first to last."""
        if last - first < len(self.pages):
            return [(name, n) for n in range(first, last + 1) if (name, n) in self.pages]
        return [key for key in self.pages if key[0] == name and first <= key[1] <= last]

    @contextmanager
    def dropping(self, name: str, first: int, last: int) -> Iterator[None]:
        """The pages from first to last lose their contents in this block."""
        self.forget(name, first, last)
        try:
            yield
        finally:  # a call that failed may have done a part
            self.forget(name, first, last)

    @contextmanager
    def copying(self, source: str, shift: Any, first: int, last: int) -> Iterator[None]:
        """The pages from first to last are copied to shift(number), a key or None; pages
        stored to or dropped meanwhile may or may not be in the copy."""
        before = {
            key: (bytearray(self.pages[key][0]), bytearray(self.pages[key][1]))
            for key in self.keys_in(source, first, last)
        }
        journal = _Journal()
        self._journals.append(journal)
        try:
            yield
        finally:
            self._journals.remove(journal)
        for key, known in before.items():
            target = shift(key[1])
            if target is not None and not journal.has(key) and not journal.has(target):
                self.pages[target] = known

    @contextmanager
    def moving(self, name: str, first: int, last: int) -> Iterator[list[tuple[int, int]]]:
        """The pages from first to last move in this block.  If they have, the caller appends
        (where to, how many pages) to the list.  What is stored there meanwhile moves along; what is
        stored at the new place before the end may have been in the way, or not."""
        moved: list[tuple[int, int]] = []
        journal = _Journal()
        self._journals.append(journal)
        try:
            yield moved
        finally:
            self._journals.remove(journal)
        for to, count in moved:
            if to == first:
                self.forget(name, first + count, last)
                continue
            known = {key[1]: self.pages[key] for key in self.keys_in(name, first, last)}
            self.forget(name, first, last)
            self.forget(name, to, to + count - 1)
            for number, record in known.items():
                target = (name, number - first + to)
                if number - first < count and not journal.has(target):
                    self.pages[target] = record
