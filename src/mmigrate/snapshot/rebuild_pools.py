"""The pools of huge pages of a rebuilt machine.

The pages that the process has come from the pool of their node, and migration finds as many free
ones as were recorded.  What other processes have or were promised is not there: only as many free
pages are made as all pages of the process could use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mmigrate.errors import UsageError
from mmigrate.linux.include.hugetlb import Hstate, hstate_of
from mmigrate.machine.machine import Machine
from mmigrate.snapshot.forms import HUGE_SIZE, Form, pieces
from mmigrate.snapshot.records import PoolRecord
from mmigrate.snapshot.snapshot import Snapshot

UNKNOWN: Final = (
    "the pools of huge pages of the recorded machine are not known; none is free here "
    "(--hugepages says how many are)"
)


@dataclass(frozen=True)
class Pool:
    """Pages of one size.  @used: of the process, by node; @free: for migration, by node;
    @available: those of @free that nobody was promised; @overcommit: how many may be made."""

    size: int
    used: Counter[int]
    free: list[int]
    available: int
    overcommit: int


def plan_pools(
    snapshot: Snapshot, machine: Machine, free: Sequence[int] | None, note: Callable[[str], None]
) -> list[Pool]:
    """What must be there, by size; sizes that the machine does not have are passed over.  @free:
    pages of 2 MiB by node instead of the recorded ones."""
    nodes = len(machine.kernel.nodes)
    used: dict[int, Counter[int]] = {}
    for vma in snapshot.vmas:
        if hstate_of(machine.kernel, vma.page_size) is None:
            continue
        for piece in pieces(snapshot, vma):
            if piece.form is Form.HUGETLB:
                used.setdefault(vma.page_size, Counter())[max(piece.state.node, 0)] += 1
    recorded = {pool.size: pool for pool in snapshot.pools}
    found = []
    for size, by_node in sorted(used.items()):
        if free is not None and size == HUGE_SIZE:
            there = [*free, *[0] * nodes][:nodes]
            found.append(Pool(size, by_node, there, sum(there), 0))
        elif size in recorded:
            found.append(_as_recorded(snapshot, recorded[size], by_node, nodes))
        else:
            note(UNKNOWN)
            found.append(Pool(size, by_node, [0] * nodes, 0, 0))
    return found


def _as_recorded(snapshot: Snapshot, pool: PoolRecord, used: Counter[int], nodes: int) -> Pool:
    wanted = used.total()
    there = [0] * nodes
    for record, free in zip(snapshot.nodes, pool.free, strict=True):
        if record.number < nodes:
            there[record.number] = min(free, wanted)
    available = max(0, sum(pool.free) - pool.reserved)
    overcommit = max(0, pool.overcommit - sum(pool.surplus))
    if available >= wanted:
        available = sum(there)  # what others were promised is not in the way
    return Pool(pool.size, used, there, available, min(overcommit, wanted))


def make_pools(machine: Machine, pools: Sequence[Pool]) -> None:
    """Before anything uses memory.  Raises UsageError: there is no room for them."""
    for pool in pools:
        for node, free in enumerate(pool.free):
            _resize(machine, pool, node, pool.used[node] + free)


def settle_pools(machine: Machine, pools: Sequence[Pool]) -> None:
    """Once the process has its pages: an area that is mapped twice needed fewer."""
    for pool in pools:
        h = _hstate(machine, pool)
        for node, free in enumerate(pool.free):
            _resize(
                machine,
                pool,
                node,
                h.nr_huge_pages_node[node] - h.free_huge_pages_node[node] + free,
            )
        promised = sum(pool.free) - pool.available
        if promised:
            machine.process("promised").mmap(promised * pool.size, hugetlb=pool.size, shared=True)
        machine.hugepages(None, size=pool.size, overcommit=pool.overcommit)


def _resize(machine: Machine, pool: Pool, node: int, count: int) -> None:
    h = _hstate(machine, pool)
    if count == h.nr_huge_pages_node[node]:
        return
    if not machine.kernel.node_states_memory >> node & 1:
        raise UsageError(f"node {node} has no memory for {count} huge pages")
    machine.hugepages(count, node=node, size=pool.size)
    if h.nr_huge_pages_node[node] != count:
        raise UsageError(
            f"node {node} has no room for {count} huge pages of {pool.size >> 20} MiB; "
            "give larger --nodes"
        )


def _hstate(machine: Machine, pool: Pool) -> Hstate:
    h = hstate_of(machine.kernel, pool.size)
    assert h is not None
    return h
