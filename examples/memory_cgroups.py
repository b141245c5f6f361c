"""Memory cgroups: who pays for a page, while it moves, is swapped out, or changes hands."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(64), MiB(64))}


def a_charge_moves_with_the_page(machine: Machine) -> None:
    """To another node and back nothing is charged or uncharged."""
    machine.process("init")
    group = machine.cgroup("group")
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(pages=16)
    app.touch(heap)
    before = group.usage
    app.move_pages(heap, node=1)
    assert app.placement(heap) == {1: 16}
    assert group.usage == before


def a_limit_swaps_out(machine: Machine) -> None:
    """A process uses four times what its group may have; everything is still there."""
    machine.swapon(MiB(16))
    group = machine.cgroup("small", limit=MiB(1))
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(MiB(4))
    for number, address in enumerate(heap.pages()):
        app.write(address, b"page %d" % number)
    assert group.usage <= MiB(1)
    for number, address in enumerate(heap.pages()):
        text = b"page %d" % number
        assert app.read(address, len(text)) == text


def a_pinned_page_is_paid_for(machine: Machine) -> None:
    """Unmapped is not freed: what is pinned counts until it is let go."""
    group = machine.cgroup("group")
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(pages=256)
    app.touch(heap)
    pin = app.pin(heap)
    app.munmap(heap)
    assert group.usage >= MiB(1)
    pin.release()
    assert group.usage < MiB(1)
