"""Real processes of this computer with huge pages, hugetlb and merged pages, against smaps."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmigrate import GiB
from mmigrate.snapshot import format, machine_files, process_files, procfs, syscalls
from mmigrate.snapshot.forms import Form, pieces
from mmigrate.snapshot.plan import plan_migration
from mmigrate.snapshot.rebuild import rebuild
from mmigrate.snapshot.recorder import record
from mmigrate.snapshot.snapshot import Snapshot

from .test_recorder import as_root, in_child, without_scan

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_HUGETLB = 0x40000
HUGE = 2 << 20
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/pagemap"), reason="no pagemap")


@pytest.fixture
def huge() -> Iterator[mmap.mmap]:
    """8 MiB, at least some of them of huge pages."""
    if machine_files.thp_setting() not in ("always", "madvise"):
        pytest.skip("this computer has no transparent huge pages")
    with mmap.mmap(-1, 4 * HUGE, flags=PRIVATE) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for position in range(0, len(memory), 4096):
            memory[position] = 1
        if not _sum("AnonHugePages"):
            pytest.skip("this computer has no free memory in pieces of 2 MiB")
        yield memory


@pytest.fixture
def hugetlb() -> Iterator[mmap.mmap]:
    """Four pages of hugetlb, two of them touched."""
    try:
        memory = mmap.mmap(-1, 4 * HUGE, flags=PRIVATE | MAP_HUGETLB)
    except OSError:
        pytest.skip("this computer has no free pages of hugetlb")
    with memory:
        memory[0] = memory[2 * HUGE] = 1
        yield memory


def _sum(name: str) -> int:
    text = Path("/proc/self/smaps").read_text()
    return sum(area.size(name) for area in procfs.parse_maps(text))


def _recorded() -> Snapshot:
    return format.loads(format.dumps(record(os.getpid())))


def _count(snapshot: Snapshot, form: Form) -> int:
    return sum(piece.form is form for vma in snapshot.vmas for piece in pieces(snapshot, vma))


@pytest.mark.parametrize("older", [False, True])
def test_huge_pages_are_those_of_smaps(
    huge: mmap.mmap, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if older:
        without_scan(monkeypatch)
    snapshot = _recorded()
    assert _count(snapshot, Form.HUGE) * HUGE == _sum("AnonHugePages")
    assert sum(vma.anon_huge for vma in snapshot.vmas) == _sum("AnonHugePages")
    assert snapshot.summary().thp * 4096 == _sum("AnonHugePages")


def test_huge_pages_are_split_and_move(huge: mmap.mmap) -> None:
    snapshot = _recorded()
    plan = plan_migration(rebuild(snapshot, [GiB(1), GiB(1)]), [0], [1])
    found = plan.forms[Form.HUGE]
    assert found.split == found.units == _count(snapshot, Form.HUGE)
    assert found.moved == found.pages


@as_root
def test_hugetlb_is_that_of_smaps_and_of_the_pool(hugetlb: mmap.mmap) -> None:
    snapshot = _recorded()
    assert _count(snapshot, Form.HUGETLB) == 2
    assert sum(vma.hugetlb for vma in snapshot.vmas) == _sum("Private_Hugetlb") == 2 * HUGE
    (pool,) = [pool for pool in snapshot.pools if pool.size == HUGE]
    assert sum(pool.total) >= sum(pool.free) + 2
    sizes = [GiB(1), GiB(1)]
    plan = plan_migration(rebuild(snapshot, sizes, free_huge=[0, 1]), [0], [1])
    found = plan.forms[Form.HUGETLB]
    assert (found.units, found.whole) == (2, 1)


@as_root
def test_without_rights_forms_are_known_as_well(huge: mmap.mmap) -> None:
    def work() -> str:
        with mmap.mmap(-1, 4 * HUGE, flags=PRIVATE) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)
            for position in range(0, len(memory), 4096):
                memory[position] = 1
            expected = _sum("AnonHugePages")
            return f"{_count(_recorded(), Form.HUGE) * HUGE - expected} {expected > 0}"

    assert in_child(work) in ("0 True", "0 False")


SMAPS = """\
7f0000000000-7f0000010000 rw-p 00000000 00:00 0{space}
Rss:                  64 kB
{ksm}VmFlags: rd wr mr mw me ac mg{space}
7f0000020000-7f0000030000 rw-p 00000000 00:00 0{space}
Rss:                  64 kB
VmFlags: rd wr mr mw me ac {other}{space}
""".replace("{space}", " ")


@pytest.mark.parametrize(
    ("ksm", "other", "merging", "totals", "somewhere", "area"),
    [
        ("KSM:                  8 kB\n", "mg", None, True, 0, 8192),  # since 6.6
        ("", "", "5\n", True, 0, 5 * 4096),  # since 6.1, one area
        ("", "mg", "5\n", False, 5, 0),  # it could be either
        ("", "mg", "0\n", True, 0, 0),
        ("", "mg", None, False, 0, 0),  # older
    ],
)
def test_merged_pages_that_only_the_kernel_counts(
    tmp_path: Path,
    ksm: str,
    other: str,
    merging: str | None,
    totals: bool,
    somewhere: int,
    area: int,
) -> None:
    process = process_files.ProcessFiles(os.getpid())
    process.folder = tmp_path
    (tmp_path / "smaps").write_text(SMAPS.replace("{ksm}", ksm).replace("{other}", other))
    if merging is not None:
        (tmp_path / "ksm_merging_pages").write_text(merging)
    first, _second = process.areas()
    assert (process.merged_totals, process.merged_somewhere) == (totals, somewhere)
    assert first.size("KSM") == area


def test_every_page_of_hugetlb_is_a_page_of_the_machine(hugetlb: mmap.mmap) -> None:
    snapshot = _recorded()
    for vma in snapshot.vmas:
        if snapshot.kind(vma) == "hugetlb":
            assert vma.page_size == HUGE
            present = sum(count for _, count, state in snapshot.runs(vma) if state.present)
            assert present == 2 * HUGE // 4096
    assert syscalls.PAGE_IS_HUGE
