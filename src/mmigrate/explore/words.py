"""How a word is called, and what is in it, for people."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from mmigrate.linux.fs import buffer
from mmigrate.linux.include import page_flags
from mmigrate.linux.include.mm import VM_EXEC, VM_READ, VM_WRITE
from mmigrate.linux.include.mm_types import Page, PageTable
from mmigrate.linux.include.pgtable import (
    _PAGE_DIRTY,
    _PAGE_NUMA,
    _PAGE_PRESENT,
    _PAGE_PROTNONE,
    _PAGE_PSE,
    _PAGE_RW,
    _PAGE_SPECIAL,
    _PAGE_SPLITTING,
    PAGE_SHIFT,
    PTE_PFN_MASK,
    is_migration_entry,
    is_write_migration_entry,
    pte_file,
    pte_to_pgoff,
    pte_to_swp_entry,
    swp_offset,
    swp_type,
)
from mmigrate.linux.include.sched import Cpu
from mmigrate.linux.kernel.rwsem import RwSemaphore
from mmigrate.linux.lib.radix_tree import RadixTree


@cache
def _names(kind: str) -> dict[int, str]:
    module, prefix = (page_flags, "PG_") if kind == "page" else (buffer, "BH_")
    return {
        value: name
        for name, value in vars(module).items()
        if name.startswith(prefix) and isinstance(value, int)
    }


def name_of(obj: Any) -> str:
    """The name of an object, the same in all runs: that of its class if it has none."""
    kind: Any = type(obj)
    return str(kind.__name__) if kind.__repr__ is object.__repr__ else repr(obj)


def word_name(obj: Any, field: Any) -> str:
    """Such as "pfn 17 PG_locked"."""
    if isinstance(field, int):
        if isinstance(obj, Page):
            return f"{name_of(obj)} {_names('page').get(field, hex(field))}"
        if isinstance(obj, PageTable):
            return f"{name_of(obj)} entry {field}"
        if isinstance(obj, RadixTree):
            return f"{name_of(obj)} slot {field}"
        return f"{name_of(obj)} {_names('buffer').get(field, field)}"
    return f"{name_of(obj)} {field}"


def value_of(obj: Any, field: Any) -> str:
    """What is in a word now; "" where nothing short can be said."""
    if isinstance(field, int):
        return _of_number(obj, field)
    if isinstance(obj, RwSemaphore):
        if obj.writer is not None:
            return f"written by {obj.writer}"
        return f"{obj.readers} readers" if obj.readers else "free"
    if isinstance(obj, Cpu):
        if field == "tlb":
            return f"{len(obj.tlb)} translations" + (", interrupts off" if obj.irqs_off else "")
        return f"{len(obj.pagevecs.get(field, ()))} pages"
    value: Any = getattr(obj, str(field), "")
    if field == "vm_flags":
        return "".join(c if value & bit else "-" for bit, c in _RIGHTS) + f" ({value:#x})"
    if field == "vm_page_prot":
        return _entry(value)
    return _short(value)


_RIGHTS: Final = ((VM_READ, "r"), (VM_WRITE, "w"), (VM_EXEC, "x"))
_OF_A_PTE: Final = (
    (_PAGE_DIRTY, "dirty"),
    (_PAGE_SPECIAL, "special"),
    (_PAGE_PSE, "huge"),
    (_PAGE_SPLITTING, "splitting"),
)


def _entry(entry: int) -> str:
    """A page-table entry, or the protection of an area, which is one without a page."""
    if entry & (_PAGE_PRESENT | _PAGE_PROTNONE | _PAGE_NUMA):
        words = ["no access"]
        if entry & _PAGE_PRESENT:
            words = ["rw" if entry & _PAGE_RW else "r"]
        elif entry & _PAGE_NUMA:
            words = ["numa"]
        words += [word for bit, word in _OF_A_PTE if entry & bit and bit != _PAGE_NUMA]
        pfn = (entry & PTE_PFN_MASK) >> PAGE_SHIFT
        return (f"pfn {pfn} " if pfn else "") + " ".join(words)
    if not entry:
        return "empty"
    if pte_file(entry):
        return f"file page {pte_to_pgoff(entry)}"
    named = pte_to_swp_entry(entry)
    if is_migration_entry(named):
        kind = "write" if is_write_migration_entry(named) else "read"
        return f"migration entry ({kind}) for pfn {swp_offset(named)}"
    return f"swap {swp_type(named)} place {swp_offset(named)}"


def _of_number(obj: Any, field: int) -> str:
    if isinstance(obj, Page):
        return "1" if obj.flags & field else "0"
    if isinstance(obj, PageTable):
        entry = obj.entries[field]
        if isinstance(entry, int):
            return _entry(entry)
        return "empty" if entry is None else _short(entry)
    if isinstance(obj, RadixTree):
        return _short(obj.slots.get(field))
    state = getattr(obj, "b_state", None)
    return "" if state is None else "1" if state & field else "0"


def _short(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        shown = bytes(value[:8]).rstrip(b"\0")
        return repr(shown)
    if isinstance(value, int | str | bool) or value is None:
        return repr(value)
    text = repr(value)
    return text if len(text) <= 32 and "0x" not in text else type(value).__name__
