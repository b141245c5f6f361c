"""Pairs and triples of operations on plain v3.19, searched as far as asked.

In `make test` each pair with migration is searched for a few executions, and some of the pairs
with whoever else moves pages. By hand:

    RACES=100000 nice .venv/bin/pytest tests/races/test_operations.py          all pairs, to the end
    RACES=5000 NEW=1 nice .venv/bin/pytest tests/races/test_operations.py      the new ones too
    RACES=5000 TRIPLES=1 nice .venv/bin/pytest tests/races/test_operations.py  triples as well

Every finding is a bug of the model, or a defect of v3.19. The latter are known here by the
later commit that cures them: with it the same program must be clean.
"""

import itertools
import os

import pytest

from mmigrate import MiB
from mmigrate.explore import explore
from tests.races.operations import KINDS, OPERATIONS, new_operations_of, operations_of, program

LARGE = ("huge", "collapsible", "of_hugetlb")
NEW_KINDS = (*LARGE, "marked", "grouped", "ballooned", "alike", "merged")
MAX = int(os.environ.get("RACES", "12"))

MUNLOCK = "70feee0e1ef3"
MREMAP = "eb66ae030829"
SECOND_LOOK = "second-look-lets-go"
HUGETLB = (
    "e66f17ff7177",
    "0f792cf949a0",
    "a8bda28d87c3",
    "9fbc1f635fd0",
    "4e666314d286",
    "bcc54222309c",
)


def machine(kind):
    """Three blocks a node at least, without which compaction has nowhere to go."""
    size = MiB(12) if kind in LARGE else MiB(8)
    return {"nodes": (size, size), "cpus": (0, 0, 0, 1), "numa_balancing": kind == "marked"}


def known(kind, operations):
    """The commits after v3.19 that a program needs to be clean."""
    found = []
    lets_go = {"munlock", "munmap", "exit", "take_all_rights", "mremap", "swap_out"}
    if (kind == "locked" or "mlock" in operations) and lets_go & set(operations):
        found.append(MUNLOCK)
    if "mremap" in operations and {"store", "write"} & set(operations):
        found.append(MREMAP)
    if "soft_offline" in operations:
        found.append(SECOND_LOOK)
    if kind == "of_hugetlb":
        found += HUGETLB
    return found


def check(kind, operations, most=MAX):
    scenario = program(kind, operations)
    options = {"machine": machine(kind), "max_executions": most, "minimise": False}
    result = explore(scenario, **options)
    if result.found and known(kind, operations):
        result = explore(scenario, backports=known(kind, operations), **options)
    found = str(result.violation)
    if "soft_offline" in operations and found.startswith("frames"):
        return  # a bad page takes the free block with it that it is in: v3.19 and later
    if "merge" in operations and found.startswith("reverse map"):
        return  # ksmd forgets an address at which it meets a migration, until its next scan
    assert not result.found, f"{scenario.__name__}: {result.violation}"


PAIRS = [
    (kind, ("migrate", other))
    for kind in KINDS
    if kind not in NEW_KINDS
    for other in operations_of(kind)
    if other != "migrate"
]


def _new_pairs(kind):
    """Migration and everything new with each other and with everything old."""
    new = new_operations_of(kind)
    old = [name for name in operations_of(kind) if name != "migrate"]
    others = (old + new) if kind in NEW_KINDS else new
    pairs = [("migrate", other) for other in others]
    pairs += itertools.product(new, old)
    pairs += itertools.combinations_with_replacement(new, 2)
    return [pair for pair in pairs if pair != ("child_exits", "child_exits")]


NEW_PAIRS = [(kind, pair) for kind in KINDS for pair in _new_pairs(kind)]
# A prime step, so that each operation and each kind has its turn.
SOME = NEW_PAIRS if "NEW" in os.environ else NEW_PAIRS[::13]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NEW_KINDS])
def test_pairs_with_migration(kind):
    for _, operations in (pair for pair in PAIRS if pair[0] == kind):
        check(kind, operations)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_of_whoever_moves_pages(kind):
    for _, operations in (pair for pair in SOME if pair[0] == kind):
        check(kind, operations, MAX if "NEW" in os.environ else 4)


def test_who_waited_for_a_page_lets_go_of_it_when_it_is_bad_already():
    """Which no oracle takes for a page that is free and not clean."""
    check("grouped", ("soft_offline", "read"), 60)


@pytest.mark.slow
def test_runs_that_are_given_up_leave_nothing_to_later_ones():
    """The stack of a task that had not begun was given to two others, in execution 344."""
    check("swap_cache", ("migrate", "swap_out", "write"), 400)


if "TRIPLES" in os.environ:

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NEW_KINDS])
    @pytest.mark.parametrize("second", sorted({name for _, (_, name) in PAIRS}))
    def test_triples_with_migration(kind, second):
        for third in operations_of(kind):
            if second in operations_of(kind) and second < third and third != "migrate":
                check(kind, ("migrate", *sorted((second, third), key=lambda n: n == "store")))


def test_every_operation_is_used():
    """And the ones that cannot be in a pair with migration would be dead code."""
    used = set(itertools.chain.from_iterable(operations for _, operations in PAIRS + NEW_PAIRS))
    assert used == set(OPERATIONS)
