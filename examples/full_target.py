"""A target node without room: pages stay where they are, each accounted for."""

import errno

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(32), MiB(8))}


def no_room(machine: Machine) -> None:
    """move_pages gives ENOMEM when the node is full; what was moved before stays moved."""
    app = machine.process("app", cpu=0)
    heap = app.mmap(MiB(16))
    app.touch(heap)
    try:
        app.move_pages(heap, node=1)
    except OSError as error:
        assert error.errno == errno.ENOMEM
    else:
        raise AssertionError("16 MiB cannot fit on a node of 8 MiB")
    placed = app.placement(heap)
    assert placed[0] + placed[1] == 4096
    assert placed[1] > 0
