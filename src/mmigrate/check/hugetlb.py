"""The pools of hugetlb and their promises equal a recount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.hugetlb import HPAGE_RESV_OWNER, Hstate, Subpool, hstate_vma
from mmigrate.linux.include.mm import VM_HUGETLB, VM_MAYSHARE
from mmigrate.linux.include.mm_types import Inode, Page
from mmigrate.linux.include.page_flags import PG_hugetlb, PG_private
from mmigrate.linux.mm import hugetlb_pool
from mmigrate.linux.mm.page_alloc import compound_order


def pools(view: View) -> Iterator[Violation]:
    """Numbers of pages, in all and free, by node; free ones have no user, and are on the list of
    their node; only pages in use are on the active list."""
    heads: dict[int, list[Page]] = {}
    for page in view.flagged:
        if page.flags & PG_hugetlb:
            heads.setdefault(compound_order(page), []).append(page)
    for h in view.kernel.hugetlb.hstates:
        here = heads.get(h.order, [])
        if not here and _never_used(h):
            continue
        yield from _counts(h, here)
        free = [page for pool in h.hugepage_freelists for page in pool]
        for nid, pool in enumerate(h.hugepage_freelists):
            for page in pool:
                if page._count or page.mapping is not None or page.zone.nid != nid:
                    yield _wrong(
                        page,
                        f"on the free list of node {nid} with _count {page._count}, "
                        f"{page.mapping!r}, on node {page.zone.nid}",
                    )
        listed = {page.pfn for page in free}
        for page in here:
            if not page._count and page.pfn not in listed:
                yield _wrong(page, "without users, and on no free list")
            if page._count and page.flags & PG_private:
                yield _wrong(page, "in use, and would give a promise back when it is freed")
        for page in h.hugepage_activelist:
            if not page._count or not page.flags & PG_hugetlb:
                yield _wrong(page, f"on the active list with _count {page._count}")


def _never_used(h: Hstate) -> bool:
    """Nothing is counted, and nothing on a list."""
    return not (
        h.nr_huge_pages
        or h.free_huge_pages
        or h.surplus_huge_pages
        or any(h.nr_huge_pages_node)
        or any(h.free_huge_pages_node)
        or any(h.surplus_huge_pages_node)
        or [pool for pool in h.hugepage_freelists if pool.next is not pool]
        or h.hugepage_activelist.next is not h.hugepage_activelist
    )


def _counts(h: Hstate, heads: list[Page]) -> Iterator[Violation]:
    nodes = Counter(page.zone.nid for page in heads)
    for nid, pool in enumerate(h.hugepage_freelists):
        for name, counted, found in (
            ("nr_huge_pages", h.nr_huge_pages_node[nid], nodes[nid]),
            ("free_huge_pages", h.free_huge_pages_node[nid], sum(1 for _ in pool)),
        ):
            if counted != found:
                yield Violation(
                    "hugetlb pools", f"{h!r}, node {nid}", f"{name} {counted}, found {found}"
                )
    for name, total, parts in (
        ("nr_huge_pages", h.nr_huge_pages, h.nr_huge_pages_node),
        ("free_huge_pages", h.free_huge_pages, h.free_huge_pages_node),
        ("surplus_huge_pages", h.surplus_huge_pages, h.surplus_huge_pages_node),
    ):
        if total != sum(parts):
            yield Violation("hugetlb pools", repr(h), f"{name} {total}, by node {sum(parts)}")


def _wrong(page: Page, what: str) -> Violation:
    return Violation("hugetlb pools", repr(page), what)


def reservations(view: View) -> Iterator[Violation]:
    """What is promised is what files and private areas have reserved and not taken, and the pool
    has it."""
    promised = dict.fromkeys(view.kernel.hugetlb.hstates, 0)
    for inode, pages in _promises(view):
        promised[inode.fs.hstate] += pages
    for h, found in promised.items():
        if h.resv_huge_pages != found:
            yield Violation(
                "hugetlb reservations",
                repr(h),
                f"resv_huge_pages {h.resv_huge_pages}, found {found}",
            )
        if h.resv_huge_pages > h.free_huge_pages:
            yield Violation(
                "hugetlb reservations",
                repr(h),
                f"{h.resv_huge_pages} pages promised, {h.free_huge_pages} free",
            )


def limits(view: View) -> Iterator[Violation]:
    """What a mount of hugetlbfs has used up of its limit is what its files have been promised, and
    the pages that name it."""
    spools: list[Subpool] = view.kernel.hugetlb.subpools
    if not spools:
        return
    found = dict.fromkeys(spools, 0)
    for inode, pages in _promises(view):
        if inode.fs.spool is not None:
            found[inode.fs.spool] += pages
    for page in view.flagged:
        if page.flags & PG_hugetlb and type(page.private) is Subpool:
            found[page.private] += 1
    for number, spool in enumerate(spools):
        if spool.used_hpages != found[spool] or spool.used_hpages > spool.max_hpages:
            yield Violation(
                "hugetlb limits",
                f"mount {number} of hugetlbfs",
                f"{spool.used_hpages} pages used of {spool.max_hpages}, found {found[spool]}",
            )


def _promises(view: View) -> Iterator[tuple[Inode, int]]:
    """How many pages each file, and each private area of one, was promised and has not taken."""
    for inode in view.kernel.inodes:
        if inode.fs.hstate is not None:
            reserved = sum(end - start for start, end in inode.fs.resv_map.regions)
            yield inode, reserved - inode.i_mapping.nrpages
    for mm in view.kernel.mms:
        for vma in mm.mmap:
            if not vma.vm_flags & VM_HUGETLB or vma.vm_flags & VM_MAYSHARE:
                continue
            found = hugetlb_pool.vma_reservation(vma)
            if found is not None and found.map is not None and found.flags & HPAGE_RESV_OWNER:
                h = hstate_vma(vma)
                first = hugetlb_pool.vma_hugecache_offset(h, vma, vma.vm_start)
                last = hugetlb_pool.vma_hugecache_offset(h, vma, vma.vm_end)
                used = sum(
                    max(0, min(last, end) - max(first, start)) for start, end in found.map.regions
                )
                assert vma.vm_file is not None
                yield vma.vm_file.f_inode, last - first - used
