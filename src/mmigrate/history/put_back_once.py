"""30809f559a0d: soft offline of a huge page of a size that cannot migrate."""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.mm import MADV_SOFT_OFFLINE
from mmigrate.linux.include.switches import PUT_BACK_ONCE
from mmigrate.units import GiB


def page_of_1_gib_is_suspect(machine: Any) -> None:
    machine.hugepages(1, node=0, size=GiB(1))
    app = machine.process("app")
    area = app.mmap(GiB(1), hugetlb=GiB(1))
    app.write(area.start, b"huge")
    machine.start(app.madvise, area.start, MADV_SOFT_OFFLINE, 4096)


ROW = Row(
    PUT_BACK_ONCE,
    "A huge page that cannot migrate has been put back by migrate_pages already when soft offline "
    "puts it back, and loses a reference that is not theirs.",
    Kind.RACE,
    page_of_1_gib_is_suspect,
    (
        "the page is freed while the process has it mapped",
        "it is put back once, and stays where it is",
    ),
    finding="BUG: app:madvise: pfn",
    machine={"nodes": (GiB(2), GiB(1))},
    note="A race with nobody: there is one task. So it goes with every huge page whose move fails "
    "for good.",
)
