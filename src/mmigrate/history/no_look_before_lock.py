"""486cf46f3f9b: mremap moves a migration entry while the walk looks for it."""

from typing import Any

from mmigrate.history.by_kernel import move_by_kernel
from mmigrate.history.row import Kind, Row
from mmigrate.linux.include.switches import NO_LOOK_BEFORE_LOCK
from mmigrate.machine.conditions import sometimes


def the_entry_was_moved(machine: Any) -> bool:
    """A walk found the entry at the place to which mremap had moved it."""
    new = machine.kernel.mms[0].mmap[0].vm_start
    return any(
        name == "remove_migration_pte" and fields["address"] == new
        for name, fields in machine.kernel.events
    )


@sometimes(the_entry_was_moved)
def mremap_meets_restore(machine: Any) -> None:
    machine.kernel.events = []
    app = machine.process("app")
    pages = app.mmap(pages=1)
    app.write(pages.start, b"kept")
    machine.drain_pagevecs()
    moving = machine.page_of(app, pages.start)
    machine.start(move_by_kernel, machine, [moving], cpu=0)
    machine.start(app.mremap, pages, pages.length, at=pages.start - (1 << 30), cpu=1)


ROW = Row(
    NO_LOOK_BEFORE_LOCK,
    "The walk that brings ptes back looks at each place before it takes the lock, while mremap "
    "moves the entry from the place it has not looked at yet to one it has, or is between both.",
    Kind.RACE,
    mremap_meets_restore,
    (
        "an entry is left behind that names an unlocked page; the next fault on it is a BUG",
        "the entry is found at one of the places, under the lock",
    ),
    finding="migration entries",
)
