"""Copies on write, and what is counted, in kernels after v3.19: there references count, not
who maps the page."""

import pytest

from mmigrate import Machine, MiB

OF_2020 = ("09854ba94c6a",)
OF_2022 = ("09854ba94c6a", "6c287605fd56")


def booted(backports):
    machine = Machine(nodes=(MiB(64),) * 2, backports=backports)
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    return machine, app, heap


@pytest.mark.parametrize(("backports", "copied"), [((), False), (OF_2020, True), (OF_2022, True)])
def test_a_page_that_was_shared_is_copied_while_it_is_pinned(backports, copied):
    machine, app, heap = booted(backports)
    pin = app.pin(heap)
    app.fork().exit()
    app.write(heap.start, b"new")
    assert (app.move_pages(heap, 1).status == (1,)) == copied
    pin.release()
    assert machine.check() == []


@pytest.mark.parametrize(("backports", "copied"), [((), False), (OF_2020, True), (OF_2022, False)])
def test_a_page_that_was_never_shared_is_remembered(backports, copied):
    machine, app, heap = booted(backports)
    pin = app.pin(heap)
    app.mprotect(heap, "r")
    app.mprotect(heap, "rw")
    app.write(heap.start, b"new")
    assert (app.move_pages(heap, 1).status == (1,)) == copied
    pin.release()
    assert machine.check() == []


@pytest.mark.parametrize("backports", [OF_2020, OF_2022])
def test_who_is_left_alone_keeps_his_page(backports):
    machine, app, heap = booted(backports)
    app.move_pages(heap, 1)
    child = app.fork()
    child.write(heap.start, b"child")
    child.exit()
    app.write(heap.start, b"again")
    app.write(heap.start, b"more!")
    assert app.placement(heap) == {1: 1}
    assert app.read(heap.start, 5) == b"more!"
    assert machine.check() == []


@pytest.mark.parametrize("backports", [OF_2020, OF_2022])
def test_both_of_a_shared_page_write(backports):
    machine, app, heap = booted(backports)
    child = app.fork()
    app.write(heap.start, b"app")
    child.write(heap.start, b"kid")
    assert (app.read(heap.start, 3), child.read(heap.start, 3)) == (b"app", b"kid")
    assert machine.check() == []


@pytest.mark.parametrize(("kernel", "areas"), [("v6.1", 2), ("v6.7", 1)])
def test_untouched_memory_that_is_made_read_only_is_not_accounted(kernel, areas):
    machine = Machine(nodes=(MiB(64),), kernel=kernel)
    app = machine.process("app")
    heap = app.mmap(pages=4, prot="r")
    app.mprotect(heap[2:4], "rw")
    app.mprotect(heap[2:4], "r")
    assert len([vma for vma in app.mm.mmap if vma.vm_start >= heap.start]) == areas
    assert machine.check() == []


@pytest.mark.parametrize(("more", "copied"), [((), False), (("2fbb0c10d1e8",), True)])
def test_a_page_that_was_just_unlocked_has_a_reference_more(more, copied):
    machine, app, heap = booted((*OF_2022, *more))
    app.mlock(heap)
    child = app.fork()
    app.write(heap.start, b"new")  # the child's page is unlocked by that
    child.set_mempolicy("bind", [1])
    child.write(heap.start, b"kid")
    assert child.placement(heap) == ({1: 1} if copied else {0: 1})
    assert machine.check() == []
    machine.drain_pagevecs()
    assert machine.check() == []


def test_so_many_are_let_go_of_together():
    machine = Machine(nodes=(MiB(64),) * 2, backports=(*OF_2022, "2fbb0c10d1e8"))
    app = machine.process("app")
    heap = app.mmap(pages=16)
    app.mlock(heap)
    child = app.fork()
    app.touch(heap)
    child.set_mempolicy("bind", [1])
    child.touch(heap)
    assert child.placement(heap) == {0: 15, 1: 1}
    assert machine.check() == []


@pytest.mark.parametrize(("backports", "count"), [((), 1), (("b5bade978e9b",), 512)])
def test_a_huge_page_of_hugetlb_counts_as_one_or_in_full(backports, count):
    machine = Machine(nodes=(MiB(64),) * 2, backports=backports)
    for node in 0, 1:
        machine.hugepages(1, node=node)
    app = machine.process("app")
    huge = app.mmap(MiB(2), hugetlb=MiB(2))
    app.touch(huge)
    assert app.move_pages([huge.start], 1).status == (1,)
    assert machine.vmstat["pgmigrate_success"] == count
    assert machine.check() == []
