"""One run of a scenario in which somebody else decides at every announced access.

Interface: a subclass says in `pick` who goes on; `go()` runs the started tasks to their end
and leaves an `ending`. The decision is taken on the running task's own stack, and stacks are
switched only if another task is chosen.

A *step* is one access and everything up to the next one. A task that has not taken its
first step has nevertheless run up to it, or its first step is to start, so that what each would
touch next is always known (`task.access`). What lies between accesses is a task's own business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from mmigrate.errors import KernelBug, MmigrateError, Violation
from mmigrate.linux.include.sched import Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import WRITE

# What a step does to its CPU, as far as other tasks of that CPU are concerned.
INSIDE: Final = -1  # it holds the CPU before and after: the others do not run anyway
PASSES: Final = 0  # it needs the CPU to be free, and leaves it so
ACQUIRES: Final = 1
RELEASES: Final = 2
TRIED: Final = 3  # it would have taken the CPU, had the lock been free

TaskKey = tuple[int, int]  # the index of the creator (-1: the scenario) and a running number


class Ending(Enum):
    """How an execution ended."""

    COMPLETE = "complete"
    DEADLOCK = "deadlock"
    FAILED = "failed"
    REDUNDANT = "redundant"  # only tasks that need not go first were left
    TOO_LONG = "too long"


class Over(BaseException):
    """Leaves the scenario from inside `machine.run()`: nothing can follow."""


class Indices:
    """Small numbers for tasks, the same in all executions: a task is known by who created it
    and as how manieth, which does not change when independent steps change places."""

    def __init__(self) -> None:
        self.of: dict[TaskKey, int] = {}
        self.keys: list[TaskKey] = []

    def index(self, key: TaskKey) -> int:
        found = self.of.get(key)
        if found is None:
            found = self.of[key] = len(self.keys)
            self.keys.append(key)
        return found


class Execution:
    """The hook of one run.  Invariant: `log` has the word of each step taken or being taken."""

    __slots__ = (
        "_children",
        "_names",
        "_numbers",
        "_starting",
        "barriers",
        "created_at",
        "deadlock",
        "ending",
        "failures",
        "indices",
        "keep_going",
        "kernel",
        "kinds",
        "left",
        "log",
        "max_steps",
        "more",
        "over",
        "scheduler",
        "tasks",
    )

    def __init__(self, indices: Indices, max_steps: int, *, keep_going: bool = False) -> None:
        self.indices = indices
        self.max_steps = max_steps
        self.keep_going = keep_going  # the other tasks go on when one has failed
        # the steps, in order
        self.log: list[tuple[Any, Any]] = []
        self.kinds: list[int] = []
        self.left = 0  # steps the running task may take before `pick` is asked again
        self.more = 0  # the same, of steps that are noted by a subclass
        # the tasks, by index, in order of creation
        self.tasks: dict[int, Task] = {}
        self.created_at: dict[int, int] = {}  # the step that created a task, -1: before all
        self.ending = Ending.COMPLETE
        self.failures: list[tuple[str, BaseException]] = []
        self.barriers: list[int] = []  # how many steps came before each machine.run()
        self.over = False
        self.deadlock: Violation | None = None
        self._names: dict[int, str] | None = None
        self._children: dict[int, int] = {}
        self._numbers = 0
        self._starting = False  # a task is brought to its first access

    def attach(self, scheduler: sched.Scheduler) -> None:
        """Decide for this scheduler, also where the scenario itself calls `machine.run()`."""
        self.scheduler = scheduler
        self.kernel = scheduler.kernel
        scheduler.takeover = self

    def detach(self) -> None:
        """Nothing is left to decide: the run goes with whoever has it."""
        self.scheduler.takeover = None

    def pick(self, me: Task | None) -> Task | None:
        """Who takes the next step; None ends the run.  @me: who runs, None if it ended."""
        raise AssertionError("a subclass decides")

    # --- the hook ---

    def announce(self, obj: Any, field: Any, kind: int) -> None:
        """The running task is about to touch a word: choose who goes first."""
        if self.left:
            self.left -= 1
            self.log.append((obj, field))
            self.kinds.append(kind)
            return
        self._stop(obj, field, kind, None)

    def wait(self, obj: Any, field: Any, kind: int, until: Callable[[], bool]) -> None:
        """The same for an access that is possible only while @until() holds."""
        if self.left:
            self.left -= 1
            self.log.append((obj, field))
            self.kinds.append(kind)
            return
        self._stop(obj, field, kind, until)

    def _stop(self, obj: Any, field: Any, kind: int, until: Callable[[], bool] | None) -> None:
        me = sched.task
        if self.scheduler.abandoned or me.greenlet is None:
            return
        me.access = (obj, field, kind)
        me.until = until
        if self._starting:
            self.scheduler.hub.switch()
        else:
            chosen = self.pick(me)
            if chosen is None:
                self.over = True
                self.scheduler.hub.switch()
            elif chosen is not me:
                sched.resume(chosen)
        me.until = None

    def ask(self) -> None:
        """The running task may not take more steps than those of the prefix by itself."""
        self.more = 0

    # --- the run ---

    def go(self) -> None:
        """Run the started tasks until all have ended, or nothing more is to be done.

        Raises Over: they did not all end well.
        """
        scheduler = self.scheduler
        self.barriers.append(len(self.log))
        caller, previous = sched.task, sched.install(self)
        try:
            self._loop(scheduler)
        finally:
            sched.install(previous)
            self.more = 0
            if scheduler.alive:
                scheduler.abandon()
            sched.run_as(caller)
        if self.over or self.failures:
            raise Over

    def _loop(self, scheduler: sched.Scheduler) -> None:
        self._start_new(-1)
        while scheduler.alive and not self.over:
            chosen = self.pick(None)
            if chosen is None:
                self.over = True
                break
            sched.resume(chosen)
            self._note_failure()
        self.finish()

    def finish(self) -> None:
        """The last step is complete."""

    def _note_failure(self) -> None:
        """If the task that ran last has failed."""
        scheduler = self.scheduler
        error, scheduler.failure = scheduler.failure, None
        if error is None:
            return
        scheduler.abandoned = False
        if isinstance(error, MmigrateError):  # no finding, but wrong use
            raise error
        while isinstance(error.__context__, KernelBug):
            error = error.__context__
        assert scheduler.failed is not None
        self.failures.append((scheduler.failed.name, error))
        self.over = self.over or not self.keep_going
        if self.ending is Ending.COMPLETE:
            self.ending = Ending.FAILED

    def note_new_tasks(self, me: Task | None) -> None:
        """Bring tasks that the last step created to their first access."""
        if self.kernel.task_numbers != self._numbers:
            self._start_new(-1 if me is None else me.index)

    def _start_new(self, creator: int) -> None:
        self._numbers = self.kernel.task_numbers
        number, before = self._children.get(creator, 0), len(self.log) - 1
        for task in self.scheduler.alive.copy():
            if task.index < 0:
                index = task.index = self.indices.index((creator, number))
                number += 1
                self.tasks[index] = task
                self.created_at[index] = before
                if creator >= 0 or self.kernel.nodes:
                    # Its first access is to start: it may take the CPU before any other.
                    task.access = (task, "start", WRITE)
                else:
                    self._bring_to_first_access(task)
        self._children[creator] = number

    def _bring_to_first_access(self, task: Task) -> None:
        ran, running = sched.task, task.cpu.running
        self._starting = True
        sched.resume(task)
        self._starting = False
        task.cpu.running = running
        sched.task = ran
        self._note_failure()

    # --- what a subclass needs ---

    @property
    def names(self) -> dict[int, str]:
        """Of the tasks, in order of creation; with a number behind it if two have the same."""
        if self._names is None or len(self._names) != len(self.tasks):
            self._names = {}
            used: Counter[str] = Counter()
            for index, task in self.tasks.items():
                used[task.name] += 1
                more = f" #{used[task.name]}" if used[task.name] > 1 else ""
                self._names[index] = task.name + more
        return self._names

    def may_run(self, task: Task) -> bool:
        """Whether it could take its next step now."""
        running = task.cpu.running
        if running is not None and running is not task and running.preempt_count:
            return False
        return task.until is None or task.until()

    def stuck(self) -> None:
        """Nobody can go on."""
        self.ending = Ending.DEADLOCK
        self.deadlock = deadlock(self.scheduler.alive)

    def too_long(self) -> None:
        self.ending = Ending.TOO_LONG


def deadlock(alive: list[Task]) -> Violation:
    """Who waits for what; a lock whose holder waits too, or something that nobody will do."""
    texts, held = [], False
    for task in alive:
        obj = task.access[0]
        holder = getattr(obj, "owner", None) or getattr(obj, "writer", None)
        held = held or holder in alive or _keeps_cpu(task)
        by = f", which {holder.name} holds" if holder is not None else ""
        texts.append(f"{task.name} waits for {task.waits_for or f'{task.cpu!r}'}{by}")
    kind = "deadlock" if held else "lost wakeup"
    return Violation(kind, ", ".join(task.name for task in alive), "; ".join(texts))


def _keeps_cpu(task: Task) -> bool:
    running = task.cpu.running
    return running is not None and running is not task and bool(running.preempt_count)
