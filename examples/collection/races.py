"""Two tasks at the same time: a kernel gives one of the answers that are possible."""

from mmigrate import MiB
from mmigrate.observe import attempt, plain

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}


def writer_against_mover(machine):
    """No store is lost."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.write(heap.start, b"before")
    moving = machine.start(app.move_pages, heap[0:1], 1, cpu=1)
    machine.start(app.write, heap.start, b"during", cpu=0)
    machine.run()
    return {"move": plain(moving.result), "contents": attempt(app.read, heap.start, 6)}


def two_movers(machine):
    """Both want the same page on different nodes."""
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.write(heap.start, b"one page")
    one = machine.start(app.move_pages, heap, 1, cpu=1)
    two = machine.start(app.move_pages, heap, 2, cpu=2)
    machine.run()
    return {
        "one": plain(one.result),
        "two": plain(two.result),
        "at": app.placement(heap),
        "contents": attempt(app.read, heap.start, 8),
    }


def mover_against_protection(machine):
    """mprotect while the page moves: read-only in the end."""
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.touch(heap)
    moving = machine.start(app.move_pages, heap, 1, cpu=1)
    machine.start(app.mprotect, heap, "r", cpu=0)
    machine.run()
    return {"move": plain(moving.result), "store": attempt(app.touch, heap)}


def mover_against_fork(machine):
    """The page is shared by then, or not yet."""
    app = machine.process("app")
    heap = app.mmap(pages=1)
    app.write(heap.start, b"family")
    moving = machine.start(app.move_pages, heap, 1, cpu=1)
    forking = machine.start(app.fork, "child", cpu=0)
    machine.run()
    child = forking.result
    return {
        "move": plain(moving.result),
        "child": child.placement(heap),
        "contents": attempt(child.read, heap.start, 6),
    }


def mover_against_unmapping(machine):
    """The area may be gone."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap)
    moving = machine.start(app.move_pages, heap, 1, cpu=1)
    machine.start(app.munmap, heap[0:1], cpu=0)
    machine.run()
    return {"move": plain(moving.result), "left": app.placement(heap)}


def two_migrations_of_a_process(machine):
    """migrate_pages in both directions."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap)
    machine.start(app.migrate_pages, [0], [1], cpu=1)
    machine.start(app.migrate_pages, [1], [2], cpu=2)
    machine.run()
    return {"at": app.placement(heap)}
