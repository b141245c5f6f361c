"""a8bef8ff6ea1: exec moves its stack while a page of it migrates."""

from typing import Any

from mmigrate.history.by_kernel import try_once
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import SKIP_TEMPORARY_STACKS
from mmigrate.linux.kernel.rwsem import down_write
from mmigrate.linux.mm import exec as fs_exec
from mmigrate.machine.process import Process


def exec_moves_its_stack(machine: Any) -> None:
    kernel = machine.kernel
    bprm = fs_exec.bprm_mm_init(kernel, "program")
    task = kernel.scheduler.new_task("program", kernel.cpus[0], bprm.mm)
    process = machine.add_process(Process(machine, task, bprm.mm))
    with process.running():
        assert fs_exec.copy_strings(bprm, b"arguments") == 0

    def shift_the_stack() -> None:
        with process.running(), down_write(bprm.mm.mmap_sem):
            assert fs_exec.shift_arg_pages(bprm.vma, 1 << 30) == 0

    machine.drain_pagevecs()
    moving = machine.page_of(process, bprm.vma.vm_start)
    machine.start(try_once, machine, moving, cpu=1)
    machine.start(shift_the_stack, cpu=0)


ROW = Row(
    SKIP_TEMPORARY_STACKS,
    "exec builds a stack at the top of the address space and then moves it down; while it moves, "
    "the address computed from a page's offset is not where its pte is.",
    Kind.RACE,
    exec_moves_its_stack,
    (
        "an entry is left where the walk does not look",
        "pages of a stack that is being built are passed over",
    ),
    finding="migration entries",
)
