"""Fragmented memory, and what compaction makes of it."""

from mmigrate import MiB
from mmigrate.linux.include.mm import MADV_DONTNEED

MACHINE = {"nodes": (MiB(16),)}


def large_blocks_come_back(machine):
    """Every second page is freed: half of the node is free, and in it but one block of 2 MiB."""
    app = machine.process("app")
    heap = app.mmap(MiB(14))
    app.touch(heap)
    for address in list(heap.pages())[1::2]:
        app.madvise(address, MADV_DONTNEED, 4096)
    before = _blocks_of_2m(machine)

    machine.compact()

    assert before == 1  # which nobody has used yet
    assert _blocks_of_2m(machine) >= 3
    assert app.placement(heap) == {0: MiB(14) // 8192}


def balloon_in_the_way(machine):
    """Pages of a balloon are moved too, and the host is told."""
    machine.balloon.inflate(512)
    before = machine.balloon.given
    app = machine.process("app")
    heap = app.mmap(MiB(8))
    app.touch(heap)
    app.madvise(heap, MADV_DONTNEED)
    machine.balloon.deflate(256)

    machine.compact()

    assert machine.balloon.pages == 256
    assert set(machine.balloon.given) != set(before)


def _blocks_of_2m(machine):
    """Free blocks of order 9 and 10, from /proc/buddyinfo."""
    orders = [int(count) for count in machine.buddyinfo.split()[4:]]
    return orders[9] + 2 * orders[10]
