"""Tasks on CPUs, and the one hook through which every shared access is announced.

Interface:
* `current()` is the running task. It and `hook` are the only ambient state of the model.
* A primitive calls `hook.announce(obj, field, kind)` before it touches a shared word, and
  `hook.wait(obj, field, kind, until)` before an access that is possible only while
  `until()` holds (taking a lock, ending a sleep). With no hook it goes straight on.
* The word is (obj, field): a page's flag is (page, PG_locked), an entry of a page table
  (table, index), a field (object, "name").
* `block()` gives the CPU away when there is no hook: the straight run.

Memory model: sequential consistency between announced accesses.
Differs: statistics are not announced. They commute, and no decision that could lose a
page is taken on them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

import greenlet

from mmigrate.errors import ScenarioError
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Mm
from mmigrate.linux.include.sched import Cpu, Task

READ: Final = 0
WRITE: Final = 1


class Hook(Protocol):
    """All that the model knows of who explores it."""

    def announce(self, obj: Any, field: Any, kind: int) -> None: ...

    def wait(self, obj: Any, field: Any, kind: int, until: Callable[[], bool]) -> None: ...


class Takeover(Protocol):
    """Who runs the started tasks of a machine that is explored."""

    def go(self) -> None:
        """Run them until all have ended, or nothing more is to be done."""

    def ask(self) -> None:
        """Who may go on is not what it was: it is to be decided at the next access."""


hook: Hook | None = None
task: Task = None  # type: ignore[assignment]  # the running task; none before the first machine


def current() -> Task:
    """The running task."""
    return task


def resume(chosen: Task) -> None:
    """Go on with @chosen, on its own stack.  Returns when this stack is chosen again."""
    global task
    task = chosen  # `run_as`, without its call  (explore_against_frontrun)
    chosen.cpu.running = chosen
    chosen.greenlet.switch()


def run_as(other: Task) -> Task:
    """Make @other the running task on this stack; the one that was running before."""
    global task
    previous = task
    task = other
    other.cpu.running = other
    return previous


def install(new_hook: Hook | None) -> Hook | None:
    """Install the hook (None: straight); the one that was there."""
    global hook
    previous = hook
    hook = new_hook
    return previous


def may_run(candidate: Task) -> bool:
    """Whether @candidate could take a step now: its condition holds and its CPU is not
    held by another task that cannot be preempted."""
    if candidate.finished:
        return False
    running = candidate.cpu.running
    if running is not None and running is not candidate and running.preempt_count:
        return False
    return candidate.until is None or candidate.until()


def block(obj: Any, field: Any, kind: int, until: Callable[[], bool], why: str) -> None:
    """The running task cannot go on before @until() holds.

    With a hook the hook decides. Straight, the other tasks run, in order of creation, until
    it holds; when none of them can, nobody ever will.

    Raises ScenarioError: nobody can end this sleep.
    """
    me = task
    me.waits_for = why
    if hook is not None:
        hook.wait(obj, field, kind, until)
    elif not until():
        me.kernel.scheduler.sleep(me, until)
    me.waits_for = ""


def spin_until(obj: Any, field: Any, until: Callable[[], bool], why: str) -> None:
    """A busy loop that another task will end; it is a wait without sleeping."""
    block(obj, field, READ, until, why)


def might_sleep() -> None:
    """Complain if the running task holds a spinlock: it must not sleep."""
    if task.preempt_count:
        held = ", ".join(lock.cls for lock in task.held)
        warn(f"sleeping while atomic: {task.name} holds {held or 'its CPU'}")


def warn(text: str) -> None:
    """A WARN of the modelled kernel: a finding of `check()`, each text once."""
    warnings = task.kernel.warnings
    if text not in warnings:
        warnings.append(text)


def fresh_number(kernel: Kernel, counter: str) -> int:
    """A number for the name of a new object.  A task that is explored has numbers of its own:
    who comes first must not change how things are called."""
    me = task
    if hook is not None and me.index >= 0:
        me.named += 1
        return 1000 * me.number + me.named
    number: int = getattr(kernel, counter) + 1
    setattr(kernel, counter, number)
    return number


def cond_resched() -> None:
    """A point where a long loop lets others run; every announced access is one here."""


def preempt_disable() -> None:
    task.preempt_count += 1


def preempt_enable() -> None:
    task.preempt_count -= 1


def local_irq_disable() -> None:
    """Keep interrupts, so also the TLB flushes of other CPUs, away from this CPU."""
    if hook is not None:
        hook.announce(task.cpu, "tlb", WRITE)
    task.preempt_count += 1
    task.cpu.irqs_off += 1


def local_irq_enable() -> None:
    if hook is not None:
        hook.announce(task.cpu, "tlb", WRITE)
    task.cpu.irqs_off -= 1
    task.preempt_count -= 1


class Abandoned(greenlet.GreenletExit):
    """Unwinds a task whose run is given up."""


Choose = Callable[[list[Task], Task | None], Task]


class _Stacks(threading.local):
    """The stacks of a thread whose tasks have ended, for new tasks, also those of other machines:
    to make one and to end it costs as much as a small execution (explore_against_frontrun)."""

    def __init__(self) -> None:
        self.idle: list[greenlet.greenlet] = []


_stacks = _Stacks()


def _serve() -> None:
    """The bottom of a stack: runs the task that is resumed on it, and then others.  While it
    waits for one it has no name for the stack itself or its scheduler, which would keep them
    for ever."""
    while True:
        scheduler = task.kernel.scheduler
        scheduler.body(task)
        while True:
            _stacks.idle.append(greenlet.getcurrent())
            hub = scheduler.hub
            del scheduler
            try:
                hub.switch()
                break
            except Abandoned:  # the task that this stack was given has not begun
                scheduler = task.kernel.scheduler


class Scheduler:
    """The tasks of one machine that have a stack of their own, and how they take turns.

    The stack that made the scheduler is the hub: it runs straight system calls, picks a
    task when none is running, and is told when one ended. Invariant: `alive` holds the
    started, unfinished tasks in order of creation.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.alive: list[Task] = []
        self.failure: BaseException | None = None
        self.failed: Task | None = None  # whose failure it is
        self.steps = 0
        self.max_steps = 1_000_000
        self.log: list[str] | None = None
        self.abandoned = False
        self.takeover: Takeover | None = None  # who runs the tasks instead, if anybody
        self._choose: Choose | None = None
        self.hub = greenlet.getcurrent()

    def new_task(self, name: str, cpu: Cpu, mm: Mm | None) -> Task:
        kernel = self.kernel
        kernel.task_numbers += 1
        created = Task(kernel, name, kernel.task_numbers, cpu, mm)
        kernel.tasks.append(created)
        self.ask()
        return created

    def ask(self) -> None:
        """Whoever decides is to look at the tasks again: there is a new one, one is on another CPU,
        or one has failed."""
        if self.takeover is not None:
            self.takeover.ask()

    def start(self, new: Task, function: Callable[[], Any]) -> None:
        """Give @new a stack; it first runs when it is chosen."""
        new.function = function
        self.new_stack(new)
        self.alive.append(new)

    def new_stack(self, new: Task) -> None:
        """A stack for a task that has not run yet."""
        idle = _stacks.idle
        if idle:
            new.greenlet = idle.pop()
            new.greenlet.parent = self.hub
        else:
            new.greenlet = greenlet.greenlet(_serve, self.hub)

    def body(self, me: Task) -> None:
        """What a task does, on its own stack, from its start to its end."""
        assert me.function is not None
        try:
            me.result = me.function()
        except Abandoned:
            pass
        except OSError as error:  # a system call that failed: for the caller to see
            me.result = error
        except Exception as error:
            if self.failure is None:
                self.failure, self.failed = error, me
        finally:
            self._end(me)

    def _end(self, me: Task) -> None:
        me.finished = True
        me.function = None
        if me.cpu.running is me:
            me.cpu.running = None
        self.alive.remove(me)
        self.kernel.tasks.remove(me)

    # --- straight: a task goes on until it sleeps or ends ---

    def run_straight(self) -> None:
        """Run the started tasks, in order of creation, until all have ended."""
        self._run_until(lambda: not self.alive)

    def sleep(self, me: Task, until: Callable[[], bool]) -> None:
        """@me cannot go on before @until() holds: let the others run."""
        if self.abandoned:
            return
        me.until = until
        if me.greenlet is None:  # a system call on the hub's stack
            self._run_until(until, me)
        else:
            self.hub.switch()
        me.until = None

    def step(self, kind: Callable[[Task], bool]) -> bool:
        """From the hub: let the first task of a kind that can go on do so; whether there is one."""
        chosen = next((t for t in self.alive if kind(t) and may_run(t)), None)
        if chosen is not None:
            caller = task
            resume(chosen)
            run_as(caller)
            self._raise_failure()
        return chosen is not None

    def _run_until(self, done: Callable[[], bool], sleeper: Task | None = None) -> None:
        caller = task
        while not done():
            chosen = next((t for t in self.alive if may_run(t)), None)
            if chosen is None:
                self._fail_stuck(sleeper)
            else:
                resume(chosen)
            self._raise_failure()
        run_as(caller)

    def _fail_stuck(self, sleeper: Task | None = None) -> None:
        waiting = [t for t in (*self.alive, sleeper) if t is not None]
        text = "; ".join(f"{t.name} waits for {t.waits_for or 'its CPU'}" for t in waiting)
        self.failure = ScenarioError(f"deadlock: {text}")

    def _raise_failure(self) -> None:
        if self.failure is not None:
            error, self.failure = self.failure, None
            self.abandon()
            raise error

    def abandon(self) -> None:
        """Give up all started tasks; they unwind through their `finally`, with the
        primitives inert."""
        self.abandoned = True
        caller = task
        for victim in list(self.alive):
            run_as(victim)
            victim.greenlet.throw(Abandoned)
            if not victim.finished:  # it had not begun, and its stack is for others now
                self._end(victim)
        run_as(caller)
        self.abandoned = False

    # --- chosen: somebody decides at every announced access ---

    def run(self, choose: Choose) -> None:
        """Run the started tasks until all have ended; choose(enabled, running) says at
        every announced access who goes on.

        Raises ScenarioError: a deadlock, or more than `max_steps` accesses. Whatever else
        a task raises comes out here, once all others have been unwound.
        """
        self._choose = choose
        caller, previous = task, install(self)
        try:
            while self.alive:
                chosen = self._pick(None)
                if chosen is not None:
                    resume(chosen)
                self._raise_failure()
        finally:
            install(previous)
            run_as(caller)

    def announce(self, obj: Any, field: Any, kind: int) -> None:
        """The running task is about to touch a word: choose who goes first."""
        if self.abandoned:
            return
        me = task
        if me.greenlet is None:
            return
        if self.log is not None:
            self.log.append(f"{me.name} {'RW'[kind]} {obj!r} {field}")
        self._hand_over(me)

    def wait(self, obj: Any, field: Any, kind: int, until: Callable[[], bool]) -> None:
        if self.abandoned:
            return
        me = task
        me.until = until
        self._hand_over(me)
        me.until = None
        if self.log is not None:
            self.log.append(f"{me.name} {'RW'[kind]} {obj!r} {field}")

    def _hand_over(self, me: Task) -> None:
        self.steps += 1
        if self.steps > self.max_steps:
            self.failure = ScenarioError(f"no end after {self.max_steps} shared accesses")
            self.hub.switch()
        chosen = self._pick(me)
        if chosen is None:
            self.hub.switch()  # which finds the failure and abandons us
        elif chosen is not me:
            resume(chosen)

    def _pick(self, me: Task | None) -> Task | None:
        enabled = [t for t in self.alive if may_run(t)]
        if not enabled:
            self._fail_stuck()
            return None
        assert self._choose is not None
        return self._choose(enabled, me)
