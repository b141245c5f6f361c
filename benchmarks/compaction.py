"""The rate of compaction, against straight move_pages in the same run, and what it wins."""

from __future__ import annotations

import random
from time import perf_counter

from mmigrate import GiB, Machine
from mmigrate.cli.bench import Figure
from mmigrate.linux.include.mm import MADV_DONTNEED
from mmigrate.linux.mm import page_alloc

SIZE = GiB(4)
PAGE = 4096


def run() -> list[Figure]:
    machine = Machine(nodes=(SIZE, SIZE))
    app = machine.process("app")
    heap = app.mmap(SIZE // PAGE * 9 // 10 * PAGE)
    app.touch(heap)
    chosen = random.Random(1)
    for address in heap.pages():  # half of the node stays in use, at random places
        if chosen.random() > 0.5 / 0.9:
            app.madvise(address, MADV_DONTNEED, PAGE)
    machine.drain_pagevecs()
    page_alloc.drain_all_pages(machine.kernel)

    began = perf_counter()
    machine.compact(node=0)
    seconds = perf_counter() - began
    moved = machine.vmstat["pgmigrate_success"]
    machine.drain_pagevecs()
    page_alloc.drain_all_pages(machine.kernel)
    [zone] = machine.kernel.nodes[0].node_zones
    free_blocks = sum(
        area.nr_free << order >> 9 for order, area in enumerate(zone.free_area[9:], 9)
    )
    free_blocks += sum(end - start for start, end in zone.untouched) >> 9
    possible = zone.vm_stat[0] >> 9

    other = app.mmap(131_072 * PAGE)
    app.touch(other)
    began = perf_counter()
    result = app.move_pages(other, node=1)
    straight = len(result.status) / (perf_counter() - began)
    assert set(result.status) == {1}
    assert machine.check() == []
    conditions = f"{moved:,} pages moved in {seconds:.1f} s; 4 GiB, half in use at random"
    return [
        Figure(
            "compaction_against_move_pages",
            round(moved / seconds / straight, 2),
            "times the rate",
            f"0.5 or more; straight move_pages in the same run: {straight:,.0f} pages/s",
            conditions,
        ),
        Figure(
            "compaction_blocks_won",
            round(free_blocks / possible, 3),
            "of all free memory",
            f"1 is everything: {possible} blocks of 2 MiB",
            conditions,
        ),
    ]
