"""More memory than there is: the kernel reclaims, by itself."""

from mmigrate import Machine, MiB

MACHINE = {"nodes": (MiB(4), MiB(4))}


def memory_that_does_not_fit(machine: Machine) -> None:
    """A process uses twice what there is; what was not used lately waits in swap."""
    machine.swapon(MiB(16))
    app = machine.process("app")
    heap = app.mmap(MiB(12))
    for number, address in enumerate(heap.pages()):
        app.write(address, b"page %d" % number)
    assert machine.vmstat["pswpout"] > 0
    for number, address in enumerate(heap.pages()):
        text = b"page %d" % number
        assert app.read(address, len(text)) == text


def files_go_before_memory(machine: Machine) -> None:
    """A file larger than memory is read through; nothing else has to make room."""
    machine.swapon(MiB(16))
    app = machine.process("app")
    heap = app.mmap(MiB(1))
    app.touch(heap)
    file = machine.file("large", MiB(16))
    for offset in range(0, MiB(16), 4096):
        app.pread(file, 1, offset)
    assert machine.vmstat["pswpout"] == 0


def a_full_node_makes_room(machine: Machine) -> None:
    """Pages that are to move to a full node push others of that node out to swap."""
    machine.swapon(MiB(8))
    app = machine.process("app", cpu=0)
    other = machine.process("other", cpu=1, policy=("bind", {1}))
    heap = app.mmap(MiB(1))
    app.touch(heap)
    other.touch(other.mmap(MiB(4)))
    app.move_pages(heap, node=1)
    assert app.placement(heap) == {1: 256}
