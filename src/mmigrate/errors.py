"""What goes wrong for a user, and how the commands tell: one class for each exit code.

A `Violation` is a value: a finding about the modelled kernel, never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EFAULT


class MmigrateError(Exception):
    """Base of all errors; its text is one clear sentence for the user."""

    exit_code = 2


class UsageError(MmigrateError):
    """A flag, an address, a node or a file name makes no sense."""


class ScenarioError(MmigrateError):
    """A scenario uses the library wrongly, raises, deadlocks or never ends."""


class SnapshotError(MmigrateError):
    """A snapshot file cannot be read: truncated, foreign, too new or damaged."""


class ReplayMismatch(MmigrateError):
    """A recorded schedule does not fit this code or this scenario any more."""


class EnvironmentLacks(MmigrateError):
    """This computer lacks something; the text names the command that would provide it."""

    exit_code = 3


class LabError(EnvironmentLacks):
    """A real kernel could not be booted or did not answer."""


class Missing(EnvironmentLacks):
    """A scenario needs something that this kernel, computer or user does not have."""


class InternalError(MmigrateError):
    """A defect of mmigrate itself."""


class KernelBug(Exception):
    """A BUG() of the modelled kernel: a finding, so `check()` reports it."""


@dataclass(frozen=True)
class Violation:
    """One finding: which oracle, about which object, and what is wrong, both values given."""

    oracle: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.oracle}: {self.subject}: {self.message}"


class MemoryFault(OSError):
    """A load or store that ended in a signal; `signal` is its name, such as "SIGSEGV"."""

    def __init__(self, signal: str, address: int, process: str) -> None:
        super().__init__(EFAULT, f"{process} got {signal} at {address:#x}")
        self.signal = signal
        self.address = address
