"""Work on other CPUs  (kernel/workqueue.c)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mmigrate.linux.include.sched import Cpu, Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import READ


def run_on_cpus(cpus: list[Cpu], work: Callable[[Cpu], None], name: str) -> None:
    """Run work(cpu) on each of @cpus in a task of its own, and wait for all of them.

    Straight, where no other task can be in the middle of something on those CPUs, the
    work is done at once.
    """
    sched.might_sleep()
    if sched.hook is None:
        for cpu in cpus:
            work(cpu)
        return
    scheduler = sched.task.kernel.scheduler
    pending = []
    for cpu in cpus:
        worker = scheduler.new_task(f"kworker/{cpu.number}:{name}", cpu, None)
        scheduler.start(worker, partial(work, cpu))
        pending.append(worker)
    for worker in pending:
        sched.block(worker, "finished", READ, partial(_finished, worker), worker.name)


def _finished(worker: Task) -> bool:
    return worker.finished
