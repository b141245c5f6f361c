"""NUMA balancing as the scheduler has it: who uses which page from where
(kernel/sched/fair.c).

Hinting faults tell. Each leaves its CPU and the low bits of its pid in the page; a page moves
only after two faults in a row from the same node. From their numbers come a task's preferred
node and how often its memory is scanned. The scan itself is in `linux/mm/task_numa.py`.

Differs: tasks form no groups by what they share, and are never moved to the memory they
prefer.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.pgtable import PAGE_SHIFT
from mmigrate.linux.include.sched import Task
from mmigrate.linux.include.vmstat import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    NUMA_HINT_FAULTS,
    NUMA_HINT_FAULTS_LOCAL,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.page_flags import page_cpupid_xchg_last

TNF_MIGRATED: Final = 0x01
TNF_NO_GROUP: Final = 0x02
TNF_SHARED: Final = 0x04
TNF_FAULT_LOCAL: Final = 0x08

LAST__PID_SHIFT: Final = 8
LAST__PID_MASK: Final = (1 << LAST__PID_SHIFT) - 1
MAX_SCAN_WINDOW: Final = 2560  # MB a second
NUMA_PERIOD_SLOTS: Final = 10
NUMA_PERIOD_THRESHOLD: Final = 7


class NumaBalancing:
    """What /proc/sys/kernel/numa_balancing* sets; times in milliseconds, sizes in MB."""

    __slots__ = ("scan_delay", "scan_period_max", "scan_period_min", "scan_size")

    def __init__(self) -> None:
        self.scan_delay = 1000
        self.scan_period_min = 1000
        self.scan_period_max = 60000
        self.scan_size = 256


class NumaFaults:
    """The hinting faults of one task.

    @memory, @cpu: decayed counts by (node, 1 if private else 0) of where the memory was, and
    where the task; the buffers count since the last scan. @locality: remote and local ones.
    """

    __slots__ = (
        "cpu",
        "cpu_buffer",
        "locality",
        "memory",
        "memory_buffer",
        "pages_migrated",
        "preferred_nid",
        "scan_period",
        "scan_period_max",
        "scan_seq",
        "total",
    )

    def __init__(self) -> None:
        self.memory: dict[tuple[int, int], int] = {}
        self.cpu: dict[tuple[int, int], int] = {}
        self.memory_buffer: dict[tuple[int, int], int] = {}
        self.cpu_buffer: dict[tuple[int, int], int] = {}
        self.locality = [0, 0]
        self.pages_migrated = 0
        self.preferred_nid = -1
        self.scan_period = 0
        self.scan_period_max = 0
        self.scan_seq = 0
        self.total = 0


def settings_of(kernel: Kernel) -> NumaBalancing:
    """The settings, also while balancing is off."""
    return kernel.numa_balancing or NumaBalancing()


def faults_of(task: Task) -> NumaFaults:
    """What is known of a task's hinting faults."""
    if task.numa is None:
        task.numa = NumaFaults()
    faults: NumaFaults = task.numa
    return faults


# --- who used a page last: the CPU above the low bits of the pid ---


def cpu_pid_to_cpupid(cpu: int, pid: int) -> int:
    return cpu << LAST__PID_SHIFT | pid & LAST__PID_MASK


def cpupid_pid_unset(cpupid: int) -> bool:
    """Whether the pid is all ones: nobody yet, or a task with such a pid."""
    return cpupid & LAST__PID_MASK == LAST__PID_MASK


def cpupid_to_nid(kernel: Kernel, cpupid: int) -> int:
    return kernel.cpus[cpupid >> LAST__PID_SHIFT].node


def cpupid_match_pid(task: Task, cpupid: int) -> bool:
    return task.pid & LAST__PID_MASK == cpupid & LAST__PID_MASK


def should_numa_migrate_memory(task: Task, page: Page, src_nid: int, dst_cpu: int) -> bool:
    """Whether the page should follow a fault on @dst_cpu.  The page remembers this fault either
    way  (kernel/sched/fair.c: should_numa_migrate_memory)."""
    this_cpupid = cpu_pid_to_cpupid(dst_cpu, sched.task.pid)
    last_cpupid = page_cpupid_xchg_last(page, this_cpupid)
    kernel = task.kernel
    # One fault says little. Two in a row from one node say, with the square of the probability
    # of one, that most accesses come from there.
    return cpupid_pid_unset(last_cpupid) or (
        cpupid_to_nid(kernel, last_cpupid) == kernel.cpus[dst_cpu].node
    )


# --- counting faults ---


def count_hinting_fault(page: Page) -> int:
    """Count a hinting fault of the running task in the statistics; the TNF_* flags it begins
    with  (mm/memory.c: numa_migrate_prep)."""
    events = page.zone.kernel.vm_events
    events[NUMA_HINT_FAULTS] += 1
    if page.zone.nid != sched.task.cpu.node:
        return 0
    events[NUMA_HINT_FAULTS_LOCAL] += 1
    return TNF_FAULT_LOCAL


def task_numa_fault(last_cpupid: int, mem_node: int, pages: int, flags: int) -> None:
    """Record @pages hinting faults of the running task on memory of @mem_node
    (kernel/sched/fair.c: task_numa_fault)."""
    task = sched.task
    if task.kernel.numa_balancing is None or task.mm is None:
        return
    faults = faults_of(task)
    private = int(last_cpupid == -1 or cpupid_match_pid(task, last_cpupid))
    task_numa_placement(task)
    if flags & TNF_MIGRATED:
        faults.pages_migrated += pages
    _add(faults.memory_buffer, (mem_node, private), pages)
    _add(faults.cpu_buffer, (task.cpu.node, private), pages)
    faults.locality[1 if flags & TNF_FAULT_LOCAL else 0] += pages


def _add(counts: dict[tuple[int, int], int], key: tuple[int, int], number: int) -> None:
    counts[key] = counts.get(key, 0) + number


def task_numa_placement(task: Task) -> None:
    """Once after each scan of all areas: what has been counted since halves what was known
    before, and the node with most faults is preferred
    (kernel/sched/fair.c: task_numa_placement).

    Differs: faults by CPU are not weighted by how busy the task was.
    """
    mm = task.mm
    assert mm is not None
    faults = faults_of(task)
    seq = READ_ONCE(mm, "numa_scan_seq")
    if faults.scan_seq == seq:
        return
    faults.scan_seq = seq
    faults.scan_period_max = task_scan_max(task)
    types = [0, 0]
    best, best_nid = 0, -1
    for nid in range(len(task.kernel.nodes)):
        here = 0
        for private in (0, 1):
            key = nid, private
            types[private] += faults.memory_buffer.get(key, 0)
            for known, buffer in (
                (faults.memory, faults.memory_buffer),
                (faults.cpu, faults.cpu_buffer),
            ):
                old = known.get(key, 0)
                known[key] = old + buffer.pop(key, 0) - old // 2
                if known is faults.memory:
                    faults.total += known[key] - old
            here += faults.memory[key]
        if here > best:
            best, best_nid = here, nid
    update_task_scan_period(task, types[0], types[1])
    if best:
        faults.preferred_nid = best_nid


# --- how often memory is scanned, in milliseconds ---


def task_nr_scan_windows(task: Task) -> int:
    """How many scans it takes for all of a task's memory
    (kernel/sched/fair.c: task_nr_scan_windows)."""
    mm = task.mm
    assert mm is not None
    window = settings_of(task.kernel).scan_size << (20 - PAGE_SHIFT)
    rss = mm.rss_stat[MM_ANONPAGES] + mm.rss_stat[MM_FILEPAGES]
    return max(1, -(-rss // window))


def task_scan_min(task: Task) -> int:
    settings = settings_of(task.kernel)
    windows = max(1, MAX_SCAN_WINDOW // settings.scan_size)
    return max(1000 // windows, settings.scan_period_min // task_nr_scan_windows(task))


def task_scan_max(task: Task) -> int:
    longest = settings_of(task.kernel).scan_period_max // task_nr_scan_windows(task)
    return max(task_scan_min(task), longest)


def update_task_scan_period(task: Task, shared: int, private: int) -> None:
    """Scan more often while faults are remote, less often while they are local
    (kernel/sched/fair.c: update_task_scan_period)."""
    faults = faults_of(task)
    remote, local = faults.locality
    mm = task.mm
    assert mm is not None
    if local + shared == 0:  # idle, or nothing of interest
        faults.scan_period = min(faults.scan_period_max, faults.scan_period << 1)
        mm.numa_next_scan = task.kernel.jiffies + faults.scan_period
        return
    slot = -(-faults.scan_period // NUMA_PERIOD_SLOTS)
    ratio = local * NUMA_PERIOD_SLOTS // (local + remote)
    if ratio >= NUMA_PERIOD_THRESHOLD:
        change = max(1, ratio - NUMA_PERIOD_THRESHOLD) * slot
    else:
        change = (NUMA_PERIOD_THRESHOLD - ratio) * slot
        ratio = -(-private * NUMA_PERIOD_SLOTS // (private + shared + 1))
        change = -(change * ratio // NUMA_PERIOD_SLOTS)
    shortest, longest = task_scan_min(task), task_scan_max(task)
    faults.scan_period = min(max(faults.scan_period + change, shortest), longest)
    faults.locality = [0, 0]
