"""mlock keeps pages in memory, not on their node."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(64), MiB(64))}


def locked_pages_move(machine: Machine) -> None:
    """A locked page moves. v3.19 forgets on the way that it is locked, until reclaim looks
    at it: nr_mlock is too low after a migration."""
    app = machine.process("app")
    keys = app.mmap(pages=4)
    app.mlock(keys)
    assert machine.vmstat["nr_mlock"] == 4

    assert app.move_pages(keys, node=1).status == (1, 1, 1, 1)

    machine.drain_pagevecs()
    assert machine.vmstat["nr_mlock"] == 0
    machine.swapon(MiB(1))
    assert machine.swap_out(app, keys) == 0  # still not swapped out
    assert machine.vmstat["nr_mlock"] == 4
