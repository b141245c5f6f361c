"""What the methods of a process are given, as the numbers that system calls take."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from mmigrate.api import Mapping
from mmigrate.errors import ScenarioError
from mmigrate.real.kernel_abi import (
    MODE_FLAGS,
    POLICY_MODES,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from mmigrate.units import PAGE_SIZE

Where = Mapping | int
_LETTERS: Final = {"r": PROT_READ, "w": PROT_WRITE, "x": PROT_EXEC, "-": 0}


def length_of(length: int | None, pages: int | None) -> int:
    if (length is None) == (pages is None):
        raise ScenarioError("mmap needs either a length in bytes or pages=")
    return natural(length if length is not None else (pages or 0) * PAGE_SIZE, "a length")


def natural(value: int, what: str) -> int:
    """A number as a register holds it."""
    if not 0 <= value < 1 << 64:
        raise ScenarioError(f"{value} is not {what}: it must be between 0 and 2**64 - 1")
    return value


def range_of(where: Where, length: int | None) -> tuple[int, int]:
    """(start, bytes)."""
    if isinstance(where, Mapping):
        start, size = where.start, where.length if length is None else length
    else:
        start, size = where, PAGE_SIZE if length is None else length
    return natural(start, "an address"), natural(size, "a length")


def whole_pages(size: int) -> int:
    return (size + PAGE_SIZE - 1) & -PAGE_SIZE


def by_page(address: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(address, position in the whole, bytes) of the part in each page."""
    position = 0
    while position < size:
        here = address + position
        part = min(size - position, PAGE_SIZE - here % PAGE_SIZE)
        yield here, position, part
        position += part


def protection(prot: int | str) -> int:
    if isinstance(prot, int):
        return prot
    if not set(prot) <= set(_LETTERS):
        raise ScenarioError(f'prot is "{prot}"; use letters of "rwx", or "" for none')
    return sum(_LETTERS[letter] for letter in set(prot))


def policy_mode(mode: int | str) -> int:
    if isinstance(mode, int):
        return mode
    name, *words = mode.replace("=", " ").split()
    if name not in POLICY_MODES or not set(words) <= set(MODE_FLAGS):
        raise ScenarioError(f'no policy is called "{mode}"; known: {", ".join(POLICY_MODES)}')
    return POLICY_MODES[name] | sum(MODE_FLAGS[word] for word in set(words))


def node_mask(nodes: Collection[int], maxnode: int | None) -> tuple[bytes, int]:
    """(the words of a node mask, maxnode); the kernel reads maxnode - 1 bits."""
    mask = 0
    for node in nodes:
        if node < 0:
            raise ScenarioError(f"{node} is not a node")
        mask |= 1 << node
    bits = max(64, mask.bit_length()) + 1 if maxnode is None else maxnode
    size = max(8, (max(bits, mask.bit_length()) + 63) // 64 * 8)
    return mask.to_bytes(min(size, max(8192, mask.bit_length() // 8 + 8)), "little"), bits


def nodes_in(mask: bytes) -> tuple[int, ...]:
    number = int.from_bytes(mask, "little")
    return tuple(node for node in range(number.bit_length()) if number >> node & 1)
