"""Hypothesis profiles: HYPOTHESIS_PROFILE chooses one; in CI it is `ci`.

ci      the same examples in every run
dev     new examples in every run; what failed is kept in .hypothesis and tried first
long    a search for a night

None has a deadline: on a busy machine that is a test which fails by the clock.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "long", max_examples=int(os.environ.get("PROGRAMS", "10000")), deadline=None, print_blob=True
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)
