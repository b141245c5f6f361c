"""BUG and WARN of the modelled kernel: both are findings."""

from __future__ import annotations

from typing import Any, NoReturn

from mmigrate.errors import KernelBug
from mmigrate.linux.kernel import sched


def BUG(message: str, obj: Any = None) -> NoReturn:
    task = sched.task
    if sched.hook is not None and task.greenlet is not None:
        task.kernel.scheduler.abandoned = True  # nobody else runs while this task unwinds
        task.kernel.scheduler.ask()
    raise KernelBug(message if obj is None else f"{obj!r}: {message}")


def BUG_ON(condition: bool, message: str, obj: Any = None) -> None:
    if condition:
        BUG(message, obj)


# A BUG that only kernels with CONFIG_DEBUG_VM have; the model always has it.
VM_BUG_ON = BUG_ON


def VM_BUG_ON_PAGE(condition: bool, page: Any, message: str) -> None:
    if condition:
        BUG(message, page)


def WARN_ON_ONCE(condition: bool, message: str) -> bool:
    """Complain once; the condition."""
    if condition:
        sched.warn(message)
    return condition


WARN_ON = WARN_ON_ONCE
