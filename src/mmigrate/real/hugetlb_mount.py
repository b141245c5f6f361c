"""A hugetlbfs of a real machine, whose files share a limit."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mmigrate.errors import Missing, ScenarioError
from mmigrate.real.files import Files, RealFile
from mmigrate.real.libc import libc


class HugetlbMount:
    """A mount for one scenario.  @undo: told each step that takes something away."""

    def __init__(
        self, files: Files, undo: Callable[..., None], size: int | None, page_size: int
    ) -> None:
        if os.geteuid() != 0:
            raise Missing("only root can mount a hugetlbfs")
        if size is not None and size < 0:
            raise ScenarioError(f"a limit of {size} bytes makes no sense")
        self._files = files
        self._page_size = page_size
        self._place = Path(tempfile.mkdtemp(prefix="mmigrate-"))
        undo("remove", str(self._place))
        options = f"pagesize={page_size}" + ("" if size is None else f",size={size}")
        if libc.mount(b"none", os.fsencode(self._place), b"hugetlbfs", 0, options.encode()):
            why = os.strerror(ctypes.get_errno())
            raise Missing(f"no hugetlbfs with pages of {page_size} bytes: {why}")
        undo("unmount", str(self._place))
        self._place.chmod(0o755)

    @property
    def limit(self) -> int | None:
        """How many bytes its files may have in all; None: no limit."""
        told = os.statvfs(self._place)
        return told.f_blocks * told.f_bsize or None

    @property
    def free(self) -> int | None:
        """How many bytes of them nobody has or has been promised; None: no limit."""
        told = os.statvfs(self._place)
        return told.f_bfree * told.f_bsize if told.f_blocks else None

    def file(self, name: str, size: int) -> RealFile:
        """A file of @size bytes, whole huge pages, that begins empty."""
        if size % self._page_size:
            raise ScenarioError(
                f"a file of this hugetlbfs has multiples of {self._page_size} bytes"
            )
        path = self._place / os.path.basename(name)
        return self._files.put(name, size, path, "hugetlbfs")
