"""Real processes: record one into a file, read it back, rebuild it on a modelled machine."""

from mmigrate.snapshot.snapshot import (
    FileRecord,
    NodeRecord,
    PageState,
    Snapshot,
    Summary,
    VmaRecord,
)

__all__ = ["FileRecord", "NodeRecord", "PageState", "Snapshot", "Summary", "VmaRecord"]
