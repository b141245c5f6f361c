"""68711a746345: what becomes of a destination that was not used."""

from typing import Any

from mmigrate.history.by_kernel import Destinations
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.mm import MADV_DONTNEED
from mmigrate.linux.include.switches import DESTINATION_FREEING_CALLBACK
from mmigrate.units import MiB

PINNED = 3


def destinations_of_pinned_pages(machine: Any) -> dict[str, int]:
    """Three pinned pages, and a list of forty destinations."""
    app = machine.process("app")
    heap = app.mmap(pages=PINNED)
    app.touch(heap)
    machine.drain_pagevecs()
    pin = app.pin(heap)
    pages = [machine.page_of(app, address) for address in heap.pages()]
    with app.running():
        destinations = Destinations(machine, 40)
        stayed = destinations.migrate(pages)
        left = sum(1 for _ in destinations.free)
        destinations.release()
    pin.release()
    machine.drain_pagevecs()
    return {"stayed": stayed, "drawn": destinations.drawn, "left": left}


def compacted_around_pinned_pages(machine: Any) -> dict[str, Any]:
    """Compaction, which passes its callback since d53aea3d46d6: three pages of a file are pinned,
    and every second page of the rest is free."""
    app = machine.process("app")
    view = app.mmap(pages=PINNED, file=machine.file("data", PINNED * 4096), shared=True)
    app.touch(view, write=False)
    heap = app.mmap(pages=3000)
    app.touch(heap)
    pin = app.pin(view, write=False)
    for address in list(heap.pages())[::2]:
        app.madvise(address, MADV_DONTNEED, 4096)
    machine.drain_pagevecs()
    machine.compact()
    machine.drain_pagevecs()
    pin.release()
    taken, moved = machine.vmstat["compact_isolated"], machine.vmstat["pgmigrate_success"]
    # What was isolated and is neither a page that moved nor the place it moved to.
    rest = taken - 2 * moved
    return {"stayed": sum(app.placement(view).values()), "30 wasted": rest >= 10 * PINNED}


ROW = Row(
    DESTINATION_FREEING_CALLBACK,
    "A caller with a list of destinations of its own could not get one back when a page did not "
    "move: each attempt freed it to the system, and the caller scanned for another.",
    Kind.COST,
    destinations_of_pinned_pages,
    (
        "ten passes over three pinned pages use up thirty destinations",
        "the same one is taken and given back each time",
    ),
    without={"stayed": PINNED, "drawn": 10 * PINNED, "left": 40 - 10 * PINNED},
    fixed={"stayed": PINNED, "drawn": 10 * PINNED, "left": 40},
    more=(
        Row(
            DESTINATION_FREEING_CALLBACK,
            "The same with compaction, whose scanner of free pages has to go further down.",
            Kind.COST,
            compacted_around_pinned_pages,
            ("thirty pages that the scanner had isolated are lost to it", "none is"),
            without={"stayed": PINNED, "30 wasted": True},
            fixed={"stayed": PINNED, "30 wasted": False},
            machine={"nodes": (MiB(16),)},
        ),
    ),
)
