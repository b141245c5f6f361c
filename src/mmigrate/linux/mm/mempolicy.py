"""Memory policies: which node a new page comes from  (mm/mempolicy.c).

Policies of tasks, areas and shared files are created, compared, printed and rebound here;
`policy_migration.py` moves pages to where a policy wants them, `policy_syscalls.py` has
the system calls.
"""

from __future__ import annotations

from errno import EINVAL
from typing import Final

from mmigrate.linux.include.gfp import __GFP_THISNODE
from mmigrate.linux.include.mempolicy import (
    MPOL_BIND,
    MPOL_DEFAULT,
    MPOL_F_LOCAL,
    MPOL_F_MOF,
    MPOL_F_MORON,
    MPOL_F_RELATIVE_NODES,
    MPOL_F_STATIC_NODES,
    MPOL_INTERLEAVE,
    MPOL_LOCAL,
    MPOL_MODE_FLAGS,
    MPOL_PREFERRED,
    Mempolicy,
)
from mmigrate.linux.include.mm import VM_IO, VM_PFNMAP
from mmigrate.linux.include.mm_types import Inode, Page, Vma
from mmigrate.linux.include.mmzone import ZONE_MOVABLE, Zone
from mmigrate.linux.include.pgtable import PAGE_SHIFT
from mmigrate.linux.include.sched import Task
from mmigrate.linux.include.switches import LOCAL_WITHOUT_FLAGS, UNIFIED_POLICY_NODES
from mmigrate.linux.include.vmstat import NUMA_INTERLEAVE_HIT
from mmigrate.linux.kernel import fair, sched
from mmigrate.linux.kernel.atomic import atomic_dec_and_test
from mmigrate.linux.kernel.cpuset import cpuset_mems_allowed
from mmigrate.linux.kernel.rwsem import RwSemaphore, mutex_lock
from mmigrate.linux.kernel.straight import small
from mmigrate.linux.lib.nodemask import (
    first_node,
    next_node_in,
    node_remap,
    nodes,
    nodes_fold,
    nodes_onto,
    nodes_remap,
    nth_node,
    weight,
)
from mmigrate.linux.mm import page_alloc

_MODE_NAMES: Final = ("default", "prefer", "bind", "interleave", "local")


# --- making policies ---


def mpol_new(mode: int, flags: int, mask: int, absent: frozenset[str]) -> Mempolicy | int | None:
    """A policy still without its nodes; None for MPOL_DEFAULT; -EINVAL.  @absent: the commits
    that the kernel does not have  (mm/mempolicy.c: mpol_new)."""
    if mode == MPOL_DEFAULT:
        return -EINVAL if mask else None
    if mode == MPOL_PREFERRED:
        if not mask and flags & MPOL_MODE_FLAGS:
            return -EINVAL
    elif mode == MPOL_LOCAL:
        if mask or (flags & MPOL_MODE_FLAGS and LOCAL_WITHOUT_FLAGS not in absent):
            return -EINVAL
        mode = MPOL_PREFERRED
    elif not mask:
        return -EINVAL
    return Mempolicy(mode, flags)


def mpol_set_nodemask(pol: Mempolicy | None, mask: int, task: Task) -> int:
    """Give a new policy its nodes, as far as @task may use them; 0 or -EINVAL
    (mm/mempolicy.c: mpol_set_nodemask)."""
    if pol is None:
        return 0
    if pol.mode == MPOL_PREFERRED and not mask:
        pol.flags |= MPOL_F_LOCAL
        return 0
    allowed = cpuset_mems_allowed(task) & task.kernel.node_states_memory
    effective = _effective(pol, mask, allowed)
    pol.w = mask if pol.flags & MPOL_MODE_FLAGS else cpuset_mems_allowed(task)
    if not effective:
        return -EINVAL
    pol.v = first_node(effective) if pol.mode == MPOL_PREFERRED else effective
    return 0


def _effective(pol: Mempolicy, mask: int, allowed: int) -> int:
    if pol.flags & MPOL_F_RELATIVE_NODES:
        return nodes_onto(nodes_fold(mask, weight(allowed)), allowed)
    return mask & allowed


def mpol_put(pol: Mempolicy | None) -> None:
    if pol is not None:
        atomic_dec_and_test(pol, "refcnt")


def mpol_dup(pol: Mempolicy) -> Mempolicy:
    """A copy of its own  (mm/mempolicy.c: __mpol_dup)."""
    return Mempolicy(pol.mode, pol.flags, pol.v, pol.w)


def mpol_equal(a: Mempolicy | None, b: Mempolicy | None) -> bool:
    """Whether two policies say the same  (mm/mempolicy.c: __mpol_equal)."""
    if a is b:
        return True
    if a is None or b is None:
        return False
    if a.mode != b.mode or a.flags != b.flags:
        return False
    if a.flags & MPOL_MODE_FLAGS and a.w != b.w:
        return False
    return a.v == b.v


def vma_dup_policy(src: Vma, dst: Vma) -> int:
    """@dst gets a copy of @src's policy; 0  (mm/mempolicy.c: vma_dup_policy)."""
    dst.vm_policy = None if src.vm_policy is None else mpol_dup(src.vm_policy)
    return 0


def mpol_to_str(pol: Mempolicy | None) -> str:
    """As in numa_maps  (mm/mempolicy.c: mpol_to_str)."""
    if pol is None or pol.flags & MPOL_F_MORON:
        return "default"
    mode, mask = pol.mode, 0
    if mode == MPOL_PREFERRED:
        if pol.flags & MPOL_F_LOCAL:
            mode = MPOL_LOCAL
        else:
            mask = 1 << pol.v
    else:
        mask = pol.v
    text = _MODE_NAMES[mode]
    if pol.flags & MPOL_F_STATIC_NODES:
        text += "=static"
    elif pol.flags & MPOL_F_RELATIVE_NODES:
        text += "=relative"
    return f"{text}:{nodelist(mask)}" if mask else text


def nodelist(mask: int) -> str:
    """A mask as a list with ranges: "0-1,3"."""
    parts: list[str] = []
    numbers = list(nodes(mask))
    start = 0
    for position, number in enumerate(numbers):
        if position + 1 < len(numbers) and numbers[position + 1] == number + 1:
            continue
        first = numbers[start]
        parts.append(str(first) if first == number else f"{first}-{number}")
        start = position + 1
    return ",".join(parts)


# --- which policy applies ---


def get_task_policy(task: Task) -> Mempolicy | None:
    """The policy of a task; None stands for the built-in one: the node of its CPU
    (mm/mempolicy.c: get_task_policy)."""
    return task.mempolicy


def get_vma_policy(vma: Vma | None, addr: int) -> Mempolicy | None:
    """The policy for an address: the file's or the area's, else the running task's
    (mm/mempolicy.c: get_vma_policy)."""
    pol = _own_policy(vma, addr)
    return get_task_policy(sched.task) if pol is None else pol


def _own_policy(vma: Vma | None, addr: int) -> Mempolicy | None:
    """mm/mempolicy.c: __get_vma_policy."""
    if vma is None:
        return None
    if vma.vm_ops is not None and vma.vm_ops.get_policy is not None:
        return vma.vm_ops.get_policy(vma, addr)
    return vma.vm_policy


@small
def vma_migratable(vma: Vma) -> bool:
    """Whether pages of the area may be migrated at all
    (include/linux/mempolicy.h: vma_migratable)."""
    if vma.vm_flags & (VM_IO | VM_PFNMAP):
        return False
    if vma.vm_file is not None:
        zone = page_alloc.gfp_zone(vma.vm_file.f_mapping.gfp_mask)
        return zone >= vma.vm_mm.kernel.policy_zone
    return True


# --- choosing a node ---


def policy_zonelist(pol: Mempolicy | None, gfp: int, nid: int) -> list[Zone]:
    """Where to begin looking, from a CPU on node @nid  (mm/mempolicy.c: policy_zonelist)."""
    if pol is not None:
        if pol.mode == MPOL_PREFERRED:
            if not pol.flags & MPOL_F_LOCAL:
                nid = pol.v
        elif pol.mode == MPOL_BIND and gfp & __GFP_THISNODE and not pol.v >> nid & 1:
            nid = first_node(pol.v)
    return page_alloc.node_zonelist(sched.task.kernel, nid, gfp)


def policy_nodemask(gfp: int, pol: Mempolicy | None) -> int | None:
    """The nodes an allocation is confined to, None for all
    (mm/mempolicy.c: policy_nodemask)."""
    if pol is None or pol.mode != MPOL_BIND:
        return None
    task = sched.task
    if not _applies_to_zone(pol, page_alloc.gfp_zone(gfp)):
        return None
    return pol.v if pol.v & task.mems_allowed else None


def _applies_to_zone(pol: Mempolicy, zone: int) -> bool:
    """mm/mempolicy.c: apply_policy_zone."""
    kernel = sched.task.kernel
    limit = kernel.policy_zone
    has_normal = any(
        populated.zone_idx < ZONE_MOVABLE
        for nid in nodes(pol.v)
        for populated in kernel.nodes[nid].node_zones
    )
    return zone >= (limit if has_normal else ZONE_MOVABLE)


def interleave_nodes(task: Task, pol: Mempolicy) -> int:
    """The next node of a task's interleaving  (mm/mempolicy.c: interleave_nodes)."""
    nid = task.il_next
    task.il_next = next_node_in(nid, pol.v)
    return nid


def interleave_nid(pol: Mempolicy, vma: Vma | None, addr: int, shift: int = PAGE_SHIFT) -> int:
    """The node of an address under interleaving by pages of 2**shift bytes
    (mm/mempolicy.c: interleave_nid)."""
    if vma is None:
        return interleave_nodes(sched.task, pol)
    offset = (vma.vm_pgoff >> (shift - PAGE_SHIFT)) + ((addr - vma.vm_start) >> shift)
    return nth_node(pol.v, offset % weight(pol.v))


def _alloc_page_interleave(gfp: int, order: int, nid: int) -> Page | None:
    """mm/mempolicy.c: alloc_page_interleave."""
    zonelist = page_alloc.node_zonelist(sched.task.kernel, nid, gfp)
    page = page_alloc.alloc_pages_nodemask(gfp, order, zonelist, None)
    if page is not None and zonelist and page.zone is zonelist[0]:
        page.zone.vm_stat[NUMA_INTERLEAVE_HIT] += 1
    return page


def alloc_pages_vma(
    gfp: int, order: int, vma: Vma | None, addr: int, node: int | None = None
) -> Page | None:
    """A block for an address of an area, where its policy wants it; @node stands for the local
    one, by default that of this CPU  (mm/mempolicy.c: alloc_pages_vma)."""
    pol = get_vma_policy(vma, addr)
    if pol is not None and pol.mode == MPOL_INTERLEAVE:
        nid = interleave_nid(pol, vma, addr, PAGE_SHIFT + order)
        return _alloc_page_interleave(gfp, order, nid)
    return _alloc_by(pol, gfp, order, node)


def alloc_page_vma(gfp: int, vma: Vma | None, addr: int) -> Page | None:
    return alloc_pages_vma(gfp, 0, vma, addr)


def alloc_page_vma_node(gfp: int, vma: Vma | None, addr: int, node: int) -> Page | None:
    return alloc_pages_vma(gfp, 0, vma, addr, node)


def alloc_pages_current(gfp: int, order: int) -> Page | None:
    """A block by the task's own policy  (mm/mempolicy.c: alloc_pages_current)."""
    task = sched.task
    pol = None if gfp & __GFP_THISNODE else task.mempolicy
    if pol is not None and pol.mode == MPOL_INTERLEAVE:
        return _alloc_page_interleave(gfp, order, interleave_nodes(task, pol))
    return _alloc_by(pol, gfp, order)


def _alloc_by(pol: Mempolicy | None, gfp: int, order: int, node: int | None = None) -> Page | None:
    task = sched.task
    if node is None:
        node = task.cpu.node
    if pol is None:  # nearly always
        zonelist = task.kernel.nodes[node].node_zonelists[1 if gfp & __GFP_THISNODE else 0]
        return page_alloc.alloc_pages_nodemask(gfp, order, zonelist, None)
    zonelist = policy_zonelist(pol, gfp, node)
    return page_alloc.alloc_pages_nodemask(gfp, order, zonelist, policy_nodemask(gfp, pol))


def mpol_misplaced(page: Page, vma: Vma, addr: int) -> int:
    """The node a hinting fault should move the page to, or -1
    (mm/mempolicy.c: mpol_misplaced)."""
    task = sched.task
    pol = get_vma_policy(vma, addr)
    here = task.cpu.node
    if pol is None:  # the built-in policy moves pages to who uses them
        nid = page.zone.nid
        if not fair.should_numa_migrate_memory(task, page, nid, task.cpu.number):
            return -1
        return here if here != nid else -1
    if not pol.flags & MPOL_F_MOF:
        return -1
    if pol.mode == MPOL_INTERLEAVE:
        wanted = interleave_nid(pol, vma, addr)
    elif pol.mode == MPOL_PREFERRED:
        wanted = here if pol.flags & MPOL_F_LOCAL else pol.v
    else:
        if pol.v >> page.zone.nid & 1:
            return -1
        zonelist = page_alloc.node_zonelist(page.zone.kernel, here, 0)
        wanted = next(zone.nid for zone in zonelist if pol.v >> zone.nid & 1)
    return wanted if wanted != page.zone.nid else -1


# --- shared policies: of a file, by page offset ---


class SharedPolicy:
    """Ranges of offsets with a policy each, sorted and apart  (struct shared_policy)."""

    __slots__ = ("lock", "ranges")

    def __init__(self) -> None:
        self.lock = RwSemaphore("shared_policy", "shared policy")
        self.ranges: list[tuple[int, int, Mempolicy]] = []  # first, last + 1, policy


def mpol_shared_policy_init() -> SharedPolicy:
    return SharedPolicy()


def mpol_shared_policy_lookup(shared: SharedPolicy, index: int) -> Mempolicy | None:
    """The policy of an offset  (mm/mempolicy.c: mpol_shared_policy_lookup)."""
    for first, end, pol in shared.ranges:
        if first <= index < end:
            return pol
    return None


def mpol_set_shared_policy(shared: SharedPolicy, vma: Vma, pol: Mempolicy | None) -> int:
    """Give the offsets that @vma shows a policy, or none; 0
    (mm/mempolicy.c: mpol_set_shared_policy)."""
    start = vma.vm_pgoff
    end = start + ((vma.vm_end - vma.vm_start) >> 12)
    with mutex_lock(shared.lock):
        kept: list[tuple[int, int, Mempolicy]] = []
        for first, last, old in shared.ranges:
            if first < start:
                kept.append((first, min(last, start), old))
            if last > end:
                kept.append((max(first, end), last, old))
        if pol is not None:
            kept.append((start, end, mpol_dup(pol)))
        shared.ranges = sorted((r for r in kept if r[0] < r[1]), key=lambda found: found[0])
    return 0


def shmem_alloc_page(inode: Inode, gfp: int, index: int) -> Page | None:
    """A page of a shared-memory file by the file's policy  (mm/shmem.c: shmem_alloc_page)."""
    pol = mpol_shared_policy_lookup(inode.policy, index)
    if pol is None:
        pol = sched.task.mempolicy
    if pol is not None and pol.mode == MPOL_INTERLEAVE:
        nid = nth_node(pol.v, index % weight(pol.v))
        return _alloc_page_interleave(gfp, 0, nid)
    return _alloc_by(pol, gfp, 0)


# --- rebinding when a cpuset changes ---


def mpol_rebind_policy(pol: Mempolicy | None, new: int) -> None:
    """Translate a policy to the nodes @new that are allowed now
    (mm/mempolicy.c: mpol_rebind_policy)."""
    if pol is None:
        return
    if not pol.flags & MPOL_MODE_FLAGS and pol.w == new:
        return
    if pol.mode == MPOL_PREFERRED:
        if sched.task.kernel.has(UNIFIED_POLICY_NODES):
            # The node stays, and the word that a user's mask shares is lost with its commit.
            if not pol.flags & MPOL_F_LOCAL:
                pol.w = new
        else:
            _rebind_preferred(pol, new)
    else:
        _rebind_nodes(pol, new)


def _rebind_nodes(pol: Mempolicy, new: int) -> None:
    if pol.flags & MPOL_F_STATIC_NODES:
        rebound = pol.w & new
    elif pol.flags & MPOL_F_RELATIVE_NODES:
        rebound = nodes_onto(nodes_fold(pol.w, weight(new)), new)
    else:
        rebound = nodes_remap(pol.v, pol.w, new)
        pol.w = new
    pol.v = rebound or new
    task = sched.task
    if not pol.v >> task.il_next & 1:
        task.il_next = next_node_in(task.il_next, pol.v)


def _rebind_preferred(pol: Mempolicy, new: int) -> None:
    if pol.flags & MPOL_F_STATIC_NODES:
        node = first_node(pol.w)
        if new >> node & 1:
            pol.v = node
            pol.flags &= ~MPOL_F_LOCAL
        else:
            pol.flags |= MPOL_F_LOCAL
    elif pol.flags & MPOL_F_RELATIVE_NODES:
        pol.v = first_node(nodes_onto(nodes_fold(pol.w, weight(new)), new))
    elif not pol.flags & MPOL_F_LOCAL:
        pol.v = node_remap(pol.v, pol.w, new)
        pol.w = new


def mpol_rebind_task(task: Task, new: int) -> None:
    """mm/mempolicy.c: mpol_rebind_task."""
    mpol_rebind_policy(task.mempolicy, new)
