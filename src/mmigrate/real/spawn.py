"""Starts processes that run the program of `puppet.py`, as any user, on any CPU."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from mmigrate.errors import Missing, ScenarioError
from mmigrate.real import kernel_abi as abi
from mmigrate.real import puppet
from mmigrate.real.libc import libc

if TYPE_CHECKING:
    from mmigrate.real.process import RealProcess

_ADDR_NO_RANDOMIZE: Final = 0x0040000
_ASK: Final = 0xFFFFFFFF
_WHOLE_BUFFER: Final = bytes(puppet.MAX_PAYLOAD)


class Spawner:
    """Holds the program in a file without a name."""

    def __init__(self) -> None:
        if os.uname().machine != "x86_64" or struct.calcsize("P") != 8:
            raise Missing(f"real processes are made for x86_64; this is {os.uname().machine}")
        self._program = os.memfd_create("program")
        os.write(self._program, puppet.image())

    def start(self, cpu: int) -> tuple[int, socket.socket]:
        """(pid, its connection).  It is on @cpu from its first page on, at the same addresses
        every time, and in a group of its own: Ctrl-C is for us, who end the others."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        usual = os.sched_getaffinity(0)
        personality = libc.personality(_ASK)
        try:
            os.sched_setaffinity(0, {cpu})
            libc.personality(personality | _ADDR_NO_RANDOMIZE)
            pid = os.posix_spawn(
                f"/proc/self/fd/{self._program}",
                ["mmigrate"],
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, there.fileno(), 0)],
                setpgroup=0,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
            )
        except OSError as error:
            here.close()
            raise Missing(f"no process can be started: {error.strerror}") from error
        finally:
            there.close()
            libc.personality(personality)
            os.sched_setaffinity(0, usual)
        return pid, here

    def close(self) -> None:
        if self._program >= 0:
            os.close(self._program)
            self._program = -1


def prepare(process: RealProcess) -> None:
    """Let a new process touch all of its own memory once, catch its signals, and close what it
    inherited."""
    process.close_all_but({0})
    handler, restorer = puppet.signal_handler()
    flags = abi.SA_SIGINFO | abi.SA_RESTORER | abi.SA_NODEFER
    action = struct.pack("<QQQQ", handler, flags, restorer, 0)
    for number in (signal.SIGSEGV, signal.SIGBUS):
        process.call(abi.SYS_RT_SIGACTION, number, process.payload, 0, 8, payload=action)
    process.order(puppet.LOOK, 0, 1, 1)  # a signal, for its frame on the stack
    process.order(puppet.COPY, 0, 0, 0, payload=_WHOLE_BUFFER)


def become(process: RealProcess, uid: int, capabilities: Collection[str] | None) -> None:
    """Change the user and what it may do.  A process that did so may not be looked at by
    others of its user, unlike one that began that way: that is put right."""
    wanted = 0
    for name in capabilities or ():
        if name not in abi.CAPABILITIES:
            raise ScenarioError(f"no capability is called {name}")
        wanted |= 1 << abi.CAPABILITIES[name]
    if uid:
        process.call(abi.SYS_PRCTL, abi.PR_SET_KEEPCAPS, 1)
        process.call(abi.SYS_SETGROUPS, 0, 0)
        process.call(abi.SYS_SETRESGID, uid, uid, uid)
        process.call(abi.SYS_SETRESUID, uid, uid, uid)
    header = struct.pack("<Ii", abi.CAPABILITY_VERSION_3, 0)
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    data = struct.pack("<6I", low, low, 0, high, high, 0)
    place = process.payload
    process.call(abi.SYS_CAPSET, place, place + len(header), payload=header + data)
    process.call(abi.SYS_PRCTL, abi.PR_SET_DUMPABLE, 1)
