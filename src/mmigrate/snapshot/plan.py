"""What migrate_pages(2) would do to a recorded process: what moves, what stays, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmigrate.api import Reason
from mmigrate.linux.include.mm import VM_HUGETLB, VM_IO, VM_PFNMAP
from mmigrate.linux.include.mm_types import Vma
from mmigrate.linux.include.pgtable import pte_pfn, pte_present
from mmigrate.linux.kernel.page_ref import page_mapcount
from mmigrate.linux.mm.mempolicy import vma_migratable
from mmigrate.machine.process import Process, peek_pte
from mmigrate.snapshot.rebuild import Rebuilt

Progress = Callable[[str, int, int], None]


@dataclass
class AreaPlan:
    """One mapping.  @pages: those on the source nodes before the move."""

    start: int
    end: int
    name: str
    pages: int = 0
    moved: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def stayed(self) -> int:
        return self.pages - self.moved


@dataclass
class Plan:
    """The whole process.  @elsewhere: pages that were on none of the source nodes."""

    areas: list[AreaPlan]
    elsewhere: int
    left: int  # what migrate_pages(2) returned

    @property
    def pages(self) -> int:
        return sum(area.pages for area in self.areas)

    @property
    def moved(self) -> int:
        return sum(area.moved for area in self.areas)

    @property
    def stayed(self) -> int:
        return self.pages - self.moved

    @property
    def reasons(self) -> Counter[Reason]:
        total: Counter[Reason] = Counter()
        for area in self.areas:
            total.update(area.reasons)
        return total


def plan_migration(
    rebuilt: Rebuilt, from_: Sequence[int], to: Sequence[int], *, progress: Progress | None = None
) -> Plan:
    """Migrate the rebuilt process from nodes to nodes and say what became of every page.

    Raises OSError: migrate_pages(2) itself failed, for example with EINVAL.
    """
    process = rebuilt.process
    before = _placement(process)
    if progress is not None:
        progress("migrating", 0, len(before))
    left = process.migrate_pages(from_, to)
    if progress is not None:
        progress("migrating", len(before), len(before))
    sources = set(from_)
    areas: list[AreaPlan] = []
    elsewhere = 0
    position = 0
    for vma in process.mm.mmap:
        area = AreaPlan(vma.vm_start, vma.vm_end, rebuilt.name_of(vma))
        while position < len(before) and before[position][0] < vma.vm_end:
            address, node, pfn = before[position]
            position += 1
            if node not in sources:
                elsewhere += 1
                continue
            area.pages += 1
            reason = _why_it_stayed(process, vma, address, pfn)
            if reason is None:
                area.moved += 1
            else:
                area.reasons[reason] += 1
        areas.append(area)
    return Plan(areas, elsewhere, left)


def _placement(process: Process) -> list[tuple[int, int, int]]:
    """(address, node, pfn) of every present page, the zero page apart."""
    kernel = process.mm.kernel
    zero = kernel.zero_page
    found = []
    for vma in process.mm.mmap:
        for address in range(vma.vm_start, vma.vm_end, 4096):
            pte = peek_pte(process.mm, address)
            if pte_present(pte):
                page = kernel.page_of(pte_pfn(pte))
                if page is not zero:
                    found.append((address, page.zone.nid, page.pfn))
    return found


def _why_it_stayed(process: Process, vma: Vma, address: int, pfn: int) -> Reason | None:
    """None if another frame is there now."""
    kernel = process.mm.kernel
    pte = peek_pte(process.mm, address)
    if not pte_present(pte):
        # A page that was in the swap cache moved, and is found again by a fault.
        return None
    if pte_pfn(pte) != pfn:
        return None
    if vma.vm_flags & VM_HUGETLB:
        return Reason.HUGETLB_UNSUPPORTED
    if vma.vm_flags & (VM_IO | VM_PFNMAP) or not vma_migratable(vma):
        return Reason.NOT_MIGRATABLE
    page = kernel.page_of(pfn)
    if pfn in kernel.reasons:
        return kernel.reasons[pfn]
    return Reason.SHARED if page_mapcount(page) > 1 else Reason.UNKNOWN
