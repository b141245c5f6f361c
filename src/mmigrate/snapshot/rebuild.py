"""From a snapshot to a process on a modelled machine, page by page on the same nodes.

Pages that the process shared with others are shared here with a second process: it is
forked when the shared pages have been touched, and before those of the process' own are.

Differs from the real thing, and said in `Rebuilt.notes`: a file on a filesystem that the
model does not have behaves like one on ext4, transparent huge pages become base pages, and
memory of hugetlbfs and of devices is mapped but has no pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from mmigrate.api import Mapping
from mmigrate.arguments import POLICY_MODES
from mmigrate.errors import MemoryFault, ScenarioError, UsageError
from mmigrate.linux.include.mm import MAP_NORESERVE, VM_IO, VM_PFNMAP
from mmigrate.linux.include.mm_types import Inode
from mmigrate.linux.include.pgtable import PAGE_SIZE, TASK_SIZE
from mmigrate.linux.include.sched import Cred
from mmigrate.linux.kernel.rwsem import down_write
from mmigrate.linux.mm.vma import find_vma, split_vma
from mmigrate.machine.machine import Machine
from mmigrate.machine.process import Process
from mmigrate.snapshot.nodeset import describe, parse_policy
from mmigrate.snapshot.snapshot import PageState, Snapshot, VmaRecord

Progress = Callable[[str, int, int], None]

FILESYSTEMS: Final = {
    "ext2": "ext4",
    "ext3": "ext4",
    "ext4": "ext4",
    "xfs": "xfs",
    "nfs": "nfs",
    "nfs4": "nfs",
    "ramfs": "ramfs",
}
USER: Final = Cred(1000, 1000, 1000, frozenset())
SHARED_MEMORY: Final = ("tmpfs", "devtmpfs")


@dataclass(frozen=True)
class Area:
    """A recorded area: its addresses, what it is called, and its kind."""

    start: int
    end: int
    name: str
    kind: str


@dataclass
class Rebuilt:
    """A process that looks like the recorded one.

    @sharer: who shares pages with it, None if nobody does.  @unmodelled: pages that the
    model has no kind for yet, by area.  @notes: sentences for people.
    """

    machine: Machine
    process: Process
    sharer: Process | None = None
    areas: list[Area] = field(default_factory=list)
    unmodelled: Counter[int] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def rebuild(
    snapshot: Snapshot,
    sizes: Sequence[int] | None = None,
    *,
    privileged: bool = False,
    progress: Progress | None = None,
) -> Rebuilt:
    """Build a machine like the recorded one, or with nodes of @sizes bytes, and the process
    on it, as an ordinary user's; @privileged: with CAP_SYS_NICE.

    Raises UsageError: a page is on a node that the machine does not have, or the node has
    no room for the recorded pages.
    """
    rebuilt = _Builder(snapshot, sizes, progress or _silent).build()
    if not privileged:
        rebuilt.process.task.cred = USER
    return rebuilt


def machine_sizes(snapshot: Snapshot) -> list[int]:
    """Bytes of each node of the recorded machine, by number; 0 where there is none."""
    sizes = [0] * (max(snapshot.node_numbers()) + 1)
    for node in snapshot.nodes:
        sizes[node.number] = node.memory // PAGE_SIZE * PAGE_SIZE
    if not any(sizes):  # the sizes could not be read
        sizes[snapshot.nodes[0].number] = 2 * max(1 << 26, snapshot.summary().pages * PAGE_SIZE)
    return sizes


class _Builder:
    def __init__(self, snapshot: Snapshot, sizes: Sequence[int] | None, progress: Progress) -> None:
        self.snapshot = snapshot
        self.progress = progress
        self.sizes = list(machine_sizes(snapshot) if sizes is None else sizes)
        self.machine = Machine(self.sizes, distances=self._distances())
        self.process = self.machine.process("recorded")
        self.rebuilt = Rebuilt(self.machine, self.process)
        self.files: dict[object, Inode] = {}
        self.node = -1  # where the policy of the process sends pages now
        self.done = 0
        self.total = max(1, self._count())

    def _distances(self) -> list[list[int]] | None:
        """The recorded ones, if they are those of this machine."""
        numbers = self.snapshot.node_numbers()
        if numbers != tuple(range(len(self.sizes))):
            return None
        return [list(node.distances) for node in self.snapshot.nodes]

    def _count(self) -> int:
        summary = self.snapshot.summary()
        return summary.resident + summary.zero + summary.swapped

    def build(self) -> Rebuilt:
        if self.snapshot.page_size != PAGE_SIZE:
            raise UsageError(
                f"the process has pages of {self.snapshot.page_size} bytes; "
                f"the model has pages of {PAGE_SIZE}"
            )
        self._check_nodes()
        areas = [(vma, mapping) for vma in self.snapshot.vmas if (mapping := self._map(vma))]
        try:
            for vma, mapping in areas:
                self._touch(vma, mapping, _is_shared)
            if self._is_anything_shared(areas):
                self._fork(areas)
            for vma, mapping in areas:
                self._touch(vma, mapping, _is_own)
            self._swap_out(areas)
        except MemoryFault as fault:
            if fault.signal != "SIGKILL":
                raise ScenarioError(f"could not rebuild the process: {fault}") from fault
            raise UsageError(
                f"node {max(self.node, 0)} has {self.sizes[max(self.node, 0)] >> 20} MiB, which "
                "is too small for the recorded pages; give larger --nodes"
            ) from fault
        self.process.set_mempolicy("default")
        for vma, mapping in areas:
            self._finish(vma, mapping)
        self.machine.drain_pagevecs()
        self.machine.finish_io()
        self.progress("rebuilding", self.total, self.total)
        return self.rebuilt

    def _check_nodes(self) -> None:
        used = {node for node in self.snapshot.summary().by_node if node >= 0}
        for node in sorted(used):
            if node >= len(self.sizes) or not self.sizes[node]:
                there = [number for number, size in enumerate(self.sizes) if size]
                raise UsageError(
                    f"the process has pages on node {node}, and the machine has {describe(there)}"
                )

    # --- areas ---

    def _map(self, vma: VmaRecord) -> Mapping | None:
        """An area like @vma, accessible for now; None where the model can have none."""
        snapshot = self.snapshot
        kind = snapshot.kind(vma)
        self.rebuilt.areas.append(Area(vma.start, vma.end, vma.name, kind))
        if vma.end > TASK_SIZE:
            return None
        file = self._file(vma, kind)
        mapping = self.process.mmap(
            vma.length,
            prot="rwx",
            flags=MAP_NORESERVE,
            at=vma.start,
            shared=vma.shared,
            file=file,
            offset=vma.offset if file is not None and vma.file else 0,
        )
        if kind in ("hugetlb", "special") or vma.has_flag("pf") or vma.has_flag("io"):
            present = sum(count for _, count, state in snapshot.runs(vma) if state.present)
            self.rebuilt.unmodelled[vma.start] = present
            if vma.has_flag("pf") or vma.has_flag("io"):
                self._make_special(vma, (VM_PFNMAP if vma.has_flag("pf") else 0) | VM_IO)
            if kind == "hugetlb":
                self._note("memory of hugetlbfs is mapped here but has no pages")
            return None
        return mapping

    def _make_special(self, vma: VmaRecord, flags: int) -> None:
        """An area of a driver: it was merged with its neighbours, as ordinary memory."""
        mm = self.process.mm
        with self.process.running(), down_write(mm.mmap_sem):
            for boundary in (vma.start, vma.end):
                area = find_vma(mm, boundary)
                if area is not None and area.vm_start < boundary:
                    split_vma(mm, area, boundary, True)
            area = find_vma(mm, vma.start)
            assert area is not None and area.vm_start == vma.start
            area.vm_flags |= flags

    def _file(self, vma: VmaRecord, kind: str) -> Inode | None:
        """The file behind an area; areas of one file share it."""
        record = self.snapshot.file_of(vma)
        if record is None:
            if kind != "shmem":
                return None
            return self.machine.shmem(f"anonymous at {vma.start:#x}", vma.length)
        if record not in self.files:
            name = f"{record.name or 'file'} ({record.device} {record.inode})"
            size = max(
                other.offset + other.length
                for other in self.snapshot.vmas
                if other.file == vma.file
            )
            if record.filesystem in SHARED_MEMORY:
                self.files[record] = self.machine.shmem(name, size)
            else:
                fs = FILESYSTEMS.get(record.filesystem)
                if fs is None:
                    known = record.filesystem or "an unknown filesystem"
                    self._note(f"files on {known} behave here as on ext4")
                self.files[record] = self.machine.file(name, size, fs=fs or "ext4")
        return self.files[record]

    def _note(self, sentence: str) -> None:
        if sentence not in self.rebuilt.notes:
            self.rebuilt.notes.append(sentence)

    # --- pages ---

    def _runs(
        self, vma: VmaRecord, mapping: Mapping, wanted: Callable[[VmaRecord, PageState], bool]
    ) -> Iterator[tuple[Mapping, PageState]]:
        for first, count, state in self.snapshot.runs(vma):
            if wanted(vma, state):
                start = mapping.start + first * PAGE_SIZE
                yield Mapping(start, count * PAGE_SIZE), state

    def _touch(
        self, vma: VmaRecord, mapping: Mapping, wanted: Callable[[VmaRecord, PageState], bool]
    ) -> None:
        for part, state in self._runs(vma, mapping, wanted):
            if state.huge:
                self._note("transparent huge pages are base pages here")
            self._go_to(state.node)
            write = _needs_a_store(vma, state)
            step = 16384 * PAGE_SIZE
            for start in range(part.start, part.end, step):
                piece = Mapping(start, min(step, part.end - start))
                self.process.touch(piece, write=write)
                self.done += len(piece.pages())
                self.progress("rebuilding", self.done, self.total)

    def _go_to(self, node: int) -> None:
        """New pages come from @node; one that is unknown is taken for the first."""
        if node < 0:
            self._note("the node of some pages is unknown; they are on the first node here")
            node = next(number for number, size in enumerate(self.sizes) if size)
        if node != self.node:
            self.process.set_mempolicy("bind", [node])
            self.node = node

    def _is_anything_shared(self, areas: list[tuple[VmaRecord, Mapping]]) -> bool:
        return any(True for vma, mapping in areas for _ in self._runs(vma, mapping, _is_shared))

    def _fork(self, areas: list[tuple[VmaRecord, Mapping]]) -> None:
        """Somebody who shares what is shared; fork copies no ptes of files."""
        sharer = self.rebuilt.sharer = self.process.fork("sharer")
        for vma, mapping in areas:
            for part, state in self._runs(vma, mapping, _is_shared):
                if state.file:
                    sharer.touch(part, write=False)

    def _swap_out(self, areas: list[tuple[VmaRecord, Mapping]]) -> None:
        swapped = self.snapshot.summary().swapped
        if not swapped:
            return
        self.machine.swapon((swapped + 1024) * PAGE_SIZE)
        for vma, mapping in areas:
            for part, state in self._runs(vma, mapping, _is_swapped):
                self._go_to(state.node if state.node >= 0 else 0)
                self.process.touch(part)
                self.machine.swap_out(self.process, part)
                self.done += len(part.pages())
                self.progress("rebuilding", self.done, self.total)

    # --- the last touch ---

    def _finish(self, vma: VmaRecord, mapping: Mapping) -> None:
        """Policy, lock and protection, which were in the way before."""
        if vma.policy:
            policy = parse_policy(vma.policy)
            nodes = [n for n in policy.nodes if n < len(self.sizes) and self.sizes[n]]
            if policy.mode in POLICY_MODES and policy.mode != "default" and nodes:
                flags = f"={policy.flags}" if policy.flags in ("static", "relative") else ""
                self.process.mbind(mapping, policy.mode + flags, nodes)
        if vma.has_flag("lo"):
            self.process.mlock(mapping)
        self.process.mprotect(mapping, vma.perms[:3].replace("-", ""))


def _is_shared(vma: VmaRecord, state: PageState) -> bool:
    return state.present and state.shared


def _is_own(vma: VmaRecord, state: PageState) -> bool:
    return state.present and not state.shared


def _is_swapped(vma: VmaRecord, state: PageState) -> bool:
    return state.swapped and not state.present


def _needs_a_store(vma: VmaRecord, state: PageState) -> bool:
    """Whether a page like this comes from a store: anonymous ones do, those of files only
    where a shared mapping is writable and the page is known to be dirty."""
    if state.zero:
        return False
    if not state.file:
        return True
    return vma.shared and vma.writable and (state.dirty or state.soft_dirty)


def _silent(_what: str, _done: int, _of: int) -> None:
    pass
