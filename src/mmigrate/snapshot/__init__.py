"""Real processes: record one into a file, read it back, rebuild it on a modelled machine."""

from mmigrate.snapshot.records import FileRecord, NodeRecord, PageState, VmaRecord
from mmigrate.snapshot.snapshot import Snapshot
from mmigrate.snapshot.summary import Summary

__all__ = ["FileRecord", "NodeRecord", "PageState", "Snapshot", "Summary", "VmaRecord"]
