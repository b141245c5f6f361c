"""What /proc/PID tells of an address space  (fs/proc/task_mmu.c)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import EINVAL
from typing import Final

from mmigrate.linux.include.hugetlb import hstate_vma
from mmigrate.linux.include.mm import (
    VM_DONTCOPY,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NOHUGEPAGE,
    VM_NONLINEAR,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    HPAGE_PMD_NR,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_MASK,
    PMD_SIZE,
    TASK_SIZE,
    huge_part,
    is_migration_entry,
    is_swap_pte,
    non_swap_entry,
    pmd_trans_huge,
    pte_clear_soft_dirty,
    pte_dirty,
    pte_pfn,
    pte_present,
    pte_soft_dirty,
    pte_swp_clear_soft_dirty,
    pte_swp_soft_dirty,
    pte_to_swp_entry,
    pte_wrprotect,
    pte_young,
    swp_offset,
    swp_type,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel.atomic import WRITE_ONCE
from mmigrate.linux.kernel.huge_pte import PMD_LEVEL, huge_pte_offset, huge_ptep_get
from mmigrate.linux.kernel.page_flags import (
    ClearPageReferenced,
    PageActive,
    PageAnon,
    PageDirty,
    PageReferenced,
    PageReserved,
    PageSwapCache,
    PageUnevictable,
    PageWriteback,
)
from mmigrate.linux.kernel.page_ref import page_mapcount
from mmigrate.linux.kernel.pgtable import (
    find_leaf,
    find_pmds,
    pmd_get,
    ptep_get,
    ptep_test_and_clear_young,
    set_pte_at,
)
from mmigrate.linux.kernel.rwsem import down_read
from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock
from mmigrate.linux.kernel.tlb import flush_tlb_mm
from mmigrate.linux.mm import huge_memory, huge_split, memory, mempolicy, migrate, mmu_notifier
from mmigrate.linux.mm.vma import vma_set_page_prot

# The order and letters of smaps' VmFlags.
VM_FLAG_LETTERS: Final = (
    (VM_READ, "rd"),
    (VM_WRITE, "wr"),
    (VM_EXEC, "ex"),
    (VM_SHARED, "sh"),
    (VM_MAYREAD, "mr"),
    (VM_MAYWRITE, "mw"),
    (VM_MAYEXEC, "me"),
    (VM_MAYSHARE, "ms"),
    (VM_GROWSDOWN, "gd"),
    (VM_PFNMAP, "pf"),
    (VM_LOCKED, "lo"),
    (VM_IO, "io"),
    (VM_SEQ_READ, "sr"),
    (VM_RAND_READ, "rr"),
    (VM_DONTCOPY, "dc"),
    (VM_NORESERVE, "nr"),
    (VM_NONLINEAR, "nl"),
    (VM_SOFTDIRTY, "sd"),
    (VM_HUGEPAGE, "hg"),
    (VM_NOHUGEPAGE, "nh"),
)

PM_SOFT_DIRTY: Final = 1 << 55
PM_FILE: Final = 1 << 61
PM_SWAP: Final = 1 << 62
PM_PRESENT: Final = 1 << 63


def _area_pages(vma: Vma) -> Iterator[tuple[int, int, int]]:
    """(address, pte, 1) of every pte that is not none, and (address, pmd, HPAGE_PMD_NR) of every
    huge page, under the lock of its table."""
    if vma.vm_flags & VM_HUGETLB:
        return  # smaps of v3.19 does not see them
    addr = vma.vm_start
    while addr < vma.vm_end:
        stop = min(vma.vm_end, (addr & PMD_MASK) + PMD_SIZE)
        pmd = _huge_pmd(vma, addr)
        if pmd is not None:
            yield addr, pmd, HPAGE_PMD_NR
            addr = stop
            continue
        pt = find_leaf(vma.vm_mm, addr)
        if pt is not None:
            ptl = pt.ptl
            with spin_lock(ptl):
                found = [(a, ptep_get(pt, a)) for a in range(addr, stop, PAGE_SIZE)]
            yield from ((a, pte, 1) for a, pte in found if pte)
        addr = stop


def _hugetlb_pages(vma: Vma) -> Iterator[tuple[int, int, int]]:
    """(address, entry, 1) of every page of hugetlb that is mapped."""
    mm, h = vma.vm_mm, hstate_vma(vma)
    for addr in range(vma.vm_start, vma.vm_end, h.size):
        pt = huge_pte_offset(mm, addr)
        if pt is not None:
            entry = huge_ptep_get(pt, addr)
            if pte_present(entry):
                yield addr, entry, 1


def _huge_pmd(vma: Vma, addr: int) -> int | None:
    """The huge pmd at @addr, if there is one and it is not being split."""
    pmds = find_pmds(vma.vm_mm, addr)
    if pmds is None or not pmd_trans_huge(pmd_get(pmds, addr)):
        return None
    if huge_memory.pmd_trans_huge_lock(pmds, vma, addr) != 1:
        return None
    pmd: int = pmd_get(pmds, addr)
    spin_unlock(pmds.ptl)
    return pmd


# --- maps and smaps ---


def _maps_line(vma: Vma) -> str:
    flags = vma.vm_flags
    perms = (
        ("r" if flags & VM_READ else "-")
        + ("w" if flags & VM_WRITE else "-")
        + ("x" if flags & VM_EXEC else "-")
        + ("s" if flags & VM_MAYSHARE else "p")
    )
    name = "" if vma.vm_file is None else f"/{vma.vm_file.f_inode.name}"
    offset = 0 if vma.vm_file is None else vma.vm_pgoff << PAGE_SHIFT
    line = f"{vma.vm_start:08x}-{vma.vm_end:08x} {perms} {offset:08x} 00:00 0"
    return f"{line:<72} {name}".rstrip()


def maps_text(mm: Mm) -> str:
    """/proc/PID/maps."""
    with down_read(mm.mmap_sem):
        return "".join(_maps_line(vma) + "\n" for vma in mm.mmap)


@dataclass
class AreaSizes:
    """The figures of one area in smaps, in pages  (struct mem_size_stats)."""

    resident: int = 0
    pss: float = 0.0
    shared_clean: int = 0
    shared_dirty: int = 0
    private_clean: int = 0
    private_dirty: int = 0
    referenced: int = 0
    anonymous: int = 0
    anonymous_thp: int = 0
    swap: int = 0


def area_sizes(vma: Vma) -> AreaSizes:
    """Recount one area  (fs/proc/task_mmu.c: smaps_pte_range).  A page under migration
    counts as resident."""
    sizes = AreaSizes()
    for addr, pte, count in _area_pages(vma):
        page: Page | None
        if count > 1:
            page = huge_memory.pmd_page(vma.vm_mm.kernel, pte)
            if huge_memory.is_huge_zero_page(page):
                continue
            sizes.anonymous_thp += count
        elif pte_present(pte):
            page = memory.vm_normal_page(vma, addr, pte)
        elif is_swap_pte(pte):
            entry = pte_to_swp_entry(pte)
            if not non_swap_entry(entry):
                sizes.swap += 1
                continue
            if not is_migration_entry(entry):
                continue
            page = migrate.migration_entry_to_page(vma.vm_mm.kernel, entry)
        else:
            continue
        if page is None:
            continue
        sizes.resident += count
        sizes.anonymous += count * PageAnon(page)
        sizes.referenced += count * (pte_young(pte) or PageReferenced(page))
        dirty = (pte_dirty(pte) and pte_present(pte)) or PageDirty(page)
        mapcount = page_mapcount(page)
        if mapcount >= 2:
            sizes.pss += count / mapcount
            if dirty:
                sizes.shared_dirty += count
            else:
                sizes.shared_clean += count
        else:
            sizes.pss += count
            if dirty:
                sizes.private_dirty += count
            else:
                sizes.private_clean += count
    return sizes


def smaps_text(mm: Mm) -> str:
    """/proc/PID/smaps."""
    lines: list[str] = []
    with down_read(mm.mmap_sem):
        for vma in mm.mmap:
            lines.append(_maps_line(vma))
            sizes = area_sizes(vma)
            pages = (vma.vm_end - vma.vm_start) >> PAGE_SHIFT
            locked = sizes.pss if vma.vm_flags & VM_LOCKED else 0
            for name, count in (
                ("Size", pages),
                ("Rss", sizes.resident),
                ("Pss", sizes.pss),
                ("Shared_Clean", sizes.shared_clean),
                ("Shared_Dirty", sizes.shared_dirty),
                ("Private_Clean", sizes.private_clean),
                ("Private_Dirty", sizes.private_dirty),
                ("Referenced", sizes.referenced),
                ("Anonymous", sizes.anonymous),
                ("AnonHugePages", sizes.anonymous_thp),
                ("Swap", sizes.swap),
            ):
                lines.append(f"{name + ':':<16}{int(count * 4):8d} kB")
            lines.append(f"{'KernelPageSize:':<16}{4:8d} kB")
            lines.append(f"{'MMUPageSize:':<16}{4:8d} kB")
            lines.append(f"{'Locked:':<16}{int(locked * 4):8d} kB")
            flags = " ".join(word for bit, word in VM_FLAG_LETTERS if vma.vm_flags & bit)
            lines.append(f"VmFlags: {flags} ")
    return "".join(line + "\n" for line in lines)


# --- numa_maps ---


@dataclass
class NumaArea:
    """One line of numa_maps  (struct numa_maps)."""

    start: int
    policy: str
    file: str = ""
    pages: int = 0
    anon: int = 0
    active: int = 0
    writeback: int = 0
    mapcount_max: int = 0
    dirty: int = 0
    swapcache: int = 0
    huge: bool = False
    page_size: int = PAGE_SIZE
    nodes: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        words = [f"{self.start:08x} {self.policy}"]
        if self.file:
            words.append(f"file=/{self.file}")
        if self.huge:
            words.append("huge")
        if self.pages:
            for name, value, shown in (
                ("anon", self.anon, self.anon > 0),
                ("dirty", self.dirty, self.dirty > 0),
                ("mapped", self.pages, self.pages not in (self.anon, self.dirty)),
                ("mapmax", self.mapcount_max, self.mapcount_max > 1),
                ("swapcache", self.swapcache, self.swapcache > 0),
                ("active", self.active, self.active < self.pages and not self.huge),
                ("writeback", self.writeback, self.writeback > 0),
            ):
                if shown:
                    words.append(f"{name}={value}")
            words += [f"N{node}={count}" for node, count in sorted(self.nodes.items())]
            words.append(f"kernelpagesize_kB={self.page_size >> 10}")
        return " ".join(words)


def numa_areas(mm: Mm, task: Task) -> list[NumaArea]:
    """The lines of numa_maps, as seen with @task's policy where an area has none."""
    with down_read(mm.mmap_sem):
        return [_numa_area(vma, task) for vma in mm.mmap]


def _numa_area(vma: Vma, task: Task) -> NumaArea:
    """fs/proc/task_mmu.c: show_numa_map, gather_pte_stats."""
    policy = vma.vm_policy
    if vma.vm_ops is not None and vma.vm_ops.get_policy is not None:
        policy = vma.vm_ops.get_policy(vma, vma.vm_start)
    text = mempolicy.mpol_to_str(task.mempolicy if policy is None else policy)
    area = NumaArea(vma.vm_start, text, "" if vma.vm_file is None else vma.vm_file.f_inode.name)
    hugetlb = vma.vm_flags & VM_HUGETLB
    if hugetlb:
        area.huge, area.page_size = True, hstate_vma(vma).size
    for addr, pte, count in _hugetlb_pages(vma) if hugetlb else _area_pages(vma):
        if not pte_present(pte):
            continue
        page = memory.vm_normal_page(vma, addr, pte)
        if page is None or PageReserved(page):
            continue
        area.pages += count
        area.dirty += count * (pte_dirty(pte) or PageDirty(page))
        area.swapcache += count * PageSwapCache(page)
        area.active += count * (PageActive(page) or PageUnevictable(page))
        area.writeback += count * PageWriteback(page)
        area.anon += count * PageAnon(page)
        area.mapcount_max = max(area.mapcount_max, page_mapcount(page))
        area.nodes[page.zone.nid] += count
    return area


def numa_maps_text(mm: Mm, task: Task) -> str:
    """/proc/PID/numa_maps."""
    return "".join(f"{area}\n" for area in numa_areas(mm, task))


# --- pagemap ---


def pagemap(mm: Mm, start: int, end: int) -> list[int]:
    """The words of /proc/PID/pagemap for the pages from @start to @end
    (fs/proc/task_mmu.c: pagemap_pte_range).  No pte lock is taken: v3.19 can trip over a
    migration that ends meanwhile."""
    words = []
    with down_read(mm.mmap_sem):
        for addr in range(start, end, PAGE_SIZE):
            table = huge_pte_offset(mm, addr)
            if table is not None and table.level != PMD_LEVEL:
                words.append(_pagemap_hugetlb_word(table.entries[addr >> 30 & 511], addr))
                continue
            pmds = find_pmds(mm, addr)
            pmd = None if pmds is None else pmd_get(pmds, addr)
            if type(pmd) is PageTable:
                words.append(_pagemap_word(mm, ptep_get(pmd, addr)))
            else:
                words.append(_pagemap_huge_word(pmd, addr))
    return words


def _pagemap_huge_word(pmd: int | None, addr: int) -> int:
    """fs/proc/task_mmu.c: thp_pmd_to_pagemap_entry."""
    if not pmd_trans_huge(pmd):
        return 0  # empty, or a migration entry of hugetlb
    assert pmd is not None
    return (
        PM_PRESENT | pte_pfn(huge_part(pmd, addr)) | (PM_SOFT_DIRTY if pte_soft_dirty(pmd) else 0)
    )


def _pagemap_hugetlb_word(entry: int, addr: int) -> int:
    """A page of 1 GiB  (fs/proc/task_mmu.c: huge_pte_to_pagemap_entry)."""
    return PM_PRESENT | pte_pfn(entry) + ((addr & (1 << 30) - 1) >> PAGE_SHIFT)


def _pagemap_word(mm: Mm, pte: int) -> int:
    if pte_present(pte):
        page = mm.kernel.page_of(pte_pfn(pte))
        word = PM_PRESENT | pte_pfn(pte)
        if page is not mm.kernel.zero_page and not PageAnon(page):
            word |= PM_FILE
        return word | (PM_SOFT_DIRTY if pte_soft_dirty(pte) else 0)
    if not is_swap_pte(pte):
        return 0
    entry = pte_to_swp_entry(pte)
    word = PM_SWAP | swp_type(entry) | swp_offset(entry) << 5
    if is_migration_entry(entry):
        page = migrate.migration_entry_to_page(mm.kernel, entry)
        word |= 0 if PageAnon(page) else PM_FILE
    return word | (PM_SOFT_DIRTY if pte_swp_soft_dirty(pte) else 0)


# --- clear_refs ---

CLEAR_REFS_ALL: Final = 1
CLEAR_REFS_ANON: Final = 2
CLEAR_REFS_MAPPED: Final = 3
CLEAR_REFS_SOFT_DIRTY: Final = 4


def clear_refs(mm: Mm, kind: int) -> int:
    """Write to /proc/PID/clear_refs: forget which pages were used, or (4) begin to watch stores
    anew.  0 or -EINVAL  (fs/proc/task_mmu.c: clear_refs_write).

    Known defect of v3.19: a write migration entry loses its soft-dirty mark and stays a write
    entry, so the next store through the restored pte is not noticed.
    """
    if not CLEAR_REFS_ALL <= kind <= CLEAR_REFS_SOFT_DIRTY:
        return -EINVAL
    with down_read(mm.mmap_sem):
        if kind == CLEAR_REFS_SOFT_DIRTY:
            for vma in mm.mmap:
                if vma.vm_flags & VM_SOFTDIRTY:
                    WRITE_ONCE(vma, "vm_flags", vma.vm_flags & ~VM_SOFTDIRTY)
                    vma_set_page_prot(vma)
            mmu_notifier.mmu_notifier_invalidate_range_start(mm, 0, TASK_SIZE)
        for vma in mm.mmap:
            if kind == CLEAR_REFS_ANON and vma.vm_file is not None:
                continue
            if kind == CLEAR_REFS_MAPPED and vma.vm_file is None:
                continue
            _clear_area(vma, kind)
        if kind == CLEAR_REFS_SOFT_DIRTY:
            mmu_notifier.mmu_notifier_invalidate_range_end(mm, 0, TASK_SIZE)
        flush_tlb_mm(mm)
    return 0


def _clear_area(vma: Vma, kind: int) -> None:
    """fs/proc/task_mmu.c: clear_refs_pte_range.  Areas of hugetlb are passed over."""
    if vma.vm_flags & VM_HUGETLB:
        return
    mm = vma.vm_mm
    addr = vma.vm_start
    while addr < vma.vm_end:
        stop = min(vma.vm_end, (addr & PMD_MASK) + PMD_SIZE)
        pmds = find_pmds(mm, addr)
        if pmds is not None:
            huge_split.split_huge_page_pmd(vma, addr, pmds)
        pt = find_leaf(mm, addr)
        if pt is not None:
            ptl = pt.ptl
            with spin_lock(ptl):
                for address in range(addr, stop, PAGE_SIZE):
                    if kind == CLEAR_REFS_SOFT_DIRTY:
                        _clear_soft_dirty(mm, pt, address)
                    else:
                        _clear_young(vma, pt, address)
        addr = stop


def _clear_soft_dirty(mm: Mm, pt: PageTable, address: int) -> None:
    pte = ptep_get(pt, address)
    if pte_present(pte):
        pte = pte_clear_soft_dirty(pte_wrprotect(pte))
    elif is_swap_pte(pte):
        pte = pte_swp_clear_soft_dirty(pte)
    else:
        return
    set_pte_at(mm, address, pt, pte)


def _clear_young(vma: Vma, pt: PageTable, address: int) -> None:
    pte = ptep_get(pt, address)
    if pte_present(pte):
        page = memory.vm_normal_page(vma, address, pte)
        if page is not None:
            ptep_test_and_clear_young(vma, address, pt)
            ClearPageReferenced(page)
