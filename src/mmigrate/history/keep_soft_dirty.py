"""c3d16e16522f: a page that was written to, and has moved since."""

from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import KEEP_SOFT_DIRTY

SOFT_DIRTY = 1 << 55  # of a word of /proc/PID/pagemap


def written_and_moved(machine: Any) -> dict[str, Any]:
    """Who takes checkpoints of a process clears the marks and comes back for what was
    written since."""
    app = machine.process("app")
    area = app.mmap(pages=2)
    app.touch(area)
    app.clear_refs(4)
    app.write(area.start, b"since then")
    before = [bool(word & SOFT_DIRTY) for word in app.pagemap(area)]
    app.move_pages(area, node=1)
    after = [bool(word & SOFT_DIRTY) for word in app.pagemap(area)]
    return {"written before": before, "written after": after, "moved": app.placement(area)[1]}


ROW = Row(
    KEEP_SOFT_DIRTY,
    "A migration entry keeps the mark that its page was written to, and the pte that replaces it "
    "did not get the mark back, so whoever saves the changes of a process misses that page.",
    Kind.STATE,
    written_and_moved,
    ("a page that was written to looks clean after it has moved", "the mark moves along"),
    without={"written before": [True, False], "written after": [False, False], "moved": 2},
    fixed={"written before": [True, False], "written after": [True, False], "moved": 2},
    note="Not for pages of files: their mark is lost in v3.19 as well.",
)
