"""Nothing was complained about, and nothing is held."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.drivers import block
from mmigrate.linux.include.page_flags import PG_locked


def warnings(view: View) -> Iterator[Violation]:
    """WARNs, bad pages, lock orders that could deadlock, sleeping while atomic, reads of
    lost stores."""
    for text in view.kernel.warnings:
        yield Violation("warnings", "kernel log", text)


def direct_writepage(view: View) -> Iterator[Violation]:
    """Only kswapd writes pages of files: the stack of direct reclaim is deep already."""
    for pfn in view.kernel.direct_writepage:
        yield Violation(
            "direct writepage", f"pfn {pfn}", "of a regular file, written by direct reclaim"
        )


def locks(view: View) -> Iterator[Violation]:
    """No task holds a lock or its CPU, and no page is locked."""
    for task in view.kernel.tasks:
        for lock in task.held:
            yield Violation("locks", repr(lock), f"held by {task.name}, expected by nobody")
        if task.preempt_count:
            yield Violation("locks", task.name, f"preempt_count {task.preempt_count}, expected 0")
        if task.rcu_nesting:
            yield Violation("locks", task.name, f"rcu nesting {task.rcu_nesting}, expected 0")
    locked = [page for page in view.flagged if page.flags & PG_locked]
    if locked and not block.busy(view.kernel):
        for page in locked:
            yield Violation("locks", repr(page), "locked, and nobody is left to unlock it")
