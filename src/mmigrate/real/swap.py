"""Swap areas: RAM disks, or a file where there are none.

A loop device over shared memory would do too, and hang: writing waits for a worker that waits for
memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from mmigrate.errors import Missing
from mmigrate.real.files import RAM_DISK, Files, ram_disk, write_swap_header
from mmigrate.real.libc import failure, libc
from mmigrate.real.settings import disposable
from mmigrate.real.undo import Undo


@dataclass(frozen=True)
class RealSwapArea:
    """A swap area in use."""

    path: str


class Swap:
    """Adds and removes them."""

    def __init__(self, files: Files, undo: Undo) -> None:
        self._files = files
        self._undo = undo

    def on(self, size: int) -> RealSwapArea:
        """Raises Missing: this user may not, or there is no place for it."""
        if os.geteuid() != 0:
            raise Missing("only root can add swap")
        path = self._place(size)
        write_swap_header(path, size)
        self._undo.add("swapoff", path)
        if libc.swapon(os.fsencode(path), 0):
            reason = failure().strerror
            self._undo.forget("swapoff", path)
            raise Missing(f"{path} cannot be used for swap: {reason}")
        return RealSwapArea(path)

    def off(self, area: RealSwapArea) -> None:
        if libc.swapoff(os.fsencode(area.path)):
            raise failure(area.path)
        self._undo.forget("swapoff", area.path)

    def _place(self, size: int) -> str:
        if size <= RAM_DISK:
            try:
                return ram_disk(None if disposable() else self._undo.add)
            except Missing:
                if disposable():
                    raise
        file = self._files.make(f"swap {len(self._files.files)}", 0, "ext4")
        with open(file.path, "wb") as whole:
            for _ in range(0, size, 1 << 20):
                whole.write(bytes(1 << 20))
            whole.truncate(size)
            os.fsync(whole.fileno())
        os.chmod(file.path, 0o600)
        return str(file.path)
