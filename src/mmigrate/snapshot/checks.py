"""Whether a snapshot makes sense: what no single number can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmigrate.errors import SnapshotError
from mmigrate.snapshot.nodeset import MAX_NODES, parse_list, parse_policy
from mmigrate.snapshot.records import (
    EMPTY,
    KNOWN,
    MAX_AREAS,
    MAX_PAGES,
    MAX_POLICIES,
    VmaRecord,
    column,
)

if TYPE_CHECKING:
    from mmigrate.snapshot.snapshot import Snapshot


def validate(snapshot: Snapshot) -> None:
    """Raises SnapshotError with what is wrong."""
    page_size = snapshot.page_size
    _require(page_size & (page_size - 1) == 0, f"a page of {page_size} bytes is impossible")
    numbers = snapshot.node_numbers()
    _require(list(numbers) == sorted(set(numbers)), "its nodes are not in order")
    _require(len(numbers) > 0, "it has no nodes")
    _require(
        len(snapshot.vmas) <= MAX_AREAS, f"it has {len(snapshot.vmas)} areas, and {MAX_AREAS} fit"
    )
    for node in snapshot.nodes:
        _require(
            len(node.distances) == len(numbers),
            f"node {node.number} has {len(node.distances)} distances for {len(numbers)} nodes",
        )
    _require(snapshot.states[0] == EMPTY, "its first page state is not the empty one")
    anywhere = {-1, *numbers}
    for state in snapshot.states:
        _require(state.node in anywhere, f"it has pages on node {state.node}, not listed")
    _require(len(set(snapshot.known)) == len(snapshot.known), "it says twice what it knows")
    for word in snapshot.known:
        _require(word in KNOWN, "it knows something this version has no name for")
    _check_texts(snapshot)
    _check_pools(snapshot)
    pages = 0
    previous_end = 0
    for vma in snapshot.vmas:
        _require(previous_end <= vma.start < vma.end, f"the area at {vma.start:#x} is out of place")
        previous_end = vma.end
        _check_area(snapshot, vma)
        pages += snapshot.page_count(vma)
    _require(pages <= MAX_PAGES, "it has more pages than an address space can")


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise SnapshotError(complaint)


def _check_texts(snapshot: Snapshot) -> None:
    # What is printed later must not be able to steer a terminal.
    texts = [snapshot.kernel, snapshot.machine, snapshot.command, snapshot.policy]
    texts += snapshot.missing
    texts += [file.name for file in snapshot.files]
    texts += [file.filesystem for file in snapshot.files]
    texts += [group.path for group in snapshot.memory_groups]
    texts += (snapshot.thp, snapshot.cpuset)
    for vma in snapshot.vmas:
        texts += (vma.name, vma.flags, vma.policy)
    _require(all(text.isprintable() for text in texts), "one of its texts is not printable")
    cpu_lists = [snapshot.cpus_allowed, *(node.cpus for node in snapshot.nodes)]
    policies = sorted({snapshot.policy, *(vma.policy for vma in snapshot.vmas)})
    _require(len(policies) <= MAX_POLICIES, f"it has {len(policies)} different policies")
    try:
        parse_list(snapshot.nodes_allowed, MAX_NODES)
        for text in cpu_lists:
            parse_list(text)
        for policy in policies:
            if policy:
                parse_policy(policy)
    except ValueError as error:
        raise SnapshotError(f"one of its lists makes no sense: {error}") from None


def _check_pools(snapshot: Snapshot) -> None:
    sizes = [pool.size for pool in snapshot.pools]
    _require(sizes == sorted(set(sizes)), "its pools of huge pages are not in order")
    for pool in snapshot.pools:
        where = f"the pool of {pool.size} bytes"
        _require(
            pool.size > snapshot.page_size and pool.size & (pool.size - 1) == 0,
            f"{where} has an impossible size of page",
        )
        columns = (pool.total, pool.free, pool.surplus)
        _require(
            all(len(column) == len(snapshot.nodes) for column in columns),
            f"{where} has not one number for each node",
        )


def _check_area(snapshot: Snapshot, vma: VmaRecord) -> None:
    where = f"the area at {vma.start:#x}"
    page_size = snapshot.page_size
    _require(
        vma.start % page_size == vma.end % page_size == vma.offset % page_size == 0,
        f"{where} is not made of whole pages",
    )
    _require(
        vma.page_size >= page_size and vma.page_size & (vma.page_size - 1) == 0,
        f"{where} has pages of {vma.page_size} bytes",
    )
    _require(vma.file <= len(snapshot.files), f"{where} maps a file that is not listed")
    _require(vma.locked <= vma.length, f"{where} has more locked memory than memory")
    _require(
        len(vma.counts) % 4 == len(vma.states) % 2 == len(vma.swap) % 32 == 0,
        f"{where} has a broken column",
    )
    _require(
        len(vma.merged_counts) == len(vma.merged_groups) and len(vma.merged_counts) % 4 == 0,
        f"{where} has a broken column of merged pages",
    )
    counts = column("I", vma.counts)
    states = column("H", vma.states)
    _require(len(counts) == len(states), f"{where} has columns of different length")
    pages = snapshot.page_count(vma)
    if counts:
        _require(min(counts) > 0, f"{where} has an empty run")
        _require(sum(counts) == pages, f"the runs of {where} do not cover it exactly")
        _require(max(states) < len(snapshot.states), f"{where} uses a state that is not listed")
    reached = 0
    for first, count, _area, offset in snapshot.swap_runs(vma):
        _require(
            reached <= first and count > 0 and first + count <= pages and offset < 1 << 58,
            f"{where} has swap offsets out of place",
        )
        reached = first + count
    merged_counts, merged_groups = column("I", vma.merged_counts), column("I", vma.merged_groups)
    if merged_counts:
        merged = sum(
            count
            for count, number in zip(counts, states, strict=True)
            if snapshot.states[number].ksm
        )
        _require(
            min(merged_counts) > 0 and min(merged_groups) > 0 and sum(merged_counts) == merged,
            f"the runs of merged pages of {where} do not fit its merged pages",
        )
