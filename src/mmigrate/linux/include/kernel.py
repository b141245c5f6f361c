"""The kernel's global variables, gathered in one object: two machines can live side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmigrate.linux.include.mmzone import SECTION_SHIFT, SECTION_SIZE
from mmigrate.linux.include.vmstat import NR_VM_EVENT_ITEMS

if TYPE_CHECKING:
    from mmigrate.api import Reason
    from mmigrate.linux.include.mm_types import AnonVma, Inode, Mm, Page
    from mmigrate.linux.include.mmzone import PglistData
    from mmigrate.linux.include.sched import Cpu, Task


class Kernel:
    """One booted kernel."""

    __slots__ = (
        "absent",
        "anon_vma_numbers",
        "anon_vmas",
        "cpus",
        "cpusets",
        "devices",
        "direct_writepage",
        "events",
        "fault_around_bytes",
        "free_page",
        "frozen",
        "hugetlb",
        "inodes",
        "jiffies",
        "kill_process",
        "ksm",
        "kswapd_started",
        "kswapd_woken",
        "lock_order",
        "mem_hotplug",
        "mem_map",
        "memcg",
        "memory_chain",
        "memory_isolate_chain",
        "mms",
        "node_distance",
        "node_states_memory",
        "nodes",
        "num_poisoned_pages",
        "numa_balancing",
        "policy_zone",
        "rcu_callbacks",
        "reasons",
        "scheduler",
        "swap",
        "table_numbers",
        "task_numbers",
        "tasks",
        "transparent_hugepage",
        "vm_events",
        "warnings",
        "zero_page",
    )

    def __init__(self, absent: frozenset[str]) -> None:
        self.absent = absent  # commits that this kernel does not have (switches.py)
        # fixed at boot
        self.free_page: Callable[[Page], None] = _not_booted  # linux/mm/swap.py
        # end the process of a task, if that is possible now; the user-level face says how
        self.kill_process: Callable[[Task], bool] = nobody_dies
        self.nodes: list[PglistData] = []
        self.node_states_memory = 0  # mask of the nodes with memory
        self.node_distance: list[list[int]] = []
        self.cpus: list[Cpu] = []
        self.policy_zone = 0
        self.fault_around_bytes = 65536  # a power of two; PAGE_SIZE for none, as in debugfs
        self.zero_page: Page = None  # type: ignore[assignment]  # set at boot
        # 512 frames a section; None where a frame has never been used
        self.mem_map: dict[int, list[Page | None]] = {}
        # everything that lives, in order of creation
        self.tasks: list[Task] = []
        self.mms: list[Mm] = []
        self.inodes: list[Inode] = []
        self.anon_vmas: dict[int, AnonVma] = {}  # by number
        self.cpusets: Any = None  # linux/kernel/cpuset.py
        self.devices: dict[str, Any] = {}
        self.memcg: Any = None  # linux/mm/memcontrol.py; None: no group was ever made
        self.swap: Any = None  # linux/mm/swapfile.py
        self.transparent_hugepage: Any = None  # linux/mm/huge_memory.py
        self.ksm: Any = None  # linux/include/ksm.py
        self.hugetlb: Any = None  # linux/include/hugetlb.py
        self.mem_hotplug: Any = None  # linux/mm/memory_hotplug.py
        # who is asked when memory comes or goes: (MEM_*, first frame, how many) -> 0 or -errno
        self.memory_chain: list[Callable[[int, int, int], int]] = []
        # who can give pages of a range back: (first frame, how many) -> how many of them
        self.memory_isolate_chain: list[Callable[[int, int], int]] = []
        self.num_poisoned_pages = 0  # known to be bad
        self.numa_balancing: Any = None  # linux/kernel/fair.py; None: off
        self.kswapd_started = False  # whether the allocator wakes kswapd
        self.kswapd_woken: list[Task] = []  # those that do not sleep
        # time in milliseconds, which passes only where somebody says so
        self.jiffies = 1
        # counters that give stable names
        self.task_numbers = 0
        self.anon_vma_numbers = 0
        self.table_numbers = 0
        # statistics and messages
        self.vm_events = [0] * NR_VM_EVENT_ITEMS
        self.warnings: list[str] = []
        # frames of regular files that reclaim wrote, other than that of kswapd; for observers
        self.direct_writepage: list[int] = []
        # frames whose references are frozen at 0, while tasks are interleaved (page_ref.py)
        self.frozen: set[int] = set()
        # why a page did not move, as the code that decided it said, by pfn
        self.reasons: dict[int, Reason] = {}
        # trace events (name, fields), only where somebody listens
        self.events: list[tuple[str, dict[str, Any]]] | None = None
        # the scheduler of started tasks (linux/kernel/sched.py), and what lockdep learnt
        self.scheduler: Any = None
        # (readers that have not left yet, what to do then), oldest first
        self.rcu_callbacks: list[tuple[list[Task], Callable[[], None]]] = []
        self.lock_order: dict[tuple[str, str], str] = {}

    def __repr__(self) -> str:
        return "kernel"

    def has(self, commit: str) -> bool:
        """Whether a commit of `switches.py` is in this kernel."""
        return commit not in self.absent

    def page_of(self, pfn: int) -> Page:
        """The page of a frame that has been in use (pfn_to_page); a free block's inner
        frames have none."""
        page = self.mem_map[pfn >> SECTION_SHIFT][pfn & (SECTION_SIZE - 1)]
        assert page is not None, f"pfn {pfn} has never been allocated"
        return page

    def trace(self, name: str, **fields: Any) -> None:
        """A tracepoint."""
        if self.events is not None:
            self.events.append((name, fields))


def nobody_dies(task: Task) -> bool:
    return False


def _not_booted(page: Page) -> None:
    raise AssertionError(f"{page!r} is freed before boot")
