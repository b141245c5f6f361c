"""Files of a real machine: in a folder of a filesystem of the kind that was asked for."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mmigrate.errors import Missing, ScenarioError
from mmigrate.real.libc import libc
from mmigrate.units import PAGE_SIZE, MiB

# include/uapi/linux/magic.h: what statfs says of a filesystem.
_KINDS: Final = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x9123683E: "btrfs",
    0x6969: "nfs",
    0x01021997: "9p",
    0x794C7630: "overlay",
    0x958458F6: "hugetlbfs",
}
_NODEV: Final = ("tmpfs", "ramfs")  # filesystems without a disk
_NAMES: Final = ("ext4", "xfs", "nfs", "exofs", "ramfs", "tmpfs")
_SHARED_MEMORY: Final = Path("/dev/shm")
_SYNC_FILE_RANGE_WRITE: Final = 2
RAM_DISK: Final = MiB(320)  # the least that xfs accepts; pages are taken when they are written


@dataclass(frozen=True)
class RealFile:
    """A file.  @path: where it is; @fs: the kind of its filesystem."""

    name: str
    path: Path
    fs: str

    @property
    def i_size(self) -> int:
        return self.path.stat().st_size

    def __getattr__(self, name: str) -> Any:
        raise Missing(f"file.{name} looks inside the model; a real kernel does not show it")


class Files:
    """Makes files and what they live on.  @undo: told each step that takes something away.

    @lasting: a folder whose filesystems stay for the next machine, in a computer that will be
    thrown away.
    """

    def __init__(self, undo: Callable[..., None], lasting: Path | None = None) -> None:
        self._undo = undo
        self._lasting = lasting
        self._folders: dict[str, Path] = {}
        self.files: dict[str, RealFile] = {}

    def make(self, name: str, size: int, fs: str, data: bytes = b"") -> RealFile:
        self._check(name, size)
        if fs not in _NAMES:
            raise ScenarioError(f'no filesystem is called "{fs}"; known: {", ".join(_NAMES)}')
        folder = self._folders.get(fs)
        if folder is None:
            folder = self._folders[fs] = self._folder(fs)
        path = folder / f"{len(self.files)}-{os.path.basename(name)}"
        with open(path, "wb") as file:
            file.write(data[:size])
            file.truncate(size)
            # A modelled file begins on disk; this one too: clean, and out of the page cache.
            if fs not in _NODEV:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.chmod(path, 0o666)
        if fs not in _NODEV and self._lasting is not None:
            os.sync()  # in a guest what the filesystem itself has dirtied can be written too
        made = self.files[name] = RealFile(name, path, fs)
        return made

    def put(self, name: str, size: int, path: Path, fs: str) -> RealFile:
        """A file at a given place, which begins empty."""
        self._check(name, size)
        with open(path, "wb") as file:
            file.truncate(size)
        os.chmod(path, 0o666)
        made = self.files[name] = RealFile(name, path, fs)
        return made

    def _check(self, name: str, size: int) -> None:
        if name in self.files:
            raise ScenarioError(f"there is a file {name} already")
        if not 0 <= size < 1 << 63:
            raise ScenarioError(f"{size} is not the size of a file")

    def _folder(self, fs: str) -> Path:
        if fs == "tmpfs" and kind_of(_SHARED_MEMORY) == "tmpfs":
            return self._temporary(_SHARED_MEMORY)
        usual = Path(tempfile.gettempdir())
        if kind_of(usual) == fs:
            return self._temporary(usual)
        return self._temporary(self._mounted(fs))

    def _temporary(self, parent: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="mmigrate-", dir=parent))
        self._undo("remove", str(folder))
        folder.chmod(0o711)
        return folder

    def _mounted(self, fs: str) -> Path:
        """A filesystem of this kind, mounted for us."""
        if os.geteuid() != 0:
            raise Missing(f"there is no {fs} here, and only root can mount one")
        if fs not in _NODEV and shutil.which(f"mkfs.{fs}") is None:
            raise Missing(f"there is no {fs} here, and no mkfs.{fs} to make one")
        if self._lasting is not None:
            place = self._lasting / fs
            if kind_of(place) == fs:
                return place
            place.mkdir(parents=True, exist_ok=True)
        else:
            place = Path(tempfile.mkdtemp(prefix="mmigrate-"))
            self._undo("remove", str(place))
        device = fs
        if fs not in _NODEV:
            device = ram_disk(self._undo if self._lasting is None else None)
            done = subprocess.run(
                [f"mkfs.{fs}", "-q", device], capture_output=True, text=True, check=False
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[0]
                raise Missing(f"mkfs.{fs} {device} failed: {reason}")
        if libc.mount(os.fsencode(device), os.fsencode(place), fs.encode(), 0, None):
            raise Missing(f"{fs} cannot be mounted: {os.strerror(ctypes.get_errno())}")
        if self._lasting is None:
            self._undo("unmount", str(place))
        place.chmod(0o755)
        return place


def ram_disk(undo: Callable[..., None] | None) -> str:
    """A RAM disk that nobody uses (brd), as a device.  Missing: there is none to be had."""
    if not Path("/sys/block/ram0").exists():
        if not Path(f"/lib/modules/{os.uname().release}").is_dir():
            raise Missing("there is no RAM disk: this kernel has no modules here (brd)")
        done = subprocess.run(
            ["modprobe", "brd", "rd_nr=8", f"rd_size={RAM_DISK >> 10}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Missing(f"there is no RAM disk: {done.stderr.strip() or 'modprobe brd failed'}")
        if undo is not None:
            undo("rmmod", "brd")
    used = Path("/proc/mounts").read_text() + Path("/proc/swaps").read_text()
    for number in range(8):
        device = f"/dev/ram{number}"
        if os.path.exists(device) and f"{device} " not in used:
            return device
    raise Missing("all RAM disks are in use")


def write_swap_header(device: str, size: int) -> None:
    """Make @size bytes of a device or file a swap area, as mkswap does."""
    header = bytearray(PAGE_SIZE)
    # include/linux/swap.h: union swap_header; the version, and the last page.
    struct.pack_into("<II", header, 1024, 1, size // PAGE_SIZE - 1)
    header[-10:] = b"SWAPSPACE2"
    with open(device, "r+b") as file:
        file.write(header)
        file.flush()
        os.fsync(file.fileno())


def kind_of(path: Path) -> str:
    """The kind of filesystem that @path is on, "" if it is not known."""
    buffer = ctypes.create_string_buffer(256)
    if libc.statfs(os.fsencode(path), buffer):
        return ""
    return _KINDS.get(struct.unpack_from("<q", buffer)[0] & 0xFFFFFFFF, "")


def start_writeback(file: RealFile) -> None:
    """Begin to write the dirty pages of a file, and do not wait."""
    number = os.open(file.path, os.O_RDWR)
    try:
        libc.sync_file_range(
            number, ctypes.c_long(0), ctypes.c_long(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
        )
    finally:
        os.close(number)


def sync_file(file: RealFile) -> None:
    number = os.open(file.path, os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        with suppress(OSError):
            os.close(number)
