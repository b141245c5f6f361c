"""Settings of this kernel: files of /sys and /proc that a machine writes and puts back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from mmap import MADV_MERGEABLE, MAP_PRIVATE, mmap
from pathlib import Path
from typing import Final

from mmigrate.errors import Missing
from mmigrate.real.nodes import shorten_cpu_lists, usable_memory
from mmigrate.real.undo import Undo
from mmigrate.units import PAGE_SIZE, MiB

DISPOSABLE: Final = "MMIGRATE_DISPOSABLE"  # set in a guest that will be thrown away
THP: Final = Path("/sys/kernel/mm/transparent_hugepage")
KSM: Final = Path("/sys/kernel/mm/ksm")
_BALANCING: Final = Path("/proc/sys/kernel/numa_balancing")
_SCHED: Final = Path("/sys/kernel/debug/sched/numa_balancing")
_MEMORY: Final = Path("/sys/devices/system/memory")
_NODES: Final = Path("/sys/devices/system/node")
_CPU_LISTS: Final = Path("/proc/sys/vm/percpu_pagelist_high_fraction")
_PATIENCE: Final = 30  # seconds for a daemon of the kernel to do its work


def disposable() -> bool:
    """Whether this computer is a guest in which anything may be broken."""
    return os.environ.get(DISPOSABLE) == "1"


class Settings:
    """Writes settings, and has them put back in the end.

    Raises Missing: this kernel has no such setting, or this user may not change it.
    """

    def __init__(self, undo: Undo) -> None:
        self._undo = undo

    def set(self, path: Path, value: str, what: str) -> None:
        """Write a setting if it is another; @what it is, for people."""
        before = self.read(path, what)
        if before == value:
            return
        self._undo.add("write", str(path), before)
        self._write(path, value, what)

    def read(self, path: Path, what: str) -> str:
        """The value, the chosen word where the file shows all: "always [madvise] never"."""
        try:
            text = path.read_text().strip()
        except OSError as error:
            raise Missing(f"this kernel has no {what} ({path})") from error
        return text.partition("[")[2].partition("]")[0] or text

    def _write(self, path: Path, value: str, what: str) -> None:
        try:
            path.write_text(value)
        except PermissionError as error:
            raise Missing(f"only root can change {what} ({path})") from error
        except OSError as error:
            raise Missing(f"{what} cannot be {value} here: {error.strerror}") from error

    # --- transparent huge pages ---

    def thp(self, mode: str) -> None:
        """ "always", "madvise" or "never"; khugepaged acts only when it is asked to."""
        if mode == "never" and not THP.exists():
            return
        if self.read(THP / "enabled", "transparent huge pages") == mode and not disposable():
            return
        self.set(THP / "enabled", mode, "transparent huge pages")
        self.set(THP / "khugepaged/scan_sleep_millisecs", "4000000000", "the pause of khugepaged")

    def khugepaged_scan(self) -> None:
        """Let khugepaged look at everything twice."""
        folder, what = THP / "khugepaged", "khugepaged"
        self.set(folder / "pages_to_scan", "1000000", what)
        pause = self.read(folder / "scan_sleep_millisecs", what)
        self.set(folder / "scan_sleep_millisecs", "0", what)
        self._scans(folder / "full_scans", 2, what)
        self._write(folder / "scan_sleep_millisecs", pause, what)

    def split(self, pid: int, start: int, end: int) -> None:
        """Split the huge pages of a range of a process."""
        path = Path("/sys/kernel/debug/split_huge_pages")
        self._write(path, f"{pid},{start:#x},{end:#x}", "splitting of huge pages")

    # --- same-page merging ---

    def ksm_scan(self) -> None:
        """Let ksmd look at everything until it finds nothing more to merge."""
        what = "same-page merging"
        for name in Path("/proc").glob("[0-9]*/comm"):  # its copies come from where it runs
            with suppress(OSError):
                if name.read_text() == "ksmd\n":
                    os.sched_setaffinity(int(name.parent.name), {0})
        self.set(KSM / "pages_to_scan", "100000", what)
        self.set(KSM / "sleep_millisecs", "0", what)
        self.set(KSM / "run", "1", what)
        merged = ""
        with mmap(-1, PAGE_SIZE, MAP_PRIVATE) as page:  # ksmd sleeps if there is nothing at all
            page.write(os.urandom(PAGE_SIZE))
            page.madvise(MADV_MERGEABLE)
            self._scans(KSM / "full_scans", 2, what)
            while (now := (KSM / "pages_sharing").read_text()) != merged:
                merged = now
                self._scans(KSM / "full_scans", 1, what)
        self._write(KSM / "run", "0", what)

    def _scans(self, counter: Path, number: int, what: str) -> None:
        """Until @number more full scans have been made."""
        begun = int(self.read(counter, what))
        self._until(lambda: int(counter.read_text()) >= begun + number, f"{what} makes no progress")

    def _until(self, done: Callable[[], bool], failure: str) -> None:
        end = time.monotonic() + _PATIENCE
        while not done():
            if time.monotonic() > end:
                raise Missing(failure)
            time.sleep(0.005)

    # --- NUMA balancing ---

    def numa_balancing(self, on: bool) -> None:
        if not on:
            if _BALANCING.exists():
                self.set(_BALANCING, "0", "NUMA balancing")
            return
        self.set(_BALANCING, "1", "NUMA balancing")
        for name, value in (
            ("scan_delay_ms", "0"),
            ("scan_period_min_ms", "10"),
            ("scan_period_max_ms", "10"),
        ):
            if (_SCHED / name).exists():
                self.set(_SCHED / name, value, "NUMA balancing")

    # --- huge pages, compaction, caches ---

    def hugepages(
        self, count: int | None, node: int | None, size: int, overcommit: int | None = None
    ) -> int:
        """Set the number of huge pages of a pool; how many there are now."""
        name, what = f"hugepages-{size >> 10}kB", f"pool of huge pages of {size >> 10} kB"
        if overcommit is not None:
            pool = Path("/sys/kernel/mm/hugepages") / name
            self.set(pool / "nr_overcommit_hugepages", str(overcommit), what)
        where = Path("/sys/kernel/mm") if node is None else _NODES / f"node{node}"
        path = where / "hugepages" / name / "nr_hugepages"
        if count is not None:
            self.set(path, str(count), what)
        return int(self.read(path, what))

    def leave_free(self, node: int, size: int) -> None:
        """Fill a node until @size bytes can be had of it, with huge pages that nobody uses."""
        self._need_guest("a node is filled")
        # What waits in the lists of other CPUs is out of reach, and may come back at any time.
        self.set(_CPU_LISTS, "100000", "the lists of free pages of CPUs")
        shorten_cpu_lists()
        self.drop_caches()
        surplus = usable_memory(node) - size
        if surplus > 0:
            self.hugepages(surplus // MiB(2), node, MiB(2))

    def compact(self, node: int | None) -> None:
        """Compact a node, or all."""
        if node is None:
            self._write(Path("/proc/sys/vm/compact_memory"), "1", "compaction")
        else:
            self._write(_NODES / f"node{node}/compact", "1", "compaction")

    def drop_caches(self) -> None:
        self._write(Path("/proc/sys/vm/drop_caches"), "1", "the page cache")

    # --- memory that goes offline ---

    def offline_node(self, node: int) -> None:
        """Take all memory blocks of a node offline, the movable ones first; OSError if one cannot
        go."""
        self._need_guest("memory is taken offline")
        for block in sorted(_blocks_of(node), key=_order_of_going):
            self._offline(block)

    def offline_range(self, first: int, last: int) -> None:
        """Take the memory blocks of frames @first to @last offline; OSError if one cannot go."""
        self._need_guest("memory is taken offline")
        for block in _blocks_with(first, last):
            self._offline(block)

    def online(self, what: int | range) -> None:
        """Take the memory blocks of a node, or of a range of frames, into use again; OSError
        EINVAL if one is in use."""
        self._need_guest("memory is taken offline")
        node = isinstance(what, int)
        blocks = _blocks_of(what) if isinstance(what, int) else _blocks_with(what[0], what[-1])
        for block in blocks:
            if not node or (block / "state").read_text().strip() == "offline":
                (block / "state").write_text("online")
                self._undo.forget("write", str(block / "state"), "online")

    def soft_offline(self, frame: int) -> None:
        """Take a frame out of use; OSError if its page does not move."""
        self.soft_offline_allowed()
        (_MEMORY / "soft_offline_page").write_text(f"{frame * 4096:#x}")

    def _offline(self, block: Path) -> None:
        state = block / "state"
        if state.read_text().strip() == "online":
            self._undo.add("write", str(state), "online")
            try:
                state.write_text("offline")
            except OSError:
                self._undo.forget("write", str(state), "online")
                raise

    def _need_guest(self, what: str) -> None:
        if not disposable():
            raise Missing(f"{what} only in a guest: it could not be undone for certain here")

    def soft_offline_allowed(self) -> None:
        self._need_guest("a page is taken out of use")
        with suppress(Missing):
            self.set(Path("/proc/sys/vm/memory_failure_recovery"), "1", "memory failure")


def _blocks_of(node: int) -> list[Path]:
    """The memory blocks of a node, by address."""
    found = [path.resolve() for path in _NODES.glob(f"node{node}/memory[0-9]*")]
    return sorted(found, key=lambda block: int(block.name.removeprefix("memory")))


def _blocks_with(first: int, last: int) -> list[Path]:
    """The memory blocks that have frames @first to @last."""
    pages = int((_MEMORY / "block_size_bytes").read_text(), 16) // 4096
    return [_MEMORY / f"memory{number}" for number in range(first // pages, last // pages + 1)]


def _order_of_going(block: Path) -> tuple[bool, int]:
    zones = (block / "valid_zones").read_text()
    return "Movable" not in zones, int(block.name.removeprefix("memory"))
