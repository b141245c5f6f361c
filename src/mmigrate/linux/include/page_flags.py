"""The bits of `page->flags`  (include/linux/page-flags.h).

Each constant is the mask of its bit, not its number. Node and zone are not in this
word here: a page has its zone as an attribute. Tests and changes are primitives and
live in `linux/kernel/page_flags.py`.
"""

from typing import Final

PG_locked: Final = 1 << 0
PG_error: Final = 1 << 1
PG_referenced: Final = 1 << 2
PG_uptodate: Final = 1 << 3
PG_dirty: Final = 1 << 4
PG_lru: Final = 1 << 5
PG_active: Final = 1 << 6
PG_slab: Final = 1 << 7
PG_owner_priv_1: Final = 1 << 8
PG_checked: Final = PG_owner_priv_1
PG_arch_1: Final = 1 << 9
PG_reserved: Final = 1 << 10
PG_private: Final = 1 << 11
PG_private_2: Final = 1 << 12
PG_writeback: Final = 1 << 13
PG_head: Final = 1 << 14
PG_tail: Final = 1 << 15
PG_swapcache: Final = 1 << 16
PG_mappedtodisk: Final = 1 << 17
PG_reclaim: Final = 1 << 18
PG_readahead: Final = PG_reclaim
PG_swapbacked: Final = 1 << 19
PG_unevictable: Final = 1 << 20
PG_mlocked: Final = 1 << 21
PG_hwpoison: Final = 1 << 22
PG_compound_lock: Final = 1 << 23
# Of the head of a page of hugetlb: in C it is the destructor of the compound page that tells.
PG_hugetlb: Final = 1 << 24

# Of later kernels, the other way round: set on an anonymous page where PG_anon_exclusive is not.
PG_anon_shared: Final = 1 << 25

PAGE_FLAGS_PRIVATE: Final = PG_private | PG_private_2

PAGE_FLAGS_CHECK_AT_FREE: Final = (
    PG_lru
    | PG_locked
    | PG_private
    | PG_private_2
    | PG_writeback
    | PG_reserved
    | PG_slab
    | PG_swapcache
    | PG_active
    | PG_unevictable
    | PG_mlocked
    | PG_hwpoison
    | PG_compound_lock
)

PAGE_FLAG_NAMES: Final[dict[int, str]] = {
    PG_locked: "locked",
    PG_error: "error",
    PG_referenced: "referenced",
    PG_uptodate: "uptodate",
    PG_dirty: "dirty",
    PG_lru: "lru",
    PG_active: "active",
    PG_slab: "slab",
    PG_owner_priv_1: "owner_priv_1",
    PG_arch_1: "arch_1",
    PG_reserved: "reserved",
    PG_private: "private",
    PG_private_2: "private_2",
    PG_writeback: "writeback",
    PG_head: "head",
    PG_tail: "tail",
    PG_swapcache: "swapcache",
    PG_mappedtodisk: "mappedtodisk",
    PG_reclaim: "reclaim",
    PG_swapbacked: "swapbacked",
    PG_unevictable: "unevictable",
    PG_mlocked: "mlocked",
    PG_hwpoison: "hwpoison",
    PG_compound_lock: "compound_lock",
    PG_hugetlb: "hugetlb",
}

PAGE_BUDDY_MAPCOUNT_VALUE: Final = -128
PAGE_BALLOON_MAPCOUNT_VALUE: Final = -256


def page_flag_names(flags: int) -> str:
    """The set flags in words, joined by bars, for messages."""
    return "|".join(name for bit, name in PAGE_FLAG_NAMES.items() if flags & bit) or "-"
