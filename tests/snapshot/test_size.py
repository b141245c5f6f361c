"""A process of 10 GiB stays under 20 MB."""

from __future__ import annotations

from mmigrate.snapshot import format

from .examples import fragmented


def test_ten_gibibytes_with_no_two_pages_alike_stay_under_twenty_megabytes() -> None:
    pages = 1 << 15  # an eightieth of 10 GiB
    size = len(format.dumps(fragmented(pages)))
    assert size * (10 << 30) // 4096 / pages < 20_000_000 / 4  # with room to spare
