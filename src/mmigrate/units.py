"""Sizes in bytes."""

from typing import Final

PAGE_SIZE: Final = 4096


def KiB(count: float) -> int:
    return int(count * (1 << 10))


def MiB(count: float) -> int:
    return int(count * (1 << 20))


def GiB(count: float) -> int:
    return int(count * (1 << 30))
