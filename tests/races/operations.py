"""Small programs for the search: one page of some kind of memory, and tasks that each do one thing.

Interface: `program(kind, operations)` is a scenario. `KINDS` prepares the page; `OPERATIONS` are
what a task can do to it. An errno or a signal is an answer like any other; what must never
happen is told by the oracles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmigrate import Mapping
from mmigrate.history.by_kernel import store_once, try_once
from mmigrate.linux.include.mm import MADV_DONTNEED
from mmigrate.linux.mm import vmscan

PAGE = 4096
DATA = b"kept"


@dataclass
class Stage:
    """What the tasks of a program have in common.  @others: processes that share the page."""

    machine: Any
    app: Any
    where: Mapping
    file: Any = None
    child: Any = None
    page: Any = None


# --- kinds of memory ---


def anonymous(machine: Any) -> Stage:
    app = machine.process("app", cpu=2)
    where = app.mmap(pages=1)
    app.write(where.start, DATA)
    return Stage(machine, app, where)


def forked(machine: Any) -> Stage:
    stage = anonymous(machine)
    stage.child = stage.app.fork("child")
    return stage


def swap_cache(machine: Any) -> Stage:
    """In the swap cache and mapped: it has been swapped out, and came back for a load."""
    machine.swapon(1 << 20)
    stage = anonymous(machine)
    machine.drain_pagevecs()
    machine.swap_out(stage.app, stage.where)
    machine.finish_io()
    stage.app.read(stage.where.start, 1)
    return stage


def swapped(machine: Any) -> Stage:
    """The page is in swap."""
    machine.swapon(1 << 20)
    stage = anonymous(machine)
    machine.drain_pagevecs()
    machine.swap_out(stage.app, stage.where)
    machine.finish_io()
    return stage


def locked(machine: Any) -> Stage:
    stage = anonymous(machine)
    stage.app.mlock(stage.where)
    return stage


def shared_memory(machine: Any) -> Stage:
    return _of_file(machine, machine.shmem("shm", PAGE), shared=True)


def shared_file(machine: Any) -> Stage:
    return _of_file(machine, machine.file("data", PAGE, data=b"disk"), shared=True)


def private_file(machine: Any) -> Stage:
    return _of_file(machine, machine.file("data", PAGE, data=b"disk"), shared=False)


def _of_file(machine: Any, file: Any, *, shared: bool) -> Stage:
    app = machine.process("app", cpu=2)
    where = app.mmap(pages=1, file=file, shared=shared)
    if shared:
        app.write(where.start, DATA)
    else:
        app.read(where.start, 4)
    return Stage(machine, app, where, file)


KINDS: dict[str, Callable[[Any], Stage]] = {
    kind.__name__: kind
    for kind in (
        anonymous,
        forked,
        swap_cache,
        swapped,
        locked,
        shared_memory,
        shared_file,
        private_file,
    )
}


# --- what a task does ---


def migrate(stage: Stage) -> None:
    """One pass of the kernel's own migration, which holds no mmap_sem."""
    if stage.page is not None:
        try_once(stage.machine, stage.page)


def migrate_again(stage: Stage) -> None:
    """Another one, of what is there now."""
    page = stage.app.page_at(stage.where.start)
    if page is not None:
        try_once(stage.machine, page, 0)


def move_pages(stage: Stage) -> None:
    stage.app.move_pages(stage.where, node=1)


def read(stage: Stage) -> None:
    stage.app.read(stage.where.start, 4)


def write(stage: Stage) -> None:
    stage.app.write(stage.where.start, b"new!")


def store(stage: Stage) -> None:
    """A store that gives up where the hardware faults: only a translation that is there already,
    or a pte that allows it."""
    store_once(stage.app, stage.where.start, b"new!")


def fork(stage: Stage) -> None:
    stage.app.fork("new")


def mprotect(stage: Stage) -> None:
    stage.app.mprotect(stage.where, "r")


def take_all_rights(stage: Stage) -> None:
    stage.app.mprotect(stage.where, "")


def munmap(stage: Stage) -> None:
    stage.app.munmap(stage.where)


def mremap(stage: Stage) -> None:
    stage.app.mremap(stage.where, PAGE, at=stage.where.start - (1 << 30))


def mlock(stage: Stage) -> None:
    stage.app.mlock(stage.where)


def munlock(stage: Stage) -> None:
    stage.app.munlock(stage.where)


def give_back(stage: Stage) -> None:
    stage.app.madvise(stage.where, MADV_DONTNEED)


def pin(stage: Stage) -> None:
    stage.app.pin(stage.where).release()


def exit(stage: Stage) -> None:
    stage.app.exit()


def child_exits(stage: Stage) -> None:
    stage.child.exit()


def child_writes(stage: Stage) -> None:
    stage.child.write(stage.where.start, b"mine")


def swap_out(stage: Stage) -> None:
    if stage.page is not None:
        vmscan.reclaim_pages(stage.machine.kernel, [stage.page])


def truncate(stage: Stage) -> None:
    stage.machine.truncate(stage.file, 0)


def pread(stage: Stage) -> None:
    stage.app.pread(stage.file, 4)


def pwrite(stage: Stage) -> None:
    stage.app.pwrite(stage.file, b"file")


def fsync(stage: Stage) -> None:
    stage.machine.fsync(stage.file)


def drop_caches(stage: Stage) -> None:
    stage.machine.drop_caches()


def remap(stage: Stage) -> None:
    stage.app.remap_file_pages(stage.where, 0)


EVERYWHERE = (
    migrate,
    migrate_again,
    move_pages,
    read,
    write,
    store,
    fork,
    mprotect,
    take_all_rights,
    munmap,
    mremap,
    mlock,
    munlock,
    give_back,
    pin,
    exit,
)
OF_FORKED = (child_exits, child_writes)
OF_FILES = (truncate, pread, pwrite, fsync, drop_caches, remap)
OPERATIONS: dict[str, Callable[[Stage], None]] = {
    operation.__name__: operation for operation in (*EVERYWHERE, swap_out, *OF_FORKED, *OF_FILES)
}


# Those of nobody in particular: they run without a process, as kernel threads do.
OF_KERNEL = ("migrate", "migrate_again", "swap_out", "truncate", "fsync", "drop_caches")


def operations_of(kind: str) -> list[str]:
    """Those that make sense with a kind of memory."""
    found = [operation.__name__ for operation in EVERYWHERE]
    if kind != "locked":
        found.append("swap_out")
    if kind == "forked":
        found += [operation.__name__ for operation in OF_FORKED]
    if kind in ("shared_memory", "shared_file", "private_file"):
        found += [operation.__name__ for operation in OF_FILES]
    return found


def program(kind: str, operations: Sequence[str]) -> Callable[[Any], None]:
    """A scenario: a page of this kind, and a task for each operation, on CPUs of their own as
    far as there are enough."""

    def scenario(machine: Any) -> None:
        stage = KINDS[kind](machine)
        machine.drain_pagevecs()
        stage.page = stage.app.page_at(stage.where.start)
        for number, name in enumerate(operations):
            machine.start(Doing(name, stage), cpu=number % 3)

    scenario.__name__ = scenario.__qualname__ = "_".join([kind, *operations])
    return scenario


class Doing:
    """One operation, as a task: a thread of the process it belongs to, like a started method."""

    def __init__(self, name: str, stage: Stage) -> None:
        self.__name__ = name
        self.stage = stage
        if name not in OF_KERNEL:
            self.__self__ = stage.child if name.startswith("child") else stage.app

    def __call__(self) -> None:
        with suppress(OSError):
            OPERATIONS[self.__name__](self.stage)
