"""Stores to many new pages at once leave what as many faults leave."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmigrate import Machine, MiB
from mmigrate.errors import MemoryFault
from mmigrate.linux.include.mm import MADV_HUGEPAGE
from mmigrate.linux.include.sched import Task
from mmigrate.linux.mm import first_touch, memory
from mmigrate.machine.process import Process

from .whole_state import assert_alike

PAGE = 4096
Scene = Callable[[Machine, Process], list[tuple[int, int]]]


def touched(
    scene: Scene, at_once: bool, monkeypatch: pytest.MonkeyPatch, **options: object
) -> Machine:
    """@scene says what is touched: (address, pages)."""
    with monkeypatch.context() as patch:
        if not at_once:
            patch.setattr(first_touch, "store_to_new_pages", lambda _task, address, _end: address)
        machine = Machine(**{"nodes": (MiB(16), MiB(16))} | options)  # type: ignore[arg-type]
        app = machine.process("app")
        for address, pages in scene(machine, app):
            with suppress(MemoryFault):
                app.touch(address, length=pages * PAGE)
    assert machine.check() == []
    return machine


def plain(_machine: Machine, app: Process) -> list[tuple[int, int]]:
    heap = app.mmap(pages=2000)
    return [(heap.start + 5 * PAGE, 3), (heap.start, 2000)]


def with_holes(_machine: Machine, app: Process) -> list[tuple[int, int]]:
    heap = app.mmap(pages=700)
    for page in (3, 4, 11, 30, 31, 32, 33, 511, 512, 600):
        app.touch(heap.start + page * PAGE, write=page % 2 == 0)
    app.munmap(heap.start + 650 * PAGE, 5 * PAGE)
    app.mprotect(heap.start + 670 * PAGE, "r", 5 * PAGE)
    return [(heap.start, 645), (heap.start + 640 * PAGE, 60), (heap.start + 660 * PAGE, 40)]


def charged(machine: Machine, app: Process) -> list[tuple[int, int]]:
    outer = machine.cgroup("outer", limit=MiB(8))
    app.join(machine.cgroup("inner", parent=outer))
    machine.swapon(MiB(4))
    heap = app.mmap(pages=2400)
    return [(heap.start, 2400)]


def to_the_brim(machine: Machine, app: Process) -> list[tuple[int, int]]:
    machine.swapon(MiB(1))
    heap = app.mmap(MiB(40))
    return [(heap.start, MiB(40) // PAGE)]


def bound(_machine: Machine, app: Process) -> list[tuple[int, int]]:
    app.set_mempolicy("bind", [1])
    heap = app.mmap(pages=900)
    app.mbind(heap.start, "prefer", [0], length=200 * PAGE)
    app.mbind(heap.start + 300 * PAGE, "interleave", [0, 1], length=200 * PAGE)
    return [(heap.start, 900)]


def huge(_machine: Machine, app: Process) -> list[tuple[int, int]]:
    heap = app.mmap(pages=1700, at=0x7F00_0000_0000 - 99 * PAGE)
    app.madvise(heap.start, MADV_HUGEPAGE, 900 * PAGE)
    return [(heap.start, 1700)]


def locked(_machine: Machine, app: Process) -> list[tuple[int, int]]:
    heap = app.mmap(pages=300)
    app.mlock(heap.start + 100 * PAGE, 50 * PAGE)
    return [(heap.start, 300)]


def forked(_machine: Machine, app: Process) -> list[tuple[int, int]]:
    heap = app.mmap(pages=600)
    app.touch(heap.start, length=200 * PAGE)
    app.fork("child").touch(heap.start + 100 * PAGE, length=300 * PAGE)
    return [(heap.start, 600)]


def shared(machine: Machine, app: Process) -> list[tuple[int, int]]:
    file = machine.file("data", 100 * PAGE)
    private = app.mmap(pages=100, file=file)
    memory = app.mmap(pages=100, shared=True)
    return [(private.start, 100), (memory.start, 100)]


def confined(machine: Machine, app: Process) -> list[tuple[int, int]]:
    app.join(machine.cpuset("second", [1]))
    heap = app.mmap(pages=600)
    return [(heap.start, 600)]


SCENES = (
    plain,
    with_holes,
    charged,
    to_the_brim,
    bound,
    huge,
    locked,
    forked,
    shared,
    confined,
)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_what_they_leave_is_what_faults_leave(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = touched(scene, False, monkeypatch)
    assert_alike(touched(scene, True, monkeypatch), one_by_one)


@pytest.mark.slow
def test_where_charges_are_of_another_time_there_are_faults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_by_one = touched(charged, False, monkeypatch, without=["0a31bc97c80c"])
    at_once = touched(charged, True, monkeypatch, without=["0a31bc97c80c"])
    assert_alike(at_once, one_by_one)


def test_most_pages_take_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[int] = []
    fault = memory.page_fault

    def counted(task: Task, addr: int, write: bool) -> str:
        faults.append(addr)
        return fault(task, addr, write)

    monkeypatch.setattr(memory, "page_fault", counted)
    machine = touched(plain, True, monkeypatch)
    assert len(faults) < 40  # one for each table of ptes, and what is left between touched pages
    assert machine.vmstat["pgfault"] == 2000


ranges = st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 1200)), min_size=1, max_size=5)


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 5)
@given(ranges, st.sampled_from(["default", "bind", "prefer", "interleave"]), st.booleans())
def test_any_ranges(found: list[tuple[int, int]], policy: str, in_a_group: bool) -> None:
    def scene(machine: Machine, app: Process) -> list[tuple[int, int]]:
        if policy != "default":
            app.set_mempolicy(policy, [1] if policy != "interleave" else [0, 1])
        if in_a_group:
            app.join(machine.cgroup("group", limit=MiB(9)))
            machine.swapon(MiB(16))
        heap = app.mmap(pages=2700)
        return [(heap.start + first * PAGE, pages) for first, pages in found]

    with pytest.MonkeyPatch.context() as patch:
        one_by_one = touched(scene, False, patch)
        assert_alike(touched(scene, True, patch), one_by_one)
