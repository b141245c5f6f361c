"""The snapshot file: a header of 58 bytes, then a compressed MessagePack map.

* The reader trusts nothing: sizes are bounded before memory is taken, then the checksum, the
  types and ranges, and the sense of the whole are checked.  All it ever raises is SnapshotError.
* The writer makes a new file beside the old and renames it: there is never half a snapshot.

`docs/snapshot-format.md` has the layout byte by byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Final

import msgspec

from mmigrate.errors import SnapshotError, UsageError
from mmigrate.snapshot.records import VERSION
from mmigrate.snapshot.snapshot import Snapshot

MAGIC: Final = b"MMIGSNAP"
VERSIONS: Final = range(1, VERSION + 1)  # that this reads; it writes the last
# magic, version, bytes of the payload, bytes when decompressed, SHA-256 of the payload
HEADER: Final = struct.Struct("<8sHQQ32s")
MAX_DECOMPRESSED: Final = 256 << 20
MAX_PAYLOAD: Final = MAX_DECOMPRESSED + (1 << 20)  # noise grows a little in compression

_decoder = msgspec.msgpack.Decoder(Snapshot)
_encoder = msgspec.msgpack.Encoder()


def write(snapshot: Snapshot, path: str | os.PathLike[str]) -> int:
    """Write the file and return its size.  Readable by its owner only: it shows addresses.

    Raises SnapshotError or UsageError; a file that was there before is then as it was.
    """
    data = dumps(snapshot)
    target = check_target(path)
    descriptor, temporary = -1, ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:80]}.", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise SnapshotError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # gone already if it became the target
    return len(data)


def check_target(path: str | os.PathLike[str]) -> Path:
    """The file that `write` would replace, links followed.  Raises UsageError if it could not."""
    target = Path(os.path.realpath(path))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        raise UsageError(f"{target} cannot be written: {_why(error)}") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{target} is not an ordinary file, so no snapshot can be written there")
    if not target.parent.is_dir():
        raise UsageError(f"there is no directory {target.parent} to write the snapshot in")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise UsageError(f"you may not write in {target.parent}")
    return target


def read(path: str | os.PathLike[str]) -> Snapshot:
    """Read a snapshot.  Raises SnapshotError: a sentence with the file and what is wrong."""
    try:
        return loads(_read_bytes(path))
    except SnapshotError as error:
        raise SnapshotError(f"{_named(path)}: {error}") from None


def dumps(snapshot: Snapshot) -> bytes:
    """The bytes of the file.  Raises SnapshotError if no reader would take them."""
    snapshot.validate()
    raw = _encoder.encode(snapshot)
    if len(raw) > MAX_DECOMPRESSED:
        raise SnapshotError(
            f"the snapshot is too large: {len(raw)} bytes before compression, "
            f"and {MAX_DECOMPRESSED} is the limit"
        )
    payload = zlib.compress(raw, 6)
    digest = hashlib.sha256(payload).digest()
    return HEADER.pack(MAGIC, VERSION, len(payload), len(raw), digest) + payload


def loads(data: bytes) -> Snapshot:
    """The opposite of `dumps`.  Raises SnapshotError with what is wrong, in words."""
    if not data:
        raise SnapshotError("the file is empty")
    if not data.startswith(MAGIC[: len(data)]):
        raise SnapshotError("this is not an mmigrate snapshot")
    if len(data) < HEADER.size:
        raise SnapshotError(f"the file is truncated: {len(data)} bytes, not even a whole header")
    _magic, version, length, decompressed, digest = HEADER.unpack_from(data)
    if version not in VERSIONS:
        newer = "a newer mmigrate wrote it" if version > VERSION else "there is no such version"
        raise SnapshotError(
            f"format version {version} is unknown, {newer}; this reads {VERSIONS[0]} to {VERSION}"
        )
    present = len(data) - HEADER.size
    if present < length:
        raise SnapshotError(f"the file is truncated: {present} of {length} bytes of data are there")
    if present > length:
        raise SnapshotError(f"the file is damaged: {present - length} bytes follow its end")
    payload = memoryview(data)[HEADER.size :]
    if hashlib.sha256(payload).digest() != digest:
        raise SnapshotError("the file is damaged: its checksum does not match")
    if decompressed > MAX_DECOMPRESSED:
        raise SnapshotError(f"the snapshot is too large: {decompressed} bytes when decompressed")
    snapshot = _decode(_decompress(payload, decompressed))
    if snapshot.version != version:
        raise SnapshotError("the file is damaged: it names two versions")
    if version == 1 and _uses_version_2(snapshot):
        raise SnapshotError("the file is damaged: version 1 has no such fields")
    snapshot.version = VERSION
    snapshot.validate()
    return snapshot


def _uses_version_2(snapshot: Snapshot) -> bool:
    groups = (snapshot.pools, snapshot.memory_groups, snapshot.cgroup_version)
    return any((snapshot.thp, snapshot.cpuset, *groups)) or any(
        vma.anon_huge or vma.file_huge or vma.hugetlb or vma.merged or vma.merged_counts
        for vma in snapshot.vmas
    )


def _decompress(payload: memoryview, expected: int) -> bytes:
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(payload, expected + 1)
    except zlib.error:
        raise SnapshotError("the file is damaged: it does not decompress") from None
    if len(raw) != expected or not engine.eof or engine.unused_data:
        raise SnapshotError("the file is damaged: it does not decompress to its stated size")
    return raw


def _decode(raw: bytes) -> Snapshot:
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        detail = str(error)
        if len(detail) > 200 or not detail.isprintable():
            detail = type(error).__name__
        raise SnapshotError(f"the file is damaged: {detail}") from None
    except (MemoryError, RecursionError, OverflowError, ValueError) as error:
        raise SnapshotError(f"the file is damaged: {type(error).__name__}") from None


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SnapshotError("this is not an ordinary file")
            if file.peek(len(MAGIC))[: len(MAGIC)] != MAGIC:
                return file.read(HEADER.size)
            if status.st_size > HEADER.size + MAX_PAYLOAD:
                raise SnapshotError(f"{status.st_size} bytes are too many for a snapshot")
            return file.read(status.st_size)
    except FileNotFoundError:
        raise SnapshotError("there is no such file") from None
    except (OSError, ValueError) as error:
        raise SnapshotError(f"the file cannot be read: {_why(error)}") from None


def _why(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _named(path: str | os.PathLike[str]) -> str:
    name = os.fsdecode(path)
    return name if name.isprintable() else ascii(name)
