"""Executions that start where the tasks start are the same as those from boot."""

from collections import deque
from typing import Any

import pytest

from mmigrate import MiB, explore
from mmigrate.errors import ScenarioError
from mmigrate.explore import always, rewind
from mmigrate.explore.dpor import Optimal
from mmigrate.explore.program import Shared
from mmigrate.explore.search import rare_collections
from mmigrate.explore.target import Target
from mmigrate.history import CATALOGUE
from mmigrate.linux.kernel import sched
from tests.explore.test_kernel import pair

NODES = (MiB(2), MiB(2))


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(rewind, "COMPARED", 4)


def executions(target, limit, stage=None):
    """What each execution did, by name, and how it ended."""
    search, found = Optimal(), []
    with rare_collections():
        while len(found) < limit:
            run = search.next_execution(20_000, keep_going=True)
            if run is None:
                break
            outcome = (stage or target).execute(run)
            vmstat = getattr(outcome.machine, "vmstat", None)
            found.append((run.words(), run.kinds, outcome.ending, outcome.violations, vmstat))
            search.learn(run)
    return found


@pytest.mark.parametrize("names", [("munmap", "move"), ("fork", "mlock")])
def test_the_same_as_from_boot(names):
    target = Target.of(pair(*names), {"nodes": NODES})
    stage = rewind.Stage(target)
    assert executions(target, 40) == executions(target, 40, stage)
    assert stage.rewinds


def test_attributes_that_are_final_do_not_change():
    target = Target.of(pair("munmap", "move"), {"nodes": NODES})
    stage = rewind.Stage(target)
    executions(target, 3, stage)
    noted = stage._noted
    things = {id(thing): thing for thing in (*noted.plain.things, *noted.strict.things)}
    fixed = [
        (thing, name, getattr(thing, name))
        for thing in things.values()
        for name in rewind.fixed_attributes(type(thing))
    ]
    assert {type(thing).__name__ for thing, _, _ in fixed} >= {"Page", "Zone", "Cpu", "SpinLock"}
    executions(target, 40, stage)
    assert [(t, name) for t, name, value in fixed if getattr(t, name) is not value] == []


# One with a finding, one with hugetlb, one with shared memory, one with three tasks.
@pytest.mark.slow
@pytest.mark.parametrize("commit", ["d3cb8bf6081b", "e66f17ff7177", "887843961c4b", "eb66ae030829"])
def test_rows_of_the_catalogue(commit):
    row = next(row for row in CATALOGUE if row.commit == commit)
    for present in (False, True):
        target = Target.of(row.scenario, row.options(present))
        stage = rewind.Stage(target)
        assert executions(target, 12) == executions(target, 12, stage)
        assert stage.rewinds


class Thing:
    """Whatever a scenario may have of its own."""

    def __init__(self):
        self.items: list[Any] = [1, {"a": bytearray(b"x")}, {2}, deque([3])]
        self.number = 0


def of_ones_own(tasks):
    thing, word = Thing(), Shared(0)
    number = 0

    def change():
        nonlocal number
        word.load()
        assert (number, thing.number) == (0, 0)
        assert repr(thing.items) == "[1, {'a': bytearray(b'x')}, {2}, deque([3])]"
        assert not hasattr(thing, "more")
        number, thing.number = 1, 2
        vars(thing)["more"] = 3
        thing.items[1]["a"] += b"y"
        thing.items[1]["b"] = 1
        thing.items[2].add(4)
        thing.items[3].append(5)
        thing.items.append(6)

    def other():
        for _ in range(3):
            word.store(1)

    tasks.start(change)
    tasks.start(other)


def test_all_that_the_scenario_made_is_put_back():
    target = Target.of(of_ones_own, {})
    stage = rewind.Stage(target, always=True)
    found = executions(target, 100, stage)
    assert len(found) == 4
    assert stage.rewinds
    assert not any(violations for _, _, _, violations, _ in found)


def test_what_was_there_before_is_left_alone():
    seen = []

    def scenario(tasks):
        word = Shared(0)

        def look():
            seen.append(word.load())

        tasks.start(look)
        tasks.start(word.store, 1)
        tasks.start(word.store, 2)

    found = executions(
        Target.of(scenario, {}), 100, rewind.Stage(Target.of(scenario, {}), always=True)
    )
    assert len(found) == 6
    assert len(seen) == 7  # one is run again to be compared


def test_what_cannot_be_noted_is_run_from_boot():
    def scenario(tasks):
        word, numbers = Shared(0), iter(range(5))

        def count():
            word.store(next(numbers))
            word.store(next(numbers))

        tasks.start(count)
        tasks.start(word.load)
        tasks.start(word.load)

    target = Target.of(scenario, {})
    stage = rewind.Stage(target, always=True)
    found = executions(target, 100, stage)
    assert len(found) == 9
    assert not any(violations for _, _, _, violations, _ in found)
    assert not stage.rewinds


def test_what_remembers_earlier_runs_is_found_out():
    runs = []

    def scenario(machine):
        runs.append(1)
        words = [Shared(0, f"word {len(runs) // 3}"), Shared(0)]
        for _ in range(3):
            machine.start(words[0].store, 1)

    with pytest.raises(ScenarioError, match="did not do the same twice"):
        explore(scenario)


def never(tasks):
    return False


class Nameless:
    """A word without a name of its own."""


def test_what_has_no_name_is_called_by_its_class():
    def scenario(tasks):
        word = Nameless()
        for _ in range(3):
            tasks.start(announce, word)

    def announce(word):
        if sched.hook is not None:
            sched.hook.announce(word, "field", sched.WRITE)

    schedules = [explore(always(never)(scenario)).finding.schedule for _ in range(2)]
    assert schedules[0].digest == schedules[1].digest
