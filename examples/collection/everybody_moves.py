"""Whoever else moves pages: compaction, khugepaged, a balloon; contents and nodes afterwards."""

from mmigrate import Mapping, MiB
from mmigrate.observe import attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
HUGEPAGE = 14
OF_OTHERS = "pages of others move too"


def _heap(machine, pages=64):
    app = machine.process("app", cpu=0)
    heap = app.mmap(pages=pages)
    for number, address in enumerate(heap.pages()):
        app.write(address, b"page %d" % number)
    return app, heap


def _contents(app, heap):
    return [attempt(app.read, address, 7) for address in list(heap.pages())[::9]]


def compacted(machine):
    """Pages move within their node, and nobody notices."""
    app, heap = _heap(machine)
    app.munmap(heap[10:20])
    machine.compact()
    rest = heap[20:64]
    return {
        "at": app.placement(rest),
        "contents": _contents(app, rest),
        "move": attempt(app.move_pages, rest[0:4], 1),
        "(migrations)": OF_OTHERS,
    }


def compacted_with_pins_and_locks(machine):
    """What is pinned stays, what is locked need not."""
    app, heap = _heap(machine)
    app.mlock(heap[0:8])
    pin = app.pin(heap[8:12])
    machine.compact()
    seen = {"at": app.placement(heap), "contents": _contents(app, heap)}
    pin.release()
    return {**seen, "(migrations)": OF_OTHERS}


def collapsed(machine):
    """khugepaged makes a huge page of base pages; a part of it is moved by migrate_pages."""
    app = machine.process("app", cpu=0)
    area = app.mmap(MiB(4))
    start = (area.start + MiB(2) - 1) & -MiB(2)
    huge = Mapping(start, MiB(2))
    app.touch(huge)
    app.write(start + 5000, b"kept")
    app.madvise(huge, HUGEPAGE)
    machine.khugepaged_scan()
    return {
        "at": app.placement(huge),
        "move": attempt(app.migrate_pages, [0], [1]),
        "then": app.placement(huge),
        "contents": attempt(app.read, start + 5000, 4),
        "(migrations)": OF_OTHERS,
    }


def ballooned(machine):
    """The host takes memory and gives it back; processes keep theirs."""
    app, heap = _heap(machine)
    machine.balloon.inflate(256)
    taken = machine.balloon.pages >= 256
    moved = attempt(app.move_pages, heap[0:4], 1)
    machine.balloon.deflate(256)
    return {
        "taken": taken,
        "move": moved,
        "contents": _contents(app, heap),
        "left": machine.balloon.pages,
    }
