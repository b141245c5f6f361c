"""The heap under brk(2), and what /proc tells of it."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(64), MiB(64))}


def growing_heap(machine: Machine) -> None:
    """Pages of a growing heap are where they were touched; moved ones stay where they are."""
    app = machine.process("app", cpu=0)
    bottom = app.brk()
    app.brk(bottom + 4 * 4096)
    app.write(bottom, b"first")
    app.move_pages([bottom], node=1)
    app.write(bottom + 4096, b"second")

    line = app.numa_maps().strip()
    assert "anon=2" in line
    assert "N0=1 N1=1" in line

    app.brk(bottom + 4096)
    assert "anon=1" in app.numa_maps()
    assert machine.numastat[1]["other_node"] == 1  # taken by a CPU of node 0
