"""Generated programs of a few tasks: each task is a list of operations on shared words, locks,
semaphores, waits, CPUs and workers."""

from functools import partial

from mmigrate.explore.program import (
    RwSemaphore,
    Shared,
    SpinLock,
    down_read,
    down_write,
    spin_lock,
    spin_trylock,
    spin_unlock,
    up_read,
    up_write,
)
from mmigrate.linux.kernel.rwsem import down_write_trylock
from mmigrate.linux.kernel.workqueue import run_on_cpus

OPERATIONS = (
    ("load", 2),
    ("store", 2),
    ("increment", 2),
    ("spin", 2),
    ("try spin", 2),
    ("read lock", 2),
    ("write lock", 2),
    ("try write lock", 2),
    ("wait", 2),
    ("if set", 2),
    ("worker", 2),
)


def program(tasks_operations, cpus):
    """A function for `explore`.  @tasks_operations: by task, (operation, which, body).  @cpus: by
    task."""

    def run(tasks):
        words = [Shared(0, f"word {n}") for n in range(2)]
        spins = [SpinLock(f"spin {n}") for n in range(2)]
        semaphores = [RwSemaphore(f"semaphore {n}") for n in range(2)]
        seen = []

        def do(operations, number):
            for operation, which, body in operations:
                if operation == "load":
                    seen.append((number, words[which].load()))
                elif operation == "store":
                    words[which].store(number + 1)
                elif operation == "increment":
                    words[which].store(words[which].load() + 1)
                elif operation == "update":
                    words[which].update(lambda value: value + 1)
                elif operation == "spin":
                    with spin_lock(spins[which]):
                        do(body, number)
                elif operation == "try spin":
                    if spin_trylock(spins[which]):
                        do(body, number)
                        spin_unlock(spins[which])
                elif operation == "read lock":
                    down_read(semaphores[which])
                    do(body, number)
                    up_read(semaphores[which])
                elif operation == "write lock":
                    down_write(semaphores[which])
                    do(body, number)
                    up_write(semaphores[which])
                elif operation == "try write lock":
                    if down_write_trylock(semaphores[which]):
                        do(body, number)
                        up_write(semaphores[which])
                elif operation == "wait":
                    words[which].wait(lambda value: value != 1)
                elif operation == "if set":
                    if words[which].load():
                        do(body, number)
                elif operation == "worker":
                    cpu = tasks.kernel.cpus[1 + which]
                    work = partial(on_a_cpu, body, number + 10)
                    run_on_cpus([cpu], work, f"of {number}")

        def on_a_cpu(operations, number, cpu):
            do(operations, number)

        for number, operations in enumerate(tasks_operations):
            tasks.start(partial(do, operations, number), name=f"task {number}", cpu=cpus[number])
        tasks.run()

    return run
