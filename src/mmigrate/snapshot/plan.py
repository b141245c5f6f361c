"""What migrate_pages(2) would do to a recorded process: what moves, what stays, and why."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from errno import ENOMEM
from typing import Any

from mmigrate.api import Reason
from mmigrate.arguments import mask_of
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Mm, PageTable
from mmigrate.linux.include.mmzone import MAX_NR_ZONES
from mmigrate.linux.include.page_flags import PG_hugetlb
from mmigrate.linux.include.pgtable import (
    PAGE_SHIFT,
    PMD_SHIFT,
    pmd_trans_huge,
    pte_pfn,
    pte_present,
)
from mmigrate.linux.include.vmstat import PGALLOC_DMA
from mmigrate.linux.kernel.pgtable import find_leaf
from mmigrate.linux.lib.nodemask import node_remap, weight
from mmigrate.linux.mm import huge_memory
from mmigrate.machine.process import Process, peek_pte
from mmigrate.snapshot.forms import Form
from mmigrate.snapshot.garbage import uncollected
from mmigrate.snapshot.rebuild import Area, Rebuilt

Progress = Callable[[str, int, int], None]


@dataclass
class FormPlan:
    """Pages of one form, on the source nodes before the move.

    @units: huge pages, or frames of merged pages; of base pages as many as pages.  @whole: huge
    pages that moved as a whole.  @split: those that were split.
    """

    units: int = 0
    pages: int = 0
    moved: int = 0
    whole: int = 0
    split: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def stayed(self) -> int:
        return self.pages - self.moved

    def add(self, other: FormPlan) -> None:
        self.units += other.units
        self.pages += other.pages
        self.moved += other.moved
        self.whole += other.whole
        self.split += other.split
        self.reasons.update(other.reasons)


@dataclass
class AreaPlan:
    """One area.  @forms: what pages it has on the source nodes."""

    area: Area
    forms: dict[Form, FormPlan] = field(default_factory=dict)

    @property
    def pages(self) -> int:
        return sum(form.pages for form in self.forms.values())

    @property
    def moved(self) -> int:
        return sum(form.moved for form in self.forms.values())

    @property
    def stayed(self) -> int:
        return self.pages - self.moved

    @property
    def reasons(self) -> Counter[Reason]:
        return sum((form.reasons for form in self.forms.values()), Counter[Reason]())

    def form(self, which: Form) -> FormPlan:
        return self.forms.setdefault(which, FormPlan())


@dataclass(frozen=True)
class PoolPlan:
    """Free huge pages of @size bytes, by node."""

    size: int
    before: list[int]
    after: list[int]


@dataclass(frozen=True)
class Charges:
    """What a memory cgroup is charged, in bytes."""

    group: str
    before: int
    after: int
    limit: int | None


@dataclass
class Plan:
    """The whole process.

    @elsewhere: pages that were on none of the source nodes.  @left: what migrate_pages(2)
    returned, a negative errno if it failed.  @placement: pages by node, before and after.
    @allowed: the nodes of its cpuset, if those are not all.
    """

    areas: list[AreaPlan]
    elsewhere: int
    left: int
    before: dict[int, int]
    after: dict[int, int]
    notes: list[str]
    pools: list[PoolPlan]
    charges: Charges | None
    allowed: tuple[int, ...] | None

    @property
    def forms(self) -> dict[Form, FormPlan]:
        """All areas together; a merged page counts in each area that has it."""
        total: dict[Form, FormPlan] = {}
        for form in Form:
            for area in self.areas:
                if form in area.forms:
                    total.setdefault(form, FormPlan()).add(area.forms[form])
        return total

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
        return sum((area.reasons for area in self.areas), Counter[Reason]())


@uncollected()
def plan_migration(
    rebuilt: Rebuilt,
    sources: Sequence[int],
    targets: Sequence[int],
    *,
    progress: Progress | None = None,
) -> Plan:
    """Migrate the rebuilt process from nodes to nodes, as somebody with the same rights would, and
    say what became of every page.

    Raises OSError: migrate_pages(2) refused the whole, for example with EINVAL or EPERM.
    """
    machine, process = rebuilt.machine, rebuilt.process
    before = list(_mapped(process.mm))
    charged = _charged(rebuilt)
    free = _free_huge_pages(rebuilt)
    moving = sum(run.pages for run in before if run.node in sources)
    machine.kernel.reasons.clear()
    # Not by the process itself, which its own cpuset would keep from the target.
    mover = machine.process("migratepages")
    mover.task.cred = process.task.cred
    with _watched(machine.kernel, moving, progress):
        try:
            left = mover.migrate_pages(sources, targets, process=process)
        except OSError as error:
            if error.errno != ENOMEM:
                raise
            left = -ENOMEM  # what has moved by then stays moved
    mover.exit()
    areas, elsewhere = _by_area(
        rebuilt, before, sources, _Fate(process, sources, targets, left < 0)
    )
    return Plan(
        areas,
        elsewhere,
        left,
        _by_node(before),
        _by_node(_mapped(process.mm)),
        rebuilt.notes,
        [PoolPlan(size, there, _free_huge_pages(rebuilt)[size]) for size, there in free.items()],
        charged and Charges(charged[0], charged[1], (_charged(rebuilt) or charged)[1], charged[2]),
        rebuilt.allowed,
    )


@contextmanager
def _watched(kernel: Kernel, moving: int, progress: Progress | None) -> Iterator[None]:
    """Tell how far a call is that moves so many pages: as far as there are new ones for them.
    Somebody else has to look meanwhile: a thread, which reads one list of counters."""
    if progress is None:
        yield
        return
    before = _allocated(kernel)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            progress("migrating", min(_allocated(kernel) - before, moving), moving)

    progress("migrating", 0, moving)
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    progress("migrating", moving, moving)


def _allocated(kernel: Kernel) -> int:
    return sum(kernel.vm_events[PGALLOC_DMA : PGALLOC_DMA + MAX_NR_ZONES])


# --- what is mapped ---


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring entries of one page table that map pages, or huge pages, of one form on one
    node.  @unit: pages that an entry maps; @frames: the first frame of each entry."""

    address: int
    unit: int
    node: int
    form: Form
    frames: list[int]

    @property
    def pages(self) -> int:
        return self.unit * len(self.frames)

    def split(self, end: int) -> tuple[_Run, _Run | None]:
        """What is below an address, and what is not."""
        below = (end - self.address) // (self.unit << PAGE_SHIFT)
        if below >= len(self.frames):
            return self, None
        above = self.address + below * (self.unit << PAGE_SHIFT)
        return (
            replace(self, frames=self.frames[:below]),
            replace(self, address=above, frames=self.frames[below:]),
        )


def _mapped(mm: Mm) -> Iterator[_Run]:
    """Everything present by ascending address, pages of zeroes apart."""
    kernel = mm.kernel
    huge_zeroes = huge_memory.state(kernel).huge_zero_page
    for address, entry, shift in _entries(mm.pgd, 0, 39):
        if type(entry) is PageTable:
            yield from _mapped_by_table(kernel, address, entry)
        elif pmd_trans_huge(entry):
            page = kernel.page_of(pte_pfn(entry))
            if page is not huge_zeroes:
                form = Form.HUGETLB if page.flags & PG_hugetlb else Form.HUGE
                yield _Run(address, 1 << shift - PAGE_SHIFT, page.zone.nid, form, [page.pfn])


def _mapped_by_table(kernel: Kernel, start: int, table: PageTable) -> Iterator[_Run]:
    """The base pages below one table of ptes."""
    zeroes = kernel.zero_page.pfn
    frames: list[int] = []
    first = node = 0
    merged = False
    for index, pte in enumerate(table.entries):
        if not pte or not pte_present(pte) or pte_pfn(pte) == zeroes:
            continue
        page = kernel.page_of(pte_pfn(pte))
        mapping = page.mapping
        is_merged = mapping is not None and mapping.ksm
        if first + len(frames) != index or page.zone.nid != node or is_merged != merged:
            if frames:
                form = Form.MERGED if merged else Form.BASE
                yield _Run(start + (first << PAGE_SHIFT), 1, node, form, frames)
            frames, first, node, merged = [], index, page.zone.nid, is_merged
        frames.append(page.pfn)
    if frames:
        form = Form.MERGED if merged else Form.BASE
        yield _Run(start + (first << PAGE_SHIFT), 1, node, form, frames)


def _entries(table: PageTable, start: int, shift: int) -> Iterator[tuple[int, Any, int]]:
    """(address, entry, log2 of the bytes it maps) of all tables of ptes, and of all entries of
    higher tables that map memory themselves."""
    for index, entry in enumerate(table.entries):
        if type(entry) is PageTable and shift > PMD_SHIFT:
            yield from _entries(entry, start + (index << shift), shift - 9)
        elif entry:
            yield start + (index << shift), entry, shift


def _by_node(runs: Iterable[_Run]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    for run in runs:
        counts[run.node] += run.pages
    return dict(sorted(counts.items()))


def _charged(rebuilt: Rebuilt) -> tuple[str, int, int | None] | None:
    """(name of the memory cgroup, bytes that it is charged, the lowest limit that holds there)."""
    if rebuilt.cgroup is None:
        return None
    limits = [group.limit for group in rebuilt.groups if group.limit is not None]
    return rebuilt.cgroup.name, rebuilt.cgroup.usage, min(limits, default=None)


def _free_huge_pages(rebuilt: Rebuilt) -> dict[int, list[int]]:
    """By size, of the sizes that the process has: free huge pages of each node."""
    states = rebuilt.machine.kernel.hugetlb.hstates
    return {h.size: list(h.free_huge_pages_node) for h in states if h.size in rebuilt.pool_sizes}


# --- what became of it ---


def _by_area(
    rebuilt: Rebuilt, before: Sequence[_Run], sources: Sequence[int], fate: _Fate
) -> tuple[list[AreaPlan], int]:
    """The plans of all areas, and how many pages were on other nodes."""
    areas = []
    for area in rebuilt.areas:
        planned = AreaPlan(area)
        unmodelled = rebuilt.unmodelled.get(area.start, 0)
        if unmodelled:
            hugetlb = area.kind == "hugetlb"
            form = planned.form(Form.HUGETLB if hugetlb else Form.BASE)
            reason = Reason.HUGETLB_UNSUPPORTED if hugetlb else Reason.NOT_MIGRATABLE
            form.pages, form.reasons[reason] = unmodelled, unmodelled
            form.units = unmodelled // (area.page_size >> PAGE_SHIFT)
        areas.append(planned)
    wanted, elsewhere, position = set(sources), 0, 0
    merged: set[tuple[int, int]] = set()  # a merged frame is one unit in each area that has it
    for run in before:
        rest: _Run | None = run
        while rest is not None:
            while areas[position].area.end <= rest.address:
                position += 1
            part, rest = rest.split(areas[position].area.end)
            if part.node not in wanted:
                elsewhere += part.pages
                continue
            form = areas[position].form(part.form)
            if part.form is Form.MERGED:
                already = len(merged)
                merged.update((position, frame) for frame in part.frames)
                form.units += len(merged) - already
            else:
                form.units += len(part.frames)
            form.pages += part.pages
            fate.tell(part, form)
    return areas, elsewhere


class _Fate:
    """What became of each page of a process.  @failed: the call ended before it was done."""

    def __init__(
        self, process: Process, sources: Sequence[int], targets: Sequence[int], failed: bool
    ) -> None:
        self.process = process
        self.kernel = process.mm.kernel
        self.targets = set(targets)
        self.left_alone = _left_alone(sources, targets)
        self.failed = failed

    def tell(self, run: _Run, form: FormPlan) -> None:
        """Add to @form what became of each page or huge page."""
        if run.unit == 1:
            self._tell_base(form, run.address, run.frames)
            return
        for number, frame in enumerate(run.frames):
            address = run.address + number * (run.unit << PAGE_SHIFT)
            if run.form is Form.HUGE and find_leaf(self.process.mm, address) is not None:
                form.split += 1
                self._tell_base(form, address, range(frame, frame + run.unit))
                continue
            reason = self._why_huge(address, frame, run)
            if reason is None:
                form.whole += 1
                form.moved += run.unit
            else:
                form.reasons[reason] += run.unit

    def _tell_base(self, form: FormPlan, start: int, frames: Sequence[int]) -> None:
        """Moved is a page if a frame of a target node is there now, or none at all (a page of the
        swap cache moved, and is found again by a fault).  migrate_pages(2) takes a frame near the
        target when that is full, so a page can move and yet not arrive."""
        table = find_leaf(self.process.mm, start)
        first = (start >> PAGE_SHIFT) & 511
        ptes = [0] * len(frames) if table is None else table.entries[first : first + len(frames)]
        for frame, pte in zip(frames, ptes, strict=True):
            reason = None
            if pte_present(pte):
                now = pte_pfn(pte)
                reason = self._reason(frame) if now == frame else self._arrived(now)
            if reason is None:
                form.moved += 1
            else:
                form.reasons[reason] += 1

    def _why_huge(self, address: int, frame: int, run: _Run) -> Reason | None:
        pfn = pte_pfn(peek_pte(self.process.mm, address))
        if pfn != frame:
            return self._arrived(pfn)
        reason = self.kernel.reasons.get(pfn)
        if reason is None and run.node in self.left_alone:
            return Reason.ALREADY_THERE
        if reason is None and run.unit > 1 << PMD_SHIFT - PAGE_SHIFT:
            return Reason.HUGETLB_UNSUPPORTED  # passed over, without a word
        if reason is Reason.NO_MEMORY and run.form is Form.HUGETLB:
            return Reason.HUGETLB_NO_POOL
        return self._reason(pfn)

    def _arrived(self, pfn: int) -> Reason | None:
        there = self.kernel.page_of(pfn).zone.nid in self.targets
        return None if there else Reason.NO_MEMORY

    def _reason(self, pfn: int) -> Reason:
        known: Reason | None = self.kernel.reasons.get(pfn)
        if known is None and self.kernel.page_of(pfn).zone.nid in self.left_alone:
            return Reason.ALREADY_THERE
        if self.failed and known in (None, Reason.NOT_ON_LRU):
            return Reason.NOT_TRIED  # found again, at another address, once it was isolated
        if known is not None:
            return known
        return Reason.SHARED if self.kernel.page_of(pfn)._mapcount > 0 else Reason.UNKNOWN


def _left_alone(sources: Sequence[int], targets: Sequence[int]) -> set[int]:
    """The source nodes whose pages are where they shall be  (mm/mempolicy.c: do_migrate_pages)."""
    from_, to = mask_of(sources), mask_of(targets)
    return {
        node
        for node in sources
        if node_remap(node, from_, to) == node or (weight(from_) != weight(to) and to >> node & 1)
    }
