"""The user-level face: machines, processes, tasks, and errors."""

import errno
import subprocess
import sys
from contextlib import suppress

import pytest

from mmigrate import Machine, MiB, Reason, ScenarioError
from mmigrate.errors import KernelBug, MemoryFault
from mmigrate.linux.include.mm import MADV_DONTNEED
from mmigrate.linux.kernel.page_flags import lock_page, unlock_page
from mmigrate.linux.kernel.rwsem import down_read, down_write, up_read, up_write

RACE = """
from mmigrate import Machine, MiB
machine = Machine(nodes=(MiB(8), MiB(8)))
app = machine.process("app")
heap = app.mmap(pages=3)
app.touch(heap)
machine.start(app.move_pages, heap, 1)
machine.start(app.fork, "child")
machine.start(app.write, heap.start, b"x")
machine.run(seed=%d)
print("\\n".join(machine.log))
print(machine.vmstat)
"""


@pytest.fixture
def machine():
    return Machine(nodes=(MiB(8), MiB(8)))


def test_the_same_seed_gives_the_same_run_in_another_process():
    def run(seed, hash_seed):
        done = subprocess.run(
            [sys.executable, "-c", RACE % seed],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
        )
        return done.stdout

    first = run(5, "1")
    assert first == run(5, "2")
    assert first != run(6, "1")


def test_two_machines_live_side_by_side(machine):
    other = Machine(nodes=(MiB(4),))
    app, stranger = machine.process("app"), other.process("app")
    here, there = app.mmap(pages=2), stranger.mmap(pages=3)
    app.touch(here)
    stranger.touch(there)
    assert app.placement(here) == {0: 2}
    assert stranger.placement(there) == {0: 3}
    assert machine.check() == other.check() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"nodes": (0, 0)}, "needs memory on at least one node"),
        ({"nodes": (MiB(8), 5000)}, "not a number of whole pages"),
        ({"nodes": (MiB(8),), "cpus": (1,)}, "must name the node of each CPU"),
        ({"nodes": (MiB(8), MiB(8)), "distances": ((10,),)}, "distances must be 2 rows"),
        ({"nodes": (MiB(8),), "movable": (MiB(5),)}, "all memory is movable"),
        ({"nodes": (MiB(8), MiB(8)), "movable": (MiB(4),)}, "bytes for each of 2 nodes"),
    ],
)
def test_machines_that_cannot_be(arguments, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        Machine(**arguments)


def test_a_node_with_memory_only_and_one_with_a_cpu_only():
    machine = Machine(nodes=(MiB(8), 0, MiB(8)), cpus=(0, 1))
    app = machine.process("app", cpu=1)
    heap = app.mmap(pages=2)
    app.touch(heap)
    assert app.placement(heap) == {2: 2}  # of equally distant nodes the next one
    with pytest.raises(OSError, match="No such device"):
        app.move_pages(heap, 1)
    assert app.move_pages(heap, 0).status == (0, 0)
    assert machine.check() == []


def test_a_load_from_nowhere_is_a_signal(machine):
    app = machine.process("app")
    with pytest.raises(MemoryFault, match="SIGSEGV at 0x1000") as caught:
        app.read(0x1000, 1)
    assert caught.value.signal == "SIGSEGV"


def test_a_load_beyond_the_end_of_a_file_is_a_bus_error(machine):
    app = machine.process("app")
    view = app.mmap(pages=2, file=machine.file("short", 4096))
    with pytest.raises(MemoryFault, match="SIGBUS"):
        app.read(view.start + 4096, 1)
    assert machine.check() == []


def test_errors_of_system_calls_are_oserrors(machine):
    app = machine.process("app")
    with pytest.raises(OSError, match="Invalid argument") as caught:
        app.munmap(5, 4096)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "odd",
    [
        lambda app, heap: app.mmap(-4096),
        lambda app, heap: app.mmap(4096, at=-4096),
        lambda app, heap: app.read(-5, 1),
        lambda app, heap: app.read(heap.start, -1),
        lambda app, heap: app.munmap(-4096, 4096),
        lambda app, heap: app.move_pages([1 << 70], 1),
        lambda app, heap: app.mremap(heap, -5),
        lambda app, heap: app.mmap(4096, prot="q"),
        lambda app, heap: app.mmap(),
        lambda app, heap: app.mbind(heap, "nonsense"),
        lambda app, heap: app.set_mempolicy("bind", [-1]),
        lambda app, heap: app.on_cpu(9),
        lambda app, heap: app.machine.file("f", -5),
        lambda app, heap: app.machine.file("f", 5, fs="zfs"),
        lambda app, heap: app.machine.process(cpu=9),
        lambda app, heap: app.machine.start(app.touch, heap, cpu=9),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence(machine, odd):
    app = machine.process("app")
    with pytest.raises(ScenarioError) as caught:
        odd(app, app.mmap(pages=1))
    assert len(str(caught.value).splitlines()) == 1
    assert machine.check() == []


def test_dontneed_forgets(machine):
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.write(heap.start, b"gone")
    app.madvise(heap, MADV_DONTNEED)
    assert app.read(heap.start, 4) == bytes(4)
    assert machine.check() == []


def test_started_tasks_give_their_results(machine):
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    good = machine.start(app.move_pages, heap, 1)
    bad = machine.start(app.munmap, 5, 4096)
    with pytest.raises(ScenarioError, match="has not finished"):
        _ = good.result
    machine.run()
    assert good.result.status == (1,)
    assert bad.result.errno == errno.EINVAL
    assert machine.check() == []


def test_a_deadlock_is_told_and_cleaned_up(machine):
    app = machine.process("app")
    first, second = app.mm.mmap_sem, machine.file("f", 4096).i_mapping.i_mmap_rwsem

    def take(outer, inner):
        down_write(outer)
        down_write(inner)
        up_write(inner)
        up_write(outer)

    told = 0
    for seed in range(20):
        machine.start(take, first, second)
        machine.start(take, second, first)
        with suppress(ScenarioError):
            machine.run(seed)
            continue
        told += 1
        first.writer = second.writer = None
    assert told > 0
    # and lockdep knew it even where nothing happened
    assert any("lock order inversion" in text for text in machine.kernel.warnings)


def test_no_end_is_told(machine):
    app = machine.process("app")
    heap = app.mmap(pages=1)

    def for_ever():
        while True:
            app.touch(heap)

    machine.start(for_ever)
    with pytest.raises(ScenarioError, match="no end after 5000"):
        machine.run(seed=1, max_steps=5000)


def test_a_bug_of_the_kernel_is_raised_as_such(machine):
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    page = machine.page_of(app, heap.start)
    with app.running(), pytest.raises(KernelBug, match="unlock_page of an unlocked page"):
        unlock_page(page)


def test_sleeping_while_atomic_is_a_finding(machine):
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    page = machine.page_of(app, heap.start)
    from mmigrate.linux.kernel.spinlock import spin_lock, spin_unlock

    with app.running():
        spin_lock(page.zone.lock)
        lock_page(page)
        unlock_page(page)
        spin_unlock(page.zone.lock)
    assert [v.message for v in machine.check()] == ["sleeping while atomic: app holds zone->lock"]


def test_readers_share_and_writers_do_not(machine):
    app = machine.process("app")
    sem = app.mm.mmap_sem
    order = []

    def read():
        down_read(sem)
        order.append("in")
        order.append("out")
        up_read(sem)

    def write():
        down_write(sem)
        order.append("W")
        up_write(sem)

    for seed in range(10):
        machine.start(read)
        machine.start(read)
        machine.start(write)
        machine.run(seed)
    assert order.count("W") == 10
    assert machine.check() == []


def test_a_move_that_fails_for_want_of_memory_leaves_all_as_it_was():
    machine = Machine(nodes=(MiB(8), MiB(1)))
    app = machine.process("app")
    heap = app.mmap(MiB(2))
    app.touch(heap)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        app.move_pages(heap, 1)
    assert sum(app.placement(heap).values()) == 512
    assert machine.check() == []


def test_the_result_says_why():
    machine = Machine(nodes=(MiB(8), MiB(8)))
    app = machine.process("app")
    heap = app.mmap(pages=3)
    app.touch(heap[0:1])
    app.touch(heap[1:2], write=False)
    result = app.move_pages([*heap.pages(), 0x10000], 1)
    assert result.status == (1, -2, -2, -14)
    assert result.reasons == {Reason.ZERO_PAGE: 1, Reason.NOT_PRESENT: 1, Reason.NO_AREA: 1}
    assert (
        str(result) == "4 pages: 1 on node 1, 3 not moved (1 not present, 1 no area, 1 zero page)"
    )


def test_exit_in_the_middle_of_a_migration():
    outcomes = set()
    for seed in range(60):
        machine = Machine(nodes=(MiB(4), MiB(4)), cpus=(0, 0, 1))
        mover, victim = machine.process("mover"), machine.process("victim")
        heap = victim.mmap(pages=2)
        victim.touch(heap)
        moved = machine.start(mover.move_pages, list(heap.pages()), 1, process=victim, cpu=1)
        machine.start(victim.exit, cpu=2)
        machine.run(seed)
        outcomes.add(type(moved.result).__name__)
        machine.drain_pagevecs()
        assert machine.check() == []
    assert "MoveResult" in outcomes  # moved first
    assert len(outcomes) > 1  # gone first
