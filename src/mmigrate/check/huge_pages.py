"""Compound pages, and what goes with the pmds that map huge pages."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.page_flags import (
    PG_compound_lock,
    PG_head,
    PG_hugetlb,
    PG_tail,
    page_flag_names,
)
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PMD_MASK, PMD_SIZE, pte_pfn
from mmigrate.linux.mm import huge_memory
from mmigrate.linux.mm.page_alloc import compound_order

_OF_COMPOUND = PG_compound_lock | PG_head | PG_tail


def compound_pages(view: View) -> Iterator[Violation]:
    """Every tail belongs to a head before it, and carries nothing but its pins; a page that is
    neither has no head."""
    if not [page for page in view.flagged if page.flags & _OF_COMPOUND]:
        return
    heads: dict[int, Page] = {}
    for page in view.pages:
        flags, pfn = page.flags, page.pfn
        if not flags & _OF_COMPOUND and pfn not in heads:
            continue
        if flags & PG_compound_lock:
            yield _wrong(page, "its compound lock is held, by nobody")
        if flags & PG_head and (page._count or flags & PG_hugetlb):
            tails = range(pfn + 1, pfn + (1 << compound_order(page)))
            heads.update(dict.fromkeys(tails, page))
            if flags & PG_tail:
                yield _wrong(page, "both a head and a tail")
        if not flags & PG_tail:
            if pfn in heads:
                yield _wrong(page, f"no tail, inside {heads[pfn]!r}")
            continue
        head = page.first_page
        found = heads.get(pfn)
        if head is None or found is not head:
            yield _wrong(page, f"a tail of {head!r}, found head {found!r}")
        if page._count:
            yield _wrong(page, f"a tail with _count {page._count}")
        pins = 0
        if view.pins and (head is None or not head.flags & PG_hugetlb):
            pins = view.pins.get(pfn, 0)
        if page._mapcount + 1 != pins:
            yield _wrong(page, f"a tail with {page._mapcount + 1} pins, found {pins}")
        if page.mapping is not None:
            yield _wrong(page, f"a tail with {page.mapping!r}")


def _wrong(page: Page, what: str) -> Violation:
    return Violation("compound pages", repr(page), what)


def huge_pages(view: View) -> Iterator[Violation]:
    """A huge pmd lies in an area that takes it whole, leads to a head, and has a table of ptes
    in reserve; the huge page of zeroes is referenced by each pmd that maps it."""
    reserved: dict[int, int] = {}
    zeroes = 0
    for mm, address, pmd in view.huge:
        where = f"{mm!r} at {address:#x}"
        number = _table_of(view, mm, address)
        reserved[number] = reserved.get(number, 0) + 1
        if pte_pfn(pmd) == view.huge_zero_pfn:
            zeroes += 1
        page = view.kernel.page_of(pte_pfn(pmd))
        if not page.flags & PG_head:
            flags = page_flag_names(page.flags)
            yield Violation("huge pages", where, f"leads to {page!r}, which is no head ({flags})")
        if address & ~PMD_MASK or not any(
            vma.vm_start <= address and address + PMD_SIZE <= vma.vm_end for vma in mm.mmap
        ):
            yield Violation("huge pages", where, "a huge pmd that is not within one area")
    for _, table, _ in view.pmds:
        kept = len(table.pmd_huge_pte)
        found = reserved.get(table.number, 0)
        if kept != found:
            yield Violation(
                "huge pages",
                repr(table),
                f"{kept} tables of ptes in reserve, found {found} huge pmds",
            )
        for reserve in table.pmd_huge_pte:
            if any(reserve.entries):
                yield Violation("huge pages", repr(reserve), "in reserve, and not empty")
    thp = huge_memory.state(view.kernel)
    expected = zeroes + 1 if thp.huge_zero_page is not None else 0
    if thp.huge_zero_refcount != expected:
        yield Violation(
            "huge pages",
            "the huge zero page",
            f"{thp.huge_zero_refcount} references, found {expected}",
        )
    if thp.huge_zero_page is not None:
        pfn = thp.huge_zero_page.pfn
        pins = sum(view.pins.get(part, 0) for part in range(pfn, pfn + (PMD_SIZE >> PAGE_SHIFT)))
        if thp.huge_zero_page._count != 1 + pins:
            yield Violation(
                "huge pages",
                "the huge zero page",
                f"_count {thp.huge_zero_page._count}, found {1 + pins}",
            )


def _table_of(view: View, mm: object, address: int) -> int:
    return next(
        table.number
        for owner, table, base in view.pmds
        if owner is mm and base <= address < base + (1 << 30)
    )
