"""All that a machine consists of, in an order of its own: two that are alike give equal lists."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from mmigrate import Machine

ATOMS = (int, str, float, bytes, bytearray, frozenset, range, type(None))


def whole_state(machine: Machine) -> list[object]:
    """The kernel and everything that it leads to: objects get numbers as they are met."""
    numbers: dict[int, int] = {}
    kept: list[object] = []  # so that no identity is used twice
    waiting: list[Any] = [machine.kernel]
    told: list[object] = []

    def name(value: Any) -> object:
        if isinstance(value, ATOMS):
            return bytes(value) if isinstance(value, bytearray) else value
        if callable(value) or isinstance(value, type):
            return getattr(value, "__qualname__", type(value).__qualname__)
        if id(value) not in numbers:
            numbers[id(value)] = len(numbers)
            kept.append(value)
            waiting.append(value)
        return (type(value).__qualname__, numbers[id(value)])

    name(waiting.pop())
    position = 0
    while position < len(waiting):
        value = waiting[position]
        position += 1
        told.append([name(value), *((name(key), name(part)) for key, part in _parts(value))])
    return told


def assert_alike(one: Machine, other: Machine) -> None:
    """Shows the first difference alone, not two machines."""
    for left, right in zip_longest(whole_state(one), whole_state(other)):
        assert left == right


def _parts(value: Any) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif not isinstance(value, set):
        for kind in type(value).__mro__:
            for slot in getattr(kind, "__slots__", ()):
                yield slot, getattr(value, slot, None)
        yield from getattr(value, "__dict__", {}).items()
