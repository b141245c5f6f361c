"""d3cb8bf6081b: a migration that ends while mprotect is under way.

Both decide under the lock of the page table, so the later of the two leaves a correct pte,
and when mprotect has returned no pte is writable any more, before the fix too. What is wrong
is in between: migration installs a writable pte in an area that has lost the right to write,
and another thread, fork or a write pin can use it until mprotect gets there. So the condition
is asked at the moment of installation.
"""

from typing import Any

from mmigrate.history.by_kernel import move_by_kernel
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import CLOSE_MPROTECT_RACE
from mmigrate.machine.conditions import always, sometimes


def no_right_to_write_comes_back(machine: Any) -> bool:
    """Migration never makes a pte writable whose area is not."""
    return all(fields["area_writable"] or not fields["writable"] for fields in _restored(machine))


def restored_under_mprotect(machine: Any) -> bool:
    """An entry came back when the area had lost the right, and mprotect had not seen it."""
    return any(not fields["area_writable"] for fields in _restored(machine))


def _restored(machine: Any) -> list[dict[str, Any]]:
    return [fields for name, fields in machine.kernel.events if name == "remove_migration_pte"]


@always(no_right_to_write_comes_back)
@sometimes(restored_under_mprotect)
def mprotect_meets_restore(machine: Any) -> None:
    machine.kernel.events = []
    app = machine.process("app")
    page = app.mmap(pages=1)
    app.write(page.start, b"kept")
    machine.drain_pagevecs()
    moving = machine.page_of(app, page.start)
    machine.start(move_by_kernel, machine, [moving], cpu=0)
    machine.start(app.mprotect, page, "r", cpu=1)


ROW = Row(
    CLOSE_MPROTECT_RACE,
    "Migration entries remember that a pte was writable, and coming back they do not look "
    "whether mprotect has taken that right away meanwhile.",
    Kind.RACE,
    mprotect_meets_restore,
    (
        "a pte becomes writable in an area that is read-only by then, until mprotect visits it",
        "it comes back read-only",
    ),
    finding="always: mprotect_meets_restore: no_right_to_write_comes_back",
    note="Transient for base pages: no writable pte is left when mprotect has returned. In a "
    "shared mapping whose dirty pages are not counted the same can still be seen in v3.19, if the "
    "restore comes between mprotect's two stores to vm_flags and vm_page_prot.",
)
