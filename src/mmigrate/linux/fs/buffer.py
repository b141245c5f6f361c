"""Buffers: the parts of a file page that a filesystem knows by block  (fs/buffer.c).

A page with buffers has PG_private, the list of them in `private` (C: a ring), and a
reference for them.
"""

from __future__ import annotations

from typing import Any, Final

from mmigrate.linux.drivers import block
from mmigrate.linux.include.mm_types import ZERO_BYTES, AddressSpace, Page
from mmigrate.linux.include.pgtable import PAGE_SIZE
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.page_flags import (
    ClearPagePrivate,
    PageLocked,
    PagePrivate,
    PageUptodate,
    PageWriteback,
    SetPageError,
    SetPagePrivate,
    SetPageUptodate,
    TestSetPageDirty,
    page_private,
    set_page_private,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import page_writeback, swap

BLOCK_SIZE: Final = 1024

BH_Uptodate: Final = 1
BH_Dirty: Final = 2
BH_Lock: Final = 4
BH_Mapped: Final = 16


class BufferHead:
    """One block of a page  (struct buffer_head)."""

    __slots__ = ("b_count", "b_offset", "b_page", "b_state")

    def __init__(self, page: Page, offset: int) -> None:
        self.b_page = page
        self.b_offset = offset  # in the page: b_data
        self.b_state = 0
        self.b_count = 0

    def __repr__(self) -> str:
        return f"buffer {self.b_offset} of {self.b_page!r}"


def bh_offset(bh: BufferHead) -> int:
    return bh.b_offset


def set_bh_page(bh: BufferHead, page: Page, offset: int) -> None:
    if sched.hook is not None:
        sched.hook.announce(bh, "b_page", WRITE)
    bh.b_page = page
    bh.b_offset = offset


def get_bh(bh: BufferHead) -> None:
    if sched.hook is not None:
        sched.hook.announce(bh, "b_count", WRITE)
    bh.b_count += 1


def put_bh(bh: BufferHead) -> None:
    if sched.hook is not None:
        sched.hook.announce(bh, "b_count", WRITE)
    bh.b_count -= 1


def trylock_buffer(bh: BufferHead) -> bool:
    if sched.hook is not None:
        sched.hook.announce(bh, BH_Lock, WRITE)
    if bh.b_state & BH_Lock:
        return False
    bh.b_state |= BH_Lock
    return True


def lock_buffer(bh: BufferHead) -> None:
    """Sleep until the buffer is unlocked, and lock it."""
    sched.might_sleep()
    if sched.hook is not None or bh.b_state & BH_Lock:
        sched.block(bh, BH_Lock, WRITE, lambda: not bh.b_state & BH_Lock, f"{bh!r}")
    bh.b_state |= BH_Lock


def unlock_buffer(bh: BufferHead) -> None:
    if sched.hook is not None:
        sched.hook.announce(bh, BH_Lock, WRITE)
    bh.b_state &= ~BH_Lock


def test_state(bh: BufferHead, bit: int) -> bool:
    if sched.hook is not None:
        sched.hook.announce(bh, bit, READ)
    return bh.b_state & bit != 0


def change_state(bh: BufferHead, on: int = 0, off: int = 0) -> None:
    if sched.hook is not None:
        sched.hook.announce(bh, on or off, WRITE)
    bh.b_state = (bh.b_state | on) & ~off


# --- pages and their buffers ---


def page_buffers(page: Page) -> list[BufferHead]:
    buffers: Any = page_private(page)
    BUG_ON(not isinstance(buffers, list), "has no buffers", page)
    found: list[BufferHead] = buffers
    return found


def create_empty_buffers(page: Page, mapping: AddressSpace) -> list[BufferHead]:
    """Give a locked page buffers; those of a page with contents are up to date
    (fs/buffer.c: create_empty_buffers)."""
    BUG_ON(not PageLocked(page), "create_empty_buffers of an unlocked page", page)
    buffers = [BufferHead(page, offset) for offset in range(0, PAGE_SIZE, BLOCK_SIZE)]
    state = BH_Mapped | (BH_Uptodate if PageUptodate(page) else 0)
    for bh in buffers:
        bh.b_state = state
    with spin_lock(mapping.private_lock):
        get_page(page)
        SetPagePrivate(page)
        set_page_private(page, buffers)
    return buffers


def mark_buffer_dirty(bh: BufferHead) -> None:
    """One block became dirty, and so its page  (fs/buffer.c: mark_buffer_dirty)."""
    change_state(bh, on=BH_Dirty)
    page = bh.b_page
    if not TestSetPageDirty(page):
        mapping = READ_ONCE(page, "mapping")
        if isinstance(mapping, AddressSpace):
            page_writeback.tag_dirty(page, mapping, warn=False)


def __set_page_dirty_buffers(page: Page) -> int:
    """A store through a pte: all blocks are dirty; 1 if the page was clean
    (fs/buffer.c: __set_page_dirty_buffers)."""
    mapping = READ_ONCE(page, "mapping")
    if not isinstance(mapping, AddressSpace):
        return int(not TestSetPageDirty(page))
    with spin_lock(mapping.private_lock):
        if PagePrivate(page):
            for bh in page_buffers(page):
                change_state(bh, on=BH_Dirty)
        newly_dirty = not TestSetPageDirty(page)
    if newly_dirty:
        page_writeback.tag_dirty(page, mapping, warn=not PageUptodate(page))
    return int(newly_dirty)


def try_to_free_buffers(page: Page) -> int:
    """Take the buffers off a locked page if none is in use; whether that was done
    (fs/buffer.c: try_to_free_buffers)."""
    BUG_ON(not PageLocked(page), "try_to_free_buffers of an unlocked page", page)
    if PageWriteback(page):
        return 0
    mapping = READ_ONCE(page, "mapping")
    if mapping is None:
        return _drop_buffers(page)
    with spin_lock(mapping.private_lock):
        freed = _drop_buffers(page)
        # Clean buffers under a dirty page: the filesystem wrote them by hand.
        if freed:
            page_writeback.cancel_dirty_page(page)
    return freed


def _drop_buffers(page: Page) -> int:
    if not PagePrivate(page):
        return 0
    for bh in page_buffers(page):
        if bh.b_count or test_state(bh, BH_Lock) or test_state(bh, BH_Dirty):
            return 0
    ClearPagePrivate(page)
    set_page_private(page, 0)
    swap.put_page(page)
    return 1


def discard_buffers(page: Page) -> None:
    """Forget what the buffers of a truncated page hold (fs/buffer.c: block_invalidatepage)."""
    for bh in page_buffers(page):
        lock_buffer(bh)
        change_state(bh, off=BH_Dirty)
        change_state(bh, off=BH_Mapped)
        unlock_buffer(bh)


# --- I/O of whole pages ---


def block_write_full_page(page: Page, _wbc: Any) -> int:
    """Write the dirty blocks of a locked page, which is unlocked; 0
    (fs/buffer.c: block_write_full_page)."""
    mapping: AddressSpace = page.mapping
    inode = mapping.host
    assert inode is not None
    buffers = page_buffers(page) if PagePrivate(page) else create_empty_buffers(page, mapping)
    BUG_ON(PageWriteback(page), "is being written already", page)
    for bh in buffers:
        lock_buffer(bh)
        change_state(bh, off=BH_Dirty)
    page_writeback.set_page_writeback(page)
    unlock_page(page)

    def end_io(error: bool) -> None:
        if error:
            SetPageError(page)
            page_writeback.mapping_set_error(mapping, -5)
        else:
            inode.blocks[page.index] = bytes(page.data or ZERO_BYTES)
        for bh in buffers:
            change_state(bh, on=BH_Uptodate)
            unlock_buffer(bh)
        page_writeback.end_page_writeback(page)

    block.submit_bio(inode.kernel, inode.fs.device, True, end_io)
    return 0


def block_read_full_page(page: Page) -> int:
    """Read a locked page; it is unlocked when that is done
    (fs/buffer.c: block_read_full_page)."""
    mapping: AddressSpace = page.mapping
    if not PagePrivate(page):
        create_empty_buffers(page, mapping)
    return read_page(page)


def read_page(page: Page) -> int:
    """The same for filesystems without buffers."""
    inode = page.mapping.host

    def end_io(error: bool) -> None:
        if error:
            SetPageError(page)
        else:
            page.data = inode.blocks.get(page.index, ZERO_BYTES)
            if PagePrivate(page):
                for bh in page_buffers(page):
                    change_state(bh, on=BH_Uptodate)
            SetPageUptodate(page)
        unlock_page(page)

    block.submit_bio(inode.kernel, inode.fs.device, False, end_io)
    return 0


def write_page(page: Page, _wbc: Any) -> int:
    """Write a locked page of a filesystem without buffers; it is unlocked; 0."""
    mapping: AddressSpace = page.mapping
    inode = mapping.host
    assert inode is not None
    page_writeback.set_page_writeback(page)
    unlock_page(page)

    def end_io(error: bool) -> None:
        if error:
            SetPageError(page)
            page_writeback.mapping_set_error(mapping, -5)
        else:
            inode.blocks[page.index] = bytes(page.data or ZERO_BYTES)
        page_writeback.end_page_writeback(page)

    block.submit_bio(inode.kernel, inode.fs.device, True, end_io)
    return 0
