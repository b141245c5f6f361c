"""Read-write semaphores and mutexes  (include/linux/rwsem.h).  All may sleep.

`with down_read(mm.mmap_sem):` or `down_read(sem)` … `up_read(sem)`.
Differs: a waiting writer does not hold back new readers.
"""

from __future__ import annotations

from typing import Final

from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.spinlock import note_lock_order


class RwSemaphore:
    """@cls: the class lockdep knows it by; @name: this lock's stable name."""

    __slots__ = ("cls", "inside", "name", "readers", "writer")

    cls: Final[str]
    name: Final[str]

    def __init__(self, cls: str, name: str = "") -> None:
        self.cls = cls
        self.name = name or cls
        self.readers = 0
        self.writer: Task | None = None
        self.inside = ""  # the class it was last taken inside of, known to lockdep

    def __repr__(self) -> str:
        return self.name

    def no_writer(self) -> bool:
        return self.writer is None

    def is_free(self) -> bool:
        return self.writer is None and not self.readers

    def __enter__(self) -> RwSemaphore:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            up_write(self)
        else:
            up_read(self)


def down_read(sem: RwSemaphore) -> RwSemaphore:
    task = sched.task
    if task.preempt_count:
        sched.might_sleep()
    if sched.hook is not None or sem.writer is not None:
        sched.block(sem, "count", READ, sem.no_writer, f"{sem.name} for read")
    held = task.held
    if held and held[-1].cls is not sem.inside:
        note_lock_order(task, sem.cls)
        sem.inside = held[-1].cls
    held.append(sem)
    sem.readers += 1
    return sem


def down_read_trylock(sem: RwSemaphore) -> bool:
    if sched.hook is not None:
        sched.hook.announce(sem, "count", READ)
    if sem.writer is not None:
        return False
    sched.task.held.append(sem)
    sem.readers += 1
    return True


def up_read(sem: RwSemaphore) -> None:
    if sched.hook is not None:
        sched.hook.announce(sem, "count", READ)
    task = sched.task
    held = task.held
    if held and held[-1] is sem:
        held.pop()
    elif sem in held:
        held.remove(sem)
    elif task.kernel.scheduler.abandoned:
        return
    if not sem.readers:
        BUG("up_read of a semaphore that nobody reads", sem)
    sem.readers -= 1


def down_write(sem: RwSemaphore) -> RwSemaphore:
    task = sched.task
    if task.preempt_count:
        sched.might_sleep()
    if sched.hook is not None or sem.writer is not None or sem.readers:
        if sem.writer is task:
            BUG("recursive down_write", sem)
        sched.block(sem, "count", WRITE, sem.is_free, f"{sem.name} for write")
    held = task.held
    if held and held[-1].cls is not sem.inside:
        note_lock_order(task, sem.cls)
        sem.inside = held[-1].cls
    held.append(sem)
    sem.writer = task
    return sem


def down_write_nested(sem: RwSemaphore) -> RwSemaphore:
    """Take a second semaphore of the same class; the caller knows why that is safe."""
    task = sched.task
    if task.preempt_count:
        sched.might_sleep()
    if sched.hook is not None or sem.writer is not None or sem.readers:
        sched.block(sem, "count", WRITE, sem.is_free, f"{sem.name} for write")
    task.held.append(sem)
    sem.writer = task
    return sem


def down_write_trylock(sem: RwSemaphore) -> bool:
    if sched.hook is not None:
        sched.hook.announce(sem, "count", WRITE)
    if sem.writer is not None or sem.readers:
        return False
    task = sched.task
    task.held.append(sem)
    sem.writer = task
    return True


def up_write(sem: RwSemaphore) -> None:
    if sched.hook is not None:
        sched.hook.announce(sem, "count", WRITE)
    task = sched.task
    if sem.writer is not task:
        if task.kernel.scheduler.abandoned:
            return
        BUG(f"up_write by {task.name}, held by {sem.writer}", sem)
    sem.writer = None
    held = task.held
    if held and held[-1] is sem:
        held.pop()
    else:
        held.remove(sem)


def rwsem_is_locked(sem: RwSemaphore) -> bool:
    if sched.hook is not None:
        sched.hook.announce(sem, "count", WRITE)  # it sees readers too, who commute as READ
    return not sem.is_free()


# A mutex is the write side alone.
mutex_lock = down_write
mutex_unlock = up_write
mutex_trylock = down_write_trylock
