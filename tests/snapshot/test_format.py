"""The reader survives anything; the writer never leaves half a file."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmigrate.errors import SnapshotError, UsageError
from mmigrate.snapshot import format
from mmigrate.snapshot.forms import pieces
from mmigrate.snapshot.records import (
    EMPTY,
    VERSION,
    MemoryGroup,
    NodeRecord,
    PageState,
    PoolRecord,
    VmaRecord,
    packed,
)
from mmigrate.snapshot.snapshot import Snapshot

from .examples import BASE, POOL, MiB2, area, small, special

VALID = format.dumps(special())


def sealed(raw: bytes, *, version: int = VERSION, decompressed: int | None = None) -> bytes:
    """A file with a right checksum around any content."""
    payload = zlib.compress(raw)
    digest = hashlib.sha256(payload).digest()
    length = len(raw) if decompressed is None else decompressed
    return format.HEADER.pack(format.MAGIC, version, len(payload), length, digest) + payload


def refusal(data: bytes) -> str:
    with pytest.raises(SnapshotError) as caught:
        format.loads(data)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


def test_what_is_written_is_read(tmp_path: Path) -> None:
    size = format.write(small(), tmp_path / "app.snap")
    assert format.read(tmp_path / "app.snap") == small()
    assert (tmp_path / "app.snap").stat().st_size == size
    assert (tmp_path / "app.snap").stat().st_mode & 0o777 == 0o600


def test_version_1_is_still_read() -> None:
    """The file was written by the last mmigrate that wrote version 1."""
    old = format.read(Path(__file__).parent / "files" / "version-1.snap")
    assert (old.version, old.thp, old.pools, old.memory_groups) == (VERSION, "", [], [])
    assert [vma.start for vma in old.vmas] == [BASE, BASE + 16 * 4096, BASE + 32 * 4096]
    assert list(old.runs(old.vmas[0]))[1] == (2, 1, PageState(266249, 1, 1))
    use_all_of(old)


@pytest.mark.parametrize("field", ["thp", "pools", "memory_groups", "merged"])
def test_version_1_has_no_fields_of_version_2(field: str) -> None:
    plain: dict[str, object] = {"thp": "", "pools": [], "memory_groups": [], "cpuset": ""}
    plain |= {"cgroup_version": 0, "vmas": [area(BASE, 1, [(1, 0)])]}
    with_field = {field: getattr(small(), field, None)}
    if field == "merged":
        with_field = {"vmas": [area(BASE, 1, [(1, 0)], merged=4096)]}
    for changes, accepted in ((plain, True), (plain | with_field, False)):
        data = sealed(msgspec.msgpack.encode(small(version=1, **changes)), version=1)
        if accepted:
            assert format.loads(data).version == VERSION
        else:
            assert refusal(data) == "the file is damaged: version 1 has no such fields"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"MMIG", "the file is truncated: 4 bytes, not even a whole header"),
        (b"\x7fELF" + bytes(100), "this is not an mmigrate snapshot"),
        (VALID[:100], r"the file is truncated: 42 of \d+ bytes of data are there"),
        (VALID + b"x", "the file is damaged: 1 bytes follow its end"),
        (
            sealed(b"", version=7),
            "format version 7 is unknown, a newer mmigrate wrote it; this reads 1 to 2",
        ),
        (VALID[:-1] + bytes([VALID[-1] ^ 1]), "the file is damaged: its checksum does not match"),
        (sealed(b"\xc0"), r"the file is damaged: Expected `object`, got `None`"),
        (
            sealed(b"", decompressed=1 << 40),
            "the snapshot is too large: 1099511627776 bytes when decompressed",
        ),
        (
            sealed(bytes(1 << 20), decompressed=10),
            "the file is damaged: it does not decompress to its stated size",
        ),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:40],
)
def test_each_kind_of_bad_file(data: bytes, message: str) -> None:
    assert re.fullmatch(message, refusal(data))


def test_the_sentence_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.snap"
    path.write_bytes(b"MMIG")
    with pytest.raises(SnapshotError, match=re.escape(f"{path}: the file is truncated")):
        format.read(path)
    with pytest.raises(SnapshotError, match="gone: there is no such file"):
        format.read(tmp_path / "gone")


def test_not_an_ordinary_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(SnapshotError, match=r"not an ordinary file|Is a directory"):
            format.read(path)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    refusal(data)


@given(st.integers(0, len(VALID) - 1))
def test_every_truncation(length: int) -> None:
    refusal(VALID[:length])


@given(st.integers(0, len(VALID) - 1), st.integers(1, 255))
def test_every_changed_byte(position: int, difference: int) -> None:
    data = bytearray(VALID)
    data[position] ^= difference
    refusal(bytes(data))


@settings(max_examples=150)
@given(st.data())
def test_changed_content_with_a_right_checksum(data: st.DataObject) -> None:
    """What a hostile writer can do: it may be a snapshot still, or it is refused."""
    raw = bytearray(msgspec.msgpack.encode(data.draw(st.sampled_from([small(), special()]))))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - 1))
        raw[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=6))
    accept_or_refuse(sealed(bytes(raw)))


@settings(max_examples=150)
@given(st.data())
def test_a_field_of_another_type_or_size(data: st.DataObject) -> None:
    example = data.draw(st.sampled_from([small(), special()]))
    tree = msgspec.to_builtins(example, builtin_types=(bytes,))
    values = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=10)
        | st.binary(max_size=40)
        | st.lists(st.integers(0, 300), max_size=5)
        | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3)
    )
    _replace_one(tree, data.draw, values)
    try:
        raw = msgspec.msgpack.encode(tree)
    except (OverflowError, ValueError):
        return
    accept_or_refuse(sealed(raw))


def _replace_one(tree: Any, draw: Callable[..., Any], values: st.SearchStrategy[Any]) -> None:
    while True:
        keys = sorted(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = draw(st.sampled_from(keys))
        if isinstance(tree[key], dict | list) and tree[key] and draw(st.booleans()):
            tree = tree[key]
        else:
            tree[key] = draw(values)
            return


def accept_or_refuse(data: bytes) -> None:
    try:
        snapshot = format.loads(data)
    except SnapshotError:
        refusal(data)
    else:
        use_all_of(snapshot)


def use_all_of(snapshot: Snapshot) -> None:
    """Whatever passes the reader can be used without an error."""
    snapshot.summary()
    for vma in snapshot.vmas:
        covered = 0
        for first, count, state in snapshot.runs(vma):
            assert first == covered
            assert state.node in (-1, *snapshot.node_numbers())
            covered += count
        assert covered in (0, snapshot.page_count(vma))
        list(snapshot.swap_runs(vma))
        list(snapshot.merged_runs(vma))
        found = [(piece.first, piece.count) for piece in pieces(snapshot, vma)]
        assert all(first >= 0 < count for first, count in found)
        assert sum(count for _, count in found) <= snapshot.page_count(vma)
        snapshot.file_of(vma)
        snapshot.kind(vma)
    assert format.loads(format.dumps(snapshot)) == snapshot


@pytest.mark.parametrize(
    "raw",
    [
        b"\xdf\xff\xff\xff\xff",  # a map of 4 thousand million entries
        b"\xdd\xff\xff\xff\xff",  # an array
        b"\xdb\xff\xff\xff\xff",  # a text
        b"\x81\xa4vmas\xdd\xff\xff\xff\xff",
        b"\x81\xa4vmas\xdd\x00\x0f\xff\xff",
        b"\x81\xa7missing\xdd\xff\xff\xff\xff",
        b"\x81\xa5nodes\x91" * 5000,
        b"\x91" * 1_000_000,
        b"\x81\xa7strange" + b"\x91" * 1_000_000,
        b"\x81\xa6kernel\xa2\xff\xfe",  # not UTF-8
    ],
)
def test_hostile_messagepack(raw: bytes) -> None:
    refusal(sealed(raw))


def test_hostile_sizes_cost_no_memory() -> None:
    """In a process that may have 512 MiB only: bombs and huge lengths, each refused."""
    program = """
import resource, sys, zlib, hashlib
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
from mmigrate.errors import SnapshotError
from mmigrate.snapshot import format
engine = zlib.compressobj()
bomb = b"".join(engine.compress(bytes(1 << 20)) for _ in range(64)) + engine.flush()
header = (format.MAGIC, 1, len(bomb), 100, hashlib.sha256(bomb).digest())
for data in (format.HEADER.pack(*header) + bomb, format.HEADER.pack(*header)):
    try:
        format.loads(data)
    except SnapshotError:
        print("refused")
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    assert result.stdout == "refused\nrefused\n"


def _merged(counts: list[int], groups: list[int]) -> VmaRecord:
    """An area of one merged page, with these columns."""
    columns = {"merged_counts": array("I", counts), "merged_groups": array("I", groups)}
    return area(BASE, 1, [(1, 5)], **{name: packed(data) for name, data in columns.items()})


STATES = [EMPTY, PageState(1, 0, 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vmas": [area(BASE + 1, 1, [(1, 0)])]}, "is not made of whole pages"),
        ({"vmas": [area(BASE, 2, [(1, 0)])]}, "do not cover it exactly"),
        ({"vmas": [area(BASE, 1, [(2, 0)])]}, "do not cover it exactly"),
        ({"vmas": [area(BASE, 1, [(0, 0), (1, 0)])]}, "has an empty run"),
        ({"vmas": [area(BASE, 1, [(1, 9)])]}, "uses a state that is not listed"),
        ({"vmas": [area(BASE, 1, [(1, 0)], file=9)]}, "maps a file that is not listed"),
        ({"vmas": [area(BASE, 1, [(1, 0)], counts=b"123")]}, "has a broken column"),
        ({"vmas": [area(BASE, 1, [(1, 0)], states=b"1234")]}, "columns of different length"),
        ({"vmas": [area(BASE, 1, [(1, 0)], swap=bytes(32))]}, "swap offsets out of place"),
        ({"vmas": [area(BASE, 1, [(1, 0)], policy="9")]}, "'9' is not a policy"),
        ({"vmas": [area(BASE, 4, [(4, 0)]), area(BASE, 1, [(1, 0)])]}, "out of place"),
        ({"vmas": [area(BASE, 0, [])]}, "out of place"),
        ({"states": [PageState(1)], "vmas": []}, "first page state is not the empty one"),
        ({"states": [EMPTY, PageState(1, 5)], "vmas": []}, "pages on node 5, not listed"),
        ({"nodes": []}, "it has no nodes"),
        ({"nodes": [NodeRecord(0, 1, 1, "", [])]}, "node 0 has 0 distances for 1 nodes"),
        ({"command": "\x1b[2J"}, "not printable"),
        ({"cpus_allowed": "9-0"}, "one of its lists makes no sense"),
        ({"page_size": 5000}, "a page of 5000 bytes is impossible"),
        ({"pools": [POOL, POOL]}, "its pools of huge pages are not in order"),
        ({"pools": [PoolRecord(3 << 20, 0, 0, [0, 0], [0, 0], [0, 0])]}, "impossible size"),
        ({"pools": [PoolRecord(MiB2, 0, 0, [1], [0, 0], [0, 0])]}, "one number for each node"),
        ({"memory_groups": [MemoryGroup("\x1b[2J", 1, 1)]}, "not printable"),
        ({"vmas": [area(BASE, 1, [(1, 0)], merged_counts=b"123")]}, "column of merged pages"),
        ({"vmas": [_merged([2], [1])]}, "do not fit its merged pages"),
        ({"vmas": [_merged([1], [0])]}, "do not fit its merged pages"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    assert message in refusal(sealed(msgspec.msgpack.encode(small(**changes))))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.snap"
    path.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SnapshotError, match="cannot be written: No space left on device"):
        format.write(small(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_devices_and_missing_directories_are_no_targets(tmp_path: Path) -> None:
    for path in ("/dev/null", str(tmp_path), str(tmp_path / "none" / "x"), "/proc/self/mem/x"):
        with pytest.raises(UsageError):
            format.write(small(), path)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "app.snap")
    format.write(small(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert format.read(tmp_path / "app.snap") == small()
