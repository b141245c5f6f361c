"""2ebba6b7e1d9: a page that nobody maps needs no walk of the reverse map."""

from typing import Any

from mmigrate.history.by_kernel import move_by_kernel
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import UNMAPPED_NO_RMAP_WALK


def walks_of_an_unmapped_page(machine: Any) -> dict[str, int]:
    """How often the file's reverse map is locked to move two pages of its cache, of which one is
    mapped; other areas map the file at both."""
    app = machine.process("app")
    file = machine.file("data", 2 * 4096)
    views = [app.mmap(pages=2, file=file, shared=True) for _ in range(3)]
    app.pread(file, 2 * 4096)
    app.touch(views[0][0:1], write=False)
    machine.drain_pagevecs()
    pages = [file.i_mapping.page_tree.slots[index] for index in range(2)]
    if pages[1]._mapcount >= 0:  # mapped along with its neighbour: not here
        app.madvise(views[0][1:2], 4)
    locked = {}
    for what, page in zip(("mapped", "unmapped"), pages, strict=True):
        machine.log.clear()
        machine.start(move_by_kernel, machine, [page])
        machine.run(seed=1)
        word = f"{file.i_mapping.i_mmap_rwsem!r} count"
        locked[what] = sum(line.endswith(word) for line in machine.log) // 2
        machine.drain_pagevecs()
    moved = [file.i_mapping.page_tree.slots[index].zone.nid for index in range(2)]
    return {**locked, "moved": sum(moved)}


ROW = Row(
    UNMAPPED_NO_RMAP_WALK,
    "Compaction often moves pages of the page cache that no process maps, and locked the file's "
    "reverse map twice for each, needlessly.",
    Kind.COST,
    walks_of_an_unmapped_page,
    (
        "two walks under i_mmap_rwsem for a page that no page table maps",
        "none; still two for a page that is mapped",
    ),
    without={"mapped": 2, "unmapped": 2, "moved": 2},
    fixed={"mapped": 2, "unmapped": 0, "moved": 2},
)
