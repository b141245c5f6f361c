"""Buffers: the parts of a file page that a filesystem knows by block  (fs/buffer.c).

A page with buffers has PG_private, the list of them in `private` (C: a ring), and a
reference for them.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO, ENOMEM
from typing import TYPE_CHECKING, Any, Final

from mmigrate.linux.drivers import block
from mmigrate.linux.include.mm import (
    PAGECACHE_TAG_DIRTY,
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VmFault,
)
from mmigrate.linux.include.mm_types import ZERO_BYTES, AddressSpace, Inode, Page, Vma
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PAGE_SIZE
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.bug import BUG_ON, WARN_ON_ONCE
from mmigrate.linux.kernel.highmem import clear_highpage, copy_to_page
from mmigrate.linux.kernel.page_flags import (
    ClearPagePrivate,
    PageDirty,
    PageLocked,
    PagePrivate,
    PageUptodate,
    PageWriteback,
    SetPageError,
    SetPageMappedToDisk,
    SetPagePrivate,
    SetPageUptodate,
    TestSetPageDirty,
    lock_page,
    page_mapping,
    page_private,
    set_page_private,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import filemap, page_writeback, rmap, swap

if TYPE_CHECKING:
    from mmigrate.linux.mm.page_writeback import WritebackControl

BLOCK_SIZE: Final = 1024

BH_Uptodate: Final = 1
BH_Dirty: Final = 2
BH_Lock: Final = 4


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


def wait_on_buffer(bh: BufferHead) -> None:
    """Sleep until the buffer is unlocked."""
    sched.might_sleep()
    if sched.hook is not None or bh.b_state & BH_Lock:
        sched.block(bh, BH_Lock, READ, lambda: not bh.b_state & BH_Lock, f"{bh!r}")


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


def attach_page_buffers(page: Page, head: list[BufferHead]) -> None:
    """include/linux/buffer_head.h: attach_page_buffers."""
    get_page(page)
    SetPagePrivate(page)
    set_page_private(page, head)


def create_empty_buffers(page: Page, b_state: int) -> list[BufferHead]:
    """Give a locked page buffers in a state; what the page says of its contents holds for
    them too  (fs/buffer.c: create_empty_buffers)."""
    BUG_ON(not PageLocked(page), "create_empty_buffers of an unlocked page", page)
    mapping: AddressSpace = page.mapping
    buffers = [BufferHead(page, offset) for offset in range(0, PAGE_SIZE, BLOCK_SIZE)]
    with spin_lock(mapping.private_lock):
        if PageUptodate(page):
            b_state |= BH_Uptodate
        if PageDirty(page):
            b_state |= BH_Dirty
        for bh in buffers:
            bh.b_state = b_state
        attach_page_buffers(page, buffers)
    return buffers


def mark_buffer_dirty(bh: BufferHead) -> None:
    """One block became dirty, and so its page  (fs/buffer.c: mark_buffer_dirty)."""
    WARN_ON_ONCE(not test_state(bh, BH_Uptodate), f"dirtied {bh!r}, which has no contents")
    if test_state(bh, BH_Dirty):
        return
    change_state(bh, on=BH_Dirty)
    page = bh.b_page
    if not TestSetPageDirty(page):
        mapping = page_mapping(page)
        if mapping is not None:
            __set_page_dirty(page, mapping, warn=False)


def __set_page_dirty(page: Page, mapping: AddressSpace, *, warn: bool) -> None:
    """Account a page that became dirty and tag its slot, unless it was truncated
    (fs/buffer.c: __set_page_dirty)."""
    with spin_lock(mapping.tree_lock):
        if READ_ONCE(page, "mapping") is not None:
            WARN_ON_ONCE(warn and not PageUptodate(page), f"dirtied {page!r} without contents")
            page_writeback.account_page_dirtied(page, mapping)
            mapping.page_tree.tag_set(rmap.page_index(page), PAGECACHE_TAG_DIRTY)
    if mapping.host is not None:
        page_writeback.__mark_inode_dirty(mapping.host)


def __set_page_dirty_buffers(page: Page) -> int:
    """A store through a pte: all blocks are dirty; 1 if the page was clean
    (fs/buffer.c: __set_page_dirty_buffers)."""
    mapping = page_mapping(page)
    if mapping is None:
        return int(not TestSetPageDirty(page))
    with spin_lock(mapping.private_lock):
        if PagePrivate(page):
            for bh in page_buffers(page):
                change_state(bh, on=BH_Dirty)
        newly_dirty = not TestSetPageDirty(page)
    if newly_dirty:
        __set_page_dirty(page, mapping, warn=True)
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


def block_invalidatepage(page: Page, offset: int, length: int) -> None:
    """Part of a locked page is cut off: forget what its buffers hold, and if it begins with
    the page try to take them off  (fs/buffer.c: block_invalidatepage)."""
    BUG_ON(not PageLocked(page), "block_invalidatepage of an unlocked page", page)
    if not PagePrivate(page):
        return
    for bh in page_buffers(page):
        if bh.b_offset + BLOCK_SIZE > offset + length:
            break
        if bh.b_offset >= offset:
            lock_buffer(bh)
            change_state(bh, off=BH_Dirty)
            unlock_buffer(bh)
    if offset == 0:
        filemap.try_to_release_page(page, 0)


# --- write(2) ---


def block_write_begin(mapping: AddressSpace, position: int, length: int) -> Page | int:
    """The page for write(2), locked; what will not be overwritten has been read.  -ENOMEM,
    -EIO  (fs/buffer.c: block_write_begin)."""
    page = filemap.grab_cache_page_write_begin(mapping, position >> PAGE_SHIFT)
    if page is None:
        return -ENOMEM
    buffers = page_buffers(page) if PagePrivate(page) else create_empty_buffers(page, 0)
    if not PageUptodate(page) and length < PAGE_SIZE and not _read_buffers(page, buffers):
        unlock_page(page)
        swap.put_page(page)
        return -EIO
    return page


def _read_buffers(page: Page, buffers: list[BufferHead]) -> bool:
    """Read the blocks of a page that stays locked; whether that went well.

    Differs: always the whole page; the kernel leaves out blocks that will be overwritten.
    """
    inode = page.mapping.host
    if page.index not in inode.blocks:  # new blocks
        clear_highpage(page)
        return True

    def end_io(error: bool) -> None:
        if not error:
            page.data = inode.blocks.get(page.index, ZERO_BYTES)
        for bh in buffers:
            if not error:
                change_state(bh, on=BH_Uptodate)
            unlock_buffer(bh)

    for bh in buffers:
        lock_buffer(bh)
    block.submit_bio(inode.kernel, inode.fs.device, False, end_io)
    for bh in buffers:
        wait_on_buffer(bh)
    return test_state(buffers[0], BH_Uptodate)  # one request for all


def block_commit_write(page: Page, start: int, end: int) -> None:
    """The blocks between two offsets of a page are dirty, and all of it is up to date
    (fs/buffer.c: __block_commit_write)."""
    for bh in page_buffers(page):
        change_state(bh, on=BH_Uptodate)
        if bh.b_offset < end and start < bh.b_offset + BLOCK_SIZE:
            mark_buffer_dirty(bh)
    SetPageUptodate(page)


def generic_write_end(mapping: AddressSpace, position: int, copied: int, page: Page) -> None:
    """fs/buffer.c: generic_write_end."""
    assert mapping.host is not None
    start = position & (PAGE_SIZE - 1)
    block_commit_write(page, start, start + copied)
    filemap.i_size_write(mapping.host, position + copied)
    unlock_page(page)
    swap.put_page(page)


def block_page_mkwrite(vma: Vma, vmf: VmFault) -> int:
    """A page of a shared mapping is about to be written: give it dirty buffers
    (fs/buffer.c: __block_page_mkwrite)."""
    assert vma.vm_file is not None
    assert vmf.page is not None
    page = vmf.page
    inode = vma.vm_file.f_inode
    lock_page(page)
    end = READ_ONCE(inode, "i_size") - (page.index << PAGE_SHIFT)
    if READ_ONCE(page, "mapping") is not inode.i_mapping or end <= 0:
        unlock_page(page)
        return VM_FAULT_NOPAGE
    if not PagePrivate(page):
        create_empty_buffers(page, 0)
    block_commit_write(page, 0, min(end, PAGE_SIZE))
    page_writeback.set_page_dirty(page)
    page_writeback.wait_for_stable_page(page)
    return VM_FAULT_LOCKED


# --- I/O of whole pages ---


def within_file(page: Page) -> int:
    """How many bytes of a locked page are inside the file."""
    size: int = READ_ONCE(page.mapping.host, "i_size") - (page.index << PAGE_SHIFT)
    return max(0, min(PAGE_SIZE, size))


def block_write_full_page(page: Page, wbc: WritebackControl) -> int:
    """Write the dirty blocks of a locked page, which is unlocked; 0.  What stands behind the
    end of the file becomes zeroes  (fs/buffer.c: block_write_full_page)."""
    mapping: AddressSpace = page.mapping
    inode = mapping.host
    assert inode is not None
    end = within_file(page)
    if end == 0:  # truncated, and not removed yet
        block_invalidatepage(page, 0, PAGE_SIZE)
        unlock_page(page)
        return 0
    if end < PAGE_SIZE:
        copy_to_page(page, end, bytes(PAGE_SIZE - end))
    if PagePrivate(page):
        buffers = page_buffers(page)
    else:
        buffers = create_empty_buffers(page, BH_Dirty | BH_Uptodate)
    written = _lock_dirty_buffers(page, buffers, wbc)
    BUG_ON(PageWriteback(page), "is being written already", page)
    page_writeback.set_page_writeback(page)

    def end_io(error: bool) -> None:
        if error:
            SetPageError(page)
            page_writeback.mapping_set_error(mapping, -EIO)
        else:
            _store(inode, page, written)
        for bh in written:
            unlock_buffer(bh)
        page_writeback.end_page_writeback(page)

    if written:
        block.submit_bio(inode.kernel, inode.fs.device, True, end_io)
    unlock_page(page)
    if not written:
        page_writeback.end_page_writeback(page)
    return 0


def _lock_dirty_buffers(
    page: Page, buffers: list[BufferHead], wbc: WritebackControl
) -> list[BufferHead]:
    """Lock and clean what will be written.  Who does not wait leaves busy buffers dirty."""
    written = []
    for bh in buffers:
        if wbc.sync:
            lock_buffer(bh)
        elif not trylock_buffer(bh):
            page_writeback.redirty_page_for_writepage(page)
            continue
        if test_state(bh, BH_Dirty):
            change_state(bh, off=BH_Dirty)
            written.append(bh)
        else:
            unlock_buffer(bh)
    return written


def _store(inode: Inode, page: Page, written: list[BufferHead]) -> None:
    """The disk takes over the contents of some blocks."""
    BUG_ON(page.data is None, "was freed under writeback", page)
    assert page.data is not None
    image = bytearray(inode.blocks.get(page.index, ZERO_BYTES))
    for bh in written:
        end = bh.b_offset + BLOCK_SIZE
        image[bh.b_offset : end] = page.data[bh.b_offset : end]
    inode.blocks[page.index] = bytes(image)


def mpage_readpage(page: Page) -> int:
    """Read a locked page without giving it buffers; it is unlocked when that is done.  A
    hole needs no disk  (fs/mpage.c: mpage_readpage)."""
    if page.index not in page.mapping.host.blocks:
        clear_highpage(page)
        SetPageUptodate(page)
        unlock_page(page)
        return 0
    SetPageMappedToDisk(page)
    return read_page(page)


def read_page(page: Page) -> int:
    """Ask the device for a locked page; it is unlocked when that is done; 0."""
    inode = page.mapping.host

    def end_io(error: bool) -> None:
        if error:
            SetPageError(page)
        else:
            page.data = inode.blocks.get(page.index, ZERO_BYTES)
            SetPageUptodate(page)
        unlock_page(page)

    block.submit_bio(inode.kernel, inode.fs.device, False, end_io)
    return 0


def write_page(page: Page, finished: Callable[[], None]) -> None:
    """Give a locked page, which is unlocked, to the device, without buffers; finished() runs
    instead of the end of writeback when the contents are there, or lost."""
    mapping: AddressSpace = page.mapping
    inode = mapping.host
    assert inode is not None
    end = within_file(page)
    page_writeback.set_page_writeback(page)

    def end_io(error: bool) -> None:
        if error:
            SetPageError(page)
            page_writeback.mapping_set_error(mapping, -EIO)
        elif end:
            BUG_ON(page.data is None, "was freed under writeback", page)
            inode.blocks[page.index] = bytes(page.data or b"")[:end].ljust(PAGE_SIZE, b"\0")
        finished()

    block.submit_bio(inode.kernel, inode.fs.device, True, end_io)
    unlock_page(page)
