"""QEMU's monitor, which sees a guest from outside  (QMP)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from mmigrate.errors import LabError


class Monitor:
    """A connection to the monitor of a guest.

    @path: its socket.  Raises LabError: it does not answer, or refuses.
    """

    def __init__(self, path: Path, seconds: float = 10) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(str(path))
            self._file = self._socket.makefile("rw")
            self._file.readline()  # a greeting
        except OSError as error:
            self._socket.close()
            raise LabError(f"QEMU does not answer: {error.strerror or error}") from error
        self.ask("qmp_capabilities")

    def ask(self, what: str, **arguments: Any) -> Any:
        """One command; what it returns."""
        try:
            self._file.write(json.dumps({"execute": what, "arguments": arguments}) + "\n")
            self._file.flush()
            for line in self._file:
                answer = json.loads(line)
                if "error" in answer:
                    raise LabError(f"QEMU refuses {what}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]
        except OSError as error:
            raise LabError(f"QEMU does not answer {what}: {error}") from error
        raise LabError(f"QEMU ended before it answered {what}")

    @property
    def balloon(self) -> int:
        """Bytes of memory that the balloon leaves to the guest."""
        return int(self.ask("query-balloon")["actual"])

    @balloon.setter
    def balloon(self, size: int) -> None:
        self.ask("balloon", value=size)

    def close(self) -> None:
        self._file.close()
        self._socket.close()
