"""Read-copy-update, and the page-cache tree as its readers see it  (rcupdate.h, radix-tree.h).

Differs: freed objects are never recycled, so a reader meets a dead one, not a new one.
"""

from __future__ import annotations

from typing import Any

from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.lib.radix_tree import RadixTree


def rcu_read_lock() -> None:
    sched.task.rcu_nesting += 1


def rcu_read_unlock() -> None:
    sched.task.rcu_nesting -= 1


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


def radix_tree_delete(tree: RadixTree, index: int) -> Any:
    """Empty the slot and clear its tags; what was in it."""
    if sched.hook is not None:
        sched.hook.announce(tree, index, WRITE)
    return tree.delete(index)
