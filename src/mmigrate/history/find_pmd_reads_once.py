"""f72e7dcdd252: a walk of the reverse map meets a huge pmd that a fault has just emptied.

A process forks a child, and both map the small page Q. The child gives its copies back and gets a
huge page there; its area is still found from Q. Somebody migrates Q, so the walk visits the child,
where a fault on the huge page, which takes no lock that the walk would wait for, clears the pmd
and sets another.
"""

from typing import Any

from mmigrate.api import Mapping
from mmigrate.history.by_kernel import try_once
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.mm import MADV_DONTNEED, VM_HUGEPAGE
from mmigrate.linux.include.pgtable import PMD_SIZE
from mmigrate.linux.include.switches import FIND_PMD_READS_ONCE
from mmigrate.linux.kernel.pgtable import find_pmds, pmd_clear
from mmigrate.linux.mm import huge_memory
from mmigrate.machine.conditions import sometimes
from mmigrate.units import MiB


def the_page_moved(machine: Any) -> bool:
    """Q was migrated while the child had a huge page there."""
    app = machine.processes[0]
    [area] = app.mm.mmap
    return 1 in app.placement(Mapping(area.vm_start, area.vm_end - area.vm_start))


@sometimes(the_page_moved)
def walk_meets_a_huge_fault(machine: Any) -> None:
    app = machine.process("app")
    area = app.mmap(2 * PMD_SIZE)
    start = (area.start + PMD_SIZE - 1) & -PMD_SIZE
    where = Mapping(start, PMD_SIZE)
    q = start + 5 * 4096
    app.write(q, b"Q")
    child = app.fork("child")
    child.madvise(where, MADV_DONTNEED)
    pmds = find_pmds(child.mm, start)
    assert pmds is not None
    with child.running():
        pmd_clear(pmds, start)
    for vma in child.mm.mmap:
        vma.vm_flags |= VM_HUGEPAGE
    child.write(start, b"huge")
    child.fork("grandchild")  # so that the next store must copy
    huge_memory.state(machine.kernel).enabled = "never"  # to small pages: it empties the pmd first
    machine.drain_pagevecs()
    moving = machine.page_of(app, q)
    machine.start(try_once, machine, moving, cpu=0)
    machine.start(child.write, start + 9 * 4096, b"stored", cpu=1)


ROW = Row(
    FIND_PMD_READS_ONCE,
    "A walk looks whether a pmd is there and then whether it is huge, while a fault on the huge "
    "page empties it for a moment, which the walk then takes for a table of ptes.",
    Kind.RACE,
    walk_meets_a_huge_fault,
    (
        "the lock of a page table that does not exist is used: a NULL dereference",
        "one look: no table there, nothing to bring back",
    ),
    finding="BUG",
    machine={"nodes": (MiB(24), MiB(24)), "cpus": (0, 0)},
)
