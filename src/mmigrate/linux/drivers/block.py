"""Disks: requests are queued and completed later, by a task of the disk's own  (block/).

While a request is in flight its page is under writeback, or locked for reading, and others
see that. Straight runs complete a request when somebody waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import PF_KTHREAD
from mmigrate.linux.include.vmstat import PGPGIN, PGPGOUT
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import WRITE

EndIo = Callable[[bool], None]
SECTORS = 4  # kB a page, the unit of pgpgin and pgpgout


class Disk:
    """@hold: complete nothing until it is cleared.  @fail: how many of the next requests
    end with an error."""

    __slots__ = ("fail", "hold", "name", "queue", "working")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[EndIo] = deque()
        self.working = False
        self.hold = False
        self.fail = 0

    def __repr__(self) -> str:
        return self.name


def disk(kernel: Kernel, name: str) -> Disk:
    """The disk of that name, made on its first use."""
    found = kernel.devices.get(name)
    if found is None:
        found = kernel.devices[name] = Disk(name)
    assert isinstance(found, Disk)
    return found


def submit_bio(kernel: Kernel, device: str, write: bool, end_io: EndIo) -> None:
    """Queue a request for one page; end_io(error) runs when it is done."""
    target = disk(kernel, device)
    kernel.vm_events[PGPGOUT if write else PGPGIN] += SECTORS
    if sched.hook is not None:
        sched.hook.announce(target, "queue", WRITE)
    target.queue.append(end_io)
    if not target.working and not target.hold:
        _start(kernel, target)


def _start(kernel: Kernel, target: Disk) -> None:
    target.working = True
    worker = kernel.scheduler.new_task(f"disk-{target.name}", kernel.cpus[0], None)
    worker.flags |= PF_KTHREAD
    kernel.scheduler.start(worker, lambda: _work(target))


def _work(target: Disk) -> None:
    try:
        while True:
            # The look that finds nothing is a step too: what is submitted behind it starts
            # another worker.
            if sched.hook is not None:
                sched.hook.announce(target, "queue", WRITE)
            if not target.queue or target.hold:
                return
            end_io = target.queue.popleft()
            error = target.fail > 0
            if error:
                target.fail -= 1
            end_io(error)
    finally:
        target.working = False


def release(kernel: Kernel, device: str) -> None:
    """Complete again what was held."""
    target = disk(kernel, device)
    target.hold = False
    if target.queue and not target.working:
        _start(kernel, target)


def busy(kernel: Kernel) -> bool:
    """Whether a request is in flight."""
    return any(isinstance(found, Disk) and found.queue for found in kernel.devices.values())


def drain(kernel: Kernel) -> None:
    """Wait until every disk that is not held is idle."""
    for found in list(kernel.devices.values()):
        if isinstance(found, Disk) and not found.hold:
            if found.queue and not found.working:  # it was held
                _start(kernel, found)
            sched.block(found, "queue", WRITE, _is_idle(found), f"{found.name} to be idle")


def _is_idle(target: Disk) -> Callable[[], bool]:
    return lambda: not target.queue and not target.working
