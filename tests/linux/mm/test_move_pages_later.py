"""move_pages of kernels after v3.19, switch by switch."""

import errno

import pytest

from mmigrate import Machine, MiB, Reason
from mmigrate.linux.include.mm import MADV_MERGEABLE

NODES = (MiB(64),) * 3


def booted(*backports, kernel="v3.19", **options):
    machine = Machine(nodes=NODES, backports=backports, kernel=kernel, **options)
    app = machine.process("app")
    heap = app.mmap(pages=4)
    app.touch(heap)
    return machine, app, heap


def test_zero_page_and_untouched_memory_are_faults_since_v4_3():
    machine, app, _ = booted("d899844e9c98")
    heap = app.mmap(pages=2)
    app.touch(heap[0:1], write=False)
    assert app.move_pages(heap).status == (-errno.EFAULT, -errno.EFAULT)
    shared = app.mmap(pages=1, shared=True)
    assert app.move_pages(shared).status == (-errno.ENOENT,)
    assert machine.check() == []


def test_untouched_memory_is_nothing_again_since_v6_12():
    machine, app, _ = booted(kernel="v6.12")
    heap = app.mmap(pages=2)
    app.touch(heap[0:1], write=False)
    for node in (None, 1):
        assert app.move_pages(heap, node).status == (-errno.EFAULT, -errno.ENOENT)
    assert machine.check() == []


@pytest.mark.parametrize(("kernel", "status"), [("v6.1", -errno.ENOENT), ("v6.5", 1)])
def test_pages_without_access_were_out_of_sight_for_a_while(kernel, status):
    machine, app, heap = booted(kernel=kernel)
    app.mprotect(heap, "")
    assert app.move_pages(heap, 1).status == (status,) * 4
    assert machine.check() == []


@pytest.mark.parametrize(("backports", "left"), [((), 1), (("5984fabb6e82",), 3)])
def test_a_run_that_fails_ends_the_call_which_counts_what_is_left(backports, left):
    machine, app, heap = booted("a49bd4d71637", *backports)
    pin = app.pin(heap[0:1])
    result = app.move_pages(heap, [1, 1, 2, 2])
    assert result.returned == left
    assert app.placement(heap) == {0: 3, 1: 1}
    assert result.reasons == {Reason.PINNED: 1}
    pin.release()
    assert machine.check() == []


def test_a_bad_node_is_told_after_what_came_before_has_moved():
    machine, app, heap = booted("a49bd4d71637")
    with pytest.raises(OSError) as caught:
        app.move_pages(heap, [1, 1, 9, 1])
    assert caught.value.errno == errno.ENODEV
    assert app.placement(heap) == {0: 2, 1: 2}
    assert machine.check() == []


def test_a_page_can_move_twice_in_a_call_once_no_vector_keeps_it():
    for backports, status in (((), -errno.EBUSY), (("d479960e44f2",), 2)):
        machine, app, heap = booted("a49bd4d71637", *backports)
        assert app.move_pages([heap.start] * 2, [1, 2]).status == (1, status)
        assert machine.check() == []


def test_shared_pages_are_told_and_end_their_run_without_ending_the_call():
    machine, app, heap = booted("a49bd4d71637")
    child = app.fork()
    app.write(heap.start, b"own")
    result = app.move_pages(heap, 1)
    assert result.status == (1, -errno.EACCES, -errno.EACCES, -errno.EACCES)
    assert result.reasons == {Reason.SHARED: 3}
    assert child.placement(heap) == {0: 4}
    assert machine.check() == []


def test_no_memory_on_the_node_ends_the_call():
    machine = Machine(nodes=(MiB(64), MiB(4)), kernel="v6.1")
    app = machine.process("app")
    heap = app.mmap(MiB(12))
    app.touch(heap)
    with pytest.raises(OSError) as caught:
        app.move_pages(heap, 1)
    assert caught.value.errno == errno.ENOMEM
    with pytest.raises(OSError) as caught:
        app.migrate_pages([0], [1])
    assert caught.value.errno == errno.ENOMEM
    assert machine.vmstat["pgmigrate_fail"] == 2
    assert machine.check() == []


def test_a_static_preferred_policy_loses_its_mask_since_v5_14():
    machine, app, _ = booted("269fbe72cded")
    group = machine.cpuset("group", [0, 1])
    app.join(group)
    app.set_mempolicy("preferred=static", [1])
    machine.set_mems(group, [0, 2])
    assert app.get_mempolicy() == (32769, (0, 2))
    assert machine.check() == []


def test_locked_memory_that_becomes_writable_is_copied_since_v4_2():
    for backports, faults in (((), True), (("36f881883c57",), False)):
        machine = Machine(nodes=NODES, backports=backports)
        app = machine.process("app")
        heap = app.mmap(pages=1, prot="r")
        app.mlock(heap)
        app.mprotect(heap, "rw")
        assert (app.placement(heap) == {}) == faults  # still the page of zeroes
        assert machine.check() == []


@pytest.mark.parametrize(("kernel", "not_moved"), [("v3.19", 0), ("v6.1", 0), ("v6.12", 2)])
def test_what_cannot_be_isolated_counts_for_migrate_pages(kernel, not_moved):
    """One merged page is met at three places, and can be isolated at the first only."""
    machine = Machine(nodes=(MiB(8), MiB(8)), kernel=kernel)
    app = machine.process("app")
    heap = app.mmap(pages=3)
    app.touch(heap)
    app.madvise(heap, MADV_MERGEABLE)
    machine.ksm_scan()
    assert app.migrate_pages([0], [1]) == not_moved
    assert app.placement(heap) == {1: 3}
    assert machine.check() == []
