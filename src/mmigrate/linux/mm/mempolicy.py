"""TEMPORARY"""

from __future__ import annotations

from typing import Any

from mmigrate.linux.kernel import sched
from mmigrate.linux.mm import page_alloc


def get_vma_policy(vma, addr):
    return None


def alloc_page_vma(gfp: int, vma: Any, addr: int):
    t = sched.task
    return page_alloc.alloc_pages_nodemask(
        gfp, 0, t.kernel.nodes[t.cpu.node].node_zonelists[0], None
    )


def alloc_pages_current(gfp: int, order: int):
    t = sched.task
    return page_alloc.alloc_pages_nodemask(
        gfp, order, t.kernel.nodes[t.cpu.node].node_zonelists[0], None
    )


def mpol_equal(a, b):
    return a is b


def mpol_put(a):
    pass


def mpol_dup(a):
    return a


def vma_dup_policy(a, b):
    return 0


def vma_migratable(vma):
    return True


def mpol_shared_policy_init():
    return {}


def shmem_alloc_page(inode, gfp, index):
    return alloc_pages_current(gfp, 0)


def mpol_set_shared_policy(p, vma, pol):
    return 0


def mpol_shared_policy_lookup(p, i):
    return None
