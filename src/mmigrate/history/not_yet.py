"""Commits of the catalogue whose parts are not modelled yet."""

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import (
    BALLOON_REDESIGN,
    DRM_NEXT_NOTIFIERS,
    FIND_PMD_READS_ONCE,
    MEMCG_UNCHARGE_REWRITE,
    RENAME_HUGEPAGE_MIGRATION_SUPPORT,
)

ROWS = (
    Row(
        DRM_NEXT_NOTIFIERS,
        "A merge of graphics work brought devices that share a process' page tables, and with them "
        "a notification in the rollback of a huge page's NUMA migration.",
        Kind.RACE,
        None,
        ("a device goes on using the page of a migration that was rolled back", "it is flushed"),
    ),
    Row(
        BALLOON_REDESIGN,
        "Balloon pages were told by looking into a mapping that may be none, could migrate only "
        "once, were not isolated by compaction, and taking one out raced with isolating it.",
        Kind.RACE,
        None,
        ("a wild read, a page that is stuck, a list that is corrupted", "none of it"),
    ),
    Row(
        MEMCG_UNCHARGE_REWRITE,
        "Pages were uncharged where the context still told what they are, long before they are "
        "freed, which migration and replacement had to be excepted from.",
        Kind.STATE,
        None,
        ("a pinned page is not charged to anybody", "it is charged until it is freed"),
    ),
    Row(
        FIND_PMD_READS_ONCE,
        "A walk looked twice at a pmd that a huge-page fault clears for a moment, and took its "
        "emptiness for a page table.",
        Kind.RACE,
        None,
        ("a lock is taken in a page table that does not exist", "the place is passed over"),
    ),
    Row(
        RENAME_HUGEPAGE_MIGRATION_SUPPORT,
        "Two functions had names too similar.",
        Kind.NONE,
        None,
        ("the same", "the same"),
    ),
)
