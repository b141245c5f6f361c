"""No CPU has a translation that its page table does not allow."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.pgtable import (
    HPAGE_PMD_NR,
    PAGE_SHIFT,
    huge_part,
    pte_dirty,
    pte_pfn,
    pte_present,
    pte_write,
)
from mmigrate.machine.process import peek_pte


def translations(view: View) -> Iterator[Violation]:
    """Once all is quiet every TLB entry must be covered by the present pte: what a flush
    should have taken away and did not is found here."""
    for cpu in view.kernel.cpus:
        mm = cpu.active_mm
        if mm is None or mm not in view.kernel.mms:
            continue
        huge = [
            ((first << 9) + part, huge_part(pmd, part << PAGE_SHIFT))
            for first, pmd in cpu.huge_tlb.items()
            for part in (0, HPAGE_PMD_NR - 1)
        ]
        for vpn, cached in (*cpu.tlb.items(), *huge):
            pte = peek_pte(mm, vpn << PAGE_SHIFT)
            where = f"{cpu!r}, {mm!r} at {vpn << PAGE_SHIFT:#x}"
            if not pte_present(pte) or pte_pfn(pte) != pte_pfn(cached):
                yield Violation(
                    "translations", where, f"stale: leads to pfn {pte_pfn(cached)}, pte {pte:#x}"
                )
            elif pte_write(cached) and not pte_write(pte):
                yield Violation("translations", where, "stale: writable, the pte is not")
            elif pte_dirty(cached) and not pte_dirty(pte):
                yield Violation("translations", where, "stale: dirty, the pte is clean")
