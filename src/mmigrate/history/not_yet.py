"""Commits of the catalogue whose parts are not modelled yet."""

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import (
    BALLOON_REDESIGN,
    MEMCG_UNCHARGE_REWRITE,
    RENAME_HUGEPAGE_MIGRATION_SUPPORT,
)

ROWS = (
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
        RENAME_HUGEPAGE_MIGRATION_SUPPORT,
        "Two functions had names too similar.",
        Kind.NONE,
        None,
        ("the same", "the same"),
    ),
)
