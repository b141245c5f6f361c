"""Recording processes of this computer, with and without rights."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator

import pytest

from mmigrate.errors import MmigrateError, UsageError
from mmigrate.snapshot import format, procfs, recorder, syscalls
from mmigrate.snapshot.recorder import record
from mmigrate.snapshot.records import EMPTY, NodeRecord
from mmigrate.snapshot.snapshot import Snapshot

MiB = 256  # pages
HAS_PAGEMAP = os.path.exists("/proc/self/pagemap")
pytestmark = pytest.mark.skipif(not HAS_PAGEMAP, reason="this kernel has no pagemap")


def start(size: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "mmigrate.snapshot.example_process", "--size", str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"READY {process.pid}\n"
    return process


def stop(process: subprocess.Popen[str]) -> None:
    process.communicate("")
    assert process.returncode == 0


@pytest.fixture(scope="module")
def example() -> Iterator[int]:
    process = start(8)
    yield process.pid
    stop(process)


def without_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> Iterator[tuple[int, int, int]]:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(syscalls, "scan", refused)


def without_move_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_pid: int, _addresses: array[int]) -> array[int]:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(syscalls, "query_nodes", refused)


def test_every_kind_of_memory(example: int) -> None:
    snapshot = record(example)
    total = snapshot.summary()
    assert total.resident > 7 * MiB
    assert total.zero >= MiB // 2
    assert total.by_kind["shmem"] == MiB
    assert total.by_kind["file"] > 2 * MiB
    assert total.by_node[-1] == 0
    assert 0 < total.locked <= MiB // 4
    # Three of four forked pages are still shared; most of the rest is its own.
    assert total.shared >= MiB * 3 // 4
    assert total.resident - total.shared > 4 * MiB
    assert (snapshot.pid, snapshot.page_size) == (example, os.sysconf("SC_PAGE_SIZE"))
    assert {"pages", "nodes"} <= set(snapshot.known)
    snapshot.validate()
    assert format.loads(format.dumps(snapshot)) == snapshot


def test_two_areas_of_a_file_share_its_number(example: int) -> None:
    snapshot = record(example)
    numbers = [vma.file for vma in snapshot.vmas if vma.name.endswith("(deleted)")]
    unnamed = [vma for vma in snapshot.vmas if vma.file and vma.length == MiB * 4096]
    assert len({vma.file for vma in unnamed}) == 2  # the file twice, shared memory once
    assert set(numbers) == {vma.file for vma in unnamed}


def test_an_older_kernel_gives_the_same_pages(
    example: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = _placements(record(example))
    without_scan(monkeypatch)
    assert _placements(record(example)) == newer


def test_a_container_may_forbid_move_pages(example: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then numa_maps still tells the node, where all pages of an area are on one."""
    expected = record(example).summary()
    without_move_pages(monkeypatch)
    nodes = [NodeRecord(number, 1 << 30, 0, "", [10, 20]) for number in range(2)]
    monkeypatch.setattr(recorder, "machine_nodes", lambda: nodes)
    monkeypatch.setattr(procfs, "parse_numa_maps", _without_the_heap(procfs.parse_numa_maps))
    snapshot = record(example)
    total = snapshot.summary()
    assert total.by_node[-1] >= total.by_kind["heap"] > 0
    assert 0 < total.by_node[0] <= expected.resident
    assert "nodes" not in snapshot.known
    assert any("move_pages(2) is forbidden here" in sentence for sentence in snapshot.missing)


Lines = Callable[[str], Iterator[procfs.PolicyText]]


def _without_the_heap(parse: Lines) -> Lines:
    return lambda text: parse("\n".join(line for line in text.split("\n") if "heap" not in line))


def _placements(snapshot: Snapshot) -> dict[int, list[tuple[int, int, bool, bool, int]]]:
    return {
        vma.start: [
            (first, count, state.present, state.zero, state.node)
            for first, count, state in snapshot.runs(vma)
        ]
        for vma in snapshot.vmas
        if vma.length == MiB * 4096 and vma.perms[3] == "p" and not vma.file
    }


@pytest.mark.parametrize("older", [False, True])
def test_terabytes_of_address_space_cost_nothing(
    older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if older:
        without_scan(monkeypatch)
    pages = 1 << 32  # a run's count has 32 bits: this takes two runs
    try:
        reserved = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | 0x4000, prot=0)
    except OSError:
        pytest.skip("this computer limits address space")
    with reserved:
        snapshot = record(os.getpid())
    (vast,) = [vma for vma in snapshot.vmas if vma.length >= pages * 4096]
    assert [state for _first, _count, state in snapshot.runs(vast)] == [EMPTY, EMPTY]
    skipped = [sentence for sentence in snapshot.missing if "1 vast area" in sentence]
    assert len(skipped) == older


def test_progress_is_told(example: int) -> None:
    told: list[tuple[str, int, int]] = []
    record(example, progress=lambda *values: told.append(values))
    done = [values[1] for values in told if values[0] == "reading pages"]
    assert done == sorted(done)
    assert done[-1] > 7 * MiB
    assert all(values[1] <= values[2] for values in told)


def test_the_process_is_left_alone() -> None:
    process = start(1)
    before = _status(process.pid)
    record(process.pid)
    assert _status(process.pid) == before
    stop(process)


def _status(pid: int) -> list[str]:
    with open(f"/proc/{pid}/status") as file:
        wanted = ("TracerPid", "VmSize", "VmRSS", "VmLck")
        return [line for line in file if line.startswith(wanted)]


def test_this_process_itself() -> None:
    assert record(os.getpid()).summary().resident > MiB


@pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 2**40])
def test_no_such_process(pid: int) -> None:
    with pytest.raises(UsageError, match=f"^there is no process {pid}$"):
        record(pid)


def test_a_process_that_has_ended() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # a zombie still has its pid
        with pytest.raises(UsageError, match="has no memory to record"):
            record(child)
    finally:
        os.waitpid(child, 0)
    with pytest.raises(UsageError, match="there is no process"):
        record(child)


def test_a_process_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(1)
    query = syscalls.query_nodes

    def end_first(pid: int, addresses: array[int]) -> array[int]:
        if process.poll() is None:
            stop(process)
        return query(pid, addresses)

    monkeypatch.setattr(syscalls, "query_nodes", end_first)
    with pytest.raises(UsageError, match=f"process {process.pid} ended before it could be"):
        record(process.pid)


def in_child(work: Callable[[], str]) -> str:
    """What @work returns or raises, in a child that gave up being root."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: an ordinary process again
        try:
            answer = work()
        except MmigrateError as error:
            answer = f"{type(error).__name__}: {error}"
        except BaseException as error:
            answer = repr(error)
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@as_root
def test_somebody_elses_process() -> None:
    parent = os.getpid()
    assert in_child(lambda: str(record(parent))) == (
        f"UsageError: process {parent} may not be read: it belongs to user 0; "
        "run this as its owner or as root"
    )


@as_root
@pytest.mark.parametrize("older", [False, True])
def test_an_own_process_without_rights(older: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of zeroes is known even to an older kernel's users: move_pages gives it away."""
    if older:
        without_scan(monkeypatch)

    def work() -> str:
        zeroes = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE)
        assert sum(zeroes[position] for position in range(0, len(zeroes), 4096)) == 0
        snapshot = record(os.getpid())
        snapshot.validate()
        total = snapshot.summary()
        assert total.resident > MiB
        assert total.by_node[-1] == 0
        assert total.zero >= 64
        return "\n".join(snapshot.missing)

    missing = in_child(work)
    assert "page types (dirty, on the LRU, locked, KSM …): only root may see that" in missing
    assert "how many times each page is mapped: only root may see that" in missing
