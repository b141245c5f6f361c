"""From a frame number to its page  (asm-generic/memory_model.h)."""

from __future__ import annotations

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.mmzone import SECTION_SHIFT, SECTION_SIZE


def pfn_to_page(kernel: Kernel, pfn: int) -> Page:
    """The page of a frame that has been in use; `kernel.page_of` for hot functions."""
    page = kernel.mem_map[pfn >> SECTION_SHIFT][pfn & (SECTION_SIZE - 1)]
    assert page is not None
    return page
