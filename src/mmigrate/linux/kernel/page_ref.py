"""The reference and mapping counts of a page  (include/linux/mm.h, pagemap.h).

Dropping the last reference frees the page: `put_page` calls what `linux/mm/swap.py` put
into the kernel object for that.
"""

from __future__ import annotations

from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.bug import BUG
from mmigrate.linux.kernel.sched import READ, WRITE


def page_count(page: Page) -> int:
    if sched.hook is not None:
        sched.hook.announce(page, "_count", READ)
    return page._count


def get_page(page: Page) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    if page._count <= 0:
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
    if page._count <= 0:
        BUG(f"put_page with _count {page._count}", page)
    page._count -= 1
    if page._count == 0:
        page.zone.kernel.free_page(page)


def page_freeze_refs(page: Page, count: int) -> bool:
    """From exactly @count references to 0, so that nobody can take one; whether it was so."""
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    if page._count != count:
        return False
    page._count = 0
    return True


def page_unfreeze_refs(page: Page, count: int) -> None:
    if sched.hook is not None:
        sched.hook.announce(page, "_count", WRITE)
    if page._count != 0 or count == 0:
        BUG(f"page_unfreeze_refs to {count} with _count {page._count}", page)
    page._count = count


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
