"""Whether KVM works here: found out by trying, with a time limit, for on some computers it is there
and hangs or asserts."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from mmigrate.errors import UsageError
from mmigrate.lab.tools import KernelImage, Tools

CHOICE: Final = "MMIGRATE_ACCELERATOR"  # the environment variable: kvm or tcg
_SECONDS: Final = 10
_KVM: Final = Path("/dev/kvm")


def accelerator(tools: Tools, kernel: KernelImage) -> str:
    """ "kvm", or "tcg", which is emulation.  What was found out holds until the next reboot."""
    chosen = os.environ.get(CHOICE)
    if chosen is not None:
        if chosen not in ("kvm", "tcg"):
            raise UsageError(f"{CHOICE} is {chosen}; it must be kvm or tcg")
        return chosen
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return "tcg"
    known = _known()
    if known is not None:
        with suppress(OSError):
            return known.read_text().strip()
    found = "kvm" if _kvm_works(tools, kernel) else "tcg"
    if known is not None:
        with suppress(OSError):
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(found)
    return found


def _kvm_works(tools: Tools, kernel: KernelImage) -> bool:
    """Boot the kernel with nothing but itself: it must get as far as missing its root."""
    with tempfile.NamedTemporaryFile(prefix="mmigrate-kvm-") as console:
        command = [
            *(tools.qemu, "-accel", "kvm", "-cpu", "host", "-m", "512M", "-nodefaults"),
            *("-display", "none", "-no-reboot", "-serial", f"file:{console.name}"),
            *("-kernel", str(kernel.path), "-append", "console=ttyS0 panic=-1"),
        ]
        with suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        return b"Unable to mount root" in Path(console.name).read_bytes()


def _known() -> Path | None:
    """Where the answer is kept for this boot of this computer."""
    folder = cache_folder()
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return folder / f"accelerator-{boot}" if folder is not None else None
    return None


def cache_folder() -> Path | None:
    """The folder of this user for what can be made again; None if there is none."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return cache / "mmigrate"
