"""Merged pages, their nodes in the trees, and the addresses that have them."""

from __future__ import annotations

from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.ksm import StableNode
from mmigrate.linux.include.mm_types import Page


def ksm(view: View) -> Iterator[Violation]:
    """A node in a tree names a page that names it, or is stale; an item that claims a node is in
    its list, and holds an anon_vma; the counters are as many."""
    state = view.kernel.ksm
    nodes: dict[int, StableNode] = {}
    for tree in (*state.root_stable_tree, state.migrate_nodes):
        for node in tree:
            if node.number in nodes:
                yield _wrong(repr(node), "twice in the trees")
            nodes[node.number] = node
    items = {
        id(item): item for slot in state.mm_list for item in slot.rmap_list if item.head is not None
    }
    listed = [item for node in nodes.values() for item in node.hlist]
    for node in nodes.values():
        for item in node.hlist:
            if item.head is not node:
                yield _wrong(repr(item), f"in the list of {node!r}, claims {item.head!r}")
    for item in items.values():
        if item.head is None or item.head.number not in nodes:
            yield _wrong(repr(item), f"claims {item.head!r}, which is in no tree")
        elif not any(item is other for other in item.head.hlist):
            yield _wrong(repr(item), f"claims {item.head!r}, which does not list it")
        if item.anon_vma is None:
            yield _wrong(repr(item), "merged, without a reference on an anon_vma")
    for page in view.used:
        if isinstance(page.mapping, StableNode):
            yield from _page(page, page.mapping, nodes)
    shared = sharing = unshared = scanned = 0
    for node in nodes.values():
        if node.hlist:
            shared += 1
            sharing += len(node.hlist) - 1
    for slot in state.mm_list:
        scanned += len(slot.rmap_list)
        for item in slot.rmap_list:
            unshared += item.unstable
    for name, counted, found in (
        ("pages_shared", state.pages_shared, shared),
        ("pages_sharing", state.pages_sharing, sharing),
        ("pages_unshared", state.pages_unshared, unshared),
        ("rmap_items", state.rmap_items, scanned),
    ):
        if counted != found:
            yield _wrong("counters", f"{name} {counted}, found {found}")
    if len(listed) != len(items):
        yield _wrong("trees", f"{len(listed)} items listed, {len(items)} claim a node")


def _page(page: Page, node: StableNode, nodes: dict[int, StableNode]) -> Iterator[Violation]:
    if node.kpfn < 0:
        return  # made a KSM page, and its twin changed before they were one
    if nodes.get(node.number) is not node:
        yield _wrong(repr(page), f"names {node!r}, which is in no tree")
    elif node.kpfn != page.pfn:
        yield _wrong(repr(page), f"names {node!r}, which names pfn {node.kpfn}")


def _wrong(subject: str, what: str) -> Violation:
    return Violation("ksm", subject, what)
