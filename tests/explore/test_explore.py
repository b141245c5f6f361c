"""What users see: results, findings, schedules and their replay."""

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


def test_two_machines_side_by_side():
    other = Machine()
    app = other.process("app")
    explore(move_against_unmap, max_executions=20)
    app.touch(app.mmap(pages=3))
    assert other.check() == []
