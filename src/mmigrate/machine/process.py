"""A process as a user sees it: system calls, loads and stores  (the design's user-level API).

Each method is one system call, or one loop of user instructions. Called from a scenario it
runs at once; given to `machine.start` it runs in a task of its own, as another thread of
this process. Errors are OSError with the kernel's errno.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mmigrate.api import Mapping, MoveResult, Reason
from mmigrate.arguments import (
    Where,
    by_page,
    length_of,
    natural,
    node_mask,
    nodes_of,
    policy_mode,
    protection,
    range_of,
)
from mmigrate.errors import MemoryFault, ScenarioError
from mmigrate.linux.fs import task_mmu
from mmigrate.linux.fs.inode import open_file
from mmigrate.linux.include.hugetlb import hstate_vma
from mmigrate.linux.include.mempolicy import (
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
)
from mmigrate.linux.include.mm import (
    MADV_DONTNEED,
    MADV_REMOVE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_HUGE_SHIFT,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MCL_CURRENT,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    VM_HUGETLB,
    VM_SHARED,
)
from mmigrate.linux.include.mm_types import AddressSpace, File, Inode, Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    TASK_SIZE,
    huge_part,
    pmd_trans_huge,
    pte_pfn,
    pte_present,
)
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.cpuset import Cpuset
from mmigrate.linux.kernel.pgtable import find_leaf, ptep_get
from mmigrate.linux.kernel.tlb import user_access
from mmigrate.linux.mm import (
    filemap,
    first_touch,
    fork,
    fremap,
    gup,
    huge_memory,
    kswapd,
    madvise,
    memcg_move,
    memory,
    mempolicy,
    mincore,
    mlock,
    mmap,
    mprotect,
    mremap,
    policy_syscalls,
    swap,
    task_numa,
)
from mmigrate.linux.mm.cpuset_migration import cpuset_attach
from mmigrate.linux.mm.move_pages import sys_move_pages
from mmigrate.machine.cgroup import Cgroup
from mmigrate.machine.shadow import Key

if TYPE_CHECKING:
    from mmigrate.machine.machine import Machine

T = TypeVar("T")

POLICY_NAMES: Final = ("default", "prefer", "bind", "interleave", "local")


class Pin:
    """References that somebody holds on pages of a process, as for direct I/O."""

    def __init__(self, process: Process, pages: list[Page]) -> None:
        self.process = process
        self.pages = pages

    def release(self) -> None:
        """Drop them.  Once only; later calls do nothing."""
        pages, self.pages = self.pages, []
        # I/O may end later than the process that asked for it.
        with nullcontext() if self.process.exited else self.process.running():
            for page in pages:
                swap.put_page(page)
        if self in self.process.machine.pins:
            self.process.machine.pins.remove(self)


class Process:
    """A process: an address space with one thread, `task`."""

    def __init__(self, machine: Machine, task: Task, mm: Mm) -> None:
        self.machine = machine
        self.task = task
        self.mm = mm
        self.name = task.name
        self.exited = False
        self._files: dict[str, File] = {}

    def __repr__(self) -> str:
        return f"<process {self.name}, pid {self.task.pid}>"

    @property
    def pid(self) -> int:
        return self.task.pid

    # --- running ---

    @contextmanager
    def running(self) -> Iterator[Task]:
        """The task that runs what this process does: its own thread, or the started task
        we are in, which becomes a thread of this process."""
        if self.exited:
            raise ProcessLookupError(errno.ESRCH, f"{self.name} has exited")
        me = sched.task
        if me.greenlet is not None and me.kernel is self.machine.kernel:
            if me.mm is not self.mm:
                self._adopt(me)
            yield me
            return
        previous = sched.run_as(self.task)
        woken = self.machine.kernel.kswapd_woken
        try:
            yield self.task
            if woken:
                kswapd.run_woken(self.machine.kernel)
        except OSError:
            if woken:
                kswapd.run_woken(self.machine.kernel)
            raise
        finally:
            sched.run_as(previous)

    def _adopt(self, thread: Task) -> None:
        mine = self.task
        fork.exit_mm(thread)
        thread.mm = fork.mmget(self.mm)
        thread.cred = mine.cred
        thread.mempolicy = mine.mempolicy
        thread.mems_allowed = mine.mems_allowed
        thread.cpuset = mine.cpuset

    def _call(self, function: Callable[..., int], *arguments: Any) -> int:
        """One system call of this process; its result, or OSError."""
        with self.running() as task:
            return checked(function(task, *arguments))

    def on_cpu(self, number: int) -> Process:
        """Run on another CPU from now on; self."""
        cpus = self.machine.kernel.cpus
        if not 0 <= number < len(cpus):
            raise ScenarioError(f"there is no CPU {number}; this machine has {len(cpus)}")
        with self.running() as task:
            task.cpu = cpus[number]
        self.task.cpu = cpus[number]
        self.machine.kernel.scheduler.ask()
        return self

    # --- areas ---

    def mmap(
        self,
        length: int | None = None,
        *,
        pages: int | None = None,
        prot: int | str = "rw",
        flags: int = 0,
        file: File | Inode | None = None,
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
        @offset bytes.  @at: exactly there (MAP_FIXED).  @hugetlb: of pages of this many bytes,
        which `machine.hugepages` has made, such as MiB(2).
        """
        size = length_of(length, pages)
        natural(at or 0, "an address")
        flags |= MAP_SHARED if shared or flags & MAP_SHARED else MAP_PRIVATE
        if file is None:
            flags |= MAP_ANONYMOUS
        flags |= (MAP_POPULATE if populate else 0) | (MAP_LOCKED if locked else 0)
        flags |= MAP_FIXED if at is not None else 0
        unit = PAGE_SIZE
        if hugetlb:
            if hugetlb & (hugetlb - 1) or hugetlb < PAGE_SIZE:
                raise ScenarioError(f"hugetlb={hugetlb} is not the size of a huge page")
            flags |= MAP_HUGETLB | (hugetlb.bit_length() - 1) << MAP_HUGE_SHIFT
            unit = hugetlb
        opened = self._open(file) if isinstance(file, Inode) else file
        with self.running() as task:
            first, last = _pages_of(at or 0, size)
            with self.machine.shadow.dropping(self.mm.name, first, last):
                start = checked(
                    mmap.do_mmap(
                        task, at or 0, size, protection(prot), flags, opened, offset >> PAGE_SHIFT
                    )
                )
            area = self._vma(start)
            if area is not None and area.vm_flags & VM_HUGETLB:
                unit = hstate_vma(area).size
        return Mapping(start, (size + unit - 1) & -unit)

    def _open(self, inode: Inode) -> File:
        """The file as this process has it open."""
        if inode.name not in self._files:
            self._files[inode.name] = open_file(inode)
        return self._files[inode.name]

    def munmap(self, where: Where, length: int | None = None) -> None:
        start, size = range_of(where, length)
        with self.running() as task, self._losing(start, size):
            checked(mmap.sys_munmap(task, start, size))

    def mremap(
        self,
        where: Mapping,
        new_length: int,
        *,
        may_move: bool = True,
        at: int | None = None,
    ) -> Mapping:
        """Grow, shrink or move a mapping; where it is now."""
        flags = (MREMAP_MAYMOVE if may_move or at is not None else 0) | (
            MREMAP_FIXED if at is not None else 0
        )
        natural(new_length, "a length")
        first, last = _pages_of(where.start, where.length)
        shadow = self.machine.shadow
        pages = (new_length + PAGE_SIZE - 1) >> PAGE_SHIFT
        with self.running() as task:
            with shadow.moving(self.mm.name, first, last) as moved:
                result = mremap.sys_mremap(
                    task, where.start, where.length, new_length, flags, at or 0
                )
                if result >= 0:
                    moved.append((result >> PAGE_SHIFT, pages))
                elif at is not None:  # what was there may be gone already
                    target_first, target_last = _pages_of(at, new_length)
                    shadow.forget(self.mm.name, target_first, target_last)
            start = checked(result)
        return Mapping(start, (new_length + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))

    def mprotect(self, where: Where, prot: int | str, length: int | None = None) -> None:
        start, size = range_of(where, length)
        self._call(mprotect.sys_mprotect, start, size, protection(prot))

    def madvise(self, where: Where, advice: int, length: int | None = None) -> None:
        start, size = range_of(where, length)
        with self.running() as task:
            losing: AbstractContextManager[None]
            if advice == MADV_DONTNEED:
                losing = self._losing(start, size)
            elif advice == MADV_REMOVE:
                name, first = self._key(start)
                last = first + (max(size, 1) - 1 >> PAGE_SHIFT)
                losing = self.machine.shadow.dropping(name, first, last)
            else:
                losing = nullcontext()
            with losing:
                checked(madvise.sys_madvise(task, start, size, advice))

    def mlock(self, where: Where, length: int | None = None) -> None:
        start, size = range_of(where, length)
        self._call(mlock.sys_mlock, start, size)

    def munlock(self, where: Where, length: int | None = None) -> None:
        start, size = range_of(where, length)
        self._call(mlock.sys_munlock, start, size)

    def mlockall(self, flags: int = MCL_CURRENT) -> None:
        self._call(mlock.sys_mlockall, flags)

    def munlockall(self) -> None:
        self._call(mlock.sys_munlockall)

    def brk(self, address: int = 0) -> int:
        """Move the end of the heap; where it is now."""
        cut_off = max(0, self.mm.brk - natural(address, "an address")) if address else 0
        with self.running() as task, self._losing(address, cut_off):
            return mmap.sys_brk(task, address)

    def remap_file_pages(self, where: Where, pgoff: int, length: int | None = None) -> None:
        """Let part of a shared file mapping show other pages of the file."""
        start, size = range_of(where, length)
        self._call(fremap.sys_remap_file_pages, start, size, 0, pgoff, 0)

    def mincore(self, where: Where, length: int | None = None) -> list[bool]:
        """Which pages are resident."""
        start, size = range_of(where, length)
        with self.running() as task:
            answer = mincore.sys_mincore(task, start, size)
        if isinstance(answer, int):
            checked(answer)
            raise AssertionError("mincore gives bytes or an error")
        return [bool(value) for value in answer]

    # --- life ---

    def fork(self, name: str | None = None, cpu: int | None = None) -> Process:
        """A child with a copy of the memory, copied on write."""
        machine = self.machine
        child_name = machine.unique_name(name or f"{self.name}-child")

        def shift(number: int) -> Key:
            return (child_name, number)

        with self.running() as task:
            with machine.shadow.copying(self.mm.name, shift, 0, TASK_SIZE >> PAGE_SHIFT):
                mm = fork.dup_mm(task, child_name)
            where = task.cpu if cpu is None else machine.kernel.cpus[cpu]
            thread = machine.kernel.scheduler.new_task(child_name, where, mm)
            thread.cred = task.cred
            thread.mems_allowed = task.mems_allowed
            thread.cpuset = task.cpuset
            thread.parent = self.task
            if task.mempolicy is not None:
                thread.mempolicy = mempolicy.mpol_dup(task.mempolicy)
        return machine.add_process(Process(machine, thread, mm))

    def exit(self) -> None:
        """End: the address space goes."""
        with self.running():
            self.task.mm = None
            fork.mmput(self.mm)
            for pin in [pin for pin in self.machine.pins if pin.process is self]:
                pin.release()  # what a process has given to a pipe goes with its files
        shadow = self.machine.shadow
        shadow.forget(self.mm.name, 0, TASK_SIZE >> PAGE_SHIFT)
        self.exited = True
        self.machine.remove_process(self)

    # --- loads and stores ---

    def touch(self, where: Where, *, write: bool = True, length: int | None = None) -> None:
        """One store (or load) in every page: a store of the byte that is there already, as
        `lock orb $0` would."""
        start, size = range_of(where, length)
        with self.running() as task:
            address, end = start, start + size
            at_once = start if write else end  # from here on, many pages at once if possible
            while address < end:
                self._access(task, address, write, _live)
                address += PAGE_SIZE
                if address > at_once and end - address >= first_touch.LEAST:
                    reached = first_touch.store_to_new_pages(task, address, end)
                    at_once = address + 16 * PAGE_SIZE if reached == address else reached
                    address = reached

    def write(self, address: int, data: bytes) -> None:
        """Store bytes, page by page."""
        with self.running() as task:
            for here, position, part in by_page(natural(address, "an address"), len(data)):
                piece = data[position : position + part]

                def store(page: Page, here: int = here, piece: bytes = piece) -> None:
                    self.store(page, here, piece)

                self._access(task, here, True, store)

    def read(self, address: int, length: int) -> bytes:
        """Load bytes, page by page.  What was stored last must come back: anything else is
        a finding."""
        found = bytearray()
        with self.running() as task:
            natural(address, "an address")
            for here, _, part in by_page(address, natural(length, "a length")):

                def load(page: Page, here: int = here, size: int = part) -> None:
                    found.extend(self.load(page, here, size, self.name))

                self._access(task, here, False, load)
        return bytes(found)

    def store(self, page: Page, address: int, part: bytes) -> None:
        """What one store does once its address has led to @page; for who accesses our memory."""
        _live(page)
        offset = address & (PAGE_SIZE - 1)
        if type(page.data) is not bytearray:
            page.data = bytearray(page.data or b"")
        page.data[offset : offset + len(part)] = part
        self.machine.shadow.stored(self._key(address, page), offset, part)

    def load(self, page: Page, address: int, size: int, who: str) -> bytes:
        """What one load by @who finds once its address has led to @page."""
        _live(page)
        assert page.data is not None
        offset = address & (PAGE_SIZE - 1)
        got = bytes(page.data[offset : offset + size])
        wrong = self.machine.shadow.differs(self._key(address, page), offset, got)
        if wrong is not None:
            lost = address - offset + wrong
            sched.warn(f"contents: {who} read a lost store at {lost:#x}")
        return got

    def _access(self, task: Task, address: int, write: bool, touch: Callable[[Page], None]) -> None:
        while not user_access(task, address, write, touch):
            signal = memory.page_fault(task, address, write)
            if task.kernel.kswapd_woken:
                kswapd.run_woken(task.kernel)
            if signal:
                raise MemoryFault(signal, address, self.name)

    def _key(self, address: int, page: Page | None = None) -> Key:
        """Under which name the contents at @address are kept, where @page is mapped.  While munmap
        is under way the page knows its file, and there is no area any more."""
        mapping = None if page is None else page.mapping
        if type(mapping) is AddressSpace and mapping.host is not None:
            assert page is not None
            h = mapping.host.fs.hstate  # of hugetlbfs: offsets in huge pages
            return (f"file {mapping.host.name}", page.index << (h.order if h else 0))
        vma = self._vma(address)
        if vma is not None and vma.vm_flags & VM_SHARED and vma.vm_file is not None:
            index = ((address - vma.vm_start) >> PAGE_SHIFT) + vma.vm_pgoff
            return (f"file {vma.vm_file.f_inode.name}", index)
        return (self.mm.name, address >> PAGE_SHIFT)

    def _vma(self, address: int) -> Vma | None:
        for vma in self.mm.mmap:
            if vma.vm_start <= address < vma.vm_end:
                return vma
        return None

    @contextmanager
    def _losing(self, start: int, size: int) -> Iterator[None]:
        first, last = _pages_of(start, size)
        with self.machine.shadow.dropping(self.mm.name, first, last):
            yield

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
        flags |= (MPOL_MF_MOVE if move else 0) | (MPOL_MF_MOVE_ALL if move_all else 0)
        flags |= MPOL_MF_STRICT if strict else 0
        mask, bits = node_mask(nodes, maxnode)
        self._call(policy_syscalls.sys_mbind, start, size, policy_mode(mode), mask, bits, flags)

    def set_mempolicy(
        self, mode: int | str, nodes: Collection[int] = (), *, maxnode: int | None = None
    ) -> None:
        mask, bits = node_mask(nodes, maxnode)
        with self.running() as task:
            checked(policy_syscalls.sys_set_mempolicy(task, policy_mode(mode), mask, bits))
            self.task.mempolicy = task.mempolicy
            self.task.il_next = task.il_next

    def get_mempolicy(
        self, address: int = 0, flags: int = 0, maxnode: int | None = None
    ) -> tuple[int, tuple[int, ...]]:
        """(policy with its mode flags, nodes)."""
        with self.running() as task:
            answer = policy_syscalls.sys_get_mempolicy(task, maxnode or 1024, address, flags)
        if isinstance(answer, int):
            checked(answer)
            raise AssertionError("sys_get_mempolicy gives a pair or an error")
        policy, mask = answer
        return policy, nodes_of(mask)

    def move_pages(
        self,
        where: Mapping | Sequence[int],
        node: int | Sequence[int] | None = None,
        *,
        process: Process | None = None,
        flags: int = MPOL_MF_MOVE,
    ) -> MoveResult:
        """Move pages to @node (one for all, or one a page), or with None ask where they
        are.  @process: whose pages, by default our own."""
        addresses = where.pages() if isinstance(where, Mapping) else where
        for address in () if isinstance(where, Mapping) else addresses:
            natural(address, "an address")
        nodes: Sequence[int] | None
        if node is None:
            nodes = None
        elif isinstance(node, int):
            nodes = [node] * len(addresses)
        else:
            nodes = node
            if len(nodes) != len(addresses):
                raise ScenarioError(f"{len(addresses)} pages, but {len(nodes)} nodes")
        status = [-errno.ENOENT] * len(addresses)
        reasons: list[Reason | None] = [None] * len(addresses)
        pid = 0 if process is None or process is self else process.pid
        with self.running() as task:
            returned = sys_move_pages(task, pid, addresses, nodes, status, flags, reasons)
        counted = Counter(reason for reason in reasons if reason is not None)
        result = MoveResult(tuple(status), counted, returned)
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
        process: Process | None = None,
        maxnode: int | None = None,
    ) -> int:
        """Move all pages on nodes @from_ to @to; how many could not be moved."""
        old, bits = node_mask(from_, maxnode)
        new, more_bits = node_mask(to, maxnode)
        pid = 0 if process is None or process is self else process.pid
        return self._call(policy_syscalls.sys_migrate_pages, pid, max(bits, more_bits), old, new)

    def numa_scan(self) -> int:
        """Let time pass until a scan of NUMA balancing is due, and do it: the next access to
        each page that was marked tells from which node it comes.  How many were marked.
        Raises ScenarioError: the machine has no NUMA balancing."""
        kernel = self.machine.kernel
        if kernel.numa_balancing is None:
            raise ScenarioError("NUMA balancing is off: Machine(numa_balancing=True) turns it on")
        due = self.mm.numa_next_scan or kernel.jiffies + kernel.numa_balancing.scan_delay
        kernel.jiffies = max(kernel.jiffies, due)
        with self.running() as task:
            self.mm.numa_next_scan = due
            return task_numa.task_numa_work(task)

    def join(self, group: Cpuset | Cgroup) -> None:
        """Be moved into a cpuset or a memory cgroup, by oneself.

        Raises OSError ENOMEM: the charges that should come along do not fit into the cgroup.
        """
        with self.running():
            if isinstance(group, Cgroup):
                checked(memcg_move.mem_cgroup_attach(self.mm, group.group))
            else:
                cpuset_attach(group, self.task)

    def pin(self, where: Where, *, length: int | None = None, write: bool = True) -> Pin:
        """References on the pages, as get_user_pages takes them for I/O; faults them in."""
        start, size = range_of(where, length)
        count = (size + PAGE_SIZE - 1) >> PAGE_SHIFT
        with self.running():
            pages = gup.get_user_pages_fast(start, count, write)
        if isinstance(pages, int):
            checked(pages)
            raise AssertionError("get_user_pages_fast gives pages or an error")
        if len(pages) < count:  # only the first could be had
            Pin(self, pages).release()
            checked(-errno.EFAULT)
        pin = Pin(self, pages)
        self.machine.pins.append(pin)
        return pin

    # --- files ---

    def pread(self, file: Inode, length: int, offset: int = 0) -> bytes:
        """The system call pread."""
        with self.running():
            answer = filemap.generic_file_read(file, offset, length)
        if isinstance(answer, int):
            checked(answer)
            raise AssertionError("a read gives bytes or an error")
        return bytes(answer)

    def pwrite(self, file: Inode, data: bytes, offset: int = 0) -> int:
        """The system call pwrite; how many bytes."""
        first, last = _pages_of(offset, len(data))
        with self.running(), self.machine.shadow.dropping(f"file {file.name}", first, last):
            return checked(filemap.generic_file_write(file, offset, data))

    # --- looking ---

    def page_at(self, address: int) -> Page | None:
        """The page that is mapped at @address (model only); None if none is present."""
        pte = peek_pte(self.mm, address)
        return self.mm.kernel.page_of(pte_pfn(pte)) if pte_present(pte) else None

    def looked_up(self, address: int) -> Page | None:
        """The same as a step of the running task, which other tasks can come before."""
        leaf = find_leaf(self.mm, address)
        if leaf is None:  # a huge page, or nothing
            return self.page_at(address)
        pte = ptep_get(leaf, address)
        return self.mm.kernel.page_of(pte_pfn(pte)) if pte_present(pte) else None

    def placement(self, where: Where, length: int | None = None) -> dict[int, int]:
        """How many pages of the range are mapped on each node."""
        start, size = range_of(where, length)
        counts: Counter[int] = Counter()
        huge_zero = huge_memory.state(self.mm.kernel).huge_zero_page
        for address in range(start, start + size, PAGE_SIZE):
            page = self.page_at(address)
            if page is None or page is self.mm.kernel.zero_page:
                continue
            if huge_zero is None or huge_zero not in (page, page.first_page):
                counts[page.zone.nid] += 1
        return dict(sorted(counts.items()))

    def numa_maps(self) -> str:
        """/proc/PID/numa_maps."""
        with self.running() as task:
            return task_mmu.numa_maps_text(self.mm, task)

    def clear_refs(self, kind: int) -> None:
        """Write to /proc/PID/clear_refs: 1 to 3 forget accesses, 4 soft-dirty marks."""
        with self.running():
            checked(task_mmu.clear_refs(self.mm, kind))

    def maps(self) -> str:
        """/proc/PID/maps."""
        with self.running():
            return task_mmu.maps_text(self.mm)

    def smaps(self) -> str:
        """/proc/PID/smaps."""
        with self.running():
            return task_mmu.smaps_text(self.mm)

    def pagemap(self, where: Where, length: int | None = None) -> list[int]:
        """The 64-bit words of /proc/PID/pagemap."""
        start, size = range_of(where, length)
        with self.running():
            return task_mmu.pagemap(self.mm, start, start + size)


# --- small helpers of the face ---


def checked(result: int) -> int:
    """The result of a system call, or OSError."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def peek_pte(mm: Mm, address: int) -> int:
    """The pte at an address, or 0; for a huge page the pte that its base page would have.  For
    observers: it announces nothing."""
    table: Any = mm.pgd
    for shift in (39, 30, 21):
        table = table.entries[(address >> shift) & 511]
        if type(table) is not PageTable:
            if not pmd_trans_huge(table):
                return 0
            offset = address & ((1 << shift) - 1)
            return huge_part(table, offset & (PMD_SIZE - 1)) + (offset & -PMD_SIZE)
    pte: int = table.entries[(address >> 12) & 511]
    return pte


def _live(page: Page) -> None:
    if page.data is None:
        BUG("used through a stale translation after it was freed", page)


def _pages_of(start: int, size: int) -> tuple[int, int]:
    return start >> PAGE_SHIFT, (start + max(size, 1) - 1) >> PAGE_SHIFT
