"""Nodes without room for what is to come."""

from mmigrate import MiB
from mmigrate.observe import attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(8), 0)}


def _full(machine):
    """More pages on node 0 as there is room for on node 2."""
    app = machine.process("app")
    heap = app.mmap(MiB(40))
    app.touch(heap)
    return app, heap


def move_pages_to_a_full_node(machine):
    """-ENOMEM, or as many as there was room for."""
    app, heap = _full(machine)
    call = attempt(app.move_pages, heap, 2)
    return {
        "enomem": "ENOMEM" in str(call),
        "some stayed": 0 in app.placement(heap),
        "(migrations)": "as many as there was room for",
    }


def migrate_pages_to_a_full_node(machine):
    """The rest goes to nodes nearby, and counts as moved."""
    app, heap = _full(machine)
    call = attempt(app.migrate_pages, [0], [2])
    return {
        "call": call,
        "all there": sum(app.placement(heap).values()),
        "(migrations)": "as many as there was room for",
    }


def preferred_and_full(machine):
    """A preferred node is left when it is full."""
    app = machine.process("app", policy=("preferred", [2]))
    heap = app.mmap(MiB(40))
    return {"touch": attempt(app.touch, heap), "all": sum(app.placement(heap).values())}
