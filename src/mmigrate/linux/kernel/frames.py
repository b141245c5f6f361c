"""From a frame number to its page  (asm-generic/memory_model.h)."""

from __future__ import annotations

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import SECTION_SHIFT, SECTION_SIZE


def pfn_to_page(kernel: Kernel, pfn: int) -> Page:
    """`kernel.page_of`, as a function that hot ones can have in place
    (linux/kernel/straight.py)."""
    page = kernel.mem_map[pfn >> SECTION_SHIFT][pfn & (SECTION_SIZE - 1)]
    assert page is not None
    return page
