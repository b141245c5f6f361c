"""One area and its neighbours: finding, linking, moving bounds, merging, splitting  (mm/mmap.c,
since v6.11 mm/vma.c).

Rules:
* `mm.mmap` is sorted by address and `mm.starts[i] == mm.mmap[i].vm_start`; both change only
  here and in `mmap.py`, under mmap_sem for write (growth of a stack: for read, and the
  anon_vma's lock).
* Bounds of an area are keys of the reverse maps: an area leaves its trees, changes, and
  enters them again, all under i_mmap_rwsem and the anon_vma's lock.
* Locks are taken in the order mmap_sem, i_mmap_rwsem, anon_vma, page_table_lock.
"""

from __future__ import annotations

from bisect import bisect_right
from errno import EINVAL, ENOMEM
from typing import Final

from mmigrate.linux.include.hugetlb import hstate_vma
from mmigrate.linux.include.mempolicy import Mempolicy
from mmigrate.linux.include.mm import (
    VM_EXEC,
    VM_HUGETLB,
    VM_NONLINEAR,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_SPECIAL,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import AddressSpace, AnonVma, File, Mm, Vma
from mmigrate.linux.include.pgtable import (
    PAGE_COPY,
    PAGE_COPY_EXEC,
    PAGE_NONE,
    PAGE_READONLY,
    PAGE_READONLY_EXEC,
    PAGE_SHARED,
    PAGE_SHARED_EXEC,
    PAGE_SHIFT,
)
from mmigrate.linux.kernel.atomic import WRITE_ONCE, atomic_dec, atomic_inc
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.rwsem import down_write, up_write
from mmigrate.linux.kernel.straight import small
from mmigrate.linux.mm import huge_split, khugepaged, mempolicy, rmap

sysctl_max_map_count: Final[int] = 65530

# By the bits VM_READ, VM_WRITE, VM_EXEC, VM_SHARED.
protection_map: Final = (
    PAGE_NONE,
    PAGE_READONLY,
    PAGE_COPY,
    PAGE_COPY,
    PAGE_READONLY_EXEC,
    PAGE_READONLY_EXEC,
    PAGE_COPY_EXEC,
    PAGE_COPY_EXEC,
    PAGE_NONE,
    PAGE_READONLY,
    PAGE_SHARED,
    PAGE_SHARED,
    PAGE_READONLY_EXEC,
    PAGE_READONLY_EXEC,
    PAGE_SHARED_EXEC,
    PAGE_SHARED_EXEC,
)


def vma_pages(vma: Vma) -> int:
    return (vma.vm_end - vma.vm_start) >> PAGE_SHIFT


# --- protection ---


def vm_get_page_prot(vm_flags: int) -> int:
    """The protection of ptes in an area with these flags  (mm/mmap.c: vm_get_page_prot)."""
    return protection_map[vm_flags & (VM_READ | VM_WRITE | VM_EXEC | VM_SHARED)]


def mapping_cap_account_dirty(mapping: AddressSpace) -> bool:
    return mapping.backing_dev_info.accounts_dirty


def vma_wants_writenotify(vma: Vma) -> bool:
    """Whether the first store to each page must fault, although the area is writable and
    shared: somebody counts dirty pages, or wants to be told
    (mm/mmap.c: vma_wants_writenotify)."""
    vm_flags = vma.vm_flags
    if vm_flags & (VM_WRITE | VM_SHARED) != VM_WRITE | VM_SHARED:
        return False  # no write bit to begin with
    if vma.vm_ops is not None and vma.vm_ops.page_mkwrite is not None:
        return True
    # A driver may have chosen the protection itself. mprotect gets here before it has
    # brought vm_page_prot up to date, and so gets this answer where it need not.
    if vma.vm_page_prot != vm_get_page_prot(vm_flags):
        return False
    if not vm_flags & VM_SOFTDIRTY:
        return True
    if vm_flags & VM_PFNMAP:
        return False
    return vma.vm_file is not None and mapping_cap_account_dirty(vma.vm_file.f_mapping)


def vma_set_page_prot(vma: Vma) -> None:
    """Bring vm_page_prot in line with vm_flags  (mm/mmap.c: vma_set_page_prot).

    Walks of the reverse map may see the first of its two stores.
    """
    vm_flags = vma.vm_flags
    WRITE_ONCE(vma, "vm_page_prot", vm_get_page_prot(vm_flags))
    if vma_wants_writenotify(vma):
        WRITE_ONCE(vma, "vm_page_prot", vm_get_page_prot(vm_flags & ~VM_SHARED))


# --- finding ---


@small
def find_vma(mm: Mm, addr: int) -> Vma | None:
    """The first area that ends above @addr; it may begin above it too
    (mm/mmap.c: find_vma)."""
    areas = mm.mmap
    position = bisect_right(mm.starts, addr)
    if position and areas[position - 1].vm_end > addr:
        return areas[position - 1]
    return areas[position] if position < len(areas) else None


def find_vma_prev(mm: Mm, addr: int) -> tuple[Vma | None, Vma | None]:
    """(find_vma, the area before it)  (mm/mmap.c: find_vma_prev)."""
    vma = find_vma(mm, addr)
    if vma is not None:
        return vma, vma_prev(vma)
    return None, mm.mmap[-1] if mm.mmap else None


def find_vma_intersection(mm: Mm, start: int, end: int) -> Vma | None:
    """The first area that has an address from @start to below @end."""
    vma = find_vma(mm, start)
    return None if vma is None or vma.vm_start >= end else vma


def vma_position(vma: Vma) -> int:
    position = bisect_right(vma.vm_mm.starts, vma.vm_start) - 1
    BUG_ON(vma.vm_mm.mmap[position] is not vma, "not among the areas of its mm", vma)
    return position


def vma_next(vma: Vma) -> Vma | None:
    """The area above  (vma->vm_next)."""
    areas = vma.vm_mm.mmap
    position = vma_position(vma) + 1
    return areas[position] if position < len(areas) else None


def vma_prev(vma: Vma) -> Vma | None:
    """The area below  (vma->vm_prev)."""
    position = vma_position(vma)
    return vma.vm_mm.mmap[position - 1] if position else None


def area_below(mm: Mm, addr: int) -> Vma | None:
    """The last area that begins below @addr."""
    position = bisect_right(mm.starts, addr - 1)
    return mm.mmap[position - 1] if position else None


# --- linking ---


def _insert_area(mm: Mm, vma: Vma) -> None:
    """Put @vma in its place among the areas  (mm/mmap.c: __vma_link)."""
    position = bisect_right(mm.starts, vma.vm_start)
    mm.mmap.insert(position, vma)
    mm.starts.insert(position, vma.vm_start)


def __vma_link_file(vma: Vma) -> None:
    """Enter the file's tree; i_mmap_rwsem is held for write  (mm/mmap.c: __vma_link_file)."""
    if vma.vm_file is None:
        return
    mapping = vma.vm_file.f_mapping
    if vma.vm_flags & VM_SHARED:
        atomic_inc(mapping, "i_mmap_writable")
    if vma.vm_flags & VM_NONLINEAR:
        mapping.i_mmap_nonlinear.append(vma)
    else:
        mapping.i_mmap.insert(vma)


def __remove_shared_vm_struct(vma: Vma, mapping: AddressSpace) -> None:
    """Leave the file's tree; i_mmap_rwsem is held for write
    (mm/mmap.c: __remove_shared_vm_struct)."""
    if vma.vm_flags & VM_SHARED:
        atomic_dec(mapping, "i_mmap_writable")
    if vma.vm_flags & VM_NONLINEAR:
        mapping.i_mmap_nonlinear.remove(vma)
    else:
        mapping.i_mmap.remove(vma)


def unlink_file_vma(vma: Vma) -> None:
    """No walk of the file's reverse map shall find @vma any more
    (mm/mmap.c: unlink_file_vma)."""
    if vma.vm_file is not None:
        mapping = vma.vm_file.f_mapping
        with down_write(mapping.i_mmap_rwsem):
            __remove_shared_vm_struct(vma, mapping)


def vma_link(mm: Mm, vma: Vma) -> None:
    """Make a new area part of its mm and of its file's tree  (mm/mmap.c: vma_link)."""
    if vma.vm_file is not None:
        with down_write(vma.vm_file.f_mapping.i_mmap_rwsem):
            _insert_area(mm, vma)
            __vma_link_file(vma)
    else:
        _insert_area(mm, vma)
    mm.map_count += 1


def insert_vm_struct(mm: Mm, vma: Vma) -> int:
    """Link an area where nothing is mapped yet.  0 or -ENOMEM
    (mm/mmap.c: insert_vm_struct)."""
    if vma.vm_file is None:
        vma.vm_pgoff = vma.vm_start >> PAGE_SHIFT
    if find_vma_intersection(mm, vma.vm_start, vma.vm_end) is not None:
        return -ENOMEM
    vma_link(mm, vma)
    return 0


def copy_vm_area_struct(mm: Mm, vma: Vma) -> Vma:
    """A twin of @vma for @mm, in no tree and with no policy yet; its anon_vma is still
    @vma's."""
    new = Vma(mm, vma.vm_start, vma.vm_end, vma.vm_flags, vma.vm_page_prot, vma.vm_pgoff)
    new.vm_ops = vma.vm_ops
    new.vm_file = vma.vm_file
    new.vm_private_data = vma.vm_private_data
    new.anon_vma = vma.anon_vma
    return new


# --- moving bounds ---


def vma_adjust(vma: Vma, start: int, end: int, pgoff: int, insert: Vma | None) -> int:
    """Give @vma new bounds, at the cost of its successor or in favour of @insert, the other
    half of a split.  0 or -ENOMEM  (mm/mmap.c: vma_adjust).

    Swallows up to two successors, or shifts the border to the next. No walk of a reverse
    map sees a state in between.
    """
    wanted_end = end
    while True:
        following = None if insert is not None else vma_next(vma)
        swallowed: Vma | None = None
        importer: Vma | None = None
        exporter: Vma | None = None
        shift = 0  # pages by which the border to the next area goes up
        end = wanted_end
        if following is not None:
            if end >= following.vm_end:
                swallowed = following
                end = following.vm_end
                exporter, importer = following, vma
            elif end > following.vm_start:
                shift = (end - following.vm_start) >> PAGE_SHIFT
                exporter, importer = following, vma
            elif end < vma.vm_end:
                shift = -((vma.vm_end - end) >> PAGE_SHIFT)
                exporter, importer = vma, following
        # Who takes over pages must be found from them, before he has them.
        if exporter is not None and importer is not None:
            if exporter.anon_vma is not None and importer.anon_vma is None:
                importer.anon_vma = exporter.anon_vma
                error = rmap.anon_vma_clone(importer, exporter)
                if error:
                    return error
        huge_split.vma_adjust_trans_huge(vma, start, end, following, shift)
        shifted = following if shift else None
        _change_bounds(vma, start, end, pgoff, shifted, shift, swallowed, insert)
        if swallowed is not None:
            if swallowed.anon_vma is not None:
                BUG_ON(vma.anon_vma is not swallowed.anon_vma, "merged into a stranger", swallowed)
                rmap.unlink_anon_vmas(swallowed)
            vma.vm_mm.map_count -= 1
            mempolicy.mpol_put(swallowed.vm_policy)
            if wanted_end > end:
                continue  # and the one behind it
        return 0


def _change_bounds(
    vma: Vma,
    start: int,
    end: int,
    pgoff: int,
    shifted: Vma | None,
    shift: int,
    swallowed: Vma | None,
    insert: Vma | None,
) -> None:
    """The part of vma_adjust that holds the locks of the reverse maps."""
    mm = vma.vm_mm
    mapping = None if vma.vm_file is None else vma.vm_file.f_mapping
    in_tree = mapping is not None and not vma.vm_flags & VM_NONLINEAR
    if mapping is not None:
        down_write(mapping.i_mmap_rwsem)
        if insert is not None:
            # Before the pages change hands: truncation walks by offset, and must meet
            # each page in one of the two.
            __vma_link_file(insert)
    anon_vma = vma.anon_vma
    if anon_vma is None and shifted is not None:
        anon_vma = shifted.anon_vma
    if anon_vma is not None:
        rmap.anon_vma_lock_write(anon_vma)
        anon_vma_interval_tree_pre_update_vma(vma)
        if shifted is not None:
            anon_vma_interval_tree_pre_update_vma(shifted)
    if mapping is not None and in_tree:
        mapping.i_mmap.remove(vma)
        if shifted is not None:
            mapping.i_mmap.remove(shifted)

    position = vma_position(vma)
    vma.vm_start = mm.starts[position] = start
    vma.vm_end = end
    vma.vm_pgoff = pgoff
    if shifted is not None:
        shifted.vm_start += shift << PAGE_SHIFT
        mm.starts[position + 1] = shifted.vm_start
        shifted.vm_pgoff += shift

    if mapping is not None and in_tree:
        if shifted is not None:
            mapping.i_mmap.insert(shifted)
        mapping.i_mmap.insert(vma)
    if swallowed is not None:
        del mm.mmap[position + 1], mm.starts[position + 1]
        if mapping is not None:
            __remove_shared_vm_struct(swallowed, mapping)
    elif insert is not None:
        _insert_area(mm, insert)
        mm.map_count += 1
    if anon_vma is not None:
        anon_vma_interval_tree_post_update_vma(vma)
        if shifted is not None:
            anon_vma_interval_tree_post_update_vma(shifted)
        rmap.anon_vma_unlock_write(anon_vma)
    if mapping is not None:
        up_write(mapping.i_mmap_rwsem)


def anon_vma_interval_tree_pre_update_vma(vma: Vma) -> None:
    """mm/mmap.c: anon_vma_interval_tree_pre_update_vma."""
    for chain in vma.anon_vma_chain:
        chain.anon_vma.rb_root.remove(chain)


def anon_vma_interval_tree_post_update_vma(vma: Vma) -> None:
    """mm/mmap.c: anon_vma_interval_tree_post_update_vma."""
    for chain in vma.anon_vma_chain:
        chain.anon_vma.rb_root.insert(chain)


# --- merging ---


def is_mergeable_vma(vma: Vma, file: File | None, vm_flags: int) -> bool:
    """Whether a range with these properties could be part of @vma, wherever it is
    (mm/mmap.c: is_mergeable_vma)."""
    return (
        not (vma.vm_flags ^ vm_flags) & ~VM_SOFTDIRTY
        and vma.vm_file is file
        and not (vma.vm_ops is not None and vma.vm_ops.close is not None)
    )


def is_mergeable_anon_vma(
    anon_vma1: AnonVma | None, anon_vma2: AnonVma | None, vma: Vma | None
) -> bool:
    """Whether pages of both may live in one area  (mm/mmap.c: is_mergeable_anon_vma).

    An area that came from fork and is linked to many anon_vmas does not take in a
    neighbour without any: every further fork would make the chains longer.
    """
    if anon_vma1 is None or anon_vma2 is None:
        if vma is None or len(vma.anon_vma_chain) == 1:
            return True
    return anon_vma1 is anon_vma2


def can_vma_merge_before(
    vma: Vma, vm_flags: int, anon_vma: AnonVma | None, file: File | None, vm_pgoff: int
) -> bool:
    """Whether a range could be put in front of @vma; @vm_pgoff: of the range's end
    (mm/mmap.c: can_vma_merge_before)."""
    return (
        is_mergeable_vma(vma, file, vm_flags)
        and is_mergeable_anon_vma(anon_vma, vma.anon_vma, vma)
        and vma.vm_pgoff == vm_pgoff
    )


def can_vma_merge_after(
    vma: Vma, vm_flags: int, anon_vma: AnonVma | None, file: File | None, vm_pgoff: int
) -> bool:
    """Whether a range could be put behind @vma  (mm/mmap.c: can_vma_merge_after)."""
    return (
        is_mergeable_vma(vma, file, vm_flags)
        and is_mergeable_anon_vma(anon_vma, vma.anon_vma, vma)
        and vma.vm_pgoff + vma_pages(vma) == vm_pgoff
    )


def vma_merge(
    mm: Mm,
    prev: Vma | None,
    addr: int,
    end: int,
    vm_flags: int,
    anon_vma: AnonVma | None,
    file: File | None,
    pgoff: int,
    policy: Mempolicy | None,
) -> Vma | None:
    """Make @addr..@end, which is to have these properties, part of a neighbour; that area,
    or None if none is fit  (mm/mmap.c: vma_merge).

    The range x is free (mmap, brk, mremap; @prev is the area P below it) or part of an area
    A (mprotect and its like; @prev is P if x begins A, else A). N is what lies above:

        P[x]N      x is free or all of A: P grows over it, and over N too if that agrees;
                   else N grows down over a free x, or A swallows N
        P[x A]     x begins A: the border between P and A goes up
        [A x]N     x ends A: the border between A and N goes down
    """
    if vm_flags & VM_SPECIAL:
        return None
    following = mm.mmap[0] if prev is None and mm.mmap else None
    if prev is not None:
        following = vma_next(prev)
    area = following
    if following is not None and following.vm_end == end:
        following = vma_next(following)  # the range reaches the end of its area
    pglen = (end - addr) >> PAGE_SHIFT

    fits_before = (
        following is not None
        and end == following.vm_start
        and mempolicy.mpol_equal(policy, following.vm_policy)
        and can_vma_merge_before(following, vm_flags, anon_vma, file, pgoff + pglen)
    )
    if (
        prev is not None
        and prev.vm_end == addr
        and mempolicy.mpol_equal(prev.vm_policy, policy)
        and can_vma_merge_after(prev, vm_flags, anon_vma, file, pgoff)
    ):
        new_end = end
        if fits_before and following is not None:
            if is_mergeable_anon_vma(prev.anon_vma, following.anon_vma, None):
                new_end = following.vm_end
        error = vma_adjust(prev, prev.vm_start, new_end, prev.vm_pgoff, None)
        if error:
            return None
        khugepaged.khugepaged_enter_vma_merge(prev, vm_flags)
        return prev

    if fits_before and following is not None:
        if prev is not None and addr < prev.vm_end:
            error = vma_adjust(prev, prev.vm_start, addr, prev.vm_pgoff, None)
        elif area is not None:
            error = vma_adjust(area, addr, following.vm_end, following.vm_pgoff - pglen, None)
        if error:
            return None
        # The border moved to it, or it was swallowed by the area in front.
        if area is not None:
            khugepaged.khugepaged_enter_vma_merge(area, vm_flags)
        return area
    return None


# --- splitting ---


def __split_vma(mm: Mm, vma: Vma, addr: int, new_below: bool) -> int:
    """Cut @vma at @addr; the new area is the lower or the upper half
    (mm/mmap.c: __split_vma)."""
    if vma.vm_flags & VM_HUGETLB and addr & ~hstate_vma(vma).mask:
        return -EINVAL
    new = copy_vm_area_struct(mm, vma)
    pages = (addr - vma.vm_start) >> PAGE_SHIFT
    if new_below:
        new.vm_end = addr
    else:
        new.vm_start = addr
        new.vm_pgoff += pages
    error = mempolicy.vma_dup_policy(vma, new)
    if error:
        return error
    error = rmap.anon_vma_clone(new, vma)
    if error:
        mempolicy.mpol_put(new.vm_policy)
        return error
    if new.vm_ops is not None and new.vm_ops.open is not None:
        new.vm_ops.open(new)
    if new_below:
        return vma_adjust(vma, addr, vma.vm_end, vma.vm_pgoff + pages, new)
    return vma_adjust(vma, vma.vm_start, addr, vma.vm_pgoff, new)


def split_vma(mm: Mm, vma: Vma, addr: int, new_below: bool) -> int:
    """Cut @vma at @addr.  0, or -ENOMEM if there are too many areas
    (mm/mmap.c: split_vma)."""
    if mm.map_count >= sysctl_max_map_count:
        return -ENOMEM
    return __split_vma(mm, vma, addr, new_below)


# --- copying an area to another place ---


def copy_vma(vma: Vma, addr: int, length: int, pgoff: int) -> tuple[Vma | None, Vma, bool]:
    """For mremap: an area for the pages of @vma at @addr, of its own or a neighbour that
    was extended.  (the new area, @vma or what it was merged into, need_rmap_locks)
    (mm/mmap.c: copy_vma).

    A new area stands behind @vma in the reverse maps, so a walk that missed the pages here
    meets them there. A neighbour may stand before it: then the pages must move under the
    locks of those maps.
    """
    mm = vma.vm_mm
    vma_start = vma.vm_start
    # Without pages there is nothing that the offsets would have to agree with.
    if vma.vm_file is None and vma.anon_vma is None:
        pgoff = addr >> PAGE_SHIFT
    if find_vma_intersection(mm, addr, addr + length) is not None:
        return None, vma, False
    prev = area_below(mm, addr)
    new_vma = vma_merge(
        mm,
        prev,
        addr,
        addr + length,
        vma.vm_flags,
        vma.anon_vma,
        vma.vm_file,
        pgoff,
        vma.vm_policy,
    )
    if new_vma is not None:
        if new_vma.vm_start <= vma_start < new_vma.vm_end:
            vma = new_vma
        return new_vma, vma, new_vma.vm_pgoff <= vma.vm_pgoff
    new_vma = copy_vm_area_struct(mm, vma)
    new_vma.vm_start, new_vma.vm_end, new_vma.vm_pgoff = addr, addr + length, pgoff
    if mempolicy.vma_dup_policy(vma, new_vma):
        return None, vma, False
    if rmap.anon_vma_clone(new_vma, vma):
        mempolicy.mpol_put(new_vma.vm_policy)
        return None, vma, False
    if new_vma.vm_ops is not None and new_vma.vm_ops.open is not None:
        new_vma.vm_ops.open(new_vma)
    vma_link(mm, new_vma)
    return new_vma, vma, False
