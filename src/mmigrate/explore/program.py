"""Small concurrent programs without a kernel around them.

def lost_update(tasks):
    counter = Shared(0)

    def increment():
        counter.store(counter.load() + 1)

    tasks.start(increment)
    tasks.start(increment)
    tasks.run()
    assert counter.value == 2

print(explore(lost_update))

A function whose parameter is called `tasks` is given a `Tasks`; locks are those of the model,
`SpinLock` and `RwSemaphore`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mmigrate.errors import Violation
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.sched import Cpu, Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.rwsem import (
    RwSemaphore,
    down_read,
    down_write,
    mutex_lock,
    up_read,
    up_write,
)
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock, spin_trylock, spin_unlock

__all__ = [
    "RwSemaphore",
    "Shared",
    "SpinLock",
    "Tasks",
    "down_read",
    "down_write",
    "mutex_lock",
    "spin_lock",
    "spin_trylock",
    "spin_unlock",
    "up_read",
    "up_write",
]


class Shared:
    """A word that several tasks use.  `value` is a look at it that is no step."""

    __slots__ = ("name", "value")

    def __init__(self, value: Any = None, name: str = "word") -> None:
        self.value = value
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def load(self) -> Any:
        if sched.hook is not None:
            sched.hook.announce(self, "value", READ)
        return self.value

    def store(self, value: Any) -> None:
        if sched.hook is not None:
            sched.hook.announce(self, "value", WRITE)
        self.value = value

    def update(self, change: Callable[[Any], Any]) -> Any:
        """An atomic read and write; what was there."""
        if sched.hook is not None:
            sched.hook.announce(self, "value", WRITE)
        before = self.value
        self.value = change(before)
        return before

    def wait(self, condition: Callable[[Any], bool]) -> Any:
        """Sleep until condition(value) holds; the value."""
        if sched.hook is not None or not condition(self.value):
            sched.block(self, "value", READ, lambda: condition(self.value), self.name)
        return self.value


class Tasks:
    """Tasks that share memory, each on a CPU of its own unless told otherwise."""

    def __init__(self) -> None:
        self.kernel = Kernel(frozenset())
        self.kernel.scheduler = sched.Scheduler(self.kernel)
        main = Cpu(self.kernel, 0, 0)
        self.kernel.cpus = [main]
        sched.run_as(self.kernel.scheduler.new_task("main", main, None))
        self._names: set[str] = set()

    def __del__(self) -> None:
        """Take apart what refers to each other: it is gone at once, and an exploration that makes
        thousands of these has nothing to collect (explore_against_frontrun)."""
        kernel = self.kernel
        for cpu in kernel.cpus:
            cpu.running = None
        kernel.cpus.clear()
        kernel.tasks.clear()
        del kernel.scheduler.kernel

    def start(
        self, function: Callable[..., Any], *arguments: Any, name: str = "", cpu: int | None = None
    ) -> Task:
        """Run a function in a task of its own, from `run()` on."""
        kernel = self.kernel
        cpus, scheduler = kernel.cpus, kernel.scheduler
        if cpu is None:
            cpu = len(cpus)
        while len(cpus) <= cpu:
            cpus.append(Cpu(kernel, len(cpus), 0))
        name = unique = name or getattr(function, "__name__", "task")
        count = 1
        while unique in self._names:
            count += 1
            unique = f"{name}.{count}"
        self._names.add(unique)
        task: Task = scheduler.new_task(unique, cpus[cpu], None)
        scheduler.start(task, partial(function, *arguments) if arguments else function)
        return task

    def run(self) -> None:
        """Run the started tasks until all have ended."""
        scheduler = self.kernel.scheduler
        if scheduler.takeover is not None:
            scheduler.takeover.go()
        else:
            scheduler.run_straight()

    def check(self) -> list[Violation]:
        """What the locks complained about."""
        return [Violation("warnings", "kernel log", text) for text in self.kernel.warnings]
