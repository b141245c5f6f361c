"""8b272b3cbbb5: NUMA balancing takes a huge pmd for a bad one."""

from typing import Any

from mmigrate.api import Mapping
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.mm import MADV_HUGEPAGE
from mmigrate.linux.include.pgtable import PMD_SIZE
from mmigrate.linux.include.switches import ONE_LOOK_AT_PMD
from mmigrate.units import MiB


def scan_meets_a_copy(machine: Any) -> None:
    """One thread scans, the other stores to a huge page that is shared after a fork, so the
    pmd is emptied and filled again."""
    app = machine.process("app", cpu=0)
    area = app.mmap(2 * PMD_SIZE)
    app.madvise(area, MADV_HUGEPAGE)
    where = Mapping((area.start + PMD_SIZE - 1) & -PMD_SIZE, PMD_SIZE)
    app.write(where.start, b"huge")
    app.fork("child")
    machine.drain_pagevecs()
    machine.start(app.write, where.start, b"copy", cpu=1)
    machine.start(app.numa_scan, cpu=0)


ROW = Row(
    ONE_LOOK_AT_PMD,
    "The scan of NUMA balancing holds mmap_sem for read only and looks at a pmd several times; one "
    "that is empty at one look and huge at the next counts as bad.",
    Kind.RACE,
    scan_meets_a_copy,
    ("a huge page is wiped from the page table, and what was stored is gone", "one look decides"),
    finding="warnings",
    machine={"nodes": (MiB(24), MiB(24)), "numa_balancing": True},
    note="v3.19 has the defect.",
)
