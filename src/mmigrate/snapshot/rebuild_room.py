"""Whether a machine has the nodes, and room on them, for a recorded process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmigrate.errors import UsageError
from mmigrate.linux.include.pgtable import PAGE_SIZE, TASK_SIZE
from mmigrate.snapshot.nodeset import describe
from mmigrate.snapshot.snapshot import Snapshot


def check_nodes(snapshot: Snapshot, sizes: Sequence[int]) -> None:
    """Raises UsageError: it has pages on a node that is not there; @sizes: bytes of each."""
    used = {node for node in snapshot.summary().by_node if node >= 0}
    for node in sorted(used):
        if node >= len(sizes) or not sizes[node]:
            there = [number for number, size in enumerate(sizes) if size]
            raise UsageError(
                f"the process has pages on node {node}, and the machine has {describe(there)}"
            )


def check_room(snapshot: Snapshot, sizes: Sequence[int]) -> None:
    """The same for what certainly has frames of its own: anonymous pages that are not merged.
    Whether the rest has room shows when it is there."""
    for node, pages in sorted(_anonymous(snapshot).items()):
        if pages * PAGE_SIZE > sizes[node]:
            raise too_small(node, sizes)


def too_small(node: int, sizes: Sequence[int]) -> UsageError:
    return UsageError(
        f"node {node} has {sizes[node] >> 20} MiB, which is too small for the recorded pages; "
        "give larger --nodes"
    )


def _anonymous(snapshot: Snapshot) -> Counter[int]:
    pages: Counter[int] = Counter()
    for vma in snapshot.vmas:
        device = vma.has_flag("pf") or vma.has_flag("io") or vma.end > TASK_SIZE
        if snapshot.kind(vma) in ("anonymous", "heap", "stack") and not device:
            for _, count, state in snapshot.runs(vma):
                if state.present and not (state.zero or state.file or state.ksm):
                    pages[max(state.node, 0)] += count
    return pages
