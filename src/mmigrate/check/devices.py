"""No device has a translation that the page table of its process does not allow."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.pgtable import (
    _PAGE_PRESENT,
    pte_pfn,
    pte_write,
)
from mmigrate.machine.process import peek_pte


def devices(view: View) -> Iterator[Violation]:
    """Once all is quiet: what a notification should have taken away and did not is found here."""
    for device in view.machine.devices:
        mm = device.driver.mm
        if mm is None:
            if device.driver.translations:
                yield Violation("devices", device.name, "bound to no process, has translations")
            continue
        if device.driver not in mm.mmu_notifiers:
            yield Violation("devices", device.name, f"bound to {mm!r}, and not told of changes")
        for key, cached in device.driver.translations.items():
            address = key & ~1
            where = f"{device.name} at {address:#x}"
            page = view.kernel.page_of(pte_pfn(cached))
            if not page._count and not (page.first_page is not None and page.first_page._count):
                yield Violation("devices", where, f"leads to {page!r}, which is free")
            pte = peek_pte(mm, address)
            if not pte & _PAGE_PRESENT or pte_pfn(pte) != pte_pfn(cached):
                yield Violation(
                    "devices", where, f"stale: leads to pfn {pte_pfn(cached)}, pte {pte:#x}"
                )
            elif pte_write(cached) and not pte_write(pte):
                yield Violation("devices", where, "stale: writable, the pte is not")
