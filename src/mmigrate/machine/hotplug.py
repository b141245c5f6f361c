"""Ranges of frames that somebody holds, and memory out of use, as a machine offers them."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import EBUSY, EINVAL, ENOMEM

from mmigrate.errors import ScenarioError
from mmigrate.linux.include.gfp import MIGRATE_MOVABLE
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mmzone import MAX_ORDER, Zone
from mmigrate.linux.mm import alloc_contig, cma, memory_failure, memory_hotplug, page_isolation
from mmigrate.linux.mm.page_alloc import page_of_frame
from mmigrate.linux.mm.page_boot import realise_range

LARGEST_BLOCK = 1 << (MAX_ORDER - 1)  # frames of the largest free block: 4 MiB
MEMORY_BLOCK = 32768  # frames that go and come together when a whole node does: 128 MiB


class Contiguous:
    """Frames in a row that belong to whoever asked for them, until `free()`."""

    def __init__(self, start_pfn: int, end_pfn: int, give_back: Callable[[], object]) -> None:
        self.start_pfn = start_pfn
        self.end_pfn = end_pfn
        self.held = True
        self._give_back = give_back

    def __repr__(self) -> str:
        return f"<pfn {self.start_pfn} to {self.end_pfn - 1}>"

    def free(self) -> None:
        if not self.held:
            raise ScenarioError(f"{self!r} has been freed")
        self.held = False
        self._give_back()


class CmaArea:
    """Memory that is lent to movable pages until somebody asks for it here."""

    def __init__(self, kernel: Kernel, node: int, pages: int, held: list[Contiguous]) -> None:
        found = None
        for zone in kernel.nodes[node].node_zones:
            found = found or cma.cma_init_area(zone, pages)
        if found is None:
            raise ScenarioError(
                f"node {node} has no free range of {pages} pages, a multiple of {cma.ALIGN}"
            )
        self._area = found
        self._held = held

    @property
    def frames(self) -> range:
        """The frames of the area."""
        return range(self._area.base_pfn, self._area.base_pfn + self._area.count)

    def alloc(self, pages: int, align: int = 0) -> Contiguous:
        """So many frames in a row, the first a multiple of 2**align within the area.  OSError
        (ENOMEM): they cannot be had."""
        page = cma.cma_alloc(self._area, pages, align)
        if page is None:
            raise OSError(ENOMEM, os.strerror(ENOMEM))
        taken = Contiguous(
            page.pfn, page.pfn + pages, lambda: cma.cma_release(self._area, page, pages)
        )
        self._held.append(taken)
        return taken


def alloc_contig_frames(
    kernel: Kernel, start_pfn: int, end_pfn: int, held: list[Contiguous]
) -> Contiguous:
    """See `Machine.alloc_contig`."""
    if any(zone.zone_start_pfn <= start_pfn < zone.end_pfn for zone in _empty_zones(kernel)):
        _checked(-EBUSY)  # out of use, all of the zone
    if page_isolation.zone_of_frame(kernel, start_pfn) is None or end_pfn <= start_pfn:
        raise ScenarioError(f"frames {start_pfn} to {end_pfn} are not a range of this machine")
    _checked(alloc_contig.alloc_contig_range(kernel, start_pfn, end_pfn, MIGRATE_MOVABLE))
    number = end_pfn - start_pfn
    taken = Contiguous(
        start_pfn, end_pfn, lambda: alloc_contig.free_contig_range(kernel, start_pfn, number)
    )
    held.append(taken)
    return taken


def _empty_zones(kernel: Kernel) -> list[Zone]:
    return [zone for node in kernel.nodes for zone in node.empty_zones]


def offline(kernel: Kernel, what: int | range) -> None:
    """See `Machine.offline`."""
    if isinstance(what, range) and _cuts_free_block(kernel, what):
        _checked(-EINVAL)
    for first, last in _ranges(kernel, what, False):
        _checked(memory_hotplug.offline_pages(kernel, first, last - first))


def online(kernel: Kernel, what: int | range) -> None:
    """See `Machine.online`."""
    for first, last in _ranges(kernel, what, True):
        _checked(memory_hotplug.online_pages(kernel, first, last - first))


def soft_offline(kernel: Kernel, pfn: int) -> None:
    """See `Machine.soft_offline`."""
    zone = page_isolation.zone_of_frame(kernel, pfn)
    if zone is None or any(first <= pfn < last for first, last in zone.offline):
        raise ScenarioError(f"there is no frame {pfn} in use or free")
    realise_range(zone, pfn, pfn + 1)
    _checked(memory_failure.soft_offline_page(page_of_frame(zone, pfn), 0))


def _cuts_free_block(kernel: Kernel, frames: range) -> bool:
    """Whether a free block may lie across the start or the end.  The kernel's memory blocks are
    so large that none ever does, and it relies on that."""
    zone = page_isolation.zone_of_frame(kernel, frames.start)
    if zone is None:
        return False
    return any(
        border % LARGEST_BLOCK and border not in (zone.zone_start_pfn, zone.end_pfn)
        for border in (frames.start, frames.stop)
    )


def _ranges(kernel: Kernel, what: int | range, coming: bool) -> list[tuple[int, int]]:
    if isinstance(what, range):
        return [(what.start, what.stop)]
    if not 0 <= what < len(kernel.nodes):
        raise ScenarioError(f"there is no node {what}")
    node = kernel.nodes[what]
    zones = [*node.node_zones, *node.empty_zones]
    zones.sort(key=lambda zone: zone.zone_idx, reverse=not coming)
    return [part for zone in zones for part in _blocks(zone, coming)]


def _blocks(zone: Zone, coming: bool) -> list[tuple[int, int]]:
    """The memory blocks of a zone that are out of use, or in use."""
    if coming:
        return list(zone.offline)
    blocks = []
    start = zone.zone_start_pfn
    while start < zone.end_pfn:
        end = min((start // MEMORY_BLOCK + 1) * MEMORY_BLOCK, zone.end_pfn)
        blocks += _what_is_left(zone, start, end)
        start = end
    return blocks


def _what_is_left(zone: Zone, start: int, end: int) -> list[tuple[int, int]]:
    parts = []
    for first, last in zone.offline:
        if first < end and last > start:
            if start < first:
                parts.append((start, first))
            start = max(start, last)
    return [*parts, (start, end)] if start < end else parts


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
