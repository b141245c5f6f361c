"""The data model: runs, kinds, totals."""

from __future__ import annotations

from mmigrate.snapshot.records import EMPTY, EXCLUSIVE, PRESENT, ZERO, PageState

from .examples import small


def test_runs_cover_the_area() -> None:
    snapshot = small()
    heap, text, unrecorded = snapshot.vmas
    states = snapshot.states
    assert list(snapshot.runs(heap)) == [
        (0, 2, states[1]),
        (2, 1, states[2]),
        (3, 3, EMPTY),
        (6, 2, states[3]),
    ]
    assert list(snapshot.runs(text)) == [(0, 4, states[4])]
    assert list(snapshot.runs(unrecorded)) == []
    assert list(snapshot.swap_runs(heap)) == [(6, 2, 0, 100)]


def test_summary() -> None:
    total = small().summary()
    assert (total.areas, total.pages, total.resident, total.swapped) == (3, 14, 7, 2)
    assert total.by_node == {0: 6, 1: 1}
    assert total.by_kind == {"heap": 3, "file": 4}
    assert (total.shared, total.file, total.anonymous) == (4, 4, 3)
    assert total.unrecorded_areas == 1


def test_shared_pages() -> None:
    assert PageState(PRESENT).shared
    assert not PageState(PRESENT | EXCLUSIVE).shared
    assert PageState(PRESENT | EXCLUSIVE, 0, 2).shared  # the count knows better
    assert not PageState(PRESENT | ZERO).shared
    assert not EMPTY.shared


def test_kinds() -> None:
    snapshot = small()
    heap, text, special = snapshot.vmas
    assert [snapshot.kind(vma) for vma in (heap, text, special)] == ["heap", "file", "special"]
    heap.flags = "rd wr ht"
    assert snapshot.kind(heap) == "hugetlb"
