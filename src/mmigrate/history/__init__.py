"""The catalogue: commits to the code around mm/migrate.c, each shown without and with it.

Interface: `CATALOGUE` has all rows, `SEED` the commits that the project began with,
`row(commit)` finds one. A row is data and a scenario; `mmigrate.explore.verify` runs it.
"""

from __future__ import annotations

from typing import Final

from mmigrate.history import (
    balloon_redesign,
    clear_swapbacked_of_destination,
    close_mprotect_race,
    destination_freeing_callback,
    drm_next_notifiers,
    find_pmd_reads_once,
    flush_before_unlock,
    flush_while_pending,
    foll_migration_waits,
    hugetlb_entries,
    isolate_once,
    keep_anon_vma,
    keep_soft_dirty,
    kill_vma_migrate,
    memcg_uncharge_rewrite,
    mlock_migrated,
    munlock_counts,
    no_look_before_lock,
    one_look_at_pmd,
    put_back_once,
    remap_nonlinear,
    rename_hugepage_migration,
    rss_of_remapped,
    second_look_lets_go,
    skip_temporary_stacks,
    subpool_comes_along,
    unmapped_no_rmap_walk,
    untouched_destination,
)
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import find_switch

_ROWS: Final = (
    kill_vma_migrate.ROW,
    drm_next_notifiers.ROW,
    find_pmd_reads_once.ROW,
    unmapped_no_rmap_walk.ROW,
    close_mprotect_race.ROW,
    clear_swapbacked_of_destination.ROW,
    destination_freeing_callback.ROW,
    balloon_redesign.ROW,
    memcg_uncharge_rewrite.ROW,
    rename_hugepage_migration.ROW,
    keep_anon_vma.ROW,
    skip_temporary_stacks.ROW,
    no_look_before_lock.ROW,
    foll_migration_waits.ROW,
    keep_soft_dirty.ROW,
    flush_while_pending.ROW,
    remap_nonlinear.ROW,
    rss_of_remapped.ROW,
    untouched_destination.ROW,
    mlock_migrated.ROW,
    *hugetlb_entries.ROWS,
    munlock_counts.ROW,
    flush_before_unlock.ROW,
    one_look_at_pmd.ROW,
    isolate_once.ROW,
    second_look_lets_go.ROW,
    put_back_once.ROW,
    subpool_comes_along.ROW,
)

# The ten commits the project began with, newest first, and then all others.
SEED: Final = (
    "50062175ffc8",
    "988adfdffdd4",
    "2ebba6b7e1d9",
    "d6d86c0a7f8d",
    "d3cb8bf6081b",
    "0a31bc97c80c",
    "8bdd63809160",
    "f72e7dcdd252",
    "100873d7a777",
    "68711a746345",
)
_BY_COMMIT: Final = {row.commit: row for row in _ROWS}
CATALOGUE: Final = tuple(_BY_COMMIT[commit] for commit in SEED) + tuple(
    row for row in _ROWS if row.commit not in SEED
)

__all__ = ["CATALOGUE", "SEED", "Kind", "Row", "row"]


def row(commit: str) -> Row:
    """The row of a commit, named by its id or the first seven digits or more of it.

    Raises ScenarioError: there is none.
    """
    return _BY_COMMIT[find_switch(commit)]
