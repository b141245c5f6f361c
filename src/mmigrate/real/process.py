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
import time
from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from mmigrate.api import Mapping, MoveResult
from mmigrate.arguments import (
    Where,
    by_page,
    length_of,
    natural,
    policy_mode,
    protection,
    range_of,
    whole_pages,
)
from mmigrate.errors import MemoryFault, Missing, ScenarioError
from mmigrate.real import kernel_abi as abi
from mmigrate.real import puppet
from mmigrate.real.channel import SIGNALS
from mmigrate.real.files import RealFile
from mmigrate.real.kernel_log import read_vmstat
from mmigrate.real.node_masks import mask_words, nodes_in
from mmigrate.real.obedient import Obedient, checked
from mmigrate.real.pages import pagemap_words, query_nodes, reasons_of
from mmigrate.units import PAGE_SIZE

if TYPE_CHECKING:
    pass

_PIPE_PAGES: Final = 256  # of one pipe: 1 MiB, the most that anybody may ask for
_SPINS: Final = 10_000_000
_SCAN_SECONDS: Final = 20  # the first scan comes after some seconds of CPU time
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


class RealProcess(Obedient):
    """A process.  `machine.process` makes one."""

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
        hugetlb: int = 0,
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
        if hugetlb:
            if hugetlb & (hugetlb - 1) or hugetlb < PAGE_SIZE:
                raise ScenarioError(f"hugetlb={hugetlb} is not the size of a huge page")
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
        if advice in (abi.MADV_HWPOISON, abi.MADV_SOFT_OFFLINE):
            self.machine.settings.soft_offline_allowed()
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
        mask, bits = mask_words(nodes, maxnode)
        checked(self._call_with(abi.SYS_MBIND, (start, size, policy_mode(mode), mask, bits, flags)))

    def set_mempolicy(
        self, mode: int | str, nodes: Collection[int] = (), *, maxnode: int | None = None
    ) -> None:
        mask, bits = mask_words(nodes, maxnode)
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
        old, bits = mask_words(from_, maxnode)
        new, more_bits = mask_words(to, maxnode)
        target = self if process is None else process
        pid = 0 if target is self else target.pid
        with self.machine.accounting(target):
            result = self._call_with(abi.SYS_MIGRATE_PAGES, (pid, max(bits, more_bits), old, new))
        return checked(result)

    def join(self, group: Any) -> None:
        """Be moved into a cpuset or cgroup of this machine."""
        with self.machine.accounting(self):
            group.attach(self)

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

    def numa_scan(self) -> None:
        """Let NUMA balancing mark the memory of this process, which it does on the CPU time of
        the process: it spins until some has been marked."""
        before = read_vmstat().get("numa_pte_updates", 0)
        end = time.monotonic() + _SCAN_SECONDS
        while time.monotonic() < end:
            self.order(puppet.SPIN, _SPINS)
            if read_vmstat().get("numa_pte_updates", 0) > before:
                return
        raise Missing("NUMA balancing did not look at the process; it is off, or not built in")

    # --- looking ---

    def own_placement(self) -> dict[int, int]:
        """The node of each page of the program that obeys us."""
        addresses = array("Q")
        for area in self.own.mappings(self._slots):
            addresses.extend(area.pages())
        nodes = query_nodes(self.pid, addresses)
        return {page: node for page, node in zip(addresses, nodes, strict=True) if node >= 0}

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
