"""mbind, set_mempolicy, get_mempolicy, migrate_pages  (mm/mempolicy.c)."""

from __future__ import annotations

from errno import EFAULT, EINVAL, EIO, EPERM, ESRCH

from mmigrate.linux.include.mempolicy import (
    MAX_NUMNODES,
    MPOL_DEFAULT,
    MPOL_F_ADDR,
    MPOL_F_LOCAL,
    MPOL_F_MEMS_ALLOWED,
    MPOL_F_NODE,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_MAX,
    MPOL_MF_DISCONTIG_OK,
    MPOL_MF_INVERT,
    MPOL_MF_MOVE,
    MPOL_MF_MOVE_ALL,
    MPOL_MF_STRICT,
    MPOL_MF_VALID,
    MPOL_MODE_FLAGS,
    MPOL_PREFERRED,
    Mempolicy,
)
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_MEMPOLICY_MBIND
from mmigrate.linux.include.mm_types import Mm, Vma
from mmigrate.linux.include.pgtable import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from mmigrate.linux.include.sched import Task, capable
from mmigrate.linux.include.switches import (
    LOCAL_IS_A_POLICY,
    MBIND_FINDS_HOLES,
    MIGRATE_PAGES_CUTS_NODES,
    SMALL_NODEMASK_ALLOWED,
)
from mmigrate.linux.kernel.cpuset import cpuset_mems_allowed
from mmigrate.linux.kernel.rwsem import down_read, down_write
from mmigrate.linux.lib.list import ListHead, list_empty
from mmigrate.linux.lib.nodemask import first_node
from mmigrate.linux.mm import fork, gup, mempolicy, migrate, swap
from mmigrate.linux.mm import vma as areas
from mmigrate.linux.mm.move_pages import find_task, may_move_memory_of
from mmigrate.linux.mm.policy_migration import do_migrate_pages, new_page, queue_pages_range

WORD = 64
LONG_MAX_BITS = PAGE_SIZE * 8


def get_nodes(mask: int, maxnode: int) -> int:
    """The mask as the kernel reads it from a user who gives @maxnode, or -EINVAL.  maxnode
    is one more than the number of bits  (mm/mempolicy.c: get_nodes)."""
    maxnode = (maxnode - 1) % (1 << 64)
    if maxnode == 0 or not mask:
        return 0
    if maxnode > LONG_MAX_BITS:
        return -EINVAL
    bits = mask & ((1 << maxnode) - 1)
    # Whole words beyond what the kernel has must be empty.
    return -EINVAL if bits >> MAX_NUMNODES else bits


def _mode_and_flags(mode: int) -> tuple[int, int] | None:
    """A user's mode in two parts, None if it makes no sense."""
    flags = mode & MPOL_MODE_FLAGS
    mode &= ~MPOL_MODE_FLAGS
    if not 0 <= mode < MPOL_MAX:
        return None
    if flags & MPOL_F_STATIC_NODES and flags & MPOL_F_RELATIVE_NODES:
        return None
    return mode, flags


# --- mbind ---


def sys_mbind(
    task: Task, start: int, length: int, mode: int, mask: int, maxnode: int, flags: int
) -> int:
    """Set the policy of a range, and move pages if asked to: 0, -EINVAL, -EPERM, -EFAULT, -EIO,
    -ENOMEM  (mm/mempolicy.c: mbind)."""
    parts = _mode_and_flags(mode)
    if parts is None:
        return -EINVAL
    mask = get_nodes(mask, maxnode)
    if mask < 0:
        return mask
    return do_mbind(task, start, length, *parts, mask, flags)


def do_mbind(
    task: Task, start: int, length: int, mode: int, mode_flags: int, mask: int, flags: int
) -> int:
    """mm/mempolicy.c: do_mbind."""
    mm = task.mm
    assert mm is not None
    if flags & ~MPOL_MF_VALID:
        return -EINVAL
    if flags & MPOL_MF_MOVE_ALL and not capable(task, "CAP_SYS_NICE"):
        return -EPERM
    if start & ~PAGE_MASK:
        return -EINVAL
    if mode == MPOL_DEFAULT:
        flags &= ~MPOL_MF_STRICT
    length = (length + PAGE_SIZE - 1) & PAGE_MASK
    end = (start + length) % (1 << 64)
    if end < start:
        return -EINVAL
    if end == start:
        return 0
    new = mempolicy.mpol_new(mode, mode_flags, mask, mm.kernel.absent)
    if isinstance(new, int):
        return new
    if new is None:
        flags |= MPOL_MF_DISCONTIG_OK
    if flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        migrate.migrate_prep(mm.kernel)
    pagelist = ListHead()
    with down_write(mm.mmap_sem):
        error = mempolicy.mpol_set_nodemask(new, mask, task)
        if error:
            return error
        error = min(0, queue_pages_range(mm, start, end, mask, flags | MPOL_MF_INVERT, pagelist))
        if not error:
            error = mbind_range(mm, start, end, new)
        if error:
            migrate.putback_movable_pages(pagelist)
            return error
        if list_empty(pagelist):
            return 0
        failed = migrate.migrate_pages(
            pagelist, new_page, None, start, MIGRATE_SYNC, MR_MEMPOLICY_MBIND
        )
        if failed:
            migrate.putback_movable_pages(pagelist)
        return -EIO if failed and flags & MPOL_MF_STRICT else 0


def mbind_range(mm: Mm, start: int, end: int, new: Mempolicy | None) -> int:
    """Give every area of a range a policy, splitting and merging; 0, -EFAULT, -ENOMEM
    (mm/mempolicy.c: mbind_range)."""
    vma = areas.find_vma(mm, start)
    if vma is None:
        return -EFAULT
    if vma.vm_start > start and not mm.kernel.has(MBIND_FINDS_HOLES):
        return -EFAULT
    prev = areas.vma_prev(vma)
    if start > vma.vm_start:
        prev = vma
    while vma is not None and vma.vm_start < end:
        vmstart, vmend = max(start, vma.vm_start), min(end, vma.vm_end)
        if not mempolicy.mpol_equal(vma.vm_policy, new):
            pgoff = vma.vm_pgoff + ((vmstart - vma.vm_start) >> PAGE_SHIFT)
            merged = areas.vma_merge(
                mm, prev, vmstart, vmend, vma.vm_flags, vma.anon_vma, vma.vm_file, pgoff, new
            )
            if merged is not None:
                vma = merged
            else:
                if vma.vm_start != vmstart:
                    error = areas.split_vma(mm, vma, vmstart, True)
                    if error:
                        return error
                if vma.vm_end != vmend:
                    error = areas.split_vma(mm, vma, vmend, False)
                    if error:
                        return error
            error = _vma_replace_policy(vma, new)
            if error:
                return error
        prev = vma
        vma = areas.vma_next(vma)
    return 0


def _vma_replace_policy(vma: Vma, new: Mempolicy | None) -> int:
    """mm/mempolicy.c: vma_replace_policy."""
    if vma.vm_ops is not None and vma.vm_ops.set_policy is not None:
        error = vma.vm_ops.set_policy(vma, new)
        if error:
            return error
    mempolicy.mpol_put(vma.vm_policy)
    vma.vm_policy = None if new is None else mempolicy.mpol_dup(new)
    return 0


# --- set_mempolicy, get_mempolicy ---


def sys_set_mempolicy(task: Task, mode: int, mask: int, maxnode: int) -> int:
    """Set the policy of the running task: 0 or -EINVAL  (mm/mempolicy.c: set_mempolicy)."""
    parts = _mode_and_flags(mode)
    if parts is None:
        return -EINVAL
    mask = get_nodes(mask, maxnode)
    if mask < 0:
        return mask
    new = mempolicy.mpol_new(*parts, mask, task.kernel.absent)
    if isinstance(new, int):
        return new
    error = mempolicy.mpol_set_nodemask(new, mask, task)
    if error:
        return error
    old, task.mempolicy = task.mempolicy, new
    if new is not None and new.mode == MPOL_INTERLEAVE:
        task.il_next = first_node(new.v)
    mempolicy.mpol_put(old)
    return 0


def sys_get_mempolicy(task: Task, maxnode: int, addr: int, flags: int) -> tuple[int, int] | int:
    """(policy or node, mask), or -EINVAL, -EFAULT  (mm/mempolicy.c: get_mempolicy).
    @maxnode 0: the mask is not asked for."""
    answer = do_get_mempolicy(task, maxnode, addr, flags)
    if isinstance(answer, tuple) and task.kernel.has(SMALL_NODEMASK_ALLOWED):
        # Only the words for the nodes that there can be are copied.
        bits = -(-len(task.kernel.nodes) // WORD) * WORD
        return answer[0], answer[1] & ((1 << bits) - 1)
    return answer


def do_get_mempolicy(task: Task, maxnode: int, addr: int, flags: int) -> tuple[int, int] | int:
    """mm/mempolicy.c: do_get_mempolicy, and the checks around it."""
    small = task.kernel.has(SMALL_NODEMASK_ALLOWED)
    if maxnode and maxnode < (len(task.kernel.nodes) if small else MAX_NUMNODES):
        return -EINVAL
    if flags & ~(MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED):
        return -EINVAL
    if flags & MPOL_F_MEMS_ALLOWED:
        if flags & (MPOL_F_NODE | MPOL_F_ADDR):
            return -EINVAL
        return 0, cpuset_mems_allowed(task)
    mm = task.mm
    assert mm is not None
    if flags & MPOL_F_ADDR:
        with down_read(mm.mmap_sem):
            vma = areas.find_vma(mm, addr)
            if vma is None or vma.vm_start > addr:
                return -EFAULT
            if vma.vm_ops is not None and vma.vm_ops.get_policy is not None:
                pol = vma.vm_ops.get_policy(vma, addr)
            else:
                pol = vma.vm_policy
            node = _lookup_node(task, mm, addr) if flags & MPOL_F_NODE else 0
            if node < 0:
                return node
    elif addr:
        return -EINVAL
    else:
        pol = task.mempolicy
        node = task.il_next
        if flags & MPOL_F_NODE and (pol is None or pol.mode != MPOL_INTERLEAVE):
            return -EINVAL
    if flags & MPOL_F_NODE:
        return node, _user_mask(pol)
    if pol is None:
        return MPOL_DEFAULT, 0
    mode = pol.mode
    if pol.flags & MPOL_F_LOCAL and task.kernel.has(LOCAL_IS_A_POLICY):
        mode = MPOL_LOCAL
    return mode | pol.flags & MPOL_MODE_FLAGS, _user_mask(pol)


def _lookup_node(task: Task, mm: Mm, addr: int) -> int:
    """The node of the page at an address, faulted in  (mm/mempolicy.c: lookup_node)."""
    pages = gup.get_user_pages(task, mm, addr & PAGE_MASK, 1, False)
    if isinstance(pages, int):
        return pages
    node = pages[0].zone.nid
    swap.put_page(pages[0])
    return node


def _user_mask(pol: Mempolicy | None) -> int:
    """The mask a user is told  (mm/mempolicy.c: get_policy_nodemask)."""
    if pol is None:
        return 0
    if pol.flags & MPOL_MODE_FLAGS:
        return pol.w
    if pol.mode == MPOL_PREFERRED:
        return 0 if pol.flags & MPOL_F_LOCAL else 1 << pol.v
    return pol.v


# --- migrate_pages ---


def sys_migrate_pages(task: Task, pid: int, maxnode: int, old: int, new: int) -> int:
    """Move all pages of a process from nodes to nodes: how many could not be moved, or -EINVAL,
    -EPERM, -ESRCH, -ENOMEM  (mm/mempolicy.c: migrate_pages)."""
    old = get_nodes(old, maxnode)
    if old < 0:
        return old
    new = get_nodes(new, maxnode)
    if new < 0:
        return new
    target = find_task(task, pid)
    if target is None:
        return -ESRCH
    if not may_move_memory_of(task, target):
        return -EPERM
    if new & ~cpuset_mems_allowed(target) and not capable(task, "CAP_SYS_NICE"):
        return -EPERM
    if task.kernel.has(MIGRATE_PAGES_CUTS_NODES):
        new &= cpuset_mems_allowed(task) & task.kernel.node_states_memory
        if not new:
            return -EINVAL
    elif new & ~task.kernel.node_states_memory:
        return -EINVAL
    if target.mm is None:
        return -EINVAL
    flags = MPOL_MF_MOVE_ALL if capable(task, "CAP_SYS_NICE") else MPOL_MF_MOVE
    mm = fork.mmget(target.mm)  # get_task_mm: it may exit meanwhile
    try:
        return do_migrate_pages(mm, old, new, flags)
    finally:
        fork.mmput(mm)
