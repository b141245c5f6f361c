"""A modelled computer: nodes of memory, processes on CPUs, files, swap  (the user-level API).

machine = Machine(nodes=(MiB(512), MiB(512)))
app = machine.process("app", cpu=0)
heap = app.mmap(MiB(64))
app.touch(heap)
print(app.move_pages(heap, node=1))
assert machine.check() == []
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from errno import EINVAL
from functools import cache, cached_property
from typing import Any

from mmigrate.api import Mapping
from mmigrate.arguments import mask_of
from mmigrate.errors import ScenarioError, Violation
from mmigrate.linux.drivers import block, iommu
from mmigrate.linux.fs import fuse
from mmigrate.linux.fs.inode import inode_of, new_inode
from mmigrate.linux.include.hugetlb import hstate_of
from mmigrate.linux.include.mm_types import Inode, Page
from mmigrate.linux.include.sched import ROOT, Cred, Task
from mmigrate.linux.include.switches import BASE, absent_commits
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.cpuset import Cpuset, new_cpuset
from mmigrate.linux.kernel.fair import NumaBalancing
from mmigrate.linux.mm import (
    compaction,
    fork,
    huge_memory,
    hugetlb_pool,
    khugepaged,
    ksm,
    page_writeback,
    shmem,
    swap,
    swapfile,
    truncate,
    vmscan,
)
from mmigrate.linux.mm import kswapd as kswapd_daemon
from mmigrate.linux.mm.cpuset_migration import cpuset_set_mems
from mmigrate.machine.balloon import Balloon
from mmigrate.machine.boot import boot
from mmigrate.machine.cgroup import Cgroup
from mmigrate.machine.device import Device
from mmigrate.machine.hotplug import (
    CmaArea,
    Contiguous,
    alloc_contig_frames,
    offline,
    online,
    soft_offline,
)
from mmigrate.machine.hugetlb_mount import HugetlbMount
from mmigrate.machine.proc_files import ProcFiles
from mmigrate.machine.process import Pin, Process, checked
from mmigrate.machine.shadow import Shadow
from mmigrate.units import MiB


class Started:
    """A function that runs in a task of its own, from `machine.start`."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    def finished(self) -> bool:
        return self.task.finished

    @property
    def result(self) -> Any:
        """What the function returned, or the OSError it ended with."""
        if not self.task.finished:
            raise ScenarioError(f"{self.task.name} has not finished; call machine.run() first")
        return self.task.result

    def __repr__(self) -> str:
        return f"<{self.task.name}: {self.task.result if self.finished else 'not finished'}>"


class Machine(ProcFiles):
    """One computer with a booted kernel.

    @nodes: bytes of memory on each node; 0 for a node that has CPUs only.
    @cpus: the node of each CPU, by default one CPU a node.
    @distances: rows of the node distance table, by default 10 and 20.
    @movable: bytes of each node in ZONE_MOVABLE.
    @kernel: "v3.19", or a later release: what users of it would notice, as far as the
    switches go.  @without, @backports: commits to take away or to add, by id.
    @thp: which areas get transparent huge pages: "always", "madvise" (those for which
    `process.madvise(where, MADV_HUGEPAGE)` asked) or "never".
    @numa_balancing: memory follows its users; `process.numa_scan()` lets a scan come due.
    @kswapd: whether the kswapd of a node wakes when memory gets short there, and runs beside the
    others.  Differs: it is off unless asked for, so that a scenario has only the tasks that it
    starts; `kswapd(node)` lets it reclaim when told to.
    Raises ScenarioError: no node has memory, or a number makes no sense.
    """

    def __init__(
        self,
        nodes: Sequence[int] = (MiB(512), MiB(512)),
        *,
        cpus: Sequence[int] | None = None,
        distances: Sequence[Sequence[int]] | None = None,
        movable: Sequence[int] | None = None,
        kernel: str = BASE,
        without: Iterable[str] = (),
        backports: Iterable[str] = (),
        thp: str = "madvise",
        numa_balancing: bool = False,
        kswapd: bool = False,
    ) -> None:
        _check_shape(nodes, cpus, distances)
        _check_movable(nodes, movable)
        if thp not in ("always", "madvise", "never"):
            raise ScenarioError(f'thp="{thp}"; use "always", "madvise" or "never"')
        absent = absent_commits(kernel, without=without, backports=backports)
        self.kernel = boot(
            nodes, cpus=cpus, distances=distances, movable=movable, absent=absent, thp=thp
        )
        self.kernel.kill_process = self._kill
        if numa_balancing:
            self.kernel.numa_balancing = NumaBalancing()
        if kswapd:
            kswapd_daemon.kswapd_init(self.kernel)
        self.processes: list[Process] = []
        self.pins: list[Pin] = []
        self.contiguous: list[Contiguous] = []
        self.devices: list[Device] = []
        self._khugepaged: Task | None = None
        self._ksmd: Task | None = None
        self._kswapd: dict[int, Task] = {}
        self.files: dict[str, Inode] = {}
        self.shadow = Shadow()
        self.log: list[str] = []
        self._names: set[str] = set()
        self._next_cpu = 0

    # --- processes and tasks ---

    def process(
        self,
        name: str = "app",
        *,
        cpu: int = 0,
        policy: tuple[int | str, Collection[int]] | None = None,
        uid: int = 0,
        capabilities: Collection[str] | None = None,
    ) -> Process:
        """A new process with one thread.

        @policy: (mode, nodes) for set_mempolicy.  @uid: its user; 0 has all capabilities,
        others none, unless @capabilities says otherwise.
        """
        kernel = self.kernel
        if not 0 <= cpu < len(kernel.cpus):
            raise ScenarioError(f"there is no CPU {cpu}; this machine has {len(kernel.cpus)}")
        name = self.unique_name(name)
        mm = fork.mm_alloc(kernel, name)
        task = kernel.scheduler.new_task(name, kernel.cpus[cpu], mm)
        if capabilities is None:
            capabilities = ROOT.capabilities if uid == 0 else ()
        task.cred = Cred(uid, uid, uid, frozenset(capabilities))
        process = self.add_process(Process(self, task, mm))
        if policy is not None:
            process.set_mempolicy(*policy)
        return process

    def add_process(self, process: Process) -> Process:
        self.processes.append(process)
        return process

    def remove_process(self, process: Process) -> None:
        self.processes.remove(process)
        if process.task in self.kernel.tasks:
            self.kernel.tasks.remove(process.task)

    def _kill(self, task: Task) -> bool:
        """End the process of a task for want of memory, unless threads of it are under way."""
        alive = self.kernel.scheduler.alive
        process = next((process for process in self.processes if process.task is task), None)
        if process is None or any(thread.mm is process.mm for thread in alive):
            return False
        process.exit()
        return True

    def unique_name(self, name: str) -> str:
        """@name, or with a number behind it if that was taken."""
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}.{number}"
        self._names.add(unique)
        return unique

    def start(
        self, function: Callable[..., Any], *arguments: Any, cpu: int | None = None, **options: Any
    ) -> Started:
        """Run a function in a task of its own, from the next `run()` on.

        A method of a Process runs as another thread of it. @cpu: where; by default the
        CPUs take turns.
        """
        kernel = self.kernel
        if cpu is None:
            cpu = self._next_cpu
            self._next_cpu = (self._next_cpu + 1) % len(kernel.cpus)
        elif not 0 <= cpu < len(kernel.cpus):
            raise ScenarioError(f"there is no CPU {cpu}; this machine has {len(kernel.cpus)}")
        owner = getattr(function, "__self__", None)
        prefix = f"{owner.name}:" if isinstance(owner, Process) else ""
        name = self.unique_name(prefix + getattr(function, "__name__", "task"))
        mm = fork.mmget(owner.mm) if isinstance(owner, Process) else None
        task = kernel.scheduler.new_task(name, kernel.cpus[cpu], mm)

        def body() -> Any:
            try:
                return function(*arguments, **options)
            finally:
                if not kernel.scheduler.abandoned:
                    fork.exit_mm(task)

        kernel.scheduler.start(task, body)
        return Started(task)

    def run(self, seed: int | None = None, *, max_steps: int = 1_000_000) -> None:
        """Run the started tasks until all have ended.

        Without a seed each goes on until it must wait, in order of creation. With one,
        every announced access is a point where another task may be chosen, at random but
        the same for the same seed; `log` then has a line for each access.
        Raises ScenarioError: a deadlock, or no end.
        """
        scheduler = self.kernel.scheduler
        if scheduler.takeover is not None:  # we are explored
            scheduler.takeover.go()
            return
        if seed is None:
            scheduler.run_straight()
            return
        generator = random.Random(seed)

        def choose(enabled: list[Task], running: Task | None) -> Task:
            return enabled[0] if len(enabled) == 1 else generator.choice(enabled)

        scheduler.steps, scheduler.max_steps, scheduler.log = 0, max_steps, self.log
        try:
            scheduler.run(choose)
        finally:
            scheduler.log = None

    def device(self, process: Process, kind: str = "iommu") -> Device:
        """A device that works on the memory of @process: with `read` and `write`, until
        `close()`.

        @kind: "iommu", which walks the page tables of the process (as AMD's IOMMUv2 and KFD),
        or "kvm", which has a shadow of them.  Neither holds references on pages.
        """
        if kind not in iommu.KINDS:
            raise ScenarioError(f'no device is of kind "{kind}"; known: {", ".join(iommu.KINDS)}')
        if process.exited:
            raise ScenarioError(f"{process.name} has exited; nobody can share its memory")
        created = Device(process, kind, self.unique_name(f"{process.name}-{kind}"))
        self.devices.append(created)
        return created

    def khugepaged_scan(self) -> int:
        """Let khugepaged scan all processes that may have huge pages, once; how many huge pages
        it made of base pages."""
        kernel = self.kernel
        daemon = huge_memory.state(kernel).khugepaged
        made, scans = 0, daemon.full_scans
        if self._khugepaged is None:
            self._khugepaged = kernel.scheduler.new_task("khugepaged", kernel.cpus[0], None)
        previous = None if sched.task.greenlet is not None else sched.run_as(self._khugepaged)
        try:
            while daemon.mm_head and daemon.full_scans == scans:
                made += khugepaged.khugepaged_do_scan(kernel)
        finally:
            if previous is not None:
                sched.run_as(previous)
        return made

    def hugepages(
        self,
        count: int | None = None,
        *,
        node: int | None = None,
        size: int = MiB(2),
        overcommit: int | None = None,
    ) -> int:
        """Set the pool of huge pages of @size bytes to @count (None: leave it), on one node if
        @node is given; how many there are now.  @overcommit: how many more may come and go."""
        h = hstate_of(self.kernel, size)
        if h is None:
            raise ScenarioError(f"this machine has no pages of {size} bytes; 2 MiB and 1 GiB")
        if node is not None and not self.kernel.node_states_memory >> node & 1:
            raise ScenarioError(f"node {node} has no memory")
        if overcommit is not None:
            h.nr_overcommit_huge_pages = overcommit
        if count is None:
            return h.nr_huge_pages - h.surplus_huge_pages
        return hugetlb_pool.set_max_huge_pages(self.kernel, h, count, -1 if node is None else node)

    @property
    def meminfo(self) -> dict[str, int]:
        """The HugePages_* lines of /proc/meminfo: numbers of pages of 2 MiB."""
        h = self.kernel.hugetlb.hstates[0]
        return {
            "HugePages_Total": h.nr_huge_pages,
            "HugePages_Free": h.free_huge_pages,
            "HugePages_Rsvd": h.resv_huge_pages,
            "HugePages_Surp": h.surplus_huge_pages,
        }

    def ksm_scan(self) -> int:
        """Let ksmd scan all mergeable memory until it finds nothing more to merge; how many pages
        are saved now.  Contents that stay the same from one scan to the next are merged."""
        kernel = self.kernel
        state = ksm.state(kernel)
        if self._ksmd is None:
            self._ksmd = kernel.scheduler.new_task("ksmd", kernel.cpus[0], None)
        previous = None if sched.task.greenlet is not None else sched.run_as(self._ksmd)
        try:
            merged = -1
            self._full_scans(2)
            while state.pages_sharing != merged:
                merged = state.pages_sharing
                self._full_scans(1)
        finally:
            if previous is not None:
                sched.run_as(previous)
        return state.pages_sharing

    def _full_scans(self, number: int) -> None:
        state = ksm.state(self.kernel)
        until = state.full_scans + number
        while state.mm_list and state.full_scans < until:
            ksm.ksm_do_scan(self.kernel, 100_000)

    def ksm_run(self, run: int) -> None:
        """Write to /sys/kernel/mm/ksm/run: 2 takes all merged pages apart."""
        checked(ksm.set_run(self.kernel, run))

    def ksm_merge_across_nodes(self, across: bool) -> None:
        """Whether pages of different nodes may be merged, as they are at boot; EBUSY while any
        are."""
        checked(ksm.set_merge_across_nodes(self.kernel, across))

    @property
    def ksm(self) -> dict[str, int]:
        """The counters of /sys/kernel/mm/ksm."""
        state = ksm.state(self.kernel)
        volatile = state.rmap_items - state.pages_shared - state.pages_sharing
        return {
            "pages_shared": state.pages_shared,
            "pages_sharing": state.pages_sharing,
            "pages_unshared": state.pages_unshared,
            "pages_volatile": max(0, volatile - state.pages_unshared),
            "full_scans": state.full_scans,
        }

    # --- files and swap ---

    def file(self, name: str, size: int, *, fs: str = "ext4", data: bytes = b"") -> Inode:
        """A file of @size bytes that begins with @data, on a filesystem by name: ext4,
        xfs, nfs, exofs (which has no migratepage), ramfs; or hugetlbfs, which begins empty."""
        self._check_file(name, size)
        if fs == "hugetlbfs":
            return self._hugetlb_file(name, size, data)
        inode = new_inode(self.kernel, name, fs, size)
        for position in range(0, len(data), 4096):
            inode.blocks[position // 4096] = data[position : position + 4096].ljust(4096, b"\0")
        self.files[name] = inode
        return inode

    def _hugetlb_file(self, name: str, size: int, data: bytes) -> Inode:
        if data:
            raise ScenarioError("a file of hugetlbfs begins empty")
        return self.hugetlbfs().file(name, size)

    def hugetlbfs(self, size: int | None = None, *, page_size: int = MiB(2)) -> HugetlbMount:
        """Mount a hugetlbfs of pages of @page_size bytes; files come from its `file`.

        @size: bytes that its files may have in all, rounded down to whole pages; None: no limit.
        A mapping that would exceed it is refused with ENOMEM; where no page was promised, an
        access ends with SIGBUS.
        """
        return HugetlbMount(self.kernel, self.files, self._check_file, size, page_size)

    def fuse_file(self, name: str, source: Inode) -> Inode:
        """A file whose server, in user space, answers reads with the pages of another file: as
        they are if nobody else uses them, copied otherwise."""
        self._check_file(name, source.i_size)
        inode = inode_of(self.kernel, name, fuse.filesystem(source), source.i_size)
        self.files[name] = inode
        return inode

    def _check_file(self, name: str, size: int) -> None:
        if name in self.files:
            raise ScenarioError(f"there is a file {name} already")
        if not 0 <= size < 1 << 63:
            raise ScenarioError(f"{size} is not the size of a file")

    def shmem(self, name: str, size: int) -> Inode:
        """A file of @size bytes in shared memory (tmpfs)."""
        self._check_file(name, size)
        inode = shmem.shmem_file_setup(self.kernel, name, size)
        self.files[name] = inode
        return inode

    def fsync(self, file: Inode) -> None:
        """Write a file's dirty pages, and wait."""
        checked(page_writeback.filemap_write_and_wait(file.i_mapping))

    def writeback(self, file: Inode) -> None:
        """Begin to write a file's dirty pages, and do not wait."""
        checked(page_writeback.filemap_flush(file.i_mapping))

    def start_flusher(self) -> None:
        """Start the task that writes the dirty pages of all files, at the next `run()`."""
        page_writeback.wakeup_flusher_threads(self.kernel)

    def truncate(self, file: Inode, size: int) -> None:
        """The system call truncate. Private copies of what is cut off go too."""
        if size < 0 or (file.fs.hstate is not None and size % file.fs.hstate.size):
            checked(-EINVAL)
        last = max(size, file.i_size) // 4096 + 1
        with self.shadow.dropping(f"file {file.name}", size // 4096, last):
            truncate.do_truncate(file, size)
        for process in self.processes:
            for vma in process.mm.mmap:
                if vma.vm_file is not None and vma.vm_file.f_inode is file:
                    gone = max(0, (size + 4095) // 4096 - vma.vm_pgoff)
                    first = (vma.vm_start >> 12) + gone
                    self.shadow.forget(process.mm.name, first, (vma.vm_end >> 12) - 1)

    def drop_caches(self) -> None:
        """Drop the clean, unmapped pages of all files."""
        for inode in self.kernel.inodes:
            truncate.invalidate_mapping_pages(inode.i_mapping, 0, -1)

    def swapon(self, size: int = MiB(64)) -> Any:
        """Add a swap area of @size bytes."""
        return swapfile.sys_swapon(self.kernel, size // 4096)

    def swapoff(self, area: Any) -> None:
        checked(swapfile.sys_swapoff(area))

    def cpuset(self, name: str, nodes: Collection[int], *, memory_migrate: bool = False) -> Cpuset:
        """A cpuset that allows memory on @nodes; @memory_migrate: memory follows its tasks and
        its changes.  Processes join with `process.join(cpuset)`."""
        created = new_cpuset(self.kernel, name, mask_of(nodes))
        created.memory_migrate = memory_migrate
        return created

    def cgroup(self, name: str, limit: int | None = None, parent: Cgroup | None = None) -> Cgroup:
        """A memory cgroup with a limit in bytes, below @parent.  Processes join with
        `process.join(cgroup)`; memory that they use from then on is charged to it."""
        return Cgroup(self, self.unique_name(name), limit, parent)

    def kswapd(self, node: int) -> int:
        """Let kswapd of a node reclaim until enough is free there; how many pages it freed.

        Raises ScenarioError: there is no such node.
        """
        kernel = self.kernel
        if not 0 <= node < len(kernel.nodes):
            raise ScenarioError(f"there is no node {node}")
        pgdat = kernel.nodes[node]
        daemon = self._kswapd.get(node)
        if daemon is None:
            daemon = kernel.scheduler.new_task(f"kswapd{node}", kswapd_daemon.cpu_of(pgdat), None)
            self._kswapd[node] = daemon
        if sched.task.greenlet is not None:
            return kswapd_daemon.kswapd_run(pgdat)
        previous = sched.run_as(daemon)
        try:
            return kswapd_daemon.kswapd_run(pgdat)
        finally:
            sched.run_as(previous)

    def set_mems(self, cpuset: Cpuset, nodes: Collection[int]) -> None:
        """Write to a cpuset's `mems`; who writes is the machine's first process."""
        if not self.processes:
            raise ScenarioError("somebody must write to the cpuset: start a process first")
        with self.processes[0].running():
            cpuset_set_mems(cpuset, mask_of(nodes))

    def swap_out(self, process: Process, where: Mapping) -> int:
        """Reclaim the pages of a range, as far as the rules of reclaim allow; how many."""
        with process.running():
            pages = [page for a in where.pages() if (page := process.looked_up(a)) is not None]
            return vmscan.reclaim_pages(self.kernel, pages)

    def compact(self, node: int | None = None) -> None:
        """Compact the memory of a node, or of all: a write to /proc/sys/vm/compact_memory.

        Raises ScenarioError: there is no such node.
        """
        if node is None:
            compaction.compact_memory(self.kernel)
            return
        if not 0 <= node < len(self.kernel.nodes):
            raise ScenarioError(f"there is no node {node}")
        compaction.compact_node(self.kernel, node)

    def alloc_contig(self, start_pfn: int, end_pfn: int) -> Contiguous:
        """Take the frames from @start_pfn to @end_pfn for oneself; what is in use there moves
        away.  The pageblocks around it are movable afterwards.

        Raises OSError: EBUSY if something does not move, ENOMEM.  ScenarioError: no such frames.
        """
        return alloc_contig_frames(self.kernel, start_pfn, end_pfn, self.contiguous)

    def cma(self, size: int, node: int = 0) -> CmaArea:
        """Set aside an area of @size bytes, a multiple of 4 MiB, of free memory, which only movable
        pages may use until somebody takes it with `alloc`."""
        if not 0 <= node < len(self.kernel.nodes):
            raise ScenarioError(f"there is no node {node}")
        return CmaArea(self.kernel, node, size // 4096, self.contiguous)

    def offline(self, what: int | range) -> None:
        """Take a node, or a range of frames, out of use; what is in use there moves away.  A node
        goes in blocks of 128 MiB, the movable ones first; if one cannot go, those before it
        stay out of use.

        Raises OSError: EBUSY, EAGAIN or ENOMEM if something does not move, EINVAL if the range
        is not made of blocks of 4 MiB of one zone.  ScenarioError: there is no such node.
        """
        offline(self.kernel, what)

    def online(self, what: int | range) -> None:
        """Take a node, or a range of frames, into use again.

        Raises OSError: EINVAL if the range is in use.  ScenarioError: there is no such node.
        """
        online(self.kernel, what)

    def soft_offline(self, pfn: int) -> None:
        """Take a frame out of use whose memory is suspect: a write to
        /sys/devices/system/memory/soft_offline_page.

        Raises OSError: EBUSY if it is out already, EIO if its page does not move.
        """
        soft_offline(self.kernel, pfn)

    @cached_property
    def balloon(self) -> Balloon:
        """The balloon of this machine, which its host can inflate and deflate."""
        return Balloon(self.kernel)

    def finish_io(self) -> None:
        """Wait until all disks are idle."""
        block.drain(self.kernel)

    def drain_pagevecs(self) -> None:
        """Empty the per-CPU page vectors, as migrate_prep does."""
        swap.lru_add_drain_all(self.kernel)

    # --- looking ---

    def page_of(self, process: Process, address: int) -> Page | None:
        """The page mapped at an address (model only)."""
        return process.page_at(address)

    def check(self) -> list[Violation]:
        """Ask every oracle; the violations."""
        return _oracles()(self)


@cache
def _oracles() -> Callable[[Machine], list[Violation]]:
    """The one call upwards: the oracles read this room, and it offers their answer."""
    from mmigrate.check import check

    return check


def _check_movable(nodes: Sequence[int], movable: Sequence[int] | None) -> None:
    if movable is None:
        return
    if len(movable) != len(nodes) or min(movable) < 0:
        raise ScenarioError(
            f"movable={list(movable)} must give bytes for each of {len(nodes)} nodes"
        )
    if all(-(-part // MiB(4)) * MiB(4) >= size for size, part in zip(nodes, movable, strict=True)):
        raise ScenarioError(
            "all memory is movable, in units of 4 MiB: the kernel needs some itself"
        )


def _check_shape(
    nodes: Sequence[int],
    cpus: Sequence[int] | None,
    distances: Sequence[Sequence[int]] | None,
) -> None:
    if not any(nodes):
        raise ScenarioError("a machine needs memory on at least one node")
    for number, size in enumerate(nodes):
        if size < 0 or size % 4096:
            raise ScenarioError(f"node {number} has {size} bytes, not a number of whole pages")
    if cpus is not None and (not cpus or any(not 0 <= n < len(nodes) for n in cpus)):
        raise ScenarioError(
            f"cpus={list(cpus)} must name the node of each CPU, 0 to {len(nodes) - 1}"
        )
    if distances is not None and (
        len(distances) != len(nodes) or any(len(row) != len(nodes) for row in distances)
    ):
        raise ScenarioError(f"distances must be {len(nodes)} rows of {len(nodes)} numbers")
