"""The files of a process in /proc, and what their errors mean for the user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from errno import EACCES, EPERM, ESRCH
from pathlib import Path
from typing import Final

from mmigrate.errors import EnvironmentLacks, UsageError
from mmigrate.snapshot import procfs
from mmigrate.snapshot.procfs import AreaText, PolicyText

PROC: Final = Path("/proc")


class ProcessFiles:
    """Those of process @pid.  @missing: sentences about what they did not show."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.folder = PROC / str(pid)
        self.missing: list[str] = []
        # Pages merged with others (KSM): whether their number is known for each area, and how many
        # there are where it is known only for the process.
        self.merged_totals = False
        self.merged_somewhere = 0
        if not (PROC / "self").exists():
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
        self._count_merged(areas)
        return areas

    def _count_merged(self, areas: Sequence[AreaText]) -> None:
        """Since Linux 6.6 smaps has the number; since 6.1 there is one for the process."""
        self.merged_totals = True
        mergeable = [area for area in areas if "mg" in area.flags.split()]
        if any("KSM" in area.sizes for area in areas):
            return
        if not mergeable and any(area.flags for area in areas):
            return
        text = ""
        with contextlib.suppress(OSError):
            text = (self.folder / "ksm_merging_pages").read_text().strip()
        pages = int(text) if text.isdecimal() and len(text) < 16 else -1
        if len(mergeable) == 1 and pages > 0:
            area = mergeable[0]
            area.sizes["KSM"] = min(pages * os.sysconf("SC_PAGE_SIZE"), area.end - area.start)
        elif pages != 0:
            self.merged_totals = False
            self.merged_somewhere = max(pages, 0)

    def policies(self) -> dict[int, PolicyText]:
        """The lines of numa_maps, by start address."""
        text = self.optional_text("numa_maps", "memory policies")
        return {line.start: line for line in procfs.parse_numa_maps(text)}

    @staticmethod
    def own_mounts() -> str:
        """Our own mountinfo: where we find the files of cgroups."""
        try:
            return (PROC / "self/mountinfo").read_bytes().decode("utf-8", "backslashreplace")
        except OSError:
            return ""

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
                f"the process ran on: {counted(gone, 'area')} recorded here changed or vanished "
                f"meanwhile, and {counted(new, 'area')} came or changed too late to be recorded"
            )

    def check_still_there(self) -> None:
        """The same process, and not another one that got its number."""
        if procfs.parse_start_time(self.text("stat")) != self.start_time:
            raise UsageError(f"process {self.pid} ended before it could be recorded")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
