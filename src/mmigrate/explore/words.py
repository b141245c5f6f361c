"""How a word is called, and what is in it, for people."""

from __future__ import annotations

from functools import cache
from typing import Any

from mmigrate.linux.fs import buffer
from mmigrate.linux.include import page_flags
from mmigrate.linux.include.mm_types import Page, PageTable
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


def word_name(obj: Any, field: Any) -> str:
    """Such as "pfn 17 PG_locked"."""
    if isinstance(field, int):
        if isinstance(obj, Page):
            return f"{obj!r} {_names('page').get(field, hex(field))}"
        if isinstance(obj, PageTable):
            return f"{obj!r} entry {field}"
        if isinstance(obj, RadixTree):
            return f"{obj!r} slot {field}"
        return f"{obj!r} {_names('buffer').get(field, field)}"
    return f"{obj!r} {field}"


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
    return _short(getattr(obj, str(field), ""))


def _of_number(obj: Any, field: int) -> str:
    if isinstance(obj, Page):
        return "1" if obj.flags & field else "0"
    if isinstance(obj, PageTable):
        entry = obj.entries[field]
        return hex(entry) if isinstance(entry, int) else _short(entry)
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
