"""Pairs and triples of operations on plain v3.19, searched as far as asked.

In `make test` each pair with migration is searched for a few executions. By hand:

    RACES=100000 nice .venv/bin/pytest tests/races/test_operations.py          all pairs, to the end
    RACES=5000 TRIPLES=1 nice .venv/bin/pytest tests/races/test_operations.py  triples as well

Every finding is a bug of the model, or a defect of v3.19. The latter are known here by the
later commit that cures them: with it the same program must be clean.
"""

import itertools
import os

import pytest

from mmigrate import MiB
from mmigrate.explore import explore
from tests.races.operations import KINDS, operations_of, program

MACHINE = {"nodes": (MiB(4), MiB(4)), "cpus": (0, 0, 0)}
MAX = int(os.environ.get("RACES", "12"))

MUNLOCK = "70feee0e1ef3"
MREMAP = "eb66ae030829"


def known(kind, operations):
    """The commits after v3.19 that a program needs to be clean."""
    found = []
    lets_go = {"munlock", "munmap", "exit", "take_all_rights", "mremap", "swap_out"}
    if (kind == "locked" or "mlock" in operations) and lets_go & set(operations):
        found.append(MUNLOCK)
    if "mremap" in operations and {"store", "write"} & set(operations):
        found.append(MREMAP)
    return found


def check(kind, operations):
    scenario = program(kind, operations)
    result = explore(scenario, machine=MACHINE, max_executions=MAX)
    if result.found and known(kind, operations):
        result = explore(
            scenario, machine=MACHINE, max_executions=MAX, backports=known(kind, operations)
        )
    assert not result.found, f"{scenario.__name__}: {result.violation}"


PAIRS = [
    (kind, ("migrate", other))
    for kind in KINDS
    for other in operations_of(kind)
    if other != "migrate"
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_with_migration(kind):
    for _, operations in (pair for pair in PAIRS if pair[0] == kind):
        check(kind, operations)


if "TRIPLES" in os.environ:

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("second", sorted({name for _, (_, name) in PAIRS}))
    def test_triples_with_migration(kind, second):
        for third in operations_of(kind):
            if second in operations_of(kind) and second < third and third != "migrate":
                check(kind, ("migrate", *sorted((second, third), key=lambda n: n == "store")))


def test_every_operation_is_used():
    """And the ones that cannot be in a pair with migration would be dead code."""
    used = set(itertools.chain.from_iterable(operations for _, operations in PAIRS))
    assert used == {name for kind in KINDS for name in operations_of(kind)}
