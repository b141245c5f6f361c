"""Sets of nodes as bit masks in plain ints: bit n is node n  (include/linux/nodemask.h)."""

from __future__ import annotations

from collections.abc import Iterator


def nodes(mask: int) -> Iterator[int]:
    """The nodes of a mask, ascending."""
    node = 0
    while mask:
        if mask & 1:
            yield node
        mask >>= 1
        node += 1


def weight(mask: int) -> int:
    return mask.bit_count()


def first_node(mask: int) -> int:
    """The lowest node of a mask that is not empty."""
    return (mask & -mask).bit_length() - 1


def next_node_in(node: int, mask: int) -> int:
    """The next node of a mask after @node, wrapping around."""
    above = mask >> (node + 1) << (node + 1)
    return first_node(above or mask)


def nth_node(mask: int, position: int) -> int:
    """The node at a position, counted from 0."""
    for _ in range(position):
        mask &= mask - 1
    return first_node(mask)


def node_position(mask: int, node: int) -> int:
    """How many nodes of the mask are below @node."""
    return (mask & ((1 << node) - 1)).bit_count()


def node_remap(node: int, old: int, new: int) -> int:
    """The node of @new at the position that @node has in @old; nodes outside of @old, and
    all if @new is empty, stay  (include/linux/nodemask.h: node_remap)."""
    if not old >> node & 1 or not new:
        return node
    return nth_node(new, node_position(old, node) % weight(new))


def nodes_remap(mask: int, old: int, new: int) -> int:
    result = 0
    for node in nodes(mask):
        result |= 1 << node_remap(node, old, new)
    return result


def nodes_fold(mask: int, size: int) -> int:
    """Bit n of the mask at position n modulo @size."""
    result = 0
    for node in nodes(mask):
        result |= 1 << (node % size)
    return result


def nodes_onto(mask: int, relative_to: int) -> int:
    """Bit n of the mask names the n-th node of @relative_to."""
    result = 0
    for position, node in enumerate(nodes(relative_to)):
        if mask >> position & 1:
            result |= 1 << node
    return result
