"""A device that shares a process' memory, as a user sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmigrate.arguments import by_page, natural
from mmigrate.errors import MemoryFault
from mmigrate.linux.drivers import iommu
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.kernel import sched
from mmigrate.linux.mm import mmu_notifier

if TYPE_CHECKING:
    from mmigrate.machine.process import Process


class Device:
    """Loads and stores with the addresses of a process, but not by its CPUs.

    Given to `machine.start`, `read` and `write` run in a task of their own. An access that
    cannot be had is a MemoryFault.
    """

    def __init__(self, process: Process, kind: str, name: str) -> None:
        self.process = process
        self.name = name
        self.driver = iommu.bind(kind, name, process.mm)
        kernel = process.machine.kernel
        self._worker = kernel.scheduler.new_task(name, kernel.cpus[0], None)

    def __repr__(self) -> str:
        return f"<device {self.name} of {self.process.name}>"

    def write(self, address: int, data: bytes) -> None:
        """Store bytes, page by page."""
        with self._running():
            for here, position, part in by_page(natural(address, "an address"), len(data)):
                piece = data[position : position + part]

                def store(page: Page, here: int = here, piece: bytes = piece) -> None:
                    self.process.store(page, here, piece)

                self._access(here, True, store)

    def read(self, address: int, length: int) -> bytes:
        """Load bytes, page by page.  What was stored last must come back: anything else is
        a finding."""
        found = bytearray()
        with self._running():
            natural(address, "an address")
            for here, _, part in by_page(address, natural(length, "a length")):

                def load(page: Page, here: int = here, size: int = part) -> None:
                    found.extend(self.process.load(page, here, size, self.name))

                self._access(here, False, load)
        return bytes(found)

    def close(self) -> None:
        """Unbind the device from the process."""
        mm = self.driver.mm
        with self._running():
            if mm is not None:
                mmu_notifier.mmu_notifier_unregister(self.driver, mm)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The task that does the device's work: the started task we are in, or its worker."""
        if sched.task.greenlet is not None:
            yield
            return
        previous = sched.run_as(self._worker)
        try:
            yield
        finally:
            sched.run_as(previous)

    def _access(self, address: int, write: bool, touch: iommu.Touch) -> None:
        failed = self.driver.access(address, write, touch)
        if failed:
            raise MemoryFault(failed, address, self.name)
