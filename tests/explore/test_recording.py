"""The running task is asked again where something else than its access may change who goes on."""

from mmigrate import MiB, explore
from mmigrate.explore.dpor import Optimal
from mmigrate.explore.program import Shared
from mmigrate.explore.target import Target
from mmigrate.linux.kernel.bug import BUG


def first_run(scenario, **options):
    run = Optimal().next_execution(20_000, keep_going=True)
    Target.of(scenario, options).execute(run)
    return run


def test_a_task_is_created_by_the_step_before_it():
    def scenario(tasks):
        words = [Shared(0, name) for name in "abcd"]

        def parent():
            words[0].store(1)
            words[1].store(1)
            tasks.start(words[3].store, 1, name="child")
            words[2].store(1)
            words[3].store(2)

        tasks.start(parent, name="parent")

    run = first_run(scenario)
    assert [name for _, name, _ in run.words()[:2]] == ["a", "b"]
    assert run.created_at == {0: -1, 1: 1}
    for strategy in ("dpor", "dfs"):
        assert explore(scenario, strategy=strategy, keep_going=True).exhausted
    assert explore(scenario, keep_going=True).classes == 2


def test_what_a_lost_task_does_while_it_unwinds_is_no_step():
    def scenario(tasks):
        word, last = Shared(0, "word"), Shared(0, "last")

        def fail():
            word.store(1)
            word.store(2)
            try:
                BUG("lost")
            finally:
                last.store(1)

        tasks.start(fail)

    run = first_run(scenario)
    assert [name for _, name, _ in run.words()] == ["word", "word"]


def test_steps_on_another_cpu_are_in_a_row_of_their_own():
    def scenario(machine):
        app = machine.process("app")
        area = app.mmap(pages=1)

        def walk():
            app.write(area.start, b"one")
            app.on_cpu(1)
            app.write(area.start, b"two")

        machine.start(walk, cpu=0)

    run = first_run(scenario, nodes=(MiB(4), MiB(4)), cpus=(0, 1))
    assert [cpu for _, cpu, _ in run.new.rows] == [0, 1]
