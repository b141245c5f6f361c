"""What must be put back when a machine ends, however it ends.

A step is a list of texts:

    ["write", FILE, TEXT]   ["remove", FOLDER]   ["rmdir", FOLDER]
    ["unmount", FOLDER]     ["swapoff", DEVICE]  ["rmmod", MODULE]

A witness is told of each step before it may become necessary, and when it has been carried out: it
does the rest when we are gone. It is this file, run as a program that reads from a pipe, so it
imports nothing of mmigrate; or whoever left the number of such a pipe in the environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

WITNESS: Final = "MMIGRATE_WITNESS"  # the environment variable
_libc = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH: Final = 2
_DELETE_MODULE: Final = 176
_PATIENCE: Final = 200  # tries of a hundredth of a second while something is still busy


class Undo:
    """The steps of one machine, the last first."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self._pipe = -1
        self._witness: subprocess.Popen[bytes] | None = None

    def add(self, *step: str) -> None:
        """A step that has to be done in the end.  Say so before you do what it puts back."""
        if self._pipe < 0:
            self._find_witness()
        self.steps.append(list(step))
        self._tell("add", self.steps[-1])

    def forget(self, *step: str) -> None:
        """A step that is not necessary any more."""
        if list(step) in self.steps:
            self.steps.remove(list(step))
            self._tell("done", list(step))

    def carry_out(self) -> list[str]:
        """Do all steps; sentences about those that failed."""
        failed = []
        while self.steps:
            step = self.steps.pop()
            try:
                carry_out(step)
            except OSError as error:
                failed.append(f"{' '.join(step)}: {error.strerror}")
            self._tell("done", step)
        if self._witness is not None:
            os.close(self._pipe)
            self._witness.wait()
            self._witness = None
        self._pipe = -1
        return failed

    def _find_witness(self) -> None:
        number = os.environ.get(WITNESS)
        if number is not None:
            self._pipe = int(number)
            return
        reading, self._pipe = os.pipe()
        self._witness = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=reading, start_new_session=True
        )
        os.close(reading)

    def _tell(self, what: str, step: list[str]) -> None:
        with suppress(OSError):
            os.write(self._pipe, json.dumps([what, step]).encode() + b"\n")


def carry_out(step: list[str]) -> None:
    """Do one step.  What is gone already is no error; OSError if it cannot be done."""
    with suppress(FileNotFoundError):
        _ACTIONS[step[0]](*step[1:])


def left_over(lines: Iterable[str]) -> list[list[str]]:
    """The steps that a witness heard of and nobody has carried out, the last first."""
    steps: list[list[str]] = []
    for line in lines:
        with suppress(ValueError):
            what, step = json.loads(line)
            if what == "add":
                steps.append(step)
            elif step in steps:
                steps.remove(step)
    return steps[::-1]


def witness() -> None:
    """Read until the writer is gone, then do what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for step in left_over(sys.stdin):
        with suppress(OSError):
            carry_out(step)


# --- the steps ---


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _remove(path: str) -> None:
    shutil.rmtree(path)


def _rmdir(path: str) -> None:
    """A cgroup is busy until its last process has gone."""
    _patiently(lambda: os.rmdir(path))


def _unmount(path: str) -> None:
    if _libc.umount2(os.fsencode(path), 0):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), path)


def _swapoff(path: str) -> None:
    os.stat(path)  # the kernel asks first who calls, and only root would hear that it is gone
    _check(_libc.swapoff(os.fsencode(path)), path)


def _rmmod(name: str) -> None:
    _patiently(
        lambda: _check(_libc.syscall(_DELETE_MODULE, os.fsencode(name), os.O_NONBLOCK), name)
    )


def _patiently(action: Callable[[], None]) -> None:
    for _ in range(_PATIENCE):
        try:
            return action()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(0.01)
    return action()


def _check(result: int, name: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


_ACTIONS: Final[dict[str, Callable[..., None]]] = {
    "write": _write,
    "remove": _remove,
    "rmdir": _rmdir,
    "unmount": _unmount,
    "swapoff": _swapoff,
    "rmmod": _rmmod,
}

if __name__ == "__main__":
    witness()
