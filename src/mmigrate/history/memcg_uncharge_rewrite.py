"""0a31bc97c80c: pages are uncharged when they are freed, and migration hands charges on."""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import MEMCG_UNCHARGE_REWRITE


def charges_of_pages_in_use(machine: Any) -> dict[str, Any]:
    """A page that is pinned does not migrate, and is unmapped; another one does; a third was
    given away by the server of a FUSE file."""
    group = machine.cgroup("group")
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(pages=2)
    app.touch(heap, write=True)
    machine.drain_pagevecs()
    pin = app.pin(heap[0:1])

    events = group.stat["pgpgin"] + group.stat["pgpgout"]
    app.move_pages(heap[0:1], node=1)
    failed = group.stat["pgpgin"] + group.stat["pgpgout"] - events
    app.move_pages(heap[1:2], node=1)
    moved = group.stat["rss"] // 4096

    app.munmap(heap)
    pinned = group.stat["rss"] // 4096
    pin.release()
    left = group.stat["rss"] // 4096

    server, other = machine.process("server"), machine.cgroup("other")
    server.join(other)
    source = machine.file("source", 4096, data=b"given")
    server.pread(source, 1)
    machine.drain_pagevecs()
    app.pread(machine.fuse_file("fuse", source), 1)
    machine.drain_pagevecs()
    payer = "the reader" if group.stat["cache"] else "its owner"
    cgroups = machine.kernel.memcg.page_cgroups.values()
    return {
        "charged after a migration": moved,
        "charged while pinned": pinned,
        "charged at the end": left,
        "operations of a migration that fails": failed,
        "who pays for a page that was given away": payer,
        "locks of pages taken": any(found.taken for found in cgroups),
    }


_SAME = {"charged after a migration": 2, "charged at the end": 0}

ROW = Row(
    MEMCG_UNCHARGE_REWRITE,
    "Pages were uncharged where the context still told what they are, long before they are "
    "freed, which migration and replacement had to be excepted from.",
    Kind.STATE,
    charges_of_pages_in_use,
    ("a pinned page is not charged to anybody", "it is charged until it is freed"),
    without=_SAME
    | {
        "charged while pinned": 0,
        "operations of a migration that fails": 20,
        "who pays for a page that was given away": "the reader",
        "locks of pages taken": True,
    },
    fixed=_SAME
    | {
        "charged while pinned": 1,
        "operations of a migration that fails": 0,
        "who pays for a page that was given away": "its owner",
        "locks of pages taken": False,
    },
)
