"""Boots a guest that runs one command and then ends.

The guest sees the root file system of this computer, read-only, so it runs the same Python and the
same files; one folder, `share`, it may write to, at the same path. /run and /dev/shm are its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from mmigrate.errors import LabError
from mmigrate.lab import keeper
from mmigrate.lab.accelerator import accelerator
from mmigrate.lab.guest import Guest
from mmigrate.lab.monitor import Monitor
from mmigrate.lab.tools import Tools, find_tools

_TAIL: Final = 12  # lines of the console that an error shows
_COMPLAINT: Final = re.compile(
    "panic|BUG|Oops|WARNING|[Uu]nable to|not syncing|stuck|Out of memory"
)
# The first process of the guest, in place of the distribution's: what a scenario needs is mounted
# in a second, where udev and services would take ten.
_INIT: Final = """\
#!{busybox} sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount() {{ {busybox} mount "$@"; }}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
{busybox} mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288 share {share}
{busybox} mkdir -p /run/tmp {share}/requests
export HOME=/run TMPDIR=/run/tmp
export MMIGRATE_DISPOSABLE=1 MMIGRATE_SHARE={share} MMIGRATE_REQUESTS={share}/requests
{environment}
{balloon}
cd {folder}
{command} > {share}/output 2>&1 < /dev/null
echo $? > {share}/status
echo b > /proc/sysrq-trigger
"""
# oops=panic: a kernel that complained that much is not asked any further.
_KERNEL_ARGUMENTS: Final = (
    "console=ttyS0 loglevel=6 panic=-1 oops=panic nokaslr mitigations=off audit=0 apparmor=0 "
    "nowatchdog random.trust_cpu=on cryptomgr.notests 8250.nr_uarts=1 "
    "numa_balancing=disable transparent_hugepage=madvise"
)


@dataclass(frozen=True)
class GuestRun:
    """What came of it.  @status: the exit status of the command; @seconds: from start to end."""

    status: int
    output: str
    console: str
    seconds: float
    accelerator: str


class Boot:
    """A guest that is running, or has run.  Leaving the `with` block ends it.

    @share: the folder that it may write to; by default one that vanishes with it.  @files: what
    is in it at first, by name.  The command finds it as $MMIGRATE_SHARE.
    """

    def __init__(
        self,
        guest: Guest,
        command: Sequence[str],
        *,
        share: Path | None = None,
        files: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        tools = find_tools()
        self.guest = guest
        self.accelerator = accelerator(tools, guest.kernel)
        try:
            self._own = Path(tempfile.mkdtemp(prefix="mmigrate-lab-"))
        except OSError as error:
            raise LabError(f"no folder can be made for the guest: {error.strerror}") from error
        self.share = self._own / "share" if share is None else share.absolute()
        self.begun = time.monotonic()
        try:
            self.share.mkdir(parents=True, exist_ok=True)
            for name, text in (files or {}).items():
                (self.share / name).write_text(text)
            self._process = self._start(tools, command, environment or {})
        except OSError as error:
            self._remove()
            raise LabError(f"the guest cannot be started: {error}") from error
        except BaseException:
            self._remove()
            raise

    def _start(
        self, tools: Tools, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        (self.share / "status").unlink(missing_ok=True)
        init = self._own / "init"
        init.write_text(
            _INIT.format(
                busybox=tools.busybox,
                share=shlex.quote(str(self.share)),
                environment="\n".join(
                    f"export {name}={shlex.quote(value)}" for name, value in environment.items()
                ),
                balloon="modprobe virtio_balloon" if self.guest.balloon else "",
                folder=shlex.quote(os.getcwd()),
                command=shlex.join(command),
            )
        )
        init.chmod(0o755)
        self._make_initramfs(tools)
        with open(self._own / "qemu", "wb") as said:
            return subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", keeper.__file__, str(self._own)),
                    *self._command_line(tools, init),
                ],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _make_initramfs(self, tools: Tools) -> None:
        release = self.guest.kernel.release
        done = subprocess.run(
            [tools.mkinitramfs, "--mod-kversion", release, "--outfile", f"{self._own}/initramfs"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["it gave no reason"]
            raise LabError(f"virtme-ng cannot make the initramfs of {release}: {reason[0]}")

    def _command_line(self, tools: Tools, init: Path) -> list[str]:
        kernel = [_KERNEL_ARGUMENTS, *self.guest.append, f"init={init}"]
        processor = "host" if self.accelerator == "kvm" else "max,la57=off"
        command = [
            *(tools.qemu, "-name", "mmigrate", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-no-reboot", "-machine", "q35", "-cpu", processor),
            *("-accel", self.accelerator, *self.guest.arguments()),
            *("-serial", f"file:{self._own}/console"),
            *("-qmp", f"unix:{self._own}/qmp,server=on,wait=off"),
            *("-kernel", str(self.guest.kernel.path.absolute())),
            *("-initrd", f"{self._own}/initramfs", "-append", " ".join(kernel)),
        ]
        for tag, path, mode in (("/dev/root", "/", "on"), ("share", str(self.share), "off")):
            name = tag.rpartition("/")[2]
            command += [
                "-fsdev",
                f"local,id={name},path={path},security_model=none,readonly={mode},multidevs=remap",
                "-device",
                f"virtio-9p-pci,fsdev={name},mount_tag={tag}",
            ]
        return command

    def __enter__(self) -> Boot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    # --- while it runs ---

    @property
    def running(self) -> bool:
        return not (self._own / "ended").exists() and self._process.poll() is None

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begun

    @property
    def status(self) -> int | None:
        """The exit status of the command, None as long as it has not ended."""
        with suppress(OSError, ValueError):
            return int((self.share / "status").read_text())
        return None

    @property
    def output(self) -> str:
        """What the command has printed so far."""
        return _text(self.share / "output")

    @property
    def console(self) -> str:
        """What QEMU and the kernel have said so far."""
        return _text(self._own / "qemu") + _text(self._own / "console")

    def tail(self) -> str:
        """What the console says of the end: the last lines, and before them the complaints of the
        kernel that would be out of sight."""
        lines = [line.strip() for line in self.console.splitlines() if line.strip()]
        shown = [line for line in lines[:-_TAIL] if _COMPLAINT.search(line)][-_TAIL:]
        if shown:
            shown.append("...")
        return "\n".join(f"  | {line}" for line in [*shown, *lines[-_TAIL:]])

    def monitor(self) -> Monitor:
        """QEMU's monitor of this guest; close it."""
        return Monitor(self._own / "qmp")

    def answer_requests(self) -> None:
        """Do what the guest asks for: `N.request` in the folder `requests`, one JSON object.

        {"balloon": SIZE} sets the bytes that the balloon leaves to it, {"balloon": null} asks for
        them.  `N.answer` has the "result", or the "error".
        """
        for request in sorted((self.share / "requests").glob("*.request")):
            answer: dict[str, Any]
            try:
                answer = {"result": self._answer(json.loads(request.read_text()))}
            except (LabError, ValueError, KeyError) as error:
                answer = {"error": str(error)}
            request.unlink()
            written = request.with_suffix(".written")
            written.write_text(json.dumps(answer))
            written.rename(request.with_suffix(".answer"))

    def _answer(self, request: dict[str, Any]) -> int:
        size = request["balloon"]
        monitor = self.monitor()
        try:
            if size is not None:
                monitor.balloon = size
            return monitor.balloon
        finally:
            monitor.close()

    def wait(self, seconds: float) -> GuestRun:
        """Until the command has ended.

        Raises LabError: the guest did not boot, died, or did not end within @seconds since the
        start; with the tail of its console.
        """
        while self.running:
            if self.seconds > seconds:
                raise LabError(
                    f"the guest did not end within {seconds:g} s; its console ends:\n{self.tail()}"
                )
            self.answer_requests()
            time.sleep(0.02)
        status = self.status
        if status is None:
            raise LabError(f"the guest ended before its command; its console ends:\n{self.tail()}")
        return GuestRun(status, self.output, self.console, self.seconds, self.accelerator)

    def end(self) -> None:
        """Kill the guest if it still runs, and remove its folder."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait()
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self._own, ignore_errors=True)


def run_in_guest(
    guest: Guest,
    command: Sequence[str],
    *,
    seconds: float = 120,
    share: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> GuestRun:
    """Boot a guest, run one command in it, and end it.

    @command: program and arguments, as found on this computer.  @share: the folder it may write
    to.  Raises LabError: something is not installed, or the guest did not do it in @seconds.
    """
    with Boot(guest, command, share=share, environment=environment) as boot:
        return boot.wait(seconds)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
