"""The state of a machine, read once for all oracles."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmigrate.linux.include.mm import VM_HUGETLB
from mmigrate.linux.include.mm_types import AddressSpace, Mm, Page, PageTable
from mmigrate.linux.include.pgtable import (
    PMD_SHIFT,
    is_migration_entry,
    is_swap_pte,
    pmd_trans_huge,
    pte_pfn,
    pte_present,
    pte_to_swp_entry,
)
from mmigrate.linux.mm import huge_memory, swap_state
from mmigrate.machine.machine import Machine


class View:
    """@mapped: pfn to the (mm, address, pte) that map it, for a huge page (mm, address, pmd) on
    its head; @huge: the pmds of huge pages alone; @pmds: every table of pmds, as (mm, table,
    first address); @entries: swap-like entries in page tables, as (mm, address, entry); @slots:
    pfn to the (mapping, index) that cache it; @vectors, @pins: how often a pfn is in a per-CPU
    vector, or pinned; @hugetlb: the entries that map pages of hugetlb; @pooled: the frames of its
    free pages; @contiguous: the pfns that `alloc_contig` handed out."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.kernel = machine.kernel
        self._pages: list[Page] | None = None
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
            for address, pte in present_entries(mm):
                if pte_present(pte):
                    if pte_pfn(pte) != zero:
                        self.mapped.setdefault(pte_pfn(pte), []).append((mm, address, pte))
                elif is_swap_pte(pte):
                    self.entries.append((mm, address, pte_to_swp_entry(pte)))
            for table, base in pmd_tables(mm):
                self.pmds.append((mm, table, base))
                for index, pmd in enumerate(table.entries):
                    if pmd is None:
                        continue
                    if type(pmd) is int and area_is_hugetlb(mm, base + (index << PMD_SHIFT)):
                        self._hugetlb_entry(mm, base + (index << PMD_SHIFT), pmd)
                    elif pmd_trans_huge(pmd):
                        found = (mm, base + (index << PMD_SHIFT), pmd)
                        self.huge.append(found)
                        if pte_pfn(pmd) != self.huge_zero_pfn:
                            self.mapped.setdefault(pte_pfn(pmd), []).append(found)
            for address, pud in gigantic_entries(mm):
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
            self._pages = [
                page
                for section in sorted(sections)
                for page in sections[section]
                if page is not None and page is not zero
            ]
        return self._pages

    def swap_entries(self) -> Iterator[tuple[Mm, int, int]]:
        """The entries that name a place in a swap area."""
        return (found for found in self.entries if not is_migration_entry(found[2]))


def present_entries(mm: Mm) -> Iterator[tuple[int, int]]:
    """(address, pte) of every pte that is not none, ascending."""

    def walk(table: Any, level: int, base: int) -> Iterator[tuple[int, int]]:
        shift = 12 + 9 * (level - 1)
        for index, entry in enumerate(table.entries):
            if not entry:
                continue
            if level == 1:
                yield base + (index << 12), entry
            elif type(entry) is PageTable:
                yield from walk(entry, level - 1, base + (index << shift))

    return walk(mm.pgd, 4, 0)


def area_is_hugetlb(mm: Mm, address: int) -> bool:
    position = bisect_right(mm.starts, address) - 1
    vma = mm.mmap[position] if position >= 0 else None
    return vma is not None and address < vma.vm_end and bool(vma.vm_flags & VM_HUGETLB)


def gigantic_entries(mm: Mm) -> Iterator[tuple[int, int]]:
    """(address, entry) of every page of 1 GiB."""
    for upper, puds in enumerate(mm.pgd.entries):
        for lower, entry in enumerate(puds.entries if type(puds) is PageTable else ()):
            if type(entry) is int:
                yield (upper << 39) + (lower << 30), entry


def pmd_tables(mm: Mm) -> Iterator[tuple[PageTable, int]]:
    """(table, first address) of every table of pmds, ascending."""
    for upper, puds in enumerate(mm.pgd.entries):
        for lower, table in enumerate(puds.entries if type(puds) is PageTable else ()):
            if type(table) is PageTable:
                yield table, (upper << 39) + (lower << 30)
