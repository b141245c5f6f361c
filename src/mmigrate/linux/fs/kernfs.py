"""sysfs files that can be mapped  (fs/kernfs/file.c).

The owner's methods are kept, and every call of one is made with an active reference of the
node, so that the file cannot go away meanwhile.
"""

from __future__ import annotations

from mmigrate.linux.fs import ramfs
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.mm_types import File, FileOperations, Vma, VmOperations


class KernfsNode:
    """@active: references of calls under way; @calls: how often one was taken."""

    __slots__ = ("active", "calls")

    def __init__(self) -> None:
        self.active = 0
        self.calls = 0


def kernfs_get_active(node: KernfsNode) -> None:
    node.active += 1
    node.calls += 1


def kernfs_put_active(node: KernfsNode) -> None:
    node.active -= 1


def _wrapped(node: KernfsNode, owner: VmOperations) -> VmOperations:
    """kernfs_vm_ops around the methods of the owner."""

    def kernfs_vma_fault(vma: Vma, vmf: object) -> int:
        assert owner.fault is not None
        kernfs_get_active(node)
        try:
            return owner.fault(vma, vmf)
        finally:
            kernfs_put_active(node)

    def kernfs_vma_migrate(vma: Vma, from_: int, to: int, flags: int) -> int:
        kernfs_get_active(node)
        ret = 0 if owner.migrate is None else owner.migrate(vma, from_, to, flags)
        kernfs_put_active(node)
        return ret

    return VmOperations("kernfs", fault=kernfs_vma_fault, migrate=kernfs_vma_migrate)


def filesystem(node: KernfsNode, owner: VmOperations | None = None) -> Filesystem:
    """sysfs with one file.  @owner: the methods of the driver behind it."""
    below = ramfs.filesystem()
    vm_ops = _wrapped(node, below.vm_ops if owner is None else owner)

    def kernfs_fop_mmap(_file: File, vma: Vma) -> int:
        vma.vm_ops = vm_ops
        return 0

    return Filesystem(
        "sysfs",
        below.a_ops,
        vm_ops,
        device="none",
        accounts_dirty=False,
        mapping_flags=below.mapping_flags,
        file_ops=FileOperations(mmap=kernfs_fop_mmap),
    )
