"""A balloon whose host is told of every page  (drivers/virtio/virtio_balloon.c).

`balloon_lock` serialises inflation, deflation and the talk with the host; migration only tries
it. What the host believes is in `host.given`.

Differs: the pages that `leak_balloon` frees are named by a list of its own, not by the shared array
of frame numbers, which v3.19 reads after it has let go of the lock and can find overwritten.
"""

from __future__ import annotations

from errno import EAGAIN
from typing import Any, Final

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.switches import BALLOON_REDESIGN
from mmigrate.linux.include.vmstat import BALLOON_MIGRATE
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.kernel.rwsem import RwSemaphore, mutex_lock, mutex_trylock, mutex_unlock
from mmigrate.linux.kernel.sched import WRITE
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import balloon_compaction, swap
from mmigrate.linux.mm.balloon_compaction import BalloonDevInfo

PFNS_AT_A_TIME: Final = 256  # VIRTIO_BALLOON_ARRAY_PFNS_MAX


class Host:
    """The other side: @given are the frames it believes unused, @told all it was told, in order,
    as ("inflate" or "deflate", pfn)."""

    __slots__ = ("given", "told")

    def __init__(self) -> None:
        self.given: dict[int, None] = {}
        self.told: list[tuple[str, int]] = []

    def __repr__(self) -> str:
        return "host"


class VirtioBalloon:
    """The device  (struct virtio_balloon)."""

    __slots__ = ("balloon_lock", "host", "kernel", "num_pages", "vb_dev_info")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.balloon_lock = RwSemaphore("balloon_lock", "balloon_lock")
        self.host = Host()
        # balloon_lock
        self.num_pages = 0
        self.vb_dev_info = BalloonDevInfo(kernel, virtballoon_migratepage)
        kernel.devices["virtio_balloon"] = self

    def __repr__(self) -> str:
        return "virtio_balloon"


def _tell_host(vb: VirtioBalloon, what: str, pages: list[Page]) -> None:
    """Tell, and wait for the answer  (tell_host)."""
    if sched.hook is not None:
        sched.hook.announce(vb.host, "given", WRITE)
    for page in pages:
        vb.host.told.append((what, page.pfn))
        if what == "inflate":
            vb.host.given[page.pfn] = None
        else:
            vb.host.given.pop(page.pfn, None)


def fill_balloon(vb: VirtioBalloon, num: int) -> int:
    """Inflate by up to @num pages; by how many  (fill_balloon)."""
    filled: list[Page] = []
    mutex_lock(vb.balloon_lock)
    for _ in range(min(num, PFNS_AT_A_TIME)):
        page = balloon_compaction.balloon_page_enqueue(vb.vb_dev_info)
        if page is None:
            break
        filled.append(page)
        vb.num_pages += 1
        page.zone.managed_pages -= 1
    if filled:
        _tell_host(vb, "inflate", filled)
    mutex_unlock(vb.balloon_lock)
    return len(filled)


def leak_balloon(vb: VirtioBalloon, num: int) -> int:
    """Deflate by up to @num pages; by how many  (leak_balloon)."""
    leaked: list[Page] = []
    mutex_lock(vb.balloon_lock)
    for _ in range(min(num, PFNS_AT_A_TIME, vb.num_pages)):
        page = balloon_compaction.balloon_page_dequeue(vb.vb_dev_info)
        if page is None:
            break
        leaked.append(page)
        vb.num_pages -= 1
    if leaked:
        _tell_host(vb, "deflate", leaked)
    mutex_unlock(vb.balloon_lock)
    for page in leaked:
        page.zone.managed_pages += 1
        balloon_compaction.balloon_page_free(page)
    return len(leaked)


def virtballoon_migratepage(balloon: Any, newpage: Page, page: Page, _mode: int) -> int:
    """Take @newpage in place of @page; the contents are nobody's, so they stay behind
    (virtballoon_migratepage)."""
    vb: VirtioBalloon = balloon.kernel.devices["virtio_balloon"]
    # An inflation may have started the migration, and has the lock.
    if not mutex_trylock(vb.balloon_lock):
        return -EAGAIN
    if not balloon.kernel.has(BALLOON_REDESIGN):
        balloon_compaction.v317_migrated(balloon, newpage, page)
        _tell_host(vb, "inflate", [newpage])
        _tell_host(vb, "deflate", [page])
        mutex_unlock(vb.balloon_lock)
        return balloon_compaction.MIGRATEPAGE_BALLOON_SUCCESS
    get_page(newpage)  # the balloon's
    with spin_lock(balloon.pages_lock):
        balloon_compaction.balloon_page_insert(balloon, newpage)
        balloon.isolated_pages -= 1
        balloon.kernel.vm_events[BALLOON_MIGRATE] += 1
    _tell_host(vb, "inflate", [newpage])
    balloon_compaction.balloon_page_delete(page)
    _tell_host(vb, "deflate", [page])
    mutex_unlock(vb.balloon_lock)
    swap.put_page(page)  # the balloon's
    return 0
