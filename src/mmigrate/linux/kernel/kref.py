"""Counted references on objects that are not pages, by their field `refcount`
(include/linux/kref.h)."""

from __future__ import annotations

from typing import Protocol

from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import WRITE


class Counted(Protocol):
    """Whatever has a reference count."""

    refcount: int


def kref_get(obj: Counted) -> None:
    if sched.hook is not None:
        sched.hook.announce(obj, "refcount", WRITE)
    obj.refcount += 1


def kref_get_unless_zero(obj: Counted) -> bool:
    """Take a reference unless the object is dying; whether it was taken."""
    if sched.hook is not None:
        sched.hook.announce(obj, "refcount", WRITE)
    if obj.refcount == 0:
        return False
    obj.refcount += 1
    return True


def kref_put(obj: Counted) -> bool:
    """Drop a reference; whether it was the last."""
    if sched.hook is not None:
        sched.hook.announce(obj, "refcount", WRITE)
    obj.refcount -= 1
    return obj.refcount == 0
