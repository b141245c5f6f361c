"""Tasks, their credentials, and CPUs  (include/linux/sched.h)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mmigrate.linux.include.kernel import Kernel
    from mmigrate.linux.include.mempolicy import Mempolicy
    from mmigrate.linux.include.mm_types import Mm, Page


@dataclass(frozen=True)
class Cred:
    """Who a task is, as far as migration asks.  Capabilities by their kernel names."""

    uid: int = 0
    euid: int = 0
    suid: int = 0
    capabilities: frozenset[str] = frozenset({"CAP_SYS_NICE", "CAP_IPC_LOCK", "CAP_SYS_ADMIN"})


ROOT: Final = Cred()


class Cpu:
    """A processor: what it runs, its TLB, and its per-CPU data."""

    __slots__ = (
        "active_mm",
        "huge_tlb",
        "irqs_off",
        "kernel",
        "node",
        "number",
        "pagevecs",
        "running",
        "tlb",
    )

    number: Final[int]
    tlb: Final[dict[int, int]]
    huge_tlb: Final[dict[int, int]]
    pagevecs: Final[defaultdict[str, list[Page]]]

    def __init__(self, kernel: Kernel, number: int, node: int) -> None:
        self.kernel = kernel
        self.number = number
        self.node = node
        self.running: Task | None = None
        self.active_mm: Mm | None = None
        self.irqs_off = 0
        self.tlb = {}  # virtual page number of active_mm to pte
        self.huge_tlb = {}  # the same by 2 MiB, to pmd
        # per-CPU page vectors by name: "lru_add", "lru_rotate", "lru_deactivate", "activate"
        self.pagevecs = defaultdict(list)

    def __repr__(self) -> str:
        return f"cpu {self.number}"


class Task:
    """A thread of execution  (struct task_struct)."""

    __slots__ = (
        "access",
        "cpu",
        "cpuset",
        "cred",
        "finished",
        "flags",
        "function",
        "greenlet",
        "held",
        "il_next",
        "index",
        "kernel",
        "memcg_oom",
        "mempolicy",
        "mems_allowed",
        "mm",
        "name",
        "named",
        "nr_dirtied",
        "numa",
        "number",
        "parent",
        "pid",
        "preempt_count",
        "rcu_nesting",
        "result",
        "stack",
        "until",
        "waits_for",
    )

    name: Final[str]
    number: Final[int]
    pid: Final[int]
    stack: Final[list[str]]

    def __init__(self, kernel: Kernel, name: str, number: int, cpu: Cpu, mm: Mm | None) -> None:
        self.kernel = kernel
        self.name = name
        self.number = number
        self.pid = number
        self.cpu = cpu
        self.mm = mm
        self.cred = ROOT
        # the task's own
        self.flags = 0
        self.preempt_count = 0
        self.rcu_nesting = 0
        self.held: list[Any] = []  # locks, in the order in which they were taken
        self.nr_dirtied = 0
        self.stack = []
        self.memcg_oom: Any = None  # the group at its limit that let its page fault fail
        self.parent: Task | None = None  # who forked it
        self.numa: Any = None  # its hinting faults: linux/kernel/fair.py
        # task_lock
        self.mempolicy: Mempolicy | None = None
        self.il_next = 0
        self.mems_allowed = kernel.node_states_memory
        self.cpuset: Any = None
        # the scheduler's
        self.greenlet: Any = None
        self.function: Callable[[], Any] | None = None
        self.until: Callable[[], bool] | None = None
        self.waits_for: str = ""
        self.finished = False
        self.result: Any = None
        # the explorer's: (object, field, kind) it is about to touch, and its place in the search
        self.access: tuple[Any, Any, int] = (None, None, 0)
        self.index = -1
        self.named = 0  # how many objects have a number of its own

    def __repr__(self) -> str:
        return self.name


def capable(task: Task, capability: str) -> bool:
    """Whether @task has a capability, such as "CAP_SYS_NICE"."""
    return capability in task.cred.capabilities
