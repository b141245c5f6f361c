"""Devices that work on the memory of a process with its own addresses.

Two kinds, by how they come to their translations. A device behind an AMD IOMMUv2, as the KFD
driver binds it, walks the page tables of the process itself and caches what it finds
(drivers/iommu/amd_iommu_v2.c). A guest of KVM has page tables of its own, a shadow that is filled
by faults (virt/kvm/kvm_main.c). Neither holds a reference on a page; both follow migration by
what the mmu notifiers tell them.

An access is atomic against the invalidation of its translation, as a transaction on the bus is:
an invalidation waits for it. What a device may never do is checked at each access: use a frame
that is free, or one that migration has left.

Differs: the CPUs do a device's work. A device that would ask for ever for what it may not have
gets a fault instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmigrate.linux.include.mm import FAULT_FLAG_WRITE, VM_FAULT_ERROR
from mmigrate.linux.include.mm_types import Mm, Page, PageTable
from mmigrate.linux.include.page_flags import PG_locked
from mmigrate.linux.include.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_RW,
    _PAGE_USER,
    _PRESENT_ANY,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SHIFT,
    PMD_SIZE,
    PTE_PFN_MASK,
    TASK_SIZE,
    huge_part,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.page_ref import compound_head
from mmigrate.linux.kernel.pgtable import find_pmds, pmd_get
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock
from mmigrate.linux.mm import gup, memory, mmap, page_writeback, swap
from mmigrate.linux.mm.mmu_notifier import MmuNotifier, mmu_notifier_register

Touch = Callable[[Page], None]
REQUESTS: Final = 100  # page requests for one access before it is given up


class SharedVirtualMemory(MmuNotifier):
    """What both kinds have in common: translations by virtual page number, and accesses."""

    __slots__ = ("accessing", "mm", "translations")

    def __init__(self, name: str, mm: Mm) -> None:
        super().__init__(name)
        self.mm: Mm | None = mm
        # pte of each page, and pmd of each huge page (by 2 MiB), that is cached
        self.translations: dict[int, int] = {}
        self.accessing = 0  # accesses in flight

    def access(self, addr: int, write: bool, touch: Touch) -> str:
        """One load or store: translate, then touch(page).  "" or the name of the fault that it
        ends with."""
        for _ in range(REQUESTS):
            if self.mm is None:
                return "an access without a process"
            if self.try_access(addr, write, touch):
                return ""
            failed = self.page_request(addr, write)
            if failed:
                return failed
        return "asking for ever"

    def try_access(self, addr: int, write: bool, touch: Touch) -> bool:
        if sched.hook is not None:
            sched.hook.announce(self, "translations", WRITE)
        sched.preempt_disable()  # an access does not stop in the middle
        self.accessing += 1
        try:
            pte = self.translate(addr, write)
            if pte is None:
                return False
            assert self.mm is not None
            page = self.mm.kernel.page_of((pte & PTE_PFN_MASK) >> PAGE_SHIFT)
            if sched.hook is not None:
                sched.hook.announce(page, "data", WRITE if write else READ)
            self._examine(addr, page)
            touch(page)
            return True
        finally:
            self.accessing -= 1
            if sched.hook is not None:
                sched.hook.announce(self, "translations", WRITE)
            sched.preempt_enable()

    def _examine(self, addr: int, page: Page) -> None:
        """The frame must be alive; and not be one that migration has given up, or taken back,
        while the page table leads elsewhere and nobody is changing it any more."""
        if page.data is None:
            BUG(f"{self!r} used a free frame at {addr:#x}", page)
        assert self.mm is not None
        table, _ = _entry(self.mm, addr)
        if table is None:
            return
        if sched.hook is not None:  # what is found depends on it
            sched.hook.announce(table.ptl, "owner", READ)
        entry = _entry(self.mm, addr)[1]
        if (
            table.ptl.owner is None
            and entry & _PRESENT_ANY
            and (entry & PTE_PFN_MASK) >> PAGE_SHIFT != page.pfn
            and compound_head(page).flags & PG_locked
        ):
            sched.warn(f"{self!r} used {page!r} at {addr:#x}, which is not its page any more")

    def translate(self, addr: int, write: bool) -> int | None:
        """The pte of the page at @addr, if the device may go on with it."""
        raise AssertionError("each kind has its own")

    def page_request(self, addr: int, write: bool) -> str:
        """Ask the CPU to make @addr accessible; "" or the name of a fault."""
        raise AssertionError("each kind has its own")

    def flush(self, start: int, end: int) -> None:
        """Forget the translations of a range, once the accesses in flight are over."""
        sched.block(
            self, "translations", WRITE, lambda: not self.accessing, f"{self!r} to finish an access"
        )
        translations = self.translations
        for key in [key for key in translations if _overlaps(key, start, end)]:
            del translations[key]

    def release(self, mm: Mm) -> None:
        """The process exits: the device is unbound from it."""
        self.flush(0, TASK_SIZE)
        self.mm = None


def _key(addr: int, huge: bool) -> int:
    """Small and huge translations in one table: a bit of the key says which."""
    return addr & PMD_MASK | 1 if huge else addr & PAGE_MASK


def _overlaps(key: int, start: int, end: int) -> bool:
    first = key & ~1
    return first < end and start < first + (PMD_SIZE if key & 1 else PAGE_SIZE)


def _entry(mm: Mm, addr: int) -> tuple[PageTable | None, int]:
    """(table, what stands in it) for an address, as if a huge page were mapped by ptes; looks
    without announcing, for checks on the model."""
    pmds = find_pmds(mm, addr)
    pmd = None if pmds is None else pmds.entries[(addr >> PMD_SHIFT) & 511]
    if type(pmd) is PageTable:
        return pmd, pmd.entries[(addr >> PAGE_SHIFT) & 511]
    return pmds, 0 if pmd is None else huge_part(pmd, addr)


class IommuV2(SharedVirtualMemory):
    """A device that walks the page tables of the process, and listens to `invalidate_page` and
    `invalidate_range` only."""

    __slots__ = ()

    def translate(self, addr: int, write: bool) -> int | None:
        """From the IOTLB, or by a walk, which marks what it uses."""
        wanted = _PAGE_PRESENT | _PAGE_USER | (_PAGE_RW | _PAGE_DIRTY if write else 0)
        cached = self.translations.get(_key(addr, False))
        if cached is not None and cached & wanted == wanted:
            return cached
        cached = self.translations.get(_key(addr, True))
        if cached is not None and cached & wanted == wanted:
            return huge_part(cached, addr)
        assert self.mm is not None
        pmds = find_pmds(self.mm, addr)
        if pmds is None:
            return None
        table = pmd_get(pmds, addr)
        huge = type(table) is int
        if huge:
            table, index = pmds, (addr >> PMD_SHIFT) & 511
        elif table is None:
            return None
        else:
            index = (addr >> PAGE_SHIFT) & 511
        if sched.hook is not None:
            sched.hook.announce(table, index, WRITE)
        entry = table.entries[index]
        if type(entry) is not int or entry & wanted & ~_PAGE_DIRTY != wanted & ~_PAGE_DIRTY:
            return None
        entry |= _PAGE_ACCESSED | (_PAGE_DIRTY if write else 0)
        table.entries[index] = entry
        self.translations[_key(addr, huge)] = entry
        return huge_part(entry, addr) if huge else entry

    def page_request(self, addr: int, write: bool) -> str:
        """A PPR: a fault is handled in the name of the process, without a reference on the
        page, and without a look at what the area allows  (amd_iommu_v2.c: do_fault)."""
        mm = self.mm
        assert mm is not None
        with down_read(mm.mmap_sem):
            vma = mmap.find_extend_vma(mm, addr)
            if vma is None:
                return "an address in no area"
            fault = memory.handle_mm_fault(mm, vma, addr, FAULT_FLAG_WRITE if write else 0)
        memory.wait_while_splitting(mm, addr)
        return "a failed fault" if fault & VM_FAULT_ERROR else ""

    def invalidate_page(self, mm: Mm, address: int) -> None:
        self.flush(address, address + PAGE_SIZE)

    def invalidate_range(self, mm: Mm, start: int, end: int) -> None:
        """One page, or else everything  (amd_iommu_v2.c: mn_invalidate_range)."""
        if (start ^ (end - 1)) < PAGE_SIZE:
            self.flush(start, end)
        else:
            self.flush(0, TASK_SIZE)

    def clear_flush_young(self, mm: Mm, start: int, end: int) -> bool:
        """The mark is in the page table, where the CPU sees it: flush, and say no."""
        self.flush(start, end)
        return False


class KvmGuest(SharedVirtualMemory):
    """A guest whose memory is that of the process, with a shadow page table.

    A fault may install what it found only if no invalidation was begun or ended since it began
    to look: `mmu_notifier_seq` and `mmu_notifier_count`, under `mmu_lock`.
    """

    __slots__ = ("mmu_lock", "mmu_notifier_count", "mmu_notifier_seq", "young")

    def __init__(self, name: str, mm: Mm) -> None:
        super().__init__(name, mm)
        self.mmu_lock = SpinLock("kvm->mmu_lock", f"{name} mmu_lock")
        # mmu_lock
        self.mmu_notifier_seq = 0
        self.mmu_notifier_count = 0
        self.young: set[int] = set()

    def translate(self, addr: int, write: bool) -> int | None:
        cached = self.translations.get(_key(addr, False))
        if cached is None or (write and not cached & _PAGE_RW):
            return None
        self.young.add(_key(addr, False))
        return cached

    def page_request(self, addr: int, write: bool) -> str:
        """A fault of the guest  (arch/x86/kvm/mmu.c: tdp_page_fault)."""
        mm = self.mm
        assert mm is not None
        seq = READ_ONCE(self, "mmu_notifier_seq")
        with down_read(mm.mmap_sem):
            pages = gup.get_user_pages(sched.task, mm, addr & PAGE_MASK, 1, write)
        if isinstance(pages, int):
            return "a failed fault"
        page = pages[0]
        with spin_lock(self.mmu_lock):
            if not self.mmu_notifier_count and self.mmu_notifier_seq == seq:
                self.translations[_key(addr, False)] = page.pfn << PAGE_SHIFT | (
                    _PAGE_RW if write else 0
                )
                if write:
                    page_writeback.set_page_dirty(page)
        swap.put_page(page)
        return ""

    def _invalidate(self, start: int, end: int, seq: int, count: int) -> None:
        with spin_lock(self.mmu_lock):
            WRITE_ONCE(self, "mmu_notifier_seq", self.mmu_notifier_seq + seq)
            self.mmu_notifier_count += count
            if count >= 0:
                self.flush(start, end)

    def invalidate_page(self, mm: Mm, address: int) -> None:
        self._invalidate(address, address + PAGE_SIZE, 1, 0)

    def change_pte(self, mm: Mm, address: int, pte: int) -> None:
        """Differs: the shadow forgets the page, where the kernel may lead it to the new one."""
        self._invalidate(address, address + PAGE_SIZE, 1, 0)

    def invalidate_range_start(self, mm: Mm, start: int, end: int) -> None:
        self._invalidate(start, end, 0, 1)

    def invalidate_range_end(self, mm: Mm, start: int, end: int) -> None:
        self._invalidate(start, end, 1, -1)

    def clear_flush_young(self, mm: Mm, start: int, end: int) -> bool:
        with spin_lock(self.mmu_lock):
            used = {key for key in self.young if _overlaps(key, start, end)}
            self.young -= used
            return bool(used)

    def test_young(self, mm: Mm, address: int) -> bool:
        with spin_lock(self.mmu_lock):
            return _key(address, False) in self.young

    def flush(self, start: int, end: int) -> None:
        super().flush(start, end)
        self.young = {key for key in self.young if not _overlaps(key, start, end)}


KINDS: Final[dict[str, type[SharedVirtualMemory]]] = {"iommu": IommuV2, "kvm": KvmGuest}


def bind(kind: str, name: str, mm: Mm) -> SharedVirtualMemory:
    """Let a device of a kind work on @mm  (amd_iommu_v2.c: amd_iommu_bind_pasid)."""
    device = KINDS[kind](name, mm)
    mmu_notifier_register(device, mm)
    return device
