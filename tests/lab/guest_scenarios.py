"""Scenarios for a guest with four nodes: the third has no memory, the fourth no CPU."""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

from mmigrate import MiB

MACHINE = {"nodes": (MiB(64), MiB(64)), "cpus": (0, 1)}
MADV_HUGEPAGE, MADV_MERGEABLE, MADV_SOFT_OFFLINE = 14, 12, 101


def never_ends(machine):
    machine.swapon(MiB(8))
    while True:
        machine.process().exit()


def _swaps():
    return Path("/proc/swaps").read_text().count("ram")


def kills_its_process(machine):
    assert _swaps() == 0, "the swap area of never_ends is still there"
    machine.swapon(MiB(8))
    os.kill(os.getpid(), 9)


def shape(machine):
    assert _swaps() == 0, "the swap area of kills_its_process is still there"
    from mmigrate.real import nodes

    assert nodes.online_nodes() == [0, 1, 2, 3]
    assert nodes.nodes_with_memory() == [0, 1, 3]
    assert [nodes.cpus_of(node) for node in range(4)] == [[0], [1], [2], []]
    assert nodes.distances(0) == [10, 15, 20, 25]


def needs_five_nodes(machine):
    type(machine)(nodes=(MiB(1), MiB(1), 0, MiB(1), MiB(1)), cpus=(0,))


def needs_other_distances(machine):
    type(machine)(nodes=(MiB(1),) * 2, distances=((10, 20), (20, 10)))


def numastat_agrees(machine):
    """numastat -p and numa_maps, which know nothing of us, after a live migration."""
    app = machine.process("app")
    heap = app.mmap(pages=700)
    app.touch(heap)
    app.move_pages(heap[0:300], node=1)
    app.move_pages(heap[300:350], node=3)
    placed = app.placement(heap)
    assert placed == {0: 350, 1: 300, 3: 50}
    text = subprocess.run(
        ["numastat", "-p", str(app.pid)], capture_output=True, text=True, check=True
    ).stdout
    private = next(line for line in text.splitlines() if line.startswith("Private"))
    shown = [float(word) for word in private.split()[1:-1]]
    own = Counter(app.own_placement().values())
    for node, megabytes in enumerate(shown):
        # It shows two decimals, and counts the page of the program with the rest.
        here = placed.get(node, 0) + own[node]
        assert abs(megabytes - here / 256) < 0.02, (node, shown, own)
    whole = Path(f"/proc/{app.pid}/numa_maps").read_text()
    (line,) = (line for line in whole.splitlines() if line.startswith(f"{heap.start:x} "))
    counts = {int(node): int(pages) for node, pages in re.findall(r"N(\d+)=(\d+)", line)}
    assert counts == placed
    assert app.numa_maps() == line + "\n"


def memory_follows_its_cpuset(machine):
    group = machine.cpuset("group", [0], memory_migrate=True)
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(pages=8)
    app.touch(heap)
    machine.set_mems(group, [1])
    assert app.placement(heap) == {1: 8}
    assert machine.vmstat["pgmigrate_success"] == 8


def own_pages_do_not_count(machine):
    app = machine.process("app")
    heap = app.mmap(pages=20)
    app.touch(heap)
    assert app.migrate_pages([0], [1]) == 0
    assert app.placement(heap) == {1: 20}
    assert machine.vmstat["pgmigrate_success"] == 20
    assert machine.vmstat["pgmigrate_fail"] == 0


def huge_pages(machine):
    assert machine.hugepages(2, node=0) == 2
    assert machine.hugepages(2, node=1) == 2
    app = machine.process("app")
    area = app.mmap(MiB(2), hugetlb=MiB(2))
    app.write(area.start + 5000, b"huge")
    assert app.move_pages([area.start], 1).status == (1,)
    assert app.read(area.start + 5000, 4) == b"huge"


def mounts_of_hugetlbfs(machine):
    machine.hugepages(2, node=0)
    mount, without = machine.hugetlbfs(MiB(2)), machine.hugetlbfs()
    assert (mount.limit, mount.free) == (MiB(2), MiB(2))
    assert (without.limit, without.free) == (None, None)
    app = machine.process("app")
    area = app.mmap(MiB(2), file=mount.file("huge", MiB(2)), shared=True)
    app.write(area.start + 5000, b"huge")
    assert app.read(area.start + 5000, 4) == b"huge"
    assert mount.free == 0


def transparent_huge_pages(machine):
    app = machine.process("app")
    heap = app.mmap(MiB(6))
    app.madvise(heap, MADV_HUGEPAGE)
    app.touch(heap)
    huge = re.findall(r"AnonHugePages: +(\d+) kB", app.smaps())
    assert sum(map(int, huge)) >= 4096
    late = app.mmap(MiB(6))
    app.touch(late)
    app.madvise(late, MADV_HUGEPAGE)
    machine.khugepaged_scan()
    assert machine.vmstat["thp_collapse_alloc"] >= 2
    machine.split(app, (heap.start + MiB(2)) & -MiB(2))
    assert machine.vmstat["thp_split_page"] >= 1


def equal_pages_are_merged(machine):
    app = machine.process("app")
    heap = app.mmap(pages=8)
    for address in heap.pages():
        app.write(address, b"the same")
    app.madvise(heap, MADV_MERGEABLE)
    machine.ksm_scan()
    assert len({word & (1 << 55) - 1 for word in app.pagemap(heap)}) == 1


def a_page_is_soft_offlined(machine):
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.write(heap.start, b"kept")
    before = app.pagemap(heap)
    app.madvise(heap, MADV_SOFT_OFFLINE)
    assert app.pagemap(heap) != before
    assert app.read(heap.start, 4) == b"kept"
    machine.soft_offline(app.pagemap(heap)[0] & (1 << 55) - 1)
    assert app.read(heap.start, 4) == b"kept"


def a_balloon_is_filled_from_outside(machine):
    machine.balloon.inflate(2000)
    assert machine.balloon.pages == 2000
    assert machine.vmstat["balloon_inflate"] == 2000
    machine.balloon.deflate(500)
    assert machine.balloon.pages == 1500
    machine.balloon.deflate(1500)


def charges(machine):
    group = machine.cgroup("group", limit=MiB(16))
    app = machine.process("app")
    app.join(group)
    heap = app.mmap(MiB(4))
    app.touch(heap)
    assert group.limit == MiB(16)
    assert MiB(4) <= group.usage < MiB(6)
    assert group.failcnt == 0
    assert sum(group.stat.values()) > 0
    app.exit()
    group.remove()


def balancing(machine):
    machine.settings.numa_balancing(True)
    app = machine.process("app")
    heap = app.mmap(pages=16)
    app.touch(heap)
    app.on_cpu(1)
    app.numa_scan()
    app.touch(heap)
    assert machine.vmstat["numa_hint_faults"] > 0


def compaction_and_caches(machine):
    machine.compact()
    machine.compact(0)
    machine.drop_caches()
    machine.drain_pagevecs()
    machine.finish_io()
    assert "DMA32" in machine.buddyinfo
    assert "Movable" in machine.pagetypeinfo
    assert "managed" in machine.zoneinfo


def complaints_of_the_kernel_are_found(machine):
    Path("/dev/kmsg").write_text("BUG: made up for a test\n")
    found = machine.check()
    assert [violation.message for violation in found] == ["BUG: made up for a test"], found


def files_of_all_kinds(machine):
    app = machine.process("app")
    for kind in ("ext4", "xfs", "ramfs", "tmpfs"):
        file = machine.file(kind, 8192, fs=kind, data=b"hello")
        view = app.mmap(8192, file=file, shared=True)
        assert app.read(view.start, 5) == b"hello"
        if kind != "ramfs":  # whose pages are dirty and cannot be written, so that they stay
            assert app.move_pages(view[0:1], node=1).status == (1,), kind
        app.write(view.start, b"H")
        machine.writeback(file)
        machine.fsync(file)
        assert app.pread(file, 5) == b"Hello"
