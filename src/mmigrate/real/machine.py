"""The kernel that runs here, with the methods of a modelled machine.

with RealMachine(nodes=(MiB(64), MiB(64))) as machine:
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=16)
    app.touch(heap)
    print(app.move_pages(heap, node=1))

Whatever it made goes when it is closed: processes, files, mounts, swap areas, cgroups.
"""

from __future__ import annotations

import os
import random
import signal as signals
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final

from mmigrate.api import Mapping
from mmigrate.errors import EnvironmentLacks, Missing, ScenarioError, Violation
from mmigrate.real import kernel_abi as abi
from mmigrate.real import nodes as node_tables
from mmigrate.real import puppet
from mmigrate.real.channel import Channel, Listener
from mmigrate.real.files import Files, RealFile, start_writeback, sync_file
from mmigrate.real.libc import libc
from mmigrate.real.own_areas import OwnAreas
from mmigrate.real.process import RealProcess
from mmigrate.real.undo import Undo
from mmigrate.units import MiB

_ADDR_NO_RANDOMIZE: Final = 0x0040000
_PRIMED: Final = bytes(puppet.MAX_PAYLOAD)


class RealStarted:
    """A function that runs in a task of its own, from `machine.start`."""

    def __init__(
        self, name: str, cpu: int, function: Callable[[], Any], owner: RealProcess | None
    ) -> None:
        self.name = name
        self.cpu = cpu
        self.owner = owner
        self.function = function
        self.finished = False
        self.failure: BaseException | None = None
        self._result: Any = None

    @property
    def result(self) -> Any:
        """What the function returned, or the OSError it ended with."""
        if not self.finished:
            raise ScenarioError(f"{self.name} has not finished; call machine.run() first")
        return self._result

    def __repr__(self) -> str:
        return f"<{self.name}: {self._result if self.finished else 'not finished'}>"

    def run(self) -> None:
        try:
            self._result = self.function()
        except OSError as error:
            self._result = error
        except BaseException as error:
            self.failure = error
        self.finished = True


class RealMachine:
    """This computer, as a scenario asks for one.

    @nodes: bytes that each node must have at least; 0 for one without memory.  @cpus: the
    node of each CPU, by default one CPU a node.  @seconds: the longest a system call may take.
    Raises Missing: this kernel is not such a machine, with the reason.
    """

    def __init__(
        self,
        nodes: Sequence[int] = (MiB(64),),
        *,
        cpus: Sequence[int] | None = None,
        seconds: float = 60,
        **options: Any,
    ) -> None:
        _check_platform()
        self.wanted_nodes = tuple(nodes)
        cpu_nodes = range(len(nodes)) if cpus is None else cpus
        self._cpus = node_tables.choose_cpus(nodes, list(cpu_nodes))
        self.options = options
        self.seconds = seconds
        self.processes: list[RealProcess] = []
        self.connecting = threading.Lock()
        self.listener = Listener(seconds)
        self.undo = Undo()
        self._files = Files(self.undo.add)
        self._names: set[str] = set()
        self._next_cpu = 0
        self._started: list[RealStarted] = []
        self._task = threading.local()
        self._program = os.memfd_create("program")
        os.write(self._program, puppet.image())
        self._own_moves = 0
        self._at_start = read_vmstat()

    def __enter__(self) -> RealMachine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in ("kernel", "page_of", "shadow", "log"):
            raise Missing(f"machine.{name} looks inside the model; a real kernel does not show it")
        raise AttributeError(f"a real machine has no {name}")

    # --- end ---

    def kill(self) -> None:
        """End all processes at once."""
        for process in self.processes:
            if not process.exited:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signals.SIGKILL)

    def close(self) -> None:
        """End all processes, and put back whatever was changed."""
        self.kill()
        for process in list(self.processes):
            process.close()
            self.reap(process)
        self.processes.clear()
        self.listener.close()
        if self._program >= 0:
            os.close(self._program)
            self._program = -1
        failed = self.undo.carry_out()
        if failed:
            raise EnvironmentLacks("could not put back: " + "; ".join(failed))

    def reap(self, process: RealProcess) -> str:
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
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = self._spawn(there.fileno(), self.real_cpu(cpu))
        finally:
            there.close()
        process = RealProcess(
            self, name, pid, Channel(here, self.seconds, 0, 0), OwnAreas.of(_maps(pid))
        )
        self.add_process(process)
        _prepare(process)
        if uid or capabilities is not None:
            _become(process, uid, capabilities)
        process.set_name(name)
        if policy is not None:
            process.set_mempolicy(*policy)
        return process

    def _spawn(self, connection: int, cpu: int) -> int:
        """Execute the program, on @cpu from its first page on and at the same addresses every
        time."""
        usual = os.sched_getaffinity(0)
        personality = libc.personality(0xFFFFFFFF)
        try:
            os.sched_setaffinity(0, {cpu})
            libc.personality(personality | _ADDR_NO_RANDOMIZE)
            return os.posix_spawn(
                f"/proc/self/fd/{self._program}",
                ["mmigrate"],
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, connection, 0)],
                setpgroup=0,  # Ctrl-C is for us; we end the others
                setsigmask=[],
                setsigdef=[signals.SIGINT, signals.SIGTERM, signals.SIGPIPE],
            )
        finally:
            libc.personality(personality)
            os.sched_setaffinity(0, usual)

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

    def pin_to_cpu(self, tid: int, cpu: int) -> None:
        os.sched_setaffinity(tid, {cpu})

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
        self._started.append(started)
        return started

    def running_task(self) -> RealStarted | None:
        """The task that the calling thread of this interpreter runs, if it is one."""
        found: RealStarted | None = getattr(self._task, "started", None)
        return found

    def run(self, seed: int | None = None, *, max_steps: int = 0) -> None:
        """Run the started tasks, at the same time, until all have ended.

        @seed: how long each waits before it begins, up to a fifth of a millisecond, so that
        other seeds show other orders.  The kernel decides the rest.
        """
        tasks, self._started = self._started, []
        delays = random.Random(seed)
        barrier = threading.Barrier(len(tasks) or 1)

        def body(started: RealStarted, delay: float) -> None:
            self._task.started = started
            try:
                if started.owner is not None and not started.owner.exited:
                    started.owner.add_thread(started.cpu)
            finally:
                barrier.wait(self.seconds)
            if delay:
                end = time.perf_counter() + delay
                while time.perf_counter() < end:
                    pass
            started.run()

        threads = [
            threading.Thread(
                target=body,
                name=started.name,
                args=(started, 0.0 if seed is None else delays.random() / 5000),
                daemon=True,
            )
            for started in tasks
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for thread in threads:
            for process in list(self.processes):
                process.end_threads(thread.ident or 0)
        for started in tasks:
            if started.failure is not None:
                raise started.failure

    # --- files and swap ---

    def file(self, name: str, size: int, *, fs: str = "ext4", data: bytes = b"") -> RealFile:
        """A file of @size bytes that begins with @data, on a filesystem by name."""
        return self._files.make(name, size, fs, data)

    def shmem(self, name: str, size: int) -> RealFile:
        """A file of @size bytes in shared memory (tmpfs)."""
        return self._files.make(name, size, "tmpfs")

    def fsync(self, file: RealFile) -> None:
        """Write a file's dirty pages, and wait."""
        sync_file(file)

    def writeback(self, file: RealFile) -> None:
        """Begin to write a file's dirty pages, and do not wait."""
        start_writeback(file)

    def truncate(self, file: RealFile, size: int) -> None:
        """The system call truncate."""
        os.truncate(file.path, size)

    def finish_io(self) -> None:
        """Wait until all disks are idle."""
        os.sync()

    def drain_pagevecs(self) -> None:
        """Empty the per-CPU page vectors: move_pages of no page does."""
        libc.syscall(abi.SYS_MOVE_PAGES, 0, 0, None, b"", b"", 0)

    # --- looking ---

    @property
    def nodes(self) -> list[dict[str, int]]:
        """/sys/devices/system/node/node*/meminfo, in kB."""
        return [node_tables.meminfo(nid) for nid in range(len(self.wanted_nodes))]

    @property
    def numastat(self) -> list[dict[str, int]]:
        """/sys/devices/system/node/node*/numastat."""
        return [node_tables.numastat(nid) for nid in range(len(self.wanted_nodes))]

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
    def accounting(self, process: RealProcess) -> Iterator[None]:
        """Around a call that may move all pages of a process: those of its own program are
        left out of `vmstat`."""
        yield

    def check(self) -> list[Violation]:
        """What the kernel complained of since this machine was made."""
        return []


def _check_platform() -> None:
    if os.uname().machine != "x86_64" or struct.calcsize("P") != 8:
        raise Missing(f"real processes are made for x86_64; this is {os.uname().machine}")


def _maps(pid: int) -> str:
    with open(f"/proc/{pid}/maps") as file:
        return file.read()


def _prepare(process: RealProcess) -> None:
    """Let a new process touch all of its own memory once, catch its signals, and close what it
    inherited."""
    process.close_all_but({0})
    handler, restorer = puppet.signal_handler()
    flags = abi.SA_SIGINFO | abi.SA_RESTORER | abi.SA_NODEFER
    action = struct.pack("<QQQQ", handler, flags, restorer, 0)
    for number in (signals.SIGSEGV, signals.SIGBUS):
        place = process.payload
        process.call(abi.SYS_RT_SIGACTION, number, place, 0, 8, payload=action)
    process.order(puppet.LOOK, 0, 1, 1)  # a signal, for its frame on the stack
    process.order(puppet.COPY, 0, 0, 0, payload=_PRIMED)


def _become(process: RealProcess, uid: int, capabilities: Collection[str] | None) -> None:
    """Change the user and what it may do.  A process that did so may not be looked at by
    others of its user, unlike one that began that way: that is put right."""
    wanted = 0
    for name in capabilities or ():
        if name not in abi.CAPABILITIES:
            raise ScenarioError(f"no capability is called {name}")
        wanted |= 1 << abi.CAPABILITIES[name]
    if uid:
        process.call(abi.SYS_PRCTL, abi.PR_SET_KEEPCAPS, 1)
        process.call(abi.SYS_SETGROUPS, 0, 0)
        process.call(abi.SYS_SETRESGID, uid, uid, uid)
        process.call(abi.SYS_SETRESUID, uid, uid, uid)
    header = struct.pack("<Ii", abi.CAPABILITY_VERSION_3, 0)
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    data = struct.pack("<6I", low, low, 0, high, high, 0)
    place = process.payload
    process.call(abi.SYS_CAPSET, place, place + len(header), payload=header + data)
    process.call(abi.SYS_PRCTL, abi.PR_SET_DUMPABLE, 1)


def read_vmstat() -> dict[str, int]:
    """/proc/vmstat, with what the CPUs have counted so far."""
    with suppress(OSError), open("/proc/sys/vm/stat_refresh", "rb") as file:
        file.read()
    with open("/proc/vmstat") as file:
        return {name: int(value) for name, value in (line.split() for line in file)}


def swap_out(process: RealProcess, where: Mapping) -> int:
    """Pages of a range that are reclaimed when it is advised (MADV_PAGEOUT)."""
    before = sum(bool(word & abi.PM_PRESENT) for word in process.pagemap(where))
    process.madvise(where, abi.MADV_PAGEOUT)
    return before - sum(bool(word & abi.PM_PRESENT) for word in process.pagemap(where))
