"""The same classes and findings, however many workers there are."""

from concurrent.futures import Future

import pytest

from mmigrate import explore
from mmigrate.errors import ScenarioError
from mmigrate.explore import parallel
from mmigrate.explore.program import Shared, SpinLock, spin_lock, spin_trylock


def three_tasks(tasks):
    counter = Shared(0, "counter")

    def increment(times):
        for _ in range(times):
            counter.store(counter.load() + 1)

    for times in (2, 2, 1):
        tasks.start(increment, times)
    tasks.run()
    assert counter.value != 3


def on_one_cpu(tasks):
    words = [Shared(0, f"word {n}") for n in range(2)]
    lock = SpinLock("lock")

    def careful(number):
        with spin_lock(lock):
            words[number].store(words[1 - number].load() + 1)
        words[number].load()

    def hasty():
        if spin_trylock(lock):
            words[0].store(7)
            lock.__exit__()
        words[1].store(words[0].load())

    tasks.start(careful, 0, cpu=1)
    tasks.start(careful, 1, cpu=1)
    tasks.start(hasty, cpu=2)


class Inline:
    """Does the work where it is submitted."""

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def small_units(monkeypatch):
    """Units of a few executions, so that the work is really shared out."""
    monkeypatch.setattr(parallel, "ALONE", 0.003)
    monkeypatch.setattr(parallel, "HUNGRY", 0.004)
    monkeypatch.setattr(parallel, "FED", 0.006)


@pytest.mark.parametrize("scenario", [three_tasks, on_one_cpu])
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_the_same_whatever_the_number_of_workers(scenario, jobs, small_units):
    alone = explore(scenario, keep_going=True, minimise=False)
    shared = explore(scenario, keep_going=True, minimise=False, jobs=jobs, executor=Inline())
    assert shared.exhausted
    assert (shared.classes, shared.redundant) == (alone.classes, alone.redundant)
    assert {f.key for f in shared.findings} == {f.key for f in alone.findings}


def test_processes():
    result = explore(three_tasks, keep_going=True, minimise=False, jobs=2)
    assert (result.classes, result.redundant, result.exhausted) == (858, 0, True)
    assert [finding.violation.oracle for finding in result.findings] == ["assertion"]


def test_no_such_executor():
    with pytest.raises(ScenarioError, match="names no executor"):
        explore(three_tasks, executor="ray://here", keep_going=True)
    with pytest.raises(ScenarioError, match="only the strategy dpor"):
        explore(three_tasks, strategy="pct", jobs=2)
    with pytest.raises(ScenarioError, match="at least one"):
        explore(three_tasks, jobs=0)


def test_interrupted_and_resumed(tmp_path, small_units):
    file = tmp_path / "search.json"

    class Impatient(Inline):
        left = 12

        def submit(self, function, *arguments):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super().submit(function, *arguments)

    first = explore(
        three_tasks, keep_going=True, minimise=False, jobs=2, executor=Impatient(), save=file
    )
    assert first.interrupted
    assert not first.exhausted
    rest = explore(three_tasks, keep_going=True, minimise=False, resume=file, executor=Inline())
    assert (rest.classes, rest.redundant, rest.exhausted) == (858, 0, True)
    assert {f.key for f in rest.findings} == {f.key for f in first.findings}
