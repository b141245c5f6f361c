"""move_pages(2): every status of a page."""

from mmigrate import MiB
from mmigrate.observe import Counters, attempt

MACHINE = {"nodes": (MiB(64), MiB(64), MiB(64), 0)}
MOVE_ALL = 4


def _heap(machine, pages, **options):
    app = machine.process("app", **options)
    heap = app.mmap(pages=pages)
    app.touch(heap)
    return app, heap


def moved(machine):
    """A private page goes where it is told, with its contents."""
    app, heap = _heap(machine, 3)
    app.write(heap.start + 4096, b"in the second")
    counters = Counters(machine)
    return {
        "status": attempt(app.move_pages, heap, [1, 2, 1]),
        "at": app.placement(heap),
        "contents": attempt(app.read, heap.start + 4096, 13),
        "counters": counters.change(),
    }


def already_there(machine):
    """A page on the wanted node reports the node and is not moved."""
    app, heap = _heap(machine, 2)
    counters = Counters(machine)
    return {"status": attempt(app.move_pages, heap, 0), "counters": counters.change()}


def shared_but_already_there(machine):
    """The node is compared before the sharing."""
    app, heap = _heap(machine, 2)
    app.fork()
    return {"status": attempt(app.move_pages, heap, 0)}


def never_touched(machine):
    """No page yet."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap[0:1])
    return {"move": attempt(app.move_pages, heap, 1), "query": attempt(app.move_pages, heap)}


def no_area(machine):
    """Addresses that nothing is mapped at."""
    app, heap = _heap(machine, 1)
    odd = [0, 0x1000, heap.start, 1 << 46, (1 << 47) - 4096, 1 << 47, 1 << 63]
    return {"move": attempt(app.move_pages, odd, 1), "query": attempt(app.move_pages, odd)}


def unmapped_again(machine):
    """What munmap took away."""
    app, heap = _heap(machine, 3)
    app.munmap(heap[1:2])
    return {"move": attempt(app.move_pages, heap, 1), "query": attempt(app.move_pages, heap)}


def without_access(machine):
    """PROT_NONE does not keep a page from moving."""
    app, heap = _heap(machine, 2)
    app.mprotect(heap, "")
    return {"move": attempt(app.move_pages, heap, 1), "query": attempt(app.move_pages, heap)}


def inside_a_page(machine):
    """Addresses need not be aligned."""
    app, heap = _heap(machine, 2)
    where = [heap.start + 123, heap.start + 4096 + 4095]
    return {"move": attempt(app.move_pages, where, 1), "query": attempt(app.move_pages, where)}


def zero_page(machine):
    """What was only read is the shared page of zeroes."""
    app = machine.process("app")
    heap = app.mmap(pages=2)
    app.touch(heap, write=False)
    return {
        "move": attempt(app.move_pages, heap, 1),
        "query": attempt(app.move_pages, heap),
        "at": app.placement(heap),
    }


def zero_page_between_others(machine):
    """The others move."""
    app = machine.process("app")
    heap = app.mmap(pages=3)
    app.touch(heap[0:1])
    app.touch(heap[1:2], write=False)
    app.touch(heap[2:3])
    return {"move": attempt(app.move_pages, heap, 1), "at": app.placement(heap)}


def shared_after_fork(machine):
    """Two processes map it."""
    app, heap = _heap(machine, 2)
    child = app.fork()
    counters = Counters(machine)
    return {
        "move": attempt(app.move_pages, heap, 1),
        "counters": counters.change(),
        "move all": attempt(app.move_pages, heap, 1, flags=MOVE_ALL),
        "child": child.placement(heap),
        "both": counters.change(),
    }


def shared_by_a_user(machine):
    """A user may not move what another process maps too."""
    app, heap = _heap(machine, 1, uid=1000)
    app.fork()
    return {"move": attempt(app.move_pages, heap, 1), "at": app.placement(heap)}


def exclusive_again(machine):
    """When the child has gone, or has copied, the page is exclusive."""
    app, heap = _heap(machine, 2)
    child = app.fork()
    child.write(heap.start, b"copy")
    first = attempt(app.move_pages, heap, 1)
    child.exit()
    return {"child there": first, "child gone": attempt(app.move_pages, heap, 1)}


def pinned(machine):
    """An extra reference, as I/O holds it."""
    app, heap = _heap(machine, 3)
    pin = app.pin(heap[1:2])
    counters = Counters(machine)
    seen = {
        "pinned": attempt(app.move_pages, heap, 1),
        "at": app.placement(heap),
        "counters": counters.change(),
    }
    pin.release()
    return {**seen, "released": attempt(app.move_pages, heap, 1), "then": app.placement(heap)}


def all_pinned(machine):
    """Nothing moves, and the call says so in its way."""
    app, heap = _heap(machine, 4)
    pin = app.pin(heap)
    counters = Counters(machine)
    seen = {"move": attempt(app.move_pages, heap, 1), "counters": counters.change()}
    pin.release()
    return {**seen, "at": app.placement(heap)}


def pinned_first_and_two_nodes(machine):
    """A failure before pages for another node."""
    app, heap = _heap(machine, 4)
    pin = app.pin(heap[0:1])
    seen = {"move": attempt(app.move_pages, heap, [1, 1, 2, 2]), "at": app.placement(heap)}
    pin.release()
    return seen


def pinned_last_and_two_nodes(machine):
    """A failure after pages for another node."""
    app, heap = _heap(machine, 4)
    pin = app.pin(heap[3:4])
    seen = {"move": attempt(app.move_pages, heap, [1, 1, 2, 2]), "at": app.placement(heap)}
    pin.release()
    return seen


def pinned_and_a_bad_node(machine):
    """A page that cannot move before a node that is none."""
    app, heap = _heap(machine, 3)
    pin = app.pin(heap[0:1])
    seen = {"move": attempt(app.move_pages, heap, [1, 1, 9]), "at": app.placement(heap)}
    pin.release()
    return seen


def pinned_shared_all(machine):
    """MOVE_ALL does not help against a pin."""
    app, heap = _heap(machine, 2)
    app.fork()
    pin = app.pin(heap[0:1], write=False)
    seen = {"move": attempt(app.move_pages, heap, 1, flags=MOVE_ALL), "at": app.placement(heap)}
    pin.release()
    return seen


def twice_in_a_call(machine):
    """The same page twice, to the same node."""
    app, heap = _heap(machine, 2)
    where = [heap.start, heap.start + 4096, heap.start]
    return {"move": attempt(app.move_pages, where, 1), "at": app.placement(heap)}


def twice_in_a_row(machine):
    """The same page twice, one right after the other."""
    app, heap = _heap(machine, 1)
    return {
        "move": attempt(app.move_pages, [heap.start, heap.start + 8], 1),
        "at": app.placement(heap),
    }


def twice_to_two_nodes(machine):
    """First where it is, then somewhere else."""
    app, heap = _heap(machine, 1)
    return {
        "move": attempt(app.move_pages, [heap.start] * 2, [0, 1]),
        "at": app.placement(heap),
    }


def twice_to_two_other_nodes(machine):
    """Two nodes that it is not on."""
    app, heap = _heap(machine, 1)
    return {
        "move": attempt(app.move_pages, [heap.start] * 2, [1, 2]),
        "at": app.placement(heap),
    }


def every_status_in_one_call(machine):
    """Moved, there, shared, not touched, no area."""
    app, heap = _heap(machine, 4)
    app.fork()
    app.write(heap.start, b"own")
    fresh = app.mmap(pages=1)
    where = [*heap.pages(), fresh.start, 0x10000]
    return {
        "move": attempt(app.move_pages, where, [1, 0, 1, 1, 1, 1]),
        "at": app.placement(heap),
    }


def swapped_out(machine):
    """What is in swap has no page."""
    machine.swapon(MiB(16))
    app, heap = _heap(machine, 4)
    app.write(heap.start, b"swapped")
    out = machine.swap_out(app, heap[0:2])
    return {
        "out": out,
        "move": attempt(app.move_pages, heap, 1),
        "query": attempt(app.move_pages, heap),
        "contents": attempt(app.read, heap.start, 7),
        "at": app.placement(heap),
    }


def swapped_in_again(machine):
    """After a store the page is ordinary again."""
    machine.swapon(MiB(16))
    app, heap = _heap(machine, 2)
    machine.swap_out(app, heap)
    app.write(heap.start, b"back")
    return {
        "move": attempt(app.move_pages, heap, 1),
        "contents": attempt(app.read, heap.start, 4),
        "at": app.placement(heap),
    }


def there_and_back(machine):
    """Many times between two nodes, contents kept."""
    app, heap = _heap(machine, 5)
    for number, address in enumerate(heap.pages()):
        app.write(address + 100, b"page %d" % number)
    counters = Counters(machine)
    results = {attempt(app.move_pages, heap, node) for node in (1, 2, 0, 1, 0, 2)}
    return {
        "results": sorted(results),
        "contents": [attempt(app.read, address + 100, 6) for address in heap.pages()],
        "counters": counters.change(),
    }


def large_list(machine):
    """2,000 pages, alternating."""
    app, heap = _heap(machine, 2000)
    return {
        "move": attempt(app.move_pages, heap, [page & 1 for page in range(2000)]) != "",
        "at": app.placement(heap),
    }


def query_of_all_kinds(machine):
    """Where things are, of another process, by root."""
    app = machine.process("app", cpu=1)
    heap = app.mmap(pages=20)
    app.touch(heap[0:18])
    root = machine.process("root")
    return {"query": attempt(root.move_pages, heap, process=app)}


def query_ignores_cpusets(machine):
    """A page on a node that the target's cpuset does not allow is still shown."""
    app, heap = _heap(machine, 1)
    app.join(machine.cpuset("one", [1]))
    return {"query": attempt(app.move_pages, heap)}


def in_the_middle_of_an_area(machine):
    """Pages far apart."""
    app, heap = _heap(machine, 1024)
    chosen = [heap.start + 4096 * page for page in (0, 511, 512, 1023)]
    return {"move": attempt(app.move_pages, chosen, 2), "at": app.placement(heap)}


def backwards(machine):
    """Addresses in falling order."""
    app, heap = _heap(machine, 6)
    return {
        "move": attempt(app.move_pages, list(reversed(heap.pages())), 1),
        "at": app.placement(heap),
    }
