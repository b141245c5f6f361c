"""What a filesystem is to memory management."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mmigrate.linux.include.hugetlb import Hstate
from mmigrate.linux.include.mm_types import (
    AddressSpaceOperations,
    File,
    FileOperations,
    Inode,
    Page,
    Vma,
    VmOperations,
)
from mmigrate.linux.mm import filemap, truncate


def generic_file_mmap(file: File, vma: Vma) -> int:
    """mm/filemap.c: generic_file_mmap."""
    vma.vm_ops = file.f_inode.fs.vm_ops
    return 0


GENERIC_FILE_OPS: Final = FileOperations(mmap=generic_file_mmap)


@dataclass(frozen=True)
class Filesystem:
    """@device: its disk.  @accounts_dirty: whether its dirty pages count.  @mapping_flags:
    AS_* of its mappings.  @hstate: the pool of its pages, of hugetlbfs only."""

    name: str
    a_ops: AddressSpaceOperations
    vm_ops: VmOperations
    device: str
    accounts_dirty: bool = True
    mapping_flags: int = 0
    file_ops: FileOperations = GENERIC_FILE_OPS
    hstate: Hstate | None = None

    def get_page(self, inode: Inode, index: int) -> Page | int | None:
        """For read(2): a page with its contents and a reference, a negative errno, or None
        for a hole that needs no page."""
        return filemap.read_mapping_page(inode.i_mapping, index)

    def setattr(self, inode: Inode, size: int) -> None:
        """For truncate(2): change the size of a file whose i_mutex is held."""
        truncate.truncate_setsize(inode, size)
