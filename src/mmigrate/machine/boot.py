"""Boot: from sizes of nodes to a running kernel  (init/main.c: start_kernel)."""

from __future__ import annotations

from collections.abc import Sequence

from mmigrate.linux.fs import hugetlbfs
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import ZERO_BYTES, Page
from mmigrate.linux.include.mmzone import SECTION_SHIFT, SECTION_SIZE
from mmigrate.linux.include.page_flags import PG_reserved, PG_uptodate
from mmigrate.linux.include.sched import Cpu
from mmigrate.linux.kernel import sched, straight
from mmigrate.linux.mm import huge_memory, hugetlb_pool, ksm, page_alloc, swap

LOCAL_DISTANCE = 10
REMOTE_DISTANCE = 20


def boot(
    nodes: Sequence[int],
    *,
    cpus: Sequence[int] | None = None,
    distances: Sequence[Sequence[int]] | None = None,
    movable: Sequence[int] | None = None,
    absent: frozenset[str] = frozenset(),
    thp: str = "madvise",
) -> Kernel:
    """A kernel with the given memory.

    @nodes: bytes of memory on each node, 0 for a node with CPUs only.
    @cpus: the node of each CPU; by default one CPU a node.
    @distances: as in /sys/devices/system/node/node*/distance; by default 10 and 20.
    @movable: bytes of each node that go to ZONE_MOVABLE.
    @thp: /sys/kernel/mm/transparent_hugepage/enabled.
    @absent: commits that it does not have (linux/include/switches.py).
    """
    straight.prepare()
    kernel = Kernel(absent)
    where = list(range(len(nodes))) if cpus is None else list(cpus)
    kernel.cpus = [Cpu(kernel, number, node) for number, node in enumerate(where)]
    if distances is None:
        distances = [
            [LOCAL_DISTANCE if here == there else REMOTE_DISTANCE for there in range(len(nodes))]
            for here in range(len(nodes))
        ]
    kernel.scheduler = sched.Scheduler(kernel)
    kernel.free_page = swap.free_page
    kernel.transparent_hugepage = huge_memory.HugepageState(thp)
    page_alloc.init_memory(kernel, list(nodes), [list(row) for row in distances], movable=movable)
    kernel.hugetlb = hugetlb_pool.hugetlb_init(kernel, hugetlbfs.hugetlb_file_setup)
    kernel.ksm = ksm.ksm_init(kernel)
    swapper = kernel.scheduler.new_task("swapper", kernel.cpus[0], None)
    sched.run_as(swapper)
    kernel.zero_page = _zero_page(kernel)
    return kernel


def _zero_page(kernel: Kernel) -> Page:
    """The page of zeroes: reserved, part of no zone's frames, and on the first node.

    Differs: the kernel has it in its own image; here it is a frame behind the last node.
    """
    end = max(node.node_start_pfn + node.node_present_pages for node in kernel.nodes)
    section = (end + SECTION_SIZE - 1) >> SECTION_SHIFT
    zone = next(node for node in kernel.nodes if node.node_zones).node_zones[0]
    page = Page(section << SECTION_SHIFT, zone)
    page.flags = PG_reserved | PG_uptodate
    page._count = 1
    page.data = ZERO_BYTES
    kernel.mem_map[section] = [page] + [None] * (SECTION_SIZE - 1)
    return page
