"""Dirty pages and their writing  (mm/page-writeback.c; the fdatawrite calls of mm/filemap.c).

Differs: nobody is throttled for dirtying too much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from errno import EIO, ENOSPC
from typing import Final

from mmigrate.linux.fs import buffer
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    AOP_WRITEPAGE_ACTIVATE,
    AS_EIO,
    AS_ENOSPC,
    PAGECACHE_TAG_DIRTY,
    PAGECACHE_TAG_TOWRITE,
    PAGECACHE_TAG_WRITEBACK,
    PAGEVEC_SIZE,
    PF_KTHREAD,
    PF_SWAPWRITE,
)
from mmigrate.linux.include.mm_types import AddressSpace, Inode, Page
from mmigrate.linux.include.vmstat import NR_DIRTIED, NR_FILE_DIRTY, NR_WRITEBACK, NR_WRITTEN
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE, WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON, WARN_ON_ONCE
from mmigrate.linux.kernel.page_flags import (
    ClearPageError,
    ClearPageReclaim,
    PageDirty,
    PageError,
    PageLocked,
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
from mmigrate.linux.kernel.straight import small
from mmigrate.linux.mm import filemap, memcontrol, rmap, swap

I_DIRTY_PAGES: Final = 4
LAST_INDEX: Final = 1 << 62


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
        ClearPageReclaim(page)  # dirtied again: not about to be freed
        method = mapping.a_ops.set_page_dirty or buffer.__set_page_dirty_buffers
        return method(page)
    if not PageDirty(page) and not TestSetPageDirty(page):
        return 1
    return 0


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


def account_page_redirty(page: Page) -> None:
    """A page that was dirtied once must not count twice
    (mm/page-writeback.c: account_page_redirty)."""
    mapping = READ_ONCE(page, "mapping")
    if isinstance(mapping, AddressSpace) and mapping.backing_dev_info.accounts_dirty:
        sched.task.nr_dirtied -= 1
        page.zone.vm_stat[NR_DIRTIED] -= 1
        mapping.backing_dev_info.dirtied -= 1


def __set_page_dirty_nobuffers(page: Page) -> int:
    """Dirty a page without telling its buffers; 1 if it was clean
    (mm/page-writeback.c: __set_page_dirty_nobuffers)."""
    if TestSetPageDirty(page):
        return 0
    mapping = page_mapping(page)
    if mapping is None:
        return 1
    with spin_lock(mapping.tree_lock):
        # Truncation must not come between: callers hold the page lock or a pte lock.
        BUG_ON(page_mapping(page) is not mapping, "truncated while it was dirtied", page)
        WARN_ON_ONCE(
            not PagePrivate(page) and not PageUptodate(page),
            f"dirtied {page!r}, which has neither private data nor contents",
        )
        account_page_dirtied(page, mapping)
        mapping.page_tree.tag_set(rmap.page_index(page), PAGECACHE_TAG_DIRTY)
    if mapping.host is not None:
        __mark_inode_dirty(mapping.host)
    return 1


def __mark_inode_dirty(inode: Inode) -> None:
    """The inode has dirty pages  (fs/fs-writeback.c: __mark_inode_dirty)."""
    inode.i_state |= I_DIRTY_PAGES


def redirty_page_for_writepage(page: Page) -> int:
    """writepage could not write it: dirty again, and not counted as newly dirtied
    (mm/page-writeback.c: redirty_page_for_writepage)."""
    result = __set_page_dirty_nobuffers(page)
    account_page_redirty(page)
    return result


# --- cleaning ---


def account_page_cleaned(page: Page, mapping: AddressSpace) -> None:
    if mapping.backing_dev_info.accounts_dirty:
        page.zone.vm_stat[NR_FILE_DIRTY] -= 1
        mapping.backing_dev_info.reclaimable -= 1


@small
def clear_page_dirty_for_io(page: Page) -> int:
    """Clean a locked page before it is written; 1 if it was dirty.  The tag of its slot
    stays until writeback is set  (mm/page-writeback.c: clear_page_dirty_for_io)."""
    BUG_ON(not PageLocked(page), "clear_page_dirty_for_io of an unlocked page", page)
    mapping = page_mapping(page)
    if mapping is not None and mapping.backing_dev_info.accounts_dirty:
        # Let the next store through a pte fault, and collect what ptes know.
        if rmap.page_mkclean(page):
            set_page_dirty(page)
        if TestClearPageDirty(page):
            account_page_cleaned(page, mapping)
            return 1
        return 0
    was_dirty = TestClearPageDirty(page)
    return 1 if was_dirty else 0


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
    memcg, locked = memcontrol.mem_cgroup_begin_page_stat(page)
    mapping = page_mapping(page)
    if mapping is None:
        was_set = TestSetPageWriteback(page)
    else:
        with spin_lock(mapping.tree_lock):
            was_set = TestSetPageWriteback(page)
            index = rmap.page_index(page)
            if not was_set:
                mapping.page_tree.tag_set(index, PAGECACHE_TAG_WRITEBACK)
                if mapping.backing_dev_info.accounts_dirty:
                    mapping.backing_dev_info.writeback += 1
            if not PageDirty(page):
                mapping.page_tree.tag_clear(index, PAGECACHE_TAG_DIRTY)
            mapping.page_tree.tag_clear(index, PAGECACHE_TAG_TOWRITE)
    if not was_set:
        memcontrol.mem_cgroup_update_page_stat(memcg, "writeback", 1)
        page.zone.vm_stat[NR_WRITEBACK] += 1
    memcontrol.mem_cgroup_end_page_stat(memcg, locked)
    return was_set


def test_clear_page_writeback(page: Page) -> bool:
    """The page has been written  (mm/page-writeback.c: test_clear_page_writeback)."""
    memcg, locked = memcontrol.mem_cgroup_begin_page_stat(page)
    mapping = page_mapping(page)
    if mapping is None:
        was_set = TestClearPageWriteback(page)
    else:
        with spin_lock(mapping.tree_lock):
            was_set = TestClearPageWriteback(page)
            if was_set:
                index = rmap.page_index(page)
                mapping.page_tree.tag_clear(index, PAGECACHE_TAG_WRITEBACK)
                if mapping.backing_dev_info.accounts_dirty:
                    mapping.backing_dev_info.writeback -= 1
                    mapping.backing_dev_info.written += 1
    if was_set:
        page.zone.vm_stat[NR_WRITEBACK] -= 1
        page.zone.vm_stat[NR_WRITTEN] += 1
        memcontrol.mem_cgroup_update_page_stat(memcg, "writeback", -1)
    memcontrol.mem_cgroup_end_page_stat(memcg, locked)
    return was_set


def end_page_writeback(page: Page) -> None:
    """Wake who waits for the write; reclaim wanted the page next
    (mm/filemap.c: end_page_writeback)."""
    if PageReclaim(page):
        ClearPageReclaim(page)
        swap.rotate_reclaimable_page(page)
    BUG_ON(not test_clear_page_writeback(page), "end of a writeback that was not", page)


def wait_for_stable_page(page: Page) -> None:
    """Wait for the end of a write, if the device cannot bear that the page changes meanwhile
    (mm/page-writeback.c: wait_for_stable_page)."""
    mapping = page_mapping(page)
    if mapping is not None and mapping.backing_dev_info.stable_pages:
        wait_on_page_writeback(page)


def mapping_set_error(mapping: AddressSpace, error: int) -> None:
    """Remember a failed write for fsync  (include/linux/pagemap.h)."""
    bit = AS_ENOSPC if error == -ENOSPC else AS_EIO
    WRITE_ONCE(mapping, "flags", mapping.flags | bit)


def tag_pages_for_writeback(mapping: AddressSpace) -> None:
    """Mark what is dirty now, so that a writer who waits is not kept busy for ever by pages
    dirtied later  (mm/page-writeback.c: tag_pages_for_writeback)."""
    with spin_lock(mapping.tree_lock):
        for index in mapping.page_tree.indices(0, LAST_INDEX, PAGECACHE_TAG_DIRTY):
            mapping.page_tree.tag_set(index, PAGECACHE_TAG_TOWRITE)


def write_cache_pages(
    mapping: AddressSpace, wbc: WritebackControl, writepage: Callable[..., int]
) -> int:
    """Write the dirty pages of a mapping; 0 or the first error
    (mm/page-writeback.c: write_cache_pages).  Differs: starts at the first page always."""
    tag = PAGECACHE_TAG_DIRTY
    if wbc.sync:
        tag_pages_for_writeback(mapping)
        tag = PAGECACHE_TAG_TOWRITE
    indices = list(mapping.page_tree.indices(0, LAST_INDEX, tag))
    for first in range(0, len(indices), PAGEVEC_SIZE):
        pages = filemap.find_get_pages(mapping, indices[first : first + PAGEVEC_SIZE])
        try:
            for page in pages:
                error = _write_cache_page(page, mapping, wbc, writepage)
                if error or (wbc.nr_to_write <= 0 and not wbc.sync):
                    return error
        finally:
            swap.release_pages(pages)
    return 0


def _write_cache_page(
    page: Page, mapping: AddressSpace, wbc: WritebackControl, writepage: Callable[..., int]
) -> int:
    """Write one page, unless it is clean or gone, or being written and nobody waits."""
    lock_page(page)
    if READ_ONCE(page, "mapping") is not mapping or not PageDirty(page):
        unlock_page(page)
        return 0
    if PageWriteback(page):
        if not wbc.sync:
            unlock_page(page)
            return 0
        wait_on_page_writeback(page)
    BUG_ON(PageWriteback(page), "is being written already", page)
    if not clear_page_dirty_for_io(page):
        unlock_page(page)
        return 0
    error = writepage(page, wbc)
    if error == AOP_WRITEPAGE_ACTIVATE:
        unlock_page(page)
        error = 0
    wbc.nr_to_write -= 1
    return error


def generic_writepages(mapping: AddressSpace, wbc: WritebackControl) -> int:
    """mm/page-writeback.c: generic_writepages."""
    if mapping.a_ops.writepage is None:
        return 0
    return write_cache_pages(mapping, wbc, mapping.a_ops.writepage)


def do_writepages(mapping: AddressSpace, wbc: WritebackControl) -> int:
    """mm/page-writeback.c: do_writepages; 0 where nothing is ever written."""
    if not mapping.backing_dev_info.accounts_dirty or wbc.nr_to_write <= 0:
        return 0
    return generic_writepages(mapping, wbc)


def filemap_fdatawrite(mapping: AddressSpace) -> int:
    """Start writing what is dirty, and wait for earlier writes of the same pages
    (mm/filemap.c: filemap_fdatawrite)."""
    return do_writepages(mapping, WritebackControl(sync=True))


def filemap_flush(mapping: AddressSpace) -> int:
    """Start writing what is dirty  (mm/filemap.c: filemap_flush)."""
    return do_writepages(mapping, WritebackControl())


def filemap_check_errors(mapping: AddressSpace) -> int:
    """What went wrong since the last time somebody asked
    (mm/filemap.c: filemap_check_errors)."""
    failed = READ_ONCE(mapping, "flags") & (AS_EIO | AS_ENOSPC)
    if not failed:
        return 0
    WRITE_ONCE(mapping, "flags", mapping.flags & ~failed)
    return -EIO if failed & AS_EIO else -ENOSPC


def filemap_fdatawait(mapping: AddressSpace) -> int:
    """Wait for what is being written; 0, or -EIO or -ENOSPC if a write failed
    (mm/filemap.c: filemap_fdatawait)."""
    result = 0
    indices = list(mapping.page_tree.indices(0, LAST_INDEX, PAGECACHE_TAG_WRITEBACK))
    for first in range(0, len(indices), PAGEVEC_SIZE):
        pages = filemap.find_get_pages(mapping, indices[first : first + PAGEVEC_SIZE])
        for page in pages:
            wait_on_page_writeback(page)
            if PageError(page):
                ClearPageError(page)
                result = -EIO
        swap.release_pages(pages)
    return filemap_check_errors(mapping) or result


def filemap_write_and_wait(mapping: AddressSpace) -> int:
    """Write what is dirty and wait: fsync  (mm/filemap.c: filemap_write_and_wait)."""
    if not mapping.nrpages:
        return filemap_check_errors(mapping)
    result = filemap_fdatawrite(mapping)
    if result == -EIO:
        return result
    waited = filemap_fdatawait(mapping)
    return result or waited


def wakeup_flusher_threads(kernel: Kernel) -> None:
    """Start the flusher: a task that writes the dirty pages of all files, once
    (fs/fs-writeback.c: wakeup_flusher_threads)."""
    flusher = kernel.scheduler.new_task("flusher", kernel.cpus[0], None)
    flusher.flags |= PF_SWAPWRITE | PF_KTHREAD

    def work() -> None:
        for inode in list(kernel.inodes):
            filemap_flush(inode.i_mapping)

    kernel.scheduler.start(flusher, work)
