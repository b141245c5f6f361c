"""A connection to one thread of a process: orders there, answers back  (`puppet.py`)."""

from __future__ import annotations

import os
import socket
from typing import Final

from mmigrate.errors import ScenarioError
from mmigrate.real import puppet

SIGNALS: Final = {4: "SIGILL", 5: "SIGTRAP", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV"}


class Gone(Exception):
    """The other side closed the connection: its process has ended."""


class Channel:
    """One thread of a process, which obeys one order at a time.

    @seconds: the longest an order may take.  @file: the number of the socket over there.
    @slot: which stack it uses; 0 is that of the process itself.
    """

    def __init__(self, connection: socket.socket, seconds: float, file: int, slot: int) -> None:
        self.connection = connection
        self.file = file
        self.slot = slot
        self.tid = 0
        connection.settimeout(seconds)
        self.buffer, _, _ = self._receive()

    @property
    def payload(self) -> int:
        """The address of the payload over there."""
        return self.buffer + puppet.PAYLOAD

    def order(
        self, operation: int, *arguments: int, payload: bytes = b"", back: int = 0
    ) -> tuple[int, int, bytes]:
        """(result, where a fault was, @back bytes of the payload as they are now).

        Raises Gone: the process has ended.  ScenarioError: it does not answer.
        """
        words = [word & 0xFFFF_FFFF_FFFF_FFFF for word in arguments]
        words += [0] * (6 - len(words))
        message = puppet.HEADER.pack(operation, *words, back) + payload
        try:
            self.connection.sendall(message)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None
        return self._receive()

    def send_last(self, operation: int, *arguments: int) -> None:
        """An order that has no answer, because it ends the thread or the process."""
        words = [*arguments, *[0] * (6 - len(arguments))]
        try:
            self.connection.sendall(puppet.HEADER.pack(operation, *words, 0))
        except OSError:
            return

    def wait_for_end(self) -> None:
        """Until the other side closes."""
        try:
            while self.connection.recv(puppet.BUFFER):
                pass
        except OSError:
            return

    def close(self) -> None:
        self.connection.close()

    def _receive(self) -> tuple[int, int, bytes]:
        try:
            answer = self.connection.recv(puppet.BUFFER)
        except TimeoutError:
            limit = self.connection.gettimeout()
            raise ScenarioError(f"an order was not carried out within {limit:g} s") from None
        except ConnectionResetError:
            raise Gone from None
        if len(answer) < puppet.ANSWER.size:
            raise Gone
        result, second = puppet.ANSWER.unpack_from(answer)
        return result, second, answer[puppet.ANSWER.size :]


class Listener:
    """Where new children and threads connect to: a name in the abstract name space, so that
    nothing is left in a filesystem."""

    def __init__(self, seconds: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind("\0mmigrate-" + os.urandom(8).hex())
        self.socket.listen()
        self.socket.settimeout(seconds)

    @property
    def address(self) -> bytes:
        """A struct sockaddr_un."""
        name = self.socket.getsockname()
        return socket.AF_UNIX.to_bytes(2, "little") + bytes(name)

    def accept(self) -> socket.socket:
        return self.socket.accept()[0]

    def close(self) -> None:
        self.socket.close()
