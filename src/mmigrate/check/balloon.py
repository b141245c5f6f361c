"""The balloon: its list, its counts, its marks, and what the host believes."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.page_flags import PAGE_BALLOON_MAPCOUNT_VALUE, PG_private
from mmigrate.linux.include.switches import BALLOON_REDESIGN


def balloon(view: View) -> Iterator[Violation]:
    """On the list: marked, with PG_private and one reference; as many as the driver counts, and
    just those that the host was told of.  Nobody keeps one isolated."""
    device = view.kernel.devices.get("virtio_balloon")
    if device is None:
        return
    info = device.vb_dev_info
    listed = {page.pfn: page for page in info.pages}
    if len(listed) != device.num_pages:
        yield Violation(
            "balloon", repr(device), f"num_pages {device.num_pages}, found {len(listed)}"
        )
    if info.isolated_pages:
        yield Violation(
            "balloon", repr(device), f"isolated_pages {info.isolated_pages}, expected 0"
        )
    redesigned = view.kernel.has(BALLOON_REDESIGN)
    for page in listed.values():
        marked = page.mapping is info.mapping
        if redesigned:
            marked = (
                page._mapcount == PAGE_BALLOON_MAPCOUNT_VALUE
                and bool(page.flags & PG_private)
                and page.private is info
            )
        if not marked:
            yield Violation("balloon", repr(page), "in the balloon, without its mark")
        if page._count != 1:
            yield Violation("balloon", repr(page), f"_count {page._count} in the balloon")
    for page in view.pages:
        if page._mapcount == PAGE_BALLOON_MAPCOUNT_VALUE and page.pfn not in listed:
            yield Violation("balloon", repr(page), "marked, and not in the balloon")
    if sorted(device.host.given) != sorted(listed):
        odd = sorted(set(device.host.given) ^ set(listed))
        yield Violation(
            "balloon", "host", f"believes otherwise of {len(odd)} frames, first pfn {odd[0]}"
        )


def balloon_pfns(view: View) -> set[int]:
    """The frames on the list of the balloon."""
    device = view.kernel.devices.get("virtio_balloon")
    return set() if device is None else {page.pfn for page in device.vb_dev_info.pages}
