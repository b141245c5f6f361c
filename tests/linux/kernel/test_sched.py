"""Tasks, their stacks, and what is left of a run that is given up."""

import pytest

from mmigrate import Machine, MiB
from mmigrate.explore import explore


def fails():
    raise ValueError("on purpose")


def test_nothing_is_left_of_tasks_that_had_not_begun():
    machine = Machine(nodes=(MiB(8), MiB(8)))
    app = machine.process("app")
    machine.start(fails)
    machine.start(app.touch, app.mmap(pages=1))
    with pytest.raises(ValueError, match="on purpose"):
        machine.run()
    assert machine.kernel.scheduler.alive == []
    machine.start(app.touch, app.mmap(pages=1))
    machine.run()
    assert machine.check() == []


def test_no_two_tasks_get_the_same_stack():
    """When runs are given up before some of their tasks have begun."""
    stacks = []

    def scenario(machine):
        app = machine.process("app")
        page = app.mmap(pages=1)
        for number in range(3):
            machine.start(app.write, page.start, b"%d" % number, cpu=number)
        stacks.append({id(task.greenlet) for task in machine.kernel.scheduler.alive})
        machine.run()

    result = explore(
        scenario,
        machine={"nodes": (MiB(8), MiB(8)), "cpus": (0, 0, 0)},
        keep_going=True,
        strategy="random",
        max_executions=9,
        max_steps=2,
        minimise=False,
    )
    assert result.violation.oracle == "livelock"
    assert [len(each) for each in stacks] == 9 * [3]
