"""The areas of a process: sorted, apart, and counted."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm import VM_LOCKED, VM_SPECIAL
from mmigrate.linux.include.mm_types import Vma
from mmigrate.linux.include.pgtable import PAGE_SHIFT


def areas(view: View) -> Iterator[Violation]:
    for mm in view.kernel.mms:
        if mm.starts != [vma.vm_start for vma in mm.mmap]:
            yield Violation("areas", repr(mm), "the index of areas disagrees with the areas")
        total = locked = 0
        lower: Vma | None = None
        for vma in mm.mmap:
            if lower is not None and lower.vm_end > vma.vm_start:
                yield Violation("areas", repr(lower), f"overlaps {vma!r}")
            lower = vma
            pages = (vma.vm_end - vma.vm_start) >> PAGE_SHIFT
            total += pages
            if vma.vm_flags & VM_LOCKED and not vma.vm_flags & VM_SPECIAL:
                locked += pages
        if mm.map_count != len(mm.mmap):
            yield Violation("areas", repr(mm), f"map_count {mm.map_count}, found {len(mm.mmap)}")
        if mm.total_vm != total:
            yield Violation("areas", repr(mm), f"total_vm {mm.total_vm}, found {total}")
        if mm.locked_vm != locked:
            yield Violation("areas", repr(mm), f"locked_vm {mm.locked_vm}, found {locked}")
