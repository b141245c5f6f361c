"""A process of 10 GiB stays under 20 MB."""

from __future__ import annotations

import pytest
from .examples import fragmented

from mmigrate.snapshot import format


@pytest.mark.slow
def test_ten_gibibytes_with_no_two_pages_alike_stay_under_twenty_megabytes() -> None:
    pages = 1 << 15  # an 80th of 10 GiB
    size = len(format.dumps(fragmented(pages)))
    assert size * (10 << 30) // 4096 / pages < 20_000_000 / 4  # with room to spare
