"""The reverse map of anonymous memory: how areas are linked to anon_vmas  (mm/rmap.c).

Every area that may map a page is in the interval tree of the page's anon_vma. The tree of
anon_vmas of a family of forked processes has one lock, the root's.
Differs: a freed anon_vma is never recycled; a late user meets a count of 0, and poison once
no RCU section can know it any more.
"""

from __future__ import annotations

from functools import partial

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import VM_EXEC, VM_READ, VM_SOFTDIRTY, VM_WRITE
from mmigrate.linux.include.mm_types import POISON, AnonVma, AnonVmaChain, Page, Vma
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import READ_ONCE
from mmigrate.linux.kernel.bug import BUG, BUG_ON
from mmigrate.linux.kernel.kref import kref_get, kref_get_unless_zero, kref_put
from mmigrate.linux.kernel.page_flags import page_anon_vma
from mmigrate.linux.kernel.page_ref import page_mapped
from mmigrate.linux.kernel.rcu import call_rcu, rcu_read_lock, rcu_read_unlock
from mmigrate.linux.kernel.rwsem import (
    RwSemaphore,
    down_read,
    down_read_trylock,
    down_write,
    rwsem_is_locked,
    up_read,
    up_write,
)
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.kernel.straight import small
from mmigrate.linux.mm import mempolicy


def anon_vma_alloc(kernel: Kernel) -> AnonVma:
    """A new anon_vma, its own root, with the reference of its first area
    (mm/rmap.c: anon_vma_alloc)."""
    number = sched.fresh_number(kernel, "anon_vma_numbers")
    anon_vma = AnonVma(number, RwSemaphore("anon_vma", f"anon_vma {number} lock"))
    kernel.anon_vmas[number] = anon_vma
    return anon_vma


def anon_vma_free(kernel: Kernel, anon_vma: AnonVma) -> None:
    """Forget an anon_vma that nobody references, once a reader that still has its root's
    lock has let go.  Its memory is of a cache that is given back only after all RCU sections
    that may look at it  (mm/rmap.c: anon_vma_free)."""
    BUG_ON(anon_vma.refcount != 0, f"freed with {anon_vma.refcount} references", anon_vma)
    root = anon_vma.root
    if rwsem_is_locked(root.rwsem):
        down_write(root.rwsem)
        up_write(root.rwsem)
    del kernel.anon_vmas[anon_vma.number]
    call_rcu(kernel, partial(_poison, anon_vma))


def _poison(anon_vma: AnonVma) -> None:
    anon_vma.root = anon_vma.parent = POISON  # type: ignore[assignment]


def get_anon_vma(anon_vma: AnonVma) -> None:
    BUG_ON(anon_vma.refcount == 0, "get_anon_vma of a freed anon_vma", anon_vma)
    kref_get(anon_vma)


@small
def put_anon_vma(kernel: Kernel, anon_vma: AnonVma) -> None:
    """Drop a reference  (include/linux/rmap.h: put_anon_vma)."""
    if kref_put(anon_vma):
        __put_anon_vma(kernel, anon_vma)


def __put_anon_vma(kernel: Kernel, anon_vma: AnonVma) -> None:
    """The last reference is gone: free it, and drop its reference on the root
    (mm/rmap.c: __put_anon_vma)."""
    root = anon_vma.root
    anon_vma_free(kernel, anon_vma)
    if root is not anon_vma and kref_put(root):
        anon_vma_free(kernel, root)


def anon_vma_lock_write(anon_vma: AnonVma) -> RwSemaphore:
    return down_write(anon_vma.root.rwsem)


def anon_vma_unlock_write(anon_vma: AnonVma) -> None:
    up_write(anon_vma.root.rwsem)


def anon_vma_lock_read(anon_vma: AnonVma) -> RwSemaphore:
    return down_read(anon_vma.root.rwsem)


def anon_vma_unlock_read(anon_vma: AnonVma) -> None:
    up_read(anon_vma.root.rwsem)


# --- linking areas ---


def anon_vma_chain_link(vma: Vma, chain: AnonVmaChain, anon_vma: AnonVma) -> None:
    """Put @vma into the tree of @anon_vma; the root's lock is held for write
    (mm/rmap.c: anon_vma_chain_link)."""
    vma.anon_vma_chain.insert(0, chain)
    anon_vma.rb_root.insert(chain)


def anon_vma_prepare(vma: Vma) -> int:
    """Give @vma an anon_vma before its first anonymous page: a neighbour's where the two
    areas could be merged one day, else a new root.  0  (mm/rmap.c: anon_vma_prepare)."""
    if vma.anon_vma is not None:
        return 0
    mm = vma.vm_mm
    kernel = mm.kernel
    anon_vma = find_mergeable_anon_vma(vma)
    allocated = None
    if anon_vma is None:
        anon_vma = allocated = anon_vma_alloc(kernel)
    with anon_vma_lock_write(anon_vma), spin_lock(mm.page_table_lock):
        # another fault of this process may have been faster
        if READ_ONCE(vma, "anon_vma") is None:
            vma.anon_vma = anon_vma
            anon_vma_chain_link(vma, AnonVmaChain(vma, anon_vma), anon_vma)
            anon_vma.degree += 1  # this area, or a new root's link to itself
            allocated = None
    if allocated is not None:
        put_anon_vma(kernel, allocated)
    return 0


def find_mergeable_anon_vma(vma: Vma) -> AnonVma | None:
    """The anon_vma of an adjacent area that differs from @vma in nothing that mprotect
    could not change  (mm/mmap.c: find_mergeable_anon_vma)."""
    mm = vma.vm_mm
    position = mm.mmap.index(vma)
    if position + 1 < len(mm.mmap):
        near = mm.mmap[position + 1]
        if near.anon_vma is not None and _compatible(vma, near) and len(near.anon_vma_chain) == 1:
            return near.anon_vma
    if position > 0:
        near = mm.mmap[position - 1]
        if near.anon_vma is not None and _compatible(near, vma) and len(near.anon_vma_chain) == 1:
            return near.anon_vma
    return None


def _compatible(lower: Vma, upper: Vma) -> bool:
    differing = lower.vm_flags ^ upper.vm_flags
    return (
        lower.vm_end == upper.vm_start
        and mempolicy.mpol_equal(lower.vm_policy, upper.vm_policy)
        and lower.vm_file is upper.vm_file
        and not differing & ~(VM_READ | VM_WRITE | VM_EXEC | VM_SOFTDIRTY)
        and upper.vm_pgoff == lower.vm_pgoff + ((upper.vm_start - lower.vm_start) >> 12)
    )


def anon_vma_clone(dst: Vma, src: Vma) -> int:
    """Link @dst to every anon_vma of @src, oldest first.  If @dst has none of its own yet,
    it takes over one that no area owns and that has a single child
    (mm/rmap.c: anon_vma_clone)."""
    if src.anon_vma_chain:
        with anon_vma_lock_write(src.anon_vma_chain[0].anon_vma):
            for chain in reversed(src.anon_vma_chain):
                anon_vma = chain.anon_vma
                anon_vma_chain_link(dst, AnonVmaChain(dst, anon_vma), anon_vma)
                if dst.anon_vma is None and anon_vma is not src.anon_vma and anon_vma.degree < 2:
                    dst.anon_vma = anon_vma
            if dst.anon_vma is not None:
                dst.anon_vma.degree += 1
    return 0


def anon_vma_fork(vma: Vma, pvma: Vma) -> int:
    """Attach the child's area @vma to all anon_vmas of its parent's @pvma, and give it one
    of its own for the pages it will allocate  (mm/rmap.c: anon_vma_fork)."""
    parent = pvma.anon_vma
    if parent is None:
        return 0
    vma.anon_vma = None
    anon_vma_clone(vma, pvma)
    if vma.anon_vma is not None:
        return 0
    anon_vma = anon_vma_alloc(vma.vm_mm.kernel)
    anon_vma.root = parent.root
    anon_vma.parent = parent
    get_anon_vma(anon_vma.root)
    vma.anon_vma = anon_vma
    with anon_vma_lock_write(anon_vma):
        anon_vma_chain_link(vma, AnonVmaChain(vma, anon_vma), anon_vma)
        parent.degree += 1
    return 0


def unlink_anon_vmas(vma: Vma) -> None:
    """Take @vma out of all its trees; drop those that became empty, outside the lock
    (mm/rmap.c: unlink_anon_vmas)."""
    if not vma.anon_vma_chain:
        return
    emptied = []
    with anon_vma_lock_write(vma.anon_vma_chain[0].anon_vma):
        for chain in vma.anon_vma_chain:
            anon_vma = chain.anon_vma
            anon_vma.rb_root.remove(chain)
            if not len(anon_vma.rb_root):
                anon_vma.parent.degree -= 1
                emptied.append(anon_vma)
        if vma.anon_vma is not None:
            vma.anon_vma.degree -= 1
    vma.anon_vma_chain = []
    for anon_vma in emptied:
        BUG_ON(anon_vma.degree != 0, f"empty, but of degree {anon_vma.degree}", anon_vma)
        put_anon_vma(vma.vm_mm.kernel, anon_vma)


# --- from a page to its anon_vma ---
#
# The page may name an anon_vma that is dead; in an RCU section it can be looked at all the
# same. Only if the page is mapped after the reference was taken is it one that covers it.


@small
def page_get_anon_vma(page: Page) -> AnonVma | None:
    """A reference on the anon_vma of a mapped page; None if it is not anonymous or not
    mapped (any more)  (mm/rmap.c: page_get_anon_vma)."""
    rcu_read_lock()
    anon_vma = page_anon_vma(page)
    if anon_vma is None or not page_mapped(page):
        rcu_read_unlock()
        return None
    if not kref_get_unless_zero(anon_vma):
        rcu_read_unlock()
        return None
    if not page_mapped(page):
        rcu_read_unlock()
        put_anon_vma(page.zone.kernel, anon_vma)
        return None
    rcu_read_unlock()
    return anon_vma


@small
def page_lock_anon_vma_read(page: Page) -> AnonVma | None:
    """The anon_vma of a mapped page, locked for read; None as in page_get_anon_vma
    (mm/rmap.c: page_lock_anon_vma_read)."""
    rcu_read_lock()
    anon_vma = page_anon_vma(page)
    if anon_vma is None or not page_mapped(page):
        rcu_read_unlock()
        return None
    root = anon_vma.root
    if down_read_trylock(root.rwsem):
        if not page_mapped(page):
            up_read(root.rwsem)
            anon_vma = None
        rcu_read_unlock()
        return anon_vma
    if not kref_get_unless_zero(anon_vma):
        rcu_read_unlock()
        return None
    kernel = page.zone.kernel
    if not page_mapped(page):
        rcu_read_unlock()
        put_anon_vma(kernel, anon_vma)
        return None
    rcu_read_unlock()  # the lock may be slept for, with the reference in its place
    anon_vma_lock_read(anon_vma)
    if kref_put(anon_vma):
        # Only ours was left: the page is unmapped by now. The lock must go first, for
        # freeing takes it.
        anon_vma_unlock_read(anon_vma)
        __put_anon_vma(kernel, anon_vma)
        return None
    return anon_vma


def page_unlock_anon_vma_read(anon_vma: AnonVma) -> None:
    anon_vma_unlock_read(anon_vma)


@small
def owning_anon_vma(vma: Vma) -> AnonVma:
    """The anon_vma that @vma must have by now."""
    anon_vma = vma.anon_vma
    if anon_vma is None:
        BUG("anonymous page in an area without anon_vma", vma)
    return anon_vma
