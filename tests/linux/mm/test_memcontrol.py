"""Memory cgroups: who pays for a page, from the first touch to the last reference."""

import errno

import pytest

from mmigrate import Machine, MiB, explore
from mmigrate.history.by_kernel import move_by_kernel
from mmigrate.linux.drivers import block
from mmigrate.linux.include.mm import MADV_HUGEPAGE
from mmigrate.linux.include.page_flags import PG_writeback
from mmigrate.linux.kernel.page_flags import lock_page, unlock_page
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.mm import filemap, memcontrol, swap, vmscan

PAGE = 4096


class Scene:
    def __init__(self, **options):
        self.machine = Machine(nodes=(MiB(16), MiB(16)), **options)
        self.machine.swapon(MiB(4))
        self.group = self.machine.cgroup("m")
        self.app = self.machine.process("app")
        self.app.join(self.group)

    def heap(self, pages=4):
        area = self.app.mmap(pages=pages)
        for number, address in enumerate(area.pages()):
            self.app.write(address, b"%d" % number)
        self.machine.drain_pagevecs()
        return area

    def pages(self):
        """How many are charged, without stock."""
        stat = self.group.group.stat
        return stat["rss"] + stat["cache"]

    def clean(self):
        assert self.machine.check() == []


def test_nothing_is_charged_before_the_first_group():
    machine = Machine()
    app = machine.process("app")
    heap = app.mmap(pages=3)
    app.touch(heap, write=True)
    page = machine.page_of(app, heap.start)
    machine.cgroup("late")
    app.write(heap.start, b"x")
    assert page.mem_cgroup is None
    app.munmap(heap)
    assert machine.check() == []


def test_a_page_older_than_the_groups_is_not_charged_on_its_way_to_swap():
    """The end of its writing would be counted where the beginning was not."""
    machine = Machine(nodes=(MiB(16),))
    area = machine.swapon(MiB(1))
    block.disk(machine.kernel, area.device).hold = True
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.write(heap.start, b"old")
    machine.drain_pagevecs()
    group = machine.cgroup("late")
    app.join(group)
    page = machine.page_of(app, heap.start)
    with app.running():
        get_page(page)
        _, [left] = vmscan._reclaim_once([page])
        swap.put_page(left)
    assert machine.page_of(app, heap.start) is None and page.flags & PG_writeback
    assert app.read(heap.start, 3) == b"old"  # it comes back before it is written
    assert machine.page_of(app, heap.start).mem_cgroup is None
    block.release(machine.kernel, area.device)
    machine.finish_io()
    assert group.stat["writeback"] == 0
    assert machine.check() == []


def test_processes_of_the_root_have_an_owner_and_no_counter():
    machine = Machine()
    machine.cgroup("m")
    app = machine.process("app")
    heap = app.mmap(pages=3)
    app.touch(heap, write=True)
    root = machine.kernel.memcg.root
    assert machine.page_of(app, heap.start).mem_cgroup is root
    assert (root.memory.count, root.stat["rss"]) == (0, 3)
    assert machine.check() == []


def test_every_kind_of_page_is_charged_and_uncharged():
    scene = Scene()
    app, machine = scene.app, scene.machine
    file, shared = machine.file("f", 4 * PAGE), machine.shmem("s", 4 * PAGE)
    heap = scene.heap()
    view = app.mmap(pages=4, file=file, shared=True)
    app.touch(view)
    private = app.mmap(pages=2, file=file)
    app.write(private.start, b"copied")
    tmpfs = app.mmap(pages=4, file=shared, shared=True)
    app.touch(tmpfs, write=True)
    stat = scene.group.group.stat
    assert (stat["rss"], stat["cache"], stat["mapped_file"]) == (5, 8, 8)
    scene.clean()
    for area in (heap, view, private, tmpfs):
        app.munmap(area)
    assert (stat["rss"], stat["cache"], stat["mapped_file"]) == (0, 8, 0)
    machine.drain_pagevecs()
    machine.truncate(file, 0)
    machine.truncate(shared, 0)
    assert stat["cache"] == 0
    scene.clean()


def test_a_child_is_charged_to_the_group_of_its_parent():
    scene = Scene()
    heap = scene.heap(2)
    child = scene.app.fork()
    child.write(heap.start, b"copy")
    assert scene.group.group.stat["rss"] == 3
    child.exit()
    assert scene.group.group.stat["rss"] == 2
    scene.clean()


def test_usage_counts_what_cpus_have_in_stock():
    scene = Scene()
    scene.heap(1)
    assert scene.group.usage == memcontrol.CHARGE_BATCH * PAGE
    scene.clean()


def test_migration_hands_the_charge_on():
    scene = Scene()
    heap = scene.heap()
    stat, usage = dict(scene.group.group.stat), scene.group.usage
    old = scene.machine.page_of(scene.app, heap.start)
    scene.app.move_pages(heap, node=1)
    new = scene.machine.page_of(scene.app, heap.start)
    assert new is not old and new.mem_cgroup is scene.group.group and old.mem_cgroup is None
    assert (scene.group.group.stat, scene.group.usage) == (stat, usage)
    scene.clean()
    scene.app.munmap(heap)
    assert scene.pages() == 0
    scene.clean()


def test_mapped_file_follows_the_page():
    """Were the charge handed on after the ptes are restored, the statistic would lose them."""
    scene = Scene()
    view = scene.app.mmap(pages=4, file=scene.machine.file("f", 4 * PAGE), shared=True)
    scene.app.touch(view)
    scene.machine.drain_pagevecs()
    scene.app.move_pages(view, node=1)
    assert scene.group.group.stat["mapped_file"] == 4
    scene.clean()


def test_failed_migration_changes_nothing():
    scene = Scene()
    heap = scene.heap(1)
    pin = scene.app.pin(heap)
    before = dict(scene.group.group.stat)
    scene.app.move_pages(heap, node=1)
    assert scene.group.group.stat == before
    pin.release()
    scene.clean()


def test_a_pinned_page_counts_until_it_is_let_go():
    scene = Scene()
    heap = scene.heap(1)
    pin = scene.app.pin(heap)
    scene.app.munmap(heap)
    assert scene.pages() == 1
    pin.release()
    assert scene.pages() == 0
    scene.clean()


def test_exit_during_migration_uncharges_once():
    for seed in range(40):
        scene = Scene()
        heap = scene.heap(2)
        pages = [scene.machine.page_of(scene.app, address) for address in heap.pages()]
        scene.machine.start(move_by_kernel, scene.machine, pages)
        scene.machine.start(scene.app.munmap, heap)
        scene.machine.run(seed=seed)
        scene.machine.drain_pagevecs()
        assert scene.pages() == 0
        scene.clean()


def test_huge_pages_are_charged_whole_and_split():
    scene = Scene()
    area = scene.app.mmap(MiB(4))
    scene.app.madvise(area, MADV_HUGEPAGE)
    start = (area.start + MiB(2) - 1) & -MiB(2)
    scene.app.write(start, b"huge")
    stat = scene.group.group.stat
    assert (stat["rss"], stat["rss_huge"], stat["pgpgin"]) == (512, 512, 1)
    scene.clean()
    scene.app.munmap(start, PAGE)
    scene.machine.drain_pagevecs()
    assert (stat["rss"], stat["rss_huge"]) == (511, 0)
    scene.clean()


def test_a_huge_page_that_the_limit_forbids_becomes_base_pages():
    scene = Scene()
    scene.group.limit = MiB(1)
    area = scene.app.mmap(MiB(4))
    scene.app.madvise(area, MADV_HUGEPAGE)
    start = (area.start + MiB(2) - 1) & -MiB(2)
    scene.app.write(start, b"small")
    assert scene.group.group.stat["rss"] == 1
    scene.clean()


# --- swap ---


def test_life_of_a_charge_through_swap_twice():
    scene = Scene()
    heap = scene.heap(4)
    group, stat = scene.group, scene.group.group.stat
    for _ in range(2):
        scene.machine.swap_out(scene.app, heap)
        assert (stat["rss"], stat["swap"]) == (0, 4)
        assert group.memsw_usage - group.usage == 4 * PAGE
        scene.clean()
        assert scene.app.read(heap.start + PAGE, 1) == b"1"
        scene.app.touch(heap)
        assert (stat["rss"], stat["swap"]) == (4, 0)
        assert group.memsw_usage == group.usage
        scene.clean()


def test_swap_entries_that_are_unmapped_are_uncharged():
    scene = Scene()
    heap = scene.heap(4)
    scene.machine.swap_out(scene.app, heap)
    scene.app.munmap(heap)
    assert scene.group.group.stat["swap"] == 0
    assert scene.group.usage == scene.group.memsw_usage
    scene.clean()


def test_swapped_pages_are_charged_to_whom_they_belonged():
    scene = Scene()
    heap = scene.heap(2)
    scene.machine.swap_out(scene.app, heap)
    other = scene.machine.cgroup("other")
    scene.app.join(other)
    scene.app.touch(heap)
    assert (scene.pages(), other.group.stat["rss"]) == (2, 0)
    scene.clean()


def test_swapoff_charges_what_comes_back():
    scene = Scene()
    heap = scene.heap(3)
    scene.machine.swap_out(scene.app, heap)
    scene.machine.swapoff(scene.machine.kernel.swap.areas[0])
    assert scene.pages() == 3
    scene.clean()


# --- replacement: the four combinations, with the old page on the LRU or not ---


@pytest.mark.parametrize("on_lru", [True, False])
@pytest.mark.parametrize("new_charged", [True, False])
@pytest.mark.parametrize("old_charged", [True, False])
def test_replacement(old_charged, new_charged, on_lru):
    machine = Machine(nodes=(MiB(8),))
    target = machine.file("target", PAGE)
    if not old_charged:
        machine.process("before").pread(target, 1)
    m, x = machine.cgroup("m"), machine.cgroup("x")
    app = machine.process("app")
    app.join(m)
    app.pread(target, 1)
    other = machine.process("other")
    if new_charged:
        other.join(x)
    stolen = machine.file("source", PAGE, data=b"source")
    other.pread(stolen, 1)
    machine.drain_pagevecs()
    with other.running():
        old = filemap.find_lock_page(target.i_mapping, 0)
        new = filemap.find_lock_page(stolen.i_mapping, 0)
        filemap.delete_from_page_cache(new)
        if not new_charged:
            assert new.mem_cgroup is machine.kernel.memcg.root
            isolated = memcontrol.lock_page_lru(new)
            new.mem_cgroup = None  # as a page of a pipe
            memcontrol.unlock_page_lru(new, isolated)
            machine.kernel.memcg.root.stat["cache"] -= 1
        if not on_lru:
            assert vmscan.isolate_lru_page(old) == 0
        filemap.replace_page_cache_page(old, new)
        expected = x.group if new_charged else m.group if old_charged else None
        assert new.mem_cgroup is expected
        assert old.mem_cgroup is (m.group if old_charged and new_charged else None)
        unlock_page(old)
        unlock_page(new)
        if not on_lru:
            vmscan.putback_lru_page(old)
        swap.put_page(old)
        swap.put_page(new)
        machine.shadow.forget("file target", 0, 1)
        machine.shadow.forget("file source", 0, 1)
    machine.drain_pagevecs()
    assert m.group.stat["cache"] == (1 if old_charged and not new_charged else 0)
    assert x.group.stat["cache"] == (1 if new_charged else 0)
    assert machine.check() == []


def test_a_page_without_charge_has_nothing_to_hand_on():
    """Migrated before, put on the LRU for a moment, and found again by a scanner of frames."""
    scene = Scene()
    heap = scene.heap(2)
    first, second = (scene.machine.page_of(scene.app, address) for address in heap.pages())
    with scene.app.running():
        lock_page(first)
        lock_page(second)
        usage = scene.group.usage
        owner, second.mem_cgroup = second.mem_cgroup, None
        memcontrol.mem_cgroup_migrate(second, first, True)
        assert first.mem_cgroup is owner
        second.mem_cgroup = owner
        unlock_page(second)
        unlock_page(first)
    assert scene.group.usage == usage
    scene.clean()


# --- limits ---


def test_a_limit_swaps_out_inside_the_group():
    scene = Scene()
    other = scene.machine.process("other")
    quiet = other.mmap(pages=4)
    other.touch(quiet, write=True)
    scene.group.limit = 64 * PAGE
    heap = scene.heap(200)
    assert scene.group.usage <= 64 * PAGE
    assert scene.group.memsw_usage >= 200 * PAGE
    assert [scene.app.read(address, 1) for address in list(heap.pages())[:3]] == [b"0", b"1", b"2"]
    assert sum(other.placement(quiet).values()) == 4
    scene.clean()


def test_a_group_that_cannot_reclaim_runs_out_of_memory():
    scene = Scene()
    scene.group.limit = 8 * PAGE
    area = scene.app.mmap(pages=32)
    scene.app.mlock(area[0:4])
    locked = scene.app.mmap(pages=16)
    with pytest.raises(OSError) as raised:
        scene.app.mlock(locked)
    assert raised.value.errno in (errno.ENOMEM, errno.EAGAIN)
    assert scene.group.group.oom_kills > 0
    assert scene.group.usage <= 8 * PAGE
    scene.clean()


def test_a_limit_below_what_is_used_reclaims():
    scene = Scene()
    scene.heap(100)
    scene.group.limit = 40 * PAGE
    assert scene.group.usage <= 40 * PAGE
    scene.clean()


def test_hierarchy():
    scene = Scene()
    child = scene.machine.cgroup("child", parent=scene.group)
    app = scene.machine.process("below")
    app.join(child)
    scene.group.limit = 50 * PAGE
    area = app.mmap(pages=120)
    app.touch(area, write=True)
    assert scene.group.usage <= 50 * PAGE
    assert child.usage == scene.group.usage
    assert scene.group.group.stat["rss"] == 0
    with pytest.raises(OSError):
        scene.group.remove()
    scene.clean()


# --- groups that go, and tasks that change them ---


def test_a_removed_group_lives_as_long_as_its_pages():
    scene = Scene()
    file = scene.machine.file("f", 4 * PAGE)
    scene.app.pread(file, 4 * PAGE)
    with pytest.raises(OSError):
        scene.group.remove()
    group = scene.group.group
    scene.app.exit()
    scene.group.remove()
    groups = scene.machine.kernel.memcg.groups
    assert groups[group.css_id] is group and not group.online
    scene.clean()
    scene.machine.drain_pagevecs()
    scene.machine.drop_caches()
    assert group.css_id not in groups
    scene.clean()


@pytest.mark.parametrize("move", [True, False])
def test_charges_come_along_if_the_group_says_so(move):
    scene = Scene()
    file = scene.machine.file("f", 2 * PAGE)
    heap = scene.heap(6)
    view = scene.app.mmap(pages=2, file=file, shared=True)
    scene.app.touch(view)
    scene.machine.swap_out(scene.app, heap[0:2])
    target = scene.machine.cgroup("target")
    target.move_charge = move
    scene.app.join(target)
    left, came = scene.group.group.stat, target.group.stat
    names = ("rss", "cache", "mapped_file", "swap")
    assert [came[name] for name in names] == ([4, 2, 2, 2] if move else [0] * 4)
    assert [left[name] for name in names] == ([0] * 4 if move else [4, 2, 2, 2])
    scene.clean()


def test_a_join_that_does_not_fit_fails_and_changes_nothing():
    scene = Scene()
    scene.heap(40)
    target = scene.machine.cgroup("target", limit=8 * PAGE)
    target.move_charge = True
    with pytest.raises(OSError) as raised:
        scene.app.join(target)
    assert raised.value.errno == errno.ENOMEM
    assert scene.app.mm.memcg is scene.group.group
    scene.clean()


def test_charges_move_while_pages_migrate():
    for seed in range(40):
        scene = Scene()
        heap = scene.heap(3)
        file = scene.machine.file("f", 2 * PAGE)
        view = scene.app.mmap(pages=2, file=file, shared=True)
        scene.app.touch(view)
        target = scene.machine.cgroup("target")
        target.move_charge = True
        pages = [scene.machine.page_of(scene.app, address) for address in heap.pages()]
        scene.machine.start(scene.app.join, target)
        scene.machine.start(move_by_kernel, scene.machine, pages)
        scene.machine.start(scene.app.munmap, view)
        scene.machine.run(seed=seed)
        scene.clean()
        assert scene.pages() + target.group.stat["rss"] + target.group.stat["cache"] == 5


# --- before commit 0a31bc97c80c ---

BEFORE = ("0a31bc97c80c",)


def test_before_a_pinned_page_counts_for_nobody():
    scene = Scene(without=BEFORE)
    heap = scene.heap(1)
    pin = scene.app.pin(heap)
    scene.app.munmap(heap)
    assert scene.pages() == 0
    scene.clean()
    pin.release()
    scene.clean()


def test_before_exit_during_migration_is_told_by_a_flag():
    for seed in range(40):
        scene = Scene(without=BEFORE)
        heap = scene.heap(2)
        pages = [scene.machine.page_of(scene.app, address) for address in heap.pages()]
        scene.machine.start(move_by_kernel, scene.machine, pages)
        scene.machine.start(scene.app.munmap, heap)
        scene.machine.run(seed=seed)
        scene.machine.drain_pagevecs()
        assert scene.pages() == 0
        scene.clean()


def test_before_a_failed_migration_marks_and_unmarks():
    scene = Scene(without=BEFORE)
    heap = scene.heap(1)
    pin = scene.app.pin(heap)
    stat = scene.group.group.stat
    before = stat["pgpgin"], stat["pgpgout"]
    scene.app.move_pages(heap, node=1)
    assert (stat["pgpgin"], stat["pgpgout"]) == (before[0] + 10, before[1] + 10)
    assert scene.pages() == 1
    pin.release()
    scene.clean()


def test_before_swap_out_and_in_twice():
    scene = Scene(without=BEFORE)
    heap = scene.heap(4)
    stat = scene.group.group.stat
    for _ in range(2):
        scene.machine.swap_out(scene.app, heap)
        assert (stat["rss"], stat["swap"]) == (0, 4)
        scene.clean()
        scene.app.touch(heap)
        assert (stat["rss"], stat["swap"]) == (4, 0)
        scene.clean()


def test_before_each_migration_takes_the_lock_of_the_page():
    scene = Scene(without=BEFORE)
    heap = scene.heap(1)
    page = scene.machine.page_of(scene.app, heap.start)
    table = scene.machine.kernel.memcg.page_cgroups
    taken = table[page.pfn].taken
    scene.app.move_pages(heap, node=1)
    assert table[page.pfn].taken - taken == 4  # prepared, unmapped, uncharged, flag cleared
    scene.clean()


# --- every interleaving ---


def unmapped_while_it_migrates(machine):
    group = machine.cgroup("group")
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(pages=1)
    app.write(heap.start, b"x")
    machine.drain_pagevecs()
    machine.start(move_by_kernel, machine, [machine.page_of(app, heap.start)])
    machine.start(app.munmap, heap)
    machine.run()
    machine.drain_pagevecs()
    assert group.stat["rss"] == 0


def changes_groups_while_it_migrates(machine):
    source, target = machine.cgroup("source"), machine.cgroup("target")
    target.move_charge = True
    app = machine.process("app")
    app.join(source)
    heap = app.mmap(pages=1)
    app.write(heap.start, b"x")
    machine.drain_pagevecs()
    machine.start(move_by_kernel, machine, [machine.page_of(app, heap.start)])
    machine.start(app.join, target)
    machine.run()
    assert source.stat["rss"] + target.stat["rss"] == PAGE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "without", "bound"),
    [
        (unmapped_while_it_migrates, (), None),
        (unmapped_while_it_migrates, BEFORE, 300),
        (changes_groups_while_it_migrates, (), 300),
    ],
)
def test_no_interleaving_loses_a_charge(scenario, without, bound):
    """Where there is a bound the search is cut off."""
    result = explore(scenario, without=without, max_executions=bound or 2000)
    assert not result.found, str(result)
    assert result.exhausted is (bound is None)


def test_a_merged_page_is_anonymous_memory_of_its_group():
    machine = Machine(nodes=(MiB(64),))
    group = machine.cgroup("group")
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(pages=4)
    app.madvise(heap, 12)
    app.touch(heap)
    machine.ksm_scan()
    assert (group.stat["rss"], group.stat["cache"]) == (4096, 0)
    assert machine.check() == []
