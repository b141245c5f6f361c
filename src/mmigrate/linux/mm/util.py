"""Small questions about a page  (mm/util.c)."""

from __future__ import annotations

from typing import Any

from mmigrate.linux.include.mm_types import AddressSpace, Page
from mmigrate.linux.kernel.page_flags import PageSwapCache, page_mapping_of, page_private
from mmigrate.linux.mm import swap_state


def page_mapping(page: Page) -> AddressSpace | None:
    """The address space a page is cached in: a file, the swap space, or none
    (mm/util.c: page_mapping)."""
    if PageSwapCache(page):
        entry: Any = page_private(page)
        return swap_state.swap_address_space(page.zone.kernel, entry)
    mapping = page_mapping_of(page)
    return mapping if type(mapping) is AddressSpace else None
