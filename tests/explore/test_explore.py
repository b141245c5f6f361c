"""What users see: results, findings, schedules and their replay."""

import functools
import gc
import json
from threading import Thread

import greenlet
import pytest

from mmigrate import Machine, ScenarioError, explore
from mmigrate.errors import ReplayMismatch
from mmigrate.explore import Shared, always, read_schedule, replay, sometimes
from mmigrate.explore.program import SpinLock, spin_lock


def lost_update(tasks):
    counter = Shared(0, "counter")

    def increment():
        counter.store(counter.load() + 1)

    tasks.start(increment)
    tasks.start(increment)
    tasks.run()
    assert counter.value == 2


def with_a_lock(tasks):
    counter, lock = Shared(0, "counter"), SpinLock("lock")

    def increment():
        with spin_lock(lock):
            counter.store(counter.load() + 1)

    tasks.start(increment)
    tasks.start(increment)
    tasks.run()
    assert counter.value == 2


def move_against_unmap(machine):
    app = machine.process("app")
    buffer = app.mmap(pages=1)
    app.write(buffer.start, b"hello")
    machine.start(app.move_pages, buffer, node=1)
    machine.start(app.munmap, buffer)


def test_a_clean_program():
    result = explore(with_a_lock)
    assert str(result) == "2 executions, exhausted, clean"
    assert result.clean


def test_a_lost_update_is_found():
    result = explore(lost_update)
    assert result.violation.oracle == "assertion"
    assert not result.clean


def test_all_of_its_interleavings():
    result = explore(lost_update, keep_going=True)
    assert (result.executions, result.redundant, result.exhausted) == (4, 0, True)


def test_a_finding_is_replayed_from_its_file(tmp_path):
    found = explore(lost_update).finding
    found.schedule.write(tmp_path / "lost.schedule")
    schedule = read_schedule(tmp_path / "lost.schedule")
    assert schedule == found.schedule
    repeated = replay(schedule, lost_update)
    assert repeated.violation == found.violation
    last = repeated.steps[-1]
    assert (last.task, last.function, last.primitive) == ("increment", "increment", "store")
    assert (last.word, last.old, last.new) == ("counter value", "1", "1")


def test_a_replay_of_something_else_is_refused():
    schedule = explore(lost_update).finding.schedule
    with pytest.raises(ReplayMismatch, match="does not fit with_a_lock any more"):
        replay(schedule, with_a_lock)


def test_a_limit_is_no_pass():
    result = explore(move_against_unmap, max_executions=3)
    assert not result.exhausted
    assert not result.clean
    assert "not exhausted" in str(result)


def test_conditions():
    @sometimes
    def never(tasks):
        return False

    @always
    def holds(tasks):
        return True

    result = explore(never(holds(with_a_lock)))
    assert str(result).endswith("shows nothing: never met never")
    assert not result.clean


def test_the_parameter_says_what_is_wanted():
    with pytest.raises(ScenarioError, match="must be called machine, or tasks"):
        explore(lambda thing: None)


def test_what_a_decorated_function_wants():
    @functools.wraps(lost_update)
    def wrapped(*arguments):
        lost_update(*arguments)

    assert explore(wrapped, minimise=False).found


def test_nothing_is_left_of_a_search():
    def things():
        gc.collect()
        found = gc.get_objects()
        return len(found), sum(isinstance(thing, greenlet.greenlet) for thing in found)

    explore(with_a_lock)
    objects, stacks = things()
    gc.disable()
    try:
        for _ in range(10):
            explore(with_a_lock)
        assert len(gc.get_objects()) < objects + 100
    finally:
        gc.enable()
    assert things()[1] == stacks


def test_in_threads():
    found = []

    def search():
        found.append(str(explore(lost_update, minimise=False)))
        found.append(str(explore(move_against_unmap)))

    for _ in range(2):
        thread = Thread(target=search)
        thread.start()
        thread.join()
    search()
    assert found[:2] == found[2:4] == found[4:]


def test_two_machines_side_by_side():
    other = Machine()
    app = other.process("app")
    explore(move_against_unmap, max_executions=20)
    app.touch(app.mmap(pages=3))
    assert other.check() == []


def three_tasks(tasks):
    counter = Shared(0, "counter")

    def increment():
        for _ in range(2):
            counter.store(counter.load() + 1)

    for _ in range(3):
        tasks.start(increment)


def test_left_off_and_resumed(tmp_path):
    file = tmp_path / "search.json"
    seen = []

    def interrupt(tasks):
        seen.append(1)
        if len(seen) == 100:
            raise KeyboardInterrupt
        return True

    first = explore(three_tasks, always={"interrupt": interrupt}, save=file)
    assert (first.interrupted, first.exhausted, first.executions) == (True, False, 99)
    assert "interrupted, incomplete" in str(first)
    rest = explore(three_tasks, resume=file)
    assert (rest.executions, rest.redundant, rest.exhausted) == (7134, 0, True)
    # as an earlier version left it off, which did not look at the first execution
    state = json.loads(file.read_text())
    del state["first"]
    file.write_text(json.dumps(state))
    assert explore(three_tasks, resume=file).classes == rest.classes


def test_a_task_may_fail_before_it_touches_anything():
    def fails():
        raise ValueError("at once")

    def program(tasks):
        tasks.start(fails)
        tasks.start(fails)

    for keep_going in (False, True):
        finding = explore(program, keep_going=keep_going).finding
        assert finding.violation.message.startswith("ValueError: at once")
        assert replay(finding.schedule, program).violation == finding.violation


def test_a_finding_is_minimised():
    finding = explore(lost_update).finding
    assert finding.preemptions == 1
    assert finding.minimal == "no schedule with fewer preemptions leads to it"
    assert finding.schedule.runs == (("increment", 1), ("increment.2", 2), ("increment", 1))


@pytest.mark.parametrize("strategy", ["dfs", "random", "pct"])
def test_other_strategies_find_it_too(strategy):
    result = explore(lost_update, strategy=strategy, max_executions=200)
    assert result.violation.oracle == "assertion"


def test_bounds_are_told():
    none = explore(lost_update, preemptions=0)
    assert str(none) == (
        "2 executions, exhausted within 0 preemptions, not beyond, nothing found so far"
    )
    assert not none.clean
    assert explore(lost_update, preemptions=1).found
    assert explore(lost_update, delays=1).found


def test_a_strategy_of_ones_own():
    class Backwards:
        complete = False

        def __init__(self):
            self.left = 3

        def begin(self):
            self.left -= 1
            return self.left >= 0

        def choose(self, enabled, running):
            return enabled[-1]

    result = explore(with_a_lock, strategy=Backwards())
    assert (result.strategy, result.executions, result.exhausted) == ("Backwards", 3, False)


def test_progress():
    told = []
    explore(three_tasks, progress=told.append, max_seconds=0.7)
    assert told
    assert told[-1].rate > 0
    assert told[-1].estimate > told[-1].executions


def test_the_size_is_told_from_the_first_execution_on():
    told = []
    result = explore(lost_update, keep_going=True, progress=told.append)
    assert told[0].estimate is None
    assert told[0].first == result.first
    assert (result.first.accesses, result.first.tasks) == (4, 2)
    assert round(10**result.first.interleavings) == 6  # of two accesses and two
    assert str(result.first) == "4 accesses by 2 tasks, about 10^1 interleavings"


def test_a_long_execution_is_no_livelock():
    def long(tasks):
        counter = Shared(0, "counter")

        def count(times):
            for number in range(times):
                counter.store(number)

        tasks.start(count, 20_001)

    result = explore(long)
    assert (result.executions, result.first.accesses, result.clean) == (1, 20_001, True)
    assert explore(long, max_steps=20_000).violation.oracle == "livelock"


def test_one_that_becomes_much_longer_is_a_livelock():
    def stuck(tasks):
        word = Shared(0, "word")

        def fast():
            word.store(1)

        def slow():
            while not word.load():
                pass

        tasks.start(fast)
        tasks.start(slow)

    assert str(explore(stuck).violation).endswith("no end after 20000 accesses")
