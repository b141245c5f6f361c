"""Node sets in numactl's notation, and policies in the kernel's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate.errors import UsageError
from mmigrate.snapshot.nodeset import Policy, describe, parse_list, parse_nodes, parse_policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0,)),
        ("0-1", (0, 1)),
        ("4,0,2-4", (0, 2, 3, 4)),
        ("all", (0, 2, 3)),
        ("!0", (2, 3)),
        ("!2-3", (0,)),
        ("+0", (0,)),
        ("+1-2", (2, 3)),
        ("!+1", (0, 3)),
    ],
)
def test_node_sets(text: str, expected: tuple[int, ...]) -> None:
    assert parse_nodes(text, (0, 1, 2, 3, 4), allowed=(0, 2, 3)) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not a set of nodes; write 0, 0-1, 0,2-3, all, !0 or +0"),
        ("one", "'one' is not a set of nodes; write 0, 0-1, 0,2-3, all, !0 or +0"),
        ("1-0", "'1-0' is not a set of nodes; write 0, 0-1, 0,2-3, all, !0 or +0"),
        ("7", "node 7 does not exist; there are nodes 0-1"),
        ("!7", "node 7 does not exist; there are nodes 0-1"),
        ("!all", "'!all' leaves no node; there are nodes 0-1"),
        ("+5", "'+5' asks for node 5 counted from 0, and only 2 may be used"),
    ],
)
def test_nonsense_is_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_nodes(text, (0, 1))
    assert str(caught.value) == complaint


@given(st.text(alphabet="0123456789,-!+al", max_size=20) | st.text(max_size=20))
def test_any_text_gives_nodes_or_a_usage_error(text: str) -> None:
    complaint = ""
    chosen: tuple[int, ...] = ()
    try:
        chosen = parse_nodes(text, (0, 1, 5))
    except UsageError as error:
        complaint = str(error)
    assert bool(chosen) != bool(complaint)
    assert set(chosen) <= {0, 1, 5}
    assert complaint.isprintable()


def test_policies() -> None:
    assert parse_policy("default") == Policy("default", "", ())
    assert parse_policy("bind=static:0-1,3") == Policy("bind", "static", (0, 1, 3))
    assert parse_policy("prefer (many):2") == Policy("prefer (many)", "", (2,))
    with pytest.raises(ValueError, match="not a policy"):
        parse_policy("0-3")


def test_a_hostile_range_is_not_expanded() -> None:
    with pytest.raises(ValueError, match="not a range"):
        parse_list("0-99999")


@given(st.sets(st.integers(0, 40), min_size=1))
def test_describe_is_what_parse_reads(nodes: set[int]) -> None:
    words = describe(tuple(nodes)).split(" ")
    assert parse_list(words[1]) == tuple(sorted(nodes))
