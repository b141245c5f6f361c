"""Arguments are read the same way for modelled and real processes."""

import pytest

from mmigrate import PAGE_SIZE, Mapping, ScenarioError
from mmigrate.arguments import (
    by_page,
    length_of,
    mask_of,
    natural,
    node_mask,
    nodes_of,
    policy_mode,
    protection,
    range_of,
    whole_pages,
)
from mmigrate.linux.include import mempolicy, mm
from mmigrate.real import kernel_abi
from mmigrate.real.node_masks import mask_words, nodes_in


def test_words_are_the_numbers_of_the_kernel():
    for numbers in (mm, kernel_abi):
        assert protection("rx") == numbers.PROT_READ | numbers.PROT_EXEC
    assert protection("-") == protection("") == 0
    assert protection(7) == 7
    assert policy_mode("bind=static") == mempolicy.MPOL_BIND | mempolicy.MPOL_F_STATIC_NODES
    assert policy_mode("interleave relative") == (
        mempolicy.MPOL_INTERLEAVE | mempolicy.MPOL_F_RELATIVE_NODES
    )
    assert policy_mode("preferred") == policy_mode("prefer") == mempolicy.MPOL_PREFERRED


def test_ranges_go_page_by_page():
    assert list(by_page(PAGE_SIZE - 2, 5)) == [(PAGE_SIZE - 2, 0, 2), (PAGE_SIZE, 2, 3)]
    assert list(by_page(PAGE_SIZE, 0)) == []
    assert range_of(Mapping(8192, 4096), None) == range_of(8192, 4096) == range_of(8192, None)
    assert length_of(None, 3) == 3 * PAGE_SIZE
    assert whole_pages(1) == PAGE_SIZE


def test_node_masks():
    assert node_mask([0, 70], None) == (1 | 1 << 70, 72)
    assert nodes_of(mask_of([3, 1])) == (1, 3)
    words, bits = mask_words([0, 70], None)
    assert (len(words), bits, nodes_in(words)) == (16, 72, (0, 70))
    assert mask_words([], 1 << 40)[0] == bytes(8192)


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        (length_of, (None, None), "either a length in bytes or pages="),
        (length_of, (4096, 1), "either a length in bytes or pages="),
        (natural, (-1, "an address"), "-1 is not an address"),
        (natural, (1 << 64, "a length"), "is not a length"),
        (protection, ("q",), 'prot is "q"'),
        (policy_mode, ("",), 'no policy is called ""'),
        (policy_mode, ("bind=loose",), 'no policy is called "bind=loose"'),
        (mask_of, ([-2],), "-2 is not a node"),
    ],
)
def test_what_cannot_be(function, arguments, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        function(*arguments)
