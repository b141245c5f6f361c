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
    """@case: "file:scenario".  @keys: the observations that differ.  @since: a release
    from which on it is so.  @why: a sentence.  @commit: what changed it: its id, or its subject
    where the id is not known for sure."""

    case: str
    keys: tuple[str, ...]
    since: str
    why: str
    commit: str

    def concerns(self, case: str, release: str) -> bool:
        return self.case == case and release_number(self.since) <= release_number(release)


_WHOLE = "a huge page moves as a whole, where the model splits it, as all kernels before v4.14 did"
_WHOLE_COMMIT = "e8db67eb0ded"

TABLE: Final[tuple[Difference, ...]] = (
    Difference(
        "huge_pages:hugetlb_no_room",
        ("move", "after", "(migrations)"),
        "v6.1",
        "a huge page is made of free memory when the pool of the node has none",
        "ab5ac90aecf5",
    ),
    Difference(
        "huge_pages:hugetlb_strict",
        ("strict",),
        "v5.7",
        "MPOL_MF_STRICT finds misplaced huge pages of hugetlbfs",
        "mm/mempolicy: support MPOL_MF_STRICT for huge page mapping",
    ),
    Difference(
        "huge_pages:hugetlb_soft_offline",
        ("pool",),
        "v4.13",
        "a page that goes bad does not count for its pool any more",
        "c3114a84f7f9",
    ),
    Difference(
        "huge_pages:hugetlb_tail",
        ("move", "after", "(migrations)"),
        "v6.12",
        "any address in a huge page of hugetlbfs finds it; it had to be the first",
        "7dff875c9436",
    ),
    Difference(
        "huge_pages:transparent_one_page",
        ("after", "(migrations)"),
        "v4.14",
        _WHOLE,
        _WHOLE_COMMIT,
    ),
    Difference("huge_pages:transparent_whole", ("move",), "v4.14", _WHOLE, _WHOLE_COMMIT),
    Difference(
        "huge_pages:transparent_mbind_of_a_part", ("(migrations)",), "v4.14", _WHOLE, "c8633798497c"
    ),
    Difference("huge_pages:transparent_forked", ("(migrations)",), "v4.14", _WHOLE, _WHOLE_COMMIT),
    Difference(
        "mbind:modes_that_do_not_exist",
        ("5",),
        "v5.15",
        "mode 5 is MPOL_PREFERRED_MANY, which the model does not have",
        "b27abaccf8e8",
    ),
    Difference(
        "mbind:modes_that_do_not_exist",
        ("6",),
        "v6.9",
        "mode 6 is MPOL_WEIGHTED_INTERLEAVE, which the model does not have",
        "fa3bea4e1f82",
    ),
    Difference(
        "page_kinds:file_on_xfs",
        ("move",),
        "v5.18",
        "xfs has large folios, which move as a whole and cannot be isolated twice",
        "6795801366da",
    ),
)


def find(case: str, release: str) -> list[Difference]:
    """The rows for a case on a kernel of @release, such as "v6.1"."""
    return [row for row in TABLE if row.concerns(case, release)]
