"""Areas against a model that knows each page for itself."""

from __future__ import annotations

import errno

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmigrate import Machine, MiB
from mmigrate.api import Mapping
from mmigrate.linux.fs.inode import open_file
from mmigrate.linux.include.mm import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    MAP_SHARED,
    VM_ACCOUNT,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WRITE,
)
from mmigrate.linux.include.pgtable import PAGE_READONLY, PAGE_SHARED
from mmigrate.linux.mm import mmap, mprotect, vma

BASE = 0x10000000
PAGES = 20
PAGE = 4096
ANON = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED


def machine() -> Machine:
    return Machine(nodes=(MiB(4), MiB(4)))


# --- the model: for each page its access, whether it is accounted, and its offset in the file ---

ranges = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(
    lambda pair: range(pair[0], min(pair[0] + pair[1], PAGES))
)
prots = st.sampled_from([0, VM_READ, VM_READ | VM_WRITE])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("anon"), ranges, prots),
        st.tuples(st.just("file"), ranges, prots),
        st.tuples(st.just("unmap"), ranges, st.just(0)),
        st.tuples(st.just("protect"), ranges, prots),
    ),
    min_size=1,
    max_size=12,
)


def apply_to_model(model, kind, pages, prot):
    if kind == "unmap":
        for page in pages:
            model.pop(page, None)
    elif kind == "anon":
        for page in pages:
            model[page] = (prot, bool(prot & VM_WRITE), None)
    elif kind == "file":  # shared, at an offset that continues from the base
        for page in pages:
            model[page] = (prot, False, page)
    else:
        for page in pages:
            if page not in model:
                return  # the call ends at the first hole
            _, accounted, offset = model[page]
            accounted |= offset is None and bool(prot & VM_WRITE)
            model[page] = (prot, accounted, offset)


def apply_to_kernel(task, file, kind, pages, prot):
    start, size = BASE + pages[0] * PAGE, len(pages) * PAGE
    if kind == "unmap":
        assert mmap.sys_munmap(task, start, size) == 0
    elif kind == "anon":
        assert mmap.do_mmap(task, start, size, prot, ANON, None, 0) == start
    elif kind == "file":
        flags = MAP_SHARED | MAP_FIXED
        assert mmap.do_mmap(task, start, size, prot, flags, file, pages[0]) == start
    else:
        assert mprotect.sys_mprotect(task, start, size, prot) in (0, -errno.ENOMEM)


def runs_of(model):
    """The fewest areas that could describe the model."""
    found = []
    for page in sorted(model):
        if found and found[-1][1] == page and model[page - 1][:2] == model[page][:2]:
            if (model[page - 1][2] is None) == (model[page][2] is None):
                found[-1][1] = page + 1
                continue
        found.append([page, page + 1])
    return [(first, last, model[first]) for first, last in found]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps)
def test_every_page_has_its_properties_in_as_few_areas_as_possible(steps):
    computer = machine()
    app = computer.process("app")
    file = open_file(computer.file("data", PAGES * PAGE))
    model = {}
    with app.running() as task:
        for step in steps:
            apply_to_kernel(task, file, *step)
            apply_to_model(model, *step)
    expected = runs_of(model)
    assert [
        (
            (area.vm_start - BASE) // PAGE,
            (area.vm_end - BASE) // PAGE,
            (
                area.vm_flags & (VM_READ | VM_WRITE),
                bool(area.vm_flags & VM_ACCOUNT),
                None if area.vm_file is None else area.vm_pgoff,
            ),
        )
        for area in app.mm.mmap
    ] == [
        (first, last, (prot, accounted, offset))
        for first, last, (prot, accounted, offset) in expected
    ]
    assert computer.check() == []


KINDS = [
    "anon",
    "file",
    "unmap",
    "protect",
    "touch",
    "fork",
    "child",
    "lock",
    "unlock",
    "move",
    "migrate",
    "swap",
    "forget",
]
mixed_steps = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        ranges,
        prots,
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mixed_steps)
def test_no_sequence_of_calls_upsets_an_oracle(steps):
    computer = machine()
    app = computer.process("app")
    file = open_file(computer.file("data", PAGES * PAGE))
    whole = app.mmap(pages=PAGES, at=BASE)
    computer.swapon(MiB(1))
    for kind, pages, prot in steps:
        start, size = BASE + pages[0] * PAGE, len(pages) * PAGE
        try:
            if kind == "touch":
                app.touch(start, length=size, write=bool(prot & VM_WRITE))
            elif kind == "fork":
                app.fork()
            elif kind == "child":
                computer.processes[-1].touch(start, length=size)
            elif kind == "migrate":
                app.move_pages(Mapping(start, size), node=1)
            elif kind == "swap":
                computer.swap_out(app, whole)
            elif kind == "lock":
                app.mlock(start, size)
            elif kind == "unlock":
                app.munlock(start, size)
            elif kind == "move":
                half = BASE + PAGES * PAGE
                area = mmap.find_vma(app.mm, start)
                if area is not None:
                    length = area.vm_end - max(start, area.vm_start)
                    app.mremap(Mapping(max(start, area.vm_start), length), length, at=half)
            elif kind == "forget":
                app.madvise(start, 4, size)
            else:
                with app.running() as task:
                    apply_to_kernel(task, file, kind, pages, prot)
        except OSError:
            pass
    assert computer.check() == []
    for process in list(computer.processes):
        process.exit()
    assert computer.check() == []
    assert computer.kernel.anon_vmas == {}


# --- finding ---


def test_find_vma_gives_the_first_area_that_ends_above():
    computer = machine()
    app = computer.process()
    low = app.mmap(pages=2, at=BASE, prot="r")
    high = app.mmap(pages=1, at=BASE + 8 * PAGE)
    mm = app.mm
    assert mmap.find_vma(mm, 0) is mm.mmap[0]
    assert mmap.find_vma(mm, low.start + 2 * PAGE - 1) is mm.mmap[0]
    assert mmap.find_vma(mm, low.start + 2 * PAGE) is mm.mmap[1]
    assert mmap.find_vma(mm, high.start + PAGE) is None
    assert mmap.find_vma_prev(mm, high.start) == (mm.mmap[1], mm.mmap[0])
    assert mmap.find_vma_prev(mm, high.start + PAGE) == (None, mm.mmap[1])


def test_new_mappings_go_down_from_mmap_base_into_the_highest_hole():
    app = machine().process()
    first = app.mmap(pages=4, prot="r")
    second = app.mmap(pages=4)
    third = app.mmap(pages=4, prot="r")
    assert first.start + first.length == 0x7FFFF7FFF000
    assert (second.start, third.start) == (first.start - 4 * PAGE, first.start - 8 * PAGE)
    app.munmap(second)
    assert app.mmap(pages=5).start == third.start - 5 * PAGE
    assert app.mmap(pages=3).start == second.start + PAGE


def test_a_wish_is_granted_only_if_nothing_is_there():
    app = machine().process()
    app.mmap(pages=1, at=BASE)
    with app.running() as task:
        free = mmap.do_mmap(task, BASE + PAGE + 17, PAGE, 3, ANON & ~MAP_FIXED, None, 0)
        taken = mmap.do_mmap(task, BASE, PAGE, 3, ANON & ~MAP_FIXED, None, 0)
    assert free == BASE + PAGE
    assert taken > 0x7FFF00000000


# --- errors ---


def call(app, addr, size, prot, flags, file=None, pgoff=0):
    with app.running() as task:
        return mmap.do_mmap(task, addr, size, prot, flags, file, pgoff)


def test_errors_of_mmap():
    computer = machine()
    app = computer.process()
    inode = computer.file("data", PAGE)
    readable, writable = open_file(inode, VM_READ), open_file(inode, VM_WRITE)
    assert call(app, 0, 0, 3, ANON) == -errno.EINVAL
    assert call(app, 0, PAGE, 3, MAP_ANONYMOUS) == -errno.EINVAL
    assert call(app, BASE + 1, PAGE, 3, ANON) == -errno.EINVAL
    assert call(app, 0, 1 << 47, 3, ANON) == -errno.ENOMEM
    assert call(app, 0, PAGE, 3, MAP_SHARED, readable) == -errno.EACCES
    assert call(app, 0, PAGE, 1, MAP_PRIVATE, writable) == -errno.EACCES
    assert call(app, 0, PAGE, 3, MAP_SHARED | MAP_GROWSDOWN | MAP_ANONYMOUS) == -errno.EINVAL
    assert call(app, 0, PAGE, 3, MAP_PRIVATE, readable, (1 << 52) - 1) == -errno.EOVERFLOW


def test_a_shared_mapping_of_a_read_only_file_is_a_private_one_that_cannot_become_writable():
    computer = machine()
    app = computer.process()
    file = open_file(computer.file("data", PAGE), VM_READ)
    start = call(app, 0, PAGE, VM_READ, MAP_SHARED, file)
    assert not app.mm.mmap[0].vm_flags & VM_SHARED
    with pytest.raises(PermissionError):
        app.mprotect(start, "rw")


def test_errors_of_munmap():
    app = machine().process()
    with app.running() as task:
        assert mmap.sys_munmap(task, BASE + 1, PAGE) == -errno.EINVAL
        assert mmap.sys_munmap(task, BASE, 0) == -errno.EINVAL
        assert mmap.sys_munmap(task, BASE, 1 << 47) == -errno.EINVAL
        assert mmap.sys_munmap(task, BASE, PAGE) == 0  # nothing there


def test_a_hole_needs_one_more_area(monkeypatch):
    app = machine().process()
    where = app.mmap(pages=3)
    monkeypatch.setattr(mmap, "sysctl_max_map_count", 1)
    monkeypatch.setattr(vma, "sysctl_max_map_count", 1)
    with app.running() as task:
        assert mmap.sys_munmap(task, where.start + PAGE, PAGE) == -errno.ENOMEM
    app.munmap(where.start, PAGE)  # cutting off does not
    assert app.mm.map_count == 1


# --- protection ---


def test_shared_memory_is_write_protected_where_dirty_pages_are_counted():
    computer = machine()
    app = computer.process()
    app.mmap(pages=1, file=computer.file("counted", PAGE), shared=True)
    app.mmap(pages=1, shared=True)
    counted, plain = sorted(app.mm.mmap, key=lambda area: area.vm_file.f_inode.name)
    assert mmap.vma_wants_writenotify(counted)
    assert counted.vm_page_prot == PAGE_READONLY
    assert not mmap.vma_wants_writenotify(plain)
    assert plain.vm_page_prot == PAGE_SHARED


def test_clearing_soft_dirty_makes_shared_memory_fault_again():
    computer = machine()
    app = computer.process()
    app.mmap(pages=1, shared=True)
    (area,) = app.mm.mmap
    area.vm_flags &= ~VM_SOFTDIRTY
    with app.running():
        mmap.vma_set_page_prot(area)
    assert area.vm_page_prot == PAGE_READONLY


# --- heap and stack ---


def test_brk_grows_shrinks_and_stays_where_something_is_in_the_way():
    app = machine().process()
    mm = app.mm
    start = mm.start_brk
    with app.running() as task:
        assert mmap.sys_brk(task, 0) == start
        assert mmap.sys_brk(task, start + 3 * PAGE + 5) == start + 3 * PAGE + 5
        assert [(a.vm_start, a.vm_end) for a in mm.mmap] == [(start, start + 4 * PAGE)]
        assert mmap.sys_brk(task, start + PAGE) == start + PAGE
        assert mm.total_vm == 1
    app.mmap(pages=1, at=start + 4 * PAGE, prot="r")
    with app.running() as task:
        assert mmap.sys_brk(task, start + 4 * PAGE) == start + PAGE
        assert mmap.sys_brk(task, start + 3 * PAGE) == start + 3 * PAGE


def test_a_stack_grows_by_faults_up_to_its_limit():
    computer = machine()
    app = computer.process()
    stack = app.mmap(pages=1, at=BASE, flags=MAP_GROWSDOWN)
    app.touch(stack)
    app.touch(BASE - 5 * PAGE)
    (area,) = app.mm.mmap
    assert (area.vm_start, area.vm_pgoff) == (BASE - 5 * PAGE, (BASE - 5 * PAGE) >> 12)
    assert computer.check() == []
    with app.running():
        assert mmap.expand_stack(area, area.vm_end - mmap.RLIMIT_STACK - PAGE) == -errno.ENOMEM
        assert mmap.expand_stack(area, area.vm_end - mmap.RLIMIT_STACK) == 0


def test_a_stack_does_not_touch_another_area():
    app = machine().process()
    app.mmap(pages=1, at=BASE, flags=MAP_GROWSDOWN)
    app.mmap(pages=1, at=BASE - 2 * PAGE, prot="r")
    with app.running():
        assert mmap.expand_stack(app.mm.mmap[1], BASE - PAGE) == -errno.ENOMEM


# --- merging areas that have pages ---


def test_a_faulted_neighbour_lends_its_anon_vma_so_that_areas_can_be_merged_again():
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=4)
    app.mprotect(where.start + 2 * PAGE, "r", 2 * PAGE)
    app.touch(where.start)
    app.touch(where.start + 2 * PAGE, write=False)
    app.mprotect(where.start + 2 * PAGE, "rw", 2 * PAGE)
    app.touch(where)
    assert app.mm.map_count == 1
    assert computer.check() == []


def test_shifting_a_border_takes_the_anon_vma_along():
    """The pages that change hands must be found from their new area."""
    computer = machine()
    app = computer.process()
    where = app.mmap(pages=6)
    app.touch(where)
    app.mprotect(where.start + 3 * PAGE, "r", 3 * PAGE)
    app.mprotect(where.start + 3 * PAGE, "rw", PAGE)  # up
    assert [area.vm_end - area.vm_start for area in app.mm.mmap] == [4 * PAGE, 2 * PAGE]
    app.mprotect(where.start + 2 * PAGE, "r", 2 * PAGE)  # down
    assert [area.vm_end - area.vm_start for area in app.mm.mmap] == [2 * PAGE, 4 * PAGE]
    assert computer.check() == []
    assert set(app.move_pages(where, node=1).status) == {1}
