"""The state of the words that tasks wait for, so that a wait can be asked about the past.

A wait for a word has a condition on it. Whether it held at an earlier step is found by putting
the word back for a moment to what it was then.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from mmigrate.explore.program import Shared
from mmigrate.linux.fs.buffer import BufferHead
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.sched import Cpu
from mmigrate.linux.kernel.rwsem import RwSemaphore
from mmigrate.linux.kernel.spinlock import SpinLock

UNKNOWN: Final = object()


def _set_owner(lock: SpinLock, state: Any) -> None:
    lock.owner = state


def _set_value(shared: Shared, state: Any) -> None:
    shared.value = state


def _set_count(sem: RwSemaphore, state: Any) -> None:
    sem.readers, sem.writer = state


def _set_page(page: Page, state: Any) -> None:
    page.flags, page._count = state


def _set_irqs(cpu: Cpu, state: Any) -> None:
    cpu.irqs_off = state


def _set_buffer(buffer: BufferHead, state: Any) -> None:
    buffer.b_state = state


GET: Final[dict[type, Callable[[Any], Any]]] = {
    SpinLock: attrgetter("owner"),
    Shared: attrgetter("value"),
    RwSemaphore: attrgetter("readers", "writer"),
    Page: attrgetter("flags", "_count"),
    Cpu: attrgetter("irqs_off"),
    BufferHead: attrgetter("b_state"),
}
# The same by the kind of access: only a semaphore is needed where it is read, too.
GETS: Final = ({RwSemaphore: GET[RwSemaphore]}, GET)
SET: Final[dict[type, Callable[[Any, Any], None]]] = {
    SpinLock: _set_owner,
    Shared: _set_value,
    RwSemaphore: _set_count,
    Page: _set_page,
    Cpu: _set_irqs,
    BufferHead: _set_buffer,
}


def state_of(obj: Any) -> Any:
    """The part of an object that conditions look at; UNKNOWN if its kind is not listed."""
    get = GET.get(type(obj))
    return UNKNOWN if get is None else get(obj)


def held_then(until: Callable[[], bool], obj: Any, field: Any, state: Any) -> bool | None:
    """Whether a condition on a word held when its object was in @state; None if that is not
    known.  Who waits for a page that is frozen, with a count of 0, also goes on when the page is
    not where it was any more."""
    if state is UNKNOWN or (field == "_count" and not state[1]):
        return None
    now = GET[type(obj)](obj)
    put = SET[type(obj)]
    put(obj, state)
    try:
        return until()
    finally:
        put(obj, now)
