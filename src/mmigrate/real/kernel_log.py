"""What this kernel complains of, from its log and its counters."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from mmigrate.errors import Violation

_COMPLAINT: Final = re.compile(
    r"WARNING: |BUG: |kernel BUG at|Bad page |general protection fault|Oops: "
    r"|possible (circular locking|recursive locking)|hung_task|blocked for more than"
)


class KernelLog:
    """The messages from now on.  A user who may not read them sees none."""

    def __init__(self) -> None:
        self._file = -1
        with suppress(OSError):
            self._file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._file, 0, os.SEEK_END)

    def complaints(self) -> list[Violation]:
        """Those since the last time."""
        return [
            Violation("kernel log", os.uname().release, text)
            for text in self._messages()
            if _COMPLAINT.search(text)
        ]

    def _messages(self) -> Iterator[str]:
        while self._file >= 0:
            try:
                record = os.read(self._file, 8192)
            except BlockingIOError:
                return
            except OSError:  # overwritten before it was read: go on with the next
                continue
            yield record.decode("utf-8", "replace").partition(";")[2].partition("\n")[0]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read_vmstat() -> dict[str, int]:
    """/proc/vmstat, with what the CPUs have counted so far."""
    with suppress(OSError), open("/proc/sys/vm/stat_refresh", "rb") as file:
        file.read()
    with open("/proc/vmstat") as file:
        return {name: int(value) for name, value in (line.split() for line in file)}


def isolated_pages() -> list[Violation]:
    """Pages that somebody took off the LRU and has not put back."""
    return [
        Violation("isolated", name, f"{name} is {value}, and nobody isolates pages now")
        for name, value in read_vmstat().items()
        if name.startswith("nr_isolated_") and value
    ]
