"""The areas of a process: sorted, apart, and counted."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm import VM_LOCKED, VM_SPECIAL
from mmigrate.linux.include.pgtable import PAGE_SHIFT


def areas(view: View) -> Iterator[Violation]:
    for mm in view.kernel.mms:
        name = repr(mm)
        if mm.starts != [vma.vm_start for vma in mm.mmap]:
            yield Violation("areas", name, "the index of areas disagrees with the areas")
        for lower, upper in zip(mm.mmap, mm.mmap[1:], strict=False):
            if lower.vm_end > upper.vm_start:
                yield Violation("areas", repr(lower), f"overlaps {upper!r}")
        if mm.map_count != len(mm.mmap):
            yield Violation("areas", name, f"map_count {mm.map_count}, found {len(mm.mmap)}")
        total = sum((vma.vm_end - vma.vm_start) >> PAGE_SHIFT for vma in mm.mmap)
        if mm.total_vm != total:
            yield Violation("areas", name, f"total_vm {mm.total_vm}, found {total}")
        locked = sum(
            (vma.vm_end - vma.vm_start) >> PAGE_SHIFT
            for vma in mm.mmap
            if vma.vm_flags & VM_LOCKED and not vma.vm_flags & VM_SPECIAL
        )
        if mm.locked_vm != locked:
            yield Violation("areas", name, f"locked_vm {mm.locked_vm}, found {locked}")
