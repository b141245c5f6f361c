"""Commits of the catalogue whose parts are not modelled yet."""

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import (
    MEMCG_UNCHARGE_REWRITE,
    RENAME_HUGEPAGE_MIGRATION_SUPPORT,
)

ROWS = (
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
