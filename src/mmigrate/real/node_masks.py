"""Node masks as words in the memory of a process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mmigrate.arguments import node_mask, nodes_of

_MOST: Final = 8192  # bytes; a maxnode that promises more than this is refused by the kernel


def mask_words(nodes: Collection[int], maxnode: int | None) -> tuple[bytes, int]:
    """(the words of a node mask, maxnode)."""
    mask, bits = node_mask(nodes, maxnode)
    size = max(8, (max(bits, mask.bit_length()) + 63) // 64 * 8)
    return mask.to_bytes(min(size, max(_MOST, mask.bit_length() // 8 + 8)), "little"), bits


def nodes_in(words: bytes) -> tuple[int, ...]:
    return nodes_of(int.from_bytes(words, "little"))
