"""What the methods of a process are given, as the numbers that system calls take.

Modelled and real processes read their arguments here, so that both understand the same words, and
refuse the same ones with the same sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from mmigrate.api import Mapping
from mmigrate.errors import ScenarioError
from mmigrate.units import PAGE_SIZE

Where = Mapping | int

# include/uapi/asm-generic/mman-common.h: PROT_READ, PROT_WRITE, PROT_EXEC
_LETTERS: Final = {"r": 1, "w": 2, "x": 4, "-": 0}
# include/uapi/linux/mempolicy.h
POLICY_MODES: Final = {
    "default": 0,
    "prefer": 1,
    "preferred": 1,
    "bind": 2,
    "interleave": 3,
    "local": 4,
}
MODE_FLAGS: Final = {"static": 1 << 15, "relative": 1 << 14}


def natural(value: int, what: str) -> int:
    """A number as a register holds it.  Raises ScenarioError: it does not fit in one."""
    if not 0 <= value < 1 << 64:
        raise ScenarioError(f"{value} is not {what}: it must be between 0 and 2**64 - 1")
    return value


def length_of(length: int | None, pages: int | None) -> int:
    """Bytes of a new mapping.  Raises ScenarioError: both are given, or none."""
    if (length is None) == (pages is None):
        raise ScenarioError("mmap needs either a length in bytes or pages=")
    return natural(length if length is not None else (pages or 0) * PAGE_SIZE, "a length")


def range_of(where: Where, length: int | None) -> tuple[int, int]:
    """(start, bytes): those of a mapping, or of a page at an address, unless @length is given."""
    if isinstance(where, Mapping):
        start, size = where.start, where.length if length is None else length
    else:
        start, size = where, PAGE_SIZE if length is None else length
    return natural(start, "an address"), natural(size, "a length")


def whole_pages(size: int) -> int:
    """Bytes, rounded up."""
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
    """PROT_* of letters.  Raises ScenarioError: another letter."""
    if isinstance(prot, int):
        return prot
    if not set(prot) <= set(_LETTERS):
        raise ScenarioError(f'prot is "{prot}"; use letters of "rwx", or "" for none')
    return sum(_LETTERS[letter] for letter in set(prot))


def policy_mode(mode: int | str) -> int:
    """MPOL_* and its flags of words such as "bind=static".  Raises ScenarioError: no such word."""
    if isinstance(mode, int):
        return mode
    name, *words = mode.replace("=", " ").split() or [""]
    if name not in POLICY_MODES or not set(words) <= set(MODE_FLAGS):
        raise ScenarioError(f'no policy is called "{mode}"; known: {", ".join(POLICY_MODES)}')
    return POLICY_MODES[name] | sum(MODE_FLAGS[word] for word in set(words))


def mask_of(nodes: Collection[int]) -> int:
    """Nodes as a bit mask.  Raises ScenarioError: a number below zero."""
    mask = 0
    for node in nodes:
        if node < 0:
            raise ScenarioError(f"{node} is not a node")
        mask |= 1 << node
    return mask


def nodes_of(mask: int) -> tuple[int, ...]:
    """The nodes of a bit mask, in order."""
    return tuple(node for node in range(mask.bit_length()) if mask >> node & 1)


def node_mask(nodes: Collection[int], maxnode: int | None) -> tuple[int, int]:
    """(bit mask, maxnode) for some nodes; the kernel reads maxnode - 1 bits."""
    mask = mask_of(nodes)
    return mask, max(64, mask.bit_length()) + 1 if maxnode is None else maxnode
