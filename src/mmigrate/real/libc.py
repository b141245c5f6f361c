"""The C library of this interpreter, for system calls that Python has no function for."""

from __future__ import annotations

import ctypes
import os
from typing import Final

libc: Final = ctypes.CDLL(None, use_errno=True)


def failure(path: str | None = None) -> OSError:
    """The error of the call that was made last."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
