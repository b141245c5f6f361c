"""Files of the modelled filesystems  (fs/inode.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmigrate.errors import ScenarioError
from mmigrate.linux.fs import exofs, ext4, nfs, ramfs, xfs
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import VM_READ, VM_WRITE
from mmigrate.linux.include.mm_types import AddressSpace, File, Inode
from mmigrate.linux.kernel.rwsem import RwSemaphore
from mmigrate.linux.kernel.spinlock import SpinLock
from mmigrate.linux.mm import shmem

FILESYSTEMS: Final[dict[str, Callable[[], Filesystem]]] = {
    "ext4": ext4.filesystem,
    "xfs": xfs.filesystem,
    "nfs": nfs.filesystem,
    "exofs": exofs.filesystem,
    "ramfs": ramfs.filesystem,
}


def new_inode(kernel: Kernel, name: str, fs: str, size: int) -> Inode:
    """A file of @size bytes on a filesystem by name.  Raises ScenarioError: no such name."""
    if fs == "tmpfs":
        return shmem.shmem_file_setup(kernel, name, size)
    if fs not in FILESYSTEMS:
        known = ", ".join([*FILESYSTEMS, "tmpfs"])
        raise ScenarioError(f'no filesystem is called "{fs}"; known: {known}')
    return inode_of(kernel, name, FILESYSTEMS[fs](), size)


def inode_of(kernel: Kernel, name: str, filesystem: Filesystem, size: int) -> Inode:
    """A file on the given filesystem."""
    inode = Inode(kernel, name, filesystem, size)
    inode.i_mutex = RwSemaphore("i_mutex", f"{name} i_mutex")
    inode.i_mapping = AddressSpace(
        name,
        inode,
        filesystem.a_ops,
        SpinLock("tree_lock", f"{name} tree_lock"),
        SpinLock("private_lock", f"{name} private_lock"),
        RwSemaphore("i_mmap_rwsem", f"{name} i_mmap_rwsem"),
        gfp_mask=GFP_HIGHUSER_MOVABLE,
        accounts_dirty=filesystem.accounts_dirty,
    )
    inode.i_mapping.flags |= filesystem.mapping_flags
    kernel.inodes.append(inode)
    return inode


def open_file(inode: Inode, mode: int = VM_READ | VM_WRITE) -> File:
    """An open file; @mode: VM_READ, VM_WRITE."""
    return File(inode, mode, inode.fs.file_ops)
