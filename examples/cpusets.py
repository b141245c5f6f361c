"""Cpusets: where a group of processes may have memory, and memory that follows."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64))}


def memory_follows_the_cpuset(machine: Machine) -> None:
    """With memory_migrate set, changing the nodes of a cpuset moves its processes' pages."""
    group = machine.cpuset("group", [0, 1], memory_migrate=True)
    app = machine.process("app", policy=("interleave", [0, 1]))
    app.join(group)
    heap = app.mmap(pages=8)
    app.touch(heap)
    assert app.placement(heap) == {0: 4, 1: 4}

    machine.set_mems(group, [1, 2])

    assert app.placement(heap) == {1: 4, 2: 4}
    assert app.get_mempolicy()[1] == (1, 2)


def memory_stays_behind(machine: Machine) -> None:
    """Without it only new pages go to the new nodes."""
    group = machine.cpuset("group", [0])
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(pages=4)
    app.touch(heap[0:2])

    machine.set_mems(group, [2])
    app.touch(heap)

    assert app.placement(heap) == {0: 2, 2: 2}
