"""Small programs for the search: one page of some kind of memory, and tasks that each do one thing.

Interface: `program(kind, operations)` is a scenario. `KINDS` prepares the page; `OPERATIONS` are
what a task can do to it. An errno or a signal is an answer like any other; what must never
happen is told by the oracles.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmigrate import Mapping
from mmigrate.history.by_kernel import TO_THE_OTHER, store_once, try_once
from mmigrate.linux.include.hugetlb import hstate_of
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC, MR_COMPACTION
from mmigrate.linux.include.mm import (
    MADV_DONTNEED,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_SOFT_OFFLINE,
    MADV_UNMERGEABLE,
)
from mmigrate.linux.include.vmstat import NR_ISOLATED_FILE
from mmigrate.linux.kernel.page_flags import PageAnon, trylock_page, unlock_page
from mmigrate.linux.kernel.page_ref import get_page_unless_zero
from mmigrate.linux.lib.list import ListHead, list_add_tail
from mmigrate.linux.mm import (
    balloon_compaction,
    huge_split,
    hugetlb_pool,
    ksm,
    page_alloc,
    swap,
    vmscan,
)
from mmigrate.linux.mm import (
    migrate as mm_migrate,
)

PAGE = 4096
HUGE = 1 << 21
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
    group: Any = None

    @property
    def first(self) -> Mapping:
        """One page, where a huge range would be too long a way."""
        return self.where[0:1]


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


def marked(machine: Any) -> Stage:
    """The next access is a fault of NUMA balancing, from the other node."""
    stage = anonymous(machine)
    stage.app.on_cpu(3)
    machine.drain_pagevecs()
    stage.app.numa_scan()
    return stage


def grouped(machine: Any) -> Stage:
    """Charged to a memory cgroup; there is another one to move to, charges and all."""
    app = machine.process("app", cpu=2)
    app.join(machine.cgroup("old"))
    where = app.mmap(pages=1)
    app.write(where.start, DATA)
    stage = Stage(machine, app, where)
    stage.group = machine.cgroup("new")
    stage.group.move_charge = True
    return stage


def ballooned(machine: Any) -> Stage:
    """The page is the balloon's; the process has another."""
    stage = anonymous(machine)
    machine.balloon.inflate(1)
    [stage.page] = machine.balloon.device.vb_dev_info.pages
    return stage


def _huge_range(app: Any) -> Mapping:
    area = app.mmap(2 * HUGE)
    return Mapping((area.start + HUGE - 1) & -HUGE, HUGE)


def huge(machine: Any) -> Stage:
    app = machine.process("app", cpu=2)
    where = _huge_range(app)
    app.madvise(where, MADV_HUGEPAGE)
    app.write(where.start, DATA)
    return Stage(machine, app, where)


def collapsible(machine: Any) -> Stage:
    """One base page, in a range of which khugepaged would make a huge page."""
    app = machine.process("app", cpu=2)
    where = _huge_range(app)
    app.write(where.start, DATA)
    app.madvise(where, MADV_HUGEPAGE)
    return Stage(machine, app, where)


def of_hugetlb(machine: Any) -> Stage:
    machine.hugepages(1, node=0)
    machine.hugepages(1, node=1)
    app = machine.process("app", cpu=2)
    where = app.mmap(HUGE, hugetlb=HUGE, shared=True)
    app.write(where.start, DATA)
    return Stage(machine, app, where)


def alike(machine: Any) -> Stage:
    """Two pages of two processes that have been the same for some scans: the next merges them."""
    stage = anonymous(machine)
    stage.child = machine.process("twin", cpu=1)
    other = stage.child.mmap(pages=1, at=stage.where.start)
    stage.child.write(other.start, DATA)
    for process in (stage.app, stage.child):
        process.madvise(stage.where, MADV_MERGEABLE)
    machine.drain_pagevecs()
    with stage.app.running():
        ksm.ksm_do_scan(machine.kernel, 2)
    return stage


def merged(machine: Any) -> Stage:
    stage = alike(machine)
    machine.ksm_scan()
    return stage


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
        marked,
        grouped,
        ballooned,
        huge,
        collapsible,
        of_hugetlb,
        alike,
        merged,
    )
}


# --- what a task does ---


def migrate(stage: Stage) -> None:
    """One pass of the kernel's own migration, which holds no mmap_sem."""
    page = stage.page
    if page is None:
        return
    if page.zone.kernel.hugetlb is not None and hugetlb_pool.PageHuge(page):
        _migrate_of_hugetlb(stage)
    elif balloon_compaction.balloon_page_movable(page):
        _migrate_of_balloon(stage)
    else:
        try_once(stage.machine, page)


def _migrate_of_balloon(stage: Stage) -> None:
    def get_new_page(page: Any, _private: Any, _result: list[Any]) -> Any:
        return page_alloc.alloc_pages_exact_node(page.zone.kernel, 1, TO_THE_OTHER, 0)

    isolated = ListHead()
    if balloon_compaction.balloon_page_isolate(stage.page):
        list_add_tail(stage.page, isolated)
        stage.page.zone.vm_stat[NR_ISOLATED_FILE] += 1
        mm_migrate.migrate_pages(isolated, get_new_page, None, None, MIGRATE_ASYNC, MR_COMPACTION)
        mm_migrate.putback_movable_pages(isolated)


def _migrate_of_hugetlb(stage: Stage) -> None:
    kernel = stage.machine.kernel

    def get_new_page(_page: Any, _private: Any, _result: list[Any]) -> Any:
        return hugetlb_pool.alloc_huge_page_node(kernel, hstate_of(kernel, HUGE), 1)

    isolated = ListHead()
    if hugetlb_pool.isolate_huge_page(stage.page, isolated):
        mm_migrate.migrate_pages(isolated, get_new_page, None, None, MIGRATE_ASYNC, MR_COMPACTION)
        mm_migrate.putback_movable_pages(isolated)


def migrate_again(stage: Stage) -> None:
    """Another one, of what is there now."""
    page = stage.app.page_at(stage.where.start)
    if page is not None:
        try_once(stage.machine, page, 0)


def move_pages(stage: Stage) -> None:
    stage.app.move_pages(stage.first, node=1)


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
    stage.app.mlock(stage.first)


def munlock(stage: Stage) -> None:
    stage.app.munlock(stage.first)


def give_back(stage: Stage) -> None:
    stage.app.madvise(stage.where, MADV_DONTNEED)


def pin(stage: Stage) -> None:
    stage.app.pin(stage.first).release()


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


def compact(stage: Stage) -> None:
    stage.machine.compact(0)


def soft_offline(stage: Stage) -> None:
    stage.app.madvise(stage.first, MADV_SOFT_OFFLINE)


def inflate(stage: Stage) -> None:
    stage.machine.balloon.inflate(1)


def deflate(stage: Stage) -> None:
    stage.machine.balloon.deflate(1)


def change_group(stage: Stage) -> None:
    stage.app.join(stage.group)


def numa_scan(stage: Stage) -> None:
    stage.app.numa_scan()


def collapse(stage: Stage) -> None:
    stage.machine.khugepaged_scan()


def split(stage: Stage) -> None:
    """As add_to_swap does, under the page lock."""
    page = stage.page
    if get_page_unless_zero(page):
        if trylock_page(page):
            if PageAnon(page):
                huge_split.split_huge_page(page)
            unlock_page(page)
        swap.put_page(page)


def merge(stage: Stage) -> None:
    """Two steps of ksmd."""
    ksm.ksm_do_scan(stage.machine.kernel, 2)


def unmerge(stage: Stage) -> None:
    stage.app.madvise(stage.where, MADV_UNMERGEABLE)


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
# Whoever else moves pages, or has moved them; those of one kind of memory only stand with it.
NEW = (compact, soft_offline)
OF_KIND: dict[str, tuple[Callable[[Stage], None], ...]] = {
    "marked": (numa_scan,),
    "grouped": (change_group,),
    "ballooned": (inflate, deflate),
    "huge": (split,),
    "collapsible": (collapse,),
    "alike": (merge, unmerge, *OF_FORKED),
    "merged": (merge, unmerge, *OF_FORKED),
}
OPERATIONS: dict[str, Callable[[Stage], None]] = {
    operation.__name__: operation
    for operation in (
        *EVERYWHERE,
        swap_out,
        *OF_FORKED,
        *OF_FILES,
        *NEW,
        *itertools.chain.from_iterable(OF_KIND.values()),
    )
}


# Those of nobody in particular: they run without a process, as kernel threads do.
OF_KERNEL = (
    "migrate",
    "migrate_again",
    "swap_out",
    "truncate",
    "fsync",
    "drop_caches",
    "compact",
    "inflate",
    "deflate",
    "collapse",
    "split",
    "merge",
)


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


def new_operations_of(kind: str) -> list[str]:
    """Those that came with the rest of the system."""
    return [operation.__name__ for operation in (*OF_KIND.get(kind, ()), *NEW)]


def program(kind: str, operations: Sequence[str]) -> Callable[[Any], None]:
    """A scenario: a page of this kind, and a task for each operation, on CPUs of their own as
    far as there are enough."""

    def scenario(machine: Any) -> None:
        if "soft_offline" in operations:
            # So that no block is free as a whole, with which v3.19 would lose all of it.
            keeper = machine.process("keeper", cpu=2)
            kept = keeper.mmap(pages=2)
            keeper.touch(kept)
            keeper.move_pages(kept[1:2], node=1)
        stage = KINDS[kind](machine)
        machine.drain_pagevecs()
        if stage.page is None:
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
