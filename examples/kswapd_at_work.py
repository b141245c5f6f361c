"""Memory gets short: kswapd makes some before anybody must wait; at the end somebody must go."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(8),), "kswapd": True}


def nobody_reclaims_himself(machine: Machine) -> None:
    """What does not fit goes to swap behind the process' back."""
    machine.swapon(MiB(16))
    app = machine.process("app")
    heap = app.mmap(MiB(12))
    for number, address in enumerate(heap.pages()):
        app.write(address, b"page %d" % number)
    assert machine.vmstat["pageoutrun"] > 0
    assert machine.vmstat["allocstall"] == 0
    for number, address in enumerate(heap.pages()):
        text = b"page %d" % number
        assert app.read(address, len(text)) == text


def the_largest_goes(machine: Machine) -> None:
    """Without swap there is nothing to reclaim; the process with the most memory is ended."""
    large, small = machine.process("large"), machine.process("small")
    large.touch(large.mmap(MiB(5)))
    heap = small.mmap(MiB(4))
    small.touch(heap)
    assert large.exited
    assert small.placement(heap) == {0: 1024}
