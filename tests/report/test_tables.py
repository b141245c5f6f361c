"""The tables for people: what stands in them, at two widths of a terminal."""

from dataclasses import dataclass

import pytest
from rich.console import Console

from mmigrate.report.catalogue import catalogue_table
from mmigrate.report.interleaving import interleaving_table


@dataclass
class Step:
    number: int
    task: str
    function: str
    primitive: str
    word: str
    writes: bool
    old: str
    new: str


@dataclass
class Line:
    commit: str
    title: str
    kind: str
    state: str
    without: str
    fixed: str
    more: tuple = ()


STEPS = [
    Step(1, "mover", "lock", "spin_lock", "lock owner", True, "None", "mover"),
    Step(2, "mover", "look", "page_count", "pfn 1 _count", False, "1", "1"),
    Step(3, "mover", "look", "page_count", "pfn 2 _count", False, "1", "1"),
    Step(4, "mover", "look", "page_count", "pfn 3 _count", False, "1", "1"),
    Step(5, "mover", "unlock", "__exit__", "lock owner", True, "mover", "None"),
    Step(6, "writer", "store", "set_pte_at", "table 4 entry 7", True, "empty", "pfn 1 rw"),
    Step(7, "mover", "walk", "ptep_get", "table 4 entry 7", False, "pfn 1 rw", "pfn 1 rw"),
]


def shown(renderable, width):
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def table(width, **options):
    return shown(
        interleaving_table(
            STEPS, ("mover", "writer"), ["oracle: x"], "Why.", "mmigrate replay f", **options
        ),
        width,
    )


def test_steps_that_several_tasks_have_in_common():
    assert (
        table(120)
        == """\
violation at step 7: oracle: x

step  mover            writer             word
   1  lock: spin_lock                     lock owner: None → mover
      … 3 more
   5  unlock: release                     lock owner: mover → None
   6                   store: set_pte_at  table 4 entry 7: empty → pfn 1 rw
   7  walk: ptep_get                      table 4 entry 7 = pfn 1 rw

Why.
repeat with: mmigrate replay f"""
    )


def test_all_steps():
    lines = table(120, everything=True).splitlines()
    assert [line.split()[0] for line in lines[3:10]] == list("1234567")


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_folds_and_loses_nothing(width):
    text = table(width)
    assert max(map(len, text.splitlines())) <= width
    assert "".join(["table", "4", "entry", "7:", "empty"]) in "".join(text.split())


def test_nothing_was_violated():
    text = shown(interleaving_table(STEPS, ("mover", "writer"), [], "Why.", "x"), 80)
    assert text.startswith("no violation")


def test_the_catalogue():
    part = Line("1", "t", "state", "WRONG", "n", "y")
    lines = [
        Line("0123456789ab", "mm: [x] fix", "race", "verified", "found", "clean", (part,)),
        Line("ba9876543210", "hugetlb: y", "none", "not yet there", "same", "same"),
    ]
    assert (
        shown(catalogue_table(lines), 80)
        == """\
0123456789ab   mm: [x] fix
verified       without: found
race           with:    clean
and WRONG      without: n
state          with:    y

ba9876543210   hugetlb: y
not yet there  without: same
none           with:    same
"""
    )
