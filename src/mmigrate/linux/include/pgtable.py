"""Page-table entries of x86-64 as plain integers  (arch/x86/include/asm/pgtable.h).

Everything here is arithmetic on a value; loads and stores of a live table are
primitives and live in `linux/kernel/pgtable.py`.
"""

from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = ~(PAGE_SIZE - 1)
PMD_SHIFT: Final = 21
PMD_SIZE: Final = 1 << PMD_SHIFT
PMD_MASK: Final = ~(PMD_SIZE - 1)
PUD_SHIFT: Final = 30
PUD_SIZE: Final = 1 << PUD_SHIFT
PGDIR_SHIFT: Final = 39
PTRS_PER_PTE: Final = 512
HPAGE_PMD_ORDER: Final = 9
HPAGE_PMD_NR: Final = 512
TASK_SIZE: Final = (1 << 47) - PAGE_SIZE

_PAGE_PRESENT: Final = 1 << 0
_PAGE_RW: Final = 1 << 1
_PAGE_USER: Final = 1 << 2
_PAGE_PWT: Final = 1 << 3
_PAGE_PCD: Final = 1 << 4
_PAGE_ACCESSED: Final = 1 << 5
_PAGE_DIRTY: Final = 1 << 6
_PAGE_FILE: Final = _PAGE_DIRTY
_PAGE_PSE: Final = 1 << 7
_PAGE_SWP_SOFT_DIRTY: Final = _PAGE_PSE
_PAGE_GLOBAL: Final = 1 << 8
_PAGE_PROTNONE: Final = _PAGE_GLOBAL
_PAGE_SPECIAL: Final = 1 << 9
_PAGE_NUMA: Final = _PAGE_SPECIAL
_PAGE_SPLITTING: Final = 1 << 10
_PAGE_SOFT_DIRTY: Final = 1 << 11
_PAGE_NX: Final = 1 << 63

PTE_PFN_MASK: Final = ((1 << 52) - 1) & ~(PAGE_SIZE - 1)
_PAGE_CHG_MASK: Final = (
    PTE_PFN_MASK
    | _PAGE_PCD
    | _PAGE_PWT
    | _PAGE_SPECIAL
    | _PAGE_ACCESSED
    | _PAGE_DIRTY
    | _PAGE_SOFT_DIRTY
)

PAGE_NONE: Final = _PAGE_PROTNONE | _PAGE_ACCESSED
PAGE_SHARED: Final = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_NX
PAGE_SHARED_EXEC: Final = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED
PAGE_READONLY: Final = _PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED | _PAGE_NX
PAGE_READONLY_EXEC: Final = _PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED
PAGE_COPY: Final = PAGE_READONLY
PAGE_COPY_EXEC: Final = PAGE_READONLY_EXEC

_PRESENT_ANY: Final = _PAGE_PRESENT | _PAGE_PROTNONE | _PAGE_NUMA
_PRESENT_NONUMA: Final = _PAGE_PRESENT | _PAGE_PROTNONE


def pte_present(pte: int) -> bool:
    return pte & _PRESENT_ANY != 0


def pte_numa(pte: int) -> bool:
    return pte & _PRESENT_ANY == _PAGE_NUMA


def pte_file(pte: int) -> bool:
    return pte & _PAGE_FILE != 0


def is_swap_pte(pte: int) -> bool:
    return pte != 0 and not pte & (_PRESENT_NONUMA | _PAGE_FILE)


def pte_pfn(pte: int) -> int:
    return (pte & PTE_PFN_MASK) >> PAGE_SHIFT


def pte_write(pte: int) -> bool:
    return pte & _PAGE_RW != 0


def pte_dirty(pte: int) -> bool:
    return pte & _PAGE_DIRTY != 0


def pte_young(pte: int) -> bool:
    return pte & _PAGE_ACCESSED != 0


def pte_soft_dirty(pte: int) -> bool:
    return pte & _PAGE_SOFT_DIRTY != 0


def pte_mkdirty(pte: int) -> int:
    return pte | _PAGE_DIRTY | _PAGE_SOFT_DIRTY


def pte_mkclean(pte: int) -> int:
    return pte & ~_PAGE_DIRTY


def pte_mkyoung(pte: int) -> int:
    return pte | _PAGE_ACCESSED


def pte_mkold(pte: int) -> int:
    return pte & ~_PAGE_ACCESSED


def pte_mkwrite(pte: int) -> int:
    return pte | _PAGE_RW


def pte_wrprotect(pte: int) -> int:
    return pte & ~_PAGE_RW


def pte_mkspecial(pte: int) -> int:
    return pte | _PAGE_SPECIAL


def pte_mksoft_dirty(pte: int) -> int:
    return pte | _PAGE_SOFT_DIRTY


def pte_clear_soft_dirty(pte: int) -> int:
    return pte & ~_PAGE_SOFT_DIRTY


def pte_file_mksoft_dirty(pte: int) -> int:
    return pte | _PAGE_SOFT_DIRTY


def pte_file_soft_dirty(pte: int) -> bool:
    return pte & _PAGE_SOFT_DIRTY != 0


def pte_mknuma(pte: int) -> int:
    return (pte | _PAGE_NUMA) & ~_PAGE_PRESENT


def pte_mknonnuma(pte: int) -> int:
    return (pte & ~_PAGE_NUMA) | _PAGE_PRESENT | _PAGE_ACCESSED


def pte_modify(pte: int, newprot: int) -> int:
    return (pte & _PAGE_CHG_MASK) | (newprot & ~_PAGE_CHG_MASK)


def pfn_pte(pfn: int, prot: int) -> int:
    return (pfn << PAGE_SHIFT) | prot


def pgoff_to_pte(pgoff: int) -> int:
    """A file pte of a nonlinear mapping."""
    return (pgoff << PAGE_SHIFT) | _PAGE_FILE


def pte_to_pgoff(pte: int) -> int:
    return (pte & PTE_PFN_MASK) >> PAGE_SHIFT


# --- huge pmds: integers with the same bits as ptes, and PSE; an empty slot is None, one with a
# table of ptes a PageTable  (arch/x86/include/asm/pgtable.h, include/asm-generic/pgtable.h) ---

_PRESENT_PMD: Final = _PRESENT_ANY | _PAGE_PSE
HPAGE_PMD_SIZE: Final = PMD_SIZE
HPAGE_PMD_MASK: Final = PMD_MASK


def pmd_present(pmd: object) -> bool:
    """Neither none nor a migration entry; PSE alone counts, so a pmd that is being split stays
    present."""
    return pmd is not None and (type(pmd) is not int or pmd & _PRESENT_PMD != 0)


def pmd_trans_huge(pmd: object) -> bool:
    return type(pmd) is int and pmd & _PAGE_PSE != 0


def pmd_trans_splitting(pmd: object) -> bool:
    return type(pmd) is int and pmd & _PAGE_SPLITTING != 0


def pmd_numa(pmd: object) -> bool:
    return type(pmd) is int and pmd & _PRESENT_ANY == _PAGE_NUMA


def pmd_mksplitting(pmd: int) -> int:
    return pmd | _PAGE_SPLITTING


def pmd_mknotpresent(pmd: int) -> int:
    return pmd & ~(_PAGE_PRESENT | _PAGE_PROTNONE)


def pmd_mkhuge(pmd: int) -> int:
    return pmd | _PAGE_PSE


def pmd_modify(pmd: int, newprot: int) -> int:
    kept = _PAGE_CHG_MASK | _PAGE_PSE
    return (pmd & kept) | (newprot & ~kept)


def huge_part(pmd: int, addr: int) -> int:
    """What a pte for @addr would be if the huge page were mapped by ptes."""
    return (pmd & ~(_PAGE_PSE | _PAGE_SPLITTING)) + (addr & (PMD_SIZE - PAGE_SIZE))


# --- swap-like entries  (include/linux/swapops.h) ---
# Differs: a swp_entry_t has the layout of the pte that holds it, offset << 10 | type << 1; the
# kernel has a second one that is the same on all machines.

SWP_TYPE_SHIFT: Final = 1
SWP_TYPE_MASK: Final = 31
SWP_OFFSET_SHIFT: Final = 10
MAX_SWAPFILES: Final = 29
SWP_HWPOISON: Final = 29
SWP_MIGRATION_READ: Final = 30
SWP_MIGRATION_WRITE: Final = 31


def swp_entry(type: int, offset: int) -> int:
    return (offset << SWP_OFFSET_SHIFT) | (type << SWP_TYPE_SHIFT)


def swp_type(entry: int) -> int:
    return (entry >> SWP_TYPE_SHIFT) & SWP_TYPE_MASK


def swp_offset(entry: int) -> int:
    return entry >> SWP_OFFSET_SHIFT


def non_swap_entry(entry: int) -> bool:
    return swp_type(entry) >= MAX_SWAPFILES


def is_migration_entry(entry: int) -> bool:
    return swp_type(entry) >= SWP_MIGRATION_READ


def is_write_migration_entry(entry: int) -> bool:
    return swp_type(entry) == SWP_MIGRATION_WRITE


def is_hwpoison_entry(entry: int) -> bool:
    return swp_type(entry) == SWP_HWPOISON


def make_migration_entry_read(entry: int) -> int:
    """The read kind of a migration entry, naming the same frame."""
    return swp_entry(SWP_MIGRATION_READ, swp_offset(entry))


def swp_entry_to_pte(entry: int) -> int:
    return entry


def pte_to_swp_entry(pte: int) -> int:
    return pte & ~_PAGE_SWP_SOFT_DIRTY


def pte_swp_mksoft_dirty(pte: int) -> int:
    return pte | _PAGE_SWP_SOFT_DIRTY


def pte_swp_soft_dirty(pte: int) -> bool:
    return pte & _PAGE_SWP_SOFT_DIRTY != 0


def pte_swp_clear_soft_dirty(pte: int) -> int:
    return pte & ~_PAGE_SWP_SOFT_DIRTY
