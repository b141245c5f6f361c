"""The reduced search runs each class of interleavings once, and no class less than there are.

The long form: HYPOTHESIS_PROFILE=long pytest tests/explore/test_against_brute_force.py
"""

from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmigrate.explore import Shared
from mmigrate.explore.program import RwSemaphore, SpinLock, down_write, spin_lock
from tests.explore.programs import program
from tests.explore.searching import brute_force, reduced

SIMPLE = ["load", "store", "increment", "update", "wait"]
NESTING = ["spin", "try spin", "read lock", "write lock", "try write lock", "if set"]


def operations(depth, length, nesting):
    which = st.integers(0, 1)
    simple = st.tuples(st.sampled_from(SIMPLE), which, st.just([]))
    if not depth:
        return st.lists(simple, min_size=1, max_size=length)
    body = operations(depth - 1, 1, [name for name in nesting if name != "worker"])
    nested = st.tuples(st.sampled_from(nesting), which, body)
    return st.lists(simple | nested, min_size=1, max_size=length)


def programs(nesting):
    one = operations(2, 2, nesting)
    return st.lists(st.tuples(one, st.integers(1, 3)), min_size=2, max_size=3)


def check(tasks):
    scenario = program([operations for operations, _ in tasks], [cpu for _, cpu in tasks])
    everything = brute_force(scenario, 400)
    if everything is None:
        return
    classes, executions, redundant = reduced(scenario)
    assert classes.keys() == everything[0].keys()
    assert classes == everything[0]
    assert (executions, redundant) == (len(classes), 0)


def examples(number):
    profile = settings.get_current_profile_name()
    return settings(settings.default, max_examples=50 * number if profile == "long" else number)


# A word of one task alone, asked for its steps while some of them were still to be placed.
@example([([("load", 0, [])], 1), ([("spin", 0, [("try spin", 0, [("load", 0, [])])])], 1)])
@examples(60)
@given(programs(NESTING))
def test_generated_programs(tasks):
    check(tasks)


@examples(40)
@given(programs(["spin", "worker", "if set"]))
def test_generated_programs_with_workers(tasks):
    check(tasks)


def increments(tasks_number, times):
    def scenario(tasks):
        counter = Shared(0, "counter")

        def increment():
            for _ in range(times):
                counter.store(counter.load() + 1)

        for _ in range(tasks_number):
            tasks.start(increment)

    return scenario


def locked_increments(tasks_number):
    def scenario(tasks):
        counter, lock = Shared(0, "counter"), SpinLock("lock")

        def increment():
            with spin_lock(lock):
                counter.store(counter.load() + 1)

        for _ in range(tasks_number):
            tasks.start(increment)
        tasks.run()
        assert counter.value == tasks_number

    return scenario


def philosophers(number):
    def scenario(tasks):
        forks = [RwSemaphore("fork", f"fork {n}") for n in range(number)]

        def dine(seat):
            with down_write(forks[seat]), down_write(forks[(seat + 1) % number]):
                pass

        for seat in range(number):
            tasks.start(dine, seat)

    return scenario


def bounded_buffer(items, room):
    def scenario(tasks):
        buffer = Shared((), "buffer")
        taken = []

        def put(item, held):
            return (*held, item)

        def produce():
            for item in range(items):
                buffer.wait(lambda held: len(held) < room)
                buffer.update(partial(put, item))

        def consume():
            for _ in range(items):
                buffer.wait(bool)
                taken.append(buffer.update(lambda held: held[1:])[0])

        tasks.start(produce)
        tasks.start(consume)
        tasks.run()
        assert taken == list(range(items))

    return scenario


# Classes of two tasks that load and store once: both loads come before both stores, in which
# two orders of the stores remain, or one task is done before the other begins: 2 + 2.
@pytest.mark.parametrize(
    ("scenario", "classes", "interleavings"),
    [
        (increments(2, 1), 4, 6),
        (increments(3, 1), 36, 90),
        (increments(2, 2), 34, 70),
        (locked_increments(2), 2, 2),
        (locked_increments(3), 6, 6),
        (philosophers(2), 3, 6),
        (philosophers(3), 7, 168),
        (bounded_buffer(2, 1), 1, 1),
        (bounded_buffer(3, 2), 16, 36),
    ],
)
def test_classic_programs(scenario, classes, interleavings):
    everything, count = brute_force(scenario)
    found, executions, redundant = reduced(scenario)
    assert found == everything
    assert (len(found), executions, redundant, count) == (classes, classes, 0, interleavings)
