"""The reference and mapping counts of a page  (include/linux/mm.h, pagemap.h, mm/swap.c).

Dropping the last reference frees the page: `put_page` calls what `linux/mm/swap.py` put
into the kernel object for that.

A tail of a compound page has a `_count` of 0, always. A pin on a tail of a transparent huge page
is kept in the tail's `_mapcount`, which maps nothing, and once more in the head's `_count`; the
bit lock `PG_compound_lock` of the head keeps the two together while the page may be split.
"""

from __future__ import annotations

from collections.abc import Callable

from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.page_flags import (
    PAGE_BALLOON_MAPCOUNT_VALUE,
    PAGE_BUDDY_MAPCOUNT_VALUE,
    PG_compound_lock,
    PG_hugetlb,
    PG_slab,
    PG_tail,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.sched import READ, WRITE


def page_count(page: Page) -> int:
    """References on a page; for a tail those on its head."""
    if sched.hook is not None:
        sched.hook.announce(page, "_count", READ)
    if not page._count and page.flags & PG_tail:
        return page_count(compound_head(page))
    return page._count


def get_page(page: Page) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    if page._count <= 0:
        if page.flags & PG_tail:
            _get_page_of_tail(page)
            return
        BUG(f"get_page with _count {page._count}", page)
    page._count += 1


page_cache_get = get_page


def get_page_unless_zero(page: Page) -> bool:
    """Take a reference unless the page is frozen or free; whether it was taken."""
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    if page._count == 0:
        return False
    page._count += 1
    return True


def put_page_testzero(page: Page) -> bool:
    """Drop a reference; whether it was the last."""
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    if page._count <= 0:
        BUG(f"put_page with _count {page._count}", page)
    page._count -= 1
    return page._count == 0


def put_page(page: Page) -> None:
    """Drop a reference; the last one frees the page  (mm/swap.c: put_page)."""
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    left = page._count - 1
    if left > 0:
        page._count = left
        return
    if left < 0:
        if page.flags & PG_tail:
            _put_page_of_tail(page)
            return
        BUG(f"put_page with _count {page._count}", page)
    page._count = 0
    page.zone.kernel.free_page(page)


def page_freeze_refs(page: Page, count: int) -> bool:
    """From exactly @count references to 0, so that nobody can take one; whether it was so."""
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    if page._count != count:
        return False
    page._count = 0
    if sched.hook is not None:
        page.zone.kernel.frozen.add(page.pfn)
    return True


def page_unfreeze_refs(page: Page, count: int) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
        page.zone.kernel.frozen.discard(page.pfn)
    if page._count != 0 or count == 0:
        BUG(f"page_unfreeze_refs to {count} with _count {page._count}", page)
    page._count = count


def page_left_frozen(page: Page) -> None:
    """The page has left the place where it could be found, and its references stay at 0: who
    waits for it to be unfrozen need not any longer.  In C he looks again and again."""
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
        page.zone.kernel.frozen.discard(page.pfn)


def wait_until_unfrozen(page: Page, gone: Callable[[], bool]) -> None:
    """Wait until a page has references again, or is @gone from where it was found.

    Differs: who freezes a page may change that place first; then this goes on only when he is
    done, as if it had not looked in between. So it waits for one word alone.
    """
    frozen = page.zone.kernel.frozen
    sched.spin_until(
        page,
        "_count",
        lambda: page.pfn not in frozen and (page._count > 0 or gone()),
        f"{page!r} to be unfrozen",
    )


def page_ref_add(page: Page, number: int) -> None:
    """atomic_add to the count of a page that nobody can get at otherwise."""
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    page._count += number


def page_ref_sub(page: Page, number: int) -> None:
    """atomic_sub from the count of a page; other references are known to be left."""
    page_ref_add(page, -number)


# --- compound pages ---


def compound_head(page: Page) -> Page:
    """The head of the compound page, or the page itself."""
    if sched.hook is not None:
        sched.hook.announce(page, PG_tail, READ)
    head = page.first_page
    return head if page.flags & PG_tail and head is not None else page


def compound_tail_refcounted(head: Page) -> bool:
    """Whether pins on tails are kept apart: transparent huge pages, which may be split; not those
    of hugetlb  (include/linux/mm.h: __compound_tail_refcounted)."""
    return not head.flags & (PG_slab | PG_hugetlb)


def compound_lock(head: Page) -> None:
    """A bit spinlock; interrupts are off meanwhile  (include/linux/mm.h: compound_lock)."""
    sched.preempt_disable()
    if sched.hook is not None or head.flags & PG_compound_lock:
        sched.block(
            head,
            PG_compound_lock,
            WRITE,
            lambda: not head.flags & PG_compound_lock,
            f"the compound lock of {head!r}",
        )
    head.flags |= PG_compound_lock


def compound_unlock(head: Page) -> None:
    if sched.hook is not None:
        sched.hook.announce(head, PG_compound_lock, WRITE)
    head.flags &= ~PG_compound_lock
    sched.preempt_enable()


def _is_tail(page: Page) -> bool:
    if sched.hook is not None:
        sched.hook.announce(page, PG_tail, READ)
    return page.flags & PG_tail != 0


def get_page_foll(page: Page) -> None:
    """A reference while the lock of the page table that maps the page is held, so that it cannot
    be split  (mm/internal.h: get_page_foll)."""
    if _is_tail(page):
        _get_page_tail_foll(page, True)
    else:
        get_page(page)


def _get_page_tail_foll(page: Page, get_page_head: bool) -> None:
    """mm/internal.h: __get_page_tail_foll."""
    head = compound_head(page)
    if head._count <= 0:
        BUG(f"a tail was pinned with _count {head._count} of its head", page)
    if get_page_head:
        get_page(head)
    if compound_tail_refcounted(head):
        inc_mapcount(page)


def _get_page_of_tail(page: Page) -> None:
    """get_page() of what looked like a tail."""
    if __get_page_tail(page):
        return
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    if page._count <= 0:
        BUG(f"get_page with _count {page._count}", page)
    page._count += 1


def __get_page_tail(page: Page) -> bool:
    """A reference on a tail; False if the page has been split meanwhile
    (mm/swap.c: __get_page_tail)."""
    head = compound_head(page)
    if not compound_tail_refcounted(head):
        if not _is_tail(page):
            return False
        _get_page_tail_foll(page, True)
        return True
    if head is page or not get_page_unless_zero(head):
        return False
    compound_lock(head)  # it cannot be split now
    got = _is_tail(page)
    if got:
        _get_page_tail_foll(page, False)
    compound_unlock(head)
    if not got:
        put_page(head)
    return got


def _put_page_of_tail(page: Page) -> None:
    """put_page() of what looked like a tail  (mm/swap.c: put_compound_page)."""
    head = compound_head(page)
    if not compound_tail_refcounted(head):
        put_page(head if _is_tail(page) else page)
    elif head is page or not get_page_unless_zero(head):
        if _is_tail(page):
            BUG("put_page of a tail whose head is free", page)
        put_page(page)  # split, and the former head is gone
    else:
        _put_refcounted_tail(head, page)


def _put_refcounted_tail(head: Page, page: Page) -> None:
    """mm/swap.c: put_refcounted_compound_page."""
    compound_lock(head)
    if not _is_tail(page):  # split meanwhile
        compound_unlock(head)
        put_page(head)
        put_page(page)
        return
    if put_page_testzero(head):
        BUG("the pin of a tail was not counted in its head", page)
    if page_mapcount(page) <= 0:
        BUG("put_page of a tail that nobody has pinned", page)
    dec_mapcount(page)
    compound_unlock(head)
    put_page(head)


# --- mappings ---


def page_mapcount(page: Page) -> int:
    if sched.hook is not None:
        sched.hook.announce(page, "_mapcount", READ)
    return page._mapcount + 1


def page_mapped(page: Page) -> bool:
    if sched.hook is not None:
        sched.hook.announce(page, "_mapcount", READ)
    return page._mapcount >= 0


def page_not_mapped(page: Page) -> bool:
    if sched.hook is not None:
        sched.hook.announce(page, "_mapcount", READ)
    return page._mapcount < 0


def inc_mapcount(page: Page) -> bool:
    """One more pte maps the page; whether it is the first."""
    if sched.hook is not None:
        sched.hook.announce(page, "_mapcount", WRITE)
    page._mapcount += 1
    return page._mapcount == 0


def dec_mapcount(page: Page) -> bool:
    """One pte less maps the page; whether it was the last."""
    if sched.hook is not None:
        sched.hook.announce(page, "_mapcount", WRITE)
    page._mapcount -= 1
    if page._mapcount < -1:
        BUG(f"_mapcount {page._mapcount} below -1", page)
    return page._mapcount == -1


# --- the marks that stand in `_mapcount` of a page that is not mapped ---


def PageBuddy(page: Page) -> bool:
    """Whether the page heads a free block.  zone->lock guards that; without it this is a look at
    what may be changing."""
    if sched.hook is not None:
        sched.hook.announce(page.zone.lock, "owner", READ)
    return page._mapcount == PAGE_BUDDY_MAPCOUNT_VALUE


def PageBalloon(page: Page) -> bool:
    if sched.hook is not None:
        sched.hook.announce(page, "_mapcount", READ)
    return page._mapcount == PAGE_BALLOON_MAPCOUNT_VALUE


def __SetPageBalloon(page: Page) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "_mapcount", WRITE)
    if page._mapcount != -1:
        BUG(f"_mapcount {page._mapcount} of a page for the balloon", page)
    page._mapcount = PAGE_BALLOON_MAPCOUNT_VALUE


def __ClearPageBalloon(page: Page) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "_mapcount", WRITE)
    if page._mapcount != PAGE_BALLOON_MAPCOUNT_VALUE:
        BUG(f"_mapcount {page._mapcount} of a page of the balloon", page)
    page._mapcount = -1
