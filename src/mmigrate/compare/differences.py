"""The table of known differences between later kernels and the model of them.

A row excuses a case on kernels of a release and later: these observations of it, and no others.
A row whose case agrees with the kernel is out of date, and fails the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mmigrate.linux.include.switches import release_number


@dataclass(frozen=True)
class Difference:
    """@case: "file:scenario".  @keys: the observations that differ.  @since: the first release
    that differs.  @why: a sentence.  @commit: what changed it, "" if it is no single commit."""

    case: str
    keys: tuple[str, ...]
    since: str
    why: str
    commit: str = ""

    def concerns(self, case: str, release: str) -> bool:
        return self.case == case and release_number(self.since) <= release_number(release)


TABLE: Final[tuple[Difference, ...]] = ()


def find(case: str, release: str) -> list[Difference]:
    """The rows for a case on a kernel of @release, such as "v6.1"."""
    return [row for row in TABLE if row.concerns(case, release)]
