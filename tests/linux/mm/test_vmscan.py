"""Isolation from the LRU lists, the verdicts of reclaim, and what each does to a page."""

from errno import EBUSY, EINVAL, EIO
from typing import NamedTuple

import pytest

from mmigrate import Machine, MiB
from mmigrate.errors import KernelBug
from mmigrate.linux.drivers import block
from mmigrate.linux.include.gfp import __GFP_FS, __GFP_IO, __GFP_WAIT, GFP_KERNEL
from mmigrate.linux.include.mm import (
    AS_UNEVICTABLE,
    ISOLATE_ASYNC_MIGRATE,
    ISOLATE_CLEAN,
    ISOLATE_UNEVICTABLE,
    ISOLATE_UNMAPPED,
    PF_KSWAPD,
    PF_SWAPWRITE,
    TTU_UNMAP,
)
from mmigrate.linux.include.mmzone import ZONE_DIRTY, ZONE_WRITEBACK
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_dirty,
    PG_locked,
    PG_lru,
    PG_reclaim,
    PG_referenced,
    PG_swapcache,
    PG_unevictable,
    PG_writeback,
)
from mmigrate.linux.include.vmstat import NR_ISOLATED_FILE
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.lib.list import ListHead, list_add, list_del, list_empty
from mmigrate.linux.mm import shmem, swap, swap_state, vmscan
from mmigrate.linux.mm.vmscan import ReclaimStat, References, ScanControl, shrink_page_list


@pytest.fixture
def machine():
    machine = Machine(nodes=(MiB(4), MiB(4)))
    yield machine
    machine.finish_io()
    machine.drain_pagevecs()
    assert [str(v) for v in machine.check()] == []


@pytest.fixture
def app(machine):
    """A process; the tests run as its thread."""
    process = machine.process("app")
    with process.running():
        yield process


def anonymous(machine, app, pages=1):
    """Pages of anonymous memory on an inactive list, not used since they were stored to."""
    heap = app.mmap(pages=pages)
    app.touch(heap)
    machine.drain_pagevecs()
    return [machine.page_of(app, address) for address in heap.pages()]


def mapped_file(machine, app, *, write=False):
    file = machine.file("f", 4096)
    view = app.mmap(pages=1, file=file, shared=True)
    app.touch(view, write=write)
    machine.drain_pagevecs()
    return machine.page_of(app, view.start)


def age(app):
    """Forget that ptes were used."""
    app.clear_refs(1)
    for cpu in app.machine.kernel.cpus:
        cpu.tlb.clear()


class Shrunk(NamedTuple):
    """How many were freed; the flags before the page was put back; whether it was left."""

    freed: int
    flags: int
    left: bool


def shrink(page, sc=None, *, force=False, stat=None):
    """Isolate a page as reclaim does, and shrink a list of it; put back what is left."""
    assert vmscan.isolate_lru_page(page) == 0
    page.flags &= ~PG_active
    pages = ListHead()
    list_add(page, pages)
    freed = shrink_page_list(
        pages, page.zone, sc or ScanControl(), TTU_UNMAP, stat or ReclaimStat(), force
    )
    shrunk = Shrunk(freed, page.flags, not list_empty(pages))
    if shrunk.left:
        list_del(page)
        vmscan.putback_lru_page(page)
        swap.lru_add_drain()
    return shrunk


# --- isolation ---


def test_an_isolated_page_has_one_reference_more_and_is_on_no_list(machine, app):
    [page] = anonymous(machine, app)
    assert vmscan.isolate_lru_page(page) == 0
    assert (page._count, page.flags & PG_lru, machine.vmstat["nr_active_anon"]) == (2, 0, 0)
    assert vmscan.isolate_lru_page(page) == -EBUSY
    assert machine.vmstat["nr_isolated_anon"] == 0  # that is the business of callers
    vmscan.putback_lru_page(page)


@pytest.mark.parametrize(
    ("flags", "mode", "result"),
    [
        (0, 0, 0),
        (PG_unevictable, 0, -EINVAL),
        (PG_unevictable, ISOLATE_UNEVICTABLE, 0),
        (PG_writeback, ISOLATE_CLEAN, -EBUSY),
        (PG_writeback, ISOLATE_ASYNC_MIGRATE, -EBUSY),
        (PG_writeback, 0, 0),
        (PG_dirty, ISOLATE_CLEAN, -EBUSY),
        (PG_dirty, ISOLATE_ASYNC_MIGRATE, 0),  # anonymous: no mapping that could refuse
        (0, ISOLATE_UNMAPPED, -EBUSY),
    ],
)
def test_scanners_take_what_their_mode_allows(machine, app, flags, mode, result):
    [page] = anonymous(machine, app)
    before = page.flags
    page.flags |= flags
    with spin_lock(page.zone.lru_lock):
        assert vmscan.__isolate_lru_page(page, mode) == result
    assert page._count == (2 if result == 0 else 1)
    if result == 0:
        swap.put_page(page)
    page.flags = before


def test_scanners_leave_a_frozen_page(machine, app):
    [page] = anonymous(machine, app)
    count, page._count = page._count, 0
    with spin_lock(page.zone.lru_lock):
        assert vmscan.__isolate_lru_page(page, 0) == -EBUSY
    assert page.flags & PG_lru
    page._count = count


def test_async_isolation_leaves_dirty_pages_that_cannot_migrate_dirty(machine, app):
    file = machine.file("f", 4096, fs="exofs")
    app.pwrite(file, b"dirty")
    machine.drain_pagevecs()
    [page] = file.i_mapping.page_tree.slots.values()
    with spin_lock(page.zone.lru_lock):
        assert vmscan.__isolate_lru_page(page, ISOLATE_ASYNC_MIGRATE) == -EBUSY


def test_a_locked_page_is_culled_and_rescued(machine, app):
    heap = app.mmap(pages=1)
    app.touch(heap)
    machine.drain_pagevecs()
    app.mlock(heap)
    page = machine.page_of(app, heap.start)
    assert page.flags & (PG_unevictable | PG_active) == PG_unevictable
    assert machine.vmstat["nr_unevictable"] == machine.vmstat["unevictable_pgs_culled"] == 1
    app.munlock(heap)
    machine.drain_pagevecs()
    assert (page.flags & PG_unevictable, machine.vmstat["nr_unevictable"]) == (0, 0)
    assert machine.vmstat["unevictable_pgs_rescued"] == 1


def test_pages_of_an_unlocked_segment_are_moved_in_place(machine, app):
    segment = machine.shmem("s", 4096)
    app.pwrite(segment, b"locked")
    machine.drain_pagevecs()
    [page] = segment.i_mapping.page_tree.slots.values()
    shmem.shmem_lock(segment, True)
    assert vmscan.isolate_lru_page(page) == 0
    vmscan.putback_lru_page(page)
    vmscan.check_move_unevictable_pages([page])
    assert page.flags & PG_unevictable
    segment.i_mapping.flags = 0
    vmscan.check_move_unevictable_pages([page])
    assert page.flags & (PG_unevictable | PG_lru) == PG_lru
    assert machine.vmstat["unevictable_pgs_rescued"] == 1
    assert machine.vmstat["unevictable_pgs_scanned"] == 2


def test_putback_of_a_page_on_a_list_is_a_bug(machine, app):
    [page] = anonymous(machine, app)
    with pytest.raises(KernelBug):
        vmscan.putback_lru_page(page)


# --- references ---


@pytest.mark.parametrize(
    ("young", "referenced", "prot", "verdict"),
    [
        (True, False, "rw", References.KEEP),
        (True, True, "rw", References.ACTIVATE),
        (True, False, "rx", References.ACTIVATE),
        (False, True, "rw", References.RECLAIM_CLEAN),
        (False, False, "rw", References.RECLAIM),
    ],
)
def test_a_file_page_must_be_used_twice(machine, app, young, referenced, prot, verdict):
    file = machine.file("f", 4096)
    view = app.mmap(pages=1, file=file, prot=prot)
    app.touch(view, write=False)
    page = machine.page_of(app, view.start)
    if not young:
        age(app)
    page.flags = page.flags & ~PG_referenced | (PG_referenced if referenced else 0)
    page.flags |= PG_locked
    assert vmscan.page_check_references(page, ScanControl()) is verdict
    assert bool(page.flags & PG_referenced) == young
    page.flags &= ~PG_locked


@pytest.mark.parametrize("young", [True, False])
def test_an_anonymous_page_is_activated_at_its_first_use(machine, app, young):
    [page] = anonymous(machine, app)
    if not young:
        age(app)
    page.flags |= PG_locked | PG_referenced
    verdict = vmscan.page_check_references(page, ScanControl())
    assert verdict is (References.ACTIVATE if young else References.RECLAIM)
    page.flags &= ~PG_locked


def test_a_page_of_a_locked_area_goes_on_to_be_found_there(machine, app):
    heap = app.mmap(pages=1)
    app.touch(heap)
    app.mlock(heap)
    page = machine.page_of(app, heap.start)
    page.flags |= PG_locked
    assert vmscan.page_check_references(page, ScanControl()) is References.RECLAIM
    page.flags &= ~PG_locked


# --- what becomes of one page, row by row ---


def test_a_locked_page_is_kept(machine, app):
    [page] = anonymous(machine, app)
    page.flags |= PG_locked
    shrunk = shrink(page)
    assert shrunk.freed == 0
    assert shrunk.flags & PG_locked
    page.flags &= ~PG_locked


def test_a_page_that_became_unevictable_leaves_the_list(machine, app):
    heap = app.mmap(pages=1)
    app.touch(heap)
    machine.drain_pagevecs()
    page = machine.page_of(app, heap.start)
    assert vmscan.isolate_lru_page(page) == 0
    app.mlock(heap)
    vmscan.putback_lru_page(page)
    shrunk = shrink(page)
    assert shrunk.freed == 0
    assert not shrunk.left
    assert page.flags & PG_unevictable


def test_mapped_pages_stay_if_only_others_are_wanted(machine, app):
    [page] = anonymous(machine, app)
    age(app)
    assert shrink(page, ScanControl(may_unmap=False)).freed == 0
    assert page._mapcount == 0


def test_without_swap_an_anonymous_page_is_activated(machine, app):
    [page] = anonymous(machine, app)
    age(app)
    assert shrink(page).freed == 0
    assert page.flags & PG_active
    assert machine.vmstat["pgactivate"] == 1


def test_without_io_an_anonymous_page_is_kept(machine, app):
    machine.swapon(MiB(1))
    [page] = anonymous(machine, app)
    age(app)
    shrunk = shrink(page, ScanControl(gfp_mask=__GFP_WAIT))
    assert shrunk.freed == 0
    assert not shrunk.flags & (PG_swapcache | PG_active)


def test_an_anonymous_page_goes_out_in_two_rounds(machine, app):
    area = machine.swapon(MiB(1))
    [page] = anonymous(machine, app)
    age(app)
    shrunk = shrink(page, ScanControl(gfp_mask=__GFP_WAIT | __GFP_IO))
    assert shrunk.freed == 0
    assert shrunk.flags & (PG_writeback | PG_reclaim | PG_swapcache | PG_locked) == (
        PG_writeback | PG_reclaim | PG_swapcache
    )
    assert machine.vmstat["nr_vmscan_write"] == 1
    stat = ReclaimStat()
    assert shrink(page, stat=stat).freed == 0
    assert (stat.nr_writeback, stat.nr_dirty) == (1, 0)  # not counted for anonymous pages
    machine.finish_io()
    swap.lru_add_drain()
    assert machine.vmstat["pgrotated"] == 1
    assert shrink(page).freed == 1
    assert (page._count, area.counts[1], area.cached[1]) == (0, 1, 0)


def test_a_young_pte_stops_the_unmapping(machine, app):
    machine.swapon(MiB(1))
    heap = app.mmap(pages=1)
    app.touch(heap)
    machine.drain_pagevecs()
    page = machine.page_of(app, heap.start)
    assert vmscan.isolate_lru_page(page) == 0
    page.flags &= ~PG_active
    pages = ListHead()
    list_add(page, pages)
    args = pages, page.zone, ScanControl(), TTU_UNMAP, ReclaimStat()
    assert vmscan._shrink_page_list(*args, References.RECLAIM) == 0
    assert page.flags & (PG_active | PG_swapcache) == PG_active | PG_swapcache
    list_del(page)
    vmscan.putback_lru_page(page)


def test_when_swap_is_nearly_full_an_activated_page_gives_up_its_place(machine, app):
    area = machine.swapon(3 * 4096)
    pages = anonymous(machine, app, 2)
    for page in pages:
        assert vmscan.isolate_lru_page(page) == 0
        page.flags &= ~PG_active
        page.flags |= PG_locked
        assert swap_state.add_to_swap(page)
        page.flags &= ~PG_locked
        vmscan.putback_lru_page(page)
    swap.lru_add_drain()
    assert area.used == 2
    assert shrink(pages[0]).freed == 0  # young
    assert not pages[0].flags & PG_swapcache
    assert area.used == 1


@pytest.mark.parametrize("flags", [0, PF_KSWAPD])
@pytest.mark.parametrize("zone_dirty", [False, True])
def test_only_kswapd_in_a_zone_full_of_dirty_pages_writes_a_file(machine, app, flags, zone_dirty):
    page = mapped_file(machine, app, write=True)
    age(app)
    page.zone.flags = ZONE_DIRTY if zone_dirty else 0
    app.task.flags |= flags
    shrunk = shrink(page)
    assert shrunk.freed == 0
    app.task.flags &= ~flags
    written = bool(flags) and zone_dirty
    assert bool(shrunk.flags & PG_writeback) == written
    assert machine.vmstat["nr_vmscan_immediate_reclaim"] == (not written)
    assert shrunk.flags & PG_reclaim
    page.zone.flags = 0


def test_a_dirty_page_that_was_only_referenced_by_flag_is_kept(machine, app):
    """RECLAIM_CLEAN, for kswapd."""
    page = mapped_file(machine, app, write=True)
    age(app)
    page.flags |= PG_referenced
    page.zone.flags = ZONE_DIRTY
    app.task.flags |= PF_KSWAPD
    shrunk = shrink(page)
    assert shrunk.freed == 0
    assert shrunk.flags & (PG_dirty | PG_writeback) == PG_dirty
    page.zone.flags = 0


@pytest.mark.parametrize(
    "sc", [ScanControl(gfp_mask=GFP_KERNEL & ~__GFP_FS), ScanControl(may_writepage=False)]
)
def test_nothing_is_written_if_it_may_not_be(machine, app, sc):
    page = mapped_file(machine, app, write=True)
    age(app)
    page.zone.flags = ZONE_DIRTY
    app.task.flags |= PF_KSWAPD
    shrunk = shrink(page, sc)
    assert shrunk.freed == 0
    assert shrunk.flags & (PG_dirty | PG_writeback) == PG_dirty
    page.zone.flags = 0


def test_a_clean_file_page_is_freed(machine, app):
    page = mapped_file(machine, app)
    age(app)
    page.flags &= ~PG_referenced
    assert shrink(page).freed == 1
    assert (page._count, machine.vmstat["nr_file_pages"]) == (0, 0)


def test_a_pinned_page_is_unmapped_but_kept(machine, app):
    page = mapped_file(machine, app)
    age(app)
    page.flags &= ~PG_referenced
    get_page(page)
    assert shrink(page).freed == 0
    assert page._mapcount == -1
    swap.put_page(page)


def test_forced_reclaim_takes_clean_pages_in_use_and_leaves_dirty_ones(machine, app):
    clean = mapped_file(machine, app)
    file = machine.file("dirty", 4096)
    view = app.mmap(pages=1, file=file, shared=True)
    app.touch(view)
    machine.drain_pagevecs()
    dirty = machine.page_of(app, view.start)
    pages = ListHead()
    for page in (clean, dirty):
        assert vmscan.isolate_lru_page(page) == 0
        list_add(page, pages)
        page.zone.vm_stat[NR_ISOLATED_FILE] += 1
    assert vmscan.reclaim_clean_pages_from_list(clean.zone, pages) == 1
    assert list(pages) == [dirty]
    assert machine.vmstat["nr_isolated_file"] == 1
    list_del(dirty)
    dirty.zone.vm_stat[NR_ISOLATED_FILE] -= 1
    vmscan.putback_lru_page(dirty)


# --- pages under writeback ---


@pytest.mark.parametrize(
    ("kswapd", "zone_flags", "immediate"),
    [(True, ZONE_WRITEBACK, 1), (True, 0, 0), (False, ZONE_WRITEBACK, 0)],
)
def test_kswapd_tells_that_it_meets_nothing_but_writeback(
    machine, app, kswapd, zone_flags, immediate
):
    page = _under_writeback(machine, app)
    page.flags |= PG_reclaim
    page.zone.flags = zone_flags
    if kswapd:
        app.task.flags |= PF_KSWAPD
    stat = ReclaimStat()
    assert shrink(page, stat=stat).freed == 0
    assert (stat.nr_immediate, stat.nr_writeback) == (immediate, 1 - immediate)
    assert (stat.nr_dirty, stat.nr_unqueued_dirty, stat.nr_congested) == (1, 0, 1)
    page.zone.flags = 0
    app.task.flags &= ~PF_KSWAPD
    block.release(machine.kernel, page.mapping.host.fs.device)


def test_reclaim_of_a_group_waits_for_a_page_it_meets_twice(machine, app):
    page = _under_writeback(machine, app)
    sc = ScanControl(target_mem_cgroup="group")
    shrunk = shrink(page, sc)
    assert shrunk.freed == 0
    assert shrunk.flags & (PG_writeback | PG_reclaim) == PG_writeback | PG_reclaim
    age(app)
    block.release(machine.kernel, page.mapping.host.fs.device)
    page.flags &= ~PG_referenced
    shrunk = shrink(page, sc)
    assert shrunk.freed == 1


def _under_writeback(machine, app):
    page = mapped_file(machine, app, write=True)
    file = page.mapping.host
    block.disk(machine.kernel, file.fs.device).hold = True
    machine.writeback(file)
    assert page.flags & PG_writeback
    return page


# --- pageout and remove_mapping ---


def test_a_congested_queue_is_only_for_those_who_may_wait(machine, app):
    page = mapped_file(machine, app, write=True)
    bdi = page.mapping.backing_dev_info
    bdi.write_congested = True
    assert not vmscan.may_write_to_queue(bdi)
    app.task.flags |= PF_SWAPWRITE
    assert vmscan.may_write_to_queue(bdi)
    app.task.flags &= ~PF_SWAPWRITE


def test_a_page_dirtied_at_the_last_moment_keeps_its_mapping(machine, app):
    file = machine.file("f", 4096, fs="exofs")
    app.pread(file, 1)
    machine.drain_pagevecs()
    [page] = file.i_mapping.page_tree.slots.values()
    get_page(page)
    page.flags |= PG_locked | PG_dirty
    assert vmscan.remove_mapping(file.i_mapping, page) == 0
    assert page._count == 2
    page.flags &= ~PG_dirty
    assert vmscan.remove_mapping(file.i_mapping, page) == 1
    page.flags &= ~PG_locked
    assert page._count == 1
    swap.put_page(page)


def test_a_page_without_mapping_is_written_by_nobody(machine, app):
    [page] = anonymous(machine, app)
    get_page(page)
    assert vmscan.pageout(page, None) is vmscan.Pageout.KEEP
    swap.put_page(page)


def test_a_failed_write_is_remembered_for_fsync(machine, app):
    file = machine.file("f", 4096, fs="exofs")
    app.pread(file, 1)
    [page] = file.i_mapping.page_tree.slots.values()
    vmscan.handle_write_error(file.i_mapping, page, -EIO)
    with pytest.raises(OSError, match="Input/output"):
        machine.fsync(file)


# --- on request ---


def test_pages_of_two_nodes_go_in_one_request(machine, app):
    machine.swapon(MiB(1))
    heap = app.mmap(pages=4)
    app.mbind(heap[0:2], "bind", [0])
    app.mbind(heap[2:4], "bind", [1])
    app.touch(heap)
    assert app.placement(heap) == {0: 2, 1: 2}
    assert machine.swap_out(app, heap) == 4


def test_a_page_asked_for_twice_is_freed_once(machine, app):
    machine.swapon(MiB(1))
    [page] = anonymous(machine, app)
    assert vmscan.reclaim_pages(machine.kernel, [page, page]) == 1


def test_a_stranded_page_is_rescued_instead(machine, app):
    segment = machine.shmem("s", 4096)
    app.pwrite(segment, b"locked")
    machine.drain_pagevecs()
    [page] = segment.i_mapping.page_tree.slots.values()
    segment.i_mapping.flags = AS_UNEVICTABLE
    assert vmscan.isolate_lru_page(page) == 0
    vmscan.putback_lru_page(page)
    segment.i_mapping.flags = 0
    assert vmscan.reclaim_pages(machine.kernel, [page]) == 0
    assert not page.flags & PG_unevictable
    assert machine.vmstat["unevictable_pgs_rescued"] == 1


def test_locked_pages_are_not_reclaimed(machine, app):
    machine.swapon(MiB(1))
    heap = app.mmap(pages=2)
    app.touch(heap)
    app.mlock(heap)
    assert machine.swap_out(app, heap) == 0
    assert app.placement(heap) == {0: 2}
