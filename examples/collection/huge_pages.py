"""Huge pages, transparent and of hugetlbfs, and pages that were merged."""

from mmigrate import Mapping, MiB
from mmigrate.observe import Counters, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
HUGEPAGE, MERGEABLE, SOFT_OFFLINE, MOVE_ALL = 14, 12, 101, 4
HUGE, NORESERVE = MiB(2), 0x4000


def _transparent(machine):
    """A process with a transparent huge page."""
    app = machine.process("app")
    area = app.mmap(MiB(6))
    start = (area.start + MiB(2) - 1) & -MiB(2)
    huge = Mapping(start, MiB(2))
    app.madvise(huge, HUGEPAGE)
    app.write(start + 5 * 4096, b"in the huge page")
    return app, huge


def _nodes_of(app, huge, *pages):
    return attempt(app.move_pages, [huge.start + 4096 * page for page in pages])


def transparent_one_page(machine):
    """One base page of it is to move."""
    app, huge = _transparent(machine)
    return {
        "before": app.placement(huge),
        "move": attempt(app.move_pages, [huge.start + 5 * 4096], 1),
        "after": app.placement(huge),
        "contents": attempt(app.read, huge.start + 5 * 4096, 16),
    }


def transparent_whole(machine):
    """All of its base pages are to move."""
    app, huge = _transparent(machine)
    return {
        "move": attempt(app.move_pages, huge, 1),
        "after": app.placement(huge),
        "contents": attempt(app.read, huge.start + 5 * 4096, 16),
    }


def transparent_query(machine):
    """A query splits nothing."""
    app, huge = _transparent(machine)
    return {"nodes": _nodes_of(app, huge, 0, 1, 511)}


def transparent_migrate_pages(machine):
    """migrate_pages of a huge page."""
    app, huge = _transparent(machine)
    return {
        "call": attempt(app.migrate_pages, [0], [2]),
        "after": app.placement(huge),
        "contents": attempt(app.read, huge.start + 5 * 4096, 16),
    }


def transparent_mbind(machine):
    """mbind with MOVE of a huge page."""
    app, huge = _transparent(machine)
    return {
        "call": attempt(app.mbind, huge, "bind", [1], move=True),
        "after": app.placement(huge),
        "contents": attempt(app.read, huge.start + 5 * 4096, 16),
    }


def transparent_mbind_of_a_part(machine):
    """mbind with MOVE of some of its pages."""
    app, huge = _transparent(machine)
    return {
        "call": attempt(app.mbind, huge[0:100], "bind", [1], move=True),
        "at": [app.placement(huge[0:100]), sum(app.placement(huge).values())],
        "contents": attempt(app.read, huge.start + 5 * 4096, 16),
    }


def transparent_zeroes(machine):
    """The huge page of zeroes."""
    app = machine.process("app")
    area = app.mmap(MiB(6))
    start = (area.start + MiB(2) - 1) & -MiB(2)
    huge = Mapping(start, MiB(2))
    app.madvise(huge, HUGEPAGE)
    app.touch(huge.start, write=False)
    return {"move": attempt(app.move_pages, [huge.start], 1), "at": app.placement(huge)}


def transparent_forked(machine):
    """Shared with a child."""
    app, huge = _transparent(machine)
    child = app.fork()
    return {
        "move": attempt(app.move_pages, [huge.start], 1),
        "move all": attempt(app.move_pages, [huge.start], 1, flags=MOVE_ALL),
        "contents": attempt(child.read, huge.start + 5 * 4096, 16),
    }


def _hugetlb(machine):
    for node in (0, 1):
        machine.hugepages(2, node=node)
    app = machine.process("app")
    area = app.mmap(MiB(2), hugetlb=MiB(2))
    app.write(area.start + 5000, b"in the huge page")
    return app, area


def hugetlb_head(machine):
    """The address of its first base page."""
    app, area = _hugetlb(machine)
    return {
        "before": attempt(app.move_pages, [area.start]),
        "move": attempt(app.move_pages, [area.start], 1),
        "after": attempt(app.move_pages, [area.start]),
        "contents": attempt(app.read, area.start + 5000, 16),
    }


def hugetlb_tail(machine):
    """An address inside it."""
    app, area = _hugetlb(machine)
    return {
        "move": attempt(app.move_pages, [area.start + 4096], 1),
        "after": attempt(app.move_pages, [area.start, area.start + 4096]),
    }


def hugetlb_no_room(machine):
    """No huge page is free on the node."""
    app, area = _hugetlb(machine)
    return {
        "move": attempt(app.move_pages, [area.start], 2),
        "after": attempt(app.move_pages, [area.start]),
    }


def hugetlb_migrate_pages(machine):
    """migrate_pages of a process with a huge page."""
    app, area = _hugetlb(machine)
    return {
        "call": attempt(app.migrate_pages, [0], [1]),
        "after": attempt(app.move_pages, [area.start]),
        "contents": attempt(app.read, area.start + 5000, 16),
    }


def hugetlb_strict(machine):
    """mbind with STRICT of a huge page on another node."""
    app, area = _hugetlb(machine)
    return {
        "strict": attempt(app.mbind, area, "bind", [1], strict=True),
        "after": attempt(app.move_pages, [area.start]),
    }


def hugetlb_mbind_move(machine):
    """mbind with MOVE of a huge page."""
    app, area = _hugetlb(machine)
    return {
        "move": attempt(app.mbind, area, "bind", [1], move=True),
        "after": attempt(app.move_pages, [area.start]),
        "contents": attempt(app.read, area.start + 5000, 16),
    }


def hugetlb_forked(machine):
    """A huge page that a child maps too."""
    app, area = _hugetlb(machine)
    app.fork()
    return {
        "move": attempt(app.move_pages, [area.start], 1),
        "move all": attempt(app.move_pages, [area.start], 1, flags=MOVE_ALL),
    }


def _merged(machine):
    scan = machine.ksm_scan
    app = machine.process("app")
    area = app.mmap(pages=4)
    for address in area.pages():
        app.write(address, b"all the same")
    app.madvise(area, MERGEABLE)
    scan()
    return app, area


def merged_pages(machine):
    """Four equal pages are one, which is shared."""
    app, area = _merged(machine)
    return {
        "move": attempt(app.move_pages, area, 1),
        "at": app.placement(area),
        "contents": [attempt(app.read, address, 12) for address in area.pages()],
    }


def merged_pages_move_all(machine):
    """MOVE_ALL moves the one page for all."""
    app, area = _merged(machine)
    return {
        "move": attempt(app.move_pages, [area.start], 1, flags=MOVE_ALL),
        "at": app.placement(area),
        "contents": [attempt(app.read, address, 12) for address in area.pages()],
    }


def merged_pages_stored_into(machine):
    """A store makes a copy again."""
    app, area = _merged(machine)
    app.move_pages([area.start], 1, flags=MOVE_ALL)
    app.write(area.start, b"another")
    return {
        "at": app.placement(area),
        "contents": [attempt(app.read, address, 12) for address in area.pages()],
    }


def soft_offline(machine):
    """A page whose frame is to be given up moves away, with its contents."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.write(heap.start, b"rescued")
    counters = Counters(machine)
    return {
        "call": attempt(app.madvise, heap[0:1], SOFT_OFFLINE),
        "contents": attempt(app.read, heap.start, 7),
        "at": app.placement(heap),
        "counters": counters.change(),
    }


def soft_offline_by_a_user(machine):
    """Only an administrator may."""
    app = machine.process("app", uid=1000)
    heap = app.mmap(pages=1)
    app.touch(heap)
    return {"call": attempt(app.madvise, heap, SOFT_OFFLINE)}


def hugetlb_soft_offline(machine):
    """A huge page of hugetlbfs whose memory goes bad is replaced by another of its pool."""
    machine.hugepages(2, node=0)
    app = machine.process("app", cpu=0)
    huge = app.mmap(MiB(2), hugetlb=MiB(2))
    app.write(huge.start + 5000, b"huge")
    before = machine.meminfo
    return {
        "offline": attempt(app.madvise, huge.start, SOFT_OFFLINE, 4096),
        "at": _nodes_of(app, huge, 0),
        "contents": attempt(app.read, huge.start + 5000, 4),
        "pool": machine.meminfo["HugePages_Total"] - before["HugePages_Total"],
        "free": machine.meminfo["HugePages_Free"] - before["HugePages_Free"],
    }


def _mounted(machine):
    """A hugetlbfs that may have two huge pages, of the four that there are, and a process."""
    machine.hugepages(4, node=0)
    return machine.hugetlbfs(2 * HUGE), machine.process("app", cpu=0)


def hugetlbfs_limit(machine):
    """Files of a mount share what it may have, and what they were promised counts."""
    mount, app = _mounted(machine)
    one, other = mount.file("one", HUGE), mount.file("other", 2 * HUGE)
    seen = {"limit": mount.limit, "free": mount.free}
    area = app.mmap(HUGE, file=one, shared=True)
    seen["promised"] = mount.free
    seen["too many"] = attempt(app.mmap, 2 * HUGE, file=other, shared=True)
    seen["private too"] = attempt(app.mmap, 2 * HUGE, file=other)
    seen["one more"] = attempt(app.mmap, HUGE, file=other, shared=True)
    app.write(area.start, b"huge")
    seen["used"] = mount.free
    return seen


def hugetlbfs_limit_without_promise(machine):
    """Where no page was promised, the limit is met at the access."""
    mount, app = _mounted(machine)
    file = mount.file("f", 3 * HUGE)
    area = app.mmap(3 * HUGE, file=file, shared=True, flags=NORESERVE)
    seen = {"mapped": mount.free}
    seen["pages"] = [attempt(app.write, area.start + HUGE * n, b"page") for n in range(3)]
    seen["used"] = mount.free
    machine.truncate(file, HUGE)
    seen["cut off"] = mount.free
    return seen


def hugetlbfs_limit_given_back(machine):
    """A promise stays with the file, a private one goes with its area."""
    mount, app = _mounted(machine)
    file = mount.file("f", HUGE)
    shared = app.mmap(HUGE, file=file, shared=True)
    private = app.mmap(HUGE, file=file)
    seen = {"both": mount.free}
    app.munmap(private)
    seen["without the private one"] = mount.free
    app.munmap(shared)
    seen["without any"] = mount.free
    machine.truncate(file, 0)
    seen["empty"] = mount.free
    return seen


def hugetlbfs_limit_and_moves(machine):
    """A page that moves, and then goes."""
    mount, app = _mounted(machine)
    machine.hugepages(2, node=1)
    file = mount.file("f", HUGE)
    area = app.mmap(HUGE, file=file, shared=True)
    app.write(area.start, b"moves")
    seen = {
        "move": attempt(app.move_pages, [area.start], 1),
        "contents": attempt(app.read, area.start, 5),
        "moved": mount.free,
    }
    app.munmap(area)
    machine.truncate(file, 0)
    seen["gone"] = mount.free
    return seen


def hugetlbfs_limit_and_private_moves(machine):
    """The same with a page of one's own."""
    mount, app = _mounted(machine)
    machine.hugepages(2, node=1)
    area = app.mmap(HUGE, file=mount.file("f", HUGE))
    app.write(area.start, b"stays?")
    seen = {
        "move": attempt(app.move_pages, [area.start], 1),
        "contents": attempt(app.read, area.start, 6),
    }
    app.munmap(area)
    seen["gone"] = mount.free
    return seen
