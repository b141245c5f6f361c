"""Balloon pages that can move  (mm/balloon_compaction.c, include/linux/balloon_compaction.h).

A balloon page is one that a driver has allocated and told the host that nobody uses. It is known by
its `_mapcount`, is on its device's list while it has PG_private, and names its device in `private`;
all three change under the page lock, the list under `pages_lock`. lru_lock plays no part.

The functions `v317_…` are the design before commit d6d86c0a7f8d: there a page is known by a special
address space in `mapping`, and by what its count and flags happen to be.

Known defect of v3.19: `balloon_page_dequeue` follows the links of the list without `pages_lock`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mmigrate.linux.include.gfp import __GFP_NOMEMALLOC, __GFP_NORETRY, GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import AddressSpace, AddressSpaceOperations, Page
from mmigrate.linux.include.switches import BALLOON_REDESIGN
from mmigrate.linux.include.vmstat import BALLOON_DEFLATE, BALLOON_INFLATE
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG, BUG_ON, WARN_ON
from mmigrate.linux.kernel.page_flags import (
    ClearPagePrivate,
    PagePrivate,
    SetPagePrivate,
    lock_page,
    page_flags_cleared,
    page_mapping_of,
    page_private,
    set_page_mapping,
    set_page_private,
    trylock_page,
    unlock_page,
)
from mmigrate.linux.kernel.page_ref import (
    PageBalloon,
    __ClearPageBalloon,
    __SetPageBalloon,
    get_page,
    get_page_unless_zero,
    page_count,
    page_mapped,
)
from mmigrate.linux.kernel.rwsem import RwSemaphore
from mmigrate.linux.kernel.sched import READ, WRITE
from mmigrate.linux.kernel.spinlock import SpinLock, spin_lock
from mmigrate.linux.lib.list import ListHead, list_add, list_del, list_empty
from mmigrate.linux.mm import page_alloc, swap

AS_BALLOON_MAP: Final = 1 << 4
MIGRATEPAGE_BALLOON_SUCCESS: Final = 1
GFP_BALLOON: Final = GFP_HIGHUSER_MOVABLE | __GFP_NOMEMALLOC | __GFP_NORETRY

# (device, new page, old page, mode) -> result of the migration
MigrateMethod = Callable[[Any, Page, Page, int], int]


class BalloonDevInfo:
    """A device's balloon  (struct balloon_dev_info).  @mapping: the special address space of the
    old design."""

    __slots__ = ("isolated_pages", "kernel", "mapping", "migratepage", "pages", "pages_lock")

    def __init__(self, kernel: Kernel, migratepage: MigrateMethod | None) -> None:
        # fixed
        self.kernel = kernel
        self.migratepage = migratepage
        self.pages_lock = SpinLock("pages_lock", "balloon pages_lock")
        self.mapping: AddressSpace | None = None
        # pages_lock
        self.isolated_pages = 0
        self.pages = ListHead()
        if not kernel.has(BALLOON_REDESIGN):
            self.mapping = _special_mapping(self)

    def __repr__(self) -> str:
        return "balloon"


def balloon_page_insert(balloon: BalloonDevInfo, page: Page) -> None:
    """Mark a page and put it on the list; page lock and pages_lock are held
    (include/linux/balloon_compaction.h: balloon_page_insert)."""
    __SetPageBalloon(page)
    SetPagePrivate(page)
    set_page_private(page, balloon)
    list_add(page, balloon.pages)


def balloon_page_delete(page: Page) -> None:
    """The reverse; an isolated page is on no list of the device's
    (include/linux/balloon_compaction.h: balloon_page_delete)."""
    __ClearPageBalloon(page)
    set_page_private(page, 0)
    if PagePrivate(page):
        ClearPagePrivate(page)
        list_del(page)


def balloon_page_enqueue(balloon: BalloonDevInfo) -> Page | None:
    """Allocate a page and put it into the balloon; None without memory
    (mm/balloon_compaction.c: balloon_page_enqueue)."""
    kernel = balloon.kernel
    page = page_alloc.alloc_pages_node(kernel, -1, GFP_BALLOON, 0)
    if page is None:
        return None
    # Nobody else can know the page.
    BUG_ON(not trylock_page(page), "a new page is locked", page)
    with spin_lock(balloon.pages_lock):
        if kernel.has(BALLOON_REDESIGN):
            balloon_page_insert(balloon, page)
            kernel.vm_events[BALLOON_INFLATE] += 1
        else:
            _v317_insert(balloon, page)
    unlock_page(page)
    return page


def balloon_page_dequeue(balloon: BalloonDevInfo) -> Page | None:
    """Take a page out of the balloon; None if all of them are busy just now
    (mm/balloon_compaction.c: balloon_page_dequeue)."""
    kernel = balloon.kernel
    redesigned = kernel.has(BALLOON_REDESIGN)
    found = None
    for page in _links(balloon):
        if not trylock_page(page):
            continue
        if redesigned:
            if not PagePrivate(page):  # isolated since it was picked
                unlock_page(page)
                continue
            with spin_lock(balloon.pages_lock):
                balloon_page_delete(page)
            kernel.vm_events[BALLOON_DEFLATE] += 1
        else:
            with spin_lock(balloon.pages_lock):
                get_page(page)
                _v317_delete(page)
        unlock_page(page)
        found = page
        break
    if found is None:
        with spin_lock(balloon.pages_lock):
            BUG_ON(
                list_empty(balloon.pages) and not balloon.isolated_pages,
                "pages of the balloon were lost",
                balloon,
            )
    return found


def _links(balloon: BalloonDevInfo) -> Any:
    """The pages of the list, by its links, which are read without the lock.

    Differs: whoever has left the device's list meanwhile ends the walk; the kernel's goes on over
    whatever list the page is on by then.
    """
    seen = 0
    entry = _next(balloon, balloon.pages)
    while entry is not balloon.pages:
        following = _next(balloon, entry)
        yield entry
        if following is entry or not isinstance(following, Page):
            return
        seen += 1
        entry = following


def _next(balloon: BalloonDevInfo, entry: ListHead) -> Any:
    if sched.hook is not None:
        sched.hook.announce(balloon.pages_lock, "owner", READ)
    return entry.next


def balloon_page_free(page: Page) -> None:
    """The driver gives back what it dequeued; the old design has two references on it
    (v3.17: mm/balloon_compaction.c: balloon_page_free)."""
    if not page.zone.kernel.has(BALLOON_REDESIGN):
        swap.put_page(page)
    swap.put_page(page)


# --- for the scanners and the core ---


def balloon_page_movable(page: Page) -> bool:
    """Whether a page looks like one in a balloon; a hint  (balloon_page_movable)."""
    return PageBalloon(page) and PagePrivate(page)


def isolated_balloon_page(page: Page) -> bool:
    """Whether an isolated page is of a balloon  (isolated_balloon_page)."""
    return PageBalloon(page)


def balloon_page_isolate(page: Page) -> bool:
    """Take a page off its device's list, with a reference; whether it was still there
    (mm/balloon_compaction.c: balloon_page_isolate)."""
    if not get_page_unless_zero(page):
        return False
    if trylock_page(page):
        if balloon_page_movable(page):
            balloon: Any = page_private(page)
            with spin_lock(balloon.pages_lock):
                ClearPagePrivate(page)
                list_del(page)
                balloon.isolated_pages += 1
            unlock_page(page)
            return True
        unlock_page(page)
    swap.put_page(page)
    return False


def balloon_page_putback(page: Page) -> None:
    """Back to the device's list  (mm/balloon_compaction.c: balloon_page_putback)."""
    lock_page(page)
    if PageBalloon(page):
        balloon: Any = page_private(page)
        with spin_lock(balloon.pages_lock):
            SetPagePrivate(page)
            list_add(page, balloon.pages)
            balloon.isolated_pages -= 1
        swap.put_page(page)
    else:
        WARN_ON(True, f"{page!r} is put back into a balloon, and is not of one")
    unlock_page(page)


def balloon_page_migrate(newpage: Page, page: Page, mode: int) -> int:
    """Let the device take @newpage in place of @page, which is locked
    (mm/balloon_compaction.c: balloon_page_migrate)."""
    rc = -11
    BUG_ON(not trylock_page(newpage), "a destination is locked", newpage)
    if WARN_ON(not PageBalloon(page), f"{page!r} is no balloon page"):
        unlock_page(newpage)
        return rc
    balloon: Any = page_private(page)
    if balloon.migratepage is not None:
        rc = balloon.migratepage(balloon, newpage, page, mode)
    unlock_page(newpage)
    return rc


# --- the design of v3.8 to v3.17 ---


def _special_mapping(balloon: BalloonDevInfo) -> AddressSpace:
    """mm/balloon_compaction.c of v3.17: balloon_mapping_alloc."""

    def migratepage(_mapping: Any, newpage: Page, page: Page, mode: int) -> int:
        assert balloon.migratepage is not None
        return balloon.migratepage(balloon, newpage, page, mode)

    mapping = AddressSpace(
        "balloon",
        None,
        AddressSpaceOperations("balloon", migratepage=migratepage),
        SpinLock("tree_lock", "balloon tree_lock"),
        SpinLock("private_lock", "balloon private_lock"),
        RwSemaphore("i_mmap_rwsem", "balloon i_mmap_rwsem"),
        gfp_mask=GFP_BALLOON,
        accounts_dirty=False,
    )
    mapping.flags = AS_BALLOON_MAP
    mapping.private_data = balloon
    return mapping


def _v317_insert(balloon: BalloonDevInfo, page: Page) -> None:
    set_page_mapping(page, balloon.mapping)
    list_add(page, balloon.pages)


def _v317_delete(page: Page) -> None:
    set_page_mapping(page, None)
    if page.next is page:
        BUG("taken off a list it is not on: its links are poison", page)
    list_del(page)


def _mapping_balloon(page: Page) -> bool:
    """mapping_balloon(page->mapping): a flag of whatever `mapping` points to."""
    mapping = page_mapping_of(page)
    if mapping is None:
        return False
    if not isinstance(mapping, AddressSpace):
        BUG(f"{mapping!r} was read as if it were an address space", page)
    return bool(mapping.flags & AS_BALLOON_MAP)


def v317_balloon_page_movable(page: Page) -> bool:
    """Several looks at different times, without any lock."""
    return (
        page_flags_cleared(page)
        and not page_mapped(page)
        and page_count(page) == 1
        and _mapping_balloon(page)
    )


def v317_isolated_balloon_page(page: Page) -> bool:
    return (
        page_flags_cleared(page)
        and not page_mapped(page)
        and page_count(page) >= 2
        and _mapping_balloon(page)
    )


def v317_balloon_page_isolate(page: Page) -> bool:
    if not get_page_unless_zero(page):
        return False
    if trylock_page(page):
        if _mapping_balloon(page) and page_count(page) == 2:
            balloon: Any = page.mapping.private_data
            with spin_lock(balloon.pages_lock):
                list_del(page)
                balloon.isolated_pages += 1
            unlock_page(page)
            return True
        unlock_page(page)
    swap.put_page(page)
    return False


def v317_balloon_page_putback(page: Page) -> None:
    lock_page(page)
    if _mapping_balloon(page):
        balloon: Any = page.mapping.private_data
        with spin_lock(balloon.pages_lock):
            list_add(page, balloon.pages)
            balloon.isolated_pages -= 1
        swap.put_page(page)
    else:
        WARN_ON(True, f"{page!r} is put back into a balloon, and is not of one")
    unlock_page(page)


def v317_migrated(balloon: BalloonDevInfo, newpage: Page, page: Page) -> None:
    """The old design's part of the driver's method: @newpage in, @page out."""
    with spin_lock(balloon.pages_lock):
        _v317_insert(balloon, newpage)
        balloon.isolated_pages -= 1
    set_page_mapping(page, None)
    list_del(page)  # the list of whoever migrates it
    if sched.hook is not None:
        sched.hook.announce(page, "lru", WRITE)
