"""Real processes on the kernel that runs the tests; what a single node can show."""

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from mmigrate import MiB, Reason, ScenarioError
from mmigrate.errors import MemoryFault
from mmigrate.real import Missing, RealMachine, puppet


@pytest.fixture
def machine():
    with RealMachine(nodes=(MiB(64),), cpus=(0, 0)) as machine:
        yield machine


@pytest.fixture
def app(machine):
    return machine.process("app")


def test_memory_is_mapped_written_and_read(app):
    heap = app.mmap(pages=3)
    assert app.read(heap.start, 4) == bytes(4)
    app.write(heap.start + 4090, b"across pages")
    assert app.read(heap.start + 4090, 12) == b"across pages"


def test_placement_counts_what_was_touched(app):
    heap = app.mmap(pages=5)
    app.touch(heap[0:2])
    app.touch(heap[2:3], write=False)  # the page of zeroes
    assert app.placement(heap) == {0: 2}


def test_tables_show_only_what_the_scenario_mapped(app):
    assert app.maps() == app.numa_maps() == app.smaps() == ""
    heap = app.mmap(pages=3)
    app.touch(heap)
    assert app.numa_maps().startswith(f"{heap.start:x} default anon=3 dirty=3")
    assert app.maps().splitlines()[0].startswith(f"{heap.start:x}-{heap.end:x} rw-p")
    assert "Rss:                  12 kB" in app.smaps()


def test_a_child_copies_on_write(app):
    heap = app.mmap(pages=2)
    app.write(heap.start, b"parent")
    child = app.fork("child")
    child.write(heap.start, b"child")
    assert app.read(heap.start, 6) == b"parent"
    assert child.read(heap.start, 6) == b"childt"


@pytest.mark.parametrize("write", [True, False])
def test_faults_are_told_and_the_process_goes_on(machine, app, write):
    heap = app.mmap(pages=1, prot="")
    with pytest.raises(MemoryFault, match=f"app got SIGSEGV at {heap.start:#x}"):
        app.touch(heap, write=write)
    view = app.mmap(pages=2, file=machine.shmem("short", 4096), shared=True)
    with pytest.raises(MemoryFault, match="SIGBUS"):
        app.touch(view, write=write)
    app.mprotect(heap, "rw")
    app.touch(heap)


def test_system_calls_give_the_errno_of_the_kernel(app):
    with pytest.raises(OSError) as caught:
        app.munmap(5, 4096)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        app.move_pages([0x1000], node=99)
    assert caught.value.errno == errno.ENODEV


def test_statuses_and_reasons(app):
    heap = app.mmap(pages=3)
    app.touch(heap[0:1])
    app.touch(heap[1:2], write=False)
    result = app.move_pages([*heap.pages(), 0x10000], node=0)
    assert result.status[0] == 0
    assert result.status[2:] == (-errno.ENOENT, -errno.EFAULT)
    assert result.reasons == {Reason.ZERO_PAGE: 1, Reason.NOT_PRESENT: 1, Reason.NO_AREA: 1}


def test_lists_that_do_not_fit_into_one_message(app):
    heap = app.mmap(pages=2000)
    app.touch(heap)
    assert app.move_pages(heap, node=0).status == (0,) * 2000
    assert app.mincore(heap) == [True] * 2000
    assert app.maps().count("\n") == 1


def test_policies(app):
    heap = app.mmap(pages=1)
    app.mbind(heap, "bind=static", [0])
    assert app.get_mempolicy(heap.start, 2) == (2 | 1 << 15, (0,))
    app.set_mempolicy("interleave", [0])
    assert app.get_mempolicy() == (3, (0,))
    with pytest.raises(OSError):
        app.mbind(heap, "bind", [])


def test_a_pin_is_a_reference_until_it_is_released(app):
    heap = app.mmap(pages=40)
    pin = app.pin(heap)
    child = app.fork()
    assert len(os.listdir(f"/proc/{app.pid}/fd")) == 3
    assert len(os.listdir(f"/proc/{child.pid}/fd")) == 1
    pin.release()
    pin.release()
    assert len(os.listdir(f"/proc/{app.pid}/fd")) == 1


def test_heap_mremap_mlock_and_mincore(app):
    bottom = app.brk()
    assert app.brk(bottom + 8192) == bottom + 8192
    app.touch(bottom, length=8192)
    assert "heap anon=2" in app.numa_maps()
    area = app.mmap(pages=2)
    app.write(area.start, b"moved")
    grown = app.mremap(area, 5 * 4096)
    assert app.read(grown.start, 5) == b"moved"
    app.mlock(grown[0:1])
    assert app.mincore(grown) == [True, False, False, False, False]
    app.munlock(grown)


def test_files(machine, app):
    kind = "tmpfs"
    file = machine.file("data", 5000, fs=kind, data=b"first")
    view = app.mmap(5000, file=file, shared=True)
    assert app.read(view.start, 5) == b"first"
    app.write(view.start, b"F")
    assert app.pread(file, 5) == b"First"
    assert app.pwrite(file, b"!", 5) == 1
    assert app.read(view.start, 6) == b"First!"
    machine.fsync(file)
    machine.truncate(file, 2)
    assert file.i_size == 2


def test_another_user_may_not(machine):
    if os.geteuid() != 0:
        with pytest.raises(Missing, match="only root"):
            machine.process(uid=1000)
        return
    victim, stranger = machine.process("victim", uid=1000), machine.process(uid=1001)
    brother = machine.process("brother", uid=1000)
    page = victim.mmap(pages=1)
    victim.touch(page)
    with pytest.raises(PermissionError):
        stranger.move_pages(page, 0, process=victim)
    assert brother.move_pages(page, 0, process=victim).status == (0,)
    with pytest.raises(PermissionError):
        victim.move_pages(page, 0, flags=4)


def test_tasks_run_at_the_same_time_on_threads_of_their_own(machine, app):
    heap = app.mmap(pages=64)
    app.touch(heap)
    moving = machine.start(app.move_pages, heap, 0, cpu=0)
    forking = machine.start(app.fork, "child", cpu=1)
    failing = machine.start(app.munmap, 5, 4096)

    def both():
        app.write(heap.start, b"from a task")
        return app.read(heap.start, 4)

    mine = machine.start(both)
    with pytest.raises(ScenarioError, match="has not finished"):
        _ = moving.result
    machine.run(seed=3)
    assert moving.result.status == (0,) * 64
    assert failing.result.errno == errno.EINVAL
    assert mine.result == b"from"
    assert forking.result.placement(heap) == {0: 64}
    assert len(os.listdir(f"/proc/{app.pid}/task")) == 1
    assert app.maps().count("\n") == 1


def test_what_a_task_raises_is_raised_by_run(machine):
    def wrong():
        raise ValueError("mine")

    machine.start(wrong)
    with pytest.raises(ValueError, match="mine"):
        machine.run()


def test_a_process_that_was_killed_is_told(app):
    os.kill(app.pid, signal.SIGKILL)
    with pytest.raises(ScenarioError, match="app was killed by SIGKILL"):
        app.mmap(pages=1)


def test_an_order_that_takes_too_long_ends_all_processes():
    with RealMachine(nodes=(MiB(1),), seconds=0.2) as machine:
        app, other = machine.process("app"), machine.process("other")
        with pytest.raises(ScenarioError, match=r"app: an order was not carried out within 0.2 s"):
            app.order(puppet.SPIN, 1 << 50)
        with pytest.raises(ScenarioError, match="other was killed by SIGKILL"):
            other.mmap(pages=1)


def test_exit_ends_the_process(machine, app):
    app.exit()
    assert machine.processes == []
    with pytest.raises(ProcessLookupError):
        app.mmap(pages=1)


def test_looks_inside_the_model_are_told_apart(machine, app):
    for look in (lambda: machine.page_of, lambda: machine.kernel, lambda: app.mm):
        with pytest.raises(Missing, match="a real kernel does not show it"):
            look()


def test_more_nodes_than_there_are(machine):
    with pytest.raises(Missing, match="the scenario needs 64 nodes; this kernel has"):
        RealMachine(nodes=(MiB(1),) * 64)


INTERRUPTED = """
import os, signal, sys
from mmigrate import MiB
from mmigrate.real import RealMachine
from mmigrate.real.puppet import SPIN
with RealMachine(nodes=(MiB(1),)) as machine:
    app = machine.process("app")
    file = machine.shmem("file", 4096)
    child = app.fork()
    print(app.pid, child.pid, file.path, flush=True)
    if %r:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        machine.start(child.order, SPIN, 1 << 50)
        machine.run()
    os.kill(os.getpid(), signal.SIG%s)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "busy"), [("INT", False), ("KILL", False), ("INT", True)], ids=str
)
def test_nothing_is_left_behind(name, busy):
    program = INTERRUPTED % (busy, name)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == (-9 if name == "KILL" else -2)
    first, second, path = done.stdout.split()
    for _ in range(400):
        left = [path for path in (os.path.dirname(path),) if os.path.exists(path)]
        left += [pid for pid in (first, second) if os.path.exists(f"/proc/{pid}/maps")]
        if not left:
            return
        signal.sigtimedwait([], 0.01)
    pytest.fail(f"{left} are left")


def test_what_no_hugetlbfs_can_be():
    with RealMachine(nodes=(MiB(1),)) as machine:
        with pytest.raises((Missing, ScenarioError), match=r"a limit of -1 bytes|only root"):
            machine.hugetlbfs(-1)
        with pytest.raises(Missing, match=r"pages of 8192 bytes|only root"):
            machine.hugetlbfs(page_size=8192)


def test_files_that_tell_of_memory():
    with RealMachine(nodes=(MiB(1),)) as machine:
        assert "managed" in machine.zoneinfo
        for name in ("unusable_index", "extfrag_index", "pagetypeinfo"):
            with suppress(Missing):
                assert "zone" in getattr(machine, name)
