"""Commits of the catalogue whose parts are not modelled yet."""

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import (
    RENAME_HUGEPAGE_MIGRATION_SUPPORT,
)

ROWS = (
    Row(
        RENAME_HUGEPAGE_MIGRATION_SUPPORT,
        "Two functions had names too similar.",
        Kind.NONE,
        None,
        ("the same", "the same"),
    ),
)
