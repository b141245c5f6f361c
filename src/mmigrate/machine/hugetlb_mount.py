"""A mounted hugetlbfs, whose files share a limit."""

from __future__ import annotations

from collections.abc import Callable

from mmigrate.errors import ScenarioError
from mmigrate.linux.fs import hugetlbfs
from mmigrate.linux.include.hugetlb import hstate_of
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Inode


class HugetlbMount:
    """Where files of huge pages lie.  What the files of one mount have, and what is promised to
    those who map them, counts together."""

    def __init__(
        self,
        kernel: Kernel,
        files: dict[str, Inode],
        check_file: Callable[[str, int], None],
        size: int | None,
        page_size: int,
    ) -> None:
        h = hstate_of(kernel, page_size)
        if h is None:
            raise ScenarioError(f"this machine has no pages of {page_size} bytes; 2 MiB and 1 GiB")
        if size is not None and size < 0:
            raise ScenarioError(f"a limit of {size} bytes makes no sense")
        self._kernel = kernel
        self._files = files
        self._check_file = check_file
        self._hstate = h
        self._spool = hugetlbfs.hugetlbfs_fill_super(kernel, h, size)

    @property
    def limit(self) -> int | None:
        """How many bytes its files may have in all, as statfs says; None: no limit."""
        return None if self._spool is None else self._spool.max_hpages * self._hstate.size

    @property
    def free(self) -> int | None:
        """How many bytes of them nobody has or has been promised; None: no limit."""
        if self._spool is None:
            return None
        return (self._spool.max_hpages - self._spool.used_hpages) * self._hstate.size

    def file(self, name: str, size: int) -> Inode:
        """A file of @size bytes, whole huge pages, that begins empty."""
        self._check_file(name, size)
        h = self._hstate
        if size % h.size:
            raise ScenarioError(f"a file of this hugetlbfs has multiples of {h.size} bytes")
        inode = hugetlbfs.hugetlbfs_file(
            self._kernel, name, size, h, spool=self._spool, nameless=False
        )
        self._files[name] = inode
        return inode
