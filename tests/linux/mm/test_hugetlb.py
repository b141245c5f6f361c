"""Pools of huge pages, promises, faults, and migration of whole huge pages."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from mmigrate import GiB, Machine, MiB
from mmigrate.api import Reason
from mmigrate.errors import KernelBug, MemoryFault, ScenarioError
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL
from mmigrate.linux.include.migrate_mode import MIGRATE_ASYNC, MIGRATE_SYNC, MR_SYSCALL
from mmigrate.linux.include.mm import (
    MAP_NORESERVE,
    TTU_IGNORE_ACCESS,
    TTU_IGNORE_MLOCK,
    TTU_MIGRATION,
)
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.page_flags import PG_hugetlb
from mmigrate.linux.include.vmstat import PGMIGRATE_FAIL, PGMIGRATE_SUCCESS
from mmigrate.linux.kernel.page_flags import lock_page, unlock_page
from mmigrate.linux.lib.list import ListHead
from mmigrate.linux.mm import hugetlb_pool, migrate, rmap, swap

HUGE = MiB(2)
RENAME = "100873d7a777"
SUBPOOL = "cb6acd01e2e4"


def small(pool=4, **options):
    machine = Machine(nodes=(MiB(32), MiB(32)), **options)
    if pool:
        assert machine.hugepages(pool) == pool
    return machine


def pools(machine: Machine) -> tuple[int, int, int, int]:
    values = machine.meminfo
    return (
        values["HugePages_Total"],
        values["HugePages_Free"],
        values["HugePages_Rsvd"],
        values["HugePages_Surp"],
    )


class TestPools:
    def test_pages_come_from_the_nodes_in_turn(self) -> None:
        machine = small(4)
        assert [node["HugePages_Total"] for node in machine.nodes] == [2, 2]
        assert machine.hugepages(0) == 0
        assert machine.check() == []

    def test_a_pool_of_one_node(self) -> None:
        machine = small(0)
        machine.hugepages(3, node=1)
        assert [node["HugePages_Free"] for node in machine.nodes] == [0, 3]
        assert machine.check() == []

    def test_no_more_than_there_is_memory(self) -> None:
        machine = small(0)
        got = machine.hugepages(1000)
        assert 20 < got < 32
        machine.hugepages(0)
        assert machine.check() == []

    def test_pages_in_use_become_surplus_when_the_pool_shrinks(self) -> None:
        machine = small(4)
        app = machine.process()
        heap = app.mmap(2 * HUGE, hugetlb=HUGE)
        app.touch(heap)
        machine.hugepages(0)
        assert pools(machine) == (2, 0, 0, 2)
        app.munmap(heap)
        assert pools(machine) == (0, 0, 0, 0)
        assert machine.check() == []

    def test_overcommit_makes_surplus_pages_that_go_when_they_are_freed(self) -> None:
        machine = small(1)
        machine.hugepages(overcommit=2)
        app = machine.process()
        heap = app.mmap(3 * HUGE, hugetlb=HUGE)
        assert pools(machine) == (3, 3, 3, 2)
        app.touch(heap)
        app.munmap(heap)
        assert pools(machine)[3] == 0
        assert machine.check() == []


class TestPromises:
    def test_a_mapping_is_promised_its_pages(self) -> None:
        machine = small(2)
        app = machine.process()
        app.mmap(2 * HUGE, hugetlb=HUGE)
        assert pools(machine) == (2, 2, 2, 0)
        with pytest.raises(OSError) as caught:
            app.mmap(HUGE, hugetlb=HUGE)
        assert caught.value.errno == errno.ENOMEM
        assert machine.check() == []

    def test_without_a_promise_the_fault_may_fail(self) -> None:
        machine = small(1)
        app = machine.process()
        heap = app.mmap(2 * HUGE, hugetlb=HUGE, flags=0x4000)
        app.touch(heap.start)
        with pytest.raises(MemoryFault) as caught:
            app.touch(heap.start + HUGE)
        assert caught.value.signal == "SIGBUS"
        assert machine.check() == []

    def test_a_promise_kept_at_the_cost_of_the_child(self) -> None:
        machine = small(1)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        app.write(heap.start, b"parent")
        child = app.fork()
        app.write(heap.start, b"again!")  # there is no page for a copy
        assert app.read(heap.start, 6) == b"again!"
        with pytest.raises(MemoryFault):
            child.read(heap.start, 6)
        child.exit()
        assert machine.check() == []

    def test_part_of_a_mapping_can_go(self) -> None:
        machine = small(4)
        app = machine.process()
        heap = app.mmap(3 * HUGE, hugetlb=HUGE)
        app.touch(heap.start)
        app.munmap(heap.start + HUGE, HUGE)
        assert pools(machine) == (4, 3, 1, 0)
        with pytest.raises(OSError):
            app.munmap(heap.start + 4096, 4096)
        assert machine.check() == []

    def test_a_shared_mapping_without_name_goes_with_its_last_user(self) -> None:
        machine = small(2)
        app = machine.process()
        heap = app.mmap(2 * HUGE, hugetlb=HUGE, shared=True)
        app.write(heap.start, b"both")
        child = app.fork()
        app.exit()
        assert child.read(heap.start, 4) == b"both"
        assert pools(machine) == (2, 1, 1, 0)
        child.exit()
        assert pools(machine) == (2, 2, 0, 0)
        assert machine.check() == []

    def test_what_is_cut_off_is_forgotten(self) -> None:
        machine = small(3)
        app = machine.process()
        file = machine.file("f", 3 * HUGE, fs="hugetlbfs")
        area = app.mmap(3 * HUGE, file=file, shared=True)
        for number in range(3):
            app.write(area.start + number * HUGE, b"%d" % number)
        machine.truncate(file, 2 * HUGE)
        assert [app.read(area.start + number * HUGE, 1) for number in (0, 1)] == [b"0", b"1"]
        assert machine.check() == []

    def test_truncation_gives_pages_and_promises_back(self) -> None:
        machine = small(3)
        app = machine.process()
        file = machine.file("f", 3 * HUGE, fs="hugetlbfs")
        area = app.mmap(3 * HUGE, file=file, shared=True)
        app.touch(area.start)
        app.touch(area.start + 2 * HUGE)
        machine.truncate(file, HUGE)
        assert pools(machine) == (3, 2, 0, 0)
        with pytest.raises(MemoryFault):
            app.touch(area.start + HUGE)
        assert machine.check() == []


class TestAddressSpaces:
    def test_copy_on_write_of_a_private_file(self) -> None:
        machine = small(4)
        app = machine.process()
        file = machine.file("f", HUGE, fs="hugetlbfs")
        shared = app.mmap(HUGE, file=file, shared=True)
        app.write(shared.start, b"file")
        private = app.mmap(HUGE, file=file)
        assert app.read(private.start, 4) == b"file"
        app.write(private.start, b"mine")
        assert app.read(shared.start, 4) == b"file"
        assert pools(machine)[1] == 2
        assert machine.check() == []

    def test_protection(self) -> None:
        machine = small(2)
        app = machine.process()
        heap = app.mmap(2 * HUGE, hugetlb=HUGE)
        app.touch(heap)
        app.mprotect(heap.start, "r", length=HUGE)
        with pytest.raises(MemoryFault):
            app.touch(heap.start)
        app.touch(heap.start + HUGE)
        assert machine.check() == []

    def test_what_other_system_calls_answer(self) -> None:
        machine = small(1)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        app.touch(heap)
        with pytest.raises(OSError):
            app.mremap(heap, 2 * HUGE)
        with pytest.raises(OSError):
            app.madvise(heap, 4)  # MADV_DONTNEED
        app.mlock(heap)  # does nothing
        assert app.mincore(heap)[:2] == [True, True]
        assert app.pagemap(heap)[1] - app.pagemap(heap)[0] == 1
        assert "huge anon=1" in app.numa_maps()
        assert "kernelpagesize_kB=2048" in app.numa_maps()
        assert machine.check() == []

    def test_a_pin_holds_the_whole_page(self) -> None:
        machine = small(2)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        pin = app.pin(heap.start + 8192)
        assert machine.check() == []
        result = app.move_pages([heap.start], node=1)
        assert result.reasons == {Reason.PINNED: 1} or app.placement(heap) == {1: 512}
        pin.release()
        assert machine.check() == []


class TestMigration:
    @pytest.mark.parametrize("shared", [False, True])
    def test_a_page_moves_as_a_whole(self, shared: bool) -> None:
        machine = small(4)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE, shared=shared)
        app.write(heap.start + 12345, b"moved")
        before = list(machine.kernel.vm_events)
        result = app.move_pages([heap.start], node=1)
        assert result.status == (1,)
        assert app.placement(heap) == {1: 512}
        assert app.read(heap.start + 12345, 5) == b"moved"
        assert machine.kernel.vm_events[PGMIGRATE_SUCCESS] - before[PGMIGRATE_SUCCESS] == 1
        assert pools(machine)[:2] == (4, 3)
        assert machine.check() == []

    def test_tails_are_refused(self) -> None:
        machine = small(4)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        app.touch(heap)
        status = app.move_pages([heap.start, heap.start + 4096], node=1).status
        assert status == (1, -errno.ENOENT)
        assert machine.check() == []

    def test_a_shared_page_needs_move_all(self) -> None:
        machine = small(4)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        app.touch(heap)
        child = app.fork()
        assert app.move_pages([heap.start], node=1).status == (-errno.EACCES,)
        assert app.move_pages([heap.start], node=1, flags=MPOL_MF_MOVE_ALL).status == (1,)
        assert child.placement(heap) == {1: 512}
        child.write(heap.start, b"x")
        assert machine.check() == []

    def test_no_destination(self) -> None:
        machine = small(0)
        machine.hugepages(1, node=0)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        app.touch(heap)
        with pytest.raises(OSError) as caught:
            app.move_pages([heap.start], node=1)
        assert caught.value.errno == errno.ENOMEM
        assert app.placement(heap) == {0: 512}
        assert machine.check() == []

    def test_a_surplus_destination_stays_in_the_pool(self) -> None:
        machine = small(0)
        machine.hugepages(1, node=0, overcommit=1)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        app.touch(heap)
        app.move_pages([heap.start], node=1)
        assert pools(machine) == (2, 1, 0, 1)
        assert machine.check() == []

    def test_policies_move_them(self) -> None:
        machine = small(8)
        app = machine.process()
        heap = app.mmap(2 * HUGE, hugetlb=HUGE)
        app.touch(heap)
        assert app.migrate_pages([0], [1]) == 0
        assert app.placement(heap) == {1: 1024}
        app.mbind(heap, "bind", [0], move=True)
        assert app.placement(heap) == {0: 1024}
        assert machine.check() == []

    def test_nr_file_pages_is_not_transferred(self) -> None:
        machine = small(4)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE, shared=True)
        app.touch(heap)
        before = [node["FilePages"] for node in machine.nodes]
        app.move_pages([heap.start], node=1)
        assert [node["FilePages"] for node in machine.nodes] == before
        assert machine.check() == []

    @pytest.mark.parametrize("without", [(), (RENAME,)])
    def test_pages_of_1_gib_are_refused_before_a_destination_is_asked_for(
        self, without: tuple[str, ...]
    ) -> None:
        machine = Machine(nodes=(GiB(3), MiB(64)), without=without)
        assert machine.hugepages(1, size=GiB(1)) == 1
        app = machine.process()
        heap = app.mmap(GiB(1), hugetlb=GiB(1))
        app.write(heap.start + MiB(700), b"far")
        assert app.read(heap.start + MiB(700), 3) == b"far"
        assert app.move_pages([heap.start], node=1).status == (-errno.ENOENT,)
        page = machine.page_of(app, heap.start)
        assert page is not None and page.flags & PG_hugetlb
        asked: list[object] = []
        isolated = ListHead()
        assert hugetlb_pool.isolate_huge_page(page, isolated)
        failed = machine.kernel.vm_events[PGMIGRATE_FAIL]

        def get_new_page(old: Page, private: Any, result: list[Any]) -> None:
            asked.append(old)

        left = migrate.migrate_pages(isolated, get_new_page, None, 0, MIGRATE_SYNC, MR_SYSCALL)
        assert (left, asked, list(isolated), page._count) == (1, [], [], 1)
        assert machine.kernel.vm_events[PGMIGRATE_FAIL] == failed + 1
        assert machine.kernel.reasons[page.pfn] is Reason.HUGETLB_UNSUPPORTED
        h = hugetlb_pool.page_hstate(page)
        assert hugetlb_pool.migration_supported(machine.kernel, h) is False

    def test_the_lock_is_only_tried_until_a_synchronous_migration_insists(self) -> None:
        machine = small(4)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        app.touch(heap)
        page = machine.page_of(app, heap.start)
        assert page is not None
        isolated = ListHead()
        assert hugetlb_pool.isolate_huge_page(page, isolated)
        with app.running():
            lock_page(page)

            def get_new_page(old: Page, private: Any, result: list[Any]) -> Page | None:
                h = hugetlb_pool.page_hstate(page)
                return hugetlb_pool.alloc_huge_page_node(machine.kernel, h, 1)

            left = migrate.migrate_pages(isolated, get_new_page, None, 0, MIGRATE_ASYNC, MR_SYSCALL)
            unlock_page(page)
        assert left == 1
        migrate.putback_movable_pages(isolated)
        assert machine.check() == []

    def test_a_free_page_cannot_be_isolated(self) -> None:
        machine = small(2)
        h = machine.kernel.hugetlb.hstates[0]
        page = h.hugepage_freelists[0].next
        assert not hugetlb_pool.isolate_huge_page(page, ListHead())
        assert machine.check() == []


def racing(machine: Machine, rival: str) -> None:
    """move_pages of a huge page against @rival, by seeds until something is found."""
    app = machine.process()
    heap = app.mmap(HUGE, hugetlb=HUGE)
    app.touch(heap.start)
    machine.start(app.move_pages, [heap.start], node=1)
    if rival == "munmap":
        machine.start(app.munmap, heap)
    elif rival == "mprotect":
        machine.start(app.mprotect, heap, "r")
    elif rival == "fork":
        machine.start(app.fork)
    else:
        machine.start(app.touch, heap.start)


@pytest.mark.parametrize("rival", ["fork", "touch"])
@pytest.mark.parametrize("seed", range(6))
def test_migration_against_what_v319_knows(rival: str, seed: int) -> None:
    machine = small(4, backports=["0f792cf949a0"])
    racing(machine, rival)
    machine.run(seed=seed)
    assert machine.check() == []


def test_an_entry_of_migration_is_taken_for_a_page() -> None:
    """The known defects of unmap and mprotect, seen and cured."""
    for call, commit in (("munmap", "9fbc1f635fd0"), ("mprotect", "a8bda28d87c3")):
        for backports in ((), (commit,)):
            machine = small(4, backports=backports)
            app = machine.process()
            heap = app.mmap(HUGE, hugetlb=HUGE)
            app.touch(heap.start)
            page = machine.page_of(app, heap.start)
            assert page is not None
            with app.running():
                lock_page(page)
                page._count += 1  # who migrates holds one
                anon_vma = rmap.page_get_anon_vma(page)
                rmap.try_to_unmap(page, TTU_MIGRATION | TTU_IGNORE_MLOCK | TTU_IGNORE_ACCESS)

            arguments = (heap,) if call == "munmap" else (heap, "r")
            if not backports:
                with pytest.raises(KernelBug, match="migration entry"):
                    getattr(app, call)(*arguments)
                continue
            getattr(app, call)(*arguments)
            with app.running():
                migrate.remove_migration_ptes(page, page)
                rmap.put_anon_vma(machine.kernel, anon_vma)
                unlock_page(page)
                swap.put_page(page)
            assert machine.check() == []


class TestOracles:
    """What nobody but the oracle of hugetlb finds."""

    def found(self, machine: Machine) -> set[str]:
        return {violation.oracle for violation in machine.check()}

    def test_a_count_of_the_pool(self) -> None:
        machine = small(4)
        machine.kernel.hugetlb.hstates[0].free_huge_pages += 1
        assert self.found(machine) == {"hugetlb pools"}

    def test_a_promise_that_was_lost(self) -> None:
        machine = small(4)
        app = machine.process()
        app.mmap(HUGE, hugetlb=HUGE)
        machine.kernel.hugetlb.hstates[0].resv_huge_pages -= 1
        assert self.found(machine) == {"hugetlb reservations"}

    def test_a_page_that_would_give_a_promise_back(self) -> None:
        machine = small(4)
        app = machine.process()
        heap = app.mmap(HUGE, hugetlb=HUGE)
        app.touch(heap)
        page = machine.page_of(app, heap.start)
        assert page is not None
        page.flags |= 1 << 11  # PG_private
        assert self.found(machine) == {"hugetlb pools"}


class TestLimits:
    """What a mount may have in all: option size= of hugetlbfs."""

    def test_files_of_a_mount_share_its_limit(self) -> None:
        machine = small(4)
        mount = machine.hugetlbfs(2 * HUGE + 4096)
        assert (mount.limit, mount.free) == (2 * HUGE, 2 * HUGE)
        app = machine.process()
        one = app.mmap(HUGE, file=mount.file("one", HUGE), shared=True)
        assert mount.free == HUGE  # promised, not yet taken
        other = mount.file("other", 2 * HUGE)
        with pytest.raises(OSError) as raised:
            app.mmap(2 * HUGE, file=other, shared=True)
        assert raised.value.errno == errno.ENOMEM
        app.mmap(HUGE, file=other, shared=True)
        assert mount.free == 0
        app.touch(one.start)
        assert (mount.free, pools(machine)) == (0, (4, 3, 1, 0))
        assert machine.check() == []

    def test_a_page_that_nobody_promised(self) -> None:
        machine = small(4)
        mount = machine.hugetlbfs(HUGE)
        app = machine.process()
        area = app.mmap(2 * HUGE, file=mount.file("f", 2 * HUGE), flags=MAP_NORESERVE, shared=True)
        app.touch(area.start)
        with pytest.raises(MemoryFault) as raised:
            app.touch(area.start + HUGE)
        assert raised.value.signal == "SIGBUS"
        assert (mount.free, pools(machine)) == (0, (4, 3, 0, 0))
        assert machine.check() == []

    def test_a_copy_counts_too(self) -> None:
        machine = small(4)
        mount = machine.hugetlbfs(2 * HUGE)
        app = machine.process()
        file = mount.file("f", HUGE)
        shared = app.mmap(HUGE, file=file, shared=True)
        app.write(shared.start, b"file")
        private = app.mmap(HUGE, file=file)
        app.write(private.start, b"mine")
        assert mount.free == 0
        app.munmap(private)
        assert mount.free == HUGE
        assert machine.check() == []

    def test_what_goes_is_given_back(self) -> None:
        machine = small(4)
        mount = machine.hugetlbfs(3 * HUGE)
        app = machine.process()
        file = mount.file("f", 3 * HUGE)
        area = app.mmap(3 * HUGE, file=file, shared=True)
        app.touch(area.start + HUGE)
        machine.truncate(file, HUGE)
        assert mount.free == 2 * HUGE
        app.exit()
        assert mount.free == 2 * HUGE  # what a file was promised stays promised
        machine.truncate(file, 0)
        assert mount.free == 3 * HUGE
        assert machine.check() == []

    def test_no_more_than_the_pool_has(self) -> None:
        machine = small(1)
        mount = machine.hugetlbfs(3 * HUGE)
        app = machine.process()
        with pytest.raises(OSError) as raised:
            app.mmap(3 * HUGE, file=mount.file("f", 3 * HUGE), shared=True)
        assert raised.value.errno == errno.ENOMEM
        assert mount.free == 3 * HUGE
        assert machine.check() == []

    def test_mounts_do_not_share(self) -> None:
        machine = small(2)
        without = machine.hugetlbfs()
        assert (without.limit, without.free) == (None, None)
        app = machine.process()
        app.touch(app.mmap(HUGE, file=machine.hugetlbfs(HUGE).file("a", HUGE), shared=True))
        app.touch(app.mmap(HUGE, file=without.file("b", HUGE), shared=True))
        assert machine.hugetlbfs(0).free == 0
        assert machine.check() == []

    def test_what_makes_no_sense(self) -> None:
        machine = small(0)
        with pytest.raises(ScenarioError, match="no pages of 4096 bytes"):
            machine.hugetlbfs(page_size=4096)
        with pytest.raises(ScenarioError, match="a limit of -1 bytes"):
            machine.hugetlbfs(-1)
        with pytest.raises(ScenarioError, match="multiples of 2097152"):
            machine.hugetlbfs().file("f", 4096)

    @pytest.mark.parametrize(("backport", "found"), [(False, True), (True, False)])
    def test_a_page_that_moves_forgets_its_mount(self, backport, found) -> None:
        """A known defect of v3.19."""
        machine = small(4, backports=[SUBPOOL] if backport else [])
        mount = machine.hugetlbfs(HUGE)
        app = machine.process()
        area = app.mmap(HUGE, file=mount.file("f", HUGE), shared=True)
        app.write(area.start, b"moved")
        assert app.move_pages([area.start], 1).status == (1,)
        assert app.read(area.start, 5) == b"moved"
        assert [v.oracle for v in machine.check()] == ["hugetlb limits"] * found

    def test_later_kernels_leave_private_pages_of_such_a_mount(self) -> None:
        machine = small(4, backports=[SUBPOOL])
        mount = machine.hugetlbfs(HUGE)
        app = machine.process()
        area = app.mmap(HUGE, file=mount.file("f", HUGE))
        app.touch(area.start)
        result = app.move_pages([area.start], 1)
        assert result.status == (-errno.EBUSY,)
        assert result.reasons[Reason.HUGETLB_LIMITED] == 1
        assert machine.check() == []
