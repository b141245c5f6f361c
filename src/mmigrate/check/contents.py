"""What was stored is what a load would find."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm_types import Inode, Mm, Page
from mmigrate.linux.include.pgtable import (
    PAGE_SHIFT,
    is_migration_entry,
    pte_pfn,
    pte_present,
    pte_to_swp_entry,
    swp_offset,
)
from mmigrate.linux.mm import swapfile
from mmigrate.machine.process import peek_pte

ZERO = bytes(4096)


def contents(view: View) -> Iterator[Violation]:
    processes = {mm.name: mm for mm in view.kernel.mms}
    files = {f"file {inode.name}": inode for inode in view.kernel.inodes}
    shadow = view.machine.shadow
    for (name, number), (expected, mask) in shadow.pages.items():
        if name in processes:
            where = f"{name} at {number << PAGE_SHIFT:#x}"
            found = _in_memory(view, processes[name], number << PAGE_SHIFT)
        elif name in files:
            where = f"{name} page {number}"
            found = _in_file(view, files[name], number)
        else:
            continue
        wrong = shadow.differs((name, number), 0, found)
        if wrong is not None:
            lost = sum(1 for at in range(4096) if mask[at] and expected[at] != found[at])
            yield Violation(
                "contents",
                where,
                f"byte {wrong} is {found[wrong]:#04x}, stored was {expected[wrong]:#04x}; "
                f"{lost} bytes lost",
            )


def _in_memory(view: View, mm: Mm, address: int) -> bytes:
    """What a load at @address would find, without a fault."""
    pte = peek_pte(mm, address)
    if pte == 0:
        return ZERO
    if pte_present(pte):
        return _bytes(view.kernel.page_of(pte_pfn(pte)))
    entry = pte_to_swp_entry(pte)
    if is_migration_entry(entry):
        return _bytes(view.kernel.page_of(swp_offset(entry)))
    return swapfile.contents_of(view.kernel, entry)


def _in_file(view: View, inode: Inode, index: int) -> bytes:
    h = inode.fs.hstate
    if h is not None:
        head = inode.i_mapping.page_tree.slots.get(index >> h.order)
        if head is None:
            return ZERO
        return _bytes(view.kernel.page_of(head.pfn + (index & (h.pages - 1))))
    item = inode.i_mapping.page_tree.slots.get(index)
    if isinstance(item, Page):
        return _bytes(item)
    if item is not None:
        return swapfile.contents_of(view.kernel, item >> 2)
    return inode.blocks.get(index, ZERO)


def _bytes(page: Page) -> bytes:
    return bytes(page.data or ZERO)
