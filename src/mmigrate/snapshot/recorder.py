"""Records a process that the user may read.  It is not stopped and not written to.

The areas are listed first, then their pages are read a stretch at a time, and at the end the
list is read again: what changed in between is said in `missing`, as is everything that this
user or this kernel would not show.  Page states are run-length coded as they come, so memory
grows with the number of runs, not of pages.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from errno import EACCES, EPERM, ESRCH
from itertools import groupby
from pathlib import Path
from typing import Final

from mmigrate.errors import EnvironmentLacks, UsageError
from mmigrate.snapshot import procfs, syscalls
from mmigrate.snapshot import snapshot as bits
from mmigrate.snapshot.nodeset import MAX_NODES, parse_policy
from mmigrate.snapshot.procfs import PM_FRAME, PM_PRESENT, PM_SWAP, AreaText, PolicyText, printable
from mmigrate.snapshot.snapshot import (
    EMPTY,
    FileRecord,
    NodeRecord,
    PageState,
    Snapshot,
    VmaRecord,
    packed,
)

Progress = Callable[[str, int, int], None]  # what is being done, how much of it, of how much

_PROC: Final = Path("/proc")
_NODES: Final = Path("/sys/devices/system/node")
_STRETCH: Final = 1 << 15  # pages read at once: 256 KiB of pagemap
_GAP: Final = 1 << 10  # pages; closer populated stretches are read as one
_VAST: Final = 1 << 24  # pages: too many to ask about one by one when nothing is resident
_HINT_HUGE: Final = 1
_HINT_ZERO: Final = 2


def record(pid: int, *, progress: Progress | None = None) -> Snapshot:
    """Record process @pid.

    Raises UsageError: there is no such process (any more), it has no memory, or it may not be
    read.  EnvironmentLacks: /proc is not there.
    """
    process = _Process(pid)
    report = progress if progress is not None else _silent
    report("listing areas", 0, 1)
    status = procfs.parse_status(process.text("status"))
    areas = process.areas()
    if not areas:
        raise UsageError(
            f"process {pid} has no memory to record: it is a kernel thread, or it has ended"
        )
    policies = process.policies()
    nodes = machine_nodes()
    with _Pages(process, nodes) as pages:
        files = _Files(process.filesystems())
        total = sum(area.size("Rss") + area.size("Swap") for area in areas) // pages.page_size
        done = 0
        records: list[VmaRecord] = []
        for area in areas:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                report("reading pages", min(done, total), total)

            policy = policies.get(area.start)
            runs = pages.record(area, policy, advance)
            records.append(_area_record(area, policy, files.number(area), runs, pages.page_size))
        process.note_changes(areas)
        process.check_still_there()
        return Snapshot(
            version=1,
            kernel=printable(platform.release(), 256),
            machine=printable(platform.machine(), 256),
            page_size=pages.page_size,
            taken_at=int(time.time()),
            pid=pid,
            command=printable(status.get("Name", ""), 256),
            cpus_allowed=_list_text(status.get("Cpus_allowed_list", "")),
            nodes_allowed=_list_text(status.get("Mems_allowed_list", "")),
            policy=_process_policy(records, process.missing),
            nodes=nodes,
            known=pages.known(records, bool(policies)),
            missing=[printable(sentence) for sentence in process.missing],
            files=files.records,
            states=pages.states,
            vmas=records,
        )


def machine_nodes() -> list[NodeRecord]:
    """The nodes of this computer; a kernel without NUMA has one."""
    numbers = procfs.parse_number_list(_text_or_empty(_NODES / "online")) or (0,)
    numbers = tuple(number for number in numbers if number < MAX_NODES)
    found = []
    for number in numbers:
        folder = _NODES / f"node{number}"
        meminfo = _text_or_empty(folder / "meminfo") or (
            _text_or_empty(_PROC / "meminfo") if len(numbers) == 1 else ""
        )
        memory, free = procfs.parse_node_sizes(meminfo)
        distances = procfs.parse_distances(_text_or_empty(folder / "distance"))
        if len(distances) != len(numbers):
            distances = [10 if other == number else 20 for other in numbers]
        cpus = _list_text(_text_or_empty(folder / "cpulist").strip())
        found.append(NodeRecord(number, memory, free, cpus[:256], distances))
    return found


class _Process:
    """The files of one process in /proc.  @missing: sentences about what they did not show."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.folder = _PROC / str(pid)
        self.missing: list[str] = []
        if not (_PROC / "self").exists():
            raise EnvironmentLacks("/proc is not mounted; mount -t proc proc /proc would do it")
        if pid < 1 or not self.folder.exists():
            raise UsageError(f"there is no process {pid}")
        self.start_time = procfs.parse_start_time(self.text("stat"))

    def text(self, name: str) -> str:
        """The whole of a file.  Raises UsageError if the process is gone or not for us."""
        try:
            return (self.folder / name).read_bytes().decode("utf-8", "backslashreplace")
        except OSError as error:
            raise self.why_not(error) from None

    def why_not(self, error: OSError) -> UsageError:
        """What an error of one of its files means for the user."""
        if error.errno in (EACCES, EPERM):
            owner = "another user"
            with contextlib.suppress(OSError):
                uid = self.folder.stat().st_uid
                owner = f"user {uid}" if uid != os.geteuid() else "you, but it is protected"
            return UsageError(
                f"process {self.pid} may not be read: it belongs to {owner}; "
                "run this as its owner or as root"
            )
        if error.errno == ESRCH or not self.folder.exists():
            return UsageError(f"process {self.pid} ended before it could be recorded")
        return UsageError(f"process {self.pid} cannot be read: {error.strerror}")

    def optional_text(self, name: str, what_is_missing: str) -> str:
        """The whole of a file that some kernels lack; then "" and a sentence in `missing`."""
        if not (self.folder / name).exists() and self.folder.exists():
            self.missing.append(f"{what_is_missing}: this kernel has no /proc/PID/{name}")
            return ""
        return self.text(name)

    def areas(self) -> list[AreaText]:
        """The areas in order.  One that moved while the list was read is left out."""
        text = self.optional_text("smaps", "flags and huge pages of areas") or self.text("maps")
        areas: list[AreaText] = []
        for area in procfs.parse_maps(text):
            if area.start >= (areas[-1].end if areas else 0) and area.start < area.end:
                areas.append(area)
        return areas

    def policies(self) -> dict[int, PolicyText]:
        """The lines of numa_maps, by start address."""
        text = self.optional_text("numa_maps", "memory policies")
        return {line.start: line for line in procfs.parse_numa_maps(text)}

    def filesystems(self) -> dict[str, str]:
        try:
            return procfs.parse_filesystems(
                (self.folder / "mountinfo").read_bytes().decode("utf-8", "backslashreplace")
            )
        except OSError:
            return {}

    def note_changes(self, areas: Sequence[AreaText]) -> None:
        """Say which areas came or went while the pages were read."""
        before = {(area.start, area.end, area.perms) for area in areas}
        now = procfs.parse_maps(self.text("maps"))
        after = {(area.start, area.end, area.perms) for area in now}
        gone, new = len(before - after), len(after - before)
        if gone or new:
            self.missing.append(
                f"the process ran on: {_count(gone, 'area')} recorded here changed or vanished "
                f"meanwhile, and {_count(new, 'area')} came or changed too late to be recorded"
            )

    def check_still_there(self) -> None:
        """The same process, and not another one that got its number."""
        if procfs.parse_start_time(self.text("stat")) != self.start_time:
            raise UsageError(f"process {self.pid} ended before it could be recorded")


class _Runs:
    """The columns of an area's runs, as they grow."""

    __slots__ = ("counts", "states", "swap")

    def __init__(self) -> None:
        self.counts = array("I")
        self.states = array("H")
        self.swap = array("Q")

    def add(self, count: int, state: int) -> None:
        while count:
            room = bits.MAX_RUN - self.counts[-1] if self.counts else 0
            if room and self.states[-1] == state:
                part = min(count, room)
                self.counts[-1] += part
            else:
                part = min(count, bits.MAX_RUN)
                self.counts.append(part)
                self.states.append(state)
            count -= part

    def add_swapped(self, page: int, area: int, offset: int) -> None:
        swap = self.swap
        if swap:
            first, count, last_area, last_offset = swap[-4:]
            if (first + count, last_area, last_offset + count) == (page, area, offset):
                swap[-3] += 1
                return
        swap.extend((page, 1, area, offset))


class _Pages:
    """The pages of one process, through every file and call that this user may use."""

    def __init__(self, process: _Process, nodes: Sequence[NodeRecord]) -> None:
        self.process = process
        self.page_size = os.sysconf("SC_PAGE_SIZE")
        self.states = [EMPTY]
        self._numbers: dict[PageState, int] = {EMPTY: 0}
        # From what the kernel said of a page, in its own bits, to the number of its state.
        self._seen: dict[tuple[int, int, int, int, int], int] = {}
        self._nodes = tuple(record.number for record in nodes)
        self._only_node = nodes[0].number if len(nodes) == 1 else -1
        self._pagemap = self._kpageflags = self._kpagecount = -1
        self._can_ask_nodes = self._can_scan = True
        self._frames_seen = self._frames_hidden = False
        self._swap_hidden = False
        self._node_unknown = 0
        self._huge_unclear = 0
        self._skipped = 0

    def __enter__(self) -> _Pages:
        try:
            self._pagemap = os.open(self.process.folder / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if not self.process.folder.exists():
                raise self.process.why_not(error) from None
            self.process.missing.append("all pages: this kernel has no /proc/PID/pagemap")
        except OSError as error:
            raise self.process.why_not(error) from None
        for name in ("kpageflags", "kpagecount"):
            with contextlib.suppress(OSError):
                setattr(self, f"_{name}", os.open(_PROC / name, os.O_RDONLY | os.O_CLOEXEC))
        return self

    def __exit__(self, *_error: object) -> None:
        for descriptor in (self._pagemap, self._kpageflags, self._kpagecount):
            if descriptor >= 0:
                os.close(descriptor)

    def record(
        self, area: AreaText, policy: PolicyText | None, advance: Callable[[int], None]
    ) -> _Runs | None:
        """The runs of an area; None if its pages cannot be read at all."""
        if self._pagemap < 0:
            return None
        node = self._only_node
        if policy is not None and len(policy.nodes) == 1:
            (node,) = policy.nodes
        huge = area.size("AnonHugePages") + area.size("ShmemPmdMapped") + area.size("FilePmdMapped")
        all_huge = huge > 0 and huge == area.size("Rss")
        runs = _Runs()
        reached = 0
        first_page = area.start // self.page_size
        for first, hints in self._stretches(area):
            runs.add(first - reached, 0)
            entries = self._entries(first_page + first, len(hints))
            if all_huge and not self._can_scan:
                hints = bytearray(b"\1") * len(hints)
            numbers, present = self._numbers_of(entries, first_page + first, hints, node)
            for number, group in groupby(numbers):
                runs.add(sum(1 for _ in group), number)
            self._note_swap(runs, first, entries)
            reached = first + len(hints)
            advance(present)
        runs.add((area.end - area.start) // self.page_size - reached, 0)
        if huge and not all_huge and not self._can_scan and self._kpageflags < 0:
            self._huge_unclear += 1
        return runs

    def known(self, records: Sequence[VmaRecord], policies: bool) -> list[str]:
        """The words for what was found out, and sentences in `missing` for the rest."""
        missing = self.process.missing
        known: list[str] = []
        if policies:
            known.append("policies")
        if any(record.flags for record in records):
            known.append("area flags")
        if self._pagemap < 0:
            return known
        known.append("pages")
        if self._skipped:
            missing.append(
                f"pages of zeroes in {_count(self._skipped, 'vast area')} with nothing resident: "
                "this kernel cannot list what is populated (Linux 6.7 can)"
            )
        if self._node_unknown:
            missing.append(
                f"the node of {_count(self._node_unknown, 'page')}: move_pages(2) would not tell"
                + (
                    ""
                    if self._can_ask_nodes
                    else "; a container may forbid it, or its owner may ask"
                )
            )
        else:
            known.append("nodes")
        frames = self._frames_seen or not self._frames_hidden
        for name, descriptor, what in (
            ("page types", self._kpageflags, "page types (dirty, on the LRU, locked, KSM …)"),
            ("mapping counts", self._kpagecount, "how many times each page is mapped"),
        ):
            if descriptor >= 0 and frames:
                known.append(name)
            else:
                missing.append(f"{what}: only root may see that (CAP_SYS_ADMIN)")
        if _kernel_version() >= (4, 2):
            known.append("exclusive")
        elif "mapping counts" not in known:
            missing.append("shared pages: this kernel is older than 4.2 and only root may see that")
        if syscalls.tracks_soft_dirty():
            known.append("soft-dirty")
        else:
            missing.append("soft-dirty pages: this kernel does not track them")
        if self._swap_hidden:
            missing.append("where swapped pages are: only root may see that (CAP_SYS_ADMIN)")
        else:
            known.append("swap offsets")
        if self._huge_unclear:
            missing.append(
                f"which pages are huge in {_count(self._huge_unclear, 'area')}: "
                "this kernel shows only their sum to you"
            )
        else:
            known.append("huge pages")
        return known

    # Which stretches of an area to look at: (first page, a byte of hints for each page).
    def _stretches(self, area: AreaText) -> Iterator[tuple[int, bytearray]]:
        pages = (area.end - area.start) // self.page_size
        reached = 0
        if self._can_scan:
            try:
                for first, hints in self._scanned(area):
                    yield first, hints
                    reached = first + len(hints)
                return
            except OSError as error:
                if error.errno == ESRCH:
                    raise self.process.why_not(error) from None
                self._can_scan = False  # the kernel is older than the call
        if pages > _VAST and "Rss" in area.sizes and not area.size("Rss") + area.size("Swap"):
            self._skipped += 1
            return
        for first in range(reached, pages, _STRETCH):
            yield first, bytearray(min(_STRETCH, pages - first))

    def _scanned(self, area: AreaText) -> Iterator[tuple[int, bytearray]]:
        start = -1
        hints = bytearray()
        for low, high, found in syscalls.scan(self._pagemap, area.start, area.end):
            first = (low - area.start) // self.page_size
            end = (high - area.start) // self.page_size
            hint = _HINT_HUGE if found & syscalls.PAGE_IS_HUGE else 0
            hint |= _HINT_ZERO if found & syscalls.PAGE_IS_PFNZERO else 0
            while first < end:
                if start < 0 or first - start - len(hints) > _GAP or len(hints) >= _STRETCH:
                    if start >= 0:
                        yield start, hints
                    start, hints = first, bytearray()
                hints.extend(bytes(first - start - len(hints)))
                part = min(end - first, max(_STRETCH - len(hints), 1))
                hints.extend(bytes((hint,)) * part)
                first += part
        if start >= 0:
            yield start, hints

    def _entries(self, first_page: int, count: int) -> array[int]:
        try:
            data = os.pread(self._pagemap, 8 * count, 8 * first_page)
        except OSError as error:
            raise self.process.why_not(error) from None
        # Nothing comes back once the process has dropped its memory.
        return array("Q", data[: len(data) // 8 * 8] + bytes(8 * count - len(data) // 8 * 8))

    # HOT: about half a microsecond a page (benchmarks/snapshot_size.py).
    def _numbers_of(
        self, entries: array[int], first_page: int, hints: bytearray, node: int
    ) -> tuple[array[int], int]:
        numbers = array("H", bytes(2 * len(entries)))
        present = [index for index, entry in enumerate(entries) if entry & PM_PRESENT]
        if len(present) < len(entries):
            for index, entry in enumerate(entries):
                if entry and not entry & PM_PRESENT:
                    numbers[index] = self._number(entry >> 55, -1, 0, 0, 0)
        if not present:
            return numbers, 0
        page_size = self.page_size
        addresses = array("Q", [(first_page + index) * page_size for index in present])
        nodes = self._nodes_of(addresses, node)
        frames = [entries[index] & PM_FRAME for index in present]
        if any(frames):
            self._frames_seen = True
        else:
            self._frames_hidden = True
        types = self._words_of(self._kpageflags, frames)
        mapcounts = self._words_of(self._kpagecount, frames)
        seen = self._seen
        mask = procfs.KPAGEFLAGS_MASK
        for index, on, word, mapcount in zip(present, nodes, types, mapcounts, strict=True):
            key = (entries[index] >> 55, on, word & mask, mapcount, hints[index])
            number = seen.get(key)
            numbers[index] = self._number(*key) if number is None else number
        return numbers, len(present)

    def _number(self, entry: int, node: int, word: int, mapcount: int, hint: int) -> int:
        """The number of the state that the kernel's words amount to."""
        known = procfs.pagemap_bits(entry << 55) | procfs.kpageflags_bits(word)
        if node == syscalls.ZERO_OR_UNMAPPED and not known & (bits.FILE | bits.EXCLUSIVE):
            # Frames without a page, of devices, get the same answer.
            known |= 0 if word else bits.ZERO
        if hint & _HINT_ZERO:
            known |= bits.ZERO
        if hint & _HINT_HUGE or (known & bits.THP and not self._can_scan):
            known |= bits.HUGE
        node = node if node in self._nodes else -1
        state = PageState(known, node, min(mapcount, bits.MAX_MAPCOUNT))
        if len(self.states) >= bits.MAX_STATES - 1000:
            # Only hostile or absurd variety comes here: keep to what matters most.
            kept = bits.PRESENT | bits.SWAPPED | bits.FILE | bits.EXCLUSIVE | bits.ZERO
            state = PageState(known & kept, -1, 0) if state not in self._numbers else state
        number = self._numbers.get(state)
        if number is None:
            number = self._numbers[state] = len(self.states)
            self.states.append(state)
        self._seen[entry, node, word, mapcount, hint] = number
        return number

    def _nodes_of(self, addresses: array[int], otherwise: int) -> Sequence[int]:
        if self._can_ask_nodes:
            try:
                return syscalls.query_nodes(self.process.pid, addresses)
            except OSError as error:
                if error.errno == ESRCH:
                    raise self.process.why_not(error) from None
                self._can_ask_nodes = False
        if otherwise < 0:
            self._node_unknown += len(addresses)
        return [otherwise] * len(addresses)

    # The words of kpageflags or kpagecount for @frames, neighbours in one call.
    def _words_of(self, descriptor: int, frames: Sequence[int]) -> Sequence[int]:
        if descriptor < 0 or not self._frames_seen:
            return [0] * len(frames)
        words = array("Q")
        position = 0
        while position < len(frames):
            start = frames[position]
            end = position + 1
            while end < len(frames) and frames[end] == start + end - position:
                end += 1
            count = end - position
            try:
                data = os.pread(descriptor, 8 * count, 8 * start) if start else b""
            except OSError:
                data = b""  # no such frame: memory was taken away meanwhile
            words.frombytes(data[: len(data) // 8 * 8])
            words.extend([0] * (end - len(words)))
            position = end
        return words

    def _note_swap(self, runs: _Runs, first: int, entries: array[int]) -> None:
        for index, entry in enumerate(entries):
            if entry & PM_SWAP and not entry & PM_PRESENT:
                area, offset = procfs.swap_position(entry)
                if area or offset:
                    runs.add_swapped(first + index, area, offset)
                else:
                    self._swap_hidden = True


class _Files:
    """The mapped files, numbered from 1 in the order in which they are met."""

    def __init__(self, filesystems: dict[str, str]) -> None:
        self.filesystems = filesystems
        self.records: list[FileRecord] = []
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, area: AreaText) -> int:
        if area.inode == "0":
            return 0
        identity = (area.device, area.inode)
        number = self._numbers.get(identity)
        if number is None:
            self.records.append(
                FileRecord(
                    area.device,
                    area.inode,
                    printable(area.name),
                    printable(self._filesystem(area), 64),
                )
            )
            number = self._numbers[identity] = len(self.records)
        return number

    def _filesystem(self, area: AreaText) -> str:
        if area.name.startswith("/anon_hugepage"):
            return "hugetlbfs"
        # The kernel's own mount of shared memory is in nobody's list of mounts.
        if area.name.startswith(("/dev/zero (deleted)", "/memfd:", "/SYSV")):
            return "tmpfs"
        return self.filesystems.get(area.device, "")


def _area_record(
    area: AreaText, policy: PolicyText | None, file: int, runs: _Runs | None, page_size: int
) -> VmaRecord:
    text = printable(policy.policy, 256) if policy is not None else ""
    try:
        parse_policy(text)
    except ValueError:
        text = ""
    if runs is None:
        runs = _Runs()
    return VmaRecord(
        start=area.start,
        end=area.end,
        perms=area.perms,
        flags=printable(area.flags, 256),
        offset=min(area.offset, (1 << 63) - page_size),
        file=file,
        name=printable(area.name),
        policy=text,
        page_size=max(area.size("KernelPageSize"), page_size),
        locked=min(area.size("Locked"), area.end - area.start),
        counts=packed(runs.counts),
        states=packed(runs.states),
        swap=packed(runs.swap),
    )


def _process_policy(records: Sequence[VmaRecord], missing: list[str]) -> str:
    """The policy of the process: what an area shows that has none of its own."""
    shown = {record.policy for record in records if record.policy}
    if "default" in shown:
        return "default"  # only an area without a policy in a process without one shows that
    if len(shown) == 1:
        return shown.pop()
    if shown:
        missing.append("the policy of the process itself: every area shows another one")
    return ""


def _kernel_version() -> tuple[int, int]:
    words = platform.release().replace("-", ".").split(".")
    try:
        return int(words[0]), int(words[1])
    except (ValueError, IndexError):
        return 0, 0


def _text_or_empty(path: Path) -> str:
    try:
        return path.read_text("utf-8", "backslashreplace")
    except OSError:
        return ""


def _list_text(text: str) -> str:
    return text if procfs.parse_number_list(text) else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _silent(_what: str, _done: int, _of: int) -> None:
    pass
