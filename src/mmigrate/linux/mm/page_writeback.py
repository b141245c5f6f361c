"""Dirty pages and their writing  (mm/page-writeback.c; the fdatawrite calls of mm/filemap.c).

Differs: nobody is throttled for dirtying too much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EIO, ENOSPC

from mmigrate.linux.fs import buffer
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    AOP_WRITEPAGE_ACTIVATE,
    AS_EIO,
    AS_ENOSPC,
    PAGECACHE_TAG_DIRTY,
    PAGECACHE_TAG_TOWRITE,
    PAGECACHE_TAG_WRITEBACK,
    PF_SWAPWRITE,
)
from mmigrate.linux.include.mm_types import AddressSpace, Page
from mmigrate.linux.include.page_flags import PG_locked
from mmigrate.linux.include.vmstat import NR_DIRTIED, NR_FILE_DIRTY, NR_WRITEBACK, NR_WRITTEN
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.bug import BUG, BUG_ON, WARN_ON_ONCE
from mmigrate.linux.kernel.page_flags import (
    ClearPageReclaim,
    PageDirty,
    PagePrivate,
    PageReclaim,
    PageUptodate,
    PageWriteback,
    TestClearPageDirty,
    TestClearPageWriteback,
    TestSetPageDirty,
    TestSetPageWriteback,
    lock_page,
    page_mapping,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import filemap, rmap, swap

I_DIRTY_PAGES = 4


@dataclass
class WritebackControl:
    """How much to write, and for whom  (struct writeback_control)."""

    nr_to_write: int = 1 << 62
    sync: bool = False  # WB_SYNC_ALL: wait for pages that are being written already
    for_reclaim: bool = False


# --- dirtying ---


def set_page_dirty(page: Page) -> int:
    """Make a page dirty, through its mapping if it has one; 1 if it was clean
    (mm/page-writeback.c: set_page_dirty)."""
    mapping = page_mapping(page)
    if mapping is not None:
        # a page that is dirtied again is not about to be freed
        if PageReclaim(page):
            ClearPageReclaim(page)
        method = mapping.a_ops.set_page_dirty or buffer.__set_page_dirty_buffers
        return method(page)
    if not PageDirty(page) and not TestSetPageDirty(page):
        return 1
    return 0


def set_page_dirty_lock(page: Page) -> int:
    """The same for callers without the page lock  (mm/page-writeback.c)."""
    lock_page(page)
    result = set_page_dirty(page)
    unlock_page(page)
    return result


def __set_page_dirty_no_writeback(page: Page) -> int:
    """For mappings that are never written back  (mm/page-writeback.c)."""
    return int(not PageDirty(page) and not TestSetPageDirty(page))


def account_page_dirtied(page: Page, mapping: AddressSpace) -> None:
    """mm/page-writeback.c: account_page_dirtied."""
    bdi = mapping.backing_dev_info
    if bdi.accounts_dirty:
        page.zone.vm_stat[NR_FILE_DIRTY] += 1
        page.zone.vm_stat[NR_DIRTIED] += 1
        bdi.reclaimable += 1
        bdi.dirtied += 1
        sched.task.nr_dirtied += 1


def __set_page_dirty_nobuffers(page: Page) -> int:
    """Dirty a page without telling its buffers; 1 if it was clean
    (mm/page-writeback.c: __set_page_dirty_nobuffers)."""
    if TestSetPageDirty(page):
        return 0
    mapping = page_mapping(page)
    if mapping is None:
        return 1
    tag_dirty(page, mapping, warn=not PagePrivate(page) and not PageUptodate(page))
    return 1


def tag_dirty(page: Page, mapping: AddressSpace, *, warn: bool) -> None:
    """Account a page that became dirty and tag its slot, unless it was truncated."""
    with spin_lock(mapping.tree_lock):
        if page_mapping(page) is mapping:
            WARN_ON_ONCE(warn, f"dirtied {page!r}, which has neither buffers nor contents")
            account_page_dirtied(page, mapping)
            mapping.page_tree.tag_set(rmap.page_index(page), PAGECACHE_TAG_DIRTY)
    if mapping.host is not None:
        mapping.host.i_state |= I_DIRTY_PAGES


def redirty_page_for_writepage(page: Page) -> int:
    """writepage could not write it: dirty again, and not counted as newly dirtied
    (mm/page-writeback.c: redirty_page_for_writepage)."""
    result = __set_page_dirty_nobuffers(page)
    mapping = READ_ONCE(page, "mapping")
    if isinstance(mapping, AddressSpace) and mapping.backing_dev_info.accounts_dirty:
        sched.task.nr_dirtied -= 1
        page.zone.vm_stat[NR_DIRTIED] -= 1
        mapping.backing_dev_info.dirtied -= 1
    return result


# --- cleaning ---


def account_page_cleaned(page: Page, mapping: AddressSpace) -> None:
    if mapping.backing_dev_info.accounts_dirty:
        page.zone.vm_stat[NR_FILE_DIRTY] -= 1
        mapping.backing_dev_info.reclaimable -= 1


def clear_page_dirty_for_io(page: Page) -> int:
    """Clean a locked page before it is written; 1 if it was dirty.  The tag of its slot
    stays until writeback is set  (mm/page-writeback.c: clear_page_dirty_for_io)."""
    if not page.flags & PG_locked:
        BUG("clear_page_dirty_for_io of an unlocked page", page)
    mapping = page_mapping(page)
    if mapping is not None and mapping.backing_dev_info.accounts_dirty:
        # Let the next store through a pte fault, and collect what ptes know.
        if rmap.page_mkclean(page):
            set_page_dirty(page)
        if TestClearPageDirty(page):
            account_page_cleaned(page, mapping)
            return 1
        return 0
    return int(TestClearPageDirty(page))


def cancel_dirty_page(page: Page) -> None:
    """Forget that a page is dirty: it is being truncated  (mm/truncate.c)."""
    if TestClearPageDirty(page):
        mapping = READ_ONCE(page, "mapping")
        if isinstance(mapping, AddressSpace):
            account_page_cleaned(page, mapping)


# --- writeback ---


def set_page_writeback(page: Page) -> bool:
    """The page is about to be written; whether it was being written already
    (mm/page-writeback.c: test_set_page_writeback)."""
    mapping = page_mapping(page)
    if mapping is None:
        was_set = TestSetPageWriteback(page)
    else:
        with spin_lock(mapping.tree_lock):
            was_set = TestSetPageWriteback(page)
            index = rmap.page_index(page)
            if not was_set:
                mapping.page_tree.tag_set(index, PAGECACHE_TAG_WRITEBACK)
            if not PageDirty(page):
                mapping.page_tree.tag_clear(index, PAGECACHE_TAG_DIRTY)
            mapping.page_tree.tag_clear(index, PAGECACHE_TAG_TOWRITE)
    if not was_set:
        page.zone.vm_stat[NR_WRITEBACK] += 1
    return was_set


def test_clear_page_writeback(page: Page) -> bool:
    """The page has been written  (mm/page-writeback.c: test_clear_page_writeback)."""
    mapping = page_mapping(page)
    if mapping is None:
        was_set = TestClearPageWriteback(page)
    else:
        with spin_lock(mapping.tree_lock):
            was_set = TestClearPageWriteback(page)
            if was_set:
                index = rmap.page_index(page)
                mapping.page_tree.tag_clear(index, PAGECACHE_TAG_WRITEBACK)
                mapping.backing_dev_info.written += 1
    if was_set:
        page.zone.vm_stat[NR_WRITEBACK] -= 1
        page.zone.vm_stat[NR_WRITTEN] += 1
    return was_set


def end_page_writeback(page: Page) -> None:
    """Wake who waits for the write; reclaim wanted the page next
    (mm/filemap.c: end_page_writeback)."""
    if PageReclaim(page):
        ClearPageReclaim(page)
        swap.rotate_reclaimable_page(page)
    BUG_ON(not test_clear_page_writeback(page), "end of a writeback that was not", page)


def mapping_set_error(mapping: AddressSpace, error: int) -> None:
    """Remember a failed write for fsync  (include/linux/pagemap.h)."""
    mapping.flags |= AS_ENOSPC if error == -ENOSPC else AS_EIO


def write_cache_pages(
    mapping: AddressSpace, wbc: WritebackControl, writepage: Callable[..., int]
) -> int:
    """Write the dirty pages of a mapping; 0 or the first error
    (mm/page-writeback.c: write_cache_pages)."""
    result = 0
    for index in list(mapping.page_tree.indices(0, 1 << 62, PAGECACHE_TAG_DIRTY)):
        page = filemap.find_get_page(mapping, index)
        if page is None:
            continue
        lock_page(page)
        if (
            READ_ONCE(page, "mapping") is not mapping
            or not PageDirty(page)
            or (PageWriteback(page) and not wbc.sync)
        ):
            unlock_page(page)
        else:
            wait_on_page_writeback(page)
            if not clear_page_dirty_for_io(page):
                unlock_page(page)
            else:
                error = writepage(page, wbc)
                if error == AOP_WRITEPAGE_ACTIVATE:
                    unlock_page(page)
                elif error:
                    result = result or error
                wbc.nr_to_write -= 1
        swap.put_page(page)
        if wbc.nr_to_write <= 0 and not wbc.sync:
            break
    return result


def do_writepages(mapping: AddressSpace, wbc: WritebackControl) -> int:
    """mm/page-writeback.c: do_writepages; 0 where nothing is ever written."""
    if mapping.a_ops.writepage is None or not mapping.backing_dev_info.accounts_dirty:
        return 0
    return write_cache_pages(mapping, wbc, mapping.a_ops.writepage)


def filemap_flush(mapping: AddressSpace) -> int:
    """Start writing what is dirty  (mm/filemap.c: filemap_flush)."""
    return do_writepages(mapping, WritebackControl())


def filemap_fdatawait(mapping: AddressSpace) -> int:
    """Wait for what is being written; 0, or -EIO or -ENOSPC if a write failed
    (mm/filemap.c: filemap_fdatawait)."""
    for index in list(mapping.page_tree.indices(0, 1 << 62, PAGECACHE_TAG_WRITEBACK)):
        page = filemap.find_get_page(mapping, index)
        if page is not None:
            wait_on_page_writeback(page)
            swap.put_page(page)
    failed = mapping.flags & (AS_EIO | AS_ENOSPC)
    mapping.flags &= ~failed
    if failed & AS_ENOSPC:
        return -ENOSPC
    return -EIO if failed else 0


def filemap_write_and_wait(mapping: AddressSpace) -> int:
    """Write what is dirty and wait  (mm/filemap.c: filemap_write_and_wait)."""
    result = do_writepages(mapping, WritebackControl(sync=True))
    waited = filemap_fdatawait(mapping)
    return result or waited


def wakeup_flusher_threads(kernel: Kernel) -> None:
    """Start the flusher: a task that writes the dirty pages of all files, once
    (fs/fs-writeback.c: wakeup_flusher_threads)."""
    flusher = kernel.scheduler.new_task("flusher", kernel.cpus[0], None)
    flusher.flags |= PF_SWAPWRITE

    def work() -> None:
        for inode in list(kernel.inodes):
            filemap_flush(inode.i_mapping)

    kernel.scheduler.start(flusher, work)
