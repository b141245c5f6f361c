"""Functions of a scenario that run at the same time, each in a thread of this interpreter."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from mmigrate.errors import ScenarioError

if TYPE_CHECKING:
    from mmigrate.real.process import RealProcess

_LONGEST_DELAY: Final = 0.0002  # seconds; a system call of a few pages takes less


class RealStarted:
    """A function that runs in a task of its own, from `machine.start`.

    @cpu: where.  @owner: the process whose method it is, if it is one.
    """

    def __init__(
        self, name: str, cpu: int, function: Callable[[], Any], owner: RealProcess | None
    ) -> None:
        self.name = name
        self.cpu = cpu
        self.owner = owner
        self.finished = False
        self.failure: BaseException | None = None
        self._function = function
        self._result: Any = None

    @property
    def result(self) -> Any:
        """What the function returned, or the OSError it ended with."""
        if not self.finished:
            raise ScenarioError(f"{self.name} has not finished; call machine.run() first")
        return self._result

    def __repr__(self) -> str:
        return f"<{self.name}: {self._result if self.finished else 'not finished'}>"

    def run(self) -> None:
        try:
            self._result = self._function()
        except OSError as error:
            self._result = error
        except BaseException as error:
            self.failure = error
        self.finished = True


class Tasks:
    """Those that were started and have not run yet; and which one a thread runs."""

    def __init__(self) -> None:
        self._waiting: list[RealStarted] = []
        self._current = threading.local()

    def add(self, started: RealStarted) -> None:
        self._waiting.append(started)

    def waiting(self) -> list[RealStarted]:
        """Those that the next run will run."""
        return list(self._waiting)

    def current(self) -> RealStarted | None:
        """The task that the calling thread of this interpreter runs, if it is one."""
        found: RealStarted | None = getattr(self._current, "task", None)
        return found

    def run(self, seed: int | None, seconds: float) -> list[int]:
        """Run all that wait; the threads that did."""
        tasks, self._waiting = self._waiting, []
        if not tasks:
            return []
        generator = random.Random(seed)
        delays = [0.0 if seed is None else generator.random() * _LONGEST_DELAY for _ in tasks]
        threads = self._threads(tasks, delays, seconds)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [thread.ident or 0 for thread in threads]

    def _threads(
        self, tasks: Sequence[RealStarted], delays: Sequence[float], seconds: float
    ) -> list[threading.Thread]:
        barrier = threading.Barrier(len(tasks))

        def body(task: RealStarted, delay: float) -> None:
            self._current.task = task
            try:
                if task.owner is not None and not task.owner.exited:
                    task.owner.add_thread(task.cpu)
                barrier.wait(seconds)
            except BaseException as error:
                barrier.abort()
                task.failure = error
                return
            end = time.perf_counter() + delay
            while time.perf_counter() < end:
                pass
            task.run()

        return [
            threading.Thread(target=body, name=task.name, args=(task, delay), daemon=True)
            for task, delay in zip(tasks, delays, strict=True)
        ]
