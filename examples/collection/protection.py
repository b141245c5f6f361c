"""Protection before, between and after moves: who may store, who gets a signal, who copies."""

from mmigrate import MiB
from mmigrate.observe import areas, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
MOVE_ALL = 4


def _rights(app, heap):
    """Whether a load and a store are allowed, page by page."""
    return [
        [attempt(app.touch, heap[n : n + 1], write=write) for write in (False, True)]
        for n in range(len(heap.pages()))
    ]


def _heap(machine, pages=3):
    app = machine.process("app")
    heap = app.mmap(pages=pages)
    app.touch(heap)
    return app, heap


def read_only_stays_read_only(machine):
    """mprotect, then a move."""
    app, heap = _heap(machine)
    app.mprotect(heap[0:1], "r")
    app.mprotect(heap[1:2], "")
    return {"move": attempt(app.move_pages, heap, 1), "rights": _rights(app, heap)}


def writable_again(machine):
    """Protected, moved, and made writable again."""
    app, heap = _heap(machine)
    app.write(heap.start, b"kept")
    app.mprotect(heap, "r")
    app.move_pages(heap, 1)
    app.mprotect(heap, "rw")
    return {
        "rights": _rights(app, heap),
        "contents": attempt(app.read, heap.start, 4),
        "at": app.placement(heap),
    }


def moved_then_protected(machine):
    """The other order."""
    app, heap = _heap(machine)
    app.move_pages(heap, 1)
    app.mprotect(heap, "r")
    return {"rights": _rights(app, heap), "at": app.placement(heap)}


def no_access_and_back(machine):
    """PROT_NONE during the move."""
    app, heap = _heap(machine)
    app.write(heap.start, b"hidden")
    app.mprotect(heap, "")
    moved = attempt(app.move_pages, heap, 2)
    app.mprotect(heap, "rw")
    return {"move": moved, "contents": attempt(app.read, heap.start, 6), "at": app.placement(heap)}


def copy_on_write_after_a_move(machine):
    """A page moved with MOVE_ALL is still shared: a store makes a copy."""
    app, heap = _heap(machine)
    app.write(heap.start, b"shared")
    child = app.fork()
    app.move_pages(heap, 1, flags=MOVE_ALL)
    child.write(heap.start, b"copied")
    return {
        "contents": [attempt(app.read, heap.start, 6), attempt(child.read, heap.start, 6)],
        "at": [app.placement(heap), child.placement(heap)],
    }


def protected_in_one_of_two(machine):
    """Parent and child with different protections."""
    app, heap = _heap(machine)
    child = app.fork()
    child.mprotect(heap, "r")
    moved = attempt(app.move_pages, heap, 1, flags=MOVE_ALL)
    return {"move": moved, "parent": _rights(app, heap), "child": _rights(child, heap)}


def private_file_read_only(machine):
    """A private mapping of a file that may not be stored into."""
    app = machine.process("app")
    view = app.mmap(
        pages=2, file=machine.file("data", 8192, fs="ext4", data=b"text" * 2048), prot="r"
    )
    app.touch(view, write=False)
    moved = attempt(app.move_pages, view, 1)
    return {
        "move": moved,
        "rights": _rights(app, view),
        "contents": attempt(app.read, view.start, 4),
    }


def private_file_stored_into_after_a_move(machine):
    """The store copies: the file does not change."""
    file = machine.file("data", 8192, fs="ext4", data=b"text" * 2048)
    app = machine.process("app")
    view = app.mmap(pages=2, file=file)
    app.touch(view, write=False)
    moved = attempt(app.move_pages, view, 1)
    app.write(view.start, b"mine")
    return {
        "move": moved,
        "file": attempt(app.pread, file, 4, 0),
        "view": attempt(app.read, view.start, 4),
        "at": app.placement(view),
    }


def shared_file_stored_into_after_a_move(machine):
    """The store reaches the file."""
    file = machine.file("data", 8192, fs="ext4", data=b"text" * 2048)
    app = machine.process("app")
    view = app.mmap(pages=2, file=file, shared=True)
    app.touch(view, write=False)
    moved = attempt(app.move_pages, view, 1)
    app.write(view.start, b"ours")
    machine.fsync(file)
    return {"move": moved, "file": attempt(app.pread, file, 4, 0), "at": app.placement(view)}


def executable(machine):
    """Loads and moves do not care for PROT_EXEC."""
    app, heap = _heap(machine)
    app.mprotect(heap, "rx")
    return {"move": attempt(app.move_pages, heap, 1), "rights": _rights(app, heap)}


def protection_in_the_middle(machine):
    """An area in three parts, moved as one range."""
    app, heap = _heap(machine, 6)
    app.mprotect(heap[2:4], "r")
    return {
        "move": attempt(app.move_pages, heap, 1),
        "rights": _rights(app, heap),
        "at": app.placement(heap),
    }


def unmapped_after_a_move(machine):
    """A hole is a hole."""
    app, heap = _heap(machine, 3)
    app.move_pages(heap, 1)
    app.munmap(heap[1:2])
    return {"rights": _rights(app, heap), "query": attempt(app.move_pages, heap)}


def errnos_of_mprotect_and_munmap(machine):
    """What the calls around refuse."""
    app, heap = _heap(machine)
    return {
        "mprotect unaligned": attempt(app.mprotect, heap.start + 1, "r", 4096),
        "mprotect hole": attempt(app.mprotect, 0x10000, "r", 4096),
        "munmap unaligned": attempt(app.munmap, heap.start + 1, 4096),
        "munmap nothing": attempt(app.munmap, heap.start, 0),
        "mremap unaligned": attempt(app.mbind, heap.start + 5, "bind", [1], length=1),
        "mlock hole": attempt(app.mlock, 0x10000, 4096),
        "munlock hole": attempt(app.munlock, 0x10000, 4096),
        "madvise hole": attempt(app.madvise, 0x10000, 4, 4096),
        "madvise unknown": attempt(app.madvise, heap, 999),
    }


def copy_of_a_pinned_page(machine):
    """A page that was shared, is pinned, and is written: who keeps it differs between kernels."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap)
    pin = app.pin(heap[0:1])
    app.fork().exit()
    app.write(heap.start, b"new")
    app.write(heap.start + 4096, b"new")
    seen = {"move": attempt(app.move_pages, heap, 1), "at": app.placement(heap)}
    pin.release()
    return {**seen, "contents": attempt(app.read, heap.start, 3)}


def pinned_and_never_shared(machine):
    """A pinned page that is made read-only and writable again is not copied."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap)
    pin = app.pin(heap[0:1])
    app.mprotect(heap, "r")
    app.mprotect(heap, "rw")
    app.write(heap.start, b"new")
    seen = {"move": attempt(app.move_pages, heap, 1), "at": app.placement(heap)}
    pin.release()
    return seen


def untouched_and_read_only_again(machine):
    """Whether memory that could be written for a while, and was not, is one area with its
    neighbour again."""
    app = machine.process("app")
    heap = app.mmap(pages=4, prot="r")
    app.mprotect(heap[2:4], "rw")
    app.mprotect(heap[2:4], "r")
    return {"areas": areas(app, heap)}
