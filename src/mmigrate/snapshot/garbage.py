"""Millions of objects are made here that stay: nothing for Python's collector to find.

Pages, lists and tables name each other, and what is dropped meanwhile is in no cycle; yet the
collector would go through all of them again and again, a tenth of the time (plan_1g_s of
benchmarks/plan.py).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection of cycles until the end of this."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
