"""Atomic fields and marked accesses  (include/linux/atomic.h, compiler.h).

For counts of objects that are not on the hot path; those of a page are in `page_ref.py`.
`READ_ONCE` and `WRITE_ONCE` are for a field that somebody reads without the lock that
guards it (`vma.vm_flags`, `vma.vm_page_prot`, `page.mapping`, `mm.tlb_flush_pending` …).
"""

from __future__ import annotations

from typing import Any

from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import READ, WRITE


def READ_ONCE(obj: Any, field: str) -> Any:
    if sched.hook is not None:
        sched.hook.announce(obj, field, READ)
    return getattr(obj, field)


def WRITE_ONCE(obj: Any, field: str, value: Any) -> None:
    if sched.hook is not None:
        sched.hook.announce(obj, field, WRITE)
    setattr(obj, field, value)


atomic_read = READ_ONCE
atomic_set = WRITE_ONCE


def atomic_inc(obj: Any, field: str) -> None:
    if sched.hook is not None:
        sched.hook.announce(obj, field, WRITE)
    setattr(obj, field, getattr(obj, field) + 1)


def atomic_dec(obj: Any, field: str) -> None:
    if sched.hook is not None:
        sched.hook.announce(obj, field, WRITE)
    setattr(obj, field, getattr(obj, field) - 1)


def atomic_dec_and_test(obj: Any, field: str) -> bool:
    """Decrement; whether the result is 0."""
    if sched.hook is not None:
        sched.hook.announce(obj, field, WRITE)
    value = getattr(obj, field) - 1
    setattr(obj, field, value)
    return bool(value == 0)


def atomic_inc_not_zero(obj: Any, field: str) -> bool:
    """Increment unless 0; whether it was done."""
    if sched.hook is not None:
        sched.hook.announce(obj, field, WRITE)
    value = getattr(obj, field)
    if value == 0:
        return False
    setattr(obj, field, value + 1)
    return True


def atomic_add(number: int, obj: Any, field: str) -> None:
    if sched.hook is not None:
        sched.hook.announce(obj, field, WRITE)
    setattr(obj, field, getattr(obj, field) + number)


def atomic_xchg(obj: Any, field: str, value: Any) -> Any:
    """Store a value; what was there."""
    if sched.hook is not None:
        sched.hook.announce(obj, field, WRITE)
    previous = getattr(obj, field)
    setattr(obj, field, value)
    return previous


def atomic_cmpxchg(obj: Any, field: str, old: Any, new: Any) -> Any:
    """Store @new if @old is there; what was there."""
    if sched.hook is not None:
        sched.hook.announce(obj, field, WRITE)
    previous = getattr(obj, field)
    if previous is old or previous == old:
        setattr(obj, field, new)
    return previous
