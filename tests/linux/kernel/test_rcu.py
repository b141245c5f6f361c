"""Grace periods, and objects that live until their readers have left."""

import pytest

from mmigrate import Machine, MiB
from mmigrate.errors import KernelBug
from mmigrate.linux.include.mm_types import POISON
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.rcu import call_rcu, rcu_read_lock, rcu_read_unlock, synchronize_rcu
from mmigrate.linux.mm import anon_vma


def machine_of_three():
    return Machine(nodes=(MiB(4),), cpus=(0, 0, 0))


def test_without_readers_a_callback_runs_at_once():
    called = []
    call_rcu(machine_of_three().kernel, lambda: called.append(1))
    assert called == [1]


def test_a_callback_waits_for_the_readers_that_were_there_and_no_others():
    orders = set()
    for seed in range(60):
        machine = machine_of_three()
        told = []

        def read(name, told=told):
            rcu_read_lock()
            rcu_read_lock()
            told.append(f"{name} reads")
            rcu_read_unlock()
            told.append(f"{name} leaves")
            rcu_read_unlock()

        def free(machine=machine, told=told):
            told.append("call")
            call_rcu(machine.kernel, lambda: told.append("freed"))

        machine.start(read, "first", cpu=0)
        machine.start(free, cpu=1)
        machine.start(read, "second", cpu=2)
        machine.run(seed=seed)
        freed = told.index("freed")
        for name in ("first", "second"):
            began, left = told.index(f"{name} reads"), told.index(f"{name} leaves")
            assert not began < told.index("call") < freed < left
        orders.add(tuple(told))
    assert any(order[-1] != "freed" for order in orders)
    assert any(order[-1] == "freed" for order in orders)


@pytest.mark.parametrize("seed", range(20))
def test_synchronize_rcu_sleeps_until_all_have_left(seed):
    machine = machine_of_three()
    state = ["alive"]

    def read():
        rcu_read_lock()
        seen = state[0]
        rcu_read_lock()  # a place where the other task may run
        rcu_read_unlock()
        assert seen != "alive" or state[0] != "gone"
        rcu_read_unlock()

    def free():
        state[0] = "leaving"
        synchronize_rcu(machine.kernel)
        state[0] = "gone"

    machine.start(read, cpu=0)
    machine.start(free, cpu=1)
    machine.run(seed=seed)
    assert state == ["gone"]
    assert machine.check() == []


def test_sleeping_in_a_section_is_a_finding():
    machine = machine_of_three()
    rcu_read_lock()
    sched.might_sleep()
    rcu_read_unlock()
    assert [violation.oracle for violation in machine.check()] == ["warnings"]


def test_use_of_a_freed_anon_vma_is_a_finding():
    machine = machine_of_three()
    app = machine.process("app")
    page = app.mmap(pages=1)
    app.touch(page)
    freed = app.mm.mmap[0].anon_vma
    app.munmap(page)
    assert freed.refcount == 0
    assert freed.root is POISON
    with pytest.raises(KernelBug, match="use of a freed object"):
        anon_vma.anon_vma_lock_read(freed)
    assert machine.check() == []
