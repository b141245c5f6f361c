"""A process of the kernel that runs here, with the methods of a modelled one.

Each method is one system call of that process, or one loop of its loads and stores; errors are
OSError with the kernel's errno. In a task that `machine.start` began, a method runs on a thread of
its own of the process, so that calls overlap.
"""

from __future__ import annotations

import errno
import os
import signal as signals
import struct
import threading
from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mmigrate.api import Mapping, MoveResult
from mmigrate.errors import MemoryFault, Missing, ScenarioError
from mmigrate.real import kernel_abi as abi
from mmigrate.real import puppet
from mmigrate.real.arguments import (
    Where,
    by_page,
    length_of,
    natural,
    node_mask,
    nodes_in,
    policy_mode,
    protection,
    range_of,
    whole_pages,
)
from mmigrate.real.channel import SIGNALS, Channel, Gone
from mmigrate.real.files import RealFile
from mmigrate.real.own_areas import OwnAreas
from mmigrate.real.pages import pagemap_words, query_nodes, reasons_of
from mmigrate.units import PAGE_SIZE

if TYPE_CHECKING:
    from mmigrate.real.machine import RealMachine

_PIPE_PAGES: Final = 256  # of one pipe: 1 MiB, the most that anybody may ask for
_NOT_WRITTEN: Final = struct.pack("<i", -errno.ENOENT)  # of a status that the kernel left alone


class RealPin:
    """References on pages, held by the buffers of pipes."""

    def __init__(self, process: RealProcess, pipes: list[tuple[int, int]]) -> None:
        self.process = process
        self._pipes = pipes

    def release(self) -> None:
        """Drop them.  Once only; later calls do nothing."""
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            self.process.close_files(pipe)


class RealProcess:
    """A process that obeys orders.  @pid: its number.  `machine.process` makes one."""

    def __init__(
        self, machine: RealMachine, name: str, pid: int, channel: Channel, own: OwnAreas
    ) -> None:
        self.machine = machine
        self.name = name
        self.pid = pid
        self.exited = False
        self.own = own
        self._main = channel
        self._threads: dict[int, Channel] = {}  # by thread of this interpreter
        self._slots = {channel.slot}
        self._open_files: set[int] = {channel.file}
        self._by_name: dict[str, int] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<process {self.name}, pid {self.pid}>"

    def __getattr__(self, name: str) -> Any:
        if name in ("mm", "task", "page_at", "running"):
            raise Missing(f"process.{name} looks inside the model; a real kernel does not show it")
        raise AttributeError(f"a real process has no {name}")

    # --- orders ---

    @property
    def payload(self) -> int:
        """Where the payload of an order is, in the memory of the process."""
        return self._main.payload

    def _channel(self) -> Channel:
        """The thread of this process that works for whoever asks."""
        if self.exited:
            raise ProcessLookupError(errno.ESRCH, f"{self.name} has exited")
        running = self.machine.running_task()
        if running is None:
            return self._main
        channel = self._threads.get(threading.get_ident())
        return channel if channel is not None else self.add_thread(running.cpu)

    def order(
        self, operation: int, *arguments: int, payload: bytes = b"", back: int = 0
    ) -> tuple[int, int, bytes]:
        """One order; (result, where a fault was, payload)."""
        return self._tell(self._channel(), operation, *arguments, payload=payload, back=back)

    def _tell(
        self,
        channel: Channel,
        operation: int,
        *arguments: int,
        payload: bytes = b"",
        back: int = 0,
    ) -> tuple[int, int, bytes]:
        try:
            return channel.order(operation, *arguments, payload=payload, back=back)
        except Gone:
            raise ScenarioError(self._obituary()) from None
        except ScenarioError as error:
            self.machine.kill()
            raise ScenarioError(f"{self.name}: {error}") from None

    def _obituary(self) -> str:
        ending = self.machine.reap(self)
        return f"{self.name} {ending}"

    def call(self, number: int, *arguments: int, payload: bytes = b"", back: int = 0) -> int:
        """One system call; its result, or OSError."""
        return checked(self.order(number, *arguments, payload=payload, back=back)[0])

    def _call_with(
        self,
        number: int,
        arguments: Sequence[int | bytes | bytearray],
        channel: Channel | None = None,
    ) -> int:
        """A system call some of whose arguments are memory: bytes that it reads, and bytearrays
        that it reads and writes.  Its result, which may be an error."""
        channel = channel or self._channel()
        blobs = [blob for blob in arguments if not isinstance(blob, int)]
        sizes = [(len(blob) + 7) & ~7 for blob in blobs]
        whole = b"".join(
            bytes(blob).ljust(size, b"\0") for blob, size in zip(blobs, sizes, strict=True)
        )
        inline = len(whole) <= puppet.MAX_PAYLOAD
        place = channel.payload if inline else self.own.scratch(channel.slot)
        numbers: list[int] = []
        position = place
        for argument in arguments:
            if isinstance(argument, int):
                numbers.append(argument)
            else:
                numbers.append(position)
                position += (len(argument) + 7) & ~7
        if inline:
            writes = any(isinstance(blob, bytearray) for blob in blobs)
            back = len(whole) if writes else 0
            result, _, whole = self._tell(channel, number, *numbers, payload=whole, back=back)
        else:
            self._fill_scratch(channel, place, whole)
            try:
                result, _, _ = self._tell(channel, number, *numbers)
                whole = self._load(channel, place, len(whole))
            finally:
                self._tell(channel, abi.SYS_MUNMAP, place, whole_pages(len(whole)))
        position = 0
        for blob, size in zip(blobs, sizes, strict=True):
            if isinstance(blob, bytearray):
                blob[:] = whole[position : position + len(blob)]
            position += size
        return result

    def _fill_scratch(self, channel: Channel, place: int, data: bytes) -> None:
        flags = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_FIXED
        size, access = whole_pages(len(data)), abi.PROT_READ | abi.PROT_WRITE
        checked(self._tell(channel, abi.SYS_MMAP, place, size, access, flags, -1, 0)[0])
        for here, position, part in by_page(place, len(data)):
            piece = data[position : position + part]
            self._tell(channel, puppet.COPY, here, channel.payload, part, payload=piece)

    def _load(self, channel: Channel, address: int, length: int) -> bytes:
        """Bytes at @address, by loads."""
        found = bytearray()
        for here, _, part in by_page(address, length):
            signal, where, data = self._tell(
                channel, puppet.COPY, channel.payload, here, part, back=part
            )
            if signal:
                raise MemoryFault(SIGNALS.get(signal, str(signal)), where, self.name)
            found += data
        return bytes(found)

    def close_files(self, files: Collection[int]) -> None:
        for file in files:
            if file in self._open_files and not self.exited:
                self._open_files.discard(file)
                self.call(abi.SYS_CLOSE, file)

    def close_all_but(self, kept: Collection[int]) -> None:
        """Close what came from another process, by accident or by fork."""
        first = 0
        for file in [*sorted(kept), 0xFFFF_FFFF]:
            if first < file:
                last = file - 1
                checked(self._tell(self._main, abi.SYS_CLOSE_RANGE, first, last, 0)[0])
            first = file + 1

    # --- threads ---

    def add_thread(self, cpu: int) -> Channel:
        """A thread of this process for the calling thread of this interpreter."""
        with self._lock:
            slot = next(number for number in range(1, 1 << 16) if number not in self._slots)
            self._slots.add(slot)
            stack = self.own.stack(slot)
            access = abi.PROT_READ | abi.PROT_WRITE
            flags = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_FIXED
            size = self.own.stack_size
            main = self._main
            checked(self._tell(main, abi.SYS_MMAP, stack, size, access, flags, -1, 0)[0])
            channel = self._new_connection(main, abi.CLONE_A_THREAD, stack + size, slot)
        self._threads[threading.get_ident()] = channel
        self.machine.pin_to_cpu(channel.tid, cpu)
        return channel

    def end_threads(self, thread: int) -> None:
        """End the thread of this process that worked for @thread of this interpreter."""
        channel = self._threads.pop(thread, None)
        if channel is None:
            return
        if not self.exited:
            channel.send_last(abi.SYS_EXIT, 0)
            self.machine.wait_for_thread(self.pid, channel.tid)
            with suppress(ScenarioError):
                main = self._main
                self._tell(main, abi.SYS_CLOSE, channel.file)
                stack = self.own.stack(channel.slot)
                self._tell(main, abi.SYS_MUNMAP, stack, self.own.stack_size)
        self._slots.discard(channel.slot)
        self._open_files.discard(channel.file)
        channel.close()

    def _new_connection(self, channel: Channel, flags: int, stack: int, slot: int) -> Channel:
        """A thread or child that takes orders on a connection of its own."""
        with self.machine.connecting:
            listener = self.machine.listener
            stream = 5 | abi.O_CLOEXEC  # SOCK_SEQPACKET
            file = checked(self._tell(channel, abi.SYS_SOCKET, 1, stream, 0)[0])
            name = listener.address
            checked(
                self._tell(
                    channel, abi.SYS_CONNECT, file, channel.payload, len(name), payload=name
                )[0]
            )
            connection = listener.accept()
        tid = self._tell(channel, puppet.CLONE, flags, stack, file)[0]
        if tid < 0:
            connection.close()
            self._tell(channel, abi.SYS_CLOSE, file)
            checked(tid)
        if stack:
            self._open_files.add(file)
        else:
            self._tell(channel, abi.SYS_CLOSE, file)
        new = Channel(connection, self.machine.seconds, file, slot)
        new.tid = tid
        return new

    def on_cpu(self, number: int) -> RealProcess:
        """Run on another CPU from now on; self."""
        cpu = self.machine.real_cpu(number)
        self.machine.pin_to_cpu(self.pid, cpu)
        channel = self._threads.get(threading.get_ident())
        if channel is not None:
            self.machine.pin_to_cpu(channel.tid, cpu)
        return self

    # --- areas ---

    def mmap(
        self,
        length: int | None = None,
        *,
        pages: int | None = None,
        prot: int | str = "rw",
        flags: int = 0,
        file: RealFile | None = None,
        offset: int = 0,
        at: int | None = None,
        shared: bool = False,
        populate: bool = False,
        locked: bool = False,
        hugetlb: int | None = None,
    ) -> Mapping:
        """Map memory: private and anonymous unless told otherwise.

        @length: bytes, or @pages.  @prot: PROT_* or letters of "rwx", "" for none.
        @flags: further MAP_* flags.  @file: from machine.file() or machine.shmem(), at
        @offset bytes.  @at: exactly there (MAP_FIXED).  @hugetlb: of huge pages of this size.
        """
        size = length_of(length, pages)
        natural(at or 0, "an address")
        flags |= abi.MAP_SHARED if shared or flags & abi.MAP_SHARED else abi.MAP_PRIVATE
        if file is None:
            flags |= abi.MAP_ANONYMOUS
        flags |= (abi.MAP_POPULATE if populate else 0) | (abi.MAP_LOCKED if locked else 0)
        flags |= abi.MAP_FIXED if at is not None else 0
        unit = PAGE_SIZE
        if hugetlb is not None:
            flags |= abi.MAP_HUGETLB | (hugetlb.bit_length() - 1) << abi.MAP_HUGE_SHIFT
            unit = hugetlb
        number = -1 if file is None else self._open(file)
        start = self.call(abi.SYS_MMAP, at or 0, size, protection(prot), flags, number, offset)
        return Mapping(start, (size + unit - 1) & -unit)

    def _open(self, file: RealFile) -> int:
        """The number of the file as this process has it open."""
        number = self._by_name.get(file.name)
        if number is None:
            path = os.fsencode(file.path) + b"\0"
            number = checked(self._call_with(abi.SYS_OPEN, (path, abi.O_RDWR | abi.O_CLOEXEC, 0)))
            self._by_name[file.name] = number
            self._open_files.add(number)
        return number

    def munmap(self, where: Where, length: int | None = None) -> None:
        self.call(abi.SYS_MUNMAP, *range_of(where, length))

    def mremap(
        self,
        where: Mapping,
        new_length: int,
        *,
        may_move: bool = True,
        at: int | None = None,
    ) -> Mapping:
        """Grow, shrink or move a mapping; where it is now."""
        flags = (abi.MREMAP_MAYMOVE if may_move or at is not None else 0) | (
            abi.MREMAP_FIXED if at is not None else 0
        )
        natural(new_length, "a length")
        start = self.call(abi.SYS_MREMAP, where.start, where.length, new_length, flags, at or 0)
        return Mapping(start, whole_pages(new_length))

    def mprotect(self, where: Where, prot: int | str, length: int | None = None) -> None:
        self.call(abi.SYS_MPROTECT, *range_of(where, length), protection(prot))

    def madvise(self, where: Where, advice: int, length: int | None = None) -> None:
        self.call(abi.SYS_MADVISE, *range_of(where, length), advice)

    def mlock(self, where: Where, length: int | None = None) -> None:
        self.call(abi.SYS_MLOCK, *range_of(where, length))

    def munlock(self, where: Where, length: int | None = None) -> None:
        self.call(abi.SYS_MUNLOCK, *range_of(where, length))

    def mlockall(self, flags: int = abi.MCL_CURRENT) -> None:
        self.call(abi.SYS_MLOCKALL, flags)

    def munlockall(self) -> None:
        self.call(abi.SYS_MUNLOCKALL)

    def brk(self, address: int = 0) -> int:
        """Move the end of the heap; where it is now."""
        natural(address, "an address")
        return self.order(abi.SYS_BRK, address)[0]

    def remap_file_pages(self, where: Where, pgoff: int, length: int | None = None) -> None:
        """Let part of a shared file mapping show other pages of the file."""
        self.call(abi.SYS_REMAP_FILE_PAGES, *range_of(where, length), 0, pgoff, 0)

    def mincore(self, where: Where, length: int | None = None) -> list[bool]:
        """Which pages are resident."""
        start, size = range_of(where, length)
        found = bytearray(whole_pages(size) // PAGE_SIZE)
        checked(self._call_with(abi.SYS_MINCORE, (start, size, found)))
        return [bool(value & 1) for value in found]

    # --- life ---

    def fork(self, name: str | None = None, cpu: int | None = None) -> RealProcess:
        """A child with a copy of the memory, copied on write."""
        machine = self.machine
        channel = self._channel()
        flags = abi.CLONE_PARENT | signals.SIGCHLD
        connected = self._new_connection(channel, flags, 0, channel.slot)
        child_name = machine.unique_name(name or f"{self.name}-child")
        child = RealProcess(machine, child_name, connected.tid, connected, self.own)
        machine.add_process(child)
        child._slots = set(self._slots)
        child._by_name = dict(self._by_name)
        child._open_files |= set(self._by_name.values())
        child.close_all_but(child._open_files)
        child.set_name(child_name)
        if cpu is not None:
            child.on_cpu(cpu)
        return child

    def exit(self) -> None:
        """End: the address space goes."""
        self._channel().send_last(abi.SYS_EXIT_GROUP, 0)
        self.exited = True
        self._main.wait_for_end()
        self.machine.reap(self)
        self.machine.remove_process(self)
        self.close()

    def close(self) -> None:
        """Close the connections; the process ends if it has not yet."""
        self.exited = True
        for channel in (self._main, *self._threads.values()):
            channel.close()

    def set_name(self, name: str) -> None:
        words = (abi.PR_SET_NAME, os.fsencode(name)[:15] + b"\0")
        checked(self._call_with(abi.SYS_PRCTL, words, self._main))

    # --- loads and stores ---

    def touch(self, where: Where, *, write: bool = True, length: int | None = None) -> None:
        """One store (or load) in every page: a store of the byte that is there already."""
        start, size = range_of(where, length)
        operation = puppet.TOUCH if write else puppet.LOOK
        signal, address, _ = self.order(operation, start, start + size, PAGE_SIZE)
        if signal:
            raise MemoryFault(SIGNALS.get(signal, str(signal)), address, self.name)

    def write(self, address: int, data: bytes) -> None:
        """Store bytes, page by page."""
        channel = self._channel()
        for here, position, part in by_page(natural(address, "an address"), len(data)):
            piece = data[position : position + part]
            signal, where, _ = self._tell(
                channel, puppet.COPY, here, channel.payload, part, payload=piece
            )
            if signal:
                raise MemoryFault(SIGNALS.get(signal, str(signal)), where, self.name)

    def read(self, address: int, length: int) -> bytes:
        """Load bytes, page by page."""
        natural(address, "an address")
        return self._load(self._channel(), address, natural(length, "a length"))

    # --- NUMA ---

    def mbind(
        self,
        where: Where,
        mode: int | str,
        nodes: Collection[int] = (),
        *,
        length: int | None = None,
        move: bool = False,
        move_all: bool = False,
        strict: bool = False,
        flags: int = 0,
        maxnode: int | None = None,
    ) -> None:
        """Set the policy of a range, and move what does not agree if asked to.
        @mode: MPOL_* or a word such as "bind" or "interleave=static"."""
        start, size = range_of(where, length)
        flags |= (abi.MPOL_MF_MOVE if move else 0) | (abi.MPOL_MF_MOVE_ALL if move_all else 0)
        flags |= abi.MPOL_MF_STRICT if strict else 0
        mask, bits = node_mask(nodes, maxnode)
        checked(self._call_with(abi.SYS_MBIND, (start, size, policy_mode(mode), mask, bits, flags)))

    def set_mempolicy(
        self, mode: int | str, nodes: Collection[int] = (), *, maxnode: int | None = None
    ) -> None:
        mask, bits = node_mask(nodes, maxnode)
        checked(self._call_with(abi.SYS_SET_MEMPOLICY, (policy_mode(mode), mask, bits)))

    def get_mempolicy(
        self, address: int = 0, flags: int = 0, maxnode: int | None = None
    ) -> tuple[int, tuple[int, ...]]:
        """(policy with its mode flags, nodes)."""
        bits = maxnode or 1024
        mode, mask = bytearray(4), bytearray((bits + 63) // 64 * 8)
        checked(self._call_with(abi.SYS_GET_MEMPOLICY, (mode, mask, bits, address, flags)))
        return struct.unpack("<i", mode)[0], nodes_in(bytes(mask))

    def move_pages(
        self,
        where: Mapping | Sequence[int],
        node: int | Sequence[int] | None = None,
        *,
        process: RealProcess | None = None,
        flags: int = abi.MPOL_MF_MOVE,
    ) -> MoveResult:
        """Move pages to @node (one for all, or one a page), or with None ask where they
        are.  @process: whose pages, by default our own."""
        addresses = where.pages() if isinstance(where, Mapping) else where
        for address in () if isinstance(where, Mapping) else addresses:
            natural(address, "an address")
        wanted: bytes | int = 0
        if node is not None:
            nodes = [node] * len(addresses) if isinstance(node, int) else list(node)
            if len(nodes) != len(addresses):
                raise ScenarioError(f"{len(addresses)} pages, but {len(nodes)} nodes")
            wanted = array("i", nodes).tobytes()
        status = bytearray(_NOT_WRITTEN * len(addresses))
        target = self if process is None else process
        with self.machine.accounting(target):
            returned = self._call_with(
                abi.SYS_MOVE_PAGES,
                (
                    0 if target is self else target.pid,
                    len(addresses),
                    array("Q", addresses).tobytes(),
                    wanted,
                    status,
                    flags,
                ),
            )
        values = tuple(value for (value,) in struct.iter_unpack("<i", status))
        result = MoveResult(values, reasons_of(target.pid, addresses, values), returned)
        if returned < 0:
            error = OSError(-returned, os.strerror(-returned))
            error.add_note(f"move_pages: {result}")
            raise error
        return result

    def migrate_pages(
        self,
        from_: Collection[int],
        to: Collection[int],
        *,
        process: RealProcess | None = None,
        maxnode: int | None = None,
    ) -> int:
        """Move all pages on nodes @from_ to @to; how many could not be moved."""
        old, bits = node_mask(from_, maxnode)
        new, more_bits = node_mask(to, maxnode)
        target = self if process is None else process
        pid = 0 if target is self else target.pid
        with self.machine.accounting(target):
            result = self._call_with(abi.SYS_MIGRATE_PAGES, (pid, max(bits, more_bits), old, new))
        return checked(result)

    def join(self, group: Any) -> None:
        """Be moved into a cpuset or cgroup of this machine."""
        with self.machine.accounting(self):
            group.attach(self.pid)

    def pin(self, where: Where, *, length: int | None = None, write: bool = True) -> RealPin:
        """References on the pages, as I/O takes them; faults them in.  A pipe holds them: the
        pages are spliced into it, not given (vmsplice without SPLICE_F_GIFT)."""
        start, size = range_of(where, length)
        first = start & -PAGE_SIZE
        if write:  # vmsplice takes what it finds for reading
            signal, _, _ = self.order(puppet.TOUCH, first, start + size, PAGE_SIZE)
            if signal:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        count = whole_pages(size) // PAGE_SIZE
        pipes: list[tuple[int, int]] = []
        for begin in range(0, count, _PIPE_PAGES):
            pages = min(_PIPE_PAGES, count - begin)
            pipe = self._pipe(pages)
            pipes.append(pipe)
            for page in range(begin, begin + pages):
                vector = struct.pack("<QQ", first + page * PAGE_SIZE, PAGE_SIZE)
                result = self._call_with(abi.SYS_VMSPLICE, (pipe[1], vector, 1, 0))
                if result < 0:
                    for opened in pipes:
                        self.close_files(opened)
                    checked(result)
        return RealPin(self, pipes)

    def _pipe(self, pages: int) -> tuple[int, int]:
        """A pipe with room for @pages."""
        ends = bytearray(8)
        checked(self._call_with(abi.SYS_PIPE2, (ends, abi.O_CLOEXEC)))
        pipe = struct.unpack("<ii", ends)
        self._open_files |= set(pipe)
        if pages > 16:
            self.call(abi.SYS_FCNTL, pipe[1], abi.F_SETPIPE_SZ, pages * PAGE_SIZE)
        return pipe

    # --- files ---

    def pread(self, file: RealFile, length: int, offset: int = 0) -> bytes:
        """The system call pread."""
        data = bytearray(length)
        got = checked(self._call_with(abi.SYS_PREAD64, (self._open(file), data, length, offset)))
        return bytes(data[:got])

    def pwrite(self, file: RealFile, data: bytes, offset: int = 0) -> int:
        """The system call pwrite; how many bytes."""
        return checked(
            self._call_with(abi.SYS_PWRITE64, (self._open(file), bytes(data), len(data), offset))
        )

    # --- looking ---

    def placement(self, where: Where, length: int | None = None) -> dict[int, int]:
        """How many pages of the range are mapped on each node."""
        start, size = range_of(where, length)
        addresses = array("Q", range(start, start + size, PAGE_SIZE))
        counts = Counter(value for value in query_nodes(self.pid, addresses) if value >= 0)
        return dict(sorted(counts.items()))

    def numa_maps(self) -> str:
        """/proc/PID/numa_maps, without the areas of the program that obeys us."""
        return self.own.without(self._text("numa_maps"))

    def maps(self) -> str:
        """/proc/PID/maps, without the areas of the program that obeys us."""
        return self.own.without(self._text("maps"))

    def smaps(self) -> str:
        """/proc/PID/smaps, without the areas of the program that obeys us."""
        return self.own.without(self._text("smaps"))

    def _text(self, name: str) -> str:
        if self.exited:
            raise ProcessLookupError(errno.ESRCH, f"{self.name} has exited")
        with open(f"/proc/{self.pid}/{name}") as file:
            return file.read()

    def clear_refs(self, kind: int) -> None:
        """Write to /proc/PID/clear_refs: 1 to 3 forget accesses, 4 soft-dirty marks."""
        with open(f"/proc/{self.pid}/clear_refs", "w") as file:
            file.write(str(kind))

    def pagemap(self, where: Where, length: int | None = None) -> list[int]:
        """The 64-bit words of /proc/PID/pagemap."""
        start, size = range_of(where, length)
        return pagemap_words(self.pid, start, size)


def checked(result: int) -> int:
    """The result of a system call, or OSError."""
    if -4096 < result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
