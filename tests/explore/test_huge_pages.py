"""All interleavings of what meets a huge page.

EXPLORE_LONG=1 takes the scenarios with many steps too, and exhausts all of them.
"""

import os

import pytest

from mmigrate import Mapping, MiB
from mmigrate.explore import explore
from mmigrate.history.by_kernel import move_by_kernel
from mmigrate.linux.include.mm import MADV_HUGEPAGE
from mmigrate.linux.include.switches import DRM_NEXT_NOTIFIERS, FIND_PMD_READS_ONCE
from mmigrate.linux.kernel.page_ref import get_page_unless_zero
from mmigrate.linux.mm import huge_memory, memory
from mmigrate.machine.process import Pin

MACHINE = {"nodes": (MiB(16), MiB(16)), "cpus": (0, 1, 1, 0), "numa_balancing": True}
PAGE = 4096

pytestmark = pytest.mark.slow


def huge_range(process):
    """2 MiB that a huge page may cover; the area has an anon_vma before, so that children's areas
    are found from its pages."""
    area = process.mmap(MiB(6))
    process.write(area.start, b"first")
    return area, Mapping((area.start + MiB(2)) & -MiB(2), MiB(2))


def walk_meets(machine, path):
    """The kernel migrates a small page of the parent; the child, whose area is found from that
    page, has a huge page there and stores into it."""
    app = machine.process("app")
    area, where = huge_range(app)
    child = app.fork("child")
    app.write(where.start + 5 * PAGE, b"Q")
    child.madvise(area, MADV_HUGEPAGE)
    if path == "zeroes":
        child.read(where.start, 1)
    else:
        child.write(where.start, b"huge")
    machine.drain_pagevecs()
    if path == "numa":
        child.numa_scan()
    elif path != "zeroes":
        child.fork("grandchild")
        if path == "fallback":
            huge_memory.state(machine.kernel).enabled = "never"
    moving = machine.page_of(app, where.start + 5 * PAGE)
    machine.start(move_by_kernel, machine, [moving], cpu=0)
    machine.start(child.write, where.start, b"x", cpu=1)


def walk_meets_copy(machine):
    walk_meets(machine, "copy")


def walk_meets_zeroes(machine):
    walk_meets(machine, "zeroes")


def walk_meets_fallback(machine):
    walk_meets(machine, "fallback")


def walk_meets_numa(machine):
    walk_meets(machine, "numa")


LONG = bool(os.environ.get("EXPLORE_LONG"))
WALKS = [walk_meets_zeroes] + [walk_meets_copy, walk_meets_fallback, walk_meets_numa] * LONG


@pytest.mark.parametrize("scenario", WALKS)
def test_every_order_of_a_walk_and_a_huge_fault(scenario):
    before = explore(scenario, without=[FIND_PMD_READS_ONCE], machine=MACHINE, minimise=False)
    assert "a pte lock was looked for through an empty pmd" in str(before.violation)
    after = explore(scenario, machine=MACHINE)
    assert after.clean and after.exhausted


def fault_once(process, address):
    with process.running() as task:
        memory.page_fault(task, address, False)


def use_and_pin(machine, device, address, head):
    """A device reads; somebody pins the page that was there first; the device reads again.  It
    asks for nothing that it has no translation for."""
    app = device.process
    device.driver.try_access(address, False, lambda page: None)
    if get_page_unless_zero(head):
        machine.pins.append(Pin(app, [head]))
    device.driver.try_access(address, False, lambda page: None)


def late_pin(machine):
    """A huge page follows its user, and may be taken back at the last moment."""
    app = machine.process("app", cpu=0)
    area, where = huge_range(app)
    app.madvise(area, MADV_HUGEPAGE)
    app.write(where.start, b"huge")
    machine.drain_pagevecs()
    device = machine.device(app)
    app.numa_scan()
    head = machine.page_of(app, where.start)
    machine.start(fault_once, app, where.start, cpu=1)
    machine.start(use_and_pin, machine, device, where.start, head, cpu=2)


def test_every_order_of_a_device_and_a_migration_that_goes_back():
    before = explore(late_pin, without=[DRM_NEXT_NOTIFIERS], machine=MACHINE, minimise=False)
    assert "which is not its page any more" in str(before.violation)
    after = explore(late_pin, machine=MACHINE, max_executions=None if LONG else 50)
    assert not after.found
    assert after.exhausted is LONG
