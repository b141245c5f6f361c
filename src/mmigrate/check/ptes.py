"""What stands in page tables."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm import VM_WRITE
from mmigrate.linux.include.mm_types import Mm, Vma
from mmigrate.linux.include.pgtable import is_migration_entry, pte_present, pte_write, swp_offset


def migration_entries(view: View) -> Iterator[Violation]:
    """None is left behind."""
    for mm, address, entry in view.entries:
        if is_migration_entry(entry):
            yield Violation(
                "migration entries",
                f"{mm!r} at {address:#x}",
                f"a migration entry for pfn {swp_offset(entry)} was left behind",
            )


def protection(view: View) -> Iterator[Violation]:
    """Every pte is in an area, and none is writable beyond it."""
    for mm, ptes in view.ptes:
        if view.huge or view.hugetlb:
            huge = [(at, pmd) for owner, at, pmd in (*view.huge, *view.hugetlb) if owner is mm]
            ptes = ptes + huge
        for address, pte in ptes:
            vma = area_at(mm, address)
            if vma is None:
                yield Violation("protection", f"{mm!r} at {address:#x}", "a pte outside any area")
            elif pte_present(pte) and pte_write(pte) and not vma.vm_flags & VM_WRITE:
                yield Violation(
                    "protection", f"{vma!r} at {address:#x}", "a writable pte, no VM_WRITE"
                )


def area_at(mm: Mm, address: int) -> Vma | None:
    position = bisect_right(mm.starts, address) - 1
    if position < 0:
        return None
    vma = mm.mmap[position]
    return vma if address < vma.vm_end else None
