"""What the tests of this room share."""

from __future__ import annotations

import pytest


@pytest.fixture
def preempt():
    """Schedules of two started tasks: preempt(n, k) lets the first, and its helpers, take n
    steps, then the second k, then the first all that it can; counted from the step at which
    ready() holds."""

    def schedule(n, k, ready=lambda: True):
        steps = 0
        second = None

        def choose(enabled, running):
            nonlocal steps, second
            if second is None:
                second = enabled[1]
            steps += steps > 0 or ready()
            others = [task for task in enabled if task is not second]
            if not others or (n < steps <= n + k and second in enabled):
                return second
            return others[0]

        return choose

    return schedule
