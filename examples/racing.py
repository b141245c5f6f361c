"""Other threads do not stop while pages move."""

from mmigrate import Machine, Mapping, MiB, Process

MACHINE = {"nodes": (MiB(64), MiB(64)), "cpus": (0, 0, 1)}


def _write_all(app: Process, heap: Mapping, text: bytes) -> None:
    for address in heap.pages():
        app.write(address, text)


def writer_and_mover(machine: Machine) -> None:
    """Whatever the order, no store is lost."""
    app = machine.process("app")
    heap = app.mmap(pages=3)
    _write_all(app, heap, b"first")

    machine.start(app.move_pages, heap, 1, cpu=1)
    machine.start(_write_all, app, heap, b"second", cpu=2)
    machine.run(seed=7)

    for address in heap.pages():
        assert app.read(address, 6) == b"second"


def forker_and_mover(machine: Machine) -> None:
    """A child that is born in the middle finds its pages."""
    app = machine.process("app")
    heap = app.mmap(pages=3)
    _write_all(app, heap, b"inherited")

    machine.start(app.move_pages, heap, 1, cpu=1)
    forked = machine.start(app.fork, "child", cpu=2)
    machine.run(seed=3)

    child = forked.result
    for address in heap.pages():
        assert child.read(address, 9) == b"inherited"


def protector_and_mover(machine: Machine) -> None:
    """mprotect wins: no pte comes back writable."""
    app = machine.process("app")
    heap = app.mmap(pages=3)
    _write_all(app, heap, b"sealed")

    machine.start(app.move_pages, heap, 1, cpu=1)
    machine.start(app.mprotect, heap, "r", cpu=2)
    machine.run(seed=11)

    try:
        app.write(heap.start, b"broken")
    except OSError as error:
        assert "SIGSEGV" in str(error)
    else:
        raise AssertionError("the page is still writable")
