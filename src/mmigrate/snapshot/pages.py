"""The state of every page of a process, read a stretch at a time and run-length coded as it comes.

What may be asked differs: pagemap is always there, `PAGEMAP_SCAN` since Linux 6.7, move_pages(2)
where no container forbids it, kpageflags and kpagecount for root.  Each is tried and done without.
"""

from __future__ import annotations

import contextlib
import os
import platform
from array import array
from collections.abc import Callable, Iterator, Sequence
from errno import ESRCH
from itertools import groupby
from typing import Final

from mmigrate.snapshot import procfs, syscalls
from mmigrate.snapshot import records as bits
from mmigrate.snapshot.process_files import PROC, ProcessFiles, counted
from mmigrate.snapshot.procfs import PM_FRAME, PM_PRESENT, PM_SWAP, AreaText, PolicyText
from mmigrate.snapshot.records import EMPTY, NodeRecord, PageState
from mmigrate.snapshot.snapshot import Snapshot

_STRETCH: Final = 1 << 15  # pages read at once: 256 KiB of pagemap
_GAP: Final = 1 << 10  # pages; closer populated stretches are read as one
_VAST: Final = 1 << 24  # pages: too many to ask about one by one when nothing is resident
_HINT_HUGE: Final = 1
_HINT_ZERO: Final = 2
_HINT_DEVICE: Final = 4
_HINT_HUGETLB: Final = 8


class Runs:
    """The columns of an area's runs, as they grow."""

    __slots__ = ("counts", "merged_counts", "merged_groups", "states", "swap")

    def __init__(self) -> None:
        self.counts = array("I")
        self.states = array("H")
        self.swap = array("Q")
        self.merged_counts = array("I")
        self.merged_groups = array("I")

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

    def add_merged(self, group: int) -> None:
        if self.merged_groups and self.merged_groups[-1] == group:
            self.merged_counts[-1] += 1
        else:
            self.merged_counts.append(1)
            self.merged_groups.append(group)


class PageReader:
    """The pages of one process, through every file and call that this user may use."""

    def __init__(self, process: ProcessFiles, nodes: Sequence[NodeRecord]) -> None:
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
        self._huge_unclear = self._merged_unclear = 0
        self._merged_frames: dict[int, int] = {}  # frame of a merged page to its number
        self._skipped = 0

    def __enter__(self) -> PageReader:
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
                setattr(self, f"_{name}", os.open(PROC / name, os.O_RDONLY | os.O_CLOEXEC))
        return self

    def __exit__(self, *_error: object) -> None:
        for descriptor in (self._pagemap, self._kpageflags, self._kpagecount):
            if descriptor >= 0:
                os.close(descriptor)

    def record(
        self, area: AreaText, policy: PolicyText | None, advance: Callable[[int], None]
    ) -> Runs | None:
        """The runs of an area; None if its pages cannot be read at all."""
        if self._pagemap < 0:
            return None
        node = self._only_node
        if policy is not None and len(policy.nodes) == 1:
            (node,) = policy.nodes
        huge = area.size("AnonHugePages") + area.size("ShmemPmdMapped") + area.size("FilePmdMapped")
        flags = area.flags.split()
        device = not {"io", "pf", "mm"}.isdisjoint(flags)
        all_huge = huge > 0 and huge == area.size("Rss")
        runs = Runs()
        reached = 0
        first_page = area.start // self.page_size
        for first, hints in self._stretches(area):
            runs.add(first - reached, 0)
            entries = self._entries(first_page + first, len(hints))
            extra = _HINT_HUGE if all_huge and not self._can_scan else 0
            extra |= _HINT_DEVICE if device else 0
            extra |= _HINT_HUGETLB if "ht" in flags else 0
            if extra:
                hints = bytearray(hint | extra for hint in hints)
            numbers, present = self._numbers_of(entries, first_page + first, hints, node)
            reached = first + len(hints)
            variety = set(numbers)
            if len(variety) == 1:
                runs.add(len(numbers), numbers[0])
            else:
                for number, group in groupby(numbers):
                    runs.add(sum(1 for _ in group), number)
            if any(self.states[number].swapped for number in variety):
                self._note_swap(runs, first, entries)
            if any(self.states[number].ksm for number in variety):
                self._note_merged(runs, entries, numbers)
            advance(present)
        runs.add((area.end - area.start) // self.page_size - reached, 0)
        if huge and not all_huge and not self._can_scan and self._kpageflags < 0:
            self._huge_unclear += 1
        if area.size("KSM") and not runs.merged_counts:
            self._merged_unclear += 1
        return runs

    def known(self, snapshot: Snapshot, policies: bool) -> list[str]:
        """The words for what was found out, and sentences in `missing` for the rest."""
        missing = self.process.missing
        known: list[str] = []
        if policies:
            known.append("policies")
        if any(vma.flags for vma in snapshot.vmas):
            known.append("area flags")
        if self._pagemap < 0:
            return known
        known.append("pages")
        if self._skipped:
            missing.append(
                f"pages of zeroes in {counted(self._skipped, 'vast area')} with nothing resident: "
                "this kernel cannot list what is populated (Linux 6.7 can)"
            )
        unknown = snapshot.summary().by_node[-1]
        if unknown:
            why = "came or went meanwhile, or are a device's"
            if not self._can_ask_nodes:
                why = "move_pages(2) is forbidden here, as it is in many containers"
            missing.append(f"the node of {counted(unknown, 'page')}: {why}")
        if self._can_ask_nodes or not unknown:
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
                f"which pages are huge in {counted(self._huge_unclear, 'area')}: "
                "this kernel shows only their sum to you"
            )
        else:
            known.append("huge pages")
        known += self._known_of_merged("page types" in known)
        return known

    def _known_of_merged(self, page_types: bool) -> list[str]:
        """The same for pages that were merged with others of the same contents."""
        missing = self.process.missing
        if page_types:
            return ["merged pages", "merged totals"]
        if self.process.merged_totals and not self._merged_unclear:
            return ["merged pages", "merged totals"]
        if self.process.merged_totals:
            missing.append(
                f"which pages are merged (KSM) in {counted(self._merged_unclear, 'area')}: "
                "only root may see that (CAP_SYS_ADMIN); how many is known"
            )
            return ["merged totals"]
        many = self.process.merged_somewhere
        amount = f", {counted(many, 'page')} in all" if many else ""
        missing.append(f"pages that are merged (KSM){amount}: only root may see where they are")
        return []

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

    # HOT: two microseconds a page with page types and counts, which root sees; half without.
    def _numbers_of(
        self, entries: array[int], first_page: int, hints: bytearray, node: int
    ) -> tuple[array[int], int]:
        numbers = array("H", bytes(2 * len(entries)))
        if not entries[0] >> 62 and entries == entries[:1] * len(entries):
            return numbers, 0  # nothing there, which only kernels before 6.7 make us look at
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
        if node == syscalls.ZERO_OR_UNMAPPED and not word | hint & _HINT_DEVICE:
            # Only page types tell the page of zeroes better.  Frames of devices, which have no
            # page, get the same answer.
            known |= 0 if known & (bits.FILE | bits.EXCLUSIVE) else bits.ZERO
        if hint & _HINT_ZERO:
            known |= bits.ZERO
        if hint & _HINT_HUGETLB:
            known |= bits.HUGETLB | bits.HUGE
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

    def _note_swap(self, runs: Runs, first: int, entries: array[int]) -> None:
        for index, entry in enumerate(entries):
            if entry & PM_SWAP and not entry & PM_PRESENT:
                area, offset = procfs.swap_position(entry)
                if area or offset:
                    runs.add_swapped(first + index, area, offset)
                else:
                    self._swap_hidden = True

    def _note_merged(self, runs: Runs, entries: array[int], numbers: array[int]) -> None:
        frames = self._merged_frames
        for entry, number in zip(entries, numbers, strict=True):
            if self.states[number].ksm:
                runs.add_merged(frames.setdefault(entry & PM_FRAME, len(frames) + 1))


def _kernel_version() -> tuple[int, int]:
    words = platform.release().replace("-", ".").split(".")
    try:
        return int(words[0]), int(words[1])
    except (ValueError, IndexError):
        return 0, 0
