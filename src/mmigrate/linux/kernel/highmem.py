"""Copying and clearing the contents of pages  (include/linux/highmem.h).

Contents are shared while nobody changes them: bytes are immutable, a bytearray belongs to
its page. A copy takes two steps, so that a store that slips in between is seen as torn.
"""

from __future__ import annotations

from mmigrate.linux.include.mm_types import ZERO_BYTES, Page
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.sched import READ, WRITE

HALF = 2048


def copy_highpage(to: Page, source: Page) -> None:
    """Make the contents of @to those of @source."""
    data = source.data
    if data is None:
        BUG("copied from a freed page", source)
    if sched.hook is not None:
        sched.hook.announce(source, "data", READ)
        first = bytes(data[:HALF])
        sched.hook.announce(to, "data", WRITE)
        sched.hook.announce(source, "data", READ)
        last = source.data
        if last is None:
            BUG("freed while it was copied", source)
        to.data = bytearray(first + last[HALF:])
    elif type(data) is bytes:
        to.data = data
    else:
        to.data = bytearray(data)


copy_user_highpage = copy_highpage


def clear_highpage(page: Page) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "data", WRITE)
    page.data = ZERO_BYTES


def copy_to_page(page: Page, offset: int, data: bytes) -> None:
    """Store bytes into a page, which gets contents of its own if it shared them."""
    if sched.hook is not None:
        sched.hook.announce(page, "data", WRITE)
    contents = page.data
    if contents is None:
        BUG("stored into a freed page", page)
    if type(contents) is not bytearray:
        contents = page.data = bytearray(contents)
    contents[offset : offset + len(data)] = data


def copy_from_page(page: Page, offset: int, length: int) -> bytes:
    """Load bytes from a page."""
    if sched.hook is not None:
        sched.hook.announce(page, "data", READ)
    if page.data is None:
        BUG("loaded from a freed page", page)
    return bytes(page.data[offset : offset + length])
