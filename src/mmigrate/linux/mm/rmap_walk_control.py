"""What a walk of the reverse map does at each place  (include/linux/rmap.h)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmigrate.linux.include.mm_types import AddressSpace, Page, Vma

RmapOne = Callable[[Page, Vma, int, Any], int]


class RmapWalkControl:
    """What a walk does  (struct rmap_walk_control).

    @rmap_one(page, vma, address, arg): SWAP_AGAIN goes on, anything else ends the walk.
    @anon_lock: how to get at the anon_vma, locked; by default its lock is slept for.
    @done(page): whether the walk may end.  @file_nonlinear(page, mapping, arg): what to do
    with nonlinear areas.  @invalid_vma(vma, arg): areas to pass over.
    """

    __slots__ = ("anon_lock", "done", "file_nonlinear", "invalid_vma", "rmap_one")

    def __init__(
        self,
        rmap_one: RmapOne,
        *,
        anon_lock: Callable[[Page], Any] | None = None,
        done: Callable[[Page], bool] | None = None,
        file_nonlinear: Callable[[Page, AddressSpace, Any], int] | None = None,
        invalid_vma: Callable[[Vma, Any], bool] | None = None,
    ) -> None:
        self.rmap_one = rmap_one
        self.anon_lock = anon_lock
        self.done = done
        self.file_nonlinear = file_nonlinear
        self.invalid_vma = invalid_vma
