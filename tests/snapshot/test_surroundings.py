"""Pools of huge pages and control groups, from made-up files of kernels of every age."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmigrate.snapshot import procfs
from mmigrate.snapshot.cgroups import read_groups
from mmigrate.snapshot.machine_files import machine_pools, thp_setting
from mmigrate.snapshot.records import MemoryGroup, NodeRecord, PoolRecord

NODES = [NodeRecord(0, 1 << 30, 0, "", [10, 20]), NodeRecord(2, 1 << 30, 0, "", [20, 10])]


def put(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


def pool_files(folder: Path, total: int, free: int, surplus: int = 0) -> None:
    put(folder, nr_hugepages=total, free_hugepages=free, surplus_hugepages=surplus)


def test_pools_of_a_machine_with_two_nodes(tmp_path: Path) -> None:
    for size, reserved in (("2048kB", 3), ("1048576kB", 0)):
        name = f"hugepages-{size}"
        put(
            tmp_path / "mm/hugepages" / name,
            nr_overcommit_hugepages=8,
            resv_hugepages=reserved,
        )
        pool_files(tmp_path / "node0/hugepages" / name, 10, 4, 1)
        pool_files(tmp_path / "node2/hugepages" / name, 0, 0)
    (tmp_path / "mm/hugepages/strange").mkdir()
    assert machine_pools(NODES, tmp_path / "mm", tmp_path) == [
        PoolRecord(2 << 20, 8, 3, [10, 0], [4, 0], [1, 0]),
        PoolRecord(1 << 30, 8, 0, [10, 0], [4, 0], [1, 0]),
    ]


def test_pools_of_a_kernel_without_numa(tmp_path: Path) -> None:
    pool_files(tmp_path / "mm/hugepages/hugepages-2048kB", 5, 2)
    (found,) = machine_pools(NODES[:1], tmp_path / "mm", tmp_path) or []
    assert (found.total, found.free) == ([5], [2])


def test_a_kernel_without_huge_pages(tmp_path: Path) -> None:
    assert machine_pools(NODES, tmp_path, tmp_path) is None
    assert thp_setting(tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("always [madvise] never\n", "madvise"), ("[always] madvise never", "always"), ("x", "")],
)
def test_the_setting_of_transparent_huge_pages(tmp_path: Path, text: str, chosen: str) -> None:
    put(tmp_path / "transparent_hugepage", enabled=text)
    assert thp_setting(tmp_path) == chosen


V1 = """\
9:name=systemd:/user.slice
4:memory:/a/b c
3:cpuset,cpu:/sets
0::/
"""


def mount(kind: str, root: str, point: Path, options: str) -> str:
    shown = str(point).replace(" ", "\\040")
    return f"36 25 0:33 {root} {shown} rw,relatime shared:9 - {kind} {kind} {options}\n"


def test_a_group_of_version_1(tmp_path: Path) -> None:
    put(tmp_path, **{"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 99})
    put(tmp_path / "a", **{"memory.limit_in_bytes": 1 << 30, "memory.usage_in_bytes": 8192})
    put(
        tmp_path / "a/b c",
        **{"memory.limit_in_bytes": 9223372036854771712, "memory.usage_in_bytes": 4096},
    )
    mounts = mount("cgroup2", "/", tmp_path / "other", "rw") + mount(
        "cgroup", "/", tmp_path, "rw,memory"
    )
    groups = read_groups(V1, mounts)
    assert (groups.version, groups.cpuset, groups.missing) == (1, "/sets", "")
    assert groups.memory == [
        MemoryGroup("/a", 1 << 30, 8192),
        MemoryGroup("/a/b c", None, 4096),
    ]


def test_a_group_of_version_2(tmp_path: Path) -> None:
    point = tmp_path / "two words"
    put(point / "app", **{"memory.max": "max", "memory.current": 4096})
    put(point / "app/job", **{"memory.max": 65536, "memory.current": 4096})
    groups = read_groups("0::/app/job\n", mount("cgroup2", "/", point, "rw,nsdelegate"))
    assert (groups.version, groups.cpuset) == (2, "/app/job")
    assert groups.memory == [
        MemoryGroup("/app", None, 4096),
        MemoryGroup("/app/job", 65536, 4096),
    ]


def test_the_root_limits_nothing_but_that_of_a_container_may(tmp_path: Path) -> None:
    mounts = mount("cgroup2", "/", tmp_path, "rw")
    assert read_groups("0::/\n", mounts).memory == []
    put(tmp_path, **{"memory.max": 1 << 20, "memory.current": 4096})
    assert read_groups("0::/\n", mounts).memory == [MemoryGroup("/", 1 << 20, 4096)]


def test_a_group_that_is_mounted_below_its_root(tmp_path: Path) -> None:
    put(tmp_path / "job", **{"memory.max": "max", "memory.current": 1})
    put(tmp_path, **{"memory.max": "max", "memory.current": 2})
    mounts = mount("cgroup2", "/docker/x", tmp_path, "rw")
    assert [group.path for group in read_groups("0::/docker/x/job", mounts).memory] == [
        "/docker/x",
        "/docker/x/job",
    ]
    assert read_groups("0::/docker/xyz", mounts).memory == [MemoryGroup("/docker/xyz", None, None)]


@pytest.mark.parametrize(
    ("membership", "sentence"),
    [
        ("", "the memory cgroup: this kernel has none, or does not show it"),
        ("4:memory:/a\n", "the limit of memory cgroup /a: it is not mounted here"),
        ("0::/../..\n", "the limit of memory cgroup /../..: it is not mounted here"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, membership: str, sentence: str) -> None:
    mounts = mount("cgroup2", "/", tmp_path, "rw")
    assert read_groups(membership, mounts).missing == sentence


def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    groups = read_groups("0::/a\n", mount("cgroup2", "/", tmp_path, "rw"))
    assert groups.memory == [MemoryGroup("/a", None, None)]
    assert groups.missing == "the usage of memory cgroup /a: it may not be read"


def test_membership_that_makes_no_sense() -> None:
    assert procfs.parse_cgroups("x:memory:/a\n3:memory\n\n5:cpu:relative\n") == {}
    assert procfs.parse_cgroup_mounts("1 2 3\nx - cgroup cgroup rw\n") == []
