"""cb6acd01e2e4: the limit of a mount of hugetlbfs, and pages that move."""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import SUBPOOL_COMES_ALONG
from mmigrate.units import MiB


def file_of_a_small_mount_moves(machine: Any) -> dict[str, Any]:
    """A file that is as large as its mount allows; in the end it is empty."""
    machine.hugepages(4)
    mount = machine.hugetlbfs(MiB(2))
    app = machine.process("app")
    file = mount.file("data", MiB(2))
    area = app.mmap(MiB(2), file=file, shared=True)
    app.write(area.start, b"data")
    app.move_pages([area.start], 1)
    app.munmap(area)
    machine.truncate(file, 0)
    try:
        app.mmap(MiB(2), file=mount.file("more", MiB(2)), shared=True)
    except OSError as error:
        return {"free": mount.free, "another file": error.errno}
    return {"free": mount.free, "another file": 0}


ROW = Row(
    SUBPOOL_COMES_ALONG,
    "A huge page that moves forgets from which mount of hugetlbfs it came, which so counts it for "
    "ever.",
    Kind.STATE,
    file_of_a_small_mount_moves,
    (
        "the mount is full for good, though it has no page any more",
        "what is freed can be had again",
    ),
    without={"free": 0, "another file": 12},
    fixed={"free": 0, "another file": 0},
    violations=("hugetlb limits",),
    machine={"nodes": (MiB(32), MiB(32))},
    note="The commit also closes races of migration with faults, which are not shown here.",
)
