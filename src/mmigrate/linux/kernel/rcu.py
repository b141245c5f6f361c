"""Read-copy-update, and the page-cache tree as its readers see it  (rcupdate.h, radix-tree.h).

A reader is not preempted, as in a kernel without CONFIG_PREEMPT. What `call_rcu` is given
runs as early as it may: when the last of the readers that were there has left, at once if
there are none; so an object that is used too late is found poisoned in every run in which
that can happen.
Differs: freed objects are not recycled. A reader meets a dead one, not a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.lib.radix_tree import RadixTree


def rcu_read_lock() -> None:
    task = sched.task
    if sched.hook is not None:
        sched.hook.announce(task.kernel, "rcu", READ)  # readers do not see each other
    task.rcu_nesting += 1
    task.preempt_count += 1


def rcu_read_unlock() -> None:
    task = sched.task
    if sched.hook is not None:
        sched.hook.announce(task.kernel, "rcu", READ)  # readers do not see each other
    task.preempt_count -= 1
    task.rcu_nesting -= 1
    if task.kernel.rcu_callbacks and not task.rcu_nesting:
        _reader_left(task)


def call_rcu(kernel: Kernel, callback: Callable[[], None]) -> None:
    """Run @callback, which takes no locks, when all who read now have left."""
    if sched.hook is not None:
        sched.hook.announce(kernel, "rcu", WRITE)
    readers = [task for task in kernel.tasks if task.rcu_nesting]
    if readers:
        kernel.rcu_callbacks.append((readers, callback))
    else:
        callback()


def synchronize_rcu(kernel: Kernel) -> None:
    """Sleep until all who read now have left.  Not from within a section."""
    if sched.task.preempt_count:
        sched.might_sleep()
    passed: list[bool] = []
    call_rcu(kernel, lambda: passed.append(True))
    if not passed:
        sched.block(kernel, "rcu", READ, lambda: bool(passed), "the end of a grace period")


def _reader_left(task: Task) -> None:
    waiting, task.kernel.rcu_callbacks = task.kernel.rcu_callbacks, []
    for readers, callback in waiting:
        if task in readers:
            readers.remove(task)
        if not readers:
            callback()
        else:
            task.kernel.rcu_callbacks.append((readers, callback))


def radix_tree_lookup(tree: RadixTree, index: int) -> Any:
    """What is in the slot; None if nothing."""
    if sched.hook is not None:
        sched.hook.announce(tree, index, READ)
    return tree.slots.get(index)


def radix_tree_store(tree: RadixTree, index: int, item: Any) -> None:
    """Insert into an empty slot, or replace what is there; tags stay."""
    if sched.hook is not None:
        sched.hook.announce(tree, index, WRITE)
    tree.slots[index] = item


def radix_tree_left(tree: RadixTree, index: int) -> None:
    """Nobody is about to fill the slot any more: who waits for that need not any longer."""
    if sched.hook is not None:
        sched.hook.announce(tree, index, WRITE)


def radix_tree_delete(tree: RadixTree, index: int) -> Any:
    """Empty the slot and clear its tags; what was in it."""
    if sched.hook is not None:
        sched.hook.announce(tree, index, WRITE)
    return tree.delete(index)
