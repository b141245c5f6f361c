"""Two questions to the kernel about the pages of another process; neither changes anything.

* `query_nodes` is move_pages(2) without target nodes: the node of each page.
* `scan` is the ioctl PAGEMAP_SCAN of Linux 6.7: which parts of an area are populated at all, so
  that terabytes of untouched address space cost nothing.

Both raise OSError, as in Python's `os`.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
from array import array
from collections.abc import Iterator
from errno import EFAULT, ENOSYS
from typing import Final

# arch/*/entry/syscalls: the numbers of move_pages.  The rest use the generic table.
_MOVE_PAGES: Final = {
    "x86_64": 279,
    "i386": 317,
    "i686": 317,
    "ppc64le": 301,
    "ppc64": 301,
    "s390x": 310,
    "armv7l": 344,
    "aarch64": 239,
    "riscv64": 239,
    "loongarch64": 239,
}
ZERO_OR_UNMAPPED: Final = -EFAULT  # what move_pages answers for the page of zeroes

# include/uapi/linux/fs.h
_PAGEMAP_SCAN: Final = 0xC060_6610
_SCAN_ARGUMENT: Final = struct.Struct("@12Q")
PAGE_IS_PRESENT: Final = 1 << 3
PAGE_IS_SWAPPED: Final = 1 << 4
PAGE_IS_PFNZERO: Final = 1 << 5
PAGE_IS_HUGE: Final = 1 << 6
_SCAN_REGIONS: Final = 8192

_libc = ctypes.CDLL(None, use_errno=True)


def query_nodes(pid: int, addresses: array[int]) -> array[int]:
    """The node of the page at each of @addresses ("Q"), or a negative errno for that page."""
    number = _MOVE_PAGES.get(platform.machine())
    if number is None or array("L").itemsize != 8:
        raise OSError(ENOSYS, f"move_pages is not known on {platform.machine()}")
    status = array("i", bytes(4 * len(addresses)))
    if not addresses:
        return status
    answer = _libc.syscall(
        ctypes.c_long(number),
        ctypes.c_int(pid),
        ctypes.c_ulong(len(addresses)),
        ctypes.c_void_p(addresses.buffer_info()[0]),
        None,  # no target nodes: only tell
        ctypes.c_void_p(status.buffer_info()[0]),
        ctypes.c_int(0),
    )
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return status


def scan(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, PAGE_IS_ bits) of every populated stretch; @pagemap: an open descriptor."""
    wanted = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
    regions = array("Q", bytes(24 * _SCAN_REGIONS))
    position = told = start
    while position < end:
        argument = bytearray(
            _SCAN_ARGUMENT.pack(
                _SCAN_ARGUMENT.size,
                0,  # flags: change nothing
                position,
                end,
                0,
                regions.buffer_info()[0],
                _SCAN_REGIONS,
                0,
                0,
                0,
                wanted,
                wanted | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
            )
        )
        found = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        for index in range(0, 3 * found, 3):
            # Linux 6.18 tells a stretch again when its own buffer of 512 regions is full.
            low, high = max(regions[index], told), regions[index + 1]
            if low < high:
                yield low, high, regions[index + 2]
                told = high
        walked = _SCAN_ARGUMENT.unpack(argument)[4]
        if walked <= position:
            return
        position = walked


def tracks_soft_dirty() -> bool:
    """Whether this kernel keeps the soft-dirty bit: a page just written must have it."""
    with mmap.mmap(-1, mmap.PAGESIZE) as fresh:
        fresh[0] = 1
        place = ctypes.c_char.from_buffer(fresh)
        address = ctypes.addressof(place)
        del place
        try:
            with open("/proc/self/pagemap", "rb", buffering=0) as file:
                data = os.pread(file.fileno(), 8, address // mmap.PAGESIZE * 8)
        except OSError:
            return False
    return len(data) == 8 and bool(struct.unpack("=Q", data)[0] >> 55 & 1)
