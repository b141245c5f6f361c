"""Every kind of page: what happens to it when it is to move, and its contents afterwards."""

from mmigrate import MiB
from mmigrate.observe import Counters, areas, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
MOVE_ALL = 4
TEXT = b"".join(b"block %d".ljust(4096, b".") % number for number in range(4))


def _file(machine, fs="ext4"):
    return machine.file("data", len(TEXT), fs=fs, data=TEXT)


def _moves(machine, app, view, flags=2):
    counters = Counters(machine)
    return {
        "move": attempt(app.move_pages, view, 1, flags=flags),
        "at": app.placement(view),
        "areas": areas(app, view),
        "contents": [attempt(app.read, address, 7) for address in view.pages()],
        "counters": counters.change(),
    }


def file_clean_and_private(machine):
    """The page cache, mapped privately and read."""
    app = machine.process("app")
    view = app.mmap(pages=4, file=_file(machine))
    app.touch(view, write=False)
    return _moves(machine, app, view)


def file_clean_and_shared(machine):
    """The page cache, mapped shared and read."""
    app = machine.process("app")
    view = app.mmap(pages=4, file=_file(machine), shared=True)
    app.touch(view, write=False)
    return _moves(machine, app, view)


def file_dirty_and_shared(machine):
    """Stored into through a mapping."""
    app = machine.process("app")
    view = app.mmap(pages=4, file=_file(machine), shared=True)
    app.touch(view, write=False)
    app.write(view.start, b"changed")
    return _moves(machine, app, view)


def file_written_and_mapped(machine):
    """Dirty by write(2), then mapped."""
    app = machine.process("app")
    file = _file(machine)
    app.pwrite(file, b"written", 4096)
    view = app.mmap(pages=4, file=file, shared=True)
    app.touch(view, write=False)
    return {**_moves(machine, app, view), "read": attempt(app.pread, file, 7, 4096)}


def file_synced(machine):
    """Written back before the move."""
    app = machine.process("app")
    file = _file(machine)
    view = app.mmap(pages=4, file=file, shared=True)
    app.touch(view)
    machine.fsync(file)
    return _moves(machine, app, view)


def file_copied_privately(machine):
    """A private mapping after a store has pages of its own."""
    app = machine.process("app")
    file = _file(machine)
    view = app.mmap(pages=4, file=file)
    app.touch(view, write=False)
    app.write(view.start, b"private")
    return {**_moves(machine, app, view), "file": attempt(app.pread, file, 7, 0)}


def file_not_mapped(machine):
    """Page cache that nobody maps stays where it is."""
    app = machine.process("app")
    file = _file(machine)
    app.pread(file, len(TEXT))
    moved = attempt(app.migrate_pages, [0], [1])
    view = app.mmap(pages=4, file=file, shared=True)
    app.touch(view, write=False)
    return {"call": moved, "at": app.placement(view)}


def file_of_two_processes(machine):
    """Mapped by two: MOVE_ALL only."""
    file = _file(machine)
    one, two = machine.process("one"), machine.process("two")
    here = one.mmap(pages=4, file=file, shared=True)
    there = two.mmap(pages=4, file=file, shared=True)
    one.touch(here, write=False)
    two.touch(there[0:2], write=False)
    first = attempt(one.move_pages, here, 1)
    second = attempt(one.move_pages, here, 1, flags=MOVE_ALL)
    one.write(here.start, b"by one ")
    return {
        "move": first,
        "move all": second,
        "two": two.placement(there),
        "contents": attempt(two.read, there.start, 7),
    }


def file_beyond_its_end(machine):
    """A page that is mapped and not in the file."""
    app = machine.process("app")
    view = app.mmap(pages=6, file=_file(machine), shared=True)
    app.touch(view[0:4], write=False)
    return {
        "touch": attempt(app.touch, view[4:6]),
        "move": attempt(app.move_pages, view, 1),
    }


def file_truncated(machine):
    """What truncation took away is no longer there."""
    app = machine.process("app")
    file = _file(machine)
    view = app.mmap(pages=4, file=file, shared=True)
    app.touch(view, write=False)
    machine.truncate(file, 4096)
    return {
        "move": attempt(app.move_pages, view, 1),
        "load": attempt(app.read, view.start + 4096, 1),
    }


def file_on_xfs(machine):
    """Another file system."""
    app = machine.process("app")
    view = app.mmap(pages=4, file=_file(machine, "xfs"), shared=True)
    app.touch(view)
    return _moves(machine, app, view)


def file_on_ramfs(machine):
    """Pages that are never written and not evictable."""
    app = machine.process("app")
    view = app.mmap(pages=4, file=machine.file("data", 16384, fs="ramfs"), shared=True)
    app.touch(view)
    return _moves(machine, app, view)


def shared_memory(machine):
    """tmpfs, one process."""
    shm = machine.shmem("segment", 4 * 4096)
    app = machine.process("app")
    view = app.mmap(pages=4, file=shm, shared=True)
    app.touch(view)
    app.write(view.start, b"segment")
    return _moves(machine, app, view)


def shared_memory_of_two(machine):
    """tmpfs, two processes."""
    shm = machine.shmem("segment", 4 * 4096)
    one, two = machine.process("one"), machine.process("two")
    here = one.mmap(pages=4, file=shm, shared=True)
    there = two.mmap(pages=4, file=shm, shared=True)
    one.touch(here)
    two.touch(there[0:2])
    first = _moves(machine, one, here)
    second = _moves(machine, one, here, MOVE_ALL)
    return {"move": first, "move all": second, "two": two.placement(there)}


def shared_memory_read_first(machine):
    """A read of a hole in shared memory gives a page of its own, not that of zeroes."""
    shm = machine.shmem("segment", 4 * 4096)
    app = machine.process("app")
    view = app.mmap(pages=4, file=shm, shared=True)
    app.touch(view, write=False)
    return _moves(machine, app, view)


def shared_memory_private_copy(machine):
    """tmpfs mapped privately, and stored into."""
    shm = machine.shmem("segment", 4 * 4096)
    app = machine.process("app")
    app.pwrite(shm, b"in file", 0)
    view = app.mmap(pages=4, file=shm)
    app.touch(view, write=False)
    app.write(view.start + 4096, b"private")
    return _moves(machine, app, view)


def shared_anonymous(machine):
    """MAP_SHARED without a file, and a child."""
    app = machine.process("app")
    view = app.mmap(pages=4, shared=True)
    app.touch(view)
    alone = _moves(machine, app, view)
    child = app.fork()
    child.touch(view[0:2])
    child.write(view.start, b"child's")
    return {
        "alone": alone,
        "two": attempt(app.move_pages, view, 2),
        "contents": attempt(app.read, view.start, 7),
    }


def shared_memory_in_swap(machine):
    """Pages of shared memory that were swapped out."""
    machine.swapon(MiB(16))
    app = machine.process("app")
    view = app.mmap(pages=4, shared=True)
    app.write(view.start, b"swapped")
    app.touch(view)
    out = machine.swap_out(app, view[0:2])
    return {"out": out, **_moves(machine, app, view)}


def anonymous_locked(machine):
    """mlock before the move."""
    app = machine.process("app")
    heap = app.mmap(pages=4)
    app.mlock(heap)
    return _moves(machine, app, heap)


def anonymous_locked_by_the_mapping(machine):
    """MAP_LOCKED."""
    app = machine.process("app")
    heap = app.mmap(pages=4, locked=True)
    return _moves(machine, app, heap)


def locked_and_unlocked(machine):
    """munlock after the move."""
    app = machine.process("app")
    heap = app.mmap(pages=4)
    app.mlock(heap)
    first = _moves(machine, app, heap)
    app.munlock(heap)
    return {"locked": first, "back": attempt(app.move_pages, heap, 0)}


def file_locked(machine):
    """Locked page cache."""
    app = machine.process("app")
    view = app.mmap(pages=4, file=_file(machine), shared=True)
    app.mlock(view)
    return _moves(machine, app, view)


def populated(machine):
    """MAP_POPULATE."""
    app = machine.process("app")
    heap = app.mmap(pages=4, populate=True)
    return _moves(machine, app, heap)


def forked_and_broken(machine):
    """Copy on write on either side, moved on either side."""
    app = machine.process("app")
    heap = app.mmap(pages=4)
    for address in heap.pages():
        app.write(address, b"parent ")
    child = app.fork()
    child.write(heap.start, b"child")
    app.write(heap.start + 4096, b"after")
    return {
        "parent": _moves(machine, app, heap),
        "child": _moves(machine, child, heap),
    }


def grandchildren(machine):
    """Three processes share a page."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.write(heap.start, b"ancestor")
    child = app.fork("child")
    grandchild = child.fork("grandchild")
    child.write(heap.start + 4096, b"mine")
    moved = attempt(grandchild.move_pages, heap, 1, flags=MOVE_ALL)
    return {
        "move": moved,
        "at": [process.placement(heap) for process in (app, child, grandchild)],
        "contents": [attempt(p.read, heap.start, 8) for p in (app, child, grandchild)],
    }


def moved_and_forked(machine):
    """Fork after a move, then a store on both sides."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.write(heap.start, b"before")
    app.move_pages(heap, 1)
    child = app.fork()
    child.write(heap.start, b"child!")
    return {
        "at": [app.placement(heap), child.placement(heap)],
        "contents": [attempt(app.read, heap.start, 6), attempt(child.read, heap.start, 6)],
    }


def remapped(machine):
    """mremap to another place, and a move."""
    app = machine.process("app")
    heap = app.mmap(pages=4)
    for number, address in enumerate(heap.pages()):
        app.write(address, b"page %d " % number)
    moved = app.mremap(heap, 8 * 4096)
    return _moves(machine, app, moved[0:4])


def heap_by_brk(machine):
    """The heap proper."""
    app = machine.process("app")
    bottom = app.brk()
    end = app.brk(bottom + 4 * 4096)
    for number in range(4):
        app.write(bottom + 4096 * number, b"on heap")
    where = [bottom + 4096 * number for number in range(4)]
    return {
        "size": end - bottom,
        "move": attempt(app.move_pages, where, 1),
        "contents": attempt(app.read, bottom, 7),
    }


def given_back(machine):
    """MADV_DONTNEED, and touched again elsewhere."""
    app = machine.process("app")
    heap = app.mmap(pages=4)
    app.touch(heap)
    app.madvise(heap[0:2], 4)
    first = attempt(app.move_pages, heap, 1)
    app.on_cpu(2)
    app.touch(heap)
    return {"move": first, "at": app.placement(heap)}


def pinned_file_page(machine):
    """A reference on page cache."""
    app = machine.process("app")
    view = app.mmap(pages=4, file=_file(machine), shared=True)
    app.touch(view, write=False)
    pin = app.pin(view[1:2], write=False)
    seen = _moves(machine, app, view)
    pin.release()
    return {**seen, "released": attempt(app.move_pages, view, 1)}


def pinned_shared_memory(machine):
    """A reference on shared memory."""
    app = machine.process("app")
    view = app.mmap(pages=4, shared=True)
    app.touch(view)
    pin = app.pin(view[0:2])
    seen = _moves(machine, app, view)
    pin.release()
    return seen


def swap_cache(machine):
    """Swapped in for reading: still in the swap cache, and moved."""
    machine.swapon(MiB(16))
    app = machine.process("app")
    heap = app.mmap(pages=4)
    for address in heap.pages():
        app.write(address, b"swapped")
    app.fork()
    machine.swap_out(app, heap)
    contents = [attempt(app.read, address, 7) for address in heap.pages()]
    return {
        "contents": contents,
        "move": attempt(app.move_pages, heap, 1, flags=MOVE_ALL),
        "then": [attempt(app.read, address, 7) for address in heap.pages()],
    }
