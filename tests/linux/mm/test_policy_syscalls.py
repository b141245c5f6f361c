"""mbind, set_mempolicy, get_mempolicy, migrate_pages: every check and outcome."""

import errno

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.include.mempolicy import (
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_F_ADDR,
    MPOL_F_MEMS_ALLOWED,
    MPOL_F_NODE,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_MF_LAZY,
    MPOL_PREFERRED,
)
from mmigrate.linux.include.mm import VM_IO
from mmigrate.linux.kernel.cpuset import new_cpuset
from mmigrate.linux.mm.cpuset_migration import cpuset_attach, cpuset_set_mems
from mmigrate.linux.mm.mempolicy import mpol_to_str


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


# --- mbind: checks ---


@pytest.mark.parametrize(
    ("mode", "nodes", "options", "number"),
    [
        (5, [0], {}, errno.EINVAL),  # no such mode
        (MPOL_BIND | MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES, [0], {}, errno.EINVAL),
        (MPOL_BIND, [0], {"flags": MPOL_MF_LAZY}, errno.EINVAL),
        (MPOL_BIND, [0], {"flags": 1 << 10}, errno.EINVAL),
        (MPOL_BIND, [], {}, errno.EINVAL),
        (MPOL_INTERLEAVE, [], {}, errno.EINVAL),
        (MPOL_DEFAULT, [0], {}, errno.EINVAL),
        (MPOL_LOCAL, [0], {}, errno.EINVAL),
        (MPOL_PREFERRED | MPOL_F_STATIC_NODES, [], {}, errno.EINVAL),
        (MPOL_BIND, [3], {}, errno.EINVAL),  # no node of these has memory
        (MPOL_BIND, [0], {"maxnode": 1}, errno.EINVAL),  # an empty mask: off by one
        (MPOL_BIND, [0], {"maxnode": 4096 * 8 + 2}, errno.EINVAL),
        (MPOL_BIND, [1500], {"maxnode": 2000}, errno.EINVAL),
    ],
)
def test_mbind_refuses(app, mode, nodes, options, number):
    heap = app.mmap(pages=1)
    with failing(number):
        app.mbind(heap, mode, nodes, **options)


def test_mbind_of_an_odd_address(app):
    with failing(errno.EINVAL):
        app.mbind(app.mmap(pages=1).start + 1, "bind", [0])


def test_mbind_of_nothing(app):
    app.mbind(app.mmap(pages=1).start, "bind", [0], length=0)


def test_mbind_beyond_the_end_of_the_world(app):
    with failing(errno.EINVAL):
        app.mbind(1 << 63, "bind", [0], length=(1 << 63) + 4096)


def test_move_all_needs_the_capability(machine):
    user = machine.process("user", uid=1000)
    with failing(errno.EPERM):
        user.mbind(user.mmap(pages=1), "bind", [0], move_all=True)


# --- mbind: holes ---


def test_no_area_at_all(app):
    with failing(errno.EFAULT):
        app.mbind(0x7FFFF0000000, "default", length=4096)


def test_a_hole_between_areas(app):
    heap = app.mmap(pages=3)
    app.munmap(heap[1:2])
    with failing(errno.EFAULT):
        app.mbind(heap, "bind", [0])
    app.mbind(heap, "default")  # tolerated


def test_a_start_in_a_hole(app):
    heap = app.mmap(pages=3)
    app.munmap(heap[0:1])
    with failing(errno.EFAULT):
        app.mbind(heap, "default")


# --- mbind: what is moved, and the answer ---


def test_without_flags_nothing_moves(app):
    heap = touched(app, 2)
    app.mbind(heap, "bind", [1])
    assert app.placement(heap) == {0: 2}
    assert "bind:1" in app.numa_maps()


def test_strict_alone_reports_and_sets_nothing(app):
    heap = touched(app, 2)
    with failing(errno.EIO):
        app.mbind(heap, "bind", [1], strict=True)
    assert "bind" not in app.numa_maps()


def test_strict_with_default_is_dropped(app):
    app.mbind(touched(app, 1), "default", strict=True)


def test_move_moves_the_exclusive(app):
    heap = touched(app, 4)
    child = app.fork()
    child.write(heap.start, b"own copy")
    app.mbind(heap, "bind", [1], move=True)
    assert app.placement(heap) == {0: 3, 1: 1}


def test_move_all_moves_the_shared(app):
    heap = touched(app, 4)
    child = app.fork()
    app.mbind(heap, "bind", [1], move_all=True)
    assert app.placement(heap) == child.placement(heap) == {1: 4}


def test_strict_and_move_with_a_pinned_page(app):
    heap = touched(app, 2)
    io = app.pin(heap[0:1])
    with failing(errno.EIO):
        app.mbind(heap, "bind", [1], move=True, strict=True)
    io.release()
    assert app.placement(heap) == {0: 1, 1: 1}
    assert "bind:1" in app.numa_maps()  # the policy was set all the same


def test_strict_and_move_with_a_shared_page_succeeds(app):
    heap = touched(app, 1)
    app.fork()
    app.mbind(heap, "bind", [1], move=True, strict=True)
    assert app.placement(heap) == {0: 1}


def test_default_with_move_moves_even_what_is_well_placed(machine, app):
    heap = touched(app, 2)
    before = machine.vmstat["pgmigrate_success"]
    app.mbind(heap, "default", move=True)
    assert machine.vmstat["pgmigrate_success"] == before + 2
    assert app.placement(heap) == {0: 2}


def test_local_with_strict_alone_objects_to_any_page(app):
    with failing(errno.EIO):
        app.mbind(touched(app, 1), "local", strict=True)


def test_an_area_that_does_not_migrate_is_passed_over(app):
    heap = touched(app, 1)
    app.mm.mmap[0].vm_flags |= VM_IO
    app.mbind(heap, "bind", [1], move=True)
    assert app.placement(heap) == {0: 1}


def test_interleave_with_move_spreads_by_offset(app):
    heap = touched(app, 6)
    app.mbind(heap, "interleave", [1, 2], move=True)
    assert app.placement(heap) == {1: 3, 2: 3}


def test_interleave_leaves_what_is_on_one_of_its_nodes(app):
    heap = touched(app, 6)
    app.mbind(heap, "interleave", [0, 1, 2], move=True)
    assert app.placement(heap) == {0: 6}


def test_areas_are_split_and_merged_again(app):
    heap = app.mmap(pages=6)
    app.mbind(heap[2:4], "bind", [1])
    assert len(app.mm.mmap) == 3
    app.mbind(heap[2:4], "default")
    assert len(app.mm.mmap) == 1


# --- set_mempolicy and get_mempolicy ---


@pytest.mark.parametrize(
    ("mode", "nodes", "shown", "told"),
    [
        ("bind", [1], "bind:1", (MPOL_BIND, (1,))),
        ("bind", [0, 1, 2], "bind:0-2", (MPOL_BIND, (0, 1, 2))),
        ("interleave", [0, 2], "interleave:0,2", (MPOL_INTERLEAVE, (0, 2))),
        ("preferred", [1, 2], "prefer:1", (MPOL_PREFERRED, (1,))),
        ("preferred", [], "local", (MPOL_PREFERRED, ())),
        ("local", [], "local", (MPOL_PREFERRED, ())),
        ("default", [], "default", (MPOL_DEFAULT, ())),
        ("bind=static", [1, 5], "bind=static:1", (MPOL_BIND | MPOL_F_STATIC_NODES, (1, 5))),
        (
            "bind=relative",
            [1, 4],
            "bind=relative:1",
            (MPOL_BIND | MPOL_F_RELATIVE_NODES, (1, 4)),
        ),
    ],
)
def test_policies_and_how_they_are_told(app, mode, nodes, shown, told):
    app.set_mempolicy(mode, nodes)
    assert mpol_to_str(app.task.mempolicy) == shown
    assert app.get_mempolicy() == told


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (("bind", [2]), {2: 4}),
        (("bind", [1, 2]), {2: 4}),  # the CPU is on node 0; both are equally far
        (("preferred", [1]), {1: 4}),
        (("local", []), {0: 4}),
        (("interleave", [0, 1]), {0: 2, 1: 2}),
    ],
)
def test_where_pages_come_from(machine, policy, expected):
    app = machine.process("placed", policy=policy)
    placed = app.placement(touched(app, 4))
    assert sum(placed.values()) == 4
    if policy[0] != "bind" or len(policy[1]) == 1:
        assert placed == expected
    else:
        assert set(placed) <= set(policy[1])


def test_interleaving_without_an_area_goes_on_where_it_was(machine, app):
    file = machine.file("f", 6 * 4096)
    app.set_mempolicy("interleave", [0, 1, 2])
    app.pread(file, 6 * 4096)
    nodes = sorted(p.zone.nid for p in file.i_mapping.page_tree.slots.values())
    assert nodes == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ({"flags": 8}, errno.EINVAL),
        ({"flags": MPOL_F_MEMS_ALLOWED | MPOL_F_NODE}, errno.EINVAL),
        ({"address": 4096}, errno.EINVAL),
        ({"address": 4096, "flags": MPOL_F_ADDR}, errno.EFAULT),
        ({"flags": MPOL_F_NODE}, errno.EINVAL),  # not interleaving
        ({"maxnode": 8}, errno.EINVAL),
    ],
)
def test_get_mempolicy_refuses(app, arguments, number):
    with failing(number):
        app.get_mempolicy(**arguments)


def test_get_mempolicy_answers(app):
    heap = app.mmap(pages=2)
    app.mbind(heap, "bind", [2])
    assert app.get_mempolicy(flags=MPOL_F_MEMS_ALLOWED) == (0, (0, 1, 2))
    assert app.get_mempolicy(heap.start, MPOL_F_ADDR) == (MPOL_BIND, (2,))
    other = app.mmap(pages=1)
    assert app.get_mempolicy(other.start, MPOL_F_ADDR) == (MPOL_DEFAULT, ())
    # with NODE the page is brought in, by a load: the page of zeroes is on node 0
    assert app.get_mempolicy(heap.start, MPOL_F_ADDR | MPOL_F_NODE)[0] == 0
    app.touch(heap)
    assert app.get_mempolicy(heap.start, MPOL_F_ADDR | MPOL_F_NODE)[0] == 2
    app.set_mempolicy("interleave", [1, 2])
    assert app.get_mempolicy(flags=MPOL_F_NODE)[0] == 1


# --- migrate_pages ---


@pytest.mark.parametrize(
    ("from_", "to", "expected"),
    [
        ([0], [1], {1: 8, 2: 4}),
        ([0, 1], [1, 2], {1: 4, 2: 8}),
        ([0, 1], [2], {2: 12}),
        ([0, 1], [0, 1], {0: 4, 1: 4, 2: 4}),
        ([0, 1, 2], [1, 2], {1: 8, 2: 4}),  # sizes differ: 1 and 2 stay, 0 goes to 1
        ([0], [], {0: 4, 1: 4, 2: 4}),
    ],
)
def test_which_pages_go_where(app, from_, to, expected):
    heaps = []
    for node in range(3):
        app.set_mempolicy("bind", [node])
        heaps.append(touched(app, 4))
    app.set_mempolicy("default")
    assert app.migrate_pages(from_, to) == 0
    placed = {}
    for heap in heaps:
        for node, count in app.placement(heap).items():
            placed[node] = placed.get(node, 0) + count
    assert placed == expected


def test_what_cannot_move_is_counted(app):
    heap = touched(app, 3)
    io = app.pin(heap[0:2])
    assert app.migrate_pages([0], [1]) == 2
    io.release()
    assert app.placement(heap) == {0: 2, 1: 1}


def test_an_ordinary_user_moves_only_his_own(machine):
    user = machine.process("user", uid=1000)
    heap = touched(user, 2)
    child = user.fork()
    child.write(heap.start, b"x")
    assert user.migrate_pages([0], [1]) == 0  # what is shared is not even counted
    assert user.placement(heap) == {0: 1, 1: 1}


def test_migrate_pages_refuses(machine, app):
    user = machine.process("user", uid=1000)
    other = machine.process("other", uid=1001)
    with failing(errno.EPERM):
        user.migrate_pages([0], [1], process=other)
    with failing(errno.EINVAL):
        app.migrate_pages([0], [5])
    with failing(errno.EINVAL):
        app.migrate_pages([0], [1], maxnode=4096 * 8 + 2)
    gone = machine.process("gone")
    gone.exit()
    with failing(errno.ESRCH):
        app.migrate_pages([0], [1], process=gone)


def test_a_full_target_falls_back(machine, app):
    hog = machine.process("hog", policy=("bind", [1]))
    area = hog.mmap(MiB(20))
    hog.mbind(area, "bind", [1])
    filled = machine.start(hog.touch, area)
    machine.run()
    assert "SIGKILL" in str(filled.result)  # and its memory is there until it goes
    heap = touched(app, 4)
    assert app.migrate_pages([0], [1]) == 0
    assert sum(app.placement(heap).values()) == 4


# --- cpusets ---


def test_new_nodes_of_a_target_must_be_allowed(machine):
    user = machine.process("user", uid=1000)
    touched(user, 1)
    cpuset_attach(new_cpuset(machine.kernel, "half", 0b011), user.task)
    with failing(errno.EPERM):
        user.migrate_pages([0], [2])


def test_a_cpuset_confines_allocation(machine, app):
    cpuset_attach(new_cpuset(machine.kernel, "far", 0b100), app.task)
    assert app.placement(touched(app, 3)) == {2: 3}


def test_memory_follows_a_cpuset_that_says_so(machine, app):
    cpuset = new_cpuset(machine.kernel, "group", 0b001)
    cpuset.memory_migrate = True
    with app.running():
        cpuset_attach(cpuset, app.task)
        heap = touched(app, 3)
        cpuset_set_mems(cpuset, 0b010)
    assert app.placement(heap) == {1: 3}


@pytest.mark.parametrize(
    ("mode", "nodes", "before", "after", "shown"),
    [
        ("bind", [0, 1], 0b011, 0b110, "bind:1-2"),
        ("bind=static", [0, 1], 0b011, 0b110, "bind=static:1"),
        ("bind=relative", [0], 0b011, 0b110, "bind=relative:1"),
        ("preferred", [0], 0b011, 0b110, "prefer:1"),
        ("preferred=static", [0], 0b011, 0b110, "local=static"),
        ("local", [], 0b011, 0b110, "local"),
    ],
)
def test_policies_are_rebound(machine, app, mode, nodes, before, after, shown):
    cpuset = new_cpuset(machine.kernel, "group", before)
    with app.running():
        cpuset_attach(cpuset, app.task)
        app.set_mempolicy(mode, nodes)
        cpuset_set_mems(cpuset, after)
    assert mpol_to_str(app.task.mempolicy) == shown
