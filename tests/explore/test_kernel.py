"""Small scenarios of the kernel: whatever any interleaving ends in, the reduced search finds."""

import pytest

from mmigrate import MiB, explore
from mmigrate.errors import ScenarioError
from mmigrate.explore import always, replay
from mmigrate.explore.dpor import Optimal
from mmigrate.explore.execution import Ending, Indices
from mmigrate.explore.rewind import Stage
from mmigrate.explore.search import rare_collections
from mmigrate.explore.strategies import Chosen, DepthFirst, RandomWalk
from mmigrate.explore.target import Target
from mmigrate.history import CATALOGUE
from mmigrate.linux.include.mm import MADV_SOFT_OFFLINE
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


def into_swap(*tasks):
    """Two processes share a page that is in swap; they, or swapoff, want it back."""

    def scenario(machine):
        area = machine.swapon(MiB(1))
        app = machine.process("app")
        page = app.mmap(pages=1)
        app.write(page.start, b"hello")
        child = app.fork("child")
        machine.swap_out(app, page)
        machine.swap_out(child, page)
        machine.finish_io()
        doings = {
            "app": (app.touch, page),
            "child": (child.touch, page),
            "swapoff": (machine.swapoff, area),
            "exit": (child.exit,),
        }
        for name in tasks:
            machine.start(*doings[name])

    return scenario


# Whoever waits for one of several things to happen must be told of each: else what is planned
# for him cannot be done, and the search diverges from its plan.
@pytest.mark.parametrize(
    "tasks", [("app", "child"), ("app", "swapoff"), ("swapoff", "exit"), ("app", "exit")]
)
def test_waits_with_several_ends(tasks):
    target = Target.of(into_swap(*tasks), {"nodes": NODES})
    search, limit = Optimal(), 120
    for _ in range(limit):
        run = search.next_execution(20_000)
        if run is None:
            break
        outcome = target.execute(run)
        assert outcome.ending is Ending.COMPLETE
        search.learn(run)
    assert not search.diverged


@pytest.mark.slow
@pytest.mark.parametrize("commit", ["0f792cf949a0", "9fbc1f635fd0"])
def test_waits_for_frozen_pages(commit):
    row = next(row for row in CATALOGUE if row.commit == commit)
    target = Target.of(row.scenario, row.options(True))
    search, stage, executions = Optimal(), Stage(target), 0
    with rare_collections():
        while executions < 100 and (run := search.next_execution(20_000)) is not None:
            assert stage.execute(run).ending is Ending.COMPLETE
            search.learn(run)
            executions += 1
    assert executions == 100
    assert not search.diverged


def two_suspect_the_same_huge_page(machine):
    machine.hugepages(3, node=0)
    app = machine.process("app")
    area = app.mmap(MiB(2), hugetlb=MiB(2))
    app.write(area.start, b"huge")
    for _ in range(2):
        machine.start(app.madvise, area.start, MADV_SOFT_OFFLINE, 4096)


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [(), ("bcc54222309c",)])
def test_two_take_the_same_huge_page_out_of_use(fixed):
    """A known defect of v3.19, which asks nobody whether it is isolated."""
    result = explore(
        two_suspect_the_same_huge_page,
        machine={"nodes": (MiB(32), MiB(32)), "cpus": (0, 0, 1)},
        backports=("second-look-lets-go", "2c7452a075d4", "30809f559a0d", *fixed),
        max_executions=200,
        minimise=False,
    )
    if fixed:
        assert (result.executions, result.found) == (200, False)
    else:
        assert result.violation.oracle == "references"
