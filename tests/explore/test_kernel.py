"""Small scenarios of the kernel: whatever any interleaving ends in, the reduced search finds."""

import pytest

from mmigrate import MiB, explore
from mmigrate.errors import ScenarioError
from mmigrate.explore import always, replay
from mmigrate.explore.execution import Ending, Indices
from mmigrate.explore.strategies import Chosen, DepthFirst, RandomWalk
from mmigrate.explore.target import Target
from tests.explore.searching import reduced

NODES = (MiB(2), MiB(2))


def pair(first, second):
    def scenario(machine):
        machine.swapon(MiB(1))
        app = machine.process("app")
        page = app.mmap(pages=1)
        app.write(page.start, b"hello")
        for name in (first, second):
            if name == "swap":
                machine.start(machine.swap_out, app, page)
            elif name == "fork":
                machine.start(app.fork, "child")
            elif name == "move":
                machine.start(app.move_pages, page, 1)
            else:
                machine.start(getattr(app, name), page)

    return scenario


def final(machine):
    return repr([(p.name, p.maps(), p.numa_maps()) for p in machine.processes]), str(machine.vmstat)


# fork against mlock: the pages of the per-CPU vectors are drained by a worker whose first
# deed is to take its CPU.
@pytest.mark.parametrize(
    "names", [("fork", "mlock"), ("munmap", "fork"), ("touch", "munmap"), ("munmap", "move")]
)
def test_all_final_states_are_found(names):
    scenario = pair(*names)
    found = reduced(scenario, 400, final, nodes=NODES)
    assert found is not None, "not small any more"
    classes, _, redundant = found
    assert not redundant
    states = {state for _, state in classes.values()}
    target, indices = Target.of(scenario, {"nodes": NODES}), Indices()
    for strategy, number in ((RandomWalk(1), 40), (DepthFirst(preemptions=2), 60)):
        for _ in range(number):
            assert strategy.begin()
            run = Chosen(indices, 20_000, [], keep_going=True)
            run.strategy = strategy
            outcome = target.execute(run)
            assert outcome.ending is Ending.COMPLETE
            assert outcome.violations == ()
            assert final(outcome.machine) in states


def test_a_kernel_schedule_is_replayed():
    def never(machine):
        return machine.vmstat["pgmigrate_success"] == 0

    scenario = always(never)(pair("munmap", "move"))
    found = explore(scenario, machine={"nodes": NODES}).finding
    repeated = replay(found.schedule, scenario)
    assert repeated.violation == found.violation
    assert {step.task for step in repeated.steps} >= {"app:munmap", "app:move_pages"}
    assert all(step.word for step in repeated.steps)


def test_wrong_use_is_no_finding():
    def scenario(machine):
        machine.start(lambda: machine.process("app", cpu=99))

    with pytest.raises(ScenarioError, match="there is no CPU 99"):
        explore(scenario)
