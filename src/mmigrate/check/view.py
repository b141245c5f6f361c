"""The state of a machine, read once for all oracles."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import compress
from typing import Final

from mmigrate.linux.include.mm import VM_HUGETLB
from mmigrate.linux.include.mm_types import AddressSpace, Mm, Page, PageTable
from mmigrate.linux.include.mmzone import SECTION_SIZE, Zone
from mmigrate.linux.include.pgtable import (
    PTRS_PER_PTE,
    is_swap_pte,
    pmd_trans_huge,
    pte_pfn,
    pte_present,
    pte_to_swp_entry,
)
from mmigrate.linux.mm import huge_memory, page_alloc, swap_state
from mmigrate.machine.machine import Machine

_INDICES: Final = tuple(range(PTRS_PER_PTE))


class View:
    """@pages: every page that exists, by frame number, the zero page apart; @odd: those that
    have anything that a page of free memory has not (references, flags, a mapping, contents), or
    are not free; @used: those with a reference; @flagged: those with any flag.

    @free_blocks: (first frame, order, migrate type) of every block on a free list of a zone;
    @free_ranges: (first frame, last + 1) of these and of untouched memory, ascending;
    @in_blocks: the pages in the free blocks of their zone, which may never have been on a list;
    @on_lists: the pages on the lists of CPUs, as often as they are on one; @free: either.

    @mapped: pfn to the (mm, address, pte) that map it, for a huge page (mm, address, pmd) on
    its head; @huge: the pmds of huge pages alone; @pmds: every table of pmds, as (mm, table,
    first address); @ptes: (address, pte) of every pte that is not none, ascending, for each
    mm; @entries: swap-like entries in page tables, as (mm, address, entry); @slots:
    pfn to the (mapping, index) that cache it; @vectors, @pins: how often a pfn is in a per-CPU
    vector, or pinned; @hugetlb: the entries that map pages of hugetlb; @pooled: the frames of its
    free pages; @contiguous: the pfns that `alloc_contig` handed out."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.kernel = kernel = machine.kernel
        self.zones = [
            zone for node in kernel.nodes for zone in (*node.node_zones, *node.empty_zones)
        ]
        self._read_pages()
        self._read_free_memory()
        self.mappings = [inode.i_mapping for inode in kernel.inodes]
        self.mappings += swap_state.swapper_spaces(kernel)
        self.slots: dict[int, list[tuple[AddressSpace, int]]] = {}
        for mapping in self.mappings:
            for index, item in mapping.page_tree.slots.items():
                if isinstance(item, Page):
                    self.slots.setdefault(item.pfn, []).append((mapping, index))
        self.ptes: list[tuple[Mm, list[tuple[int, int]]]] = []
        self.mapped: dict[int, list[tuple[Mm, int, int]]] = {}
        self.entries: list[tuple[Mm, int, int]] = []
        self.huge: list[tuple[Mm, int, int]] = []
        self.hugetlb: list[tuple[Mm, int, int]] = []
        self.pmds: list[tuple[Mm, PageTable, int]] = []
        huge_zero = huge_memory.state(kernel).huge_zero_page
        self.huge_zero_pfn = -1 if huge_zero is None else huge_zero.pfn
        for mm in kernel.mms:
            self._read_tables(mm)
        self.vectors: dict[int, int] = {}
        for cpu in kernel.cpus:
            for vector in cpu.pagevecs.values():
                for page in vector:
                    self.vectors[page.pfn] = self.vectors.get(page.pfn, 0) + 1
        self.pins: dict[int, int] = {}
        for pin in machine.pins:
            for page in pin.pages:
                self.pins[page.pfn] = self.pins.get(page.pfn, 0) + 1
        self.pooled: set[int] = set()
        for h in kernel.hugetlb.hstates:
            for pool in h.hugepage_freelists:
                page = pool.next
                while page is not pool:
                    self.pooled.update(range(page.pfn, page.pfn + h.pages))
                    page = page.next
        self.contiguous: set[int] = set()
        for taken in machine.contiguous:
            if taken.held:
                self.contiguous.update(range(taken.start_pfn, taken.end_pfn))

    def _read_pages(self) -> None:
        sections = self.kernel.mem_map
        pages: list[Page] = []
        for number in sorted(sections):
            section = sections[number]
            first = section[0]
            # often that of a large free block is the only one  (explore_kernel_per_s)
            if first and section[1] is None and section.count(None) == SECTION_SIZE - 1:
                pages.append(first)
            else:
                pages += filter(None, section)
        self._pfns = [page.pfn for page in pages]
        zero = self.kernel.zero_page
        place = bisect_left(self._pfns, zero.pfn)
        if pages[place] is zero:
            del pages[place], self._pfns[place]
        self.pages = pages

    def _read_free_memory(self) -> None:
        pages, pfns = self.pages, self._pfns
        self.free_blocks: dict[Zone, list[tuple[int, int, int]]] = {}
        self.free_ranges: dict[Zone, list[tuple[int, int]]] = {}
        self.in_blocks: dict[Zone, set[Page]] = {}
        self.on_lists: dict[Zone, list[Page]] = {}
        free: set[Page] = set()
        for zone in self.zones:
            blocks = self.free_blocks[zone] = page_alloc.free_blocks(zone)
            ranges = [(pfn, pfn + (1 << order)) for pfn, order, _ in blocks]
            ranges += zone.untouched
            ranges.sort()
            self.free_ranges[zone] = ranges
            inside: list[Page] = []
            for start, end in ranges:
                first = bisect_left(pfns, start)
                inside += pages[first : bisect_left(pfns, end, first)]
            listed: list[Page] = []
            for pcp in zone.pageset:
                for head in pcp.lists:
                    page = head.next
                    while page is not head:
                        if page.zone is zone:
                            listed.append(page)
                        page = page.next
            self.in_blocks[zone] = {page for page in inside if page.zone is zone}
            self.on_lists[zone] = listed
            free.update(self.in_blocks[zone], listed)
        self.free = free
        self.odd = [
            page
            for page in pages
            if page._count
            or page.flags
            or page.mapping is not None
            or page.data is not None
            or page not in free
        ]
        self.used = [page for page in self.odd if page._count]
        self.flagged = [page for page in self.odd if page.flags]

    def _read_tables(self, mm: Mm) -> None:
        tables = Tables(mm)
        self.ptes.append((mm, tables.ptes))
        zero = self.kernel.zero_page.pfn
        mapped = self.mapped
        for address, pte in tables.ptes:
            if pte_present(pte):
                pfn = pte_pfn(pte)
                if pfn == zero:
                    continue
                if pfn in mapped:
                    mapped[pfn].append((mm, address, pte))
                else:
                    mapped[pfn] = [(mm, address, pte)]
            elif is_swap_pte(pte):
                self.entries.append((mm, address, pte_to_swp_entry(pte)))
        for table, base in tables.pmds:
            self.pmds.append((mm, table, base))
        for address, pmd in tables.huge:
            if area_is_hugetlb(mm, address):
                self._hugetlb_entry(mm, address, pmd)
            elif pmd_trans_huge(pmd):
                found = (mm, address, pmd)
                self.huge.append(found)
                if pte_pfn(pmd) != self.huge_zero_pfn:
                    mapped.setdefault(pte_pfn(pmd), []).append(found)
        for address, pud in tables.gigantic:
            self._hugetlb_entry(mm, address, pud)

    def _hugetlb_entry(self, mm: Mm, address: int, entry: int) -> None:
        if pte_present(entry):
            self.hugetlb.append((mm, address, entry))
            self.mapped.setdefault(pte_pfn(entry), []).append((mm, address, entry))
        else:
            self.entries.append((mm, address, pte_to_swp_entry(entry)))


class Tables:
    """The page tables of a process, read once, ascending.  @ptes: (address, pte) of those that
    are not none; @huge: (address, pmd) of those that name no table; @gigantic: (address, pud)
    of pages of 1 GiB; @pmds: (table, first address) of the tables of pmds."""

    def __init__(self, mm: Mm) -> None:
        self.ptes: list[tuple[int, int]] = []
        self.huge: list[tuple[int, int]] = []
        self.gigantic: list[tuple[int, int]] = []
        self.pmds: list[tuple[PageTable, int]] = []
        self._below: tuple[list[tuple[int, int]], ...] = ([], self.ptes, self.huge, self.gigantic)
        self._likely = mm.starts[0] if mm.starts else 0
        self._read(mm.pgd, 4, 0)

    def _read(self, table: PageTable, level: int, base: int) -> None:
        shift = 12 + 9 * (level - 1)
        entries = table.entries
        if level == 2:
            self.pmds.append((table, base))
        indices: Iterable[int]
        likely = (self._likely >> shift) & (PTRS_PER_PTE - 1)
        # often the one for the first area is alone, which is soon seen  (explore_kernel_per_s)
        if entries[likely] and entries.count(None if level > 1 else 0) == PTRS_PER_PTE - 1:
            indices = (likely,)
        else:
            indices = compress(_INDICES, entries)
        for index in indices:
            entry = entries[index]
            if type(entry) is PageTable and level > 1:
                self._read(entry, level - 1, base + (index << shift))
            elif type(entry) is int and level < 4:
                self._below[level].append((base + (index << shift), entry))


def area_is_hugetlb(mm: Mm, address: int) -> bool:
    position = bisect_right(mm.starts, address) - 1
    vma = mm.mmap[position] if position >= 0 else None
    return vma is not None and address < vma.vm_end and bool(vma.vm_flags & VM_HUGETLB)
