"""The kernel that runs here, with the methods of a modelled machine.

with RealMachine(nodes=(MiB(64), MiB(64))) as machine:
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=16)
    app.touch(heap)
    print(app.move_pages(heap, node=1))

Whatever it made goes when it is closed: processes, files, mounts, swap areas, cgroups. What it
changed is put back. The same happens if this interpreter is killed.
"""

from __future__ import annotations

import os
import signal as signals
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from mmigrate.api import Mapping
from mmigrate.errors import EnvironmentLacks, Missing, ScenarioError, Violation
from mmigrate.real import kernel_abi as abi
from mmigrate.real import nodes as node_tables
from mmigrate.real.channel import Channel, Listener
from mmigrate.real.files import Files, RealFile, start_writeback, sync_file
from mmigrate.real.groups import Cgroup, Cpuset, Groups
from mmigrate.real.hugetlb_mount import HugetlbMount
from mmigrate.real.kernel_log import KernelLog, isolated_pages, read_vmstat
from mmigrate.real.libc import libc
from mmigrate.real.obedient import Obedient
from mmigrate.real.outside import Balloon
from mmigrate.real.own_areas import OwnAreas
from mmigrate.real.process import RealProcess
from mmigrate.real.settings import Settings, disposable
from mmigrate.real.spawn import Spawner, become, prepare
from mmigrate.real.swap import RealSwapArea, Swap
from mmigrate.real.tasks import RealStarted, Tasks
from mmigrate.real.undo import Undo
from mmigrate.units import MiB

_LASTING: Final = Path("/run/mmigrate")  # filesystems of a guest, for the machines to come
_SMALL: Final = MiB(16)  # a node of this size is meant to become full
_INSIDE: Final = ("kernel", "page_of", "shadow", "log")
_NOT_TO_BE_HAD: Final = {
    "kswapd": "kswapd acts when it is needed",
    "alloc_contig": "no system call takes given frames out of use",
    "cma": "areas for contiguous memory are set aside at boot",
    "device": "there is no device that shares page tables",
}


class RealMachine:
    """This computer, as a scenario asks for one.

    @nodes: bytes that each node must have at least; 0 for one without memory.  In a guest a node
    of up to 16 MiB is filled until that much is free: a scenario means to run short.  @cpus: the
    node of each CPU, by default one CPU a node.  @distances: rows of the distance table that it
    must have.  @thp, @numa_balancing: as for a modelled machine.  @seconds: the longest a
    system call may take.  Other arguments of a modelled machine mean nothing here.
    Raises Missing: this kernel is not such a machine, with the reason.
    """

    def __init__(
        self,
        nodes: Sequence[int] = (MiB(64),),
        *,
        cpus: Sequence[int] | None = None,
        distances: Sequence[Sequence[int]] | None = None,
        thp: str = "madvise",
        numa_balancing: bool = False,
        without: Collection[str] = (),
        seconds: float = 60,
        **others: Any,
    ) -> None:
        if without:
            raise Missing("no commit can be taken away from a kernel that is built")
        self._cpus = node_tables.choose_cpus(nodes, cpus)
        node_tables.check_distances(distances)
        self.wanted_nodes = tuple(nodes)
        self.seconds = seconds
        self.others = others
        self.processes: list[RealProcess] = []
        self.connecting = threading.Lock()
        self.undo = Undo()
        self.settings = Settings(self.undo)
        self._spawner = Spawner()
        self.listener = Listener(seconds)
        self._files = Files(self.undo.add, _LASTING if disposable() else None)
        self._swap = Swap(self._files, self.undo)
        self._groups = Groups(self.undo)
        self._tasks = Tasks()
        self._names: set[str] = set()
        self._next_cpu = 0
        self._balloon: Balloon | None = None
        self._log = KernelLog()
        self._own_moves = 0
        try:
            if os.geteuid() == 0:
                self.settings.thp(thp)
                self.settings.numa_balancing(numa_balancing)
                for node, size in enumerate(nodes):
                    if 0 < size <= _SMALL and disposable():
                        self.settings.leave_free(node, size)
            elif numa_balancing:
                raise Missing("only root can switch NUMA balancing on")
            self._at_start = read_vmstat()
            self._numastat_at_start = [node_tables.numastat(node) for node in range(len(nodes))]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RealMachine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except EnvironmentLacks as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    def __getattr__(self, name: str) -> Any:
        if name in _INSIDE:
            raise Missing(f"machine.{name} looks inside the model; a real kernel does not show it")
        if name in _NOT_TO_BE_HAD:
            raise Missing(f"machine.{name} is not to be had: {_NOT_TO_BE_HAD[name]}")
        raise AttributeError(f"a real machine has no {name}")

    # --- end ---

    def kill(self) -> None:
        """End all processes at once."""
        for process in self.processes:
            if not process.exited:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signals.SIGKILL)

    def close(self) -> None:
        """End all processes, and put back whatever was changed.

        Raises EnvironmentLacks: something could not be put back.
        """
        self.kill()
        for process in list(self.processes):
            process.close()
            self.reap(process)
        self.processes.clear()
        self.listener.close()
        self._spawner.close()
        self._log.close()
        failed = self.undo.carry_out()
        if failed:
            raise EnvironmentLacks("could not put back: " + "; ".join(failed))

    def reap(self, process: Obedient) -> str:
        """Wait for a process that has ended, or is about to; how it ended, in words."""
        end = time.monotonic() + self.seconds
        try:
            while True:
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid or time.monotonic() > end:
                    break
                time.sleep(0.0005)
        except ChildProcessError:
            return "has ended"
        if not pid:
            return "cannot be ended: it hangs in the kernel"
        process.exited = True
        if os.WIFSIGNALED(status):
            return f"was killed by {signals.Signals(os.WTERMSIG(status)).name}"
        return "has ended"

    # --- processes and tasks ---

    def process(
        self,
        name: str = "app",
        *,
        cpu: int = 0,
        policy: tuple[int | str, Collection[int]] | None = None,
        uid: int = 0,
        capabilities: Collection[str] | None = None,
    ) -> RealProcess:
        """A new process with one thread.

        @policy: (mode, nodes) for set_mempolicy.  @uid: its user; 0 is whoever runs this, with
        what that user may do.  @capabilities: all that it is to have.
        """
        if uid and os.geteuid() != 0:
            raise Missing(f"only root can start a process as user {uid}")
        name = self.unique_name(name)
        pid, connection = self._spawner.start(self.real_cpu(cpu))
        channel = Channel(connection, self.seconds, 0, 0)
        with open(f"/proc/{pid}/maps") as file:
            own = OwnAreas.of(file.read())
        process = self.add_process(RealProcess(self, name, pid, channel, own))
        prepare(process)
        if uid or capabilities is not None:
            become(process, uid, capabilities)
        process.set_name(name)
        if policy is not None:
            process.set_mempolicy(*policy)
        return process

    def add_process(self, process: RealProcess) -> RealProcess:
        self.processes.append(process)
        return process

    def remove_process(self, process: RealProcess) -> None:
        self.processes.remove(process)

    def unique_name(self, name: str) -> str:
        """@name, or with a number behind it if that was taken."""
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}.{number}"
        self._names.add(unique)
        return unique

    def real_cpu(self, number: int) -> int:
        """The CPU of this computer that stands for CPU @number of the machine asked for."""
        if not 0 <= number < len(self._cpus):
            raise ScenarioError(f"there is no CPU {number}; this machine has {len(self._cpus)}")
        return self._cpus[number]

    def wait_for_thread(self, pid: int, tid: int) -> None:
        """Until a thread that was told to end has ended."""
        end = time.monotonic() + self.seconds
        while os.path.exists(f"/proc/{pid}/task/{tid}") and time.monotonic() < end:
            time.sleep(0.0002)

    def start(
        self, function: Callable[..., Any], *arguments: Any, cpu: int | None = None, **options: Any
    ) -> RealStarted:
        """Run a function in a task of its own, from the next `run()` on.

        A method of a process runs as another thread of it. @cpu: where; by default the
        CPUs take turns.
        """
        if cpu is None:
            cpu = self._next_cpu
            self._next_cpu = (self._next_cpu + 1) % len(self._cpus)
        method_of = getattr(function, "__self__", None)
        owner = method_of if isinstance(method_of, RealProcess) else None
        prefix = f"{owner.name}:" if owner is not None else ""
        name = self.unique_name(prefix + getattr(function, "__name__", "task"))
        started = RealStarted(
            name, self.real_cpu(cpu), lambda: function(*arguments, **options), owner
        )
        self._tasks.add(started)
        return started

    def running_task(self) -> RealStarted | None:
        """The task that the calling thread of this interpreter runs, if it is one."""
        return self._tasks.current()

    def run(self, seed: int | None = None, *, max_steps: int = 0) -> None:
        """Run the started tasks, at the same time, until all have ended.

        @seed: how long each waits before it begins, up to a fifth of a millisecond, so that
        other seeds show other orders.  The kernel decides the rest.
        """
        tasks = self._tasks.waiting()
        for thread in self._tasks.run(seed, self.seconds):
            for process in list(self.processes):
                process.end_threads(thread)
        for started in tasks:
            if started.failure is not None:
                raise started.failure

    # --- files and swap ---

    def file(self, name: str, size: int, *, fs: str = "ext4", data: bytes = b"") -> RealFile:
        """A file of @size bytes that begins with @data, on a filesystem by name."""
        return self._files.make(name, size, fs, data)

    def hugetlbfs(self, size: int | None = None, *, page_size: int = MiB(2)) -> HugetlbMount:
        """Mount a hugetlbfs of pages of @page_size bytes; files come from its `file`.  @size: bytes
        that its files may have in all, rounded down to whole pages; None: no limit."""
        return HugetlbMount(self._files, self.undo.add, size, page_size)

    def shmem(self, name: str, size: int) -> RealFile:
        """A file of @size bytes in shared memory (tmpfs)."""
        return self._files.make(name, size, "tmpfs")

    def fsync(self, file: RealFile) -> None:
        """Write a file's dirty pages, and wait."""
        sync_file(file)

    def writeback(self, file: RealFile) -> None:
        """Begin to write a file's dirty pages, and do not wait."""
        start_writeback(file)

    def start_flusher(self) -> None:
        """Begin to write the dirty pages of all files."""
        for file in self._files.files.values():
            start_writeback(file)

    def truncate(self, file: RealFile, size: int) -> None:
        """The system call truncate."""
        if size < 0:
            os.truncate(file.path, size)
        os.truncate(file.path, size)

    def drop_caches(self) -> None:
        """Drop the clean, unmapped pages of all files."""
        self.settings.drop_caches()

    def finish_io(self) -> None:
        """Wait until all disks are idle."""
        os.sync()

    def drain_pagevecs(self) -> None:
        """Empty the per-CPU page vectors: move_pages of no page does."""
        libc.syscall(abi.SYS_MOVE_PAGES, 0, 0, None, b"", b"", 0)

    def swapon(self, size: int = MiB(64)) -> RealSwapArea:
        """Add a swap area of @size bytes."""
        return self._swap.on(size)

    def swapoff(self, area: RealSwapArea) -> None:
        self._swap.off(area)

    def swap_out(self, process: RealProcess, where: Mapping) -> int:
        """Reclaim the pages of a range, as far as the rules of reclaim allow; how many."""
        before = sum(bool(word & abi.PM_PRESENT) for word in process.pagemap(where))
        process.madvise(where, abi.MADV_PAGEOUT)
        return before - sum(bool(word & abi.PM_PRESENT) for word in process.pagemap(where))

    # --- groups ---

    def cpuset(self, name: str, nodes: Collection[int], *, memory_migrate: bool = False) -> Cpuset:
        """A cpuset that allows memory on @nodes; @memory_migrate: memory follows its tasks and
        its changes.  Processes join with `process.join(cpuset)`."""
        return self._groups.cpuset(name, nodes, memory_migrate)

    def set_mems(self, cpuset: Cpuset, nodes: Collection[int]) -> None:
        """Write to a cpuset's `mems`."""
        with self.accounting(*(process for process in self.processes if not process.exited)):
            cpuset.set_mems(nodes)

    def cgroup(self, name: str, limit: int | None = None, parent: Cgroup | None = None) -> Cgroup:
        """A memory cgroup with a limit in bytes.  Processes join with `process.join(cgroup)`."""
        return self._groups.cgroup(name, limit, parent)

    # --- memory as a whole ---

    def compact(self, node: int | None = None) -> None:
        """Compact the memory of a node, or of all."""
        self.settings.compact(node)

    def hugepages(
        self,
        count: int | None = None,
        *,
        node: int | None = None,
        size: int = MiB(2),
        overcommit: int | None = None,
    ) -> int:
        """Set how many huge pages a pool has (None: leave it); how many it has now.
        @overcommit: how many more may come and go."""
        return self.settings.hugepages(count, node, size, overcommit)

    def khugepaged_scan(self) -> int:
        """Let khugepaged look at everything that is advised; how many huge pages it made."""
        before = read_vmstat().get("thp_collapse_alloc", 0)
        self.settings.khugepaged_scan()
        return read_vmstat().get("thp_collapse_alloc", 0) - before

    def split(self, process: RealProcess, address: int) -> None:
        """Split the huge page at an address."""
        self.settings.split(process.pid, address, address + 4096)

    def ksm_scan(self) -> None:
        """Merge the equal pages of what is advised."""
        self.settings.ksm_scan()

    def offline(self, what: int | range) -> None:
        """Take a node, or a range of frames, out of use; OSError if something cannot go."""
        if isinstance(what, range):
            self.settings.offline_range(what.start, what.stop - 1)
        else:
            self.settings.offline_node(what)

    def online(self, what: int | range) -> None:
        """Take a node, or a range of frames, into use again."""
        self.settings.online(what)

    def soft_offline(self, pfn: int) -> None:
        """Take a frame out of use whose memory is suspect; OSError if its page does not move."""
        self.settings.soft_offline(pfn)

    @property
    def balloon(self) -> Balloon:
        """The virtio balloon."""
        if self._balloon is None:
            self._balloon = Balloon()
        return self._balloon

    # --- looking ---

    @property
    def nodes(self) -> list[dict[str, int]]:
        """/sys/devices/system/node/node*/meminfo, in kB."""
        return [node_tables.meminfo(nid) for nid in range(len(self.wanted_nodes))]

    @property
    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo, in kB, and numbers of huge pages."""
        lines = Path("/proc/meminfo").read_text().splitlines()
        return {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}

    @property
    def numastat(self) -> list[dict[str, int]]:
        """/sys/devices/system/node/node*/numastat: how much each counter has changed since this
        machine was made."""
        return [
            {name: value - before[name] for name, value in node_tables.numastat(node).items()}
            for node, before in enumerate(self._numastat_at_start)
        ]

    @property
    def buddyinfo(self) -> str:
        """/proc/buddyinfo."""
        return Path("/proc/buddyinfo").read_text()

    @property
    def pagetypeinfo(self) -> str:
        """/proc/pagetypeinfo."""
        return _told("/proc/pagetypeinfo")

    @property
    def zoneinfo(self) -> str:
        """/proc/zoneinfo."""
        return _told("/proc/zoneinfo")

    @property
    def unusable_index(self) -> str:
        """/sys/kernel/debug/extfrag/unusable_index."""
        return _told("/sys/kernel/debug/extfrag/unusable_index")

    @property
    def extfrag_index(self) -> str:
        """/sys/kernel/debug/extfrag/extfrag_index."""
        return _told("/sys/kernel/debug/extfrag/extfrag_index")

    @property
    def vmstat(self) -> dict[str, int]:
        """/proc/vmstat: how much each counter has changed since this machine was made, without
        what the pages of the processes' own program did."""
        now = read_vmstat()
        change = {name: value - self._at_start.get(name, 0) for name, value in now.items()}
        if "pgmigrate_success" in change:
            change["pgmigrate_success"] -= self._own_moves
        return change

    @contextmanager
    def accounting(self, *processes: RealProcess) -> Iterator[None]:
        """Around a call that may move all pages of some processes: those of their own program
        are left out of `vmstat`."""
        before = [{} if process.exited else process.own_placement() for process in processes]
        yield
        for process, nodes in zip(processes, before, strict=True):
            if not process.exited:
                now = process.own_placement()
                self._own_moves += sum(now.get(page, node) != node for page, node in nodes.items())

    def check(self) -> list[Violation]:
        """What the kernel complained of since it was asked last, and pages that it forgot."""
        return self._log.complaints() + isolated_pages()


def _told(path: str) -> str:
    """What a file of the kernel says.  Raises Missing: it does not, to us."""
    try:
        return Path(path).read_text()
    except OSError as error:
        raise Missing(f"{path}: {error.strerror}") from error
