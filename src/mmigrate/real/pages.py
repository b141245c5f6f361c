"""Where the pages of a process are, and why some did not move: asked of the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Final

from mmigrate.api import Reason
from mmigrate.real import kernel_abi as abi
from mmigrate.real.libc import failure, libc
from mmigrate.units import PAGE_SIZE

_REASONS: Final = {
    -errno.EACCES: Reason.SHARED,
    -errno.EAGAIN: Reason.PINNED,
    -errno.EBUSY: Reason.NOT_ON_LRU,
    -errno.EIO: Reason.WRITE_FAILED,
    -errno.ENOMEM: Reason.NO_MEMORY,
}


def query_nodes(pid: int, addresses: array[int]) -> array[int]:
    """The node of the page at each of @addresses ("Q"), or a negative errno for that page."""
    status = array("i", bytes(4 * len(addresses)))
    if not addresses:
        return status
    answer = libc.syscall(
        ctypes.c_long(abi.SYS_MOVE_PAGES),
        ctypes.c_int(pid),
        ctypes.c_ulong(len(addresses)),
        ctypes.c_void_p(addresses.buffer_info()[0]),
        None,
        ctypes.c_void_p(status.buffer_info()[0]),
        ctypes.c_int(0),
    )
    if answer < 0:
        raise failure()
    return status


def pagemap_words(pid: int, start: int, size: int) -> list[int]:
    """The words of /proc/PID/pagemap for a range; 0 beyond the end of user space."""
    first, last = start // PAGE_SIZE, (start + size + PAGE_SIZE - 1) // PAGE_SIZE
    if last <= first or last >= 1 << 52:
        return [0] * max(0, last - first)
    file = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(file, (last - first) * 8, first * 8)
    finally:
        os.close(file)
    data = data.ljust((last - first) * 8, b"\0")
    return array("Q", data).tolist()


def reasons_of(pid: int, addresses: Sequence[int], status: Sequence[int]) -> Counter[Reason]:
    """Why each page did not move, as far as the kernel tells: from its status, and where that
    can mean several things from the page table as it is now."""
    counted: Counter[Reason] = Counter()
    for address, value in zip(addresses, status, strict=True):
        if value in (-errno.ENOENT, -errno.EFAULT):
            counted[_absent(pid, address, value)] += 1
        elif value < 0:
            counted[_REASONS.get(value, Reason.UNKNOWN)] += 1
    return counted


def _absent(pid: int, address: int, status: int) -> Reason:
    try:
        (word,) = pagemap_words(pid, address & -PAGE_SIZE, PAGE_SIZE)
    except OSError:
        return Reason.UNKNOWN
    if word & abi.PM_SWAP:
        return Reason.SWAPPED
    if word & abi.PM_PRESENT:
        # Later kernels answer EFAULT for the page of zeroes, and for what cannot move at all; and
        # when pages were left over they write no status for the rest.
        if _is_zero_page(word):
            return Reason.ZERO_PAGE
        return Reason.NOT_MIGRATABLE if status == -errno.EFAULT else Reason.UNKNOWN
    return Reason.NOT_PRESENT if status == -errno.ENOENT else Reason.NO_AREA


def _is_zero_page(word: int) -> bool:
    """Whether a word of pagemap shows the page of zeroes; yes if this user may not know."""
    frame = word & abi.PM_FRAME
    try:
        file = os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        flags = int.from_bytes(os.pread(file, 8, frame * 8), "little")
    finally:
        os.close(file)
    return not frame or bool(flags >> abi.KPF_ZERO_PAGE & 1)
