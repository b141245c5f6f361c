"""Whom the kernel ends when a fault finds no memory, and what becomes of the others."""

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.errors import MemoryFault
from mmigrate.linux.mm import oom_kill

SMALL = MiB(8)


def tight(nodes=(SMALL,)):
    """A machine with little memory and no swap."""
    return Machine(nodes=nodes)


def with_pages(machine, name, pages, **options):
    process = machine.process(name, **options)
    heap = process.mmap(pages=pages)
    process.touch(heap)
    return process


def badness(process, memcg=None):
    return oom_kill.oom_badness(process.task, memcg)


# --- points ---


def test_points_are_pages_swap_and_page_tables():
    machine = tight()
    machine.swapon(MiB(4))
    app = machine.process("app", uid=1000)
    assert badness(app) == 1  # at the least
    heap = app.mmap(pages=100)
    app.touch(heap)
    tables = len({address >> 21 for address in heap.pages()})
    assert badness(app) == 100 + tables
    assert machine.swap_out(app, heap[0:10]) == 10
    assert badness(app) == 100 + tables
    machine.finish_io()


def test_an_administrator_has_three_percent_less():
    machine = tight()
    root, user = with_pages(machine, "root", 400), with_pages(machine, "user", 400, uid=1000)
    assert badness(root) == badness(user) - badness(user) * 3 // 100


def test_who_has_no_memory_counts_for_nothing():
    machine = tight()
    kernel_thread = machine.kernel.tasks[0]
    assert kernel_thread.mm is None
    assert oom_kill.oom_badness(kernel_thread, None) == 0


def test_who_may_use_none_of_our_nodes_counts_for_nothing():
    machine = tight((MiB(8), MiB(8)))
    app, other = machine.process("app"), machine.process("other")
    app.join(machine.cpuset("one", [0]))
    other.join(machine.cpuset("two", [1]))
    with app.running():
        assert badness(other) == 0
        assert badness(app) == 1


def test_only_members_of_a_group_count_for_it():
    machine = tight()
    group = machine.cgroup("group")
    below = machine.cgroup("below", parent=group)
    processes = [machine.process(name) for name in ("in", "under", "out")]
    processes[0].join(group)
    processes[1].join(below)
    assert [badness(process, group.group) for process in processes] == [1, 1, 0]


# --- who ---


def test_the_largest_goes_and_the_one_that_faulted_goes_on():
    machine = tight()
    large, small = with_pages(machine, "large", 1200), with_pages(machine, "small", 300)
    heap = small.mmap(pages=900)
    small.touch(heap)
    assert large.exited and not small.exited
    assert sum(small.placement(heap).values()) == 900
    with pytest.raises(ProcessLookupError):
        large.touch(0)
    assert machine.check() == []


def test_the_largest_may_be_the_one_that_faulted():
    machine = tight()
    small = with_pages(machine, "small", 300)
    large = machine.process("large")
    with pytest.raises(MemoryFault) as raised:
        large.touch(large.mmap(MiB(8)))
    assert raised.value.signal == "SIGKILL"
    assert large.exited and not small.exited
    assert machine.vmstat["nr_anon_pages"] == 300
    assert machine.check() == []


def test_of_equals_the_oldest_goes():
    machine = tight()
    first, second = with_pages(machine, "first", 500), with_pages(machine, "second", 500)
    with first.running():
        assert oom_kill.select_bad_process(machine.kernel, None) is first.task
    assert not second.exited


def test_a_child_goes_for_its_parent():
    machine = tight()
    parent = with_pages(machine, "parent", 900)
    small, large = parent.fork("small"), parent.fork("large")
    more = large.mmap(pages=100)
    large.touch(more)
    other = machine.process("other", uid=1000)
    other.touch(other.mmap(pages=1050))
    assert (parent.exited, small.exited, large.exited) == (False, False, True)
    assert machine.check() == []


def test_who_takes_its_memory_along_is_asked_again():
    """The child that goes has nothing of its own; then the next, and at last the parent."""
    machine = tight()
    parent = with_pages(machine, "parent", 1200)
    children = [parent.fork("one"), parent.fork("two")]
    other = machine.process("other")
    heap = other.mmap(pages=1000)
    other.touch(heap)
    assert all(child.exited for child in children) and parent.exited
    assert sum(other.placement(heap).values()) == 1000
    assert machine.check() == []


def test_a_group_at_its_limit_ends_one_of_its_own():
    machine = tight((MiB(16),))
    group = machine.cgroup("group", limit=MiB(1))
    outside = with_pages(machine, "outside", 2000)
    first, second = machine.process("first"), machine.process("second")
    for process, pages in ((first, 150), (second, 60)):
        process.join(group)
        process.touch(process.mmap(pages=pages))
    second.touch(second.mmap(pages=100))
    assert (outside.exited, first.exited, second.exited) == (False, True, False)
    assert group.group.oom_kills > 0
    assert machine.check() == []


def test_a_group_with_one_member_ends_that():
    machine = tight((MiB(16),))
    group = machine.cgroup("group", limit=MiB(1))
    app = machine.process("app")
    app.join(group)
    with pytest.raises(MemoryFault):
        app.touch(app.mmap(MiB(2)))
    assert app.exited
    assert machine.check() == []


def test_pins_of_the_victim_are_dropped():
    machine = tight()
    large = machine.process("large")
    heap = large.mmap(pages=1200)
    large.touch(heap)
    large.pin(heap[0:50])
    small = machine.process("small")
    small.touch(small.mmap(pages=1200))
    assert large.exited and not machine.pins
    assert machine.check() == []


# --- what is left as it was ---


def test_a_system_call_fails_and_nobody_goes():
    machine = tight()
    large = with_pages(machine, "large", 1900)
    small = machine.process("small")
    view = small.mmap(pages=300, shared=True)
    with pytest.raises(OSError) as raised:
        small.pin(view)
    assert raised.value.errno in (errno.ENOMEM, errno.EFAULT)
    assert not large.exited and not small.exited
    assert machine.check() == []


def test_who_has_threads_under_way_is_not_ended():
    machine = tight()
    large = with_pages(machine, "large", 1200)
    thread = machine.start(large.touch, large.mmap(pages=1))
    small = machine.process("small")
    with pytest.raises(MemoryFault):
        small.touch(small.mmap(pages=1200))
    assert not large.exited and not small.exited
    machine.run()
    assert thread.finished
    assert machine.check() == []


def test_among_tasks_that_race_the_signal_is_for_who_faulted():
    machine = tight()
    large = with_pages(machine, "large", 1200)
    small = machine.process("small")
    started = machine.start(small.touch, small.mmap(pages=1200))
    machine.run(3)
    assert isinstance(started.result, MemoryFault)
    assert not large.exited
    assert machine.check() == []
