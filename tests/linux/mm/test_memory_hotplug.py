"""Memory goes out of use and comes back; single pages go for good."""

from errno import EAGAIN, EBUSY, EINVAL, EIO, ENOMEM, EPERM

import pytest

from mmigrate import GiB, Machine, MiB, ScenarioError
from mmigrate.errors import KernelBug
from mmigrate.linux.include.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, MIGRATE_UNMOVABLE
from mmigrate.linux.include.mm import MADV_DONTNEED, MADV_HUGEPAGE, MADV_SOFT_OFFLINE
from mmigrate.linux.include.page_flags import PG_hwpoison, PG_reserved
from mmigrate.linux.include.vmstat import NR_FREE_PAGES
from mmigrate.linux.mm import huge_split, memory_hotplug, page_alloc, swap
from mmigrate.linux.mm.memory_hotplug import (
    MEM_CANCEL_OFFLINE,
    MEM_GOING_OFFLINE,
    MEM_GOING_ONLINE,
    MEM_OFFLINE,
    MEM_ONLINE,
)

PAGE = 4096


def two_nodes(pages=600, **options):
    machine = Machine(nodes=(MiB(16), MiB(16)), **options)
    app = machine.process("app", cpu=1)
    heap = app.mmap(pages=pages)
    app.touch(heap)
    for number, address in enumerate(heap.pages()):
        app.write(address, number.to_bytes(4, "little"))
    machine.drain_pagevecs()
    assert app.placement(heap) == {1: pages}
    return machine, app, heap


def is_whole(machine, app, heap):
    for number, address in enumerate(heap.pages()):
        assert app.read(address, 4) == number.to_bytes(4, "little")
    machine.drain_pagevecs()
    assert machine.check() == []


def failing(call, *arguments):
    with pytest.raises(OSError, match=r".") as caught:
        call(*arguments)
    return caught.value.errno


# --- a node ---


def test_a_node_goes_and_comes_back():
    machine, app, heap = two_nodes()
    machine.offline(1)
    assert app.placement(heap) == {0: 600}
    assert machine.nodes[1]["MemTotal"] == 0
    assert not machine.kernel.node_states_memory >> 1 & 1
    more = app.mmap(pages=10)
    app.touch(more)
    assert app.placement(more) == {0: 10}
    is_whole(machine, app, heap)
    machine.online(1)
    assert machine.nodes[1]["MemFree"] == 16 * 1024
    app.move_pages(heap, node=1)
    assert app.placement(heap) == {1: 600}
    is_whole(machine, app, heap)


def test_a_node_goes_with_its_movable_zone_first():
    machine, app, heap = two_nodes(movable=(MiB(8), MiB(8)))
    machine.offline(1)
    assert app.placement(heap) == {0: 600}
    is_whole(machine, app, heap)
    machine.online(1)
    assert [zone.name for zone in machine.kernel.nodes[1].node_zones] == ["Normal", "Movable"]
    is_whole(machine, app, heap)


def test_ordinary_memory_does_not_go_before_the_movable():
    machine, app, heap = two_nodes(movable=(MiB(8), MiB(8)))
    normal = machine.kernel.nodes[1].node_zones[0]
    assert failing(machine.offline, range(normal.zone_start_pfn, normal.end_pfn)) == EINVAL
    is_whole(machine, app, heap)


def test_huge_pages_are_split_and_move():
    machine = Machine(nodes=(MiB(16), MiB(16)), thp="always")
    app = machine.process("app", cpu=1)
    heap = app.mmap(MiB(6))
    app.madvise(heap, MADV_HUGEPAGE)
    app.touch(heap)
    machine.offline(1)
    assert app.placement(heap) == {0: MiB(6) // PAGE}
    machine.drain_pagevecs()
    assert machine.check() == []


def test_frames_out_of_use_are_not_handed_out():
    machine, app, heap = two_nodes(pages=20)
    _, frames = ranges(machine)
    machine.offline(frames)
    assert failing(machine.alloc_contig, frames.start, frames.stop) == EBUSY
    machine.offline(1)
    assert failing(machine.alloc_contig, frames.start, frames.stop) == EBUSY
    is_whole(machine, app, heap)


def test_a_cgroup_made_while_a_node_is_out_of_use_has_lists_there():
    machine, app, heap = two_nodes()
    machine.offline(1)
    app.join(machine.cgroup("group"))
    machine.online(1)
    more = app.mmap(pages=4)
    app.mbind(more, "bind", [1])
    app.touch(more)
    assert app.placement(more) == {1: 4}
    is_whole(machine, app, heap)


# --- a range ---


def ranges(machine):
    """The zone of the second node, and where its first pages are: behind what is reserved."""
    zone = machine.kernel.nodes[1].node_zones[0]
    return zone, range(zone.zone_start_pfn + 1024, zone.zone_start_pfn + 2048)


def test_a_range_goes_and_its_frames_are_reserved():
    machine, app, heap = two_nodes()
    zone, frames = ranges(machine)
    machine.offline(frames)
    assert zone.present_pages == 4096 - 1024
    assert not any(app.page_at(address).pfn in frames for address in heap.pages())
    known = [page for page in machine.kernel.mem_map[frames[0] >> 9] if page is not None]
    assert known
    assert all(page.flags & PG_reserved for page in known)
    machine.compact()
    is_whole(machine, app, heap)
    assert failing(machine.online, range(frames.start, frames.stop + 512)) == EINVAL
    machine.online(range(frames.start, frames.start + 512))
    machine.online(range(frames.start + 512, frames.stop))
    assert (zone.present_pages, zone.offline) == (4096, [])
    assert not any(page.flags & PG_reserved for page in known)
    is_whole(machine, app, heap)


@pytest.mark.parametrize("seed", range(4))
def test_two_take_a_range_out_of_use_and_back(seed):
    machine, app, heap = two_nodes(pages=20)
    zone, frames = ranges(machine)
    for call in (machine.offline, machine.online):
        both = [machine.start(call, frames) for _ in range(2)]
        machine.run(seed)
        failed = [each.result for each in both if each.result is not None]
        assert [error.errno for error in failed] == [EINVAL]
        is_whole(machine, app, heap)
    assert zone.present_pages == 4096


@pytest.mark.parametrize("odd", [range(1, 512), range(512, 512), range(1 << 30, (1 << 30) + 512)])
def test_not_a_range_of_pageblocks(odd):
    machine, app, heap = two_nodes()
    assert failing(machine.offline, odd) == EINVAL
    with pytest.raises(ScenarioError, match="no node 7"):
        machine.offline(7)
    is_whole(machine, app, heap)


def test_nor_a_range_that_cuts_a_free_block():
    machine, app, heap = two_nodes()
    zone, frames = ranges(machine)
    assert failing(machine.offline, range(frames.start, frames.start + 512)) == EINVAL
    assert failing(machine.offline, range(zone.end_pfn - 512, zone.end_pfn)) == EINVAL
    is_whole(machine, app, heap)


def test_a_pinned_page_keeps_its_range():
    machine, app, heap = two_nodes(pages=20)
    _, frames = ranges(machine)
    pin = app.pin(heap[0:1])
    told = []

    def listener(action, *_):
        told.append(action)
        return 0

    machine.kernel.memory_chain.append(listener)
    assert pin.pages[0].pfn in frames
    assert failing(machine.offline, frames) == EAGAIN
    assert told == [MEM_GOING_OFFLINE, MEM_CANCEL_OFFLINE]
    is_whole(machine, app, heap)
    pin.release()
    told.clear()
    machine.offline(frames)
    machine.online(frames)
    assert told == [MEM_GOING_OFFLINE, MEM_OFFLINE, MEM_GOING_ONLINE, MEM_ONLINE]
    is_whole(machine, app, heap)


def test_a_notifier_can_refuse():
    machine, app, heap = two_nodes(pages=20)
    _, frames = ranges(machine)
    machine.kernel.memory_chain.append(
        lambda action, *_: -EBUSY if action == MEM_GOING_OFFLINE else 0
    )
    assert failing(machine.offline, frames) == EBUSY
    is_whole(machine, app, heap)


def test_a_notifier_can_refuse_the_way_back():
    machine, app, heap = two_nodes(pages=20)
    _, frames = ranges(machine)
    machine.offline(frames)
    machine.kernel.memory_chain.append(
        lambda action, *_: -EBUSY if action == MEM_GOING_ONLINE else 0
    )
    assert failing(machine.online, frames) == EBUSY
    is_whole(machine, app, heap)


def test_unmovable_memory_keeps_its_range():
    machine, app, heap = two_nodes(pages=20)
    with app.running():
        page = page_alloc.alloc_pages_node(machine.kernel, 1, GFP_KERNEL, 0)
        start = page.pfn & ~1023
        assert failing(machine.offline, range(start, start + 1024)) == EBUSY
        swap.put_page(page)
    is_whole(machine, app, heap)


def test_pages_of_a_balloon_do_not_go():
    machine, app, heap = two_nodes(pages=20)
    machine.balloon.inflate(200)
    start = machine.balloon.given[0] & ~1023
    assert failing(machine.offline, range(start, start + 1024)) == EBUSY
    assert machine.balloon.pages == 200
    is_whole(machine, app, heap)


def test_a_page_in_use_that_is_on_no_list_is_given_up_after_five_tries():
    machine, app, heap = two_nodes(pages=20)
    with app.running():
        page = page_alloc.alloc_pages_node(machine.kernel, 1, GFP_HIGHUSER_MOVABLE, 0)
        _, frames = ranges(machine)
        assert page.pfn in frames
        assert memory_hotplug.do_migrate_range(machine.kernel, page.pfn, page.pfn + 1) == -EBUSY
        assert failing(machine.offline, frames) == EBUSY
        swap.put_page(page)
    is_whole(machine, app, heap)


def test_nowhere_to_go():
    machine = Machine(nodes=(MiB(16), MiB(16)))
    app = machine.process("app", cpu=1)
    heap = app.mmap(MiB(24))
    app.touch(heap)
    with pytest.raises(OSError, match=r"."):
        machine.offline(1)
    machine.drain_pagevecs()
    assert machine.check() == []


# --- single pages ---


def test_a_page_in_use_moves_and_its_frame_is_never_used_again():
    machine, app, heap = two_nodes()
    page = app.page_at(heap.start)
    app.madvise(heap.start, MADV_SOFT_OFFLINE, PAGE)
    assert app.page_at(heap.start) is not page
    assert app.placement(heap) == {1: 600}
    assert page.flags & PG_hwpoison
    app.munmap(heap[300:])
    more = app.mmap(MiB(14))
    app.touch(more)
    assert not any(app.page_at(address) is page for address in more.pages())
    is_whole(machine, app, heap[:300])
    app.munmap(more)
    is_whole(machine, app, heap[:300])


def test_twice_is_once():
    machine, app, heap = two_nodes(pages=20)
    pfn = app.page_at(heap.start).pfn
    machine.soft_offline(pfn)
    assert failing(machine.soft_offline, pfn) == EBUSY
    assert machine.kernel.num_poisoned_pages == 1
    is_whole(machine, app, heap)


def test_a_free_page_is_only_marked():
    machine, app, _ = two_nodes(pages=20)
    zone, _ = ranges(machine)
    machine.soft_offline(zone.end_pfn - 5)
    machine.soft_offline(zone.end_pfn - 600)
    assert machine.vmstat["pgmigrate_success"] == 0
    with app.running():
        taken = []
        for order in (9, 8, 0):
            while page := page_alloc.alloc_pages_node(
                machine.kernel, 1, GFP_HIGHUSER_MOVABLE, order
            ):
                taken.append((page, order))
        for page, order in taken:
            assert not page.pfn <= zone.end_pfn - 5 < page.pfn + (1 << order)
            page_alloc.__free_pages(page, order)
    # a block that has a bad page in it is dropped as a whole
    assert {violation.oracle for violation in machine.check()} == {"frames"}


def test_the_first_page_of_a_large_free_block_takes_it_along():
    """A defect that v3.19 has."""
    machine, _, _ = two_nodes(pages=20)
    zone, _ = ranges(machine)
    free = zone.vm_stat[NR_FREE_PAGES]
    machine.soft_offline(zone.end_pfn - 1024)
    assert zone.vm_stat[NR_FREE_PAGES] == free - 1024
    machine.soft_offline(zone.end_pfn - 2047)
    assert zone.vm_stat[NR_FREE_PAGES] == free - 1024
    assert {violation.oracle for violation in machine.check()} == {"frames"}


def test_a_clean_page_of_a_file_is_dropped():
    machine = Machine(nodes=(MiB(16),))
    app = machine.process("app")
    file = machine.file("data", 4 * PAGE, data=b"on disk")
    view = app.mmap(pages=4, file=file)
    app.touch(view, write=False)
    page = app.page_at(view.start)
    machine.drain_pagevecs()
    app.madvise(view, MADV_DONTNEED)
    machine.soft_offline(page.pfn)
    assert machine.vmstat["pgmigrate_success"] == 0
    assert app.read(view.start, 7) == b"on disk"
    assert app.page_at(view.start) is not page
    machine.drain_pagevecs()
    assert machine.check() == []


def test_a_mapped_page_of_a_file_moves():
    machine = Machine(nodes=(MiB(16),))
    app = machine.process("app")
    file = machine.file("data", 4 * PAGE, data=b"on disk")
    view = app.mmap(pages=4, file=file, shared=True)
    app.touch(app.mmap(pages=1))
    app.write(view.start, b"changed")
    app.madvise(view.start, MADV_SOFT_OFFLINE, PAGE)
    assert machine.vmstat["pgmigrate_success"] == 1
    assert app.read(view.start, 7) == b"changed"
    machine.drain_pagevecs()
    assert machine.check() == []


def test_a_pinned_page_stays():
    machine, app, heap = two_nodes(pages=20)
    pin = app.pin(heap[0:1])
    assert failing(app.madvise, heap.start, MADV_SOFT_OFFLINE, PAGE) == EIO
    assert machine.kernel.num_poisoned_pages == 0
    pin.release()
    is_whole(machine, app, heap)


def test_part_of_a_huge_page():
    machine = Machine(nodes=(MiB(16),))
    app = machine.process("app")
    heap = app.mmap(MiB(4))
    app.madvise(heap, MADV_HUGEPAGE)
    app.write(heap.start, b"x")
    app.touch(heap)
    app.madvise(heap.start, MADV_SOFT_OFFLINE, 3 * PAGE)
    assert machine.kernel.num_poisoned_pages == 3
    assert app.read(heap.start, 1) == b"x"
    machine.drain_pagevecs()
    assert machine.check() == []


def test_only_for_administrators_and_where_there_is_memory():
    machine, _, _ = two_nodes(pages=20)
    user = machine.process("user", uid=1000)
    area = user.mmap(pages=1)
    assert failing(user.madvise, area, MADV_SOFT_OFFLINE) == EPERM
    root = machine.process("root")
    with pytest.raises(OSError, match="Bad address"):
        root.madvise(0x1000, MADV_SOFT_OFFLINE, PAGE)
    with pytest.raises(ScenarioError, match="no frame"):
        machine.soft_offline(3)
    assert machine.check() == []


def test_the_pageblock_is_movable_afterwards_whatever_it_was():
    machine = Machine(nodes=(MiB(16),))
    app = machine.process("app")
    with app.running():
        page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_KERNEL, 0)
        zone = page.zone
        assert page_alloc.get_pageblock_migratetype(zone, page.pfn) == MIGRATE_UNMOVABLE
        swap.put_page(page)
        page_alloc.drain_all_pages(machine.kernel)
    machine.soft_offline(page.pfn + 1)
    assert page.pfn >> 9 not in zone.pageblock_type
    assert machine.check() == []


def test_a_page_on_no_list_keeps_the_reference_of_the_second_look():
    machine = Machine(nodes=(MiB(16),))
    app = machine.process("app")
    with app.running():
        page = page_alloc.alloc_pages_node(machine.kernel, 0, GFP_HIGHUSER_MOVABLE, 0)
    assert failing(machine.soft_offline, page.pfn) == EIO
    assert page._count == 2
    with app.running():
        swap.put_page(page)
        swap.put_page(page)
    assert machine.check() == []


def test_bad_memory_comes_back_from_nowhere():
    machine, app, heap = two_nodes(pages=20)
    zone, frames = ranges(machine)
    page = app.page_at(heap.start)
    machine.soft_offline(page.pfn)
    machine.offline(frames)
    machine.online(frames)
    with app.running():
        taken = []
        while (found := page_alloc.alloc_pages_node(machine.kernel, 1, GFP_KERNEL, 0)) is not None:
            taken.append(found)
        assert page not in taken
        for found in taken:
            swap.put_page(found)
    assert zone.present_pages == 4096
    is_whole(machine, app, heap)


def test_compaction_hands_out_bad_memory():
    """A defect that v3.19 has: the free scanner takes pages by their place, and does not look."""
    machine = Machine(nodes=(MiB(16),))
    app = machine.process("app")
    heap = app.mmap(MiB(12))
    app.touch(heap)
    machine.drain_pagevecs()
    top = max((app.page_at(address) for address in heap.pages()), key=lambda page: page.pfn)
    for address in list(heap.pages())[::2]:
        app.madvise(address, MADV_DONTNEED, PAGE)
    machine.drain_pagevecs()
    page_alloc.drain_all_pages(machine.kernel)
    assert top.flags & PG_hwpoison == 0
    pfn = top.pfn if top._count == 0 else top.pfn - 1
    machine.soft_offline(pfn)
    machine.compact()
    found = [violation.oracle for violation in machine.check()]
    assert set(found) == {"out of use"}


# --- pages of hugetlb ---


def with_huge_page(**options):
    """A process with a huge page on node 1, and a pool page on each of the others."""
    machine = Machine(nodes=(MiB(16),) * 3, **options)
    machine.hugepages(1, node=1)
    app = machine.process("app", cpu=1)
    heap = app.mmap(MiB(2), hugetlb=MiB(2))
    app.write(heap.start + 5000, b"huge")
    return machine, app, heap


def test_a_huge_page_in_use_moves_within_its_node_when_it_is_to_go():
    machine, app, heap = with_huge_page()
    machine.hugepages(2, node=1)
    old = app.page_at(heap.start)
    app.madvise(heap.start, MADV_SOFT_OFFLINE, PAGE)
    assert app.read(heap.start + 5000, 4) == b"huge"
    assert app.page_at(heap.start) is not old
    assert all(machine.kernel.page_of(old.pfn + n).flags & PG_hwpoison for n in range(512))
    assert machine.kernel.num_poisoned_pages == 512
    assert (machine.meminfo["HugePages_Total"], machine.meminfo["HugePages_Free"]) == (2, 0)
    app.exit()
    assert machine.check() == []


def test_without_another_it_is_surplus_that_takes_its_place():
    machine, app, heap = with_huge_page()
    machine.hugepages(overcommit=1)
    app.madvise(heap.start, MADV_SOFT_OFFLINE, PAGE)
    assert app.read(heap.start + 5000, 4) == b"huge"
    assert machine.kernel.num_poisoned_pages == 1
    # It was freed as one block, which is lost with its head.
    assert {violation.oracle for violation in machine.check()} == {"frames"}


def test_without_room_it_stays_as_it_was():
    machine, app, heap = with_huge_page()
    assert failing(app.madvise, heap.start, MADV_SOFT_OFFLINE, PAGE) == ENOMEM
    assert app.read(heap.start + 5000, 4) == b"huge"
    assert machine.kernel.num_poisoned_pages == 0
    assert machine.check() == []


def test_a_free_huge_page_leaves_its_pool():
    machine, _, _ = with_huge_page()
    machine.hugepages(1, node=2)
    (free,) = machine.kernel.hugetlb.hstates[0].hugepage_freelists[2]
    machine.soft_offline(free.pfn + 7)
    assert machine.meminfo["HugePages_Free"] == 0
    assert failing(machine.soft_offline, free.pfn) == EBUSY
    assert machine.check() == []


def test_a_huge_page_of_a_size_that_cannot_move_is_put_back_twice():
    machine = Machine(nodes=(GiB(2), GiB(2)))
    machine.hugepages(1, node=0, size=GiB(1))
    app = machine.process("app")
    heap = app.mmap(GiB(1), hugetlb=GiB(1))
    app.write(heap.start, b"huge")
    with pytest.raises(KernelBug, match="is mapped"):
        app.madvise(heap.start, MADV_SOFT_OFFLINE, PAGE)


@pytest.mark.parametrize(("backports", "kept"), [((), 1), (("unsplit-lets-go",), 0)])
def test_a_huge_page_that_cannot_be_split_keeps_a_reference(monkeypatch, backports, kept):
    """A known defect of v3.19: the one that madvise came with."""
    machine = Machine(nodes=(MiB(16),), backports=backports)
    app = machine.process("app")
    heap = app.mmap(MiB(4))
    app.madvise(heap, MADV_HUGEPAGE)
    app.touch(heap)
    start = (heap.start + MiB(2) - 1) & -MiB(2)
    page = app.page_at(start)
    before = page._count
    monkeypatch.setattr(huge_split, "split_huge_page", lambda _page: 1)
    assert failing(app.madvise, start, MADV_SOFT_OFFLINE, PAGE) == EBUSY
    assert page._count - before == kept


def test_later_kernels_put_it_back_once():
    machine, app, _ = with_huge_page(backports=["30809f559a0d", "cb6acd01e2e4"])
    machine.hugepages(3, node=1)
    mount = machine.hugetlbfs(MiB(2))
    private = app.mmap(MiB(2), file=mount.file("f", MiB(2)))
    app.write(private.start, b"stays")
    assert failing(app.madvise, private.start, MADV_SOFT_OFFLINE, PAGE) == EIO
    assert app.read(private.start, 5) == b"stays"
    assert machine.kernel.num_poisoned_pages == 0
    assert machine.check() == []


def test_huge_pages_leave_a_range_that_goes():
    machine, app, heap = with_huge_page()
    machine.hugepages(1, node=2)
    machine.offline(1)
    assert app.placement(heap) == {2: 512}
    assert app.read(heap.start + 5000, 4) == b"huge"
    assert machine.meminfo["HugePages_Total"] == 1
    assert machine.check() == []


def test_a_range_whose_huge_page_has_no_place_to_go_stays():
    machine, app, heap = with_huge_page()
    assert failing(machine.offline, 1) == ENOMEM
    assert app.placement(heap) == {1: 512}
    assert machine.check() == []


# --- later kernels ---


@pytest.mark.parametrize("wanted", [0, 3, 511])
def test_a_bad_page_leaves_its_free_block_alone(wanted):
    machine = Machine(nodes=(MiB(16),), backports=["06be6ff3d2ec"])
    app = machine.process("app")
    heap = app.mmap(pages=8)
    app.touch(heap)
    bad = app.page_at(heap.start).pfn
    app.madvise(heap.start, MADV_SOFT_OFFLINE, PAGE)
    machine.soft_offline((bad | 511) + 512 + wanted)  # within a large free block
    machine.compact()
    app.exit()
    assert machine.kernel.num_poisoned_pages == 2
    assert machine.check() == []


@pytest.mark.parametrize(("backports", "error"), [((), EIO), (("3f4b815a439a",), EBUSY)])
def test_a_pinned_page_does_not_go(backports, error):
    machine = Machine(nodes=(MiB(16),), backports=backports)
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    pin = app.pin(heap)
    assert failing(app.madvise, heap.start, MADV_SOFT_OFFLINE, PAGE) == error
    pin.release()
    assert machine.check() == []
