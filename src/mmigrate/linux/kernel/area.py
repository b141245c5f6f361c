"""Fields of an area that walks of the reverse map read without mmap_sem  (mm_types.h)."""

from __future__ import annotations

from mmigrate.linux.include.mm_types import Vma
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import READ


def vma_flags(vma: Vma) -> int:
    if sched.hook is not None:
        sched.hook.announce(vma, "vm_flags", READ)
    return vma.vm_flags


def vma_page_prot(vma: Vma) -> int:
    if sched.hook is not None:
        sched.hook.announce(vma, "vm_page_prot", READ)
    return vma.vm_page_prot
