"""Memory that is taken out of use: a whole node, single frames, and a range for a device."""

from mmigrate import MiB
from mmigrate.linux.include.mm import MADV_SOFT_OFFLINE

MACHINE = {"nodes": (MiB(64), MiB(64))}


def a_node_goes(machine):
    """What is on the node moves to the other one; it comes back empty."""
    app = machine.process("app", cpu=1)
    heap = app.mmap(MiB(8))
    app.write(heap.start, b"still there")
    app.touch(heap)

    machine.offline(1)

    assert app.placement(heap) == {0: MiB(8) // 4096}
    assert machine.nodes[1]["MemTotal"] == 0
    machine.online(1)
    assert machine.nodes[1]["MemFree"] == MiB(64) // 1024
    assert app.read(heap.start, 11) == b"still there"


def a_frame_goes_bad(machine):
    """Its page moves to another frame, and nobody gets the bad one any more."""
    app = machine.process("app")
    heap = app.mmap(pages=8)
    app.touch(heap)
    frame = machine.page_of(app, heap.start + 4096).pfn

    app.madvise(heap.start + 4096, MADV_SOFT_OFFLINE, 4096)

    more = app.mmap(MiB(8))
    app.touch(more)
    frames = {machine.page_of(app, address).pfn for address in [*heap.pages(), *more.pages()]}
    assert frame not in frames


def room_for_a_device(machine):
    """An area that is lent to processes until a device asks for 2 MiB in one piece."""
    area = machine.cma(MiB(16))
    app = machine.process("app")
    heap = app.mmap(MiB(52))
    app.touch(heap)
    app.munmap(heap[: MiB(8) // 4096])

    taken = area.alloc(MiB(2) // 4096)

    assert taken.end_pfn - taken.start_pfn == MiB(2) // 4096
    taken.free()
