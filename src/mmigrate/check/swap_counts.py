"""Places in swap are used as often as somebody names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.pgtable import is_migration_entry, swp_entry
from mmigrate.linux.mm import swapfile
from mmigrate.linux.mm.shmem import radix_to_swp_entry


def swap_counts(view: View) -> Iterator[Violation]:
    areas = swapfile.areas(view.kernel)
    if not areas:
        return
    named = Counter([entry for _, _, entry in view.entries if not is_migration_entry(entry)])
    for inode in view.kernel.inodes:
        for item in inode.i_mapping.page_tree.slots.values():
            if isinstance(item, int):
                named[radix_to_swp_entry(item)] += 1
    for area in areas:
        for offset in range(1, len(area.counts)):
            entry = swp_entry(area.type, offset)
            where = f"{area!r} place {offset}"
            if area.counts[offset] != named[entry]:
                yield Violation(
                    "swap counts", where, f"count {area.counts[offset]}, found {named[entry]}"
                )
            cached = entry in area.space.page_tree.slots
            if bool(area.cached[offset]) != cached:
                yield Violation(
                    "swap counts",
                    where,
                    f"marked as {'' if area.cached[offset] else 'not '}cached, "
                    f"and is {'' if cached else 'not '}in the swap cache",
                )
