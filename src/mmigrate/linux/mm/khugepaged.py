"""khugepaged: makes huge pages of base pages that are mapped already  (mm/huge_memory.c)."""

from __future__ import annotations

from mmigrate.linux.include.mm_types import Vma


def khugepaged_enter(vma: Vma, vm_flags: int) -> None:
    pass
