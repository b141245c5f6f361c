"""What the tests of this room share."""

from __future__ import annotations

import pytest


@pytest.fixture
def preempt():
    """Schedules of two tasks: preempt(n, k) lets the first take n steps, then the second k,
    then the first what it can; counted from the step at which ready() holds."""

    def schedule(n, k, ready=lambda: True):
        steps = 0

        def choose(enabled, running):
            nonlocal steps
            steps += steps > 0 or ready()
            first, last = enabled[0], enabled[-1]
            return last if n < steps <= n + k else first

        return choose

    return schedule
