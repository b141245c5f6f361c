"""Small programs whose classes of interleavings are written down: how many, and which.

A class is named by its least interleaving: at each place the task with the least number that can
take a step there. GOLD=write pytest tests/explore/test_gold.py writes the files of tests/gold anew.
"""

import os
from pathlib import Path

import pytest

from mmigrate.explore.program import Shared, SpinLock, spin_lock, spin_trylock, spin_unlock
from tests.explore.searching import brute_force_traces, reduced_traces
from tests.explore.test_against_brute_force import (
    bounded_buffer,
    increments,
    locked_increments,
    philosophers,
)

GOLD = Path(__file__).parents[1] / "gold"


def trylock(tasks):
    """One who tries, and one who holds."""
    lock, word = SpinLock("lock"), Shared(0, "word")

    def hold():
        with spin_lock(lock):
            word.store(1)

    def hasty():
        if spin_trylock(lock):
            word.load()
            spin_unlock(lock)

    tasks.start(hold)
    tasks.start(hasty)


def one_cpu(tasks):
    """Two tasks of one CPU, of which one cannot be interrupted for a while."""
    lock, word = SpinLock("lock"), Shared(0, "word")

    def careful():
        with spin_lock(lock):
            word.store(word.load() + 1)

    tasks.start(careful, cpu=1)
    tasks.start(word.load, cpu=1)


def message(tasks):
    """One waits for what the other writes, and reads what was written before."""
    data, ready = Shared(0, "data"), Shared(0, "ready")

    def send():
        data.store(1)
        ready.store(1)

    def receive():
        ready.wait(bool)
        assert data.load() == 1

    tasks.start(send)
    tasks.start(receive)


PROGRAMS = {
    "two_increments": increments(2, 1),
    "two_times_two_increments": increments(2, 2),
    "three_increments": increments(3, 1),
    "two_locked_increments": locked_increments(2),
    "three_locked_increments": locked_increments(3),
    "three_philosophers": philosophers(3),
    "bounded_buffer": bounded_buffer(3, 2),
    "trylock": trylock,
    "one_cpu": one_cpu,
    "message": message,
}


def text_of(traces):
    assert len(set(traces)) == len(traces), "a class was run twice"
    return "\n".join([f"classes: {len(traces)}", "", *sorted(traces), ""])


@pytest.mark.parametrize("name", PROGRAMS)
def test_traces(name):
    found = text_of(reduced_traces(PROGRAMS[name]))
    file = GOLD / f"{name}.traces"
    if os.environ.get("GOLD") == "write":
        file.write_text(found)
    assert found == file.read_text()
    assert found == text_of(sorted(set(brute_force_traces(PROGRAMS[name]))))


def test_each_file_has_a_program():
    assert {file.stem for file in GOLD.glob("*.traces")} == set(PROGRAMS)
