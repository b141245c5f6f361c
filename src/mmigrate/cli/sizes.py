"""Sizes on the command line: 64M, 1.5G, 4096."""

from __future__ import annotations

import re

from mmigrate.errors import UsageError
from mmigrate.units import PAGE_SIZE

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\Z", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes.  Raises UsageError."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise UsageError(f"'{text[:40]}' is not a size; write 64M or 16G")
    size = int(float(match[1]) * UNITS[match[2].upper()])
    if size > 1 << 46:
        raise UsageError(f"'{text[:40]}' is more memory than a computer can have")
    return size // PAGE_SIZE * PAGE_SIZE


def parse_sizes(text: str) -> list[int]:
    """The memory of each node, from a list with commas.  Raises UsageError."""
    sizes = [parse_size(part) for part in text.split(",")]
    if not any(sizes):
        raise UsageError("at least one node needs memory")
    if len(sizes) > 1024:
        raise UsageError(f"{len(sizes)} nodes are more than the 1024 that Linux can have")
    return sizes


def parse_counts(text: str) -> list[int]:
    """Numbers of huge pages, one a node, from a list with commas.  Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1024 or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise UsageError(f"'{text[:40]}' is not a number of huge pages for each node; write 0,512")
    return [int(part) for part in parts]
