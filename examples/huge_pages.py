"""Huge pages: migration splits them, and khugepaged makes new ones."""

from mmigrate import Machine, Mapping, MiB, Process
from mmigrate.linux.include.mm import MADV_HUGEPAGE

MACHINE = {"nodes": (MiB(64), MiB(64))}


def _huge(app: Process) -> Mapping:
    """2 MiB that one huge page covers."""
    area = app.mmap(MiB(4))
    app.madvise(area, MADV_HUGEPAGE)
    heap = Mapping((area.start + MiB(2) - 1) & -MiB(2), MiB(2))
    app.write(heap.start, b"kept")
    return heap


def moved_in_parts(machine: Machine) -> None:
    """move_pages splits a huge page, even if it moves all of it."""
    app = machine.process("app")
    heap = _huge(app)
    assert machine.vmstat["thp_fault_alloc"] == 1

    assert set(app.move_pages(heap, 1).status) == {1}

    assert machine.vmstat["thp_split"] == 1
    assert app.read(heap.start, 4) == b"kept"


def whole_again(machine: Machine) -> None:
    """On the other node the pages become a huge page again."""
    app = machine.process("app")
    heap = _huge(app)
    app.move_pages(heap, 1)
    assert app.read(heap.start, 4) == b"kept"  # khugepaged wants pages that are in use
    machine.drain_pagevecs()

    assert machine.khugepaged_scan() == 1

    assert app.placement(heap) == {1: 512}
    assert machine.vmstat["nr_anon_transparent_hugepages"] == 1


def pinned_in_one_place(machine: Machine) -> None:
    """A pin on one page keeps that page only."""
    app = machine.process("app")
    heap = _huge(app)
    pin = app.pin(heap[100:101])

    app.move_pages(heap, 1)

    assert app.placement(heap) == {0: 1, 1: 511}
    pin.release()
