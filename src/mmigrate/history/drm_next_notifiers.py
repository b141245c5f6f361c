"""988adfdffdd4: a device on the destination of a NUMA migration that is rolled back.

A huge page is about to follow its user to another node. When the new pmd stands, a device that
walks the same page tables reads through it; then somebody pins the old page, so the migration puts
the old pmd back, and the destination will be freed.
"""

from typing import Any

from mmigrate.api import Mapping
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.mm import MADV_HUGEPAGE
from mmigrate.linux.include.pgtable import PMD_SIZE
from mmigrate.linux.include.switches import DRM_NEXT_NOTIFIERS
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.pgtable import find_pmds
from mmigrate.linux.mm import memory, swap
from mmigrate.units import MiB


class _InTheMiddle:
    """A hook that lets the device and the pin come in the two moments that matter."""

    def __init__(self, machine: Any, where: Mapping, device: Any) -> None:
        self.app = machine.processes[0]
        pmds = find_pmds(self.app.mm, where.start)
        assert pmds is not None
        self.pmds = pmds
        self.index = (where.start >> 21) & 511
        self.marked = pmds.entries[self.index]
        self.head = self.app.page_at(where.start)
        self.where = where
        self.device = device
        self.pinned = False
        self.kept: int | None = None  # translations of the device when the old pmd is back

    def announce(self, obj: Any, field: Any, _kind: int) -> None:
        entry = self.pmds.entries[self.index]
        previous = sched.install(None)
        if not self.pinned:
            if entry not in (None, self.marked) and obj is self.head and field == "_count":
                self.device.read(self.where.start, 1)
                self.head._count += 1
                self.pinned = True
        elif self.kept is None and self.pmds.ptl.owner is None:
            self.kept = len(self.device.driver.translations)
            if self.kept:
                self.device.write(self.where.start + 12288, b"lost")
        sched.install(previous)

    def wait(self, obj: Any, field: Any, kind: int, until: Any) -> None:
        self.announce(obj, field, kind)
        assert until()


def device_on_a_page_that_was_taken_back(machine: Any) -> dict[str, Any]:
    app = machine.process("app", cpu=0)
    area = app.mmap(2 * PMD_SIZE)
    app.madvise(area, MADV_HUGEPAGE)
    where = Mapping((area.start + PMD_SIZE - 1) & -PMD_SIZE, PMD_SIZE)
    app.write(where.start, b"huge")
    machine.drain_pagevecs()
    device = machine.device(app)
    device.read(where.start, 1)
    app.numa_scan()
    app.on_cpu(1)
    hook = _InTheMiddle(machine, where, device)
    previous = sched.install(hook)
    try:
        with app.running() as task:
            memory.page_fault(task, where.start, False)
    finally:
        sched.install(previous)
    with app.running():
        swap.put_page(hook.head)
    return {"pinned": hook.pinned, "translations when the old page is back": hook.kept}


ROW = Row(
    DRM_NEXT_NOTIFIERS,
    "A merge of graphics work brought devices that share a process' page tables, and with them a "
    "notification where the migration of a huge page to its user is rolled back.",
    Kind.STATE,
    device_on_a_page_that_was_taken_back,
    (
        "the device still has the destination after the old page is back; what it writes is lost",
        "it is flushed before the lock of the pmd is let go",
    ),
    without={"pinned": True, "translations when the old page is back": 1},
    fixed={"pinned": True, "translations when the old page is back": 0},
    violations=("contents", "warnings"),
    machine={"nodes": (MiB(24), MiB(24)), "numa_balancing": True},
    note="Taken away are the call sites of this function only; the driver of v3.18 was safe in "
    "another way: its device had an empty page table meanwhile.",
)
