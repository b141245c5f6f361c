"""50062175ffc8: the method `migrate` of areas, which nobody had."""

from collections import Counter
from typing import Any

from mmigrate.history.row import Kind, Row
from mmigrate.linux.fs import kernfs
from mmigrate.linux.fs.inode import inode_of, open_file
from mmigrate.linux.include.mm_types import Vma, VmOperations
from mmigrate.linux.include.switches import KILL_VMA_MIGRATE
from mmigrate.linux.mm import filemap


def _moved(machine: Any, owner: VmOperations | None) -> dict[str, Any]:
    """Migrate a process with anonymous memory, a file, and a mapped file of sysfs."""
    node = kernfs.KernfsNode()
    inode = inode_of(machine.kernel, "config", kernfs.filesystem(node, owner), 4096)
    app = machine.process("app")
    heap = app.mmap(pages=2)
    view = app.mmap(pages=2, file=machine.file("data", 8192), shared=True)
    registers = app.mmap(pages=1, file=open_file(inode), shared=True)
    areas = (heap, view, registers)
    for area in areas:
        app.touch(area, write=area is heap)
    node.calls = 0
    try:
        answer = app.migrate_pages([0], [1])
    except OSError as error:
        answer = -(error.errno or 0)
    placement = sum((Counter(app.placement(area)) for area in areas), Counter())
    return {"answer": answer, "placement": dict(placement), "calls": node.calls}


def areas_without_the_method(machine: Any) -> dict[str, Any]:
    """The only real instance asks the driver's own, and no driver has one."""
    return _moved(machine, None)


def an_area_that_refuses(machine: Any) -> dict[str, Any]:
    """What the method could do: nothing of the process moves, in no area."""

    def refuse(_vma: Vma, _from: int, _to: int, _flags: int) -> int:
        return -5

    owner = VmOperations("driver", fault=filemap.generic_file_vm_ops.fault, migrate=refuse)
    return _moved(machine, owner)


ROW = Row(
    KILL_VMA_MIGRATE,
    "Areas had a method to be asked before a process is migrated; its one instance, in sysfs, "
    "only passes the question on, and nobody is there to answer it.",
    Kind.STATE,
    an_area_that_refuses,
    (
        "what the method answers is the answer of migrate_pages(2), and nothing moves",
        "nobody is asked",
    ),
    without={"answer": -5, "placement": {0: 5}, "calls": 1},
    fixed={"answer": 0, "placement": {1: 5}, "calls": 0},
    note="With real areas the two kernels differ in nothing but the useless call: "
    "`areas_without_the_method`.",
)
