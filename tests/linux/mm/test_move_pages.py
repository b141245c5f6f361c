"""move_pages(2): every check, every status, in the kernel's order."""

import errno

import pytest

from mmigrate import Machine, MiB, Reason
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE, MPOL_MF_MOVE_ALL, MPOL_MF_STRICT
from mmigrate.linux.include.mm import VM_IO
from mmigrate.linux.kernel.cpuset import new_cpuset
from mmigrate.linux.kernel.page_flags import trylock_page, unlock_page
from mmigrate.linux.mm.cpuset_migration import cpuset_attach
from mmigrate.linux.mm.move_pages import sys_move_pages

EFAULT, ENOENT, EACCES, EBUSY, EAGAIN = -14, -2, -13, -16, -11


@pytest.fixture
def machine():
    machine = Machine(nodes=(MiB(16), MiB(16), MiB(16)))
    yield machine
    machine.drain_pagevecs()
    assert [str(v) for v in machine.check()] == []


@pytest.fixture
def app(machine):
    return machine.process("app")


def touched(app, pages, **options):
    heap = app.mmap(pages=pages, **options)
    app.touch(heap)
    return heap


def failing(number):
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


# --- the checks of the call ---


def test_other_flags_are_invalid(app):
    with failing(errno.EINVAL):
        app.move_pages(touched(app, 1), 1, flags=MPOL_MF_STRICT)


def test_no_flags_are_like_move(app):
    assert app.move_pages(touched(app, 1), 1, flags=0).status == (1,)


def test_move_all_needs_the_capability(machine):
    user = machine.process("user", uid=1000)
    with failing(errno.EPERM):
        user.move_pages(touched(user, 1), 1, flags=MPOL_MF_MOVE_ALL)


def test_a_pid_that_is_gone(machine, app):
    other = machine.process("other")
    heap = touched(other, 1)
    other.exit()
    with failing(errno.ESRCH):
        app.move_pages(list(heap.pages()), 1, process=other)


@pytest.mark.parametrize(
    ("mine", "theirs", "allowed"),
    [(1000, 1000, True), (1000, 1001, False), (0, 1001, True)],
)
def test_who_may_move_whose_pages(machine, mine, theirs, allowed):
    caller = machine.process("caller", uid=mine)
    target = machine.process("target", uid=theirs)
    heap = touched(target, 1)
    if allowed:
        assert caller.move_pages(heap, 1, process=target).status == (1,)
    else:
        with failing(errno.EPERM):
            caller.move_pages(heap, 1, process=target)


def test_a_task_without_memory(machine, app):
    kthread = machine.kernel.scheduler.new_task("kthread", machine.kernel.cpus[0], None)
    assert sys_move_pages(app.task, kthread.pid, [0], [1], [0], MPOL_MF_MOVE) == -errno.EINVAL


def test_no_pages_are_nothing_to_do(app):
    assert app.move_pages([], 1).returned == 0


@pytest.mark.parametrize("node", [-1, 1024, 3])
def test_nodes_that_do_not_exist(app, node):
    with failing(errno.ENODEV):
        app.move_pages(touched(app, 1), [node])


def test_a_node_outside_of_the_cpuset(machine, app):
    heap = touched(app, 1)
    cpuset_attach(new_cpuset(machine.kernel, "small", 0b011), app.task)
    with failing(errno.EACCES):
        app.move_pages(heap, 2)
    assert app.move_pages(heap, 1).status == (1,)


def test_a_bad_node_in_the_second_chunk_leaves_the_first_moved(app):
    heap = touched(app, 170)
    with failing(errno.ENODEV):
        app.move_pages(heap, [1] * 169 + [9])
    assert app.placement(heap) == {0: 1, 1: 169}


def test_a_bad_node_in_the_first_chunk_moves_nothing(app):
    heap = touched(app, 169)
    with failing(errno.ENODEV):
        app.move_pages(heap, [1] * 168 + [9])
    assert app.placement(heap) == {0: 169}


# --- statuses ---


def test_no_area(app):
    assert app.move_pages([0x1000], 1).status == (EFAULT,)


def test_an_area_that_does_not_migrate(app):
    heap = touched(app, 1)
    vma = app.mm.mmap[0]
    vma.vm_flags |= VM_IO
    result = app.move_pages(heap, 1)
    assert result.status == (EFAULT,)
    assert result.reasons == {Reason.NOT_MIGRATABLE: 1}


def test_never_touched(app):
    assert app.move_pages(app.mmap(pages=1), 1).status == (ENOENT,)


def test_swapped_out(machine, app):
    machine.swapon()
    heap = touched(app, 1)
    assert machine.swap_out(app, heap) == 1
    result = app.move_pages(heap, 1)
    assert result.status == (ENOENT,)
    assert result.reasons == {Reason.SWAPPED: 1}
    assert app.move_pages(heap).status == (ENOENT,)


def test_the_zero_page(app):
    heap = app.mmap(pages=1)
    app.touch(heap, write=False)
    assert app.move_pages(heap, 1).status == (ENOENT,)
    assert app.move_pages(heap).status == (ENOENT,)


def test_already_there(app):
    assert app.move_pages(touched(app, 2), 0).status == (0, 0)


def test_shared_already_there_reports_its_node(app):
    heap = touched(app, 1)
    app.fork()
    assert app.move_pages(heap, 0).status == (0,)


def test_shared(app):
    heap = touched(app, 1)
    child = app.fork()
    assert app.move_pages(heap, 1).status == (EACCES,)
    assert app.move_pages(heap, 1, flags=MPOL_MF_MOVE_ALL).status == (1,)
    assert child.placement(heap) == {1: 1}


def test_the_same_page_twice(app):
    heap = touched(app, 1)
    assert app.move_pages([heap.start, heap.start], 1).status == (1, EBUSY)


def test_two_entries_of_a_page_share_the_first_ones_node(app):
    heap = touched(app, 1)
    result = app.move_pages([heap.start, heap.start], [0, 1])
    assert result.status == (0, 0)  # isolated for node 1, moved to the node it is on
    assert app.placement(heap) == {0: 1}


def test_isolated_by_somebody_else(machine, app):
    heap = touched(app, 1)
    machine.drain_pagevecs()
    with app.running():
        from mmigrate.linux.mm.vmscan import isolate_lru_page, putback_lru_page

        page = machine.page_of(app, heap.start)
        assert isolate_lru_page(page) == 0
        result = app.move_pages(heap, 1)
        putback_lru_page(page)
    assert result.status == (EBUSY,)
    assert result.reasons == {Reason.NOT_ON_LRU: 1}


def test_pinned(machine, app):
    heap = touched(app, 1)
    io = app.pin(heap)
    before = machine.vmstat
    result = app.move_pages(heap, 1)
    io.release()
    assert result.status == (EAGAIN,)
    assert result.returned == 0
    assert result.reasons == {Reason.PINNED: 1}
    assert machine.vmstat["pgmigrate_fail"] == before["pgmigrate_fail"]
    assert app.placement(heap) == {0: 1}


def test_locked_by_who_unlocks_in_time(machine, app):
    heap = touched(app, 1)
    page = machine.page_of(app, heap.start)
    with app.running():
        assert trylock_page(page)
    moving = machine.start(app.move_pages, heap, 1)
    machine.start(unlock_page, page)
    machine.run()
    assert moving.result.status == (1,)


def test_a_method_that_refuses(machine, app):
    remote = machine.file("remote", 4096, fs="nfs")
    view = touched(app, 1, file=remote, shared=True)
    result = app.move_pages(view, 1)  # a request is attached until the server has answered
    assert result.status == (EBUSY,)
    assert result.reasons == {Reason.METHOD_REFUSED: 1}
    assert machine.vmstat["pgmigrate_fail"] == 1
    machine.fsync(remote)
    assert app.move_pages(view, 1).status == (1,)


def test_a_dirty_page_that_nobody_can_write(machine, app):
    ram = machine.file("ram", 4096, fs="ramfs")
    view = touched(app, 1, file=ram, shared=True)
    result = app.move_pages(view, 1)
    assert result.status == (-errno.EINVAL,)
    assert result.reasons == {Reason.WRITE_FAILED: 1}


def test_no_memory_ends_the_call(machine, app):
    hog = machine.process("hog", policy=("bind", [1]))
    area = hog.mmap(MiB(20))
    hog.mbind(area, "bind", [1])
    filled = machine.start(hog.touch, area)
    machine.run()
    assert "SIGKILL" in str(filled.result)  # and its memory is there until it goes
    heap = touched(app, 2)
    with failing(errno.ENOMEM):
        app.move_pages(heap, 1)
    assert app.placement(heap) == {0: 2}


def test_what_moved_is_what_the_status_says(app):
    heap = touched(app, 4)
    assert app.move_pages(heap, [2, 1, 0, 2]).status == (2, 1, 0, 2)
    assert app.move_pages(heap).status == (2, 1, 0, 2)


def test_the_query_ignores_the_cpuset_and_the_kind_of_area(machine, app):
    heap = touched(app, 1)
    app.mm.mmap[0].vm_flags |= VM_IO
    assert app.move_pages([heap.start, 0x1000]).status == (0, EFAULT)


def test_counters(machine, app):
    heap = touched(app, 3)
    app.move_pages(heap, 1)
    machine.drain_pagevecs()
    assert machine.vmstat["pgmigrate_success"] == 3
    assert machine.nodes[1]["AnonPages"] == 12
    assert machine.nodes[0]["AnonPages"] == 0
