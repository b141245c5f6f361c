"""The temporary stack of a new program."""

from __future__ import annotations

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.page_flags import PG_locked
from mmigrate.linux.mm import exec as fs_exec
from mmigrate.linux.mm import rmap
from mmigrate.machine.process import Process

PAGE = 4096
WORDS = b"arguments and environment".ljust(6000, b".")


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4), MiB(4)))


def program(machine, cpu=0):
    """A process that is in the middle of execve: its strings are on the temporary stack."""
    kernel = machine.kernel
    bprm = fs_exec.bprm_mm_init(kernel, machine.unique_name("program"))
    task = kernel.scheduler.new_task(bprm.mm.name, kernel.cpus[cpu], bprm.mm)
    process = machine.add_process(Process(machine, task, bprm.mm))
    with process.running():
        assert fs_exec.copy_strings(bprm, WORDS) == 0
    return process, bprm


@pytest.mark.parametrize("shift", [0, PAGE, 16 * PAGE, 1 << 30])
def test_the_strings_are_found_where_the_stack_ends_up(computer, shift):
    process, bprm = program(computer)
    with process.running():
        assert fs_exec.setup_arg_pages(bprm, fs_exec.STACK_TOP - shift) == 0
    assert process.read(bprm.p, len(WORDS)) == WORDS
    assert bprm.p == fs_exec.STACK_TOP - shift - 8 - len(WORDS) == process.mm.start_stack
    (area,) = process.mm.mmap
    assert area.vm_end == fs_exec.STACK_TOP - shift
    assert not rmap.is_vma_temporary_stack(area)
    assert computer.check() == []


def test_a_stack_that_does_not_fit_is_refused(computer):
    process, bprm = program(computer)
    with process.running():
        assert fs_exec.setup_arg_pages(bprm, 8 * PAGE) == -errno.ENOMEM


def test_too_many_strings(computer):
    process, bprm = program(computer)
    with process.running():
        assert fs_exec.copy_strings(bprm, bytes(3 << 20)) == -errno.E2BIG
    assert bprm.vma.vm_end - bprm.vma.vm_start == (2 << 20) + PAGE  # a quarter of the limit


def test_migration_passes_over_a_temporary_stack(computer):
    process, bprm = program(computer)
    addresses = [bprm.vma.vm_start]
    assert process.move_pages(addresses, node=[1]).status == (-errno.EAGAIN,)
    with process.running():
        assert fs_exec.setup_arg_pages(bprm, fs_exec.STACK_TOP - (1 << 30)) == 0
    assert process.move_pages([bprm.p], node=[1]).status == (1,)
    assert computer.check() == []


def test_no_order_of_the_move_and_a_migration_loses_a_page(preempt):
    """If migration did not pass over temporary stacks, some of these orders would leave an
    entry behind.  The pages are shared with a child that migrates them, because move_pages
    holds mmap_sem of its own process."""
    for n in range(0, 100, 20):
        for k in (6, 10, 14, 16, 18, 20, 30):
            machine = Machine(nodes=(MiB(4), MiB(4)))
            process, bprm = program(machine)
            at = bprm.vma.vm_start
            page = process.page_at(at)
            child = process.fork(cpu=1)
            addresses = [at, at + PAGE]
            machine.start(child.move_pages, addresses, [1, 1], flags=MPOL_MF_MOVE_ALL, cpu=1)
            machine.start(_finish, process, bprm, cpu=0)
            machine.kernel.scheduler.run(preempt(n, k, lambda page=page: page.flags & PG_locked))
            assert machine.check() == []
            assert process.read(bprm.p, len(WORDS)) == WORDS


def _finish(process, bprm):
    with process.running():
        assert fs_exec.setup_arg_pages(bprm, fs_exec.STACK_TOP - (1 << 30)) == 0


def test_an_abandoned_exec_leaves_nothing(computer):
    process, _ = program(computer)
    process.exit()
    assert computer.kernel.mms == []
    assert computer.check() == []
