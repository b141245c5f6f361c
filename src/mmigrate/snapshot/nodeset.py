"""Sets of nodes as people and the kernel write them: `0,2-3`, `!0`, `bind:0-1`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from mmigrate.errors import UsageError

MAX_CPUS: Final = 1 << 13  # as many as a kernel can be built for
MAX_NODES: Final = 1 << 10
_PART = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z", re.ASCII)


class Policy(NamedTuple):
    """A memory policy: `interleave=static:0-1` is ("interleave", "static", (0, 1))."""

    mode: str
    flags: str
    nodes: tuple[int, ...]


def parse_nodes(
    text: str, nodes: Sequence[int], allowed: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The nodes that @text names on a machine with @nodes, in ascending order.

    numactl's notation: "0", "0-1", "0,2-3", "all" (those @allowed, else every node), "!0" (all
    but these), "+0" (counted among the @allowed ones).  Raises UsageError with one sentence.
    """
    usable = tuple(sorted(set(nodes if allowed is None else allowed)))
    rest = text.strip()
    inverted = rest.startswith("!")
    rest = rest[inverted:]
    relative = rest.startswith("+")
    rest = rest[relative:]
    if rest == "all":
        chosen = usable
    else:
        try:
            chosen = parse_list(rest, MAX_NODES)
        except ValueError:
            chosen = ()
        if not chosen:
            raise UsageError(
                f"'{_shown(text)}' is not a set of nodes; write 0, 0-1, 0,2-3, all, !0 or +0"
            )
        if relative:
            chosen = tuple(_nth(usable, position, text) for position in chosen)
    for number in chosen:
        if number not in nodes:
            raise UsageError(f"node {number} does not exist; {_there_is(nodes)}")
    if inverted:
        chosen = tuple(number for number in usable if number not in chosen)
        if not chosen:
            raise UsageError(f"'{_shown(text)}' leaves no node; {_there_is(nodes)}")
    return tuple(sorted(set(chosen)))


def parse_list(text: str, limit: int = MAX_CPUS) -> tuple[int, ...]:
    """The numbers, below @limit, of a list such as "0-3,7"; none for "".  Raises ValueError."""
    numbers: list[int] = []
    for part in text.split(",") if text else ():
        match = _PART.match(part)
        if match is None:
            raise ValueError(f"'{_shown(part)}' is not a number or a range")
        first = int(match[1])
        last = int(match[2]) if match[2] is not None else first
        if not first <= last < limit or len(numbers) > limit:
            raise ValueError(f"'{_shown(part)}' is not a range")
        numbers.extend(range(first, last + 1))
    return tuple(numbers)


def parse_policy(text: str) -> Policy:
    """A policy as numa_maps shows it, such as "bind=static:0-1".  Raises ValueError."""
    head, _, nodes = text.partition(":")
    mode, _, flags = head.partition("=")
    if not re.fullmatch(r"[a-z][a-z ()_-]*", mode, re.ASCII):
        raise ValueError(f"'{_shown(text)}' is not a policy")
    return Policy(mode, flags, parse_list(nodes, MAX_NODES))


def describe(nodes: Sequence[int]) -> str:
    """ "node 0", or "nodes 0-1,4"."""
    ordered = sorted(nodes)
    parts: list[str] = []
    start = 0
    for position, number in enumerate(ordered):
        if position + 1 < len(ordered) and ordered[position + 1] == number + 1:
            continue
        first = ordered[start]
        parts.append(str(first) if first == number else f"{first}-{number}")
        start = position + 1
    return ("node " if len(ordered) == 1 else "nodes ") + ",".join(parts)


def _there_is(nodes: Sequence[int]) -> str:
    return f"there {'is' if len(nodes) == 1 else 'are'} {describe(nodes)}"


def _nth(usable: Sequence[int], position: int, text: str) -> int:
    if position >= len(usable):
        raise UsageError(
            f"'{_shown(text)}' asks for node {position} counted from 0, "
            f"and only {len(usable)} may be used"
        )
    return usable[position]


def _shown(text: str) -> str:
    short = text if len(text) <= 40 else text[:40] + "…"
    return short if short.isprintable() else ascii(short)[1:-1]
