"""Those who share a process' page tables and must hear of changes  (mm/mmu_notifier.c).

A secondary MMU that follows a process gives an object with the methods of `MmuNotifier`; those
that it does not care for do nothing. `invalidate_range` is for hardware that walks the page
tables of the process itself.
Differs: no SRCU; callbacks of an mm that exits end with `release`.
"""

from __future__ import annotations

from mmigrate.linux.include.mm_types import Mm, PageTable, Vma
from mmigrate.linux.include.pgtable import PAGE_SIZE
from mmigrate.linux.kernel.pgtable import ptep_clear_flush, ptep_test_and_clear_young, set_pte_at


class MmuNotifier:
    """The callbacks of one listener  (struct mmu_notifier_ops)."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def release(self, mm: Mm) -> None:
        """The mm is about to go: forget everything."""

    def clear_flush_young(self, mm: Mm, start: int, end: int) -> bool:
        """Whether the range was used; the marks go.  May be called under the pte lock."""
        return False

    def test_young(self, mm: Mm, address: int) -> bool:
        """Whether a page was used; the marks stay.  May be called under the pte lock."""
        return False

    def change_pte(self, mm: Mm, address: int, pte: int) -> None:
        """A pte leads to another frame now.  Called under the pte lock."""

    def invalidate_page(self, mm: Mm, address: int) -> None:
        """One page is gone from the page table, and is freed after this."""

    def invalidate_range_start(self, mm: Mm, start: int, end: int) -> None:
        """Until the end nothing of the range may be established.  May sleep."""

    def invalidate_range_end(self, mm: Mm, start: int, end: int) -> None:
        """All of the range may be used again."""

    def invalidate_range(self, mm: Mm, start: int, end: int) -> None:
        """Entries of the range have been cleared: flush now.  May be called under the pte lock."""


def mmu_notifier_register(notifier: MmuNotifier, mm: Mm) -> None:
    mm.mmu_notifiers.append(notifier)


def mmu_notifier_unregister(notifier: MmuNotifier, mm: Mm) -> None:
    """The listener forgets, and hears nothing more  (mm/mmu_notifier.c:
    mmu_notifier_unregister)."""
    if notifier in mm.mmu_notifiers:
        notifier.release(mm)
        mm.mmu_notifiers.remove(notifier)


def mmu_notifier_release(mm: Mm) -> None:
    """Exit: before the pages of the mm go  (mm/mmu_notifier.c: __mmu_notifier_release)."""
    while mm.mmu_notifiers:
        mm.mmu_notifiers[0].release(mm)
        del mm.mmu_notifiers[0]


def mmu_notifier_clear_flush_young(mm: Mm, start: int, end: int) -> bool:
    """Whether a listener used the range."""
    young = False
    for notifier in mm.mmu_notifiers:
        young |= notifier.clear_flush_young(mm, start, end)
    return young


def mmu_notifier_test_young(mm: Mm, address: int) -> bool:
    """Whether a listener used the page."""
    return any(notifier.test_young(mm, address) for notifier in mm.mmu_notifiers)


def mmu_notifier_change_pte(mm: Mm, address: int, pte: int) -> None:
    for notifier in mm.mmu_notifiers:
        notifier.change_pte(mm, address, pte)


def mmu_notifier_invalidate_page(mm: Mm, address: int) -> None:
    """One page is not mapped any more."""
    for notifier in mm.mmu_notifiers:
        notifier.invalidate_page(mm, address)


def mmu_notifier_invalidate_range_start(mm: Mm, start: int, end: int) -> None:
    """The ptes of a range are about to change."""
    for notifier in mm.mmu_notifiers:
        notifier.invalidate_range_start(mm, start, end)


def mmu_notifier_invalidate_range_end(mm: Mm, start: int, end: int) -> None:
    """They have changed.  Who listens to `invalidate_range` alone hears of it too."""
    for notifier in mm.mmu_notifiers:
        notifier.invalidate_range(mm, start, end)
        notifier.invalidate_range_end(mm, start, end)


def mmu_notifier_invalidate_range(mm: Mm, start: int, end: int) -> None:
    """Entries have been cleared and not been set again yet."""
    for notifier in mm.mmu_notifiers:
        notifier.invalidate_range(mm, start, end)


# --- changes of one pte, with those who listen; the pte lock is held  (include/linux/
# mmu_notifier.h) ---


def ptep_clear_flush_notify(vma: Vma, addr: int, pt: PageTable) -> int:
    """Clear a pte, and flush it from the TLBs of CPUs and listeners; what it was."""
    pte = ptep_clear_flush(vma, addr, pt)
    mmu_notifier_invalidate_range(vma.vm_mm, addr, addr + PAGE_SIZE)
    return pte


def set_pte_at_notify(mm: Mm, addr: int, pt: PageTable, pte: int) -> None:
    """Set a pte that leads to another frame than before."""
    mmu_notifier_change_pte(mm, addr, pte)
    set_pte_at(mm, addr, pt, pte)


def ptep_clear_flush_young_notify(vma: Vma, addr: int, pt: PageTable) -> bool:
    """Whether a page was used through this pte, by a CPU or a listener; the marks go.  x86
    flushes no TLB for it."""
    young = ptep_test_and_clear_young(vma, addr, pt)
    return mmu_notifier_clear_flush_young(vma.vm_mm, addr, addr + PAGE_SIZE) or young
