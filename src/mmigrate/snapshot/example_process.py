"""A process with every kind of memory, to be recorded:

    python -m mmigrate.snapshot.example_process --size 64

It prints READY and its pid once all its memory is there, and ends when its input is closed.  A
child shares some of its pages.  It leaves nothing behind, however it ends: its file has no name,
and the child ends when the parent is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import mmap
import os
import resource
import sys
import tempfile
from typing import IO, Final

from mmigrate.units import MiB

_PAGE: Final = mmap.PAGESIZE
_HUGE: Final = MiB(2)
_ANONYMOUS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mmigrate.snapshot.example_process", description=__doc__.split(":")[0] + "."
    )
    parser.add_argument("--size", type=int, default=64, metavar="MIB", help="memory in all")
    size = MiB(parser.parse_args(arguments).size)
    if size < MiB(1):
        parser.error("--size is in MiB and at least 1")
    with tempfile.TemporaryFile() as file:
        try:
            memory = Memory(size, file)
        except OSError as error:
            parser.exit(3, f"there is no room for {size >> 20} MiB: {error.strerror}\n")
        alive, keep_alive = os.pipe()
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(keep_alive)
            memory.share_only_forked()
            os.write(tell, b"x")
            os.read(alive, 1)  # returns once the parent has closed its end, or is dead
            os._exit(0)
        try:
            os.close(alive)
            os.read(told, 1)
            print("READY", os.getpid(), flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while os.read(sys.stdin.fileno(), 4096):
                    pass
        finally:
            os.close(keep_alive)
            os.waitpid(child, 0)


class Memory:
    """About @size bytes in all, a few eighths of each kind."""

    def __init__(self, size: int, file: IO[bytes]) -> None:
        eighth = _whole_pages(size // 8)
        self.huge = mmap.mmap(-1, eighth, flags=_ANONYMOUS)
        if eighth >= 2 * _HUGE:
            with contextlib.suppress(OSError):  # a kernel may have no huge pages
                self.huge.madvise(mmap.MADV_HUGEPAGE)
        self.private = mmap.mmap(-1, _whole_pages(eighth * 3 // 2), flags=_ANONYMOUS)
        self.forked = mmap.mmap(-1, eighth, flags=_ANONYMOUS)
        self.untouched = mmap.mmap(-1, eighth, flags=_ANONYMOUS)
        self.zeroes = mmap.mmap(-1, _whole_pages(eighth // 2), flags=_ANONYMOUS)
        self.shmem = mmap.mmap(-1, eighth)
        self.locked = mmap.mmap(-1, _lockable(eighth // 4), flags=_ANONYMOUS)
        os.posix_fallocate(file.fileno(), 0, eighth)
        self.file_shared = mmap.mmap(file.fileno(), eighth)
        self.file_private = mmap.mmap(
            file.fileno(), eighth, flags=mmap.MAP_PRIVATE, prot=_READ_WRITE
        )
        for written in (self.huge, self.private, self.forked, self.shmem, self.file_shared):
            _write(written)
        _read(self.zeroes)
        _read(self.file_private)
        _write(self.file_private, every=2)
        _lock(self.locked)

    def share_only_forked(self) -> None:
        """In the child: write some of the pages that are to be shared, unmap all others."""
        for memory in (self.huge, self.private, self.untouched, self.zeroes, self.shmem):
            memory.close()
        for memory in (self.locked, self.file_shared, self.file_private):
            memory.close()
        _write(self.forked, every=4)


def _write(memory: mmap.mmap, every: int = 1) -> None:
    for position in range(0, len(memory), every * _PAGE):
        memory[position] = position >> 12 & 0xFF or 1


def _read(memory: mmap.mmap) -> int:
    return sum(memory[position] for position in range(0, len(memory), _PAGE))


def _lock(memory: mmap.mmap) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    place = ctypes.c_char.from_buffer(memory)
    # A limit of 0 makes this fail; then there is simply no locked memory.
    libc.mlock(ctypes.c_void_p(ctypes.addressof(place)), ctypes.c_size_t(len(memory)))


def _lockable(wanted: int) -> int:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY:
        wanted = min(wanted, limit // 2)
    return max(wanted // _PAGE * _PAGE, _PAGE)


def _whole_pages(size: int) -> int:
    return max(size // _PAGE, 1) * _PAGE


if __name__ == "__main__":
    main()
