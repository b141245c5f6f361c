"""FUSE: a server in user space answers reads, and may give pages away instead of copies
(fs/fuse/dev.c, fs/fuse/file.c, fs/splice.c).

The server of a modelled file has another file, its source. It splices pages of that file's
cache into the answer; a page that it can steal, because nobody else uses it, takes the
place of the one that the request brought (`fuse_try_move_page`), any other one is copied.

Differs: a single read does what `fuse_readpages` does; nothing is ever written back.
"""

from __future__ import annotations

from errno import EIO
from functools import partial
from typing import Final

from mmigrate.linux.fs import libfs
from mmigrate.linux.fs.filesystem import Filesystem
from mmigrate.linux.include.gfp import GFP_KERNEL
from mmigrate.linux.include.mm_types import AddressSpaceOperations, Inode, Page
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_locked,
    PG_lru,
    PG_reclaim,
    PG_referenced,
    PG_uptodate,
)
from mmigrate.linux.kernel.bug import WARN_ON_ONCE
from mmigrate.linux.kernel.highmem import copy_highpage
from mmigrate.linux.kernel.page_flags import (
    ClearPageMappedToDisk,
    PageDirty,
    PageMlocked,
    PageUptodate,
    PageWriteback,
    SetPageError,
    SetPageUptodate,
    lock_page,
    page_has_private,
    page_mapping,
    unlock_page,
    wait_on_page_writeback,
)
from mmigrate.linux.kernel.page_ref import get_page, page_count, page_mapped
from mmigrate.linux.mm import filemap, page_writeback, swap, vmscan

_HARMLESS: Final = PG_locked | PG_referenced | PG_uptodate | PG_lru | PG_active | PG_reclaim


def page_cache_pipe_buf_steal(page: Page) -> bool:
    """Take a page of a pipe out of its file's cache, locked, if nobody else uses it
    (fs/splice.c: page_cache_pipe_buf_steal)."""
    lock_page(page)
    mapping = page_mapping(page)
    if mapping is not None:
        wait_on_page_writeback(page)
        released = not page_has_private(page) or filemap.try_to_release_page(page, GFP_KERNEL)
        if released and vmscan.remove_mapping(mapping, page):
            return True  # it may be on the LRU
    unlock_page(page)
    return False


def fuse_check_page(page: Page) -> bool:
    """Whether a stolen page may become one of our files  (fs/fuse/dev.c: fuse_check_page)."""
    return (
        not page_mapped(page)
        and page.mapping is None
        and page_count(page) == 1
        and not page.flags & ~_HARMLESS
    )


def fuse_try_move_page(oldpage: Page, newpage: Page) -> bool:
    """Let the page of a pipe, whose reference is ours, take the place of @oldpage, which the
    request has locked and holds; whether it did: then the old page is unlocked and the
    request's reference on it dropped, and @newpage is locked, with one
    (fs/fuse/dev.c: fuse_try_move_page)."""
    if not page_cache_pipe_buf_steal(newpage):
        return False
    if not PageUptodate(newpage):
        SetPageUptodate(newpage)
    ClearPageMappedToDisk(newpage)
    strange = (
        page_mapped(oldpage)
        or page_has_private(oldpage) != 0
        or PageDirty(oldpage)
        or PageWriteback(oldpage)
        or PageMlocked(oldpage)
    )
    if not fuse_check_page(newpage) or WARN_ON_ONCE(strange, f"{oldpage!r} is in use"):
        unlock_page(newpage)
        return False
    filemap.replace_page_cache_page(oldpage, newpage)
    get_page(newpage)
    # What came from another file is on the LRU, or will be when its vector is drained.
    unlock_page(oldpage)
    swap.put_page(oldpage)
    return True


def fuse_readpage(source: Inode, page: Page) -> int:
    """Fill a locked page with what the server answers; it is unlocked then: 0 or -EIO
    (fs/fuse/file.c: fuse_readpages_fill, fuse_readpages_end)."""
    answer = filemap.read_mapping_page(source.i_mapping, page.index)
    if isinstance(answer, int):
        SetPageError(page)
        unlock_page(page)
        return -EIO
    get_page(page)  # the request's
    if fuse_try_move_page(page, answer):
        unlock_page(answer)
        swap.put_page(answer)  # the request's
    else:
        copy_highpage(page, answer)
        SetPageUptodate(page)
        unlock_page(page)
        swap.put_page(page)
    swap.put_page(answer)  # the pipe's
    return 0


def filesystem(source: Inode) -> Filesystem:
    """@source: what the server of the file reads from."""
    return Filesystem(
        "fuse",
        AddressSpaceOperations(
            "fuse",
            readpage=partial(fuse_readpage, source),
            set_page_dirty=page_writeback.__set_page_dirty_no_writeback,
            write_begin=libfs.simple_write_begin,
            write_end=libfs.simple_write_end,
        ),
        filemap.generic_file_vm_ops,
        device="none",
        accounts_dirty=False,
    )
