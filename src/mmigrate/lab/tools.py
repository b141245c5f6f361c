"""What the lab needs on this computer: QEMU, virtme-ng, busybox, a kernel and its modules.

Of virtme-ng it uses the initramfs, which finds the modules that a kernel needs to see the root file
system of this computer and mounts it. The rest of what `vng` does (overlays, udev, a console for
people) takes longer than the kernel itself, so QEMU is called directly.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmigrate.errors import LabError, UsageError

GET: Final = "make lab gets it"
MODULES: Final = Path("/lib/modules")


@dataclass(frozen=True)
class Tools:
    """Where the programs are."""

    qemu: str
    mkinitramfs: str
    busybox: str


@dataclass(frozen=True)
class KernelImage:
    """A kernel that can be booted.  @release: as `uname -r` will say in the guest."""

    path: Path
    release: str

    def __str__(self) -> str:
        return self.release


def find_tools() -> Tools:
    """Raises LabError: one is missing."""
    return Tools(
        qemu=_program("qemu-system-x86_64", "QEMU"),
        mkinitramfs=_program("virtme-mkinitramfs", "virtme-ng"),
        busybox=_program("busybox", "busybox (busybox-static)"),
    )


def _program(name: str, title: str) -> str:
    beside_python = Path(sys.executable).parent / name
    if beside_python.exists():
        return str(beside_python)
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/bin")
    if found is None:
        raise LabError(f"{title} is not installed; {GET}")
    return found


def kernel_image(path: Path) -> KernelImage:
    """The kernel in a file.

    Raises UsageError: there is no such file, or it is no kernel of x86-64.  LabError: its modules
    are not installed, or it was built without NUMA.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    # Documentation/arch/x86/boot.rst: the setup header.
    if len(head) < 0x260 or head[0x202:0x206] != b"HdrS":
        raise UsageError(f"{path} is not a kernel image for x86-64 (a bzImage)")
    (where,) = struct.unpack_from("<H", head, 0x20E)
    text = head[where + 0x200 :].split(b"\0", 1)[0].decode("ascii", "replace")
    release = text.split(" ", 1)[0]
    if not where or not release:
        raise UsageError(f"{path} does not say which kernel it is")
    if not (MODULES / release).is_dir():
        raise LabError(f"the modules of {release} are not in {MODULES}; {GET}")
    config = _config(path, release)
    if config and "CONFIG_NUMA=y" not in config:
        raise LabError(f"{release} was built without NUMA (CONFIG_NUMA): it has one node only")
    return KernelImage(path, release)


def _config(path: Path, release: str) -> set[str]:
    """The lines of the configuration of a kernel, if it is to be found."""
    for place in (path.with_name(f"config-{release}"), Path(f"/boot/config-{release}")):
        if place.is_file():
            return set(place.read_text(errors="replace").splitlines())
    return set()


def installed_kernels() -> list[KernelImage]:
    """The kernels in /boot that can be booted here, oldest first."""
    found = []
    for path in Path("/boot").glob("vmlinuz-*"):
        try:
            found.append(kernel_image(path))
        except (LabError, UsageError):
            continue
    return sorted(found, key=lambda kernel: release_order(kernel.release))


def release_order(release: str) -> tuple[int, ...]:
    """ "6.12.117+deb12" as (6, 12, 117)."""
    numbers: list[int] = []
    for part in release.replace("+", "-").split("-", 1)[0].split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
