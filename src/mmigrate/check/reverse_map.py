"""From a page, every pte that maps it is found, and no area that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmigrate.check.ptes import area_at
from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.ksm import StableNode
from mmigrate.linux.include.mm import VM_MERGEABLE, VM_NONLINEAR
from mmigrate.linux.include.mm_types import AddressSpace, AnonVma, Page, Vma
from mmigrate.linux.include.pgtable import PAGE_SHIFT
from mmigrate.linux.lib.interval_tree import overlapping
from mmigrate.linux.mm import rmap


def reverse_map(view: View) -> Iterator[Violation]:
    for pfn, places in view.mapped.items():
        page = view.kernel.page_of(pfn)
        for mm, address, _ in places:
            vma = area_at(mm, address)
            if vma is not None and not _found(page, vma, address):
                yield Violation(
                    "reverse map",
                    repr(page),
                    f"mapped in {vma!r} at {address:#x}, which a walk from {page.mapping!r} "
                    f"at offset {page.index} does not visit",
                )
    living: set[int] = set()
    for mm in view.kernel.mms:
        living.update(map(id, mm.mmap))
    for anon_vma in view.kernel.anon_vmas.values():
        for chain in anon_vma.rb_root:
            if id(chain.vma) not in living:
                yield Violation("reverse map", repr(anon_vma), f"still has {chain.vma!r}")
    for mapping in view.mappings:
        for vma in (*mapping.i_mmap, *mapping.i_mmap_nonlinear):
            if id(vma) not in living:
                yield Violation("reverse map", repr(mapping), f"still has {vma!r}")
    for mm in view.kernel.mms:
        for vma in mm.mmap:
            if vma.anon_vma_chain or vma.vm_file is not None:
                yield from _linked(vma)


def _found(page: Page, vma: Vma, address: int) -> bool:
    mapping: Any = page.mapping
    if isinstance(mapping, StableNode):
        return not vma.vm_flags & VM_MERGEABLE or any(
            item.address == address
            and item.anon_vma is not None
            and (
                any(chain.vma is vma for chain in item.anon_vma.rb_root)
                or _merged_in_child(vma, item.anon_vma)
            )
            for item in mapping.hlist
        )
    offset = rmap.page_to_pgoff(page)
    if isinstance(mapping, AnonVma):
        areas = [chain.vma for chain in overlapping(mapping.rb_root, offset, offset)]
    elif isinstance(mapping, AddressSpace):
        if vma.vm_flags & VM_NONLINEAR:
            return vma in mapping.i_mmap_nonlinear
        areas = overlapping(mapping.i_mmap, offset, offset)
    else:
        return False
    linear = vma.vm_start + ((offset - vma.vm_pgoff) << PAGE_SHIFT)
    return linear == address and vma in areas


def _merged_in_child(vma: Vma, anon_vma: AnonVma) -> bool:
    """No kernel finds the ptes of a parent when its child merged the page that they shared: a walk
    begins at the child's anon_vma.  Such a page does not move; nothing else comes of it."""
    return vma.anon_vma is not None and vma.anon_vma.root is anon_vma.root


def _linked(vma: Vma) -> Iterator[Violation]:
    """The area is in every tree it should be in, under its present offsets."""
    first, last = vma.interval()
    for chain in vma.anon_vma_chain:
        if chain not in overlapping(chain.anon_vma.rb_root, first, last):
            yield Violation("reverse map", repr(vma), f"not in the tree of {chain.anon_vma!r}")
    if vma.vm_file is not None:
        mapping = vma.vm_file.f_mapping
        areas = (
            mapping.i_mmap_nonlinear
            if vma.vm_flags & VM_NONLINEAR
            else overlapping(mapping.i_mmap, first, last)
        )
        if vma not in areas:
            yield Violation("reverse map", repr(vma), f"not in the tree of {mapping!r}")
