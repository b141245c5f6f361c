"""The state of a machine, read once for all oracles."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import compress
from typing import Final

from mmigrate.linux.include.mm import VM_HUGETLB
from mmigrate.linux.include.mm_types import AddressSpace, Mm, Page, PageTable
from mmigrate.linux.include.mmzone import Zone
from mmigrate.linux.include.pgtable import (
    PTRS_PER_PTE,
    is_migration_entry,
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
    """@mapped: pfn to the (mm, address, pte) that map it, for a huge page (mm, address, pmd) on
    its head; @huge: the pmds of huge pages alone; @pmds: every table of pmds, as (mm, table,
    first address); @ptes: (address, pte) of every pte that is not none, ascending, for each
    mm; @entries: swap-like entries in page tables, as (mm, address, entry); @slots:
    pfn to the (mapping, index) that cache it; @vectors, @pins: how often a pfn is in a per-CPU
    vector, or pinned; @hugetlb: the entries that map pages of hugetlb; @pooled: the frames of its
    free pages; @contiguous: the pfns that `alloc_contig` handed out."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.kernel = machine.kernel
        self._pages: list[Page] | None = None
        self._used: list[Page] | None = None
        self._flagged: list[Page] | None = None
        self._free: dict[Zone, list[tuple[int, int, int]]] = {}
        self.zones = [
            zone for node in self.kernel.nodes for zone in (*node.node_zones, *node.empty_zones)
        ]
        self.ptes: list[tuple[Mm, list[tuple[int, int]]]] = []
        self.mapped: dict[int, list[tuple[Mm, int, int]]] = {}
        self.entries: list[tuple[Mm, int, int]] = []
        self.slots: dict[int, list[tuple[AddressSpace, int]]] = {}
        self.mappings = [inode.i_mapping for inode in self.kernel.inodes]
        self.mappings += swap_state.swapper_spaces(self.kernel)
        self.huge: list[tuple[Mm, int, int]] = []
        self.hugetlb: list[tuple[Mm, int, int]] = []
        self.pmds: list[tuple[Mm, PageTable, int]] = []
        huge_zero = huge_memory.state(self.kernel).huge_zero_page
        self.huge_zero_pfn = -1 if huge_zero is None else huge_zero.pfn
        zero = self.kernel.zero_page.pfn
        for mm in self.kernel.mms:
            tables = Tables(mm)
            self.ptes.append((mm, tables.ptes))
            for address, pte in tables.ptes:
                if pte_present(pte):
                    if pte_pfn(pte) != zero:
                        self.mapped.setdefault(pte_pfn(pte), []).append((mm, address, pte))
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
                        self.mapped.setdefault(pte_pfn(pmd), []).append(found)
            for address, pud in tables.gigantic:
                self._hugetlb_entry(mm, address, pud)
        for mapping in self.mappings:
            for index, item in mapping.page_tree.slots.items():
                if isinstance(item, Page):
                    self.slots.setdefault(item.pfn, []).append((mapping, index))
        self.vectors = Counter(
            page.pfn
            for cpu in self.kernel.cpus
            for vector in cpu.pagevecs.values()
            for page in vector
        )
        self.pooled = {
            pfn
            for h in self.kernel.hugetlb.hstates
            for pool in h.hugepage_freelists
            for page in pool
            for pfn in range(page.pfn, page.pfn + h.pages)
        }
        self.pins = Counter(page.pfn for pin in machine.pins for page in pin.pages)
        self.contiguous = {
            pfn
            for taken in machine.contiguous
            if taken.held
            for pfn in range(taken.start_pfn, taken.end_pfn)
        }

    def _hugetlb_entry(self, mm: Mm, address: int, entry: int) -> None:
        if pte_present(entry):
            self.hugetlb.append((mm, address, entry))
            self.mapped.setdefault(pte_pfn(entry), []).append((mm, address, entry))
        else:
            self.entries.append((mm, address, pte_to_swp_entry(entry)))

    def pages(self) -> list[Page]:
        """Every page that exists, by frame number; the zero page apart."""
        if self._pages is None:
            zero, sections = self.kernel.zero_page, self.kernel.mem_map
            pages: list[Page] = []
            self._pages = pages
            for section in sorted(sections):
                pages += filter(None, sections[section])
            if zero in pages:
                pages.remove(zero)
        return self._pages

    def used(self) -> list[Page]:
        """Those with a reference."""
        if self._used is None:
            self._used = [page for page in self.pages() if page._count]
        return self._used

    def flagged(self) -> list[Page]:
        """Those with any flag."""
        if self._flagged is None:
            self._flagged = [page for page in self.pages() if page.flags]
        return self._flagged

    def free_blocks(self, zone: Zone) -> list[tuple[int, int, int]]:
        """(first frame, order, migrate type) of every block on a free list of a zone."""
        found = self._free.get(zone)
        if found is None:
            found = self._free[zone] = page_alloc.free_blocks(zone)
        return found

    def swap_entries(self) -> Iterator[tuple[Mm, int, int]]:
        """The entries that name a place in a swap area."""
        return (found for found in self.entries if not is_migration_entry(found[2]))


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
        self._read(mm.pgd, 4, 0)

    def _read(self, table: PageTable, level: int, base: int) -> None:
        shift = 12 + 9 * (level - 1)
        entries = table.entries
        if level == 2:
            self.pmds.append((table, base))
        for index in compress(_INDICES, entries):
            entry = entries[index]
            if type(entry) is PageTable and level > 1:
                self._read(entry, level - 1, base + (index << shift))
            elif type(entry) is int and level < 4:
                self._below[level].append((base + (index << shift), entry))


def area_is_hugetlb(mm: Mm, address: int) -> bool:
    position = bisect_right(mm.starts, address) - 1
    vma = mm.mmap[position] if position >= 0 else None
    return vma is not None and address < vma.vm_end and bool(vma.vm_flags & VM_HUGETLB)
