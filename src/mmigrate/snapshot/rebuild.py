"""From a snapshot to a process on a modelled machine, page by page on the same nodes.

Pages that the process shared with others are shared here with a second process: it is
forked when the shared pages have been touched, and before those of the process' own are.

Transparent huge pages come from huge faults, pages of hugetlb from pools of the recorded size,
merged pages (KSM) from a scan of ksmd; charges go to memory cgroups with the recorded limits.

Differs from the real thing, and said in `Rebuilt.notes`: a file on a filesystem that the
model does not have behaves like one on ext4, huge pages of files are base pages, and memory of
devices is mapped but has no pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from mmigrate.api import Mapping
from mmigrate.arguments import POLICY_MODES
from mmigrate.errors import MemoryFault, ScenarioError, UsageError
from mmigrate.linux.include.hugetlb import hstate_of
from mmigrate.linux.include.kernel import nobody_dies
from mmigrate.linux.include.mm import (
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MAP_NORESERVE,
    VM_IO,
    VM_PFNMAP,
)
from mmigrate.linux.include.mm_types import Inode
from mmigrate.linux.include.pgtable import PAGE_SIZE, TASK_SIZE
from mmigrate.linux.include.sched import Cred
from mmigrate.linux.kernel.rwsem import down_write
from mmigrate.linux.mm import huge_memory
from mmigrate.linux.mm.vma import find_vma, split_vma
from mmigrate.machine.cgroup import Cgroup
from mmigrate.machine.machine import Machine
from mmigrate.machine.process import Process
from mmigrate.snapshot.forms import HUGE_SIZE, Form, Piece, pieces
from mmigrate.snapshot.garbage import uncollected
from mmigrate.snapshot.nodeset import MAX_NODES, parse_list, parse_policy
from mmigrate.snapshot.rebuild_merged import groups_of, merge
from mmigrate.snapshot.rebuild_pools import make_pools, plan_pools, settle_pools
from mmigrate.snapshot.rebuild_room import check_nodes, check_room, too_small
from mmigrate.snapshot.records import PageState, VmaRecord
from mmigrate.snapshot.snapshot import Snapshot

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
ADVICE: Final = (("hg", MADV_HUGEPAGE), ("nh", MADV_NOHUGEPAGE), ("mg", MADV_MERGEABLE))
SHARED_MEMORY: Final = ("tmpfs", "devtmpfs")


@dataclass(frozen=True)
class Area:
    """A recorded area: its addresses, what it is called, its kind, its size of page."""

    start: int
    end: int
    name: str
    kind: str
    page_size: int


@dataclass
class Rebuilt:
    """A process that looks like the recorded one.

    @sharer: who shares pages with it, None if nobody does.  @unmodelled: pages that the
    model has no kind for, by area.  @groups: its memory cgroup, behind those above it.
    @pool_sizes: sizes of its huge pages of hugetlb.  @allowed: the nodes of its cpuset, if those
    are not all.  @notes: sentences for people.
    """

    machine: Machine
    process: Process
    sharer: Process | None = None
    areas: list[Area] = field(default_factory=list)
    unmodelled: Counter[int] = field(default_factory=Counter)
    groups: list[Cgroup] = field(default_factory=list)
    pool_sizes: list[int] = field(default_factory=list)
    allowed: tuple[int, ...] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def cgroup(self) -> Cgroup | None:
        return self.groups[-1] if self.groups else None


@uncollected()
def rebuild(
    snapshot: Snapshot,
    sizes: Sequence[int] | None = None,
    *,
    privileged: bool = False,
    free_huge: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Rebuilt:
    """Build a machine like the recorded one, or with nodes of @sizes bytes, and the process
    on it, as an ordinary user's; @privileged: with CAP_SYS_NICE.  @free_huge: free huge pages of
    2 MiB on each node, instead of the recorded ones.

    Raises UsageError: a page is on a node that the machine does not have, or the node has
    no room for the recorded pages.
    """
    rebuilt = _Builder(snapshot, sizes, free_huge, progress or _silent).build()
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
    def __init__(
        self,
        snapshot: Snapshot,
        sizes: Sequence[int] | None,
        free_huge: Sequence[int] | None,
        progress: Progress,
    ) -> None:
        self.snapshot = snapshot
        self.progress = progress
        self.sizes = list(machine_sizes(snapshot) if sizes is None else sizes)
        self.machine = Machine(self.sizes, distances=self._distances(), thp="never")
        self.process = self.machine.process("recorded")
        self.rebuilt = Rebuilt(self.machine, self.process)
        self.pools = plan_pools(snapshot, self.machine, free_huge, self._note)
        self.rebuilt.pool_sizes = [pool.size for pool in self.pools]
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
        check_nodes(self.snapshot, self.sizes)
        kernel = self.machine.kernel
        # A load maps that page alone: what is cached nearby the process had mapped, or had not.
        around, kernel.fault_around_bytes = kernel.fault_around_bytes, PAGE_SIZE
        # Where there is too little memory none of those goes who share pages with the process.
        kill, kernel.kill_process = kernel.kill_process, nobody_dies
        make_pools(self.machine, self.pools)
        check_room(self.snapshot, self.sizes)
        self._join_groups()
        areas = [(vma, mapping) for vma in self.snapshot.vmas if (mapping := self._map(vma))]
        try:
            for vma, mapping in areas:
                self._touch(vma, mapping, _is_shared)
            if self._is_anything_shared(areas):
                self._fork(areas)
            for vma, mapping in areas:
                self._touch(vma, mapping, _is_own)
            self._merge(areas)
            self._swap_out(areas)
        except MemoryFault as fault:
            if fault.signal != "SIGKILL":
                raise ScenarioError(f"could not rebuild the process: {fault}") from fault
            raise too_small(max(self.node, 0), self.sizes) from fault
        self.process.set_mempolicy("default")
        settle_pools(self.machine, self.pools)
        self._enter_cpuset()
        for vma, mapping in areas:
            self._finish(vma, mapping)
        huge_memory.state(kernel).enabled = self.snapshot.thp or "madvise"
        kernel.fault_around_bytes = around
        kernel.kill_process = kill
        self._limit_groups()
        self.machine.drain_pagevecs()
        self.machine.finish_io()
        self.progress("rebuilding", self.total, self.total)
        return self.rebuilt

    # --- areas ---

    def _map(self, vma: VmaRecord) -> Mapping | None:
        """An area like @vma, accessible for now; None where the model can have none."""
        snapshot = self.snapshot
        kind = snapshot.kind(vma)
        self.rebuilt.areas.append(Area(vma.start, vma.end, vma.name, kind, vma.page_size))
        if vma.end > TASK_SIZE:
            return None
        size = 0
        if kind == "hugetlb":
            size = vma.page_size
            whole = vma.start % size == vma.end % size == vma.offset % size == 0
            if not whole or hstate_of(self.machine.kernel, size) is None:
                self._leave_out(vma, f"v3.19 on x86-64 has no pages of {size >> 10} kB")
                return None
        # A file of hugetlbfs has pages of 2 MiB here; what else is mapped is an area by itself.
        file = self._file(vma, kind) if size in (0, HUGE_SIZE) else None
        mapping = self.process.mmap(
            vma.length,
            prot="rwx",
            flags=MAP_NORESERVE,
            at=vma.start,
            shared=vma.shared,
            file=file,
            offset=vma.offset if file is not None and vma.file else 0,
            hugetlb=size if file is None else 0,
        )
        if kind == "special" or vma.has_flag("pf") or vma.has_flag("io"):
            self._leave_out(vma)
            if vma.has_flag("pf") or vma.has_flag("io"):
                self._make_special(vma, (VM_PFNMAP if vma.has_flag("pf") else 0) | VM_IO)
            return None
        return mapping

    def _leave_out(self, vma: VmaRecord, why: str = "") -> None:
        runs = self.snapshot.runs(vma)
        self.rebuilt.unmodelled[vma.start] = sum(count for _, count, state in runs if state.present)
        if why:
            self._note(f"memory of hugetlbfs is left out: {why}")

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
            if kind == "hugetlb":
                self.files[record] = self.machine.file(
                    name, -(-size // HUGE_SIZE) * HUGE_SIZE, fs="hugetlbfs"
                )
            elif record.filesystem in SHARED_MEMORY:
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

    def _pieces(
        self, vma: VmaRecord, mapping: Mapping, wanted: Callable[[VmaRecord, PageState], bool]
    ) -> Iterator[tuple[Mapping, Piece]]:
        """Those of an area that are @wanted, merged pages apart, and where they are."""
        for piece in pieces(self.snapshot, vma):
            if piece.form is not Form.MERGED and wanted(vma, piece.state):
                start = mapping.start + piece.first * PAGE_SIZE
                yield Mapping(start, piece.count * PAGE_SIZE), piece

    def _touch(
        self, vma: VmaRecord, mapping: Mapping, wanted: Callable[[VmaRecord, PageState], bool]
    ) -> None:
        for part, piece in self._pieces(vma, mapping, wanted):
            state = piece.state
            if not state.zero:
                self._go_to(state.node)
            if piece.guessed:
                self._note("which pages are huge is known only in part; the first that can be are")
            if piece.form is Form.HUGE:
                self._touch_huge(part)
            elif piece.form is Form.HUGETLB:
                self.process.touch(part.start, write=not state.file or vma.shared)
                self._progress(piece.count)
            else:
                if state.huge and not state.zero:
                    self._note("huge pages of files are base pages here, as v3.19 has no others")
                self._touch_base(part, _needs_a_store(vma, state))

    def _touch_base(self, part: Mapping, write: bool) -> None:
        step = 16384 * PAGE_SIZE
        for start in range(part.start, part.end, step):
            piece = Mapping(start, min(step, part.end - start))
            self.process.touch(piece, write=write)
            self._progress(len(piece.pages()))

    def _touch_huge(self, part: Mapping) -> None:
        """One fault that may give a huge page; all others may not."""
        thp = huge_memory.state(self.machine.kernel)
        thp.enabled = "always"
        try:
            self.process.touch(part.start)
        finally:
            thp.enabled = "never"
        if self.process.page_at(part.end - PAGE_SIZE) is None:
            self._note("some huge pages are base pages here: no node had memory in one piece")
            self.process.touch(part)
        self._progress(len(part.pages()))

    def _merge(self, areas: list[tuple[VmaRecord, Mapping]]) -> None:
        groups, paired = groups_of(self.snapshot, areas)
        if not groups:
            return
        if paired:
            self._note(
                f"with whom {paired:,} merged pages (KSM) share a frame is unknown; "
                "two and two do here"
            )
        wanted = sum(len(group.addresses) for group in groups.values())
        merged = merge(self.machine, self.process, [*groups.values()], self._go_to, self._note)
        if merged < wanted:
            self._note(f"{wanted - merged:,} merged pages (KSM) did not merge here")
        self._progress(wanted)

    def _progress(self, pages: int) -> None:
        self.done += pages
        self.progress("rebuilding", min(self.done, self.total), self.total)

    def _go_to(self, node: int) -> None:
        """New pages come from @node; one that is unknown is taken for the first."""
        if node < 0:
            self._note("the node of some pages is unknown; they are on the first node here")
            node = next(number for number, size in enumerate(self.sizes) if size)
        if node != self.node:
            self.process.set_mempolicy("bind", [node])
            self.node = node

    def _is_anything_shared(self, areas: list[tuple[VmaRecord, Mapping]]) -> bool:
        return any(True for vma, mapping in areas for _ in self._pieces(vma, mapping, _is_shared))

    def _fork(self, areas: list[tuple[VmaRecord, Mapping]]) -> None:
        """Somebody who shares what is shared; fork copies no ptes of files."""
        sharer = self.rebuilt.sharer = self.process.fork("sharer")
        for vma, mapping in areas:
            for part, piece in self._pieces(vma, mapping, _is_shared):
                if piece.state.file and piece.form is Form.BASE:
                    sharer.touch(part, write=False)

    def _swap_out(self, areas: list[tuple[VmaRecord, Mapping]]) -> None:
        swapped = self.snapshot.summary().swapped
        if not swapped:
            return
        self.machine.swapon((swapped + 1024) * PAGE_SIZE)
        for vma, mapping in areas:
            for part, piece in self._pieces(vma, mapping, _is_swapped):
                self._go_to(max(piece.state.node, 0))
                self.process.touch(part)
                self.machine.swap_out(self.process, part)
                self._progress(piece.count)

    # --- control groups ---

    def _join_groups(self) -> None:
        """The memory cgroup, below the groups that it is below; the limits come later: what was
        charged to whom is not recorded, and nothing may be reclaimed meanwhile."""
        for record in self.snapshot.memory_groups:
            group = self.machine.cgroup(record.path, parent=self.rebuilt.cgroup)
            self.rebuilt.groups.append(group)
        if self.rebuilt.cgroup is not None:
            self.process.join(self.rebuilt.cgroup)

    def _limit_groups(self) -> None:
        for group, record in zip(self.rebuilt.groups, self.snapshot.memory_groups, strict=True):
            if record.limit is not None and group.usage <= record.limit:
                group.limit = record.limit
            elif record.limit is not None:
                self._note(
                    f"memory cgroup {record.path} has no limit here: all pages of the process are "
                    "charged to it, and that is more than the limit"
                )

    def _enter_cpuset(self) -> None:
        """Only one that leaves out some node of the recorded machine."""
        recorded = {node.number for node in self.snapshot.nodes if node.memory}
        allowed = recorded.intersection(parse_list(self.snapshot.nodes_allowed, MAX_NODES))
        here = [n for n in sorted(allowed) if n < len(self.sizes) and self.sizes[n]]
        if allowed == recorded or not here:
            return
        self.rebuilt.allowed = tuple(here)
        self.process.join(self.machine.cpuset(self.snapshot.cpuset or "recorded", here))

    # --- the last touch ---

    def _finish(self, vma: VmaRecord, mapping: Mapping) -> None:
        """Policy, advice, lock and protection, which were in the way before."""
        self._set_policy(vma, mapping)
        for flag, advice in ADVICE:
            if vma.has_flag(flag) and not vma.shared and self.snapshot.kind(vma) != "hugetlb":
                self.process.madvise(mapping, advice)
        if vma.has_flag("lo"):
            self.process.mlock(mapping)
        self.process.mprotect(mapping, vma.perms[:3].replace("-", ""))

    def _set_policy(self, vma: VmaRecord, mapping: Mapping) -> None:
        if not vma.policy:
            return  # unknown
        policy = parse_policy(vma.policy)
        if policy.mode in ("default", "local"):
            return
        if policy.mode not in POLICY_MODES:
            self._note(f"v3.19 has no policy {policy.mode}; areas with it have none here")
            return
        allowed = self.rebuilt.allowed
        if allowed is None:
            allowed = tuple(node for node, size in enumerate(self.sizes) if size)
        nodes = [node for node in policy.nodes if node in allowed]
        if not nodes:
            self._note(f"no node of policy {vma.policy} can be had here; areas with it have none")
            return
        if policy.flags == "relative":  # what is recorded are the nodes that it amounts to
            nodes = [allowed.index(node) for node in nodes]
        flags = f"={policy.flags}" if policy.flags in ("static", "relative") else ""
        self.process.mbind(mapping, policy.mode + flags, nodes)


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
