"""Spinlocks and lockdep  (include/linux/spinlock.h, kernel/locking/lockdep.c).

`with spin_lock(zone.lock):` where the scope is lexical; `spin_lock(ptl)` …
`spin_unlock(ptl)` where a held lock is handed to another function. Holding one disables
preemption. The `_irq` and `_irqsave` forms are the same function: nothing of the model runs
in an interrupt but TLB flushes, which take no locks.
"""

from __future__ import annotations

from typing import Any, Final

from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.sched import WRITE


class SpinLock:
    """@cls: the class lockdep knows it by; @name: this lock's stable name."""

    __slots__ = ("cls", "inside", "name", "owner")

    cls: Final[str]
    name: Final[str]

    def __init__(self, cls: str, name: str = "") -> None:
        self.cls = cls
        self.name = name or cls
        self.owner: Task | None = None
        self.inside = ""  # the class it was last taken inside of, known to lockdep

    def __repr__(self) -> str:
        return self.name

    def is_free(self) -> bool:
        return self.owner is None

    def __enter__(self) -> SpinLock:
        return self

    def __exit__(self, *_: object) -> None:
        spin_unlock(self)


def spin_lock(lock: SpinLock) -> SpinLock:
    task = sched.task
    if sched.hook is not None or lock.owner is not None:
        if lock.owner is task:
            BUG("recursive spin_lock", lock)
        sched.block(lock, "owner", WRITE, lock.is_free, lock.name)
    held = task.held
    if held and held[-1].cls is not lock.inside:
        note_lock_order(task, lock.cls)
        lock.inside = held[-1].cls
    held.append(lock)
    task.preempt_count += 1
    lock.owner = task
    return lock


spin_lock_irq = spin_lock


def spin_lock_nested(lock: SpinLock) -> SpinLock:
    """Take a second lock of the same class; the caller knows why that is safe."""
    task = sched.task
    if sched.hook is not None or lock.owner is not None:
        sched.block(lock, "owner", WRITE, lock.is_free, lock.name)
    task.held.append(lock)
    task.preempt_count += 1
    lock.owner = task
    return lock


def spin_trylock(lock: SpinLock) -> bool:
    if sched.hook is not None:
        sched.hook.announce(lock, "owner", WRITE)
    if lock.owner is not None:
        return False
    task = sched.task
    task.held.append(lock)
    task.preempt_count += 1
    lock.owner = task
    return True


def spin_unlock(lock: SpinLock) -> None:
    if sched.hook is not None:
        sched.hook.announce(lock, "owner", WRITE)
    task = sched.task
    held = task.held
    if held and held[-1] is lock:
        held.pop()
    elif lock.owner is task:
        held.remove(lock)
    elif task.kernel.scheduler.abandoned:
        return
    else:
        BUG(f"spin_unlock by {task.name}, held by {lock.owner}", lock)
    lock.owner = None
    task.preempt_count -= 1


spin_unlock_irq = spin_unlock


def note_lock_order(task: Task, cls: str) -> None:
    """Remember that @cls is taken inside the lock taken last; complain about a cycle.  What
    was taken before that one is known to come before it already."""
    outer = task.held[-1]
    if (outer.cls, cls) not in task.kernel.lock_order:
        _add_edge(task, task.kernel.lock_order, outer, cls)


def _add_edge(task: Task, order: dict[tuple[str, str], str], outer: Any, cls: str) -> None:
    order[(outer.cls, cls)] = task.name
    reachable, todo = {cls}, [cls]
    while todo:
        here = todo.pop()
        for first, second in order:
            if first == here and second not in reachable:
                reachable.add(second)
                todo.append(second)
    if outer.cls in reachable:
        sched.warn(f"lock order inversion: {cls} taken inside {outer.cls} by {task.name}")
