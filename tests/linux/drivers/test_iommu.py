"""Devices that share the memory of a process, and what the kernel tells them."""

import pytest

from mmigrate import MiB, Reason, ScenarioError
from mmigrate.errors import KernelBug, MemoryFault
from mmigrate.linux.include.mm import MADV_DONTNEED
from mmigrate.linux.include.pgtable import pmd_numa
from mmigrate.linux.include.switches import DRM_NEXT_NOTIFIERS
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_ref import put_page
from mmigrate.linux.kernel.pgtable import find_pmds
from mmigrate.linux.mm import huge_memory, memory, rmap
from mmigrate.linux.mm.mmu_notifier import MmuNotifier, mmu_notifier_register
from tests.linux.mm.migration import in_window, straight
from tests.linux.mm.thp import HUGE, PAGE, huge_area, huge_page, machine, pmd_of

KINDS = ("iommu", "kvm")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def shared(kind, pages=4, **options):
    """(machine, process, area, device that has just stored into its first page)"""
    computer = machine(**options)
    app = computer.process(cpu=0)
    where = app.mmap(pages=pages)
    app.touch(where)
    computer.drain_pagevecs()
    device = computer.device(app, kind)
    device.write(where.start, b"device")
    return computer, app, where, device


def test_a_device_and_its_process_see_the_same(kind):
    computer, app, where, device = shared(kind)
    assert app.read(where.start, 6) == b"device"
    app.write(where.start + PAGE, b"process")
    assert device.read(where.start + PAGE, 7) == b"process"
    assert computer.check() == []


def test_a_device_faults_memory_in(kind):
    computer = machine()
    app = computer.process(cpu=0)
    where = app.mmap(pages=2)
    device = computer.device(app, kind)
    assert device.read(where.start, 2) == bytes(2)
    device.write(where.start + PAGE, b"first")
    assert app.placement(where) == {0: 1}
    assert app.read(where.start + PAGE, 5) == b"first"
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_device_uses_huge_pages(kind):
    computer = machine()
    app = computer.process(cpu=0)
    where = huge_area(app)
    device = computer.device(app, kind)
    device.write(where.start + 5 * PAGE, b"huge")
    assert app.placement(where) == {0: 512}
    app.mprotect(where[3:4], "r")  # splits
    assert device.read(where.start + 5 * PAGE, 4) == b"huge"
    assert computer.check() == []


def test_devices_that_cannot_be(kind):
    computer = machine()
    app = computer.process()
    with pytest.raises(ScenarioError, match='no device is of kind "gpu"; known: iommu, kvm'):
        computer.device(app, "gpu")
    app.exit()
    with pytest.raises(ScenarioError, match="has exited"):
        computer.device(app, kind)


def test_accesses_that_fail(kind):
    computer = machine()
    app = computer.process()
    device = computer.device(app, kind)
    with pytest.raises(MemoryFault):
        device.read(0x1000, 1)
    where = app.mmap(pages=1)
    app.touch(where)
    app.mprotect(where, "r")
    with pytest.raises(MemoryFault, match="asking for ever" if kind == "iommu" else "failed fault"):
        device.write(where.start, b"no")
    assert device.read(where.start, 1) == b"\0"
    device.close()
    with pytest.raises(MemoryFault, match="without a process"):
        device.read(where.start, 1)
    computer.drain_pagevecs()
    assert computer.check() == []


def test_exit_unbinds(kind):
    computer, app, where, device = shared(kind)
    app.exit()
    assert device.driver.mm is None and not device.driver.translations
    with pytest.raises(MemoryFault, match="without a process"):
        device.read(where.start, 1)
    computer.drain_pagevecs()
    assert computer.check() == []


@pytest.mark.parametrize(
    "call",
    ["move_pages", "munmap", "mprotect", "dontneed", "mremap", "fork", "swap_out", "numa", "clear"],
)
def test_every_call_that_changes_a_pte_is_heard(kind, call):
    computer, app, where, device = shared(kind, numa_balancing=True)
    assert device.driver.translations
    after = where.start
    child = None
    if call == "move_pages":
        assert app.move_pages(where[0:1], 1).status == (1,)
    elif call == "munmap":
        app.munmap(where)
    elif call == "mprotect":
        app.mprotect(where, "r")
    elif call == "dontneed":
        app.madvise(where, MADV_DONTNEED)
    elif call == "mremap":
        after = app.mremap(where, where.length, at=where.start - MiB(1)).start
    elif call == "fork":
        child = app.fork()
    elif call == "swap_out":
        computer.swapon(MiB(1))
        assert computer.swap_out(app, where[0:1]) == 1
    elif call == "numa":
        assert app.numa_scan() == 4
    else:
        app.clear_refs(4)
    assert not device.driver.translations
    if call == "munmap":
        with pytest.raises(MemoryFault):
            device.read(after, 6)
    elif call == "dontneed":
        assert device.read(after, 6) == bytes(6)
    else:
        assert device.read(after, 6) == b"device"
        if call != "mprotect":
            device.write(after, b"again!")
            assert app.read(after, 6) == b"again!"
    if child is not None:
        assert child.read(after, 6) == b"device"
    computer.finish_io()
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_copy_on_write_of_the_process_is_heard(kind):
    computer, app, where, device = shared(kind)
    child = app.fork()
    assert device.read(where.start, 6) == b"device"
    app.write(where.start, b"copied")
    assert device.read(where.start, 6) == b"copied"
    device.write(where.start, b"theirs")
    assert app.read(where.start, 6) == b"theirs"
    assert child.read(where.start, 6) == b"device"
    assert computer.check() == []


def test_use_by_a_device_counts_for_reclaim(kind):
    """KVM's shadow knows; the IOMMU marks the page table itself."""
    _computer, app, where, device = shared(kind)
    page = app.page_at(where.start)
    with app.running():
        rmap.page_referenced(page, False)
        assert rmap.page_referenced(page, False)[0] == 0
    device.read(where.start, 1)
    with app.running():
        assert rmap.page_referenced(page, False)[0] == 1


def test_a_device_needs_no_reference_and_a_pin_does(kind):
    computer, app, where, _ = shared(kind)
    assert app.page_at(where.start)._count == 1
    pin = app.pin(where[1:2])
    result = app.move_pages(where[0:2], 1)
    assert result.status[0] == 1 and result.reasons[Reason.PINNED] == 1
    pin.release()
    computer.drain_pagevecs()
    assert computer.check() == []


def test_which_notifications_a_migration_gives():
    computer = machine()
    app = computer.process(cpu=0)
    where = app.mmap(pages=2)
    app.touch(where)
    heard = []

    class Listener(MmuNotifier):
        def invalidate_page(self, mm, address):
            heard.append(("page", address))

        def invalidate_range(self, mm, start, end):
            heard.append(("range", start))

    mmu_notifier_register(Listener("listener"), app.mm)
    app.move_pages(where, 1)
    assert heard == [("page", where.start), ("page", where.start + PAGE)]


def test_a_huge_copy_on_write_is_announced_under_the_lock():
    computer = machine()
    app = computer.process(cpu=0)
    where, _ = huge_page(app)
    app.fork()
    pmds = find_pmds(app.mm, where.start)
    heard = []

    class Listener(MmuNotifier):
        def invalidate_range(self, mm, start, end):
            heard.append((end - start, pmds.ptl.owner is not None))

    mmu_notifier_register(Listener("listener"), app.mm)
    app.write(where.start, b"copy")
    assert heard == [(HUGE, True), (HUGE, False)]
    heard.clear()
    app.fork()
    huge_memory.state(computer.kernel).enabled = "never"
    app.write(where.start, b"base")
    assert (HUGE, True) in heard


def test_a_migration_entry_makes_the_device_wait():
    computer, app, where, device = shared("iommu", cpus=(0, 1))
    computer.start(app.move_pages, where[0:1], 1, cpu=0)
    reading = computer.start(device.read, where.start, 6, cpu=1)
    computer.run(3)
    assert reading.result == b"device"
    computer.drain_pagevecs()
    assert computer.check() == []


def test_a_shadow_that_lost_its_race_is_not_installed():
    """The guest has found the old frame; it is unmapped before the guest can install it."""
    computer, app, where, device = shared("kvm")
    device.driver.flush(0, 1 << 47)
    mover = computer.process("mover", cpu=1)
    done = []

    def move():
        done.append(mover.move_pages([where.start], 1, process=app).status)

    def when(obj, field, kind):
        return obj is device.driver.mmu_lock

    page = app.page_at(where.start)
    with in_window(when, move):
        assert device.read(where.start, 6) == b"device"
    assert len(done) == 1  # the guest's reference keeps the page where it is for now
    computer.drain_pagevecs()
    assert page._count == 1
    assert computer.check() == []


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rival", ["move_pages", "munmap", "fork and write", "mprotect", "swap"])
def test_a_device_against_everybody(kind, rival, seed):
    computer, app, where, device = shared(kind, cpus=(0, 0, 1))
    computer.start(device.write, where.start, b"raced", cpu=2)
    computer.start(device.read, where.start, 5, cpu=2)
    if rival == "move_pages":
        computer.start(app.move_pages, where, 1, cpu=0)
    elif rival == "munmap":
        computer.start(app.munmap, where, cpu=0)
    elif rival == "fork and write":
        app.fork()
        computer.start(app.write, where.start + 16, b"copy", cpu=0)
    elif rival == "mprotect":
        computer.start(app.mprotect, where, "r", cpu=0)
    else:
        computer.swapon(MiB(1))
        computer.start(computer.swap_out, app, where[0:2], cpu=0)
    computer.run(seed)
    computer.finish_io()
    computer.drain_pagevecs()
    assert computer.check() == []


# --- the merge of drm-next ---


class LatePin:
    """A huge page that is to follow its user; a device has used the new one already when
    somebody pins the old one, and the migration goes back."""

    def __init__(self, without=()):
        self.computer = machine(numa_balancing=True, without=without)
        self.app = app = self.computer.process(cpu=0)
        self.where, self.head = huge_page(app)
        self.computer.drain_pagevecs()
        self.device = self.computer.device(app)
        self.device.read(self.where.start, 1)
        app.numa_scan()
        app.on_cpu(1)
        self.pmds = find_pmds(app.mm, self.where.start)
        self.index = (self.where.start >> 21) & 511
        self.old = self.pmds.entries[self.index]
        assert pmd_numa(self.old)

    def run(self, after):
        """after(): called when the old pmd is back and its lock has been let go."""
        state = {"pinned": False, "back": False}

        class Hook:
            def announce(hook, obj, field, kind):
                entry = self.pmds.entries[self.index]
                with straight():
                    if not state["pinned"] and entry not in (None, self.old):
                        if obj is self.head and field == "_count":
                            self.device.read(self.where.start, 1)  # it caches the new page
                            self.head._count += 1
                            state["pinned"] = True
                    elif state["pinned"] and not state["back"] and self.pmds.ptl.owner is None:
                        state["back"] = True
                        after()

            def wait(hook, obj, field, kind, until):
                hook.announce(obj, field, kind)
                assert until()

        previous = sched.install(Hook())
        try:
            with self.app.running() as task:
                memory.page_fault(task, self.where.start, False)
        finally:
            sched.install(previous)
        assert state["back"]
        with self.app.running():
            put_page(self.head)


def test_without_the_merge_a_device_stays_on_a_page_that_was_taken_back():
    scene = LatePin(without=[DRM_NEXT_NOTIFIERS])
    seen = []

    def use():
        seen.append(len(scene.device.driver.translations))
        scene.device.write(scene.where.start + 3 * PAGE, b"lost")

    scene.run(use)
    assert seen == [1]
    found = {violation.oracle for violation in scene.computer.check()}
    assert found == {"warnings", "contents"}
    assert any("is not its page any more" in text for text in scene.computer.kernel.warnings)


def test_with_the_merge_it_is_flushed_before_the_lock_is_let_go():
    scene = LatePin()
    seen = []

    def use():
        seen.append(len(scene.device.driver.translations))
        assert pmd_of(scene.app, scene.where.start) == scene.old

    scene.run(use)
    assert seen == [0]
    scene.device.write(scene.where.start + 3 * PAGE, b"kept")
    assert scene.app.read(scene.where.start + 3 * PAGE, 4) == b"kept"
    scene.computer.drain_pagevecs()
    assert scene.computer.check() == []


def test_a_device_that_uses_a_free_frame_is_found():
    computer, app, where, device = shared("iommu")
    page = app.page_at(where.start)
    kept = dict(device.driver.translations)
    app.munmap(where)
    device.driver.translations.update(kept)
    with pytest.raises(KernelBug, match="used a free frame"):
        device.read(where.start, 1)
    assert page._count == 0
    assert {v.oracle for v in computer.check()} == {"devices"}
