"""Ranges of a file or mapping for which huge pages are reserved  (mm/hugetlb.c, region_*)."""

from __future__ import annotations

from mmigrate.linux.include.hugetlb import ResvMap
from mmigrate.linux.kernel.spinlock import spin_lock


def region_add(resv: ResvMap, f: int, t: int) -> None:
    """The range from @f to @t is in the map now  (mm/hugetlb.c: region_add)."""
    with spin_lock(resv.lock):
        kept = []
        for start, end in resv.regions:
            if end < f or start > t:
                kept.append((start, end))
            else:  # overlaps, or touches
                f, t = min(f, start), max(t, end)
        resv.regions = sorted([*kept, (f, t)])


def region_chg(resv: ResvMap, f: int, t: int) -> int:
    """How much of the range is not in the map yet  (mm/hugetlb.c: region_chg)."""
    with spin_lock(resv.lock):
        return t - f - _overlap(resv, f, t)


def region_count(resv: ResvMap, f: int, t: int) -> int:
    """How much of the range is in the map  (mm/hugetlb.c: region_count)."""
    with spin_lock(resv.lock):
        return _overlap(resv, f, t)


def region_truncate(resv: ResvMap, end: int) -> int:
    """Forget everything from @end on; how much that was  (mm/hugetlb.c: region_truncate)."""
    with spin_lock(resv.lock):
        before = sum(t - f for f, t in resv.regions)
        resv.regions = [(f, min(t, end)) for f, t in resv.regions if f < end]
        return before - sum(t - f for f, t in resv.regions)


def _overlap(resv: ResvMap, f: int, t: int) -> int:
    return sum(max(0, min(t, end) - max(f, start)) for start, end in resv.regions)
