"""What migrate_pages(2) would do to a recorded process: what moves, what stays, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mmigrate.api import Reason
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.pgtable import pte_pfn, pte_present
from mmigrate.machine.process import Process, peek_pte
from mmigrate.snapshot.rebuild import Area, Rebuilt

Progress = Callable[[str, int, int], None]


@dataclass
class AreaPlan:
    """One area.  @pages: those on the source nodes before the move."""

    area: Area
    pages: int = 0
    moved: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def stayed(self) -> int:
        return self.pages - self.moved


@dataclass
class Plan:
    """The whole process.

    @elsewhere: pages that were on none of the source nodes.  @left: what migrate_pages(2)
    returned.  @placement: pages by node, before and after.
    """

    areas: list[AreaPlan]
    elsewhere: int
    left: int
    before: dict[int, int]
    after: dict[int, int]
    notes: list[str]

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
    rebuilt: Rebuilt,
    sources: Sequence[int],
    targets: Sequence[int],
    *,
    progress: Progress | None = None,
) -> Plan:
    """Migrate the rebuilt process from nodes to nodes, and say what became of every page.

    Raises OSError: migrate_pages(2) itself failed, for example with EINVAL.
    """
    process = rebuilt.process
    before = _placement(process)
    moving = sum(1 for _, page in before if page.zone.nid in sources)
    counts_before = dict(sorted(Counter(page.zone.nid for _, page in before).items()))
    where = {address: (page, page.zone.nid) for address, page in before}
    if progress is not None:
        progress("migrating", 0, moving)
    left = process.migrate_pages(sources, targets)
    if progress is not None:
        progress("migrating", moving, moving)

    wanted = set(sources)
    areas = []
    elsewhere = 0
    for area in rebuilt.areas:
        planned = AreaPlan(area)
        unmodelled = rebuilt.unmodelled.get(area.start, 0)
        if unmodelled:
            planned.pages = unmodelled
            hugetlb = area.kind == "hugetlb"
            reason = Reason.HUGETLB_UNSUPPORTED if hugetlb else Reason.NOT_MIGRATABLE
            planned.reasons[reason] = unmodelled
        areas.append(planned)
    position = 0
    for address, (page, node) in where.items():
        while areas[position].area.end <= address:
            position += 1
        planned = areas[position]
        if node not in wanted:
            elsewhere += 1
            continue
        planned.pages += 1
        reason_stayed = _why_it_stayed(process, address, page, targets)
        if reason_stayed is None:
            planned.moved += 1
        else:
            planned.reasons[reason_stayed] += 1
    counts_after = dict(sorted(Counter(page.zone.nid for _, page in _placement(process)).items()))
    return Plan(areas, elsewhere, left, counts_before, counts_after, rebuilt.notes)


def _placement(process: Process) -> list[tuple[int, Page]]:
    """(address, page) of every present page, the zero page apart."""
    kernel = process.mm.kernel
    zero = kernel.zero_page.pfn
    found = []
    for vma in process.mm.mmap:
        for address in range(vma.vm_start, vma.vm_end, 4096):
            pte = peek_pte(process.mm, address)
            if pte_present(pte) and pte_pfn(pte) != zero:
                found.append((address, kernel.page_of(pte_pfn(pte))))
    return found


def _why_it_stayed(
    process: Process, address: int, page: Page, targets: Sequence[int]
) -> Reason | None:
    """None if a frame of a target node is there now, or none at all (a page of the swap cache
    moved, and is found again by a fault).  migrate_pages(2) takes a frame near the target
    when that is full, so a page can move and yet not arrive."""
    pte = peek_pte(process.mm, address)
    if not pte_present(pte):
        return None
    kernel = process.mm.kernel
    if pte_pfn(pte) != page.pfn:
        arrived = kernel.page_of(pte_pfn(pte)).zone.nid in targets
        return None if arrived else Reason.NO_MEMORY
    if page.pfn in kernel.reasons:
        return kernel.reasons[page.pfn]
    return Reason.SHARED if page._mapcount > 0 else Reason.UNKNOWN
