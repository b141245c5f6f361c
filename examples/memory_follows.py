"""NUMA balancing: memory follows who uses it, and a device follows the memory."""

from mmigrate import Machine, Mapping, MiB
from mmigrate.linux.include.mm import MADV_HUGEPAGE

MACHINE = {"nodes": (MiB(64), MiB(64)), "numa_balancing": True}


def a_page_follows(machine: Machine) -> None:
    """The process has moved to node 1; the pages it goes on using come after it."""
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=8)
    app.touch(heap)
    machine.drain_pagevecs()  # a page in a per-CPU vector cannot follow

    app.on_cpu(1)
    assert app.numa_scan() == 8
    app.touch(heap[0:3])

    assert app.placement(heap) == {0: 5, 1: 3}
    assert machine.vmstat["numa_pages_migrated"] == 3


def a_huge_page_follows_whole(machine: Machine) -> None:
    """The only way in which v3.19 moves a huge page without splitting it."""
    app = machine.process("app", cpu=0)
    area = app.mmap(MiB(4))
    app.madvise(area, MADV_HUGEPAGE)
    heap = Mapping((area.start + MiB(2) - 1) & -MiB(2), MiB(2))
    app.write(heap.start, b"kept")
    machine.drain_pagevecs()
    device = machine.device(app)
    assert device.read(heap.start, 4) == b"kept"

    app.on_cpu(1)
    app.numa_scan()
    app.read(heap.start, 1)

    assert app.placement(heap) == {1: 512}
    assert machine.vmstat["thp_split"] == 0
    device.write(heap.start, b"here")  # through the new translation
    assert app.read(heap.start, 4) == b"here"
