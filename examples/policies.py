"""Memory policies with mbind(2) and set_mempolicy(2), before and after the fact."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(64), MiB(64))}


def interleave_from_the_start(machine: Machine) -> None:
    """New pages go to the nodes in turn."""
    app = machine.process("app", policy=("interleave", [0, 1]))
    heap = app.mmap(pages=64)
    app.touch(heap)
    assert app.placement(heap) == {0: 32, 1: 32}


def bind_and_move(machine: Machine) -> None:
    """mbind with MPOL_MF_MOVE moves what is already on a forbidden node."""
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=16)
    app.touch(heap[0:8])

    app.mbind(heap, "bind", [1], move=True)
    app.touch(heap)

    assert app.placement(heap) == {1: 16}


def strict_refuses(machine: Machine) -> None:
    """mbind with MPOL_MF_STRICT alone fails if a page is on a forbidden node, and then the
    policy is not set."""
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=2)
    app.touch(heap[0:1])
    try:
        app.mbind(heap, "bind", [1], strict=True)
    except OSError as error:
        assert error.errno == 5
    else:
        raise AssertionError("EIO was expected")
    app.touch(heap)
    assert app.placement(heap) == {0: 2}
