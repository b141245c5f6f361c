"""A process that obeys orders: its connections, its threads, and system calls with memory.

In a task that `machine.start` began, an order is obeyed by a thread of its own of the process, so
that calls overlap.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from mmigrate.arguments import by_page, whole_pages
from mmigrate.errors import MemoryFault, Missing, ScenarioError
from mmigrate.real import kernel_abi as abi
from mmigrate.real import puppet
from mmigrate.real.channel import SIGNALS, Channel, Gone
from mmigrate.real.own_areas import OwnAreas

if TYPE_CHECKING:
    from mmigrate.real.machine import RealMachine


class Obedient:
    """A process that obeys orders.  @pid: its number."""

    def __init__(
        self, machine: RealMachine, name: str, pid: int, channel: Channel, own: OwnAreas
    ) -> None:
        self.machine = machine
        self.name = name
        self.pid = pid
        self.exited = False
        self.own = own
        self._main = channel
        self._threads: dict[int, Channel] = {}  # by thread of this interpreter
        self._slots = {channel.slot}
        self._open_files: set[int] = {channel.file}
        self._by_name: dict[str, int] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<process {self.name}, pid {self.pid}>"

    def __getattr__(self, name: str) -> Any:
        if name in ("mm", "task", "page_at", "running"):
            raise Missing(f"process.{name} looks inside the model; a real kernel does not show it")
        raise AttributeError(f"a real process has no {name}")

    # --- orders ---

    @property
    def payload(self) -> int:
        """Where the payload of an order is, in the memory of the process."""
        return self._main.payload

    def _channel(self) -> Channel:
        """The thread of this process that works for whoever asks."""
        if self.exited:
            raise ProcessLookupError(errno.ESRCH, f"{self.name} has exited")
        running = self.machine.running_task()
        if running is None:
            return self._main
        channel = self._threads.get(threading.get_ident())
        return channel if channel is not None else self.add_thread(running.cpu)

    def order(
        self, operation: int, *arguments: int, payload: bytes = b"", back: int = 0
    ) -> tuple[int, int, bytes]:
        """One order; (result, where a fault was, payload)."""
        return self._tell(self._channel(), operation, *arguments, payload=payload, back=back)

    def _tell(
        self,
        channel: Channel,
        operation: int,
        *arguments: int,
        payload: bytes = b"",
        back: int = 0,
    ) -> tuple[int, int, bytes]:
        try:
            return channel.order(operation, *arguments, payload=payload, back=back)
        except Gone:
            raise ScenarioError(self._obituary()) from None
        except ScenarioError as error:
            self.machine.kill()
            raise ScenarioError(f"{self.name}: {error}") from None

    def _obituary(self) -> str:
        ending = self.machine.reap(self)
        return f"{self.name} {ending}"

    def call(self, number: int, *arguments: int, payload: bytes = b"", back: int = 0) -> int:
        """One system call; its result, or OSError."""
        return checked(self.order(number, *arguments, payload=payload, back=back)[0])

    def _call_with(
        self,
        number: int,
        arguments: Sequence[int | bytes | bytearray],
        channel: Channel | None = None,
    ) -> int:
        """A system call some of whose arguments are memory: bytes that it reads, and bytearrays
        that it reads and writes.  Its result, which may be an error."""
        channel = channel or self._channel()
        blobs = [blob for blob in arguments if not isinstance(blob, int)]
        sizes = [(len(blob) + 7) & ~7 for blob in blobs]
        whole = b"".join(
            bytes(blob).ljust(size, b"\0") for blob, size in zip(blobs, sizes, strict=True)
        )
        inline = len(whole) <= puppet.MAX_PAYLOAD
        place = channel.payload if inline else self.own.scratch(channel.slot)
        numbers: list[int] = []
        position = place
        for argument in arguments:
            if isinstance(argument, int):
                numbers.append(argument)
            else:
                numbers.append(position)
                position += (len(argument) + 7) & ~7
        if inline:
            writes = any(isinstance(blob, bytearray) for blob in blobs)
            back = len(whole) if writes else 0
            result, _, whole = self._tell(channel, number, *numbers, payload=whole, back=back)
        else:
            self._fill_scratch(channel, place, whole)
            try:
                result, _, _ = self._tell(channel, number, *numbers)
                whole = self._load(channel, place, len(whole))
            finally:
                self._tell(channel, abi.SYS_MUNMAP, place, whole_pages(len(whole)))
        position = 0
        for blob, size in zip(blobs, sizes, strict=True):
            if isinstance(blob, bytearray):
                blob[:] = whole[position : position + len(blob)]
            position += size
        return result

    def _fill_scratch(self, channel: Channel, place: int, data: bytes) -> None:
        flags = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_FIXED
        size, access = whole_pages(len(data)), abi.PROT_READ | abi.PROT_WRITE
        checked(self._tell(channel, abi.SYS_MMAP, place, size, access, flags, -1, 0)[0])
        for here, position, part in by_page(place, len(data)):
            piece = data[position : position + part]
            self._tell(channel, puppet.COPY, here, channel.payload, part, payload=piece)

    def _load(self, channel: Channel, address: int, length: int) -> bytes:
        """Bytes at @address, by loads."""
        found = bytearray()
        for here, _, part in by_page(address, length):
            signal, where, data = self._tell(
                channel, puppet.COPY, channel.payload, here, part, back=part
            )
            if signal:
                raise MemoryFault(SIGNALS.get(signal, str(signal)), where, self.name)
            found += data
        return bytes(found)

    def close_files(self, files: Collection[int]) -> None:
        for file in files:
            if file in self._open_files and not self.exited:
                self._open_files.discard(file)
                self.call(abi.SYS_CLOSE, file)

    def close_all_but(self, kept: Collection[int]) -> None:
        """Close what came from another process, by accident or by fork."""
        first = 0
        for file in [*sorted(kept), 0xFFFF_FFFF]:
            if first < file:
                last = file - 1
                checked(self._tell(self._main, abi.SYS_CLOSE_RANGE, first, last, 0)[0])
            first = file + 1

    # --- threads ---

    def add_thread(self, cpu: int) -> Channel:
        """A thread of this process for the calling thread of this interpreter."""
        with self._lock:
            slot = next(number for number in range(1, 1 << 16) if number not in self._slots)
            self._slots.add(slot)
            stack = self.own.stack(slot)
            access = abi.PROT_READ | abi.PROT_WRITE
            flags = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_FIXED
            size = self.own.stack_size
            main = self._main
            checked(self._tell(main, abi.SYS_MMAP, stack, size, access, flags, -1, 0)[0])
            channel = self._new_connection(main, abi.CLONE_A_THREAD, stack + size, slot)
        self._threads[threading.get_ident()] = channel
        os.sched_setaffinity(channel.tid, {cpu})
        return channel

    def end_threads(self, thread: int) -> None:
        """End the thread of this process that worked for @thread of this interpreter."""
        channel = self._threads.pop(thread, None)
        if channel is None:
            return
        if not self.exited:
            channel.send_last(abi.SYS_EXIT, 0)
            self.machine.wait_for_thread(self.pid, channel.tid)
            with suppress(ScenarioError):
                main = self._main
                self._tell(main, abi.SYS_CLOSE, channel.file)
                stack = self.own.stack(channel.slot)
                self._tell(main, abi.SYS_MUNMAP, stack, self.own.stack_size)
        self._slots.discard(channel.slot)
        self._open_files.discard(channel.file)
        channel.close()

    def _new_connection(self, channel: Channel, flags: int, stack: int, slot: int) -> Channel:
        """A thread or child that takes orders on a connection of its own."""
        with self.machine.connecting:
            listener = self.machine.listener
            stream = 5 | abi.O_CLOEXEC  # SOCK_SEQPACKET
            file = checked(self._tell(channel, abi.SYS_SOCKET, 1, stream, 0)[0])
            name = listener.address
            checked(
                self._tell(
                    channel, abi.SYS_CONNECT, file, channel.payload, len(name), payload=name
                )[0]
            )
            connection = listener.accept()
        tid = self._tell(channel, puppet.CLONE, flags, stack, file)[0]
        if tid < 0:
            connection.close()
            self._tell(channel, abi.SYS_CLOSE, file)
            checked(tid)
        if stack:
            self._open_files.add(file)
        else:
            self._tell(channel, abi.SYS_CLOSE, file)
        new = Channel(connection, self.machine.seconds, file, slot)
        new.tid = tid
        return new

    def on_cpu(self, number: int) -> Self:
        """Run on another CPU from now on; self."""
        cpu = self.machine.real_cpu(number)
        os.sched_setaffinity(self.pid, {cpu})
        channel = self._threads.get(threading.get_ident())
        if channel is not None:
            os.sched_setaffinity(channel.tid, {cpu})
        return self

    # --- life ---

    def close(self) -> None:
        """Close the connections; the process ends if it has not yet."""
        self.exited = True
        for channel in (self._main, *self._threads.values()):
            channel.close()

    def set_name(self, name: str) -> None:
        words = (abi.PR_SET_NAME, os.fsencode(name)[:15] + b"\0")
        checked(self._call_with(abi.SYS_PRCTL, words, self._main))


def checked(result: int) -> int:
    """The result of a system call, or OSError."""
    if -4096 < result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
