"""Those who share a process' page tables and must hear of changes  (mm/mmu_notifier.c).

Differs: nobody registers yet, so these are the calls alone, where the kernel has them.
"""

from __future__ import annotations

from mmigrate.linux.include.mm_types import Mm


def mmu_notifier_invalidate_page(mm: Mm, address: int) -> None:
    """One page is not mapped any more."""
    for notifier in mm.mmu_notifiers:
        notifier.invalidate_page(mm, address)


def mmu_notifier_invalidate_range_start(mm: Mm, start: int, end: int) -> None:
    """The ptes of a range are about to change."""
    for notifier in mm.mmu_notifiers:
        notifier.invalidate_range_start(mm, start, end)


def mmu_notifier_invalidate_range_end(mm: Mm, start: int, end: int) -> None:
    """They have changed."""
    for notifier in mm.mmu_notifiers:
        notifier.invalidate_range_end(mm, start, end)
