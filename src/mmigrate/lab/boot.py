"""Boots a guest that runs one command and then ends.

The guest sees the root file system of this computer, read-only, so it runs the same Python and the
same files; one folder, `share`, it may write to, at the same path.
"""

from __future__ import annotations

import os
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
from typing import Final

from mmigrate.errors import LabError
from mmigrate.lab import keeper
from mmigrate.lab.accelerator import accelerator
from mmigrate.lab.guest import Guest
from mmigrate.lab.monitor import Monitor
from mmigrate.lab.tools import find_tools

_TAIL: Final = 12  # lines of the console that an error shows
_SCRIPT: Final = """\
#!/bin/sh
cd {folder}
{environment}
{command} > {share}/output 2>&1 < /dev/null
echo $? > {share}/status.new
mv {share}/status.new {share}/status
"""


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

    @share: the folder that it may write to; by default one that vanishes with it.
    """

    def __init__(
        self,
        guest: Guest,
        command: Sequence[str],
        *,
        share: Path | None = None,
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
            self._process = self._start(tools.vng, tools.busybox, command, environment or {})
        except OSError as error:
            self._remove()
            raise LabError(f"the guest cannot be started: {error}") from error
        except BaseException:
            self._remove()
            raise

    def _start(
        self, vng: str, busybox: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        self.share.mkdir(parents=True, exist_ok=True)
        temporary = self._own / "tmp"
        temporary.mkdir()
        script = self.share / "run.sh"
        script.write_text(
            _SCRIPT.format(
                folder=shlex.quote(os.getcwd()),
                environment="\n".join(
                    f"export {name}={shlex.quote(value)}" for name, value in environment.items()
                ),
                command=shlex.join(command),
                share=shlex.quote(str(self.share)),
            )
        )
        script.chmod(0o755)
        arguments = [
            *(vng, "--verbose", "--force-9p", "--busybox", busybox),
            *([] if self.accelerator == "kvm" else ["--disable-kvm"]),
            *self.guest.arguments(),
            *("--rwdir", str(self.share), "--exec", str(script)),
        ]
        qemu = f"-qmp unix:{self._own}/qmp,server=on,wait=off"
        if self.guest.balloon:
            qemu += " -device virtio-balloon-pci"
        arguments.append(f"--qemu-opts={qemu}")
        environ = {**os.environ, "TMPDIR": str(temporary)}
        environ["PATH"] = f"{Path(vng).parent}:{environ.get('PATH', '')}:/usr/sbin:/sbin"
        with open(self._own / "console", "wb") as console:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(self._own), *arguments],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environ,
            )

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
        """What the kernel, and what booted it, have said so far."""
        return _text(self._own / "console")

    def tail(self) -> str:
        """The last lines of the console, for a sentence about what went wrong."""
        lines = [line.strip() for line in self.console.splitlines() if line.strip()]
        return "\n".join(f"  | {line}" for line in lines[-_TAIL:])

    def monitor(self) -> Monitor:
        """QEMU's monitor of this guest; close it."""
        return Monitor(self._own / "qmp")

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
            time.sleep(0.05)
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
