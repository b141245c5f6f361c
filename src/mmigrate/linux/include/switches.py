"""Commits that can be taken away from the modelled kernel, or added to it.

A switch is one constant, the commit's id, and a line in `SWITCHES`. The model asks for it in as
few places as the commit itself touched: `kernel.has(CLOSE_MPROTECT_RACE)`. v3.19 has all
commits up to its release and none after it; `Machine(without=…)` takes away, `Machine(backports=…)`
adds, and `Machine(kernel="v6.1")` adds all that are listed up to that release.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from mmigrate.errors import ScenarioError

BASE: Final = "v3.19"


@dataclass(frozen=True)
class Switch:
    """@release: the first that has the commit, such as "v3.17"."""

    subject: str
    release: str


# The seed
KILL_VMA_MIGRATE: Final = "50062175ffc8"
DRM_NEXT_NOTIFIERS: Final = "988adfdffdd4"
UNMAPPED_NO_RMAP_WALK: Final = "2ebba6b7e1d9"
BALLOON_REDESIGN: Final = "d6d86c0a7f8d"
CLOSE_MPROTECT_RACE: Final = "d3cb8bf6081b"
MEMCG_UNCHARGE_REWRITE: Final = "0a31bc97c80c"
CLEAR_SWAPBACKED_OF_DESTINATION: Final = "8bdd63809160"
FIND_PMD_READS_ONCE: Final = "f72e7dcdd252"
RENAME_HUGEPAGE_MIGRATION_SUPPORT: Final = "100873d7a777"
DESTINATION_FREEING_CALLBACK: Final = "68711a746345"

# Later than v3.19: what users of the system calls notice.  Where the id is not known for sure
# there is a name with hyphens.
MIGRATE_TO_THAT_NODE_ONLY: Final = "b360edb43f8e"
NO_RESERVE: Final = "974a786e63c9"
MPROTECT_POPULATES_LOCKED: Final = "36f881883c57"
ZERO_PAGE_IS_FAULT: Final = "d899844e9c98"
RETRIES_COUNT_AS_FAILED: Final = "f2f81fb2b72b"
NO_MEMORY_COUNTS_AS_FAILED: Final = "dfef2ef4027b"
LOCAL_WITHOUT_FLAGS: Final = "local-without-flags"
MIGRATE_PAGES_CUTS_NODES: Final = "migrate-pages-cuts-nodes"
REWORK_DO_PAGES_MOVE: Final = "a49bd4d71637"
SMALL_NODEMASK_ALLOWED: Final = "050c17f239fd"
MBIND_FINDS_HOLES: Final = "mbind-finds-holes"
COPY_IF_REFERENCED: Final = "09854ba94c6a"
BAD_PAGE_LEAVES_ALONE: Final = "06be6ff3d2ec"
BAD_PAGE_IS_BUSY: Final = "3f4b815a439a"
HUGE_PAGES_COUNT_IN_FULL: Final = "b5bade978e9b"
MLOCK_BATCHED: Final = "2fbb0c10d1e8"
REMEMBER_EXCLUSIVE: Final = "6c287605fd56"
UNSHARE_MERGED: Final = "6cce3314b928"
MBIND_KEEPS_POLICY_AT_HAND: Final = "72e315f7a750"
UNTOUCHED_UNACCOUNTED: Final = "9b9143298585"
COUNT_NOT_ATTEMPTED: Final = "5984fabb6e82"
LRU_CACHE_DISABLED: Final = "d479960e44f2"
LOCAL_IS_A_POLICY: Final = "7858d7bca7fb"
UNIFIED_POLICY_NODES: Final = "269fbe72cded"
PROTNONE_NOT_FOLLOWED: Final = "474098edac26"
PROTNONE_FOLLOWED_AGAIN: Final = "d74943a2f3cd"
FAILED_SYSCALL_COUNT: Final = "1cb5d11a370f"
FOLIO_WALK: Final = "7dff875c9436"

# Earlier and later fixes in the same code
KEEP_ANON_VMA: Final = "dc386d4d1e98"
SKIP_TEMPORARY_STACKS: Final = "a8bef8ff6ea1"
NO_LOOK_BEFORE_LOCK: Final = "486cf46f3f9b"
FLUSH_WHILE_PENDING: Final = "20841405940e"
REMAP_NONLINEAR: Final = "7e09e738afd2"
RSS_OF_REMAPPED: Final = "887843961c4b"
UNTOUCHED_DESTINATION: Final = "cf4b769abb8a"
MLOCK_MIGRATED: Final = "51afb12ba809"
MUNLOCK_COUNTS: Final = "70feee0e1ef3"
FOLL_MIGRATION_WAITS: Final = "foll-migration-waits"
KEEP_SOFT_DIRTY: Final = "c3d16e16522f"
FLUSH_BEFORE_UNLOCK: Final = "eb66ae030829"
ONE_LOOK_AT_PMD: Final = "8b272b3cbbb5"
FOLLOW_HUGE_PMD_LOCKED: Final = "e66f17ff7177"
HUGE_FAULT_TRIES_LOCK: Final = "0f792cf949a0"
HUGE_PROTECT_KNOWS_ENTRIES: Final = "a8bda28d87c3"
HUGE_UNMAP_KNOWS_ENTRIES: Final = "9fbc1f635fd0"
HUGE_SLOT_MAY_BE_ENTRY: Final = "4e666314d286"
ACTIVE_HUGE_PAGES: Final = "bcc54222309c"
ISOLATE_ONCE: Final = "2c7452a075d4"
UNSPLIT_LETS_GO: Final = "unsplit-lets-go"
PUT_BACK_ONCE: Final = "30809f559a0d"
SUBPOOL_COMES_ALONG: Final = "cb6acd01e2e4"
SECOND_LOOK_LETS_GO: Final = "second-look-lets-go"

SWITCHES: Final[dict[str, Switch]] = {
    KILL_VMA_MIGRATE: Switch("vm_area_operations: kill ->migrate()", "v3.19"),
    DRM_NEXT_NOTIFIERS: Switch("Merge branch 'drm-next'", "v3.19"),
    UNMAPPED_NO_RMAP_WALK: Switch(
        "mm: unmapped page migration avoid unmap+remap overhead", "v3.19"
    ),
    BALLOON_REDESIGN: Switch("mm/balloon_compaction: redesign ballooned pages management", "v3.18"),
    CLOSE_MPROTECT_RACE: Switch(
        "mm: migrate: Close race between migration completion and mprotect", "v3.17"
    ),
    MEMCG_UNCHARGE_REWRITE: Switch("mm: memcontrol: rewrite uncharge API", "v3.17"),
    CLEAR_SWAPBACKED_OF_DESTINATION: Switch("mm: fix direct reclaim writeback regression", "v3.16"),
    FIND_PMD_READS_ONCE: Switch("mm: let mm_find_pmd fix buggy race with THP fault", "v3.16"),
    RENAME_HUGEPAGE_MIGRATION_SUPPORT: Switch(
        "hugetlb: rename hugepage_migration_support() to ..._supported()", "v3.16"
    ),
    DESTINATION_FREEING_CALLBACK: Switch(
        "mm, migration: add destination page freeing callback", "v3.16"
    ),
    MIGRATE_TO_THAT_NODE_ONLY: Switch(
        "mm, mempolicy: migrate_to_node should only migrate to node", "v4.1"
    ),
    MPROTECT_POPULATES_LOCKED: Switch("mm: fix mprotect() behaviour on VM_LOCKED VMAs", "v4.2"),
    ZERO_PAGE_IS_FAULT: Switch(
        "mm: fix status code which move_pages() returns for zero page", "v4.3"
    ),
    RETRIES_COUNT_AS_FAILED: Switch(
        "mm, migrate: count pages failing all retries in vmstat and tracepoint", "v4.4"
    ),
    NO_RESERVE: Switch("mm, page_alloc: remove MIGRATE_RESERVE", "v4.4"),
    NO_MEMORY_COUNTS_AS_FAILED: Switch("mm, migrate: increment fail count on ENOMEM", "v4.7"),
    LOCAL_WITHOUT_FLAGS: Switch(
        "mm/mempolicy.c: forbid static or relative flags for local NUMA mode", "v4.10"
    ),
    MIGRATE_PAGES_CUTS_NODES: Switch(
        "mm/mempolicy: add nodes_empty check in SYSC_migrate_pages", "v4.16"
    ),
    REWORK_DO_PAGES_MOVE: Switch("mm, numa: rework do_pages_move", "v4.17"),
    SMALL_NODEMASK_ALLOWED: Switch(
        "numa: change get_mempolicy() to use nr_node_ids instead of MAX_NUMNODES", "v5.0"
    ),
    MBIND_FINDS_HOLES: Switch("mm/mempolicy.c: fix checking unmapped holes for mbind", "v5.5"),
    COUNT_NOT_ATTEMPTED: Switch("mm: move_pages: report the number of non-attempted pages", "v5.6"),
    COPY_IF_REFERENCED: Switch("mm: do_wp_page() simplification", "v5.9"),
    BAD_PAGE_LEAVES_ALONE: Switch("mm,hwpoison: rework soft offline for free pages", "v5.10"),
    BAD_PAGE_IS_BUSY: Switch("mm,hwpoison: return -EBUSY when migration fails", "v5.11"),
    HUGE_PAGES_COUNT_IN_FULL: Switch(
        "mm: migrate: fix the return value of migrate_pages()", "v5.17"
    ),
    MLOCK_BATCHED: Switch("mm/munlock: mlock_page() munlock_page() batch by pagevec", "v5.18"),
    REMEMBER_EXCLUSIVE: Switch(
        "mm: remember exclusively mapped anonymous pages with PG_anon_exclusive", "v5.19"
    ),
    UNSHARE_MERGED: Switch(
        "mm/ksm: fix KSM COW breaking with userfaultfd-wp via FAULT_FLAG_UNSHARE", "v6.2"
    ),
    MBIND_KEEPS_POLICY_AT_HAND: Switch(
        "mempolicy: mmap_lock is not needed while migrating folios", "v6.7"
    ),
    UNTOUCHED_UNACCOUNTED: Switch(
        "mm/mprotect: allow unfaulted VMAs to be unaccounted on mprotect()", "v6.7"
    ),
    LRU_CACHE_DISABLED: Switch("mm: disable LRU pagevec during the migration temporarily", "v5.13"),
    LOCAL_IS_A_POLICY: Switch(
        "mm/mempolicy: don't handle MPOL_LOCAL like a fake MPOL_PREFERRED policy", "v5.14"
    ),
    UNIFIED_POLICY_NODES: Switch(
        "mm/mempolicy: use unified 'nodes' for bind/interleave/prefer policies", "v5.14"
    ),
    PROTNONE_NOT_FOLLOWED: Switch("mm/gup: replace FOLL_NUMA by gup_can_follow_protnone()", "v6.1"),
    PROTNONE_FOLLOWED_AGAIN: Switch(
        "mm/gup: reintroduce FOLL_NUMA as FOLL_HONOR_NUMA_FAULT", "v6.5"
    ),
    FAILED_SYSCALL_COUNT: Switch(
        "mempolicy: fix migrate_pages(2) syscall return nr_failed", "v6.7"
    ),
    FOLIO_WALK: Switch(
        "mm/migrate: convert add_page_for_migration() from follow_page() to folio_walk", "v6.12"
    ),
    KEEP_ANON_VMA: Switch("memory unplug: migration by kernel", "v2.6.23"),
    SKIP_TEMPORARY_STACKS: Switch(
        "mm: migration: avoid race between shift_arg_pages() and rmap_walk() during migration "
        "by not migrating temporary stacks",
        "v2.6.35",
    ),
    NO_LOOK_BEFORE_LOCK: Switch("mm: fix race between mremap and removing migration entry", "v3.1"),
    FLUSH_WHILE_PENDING: Switch(
        "mm: fix TLB flush race between migration, and change_protection_range", "v3.13"
    ),
    REMAP_NONLINEAR: Switch(
        "mm: fix swapops.h:131 bug if remap_file_pages raced migration", "v3.14"
    ),
    RSS_OF_REMAPPED: Switch("mm: fix bad rss-counter if remap_file_pages raced migration", "v3.14"),
    UNTOUCHED_DESTINATION: Switch(
        "mm: page migration avoid touching newpage until no going back", "v4.4"
    ),
    MLOCK_MIGRATED: Switch("mm: page migration fix PageMlocked on migrated pages", "v4.4"),
    MUNLOCK_COUNTS: Switch("mlock: fix mlock count can not decrease in race condition", "v4.12"),
    FOLL_MIGRATION_WAITS: Switch("mm,ksm: FOLL_MIGRATION do migration_entry_wait", "v3.9"),
    KEEP_SOFT_DIRTY: Switch(
        "mm: migration: do not lose soft dirty bit if page is in migration state", "v3.12"
    ),
    FLUSH_BEFORE_UNLOCK: Switch("mremap: properly flush TLB before releasing the page", "v4.19"),
    FOLLOW_HUGE_PMD_LOCKED: Switch("mm/hugetlb: take page table lock in follow_huge_pmd()", "v4.0"),
    HUGE_FAULT_TRIES_LOCK: Switch(
        "mm/hugetlb: fix getting refcount 0 page in hugetlb_fault()", "v4.0"
    ),
    HUGE_PROTECT_KNOWS_ENTRIES: Switch(
        "mm/hugetlb: add migration/hwpoisoned entry check in hugetlb_change_protection", "v4.0"
    ),
    HUGE_SLOT_MAY_BE_ENTRY: Switch("mm, hugetlb: fix huge_pte_alloc BUG_ON", "v4.8"),
    HUGE_UNMAP_KNOWS_ENTRIES: Switch(
        "mm/hugetlb: add migration entry check in __unmap_hugepage_range", "v4.0"
    ),
    ACTIVE_HUGE_PAGES: Switch("mm: hugetlb: introduce page_huge_active", "v4.1"),
    ISOLATE_ONCE: Switch(
        "mm/page_isolation.c: make start_isolate_page_range() fail if already isolated", "v4.17"
    ),
    SECOND_LOOK_LETS_GO: Switch("mm/hwpoison: fix page refcount of unknown non LRU page", "v4.2"),
    UNSPLIT_LETS_GO: Switch("mm/hwpoison: fix failure to split thp w/ refcount held", "v4.3"),
    PUT_BACK_ONCE: Switch(
        "mm/migrate: fix refcount handling when !hugepage_migration_supported()", "v4.12"
    ),
    SUBPOOL_COMES_ALONG: Switch("hugetlbfs: fix races and page leaks during migration", "v5.0"),
    ONE_LOOK_AT_PMD: Switch(
        "mm, numa: fix bad pmd by atomically check for pmd_trans_huge when marking page tables "
        "prot_numa",
        "v5.6",
    ),
}


def release_number(release: str) -> tuple[int, ...]:
    """ "v3.19" as (3, 19), for comparison."""
    try:
        return tuple(int(part) for part in release.removeprefix("v").split("."))
    except ValueError:
        raise ScenarioError(f"{release!r} is not a kernel release such as v3.19") from None


def find_switch(commit: str) -> str:
    """The id of the switch that @commit begins with or is the beginning of."""
    found = [name for name in SWITCHES if name.startswith(commit) or commit.startswith(name)]
    if len(found) != 1 or len(commit) < 7:
        raise ScenarioError(f"there is no switch for commit {commit!r}; mmigrate history lists all")
    return found[0]


def absent_commits(
    release: str = BASE, *, without: Iterable[str] = (), backports: Iterable[str] = ()
) -> frozenset[str]:
    """The listed commits that a kernel of @release does not have, with some taken away and
    others added.  Raises ScenarioError: no such commit or release."""
    return _absent(release, tuple(without), tuple(backports))


@cache  # an exploration boots one kernel again and again
def _absent(release: str, without: tuple[str, ...], backports: tuple[str, ...]) -> frozenset[str]:
    if release_number(release) < release_number(BASE):
        raise ScenarioError(f"the model begins at {BASE}; take commits away to go back before it")
    later = {
        commit
        for commit, switch in SWITCHES.items()
        if release_number(switch.release) > release_number(release)
    }
    taken, added = set(map(find_switch, without)), set(map(find_switch, backports))
    return frozenset((later | taken) - added)
