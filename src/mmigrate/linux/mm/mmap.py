"""The address space of a process: mmap, munmap, brk, stacks  (mm/mmap.c).

Interface: the system calls, and what they are made of. All that concerns one area and its
neighbours is in `vma.py`, with the rules for both; its names are also found here.

Differs: no accounting against an overcommit limit, and of the resource limits only those
of locked memory and of the stack; no huge pages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from errno import EACCES, EAGAIN, EINVAL, ENODEV, ENOMEM, EOVERFLOW, EPERM
from typing import Final

from mmigrate.linux.include.hugetlb import Hstate, hstate_file, hstate_of
from mmigrate.linux.include.mm import (
    MAP_FIXED,
    MAP_GROWSDOWN,
    MAP_HUGE_MASK,
    MAP_HUGE_SHIFT,
    MAP_HUGETLB,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_SPECIAL,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import File, Inode, Mm, Vma
from mmigrate.linux.include.pgtable import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    TASK_SIZE,
)
from mmigrate.linux.include.sched import Task, capable
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import WRITE_ONCE, atomic_dec, atomic_inc
from mmigrate.linux.kernel.bug import WARN_ON_ONCE
from mmigrate.linux.kernel.rwsem import down_write
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.mm import (
    gup,
    khugepaged,
    memory,
    mempolicy,
    mlock,
    mmu_notifier,
    rmap,
    shmem,
    swap,
)
from mmigrate.linux.mm.vma import __split_vma as __split_vma
from mmigrate.linux.mm.vma import __vma_link_file as __vma_link_file
from mmigrate.linux.mm.vma import (
    anon_vma_interval_tree_post_update_vma as anon_vma_interval_tree_post_update_vma,
)
from mmigrate.linux.mm.vma import (
    anon_vma_interval_tree_pre_update_vma as anon_vma_interval_tree_pre_update_vma,
)
from mmigrate.linux.mm.vma import area_below as area_below
from mmigrate.linux.mm.vma import can_vma_merge_after as can_vma_merge_after
from mmigrate.linux.mm.vma import can_vma_merge_before as can_vma_merge_before
from mmigrate.linux.mm.vma import copy_vm_area_struct as copy_vm_area_struct
from mmigrate.linux.mm.vma import copy_vma as copy_vma
from mmigrate.linux.mm.vma import find_vma as find_vma
from mmigrate.linux.mm.vma import find_vma_intersection as find_vma_intersection
from mmigrate.linux.mm.vma import find_vma_prev as find_vma_prev
from mmigrate.linux.mm.vma import insert_vm_struct as insert_vm_struct
from mmigrate.linux.mm.vma import is_mergeable_anon_vma as is_mergeable_anon_vma
from mmigrate.linux.mm.vma import is_mergeable_vma as is_mergeable_vma
from mmigrate.linux.mm.vma import mapping_cap_account_dirty as mapping_cap_account_dirty
from mmigrate.linux.mm.vma import split_vma as split_vma
from mmigrate.linux.mm.vma import sysctl_max_map_count as sysctl_max_map_count
from mmigrate.linux.mm.vma import unlink_file_vma as unlink_file_vma
from mmigrate.linux.mm.vma import vm_get_page_prot as vm_get_page_prot
from mmigrate.linux.mm.vma import vma_adjust as vma_adjust
from mmigrate.linux.mm.vma import vma_link as vma_link
from mmigrate.linux.mm.vma import vma_merge as vma_merge
from mmigrate.linux.mm.vma import vma_next as vma_next
from mmigrate.linux.mm.vma import vma_pages as vma_pages
from mmigrate.linux.mm.vma import vma_position as vma_position
from mmigrate.linux.mm.vma import vma_prev as vma_prev
from mmigrate.linux.mm.vma import vma_set_page_prot as vma_set_page_prot
from mmigrate.linux.mm.vma import vma_wants_writenotify as vma_wants_writenotify

mmap_min_addr: Final = 65536
RLIMIT_MEMLOCK: Final[int] = 64 << 10  # bytes
RLIMIT_STACK: Final[int] = 8 << 20
RLIMIT_AS: Final = (1 << 64) - 1  # unlimited
MMAP_BASE: Final = TASK_SIZE - (128 << 20)  # leaves room for the stack; nothing is random
TASK_UNMAPPED_BASE: Final = (TASK_SIZE // 3 + PAGE_SIZE - 1) & PAGE_MASK
USER_PGTABLES_CEILING: Final = 1 << 47
MAP_TYPE: Final = 0x0F
MAP_NONBLOCK: Final = 0x10000
VM_DATA_DEFAULT_FLAGS: Final = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
VM_ACCESS_FLAGS: Final = VM_READ | VM_WRITE | VM_EXEC


def page_align(size: int) -> int:
    return (size + PAGE_SIZE - 1) & PAGE_MASK


def is_error(value: int) -> bool:
    """Whether an address is a negative errno  (include/linux/err.h: IS_ERR_VALUE)."""
    return value < 0


def find_extend_vma(mm: Mm, addr: int) -> Vma | None:
    """The area at @addr; a stack just above is grown to it  (mm/mmap.c: find_extend_vma)."""
    addr &= PAGE_MASK
    vma = find_vma(mm, addr)
    if vma is None or vma.vm_start <= addr:
        return vma
    if not vma.vm_flags & VM_GROWSDOWN:
        return None
    start = vma.vm_start
    if expand_stack(vma, addr):
        return None
    if vma.vm_flags & VM_LOCKED:
        gup.populate_vma_page_range(vma, addr, start)
    return vma


# --- choosing an address ---


def get_unmapped_area(file: File | None, addr: int, length: int, pgoff: int, flags: int) -> int:
    """Where a new mapping of the running task goes, or -errno
    (mm/mmap.c: get_unmapped_area)."""
    if length > TASK_SIZE:
        return -ENOMEM
    h = hstate_file(file)
    if h is not None:
        return hugetlb_get_unmapped_area(h, addr, length, flags)
    addr = _arch_get_unmapped_area_topdown(addr, length, flags)
    if is_error(addr):
        return addr
    if addr > TASK_SIZE - length:
        return -ENOMEM
    return -EINVAL if addr & ~PAGE_MASK else addr


def _arch_get_unmapped_area_topdown(addr: int, length: int, flags: int) -> int:
    """As high as possible below mmap_base, unless the caller has a wish that can be
    granted  (arch/x86/kernel/sys_x86_64.c: arch_get_unmapped_area_topdown)."""
    if flags & MAP_FIXED:
        return addr
    mm = sched.task.mm
    assert mm is not None
    if addr:
        addr = page_align(addr)
        if TASK_SIZE - length >= addr and find_vma_intersection(mm, addr, addr + length) is None:
            return addr
    ceiling = mm.mmap_base
    for vma in reversed(mm.mmap):
        if ceiling - vma.vm_end >= length:
            break
        ceiling = min(ceiling, vma.vm_start)
    if ceiling - length >= PAGE_SIZE:
        return ceiling - length
    # Nothing there: first fit from below, as without a limit on the stack.
    floor = TASK_UNMAPPED_BASE
    for vma in mm.mmap:
        if vma.vm_start - floor >= length:
            break
        floor = max(floor, vma.vm_end)
    return floor if floor + length <= TASK_SIZE else -ENOMEM


def hugetlb_get_unmapped_area(h: Hstate, addr: int, length: int, flags: int) -> int:
    """The same for huge pages: addresses are multiples of their size
    (arch/x86/mm/hugetlbpage.c: hugetlb_get_unmapped_area)."""
    if length & ~h.mask:
        return -EINVAL
    if flags & MAP_FIXED:
        return -EINVAL if addr & ~h.mask else addr
    mm = sched.task.mm
    assert mm is not None
    if addr:
        addr = (addr + h.size - 1) & h.mask
        if TASK_SIZE - length >= addr and find_vma_intersection(mm, addr, addr + length) is None:
            return addr
    ceiling = mm.mmap_base & h.mask
    for vma in reversed(mm.mmap):
        if ceiling - vma.vm_end >= length:
            break
        ceiling = min(ceiling, vma.vm_start & h.mask)
    return ceiling - length if ceiling - length >= h.size else -ENOMEM


# --- limits ---


def may_lock_more(task: Task, pages: int) -> bool:
    """Whether @task may have this many pages locked."""
    return pages <= RLIMIT_MEMLOCK >> PAGE_SHIFT or capable(task, "CAP_IPC_LOCK")


def mlock_future_check(task: Task, mm: Mm, flags: int, length: int) -> int:
    """0, or -EAGAIN if a new locked mapping would exceed the limit
    (mm/mmap.c: mlock_future_check)."""
    if flags & VM_LOCKED and not may_lock_more(task, mm.locked_vm + (length >> PAGE_SHIFT)):
        return -EAGAIN
    return 0


def may_expand_vm(mm: Mm, npages: int) -> bool:
    """Whether the address space may grow by @npages  (mm/mmap.c: may_expand_vm)."""
    return mm.total_vm + npages <= RLIMIT_AS >> PAGE_SHIFT


# --- mapping ---


def do_mmap(
    task: Task, addr: int, length: int, prot: int, flags: int, file: File | None, pgoff: int
) -> int:
    """The system call mmap; the address, or -errno  (mm/mmap.c: sys_mmap_pgoff)."""
    mm = task.mm
    assert mm is not None
    h = hstate_file(file)
    if h is not None:
        length = (length + h.size - 1) & h.mask
    elif flags & MAP_HUGETLB:
        h = hstate_of(task.kernel, 1 << (flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK or PMD_SHIFT))
        if file is not None or h is None:
            return -EINVAL
        length = (length + h.size - 1) & h.mask
        inode: Inode = task.kernel.hugetlb.file_setup(task.kernel, length, h)
        file = File(inode, VM_READ | VM_WRITE)
    with down_write(mm.mmap_sem):
        addr, populate = do_mmap_pgoff(task, file, addr, length, prot, flags, pgoff)
    if populate:
        gup.__mm_populate(addr, populate, True)
    return addr


def do_mmap_pgoff(
    task: Task, file: File | None, addr: int, length: int, prot: int, flags: int, pgoff: int
) -> tuple[int, int]:
    """mmap with mmap_sem held for write: (address or -errno, bytes to fault in)
    (mm/mmap.c: do_mmap_pgoff)."""
    mm = task.mm
    assert mm is not None
    if not length:
        return -EINVAL, 0
    if not flags & MAP_FIXED:
        addr &= PAGE_MASK
        if 0 < addr < mmap_min_addr:
            addr = mmap_min_addr
    length = page_align(length)
    if pgoff + (length >> PAGE_SHIFT) >= 1 << 64 - PAGE_SHIFT:
        return -EOVERFLOW, 0
    if mm.map_count > sysctl_max_map_count:
        return -ENOMEM, 0
    addr = get_unmapped_area(file, addr, length, pgoff, flags)
    if is_error(addr):
        return addr, 0

    vm_flags = prot & VM_ACCESS_FLAGS | mm.def_flags | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    vm_flags |= flags & MAP_GROWSDOWN and VM_GROWSDOWN
    if flags & MAP_LOCKED:
        if not mlock.can_do_mlock(task):
            return -EPERM, 0
        vm_flags |= VM_LOCKED
    error = mlock_future_check(task, mm, vm_flags, length)
    if error:
        return error, 0
    kind = flags & MAP_TYPE
    if kind not in (MAP_SHARED, MAP_PRIVATE):
        return -EINVAL, 0
    if file is not None:
        if kind == MAP_SHARED:
            if prot & VM_WRITE and not file.f_mode & VM_WRITE:
                return -EACCES, 0
            vm_flags |= VM_SHARED | VM_MAYSHARE
            if not file.f_mode & VM_WRITE:
                vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
        if not file.f_mode & VM_READ:
            return -EACCES, 0
        if vm_flags & VM_GROWSDOWN:
            return -EINVAL, 0
    elif kind == MAP_SHARED:
        if vm_flags & VM_GROWSDOWN:
            return -EINVAL, 0
        pgoff = 0
        vm_flags |= VM_SHARED | VM_MAYSHARE
    else:
        # Private anonymous memory counts its offsets from address 0, so that neighbours
        # can be merged.
        pgoff = addr >> PAGE_SHIFT
    if flags & MAP_NORESERVE:
        vm_flags |= VM_NORESERVE

    addr = mmap_region(file, addr, length, vm_flags, pgoff)
    populate = not is_error(addr) and (
        vm_flags & VM_LOCKED or flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE
    )
    return addr, length if populate else 0


def mmap_region(file: File | None, addr: int, length: int, vm_flags: int, pgoff: int) -> int:
    """Map a range of the running task, whatever was there before: extend a neighbour or
    make a new area.  The address, or -errno  (mm/mmap.c: mmap_region)."""
    mm = sched.task.mm
    assert mm is not None
    end = addr + length
    if not may_expand_vm(mm, length >> PAGE_SHIFT):
        return -ENOMEM
    if find_vma_intersection(mm, addr, end) is not None and do_munmap(mm, addr, length):
        return -ENOMEM
    if vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE and hstate_file(file) is None:
        vm_flags |= VM_ACCOUNT

    vma = vma_merge(mm, area_below(mm, addr), addr, end, vm_flags, None, file, pgoff, None)
    if vma is None:
        vma = Vma(mm, addr, end, vm_flags, vm_get_page_prot(vm_flags), pgoff)
        if file is not None:
            mapping = file.f_mapping
            if vm_flags & VM_SHARED:
                atomic_inc(mapping, "i_mmap_writable")  # keeps it writable until we are linked
            vma.vm_file = file
            error = _call_mmap(file, vma)
            if error:
                vma.vm_file = None
                if vm_flags & VM_SHARED:
                    atomic_dec(mapping, "i_mmap_writable")
                return error
            WARN_ON_ONCE(addr != vma.vm_start, "a file's mmap method moved the area")
            vm_flags = vma.vm_flags
        elif vm_flags & VM_SHARED:
            error = shmem.shmem_zero_setup(vma)
            if error:
                return error
        vma_link(mm, vma)
        if file is not None and vm_flags & VM_SHARED:
            atomic_dec(file.f_mapping, "i_mmap_writable")

    mm.total_vm += length >> PAGE_SHIFT
    new_flags = vma.vm_flags | VM_SOFTDIRTY
    if vm_flags & VM_LOCKED:
        if vm_flags & VM_SPECIAL:
            new_flags &= ~VM_LOCKED
        else:
            mm.locked_vm += length >> PAGE_SHIFT
    WRITE_ONCE(vma, "vm_flags", new_flags)
    vma_set_page_prot(vma)
    return addr


def _call_mmap(file: File, vma: Vma) -> int:
    """The file's mmap method, which sets vm_ops; -ENODEV if it has none."""
    operations = file.f_inode.fs.file_ops if file.f_op is None else file.f_op
    return -ENODEV if operations.mmap is None else int(operations.mmap(file, vma))


# --- unmapping ---


def unmap_region(
    mm: Mm, areas: Sequence[Vma], prev: Vma | None, following: Vma | None, start: int, end: int
) -> None:
    """Take pages, ptes and page tables away from areas that are detached already
    (mm/mmap.c: unmap_region)."""
    swap.lru_add_drain()
    rmap.update_hiwater_rss(mm)
    floor = 0 if prev is None else prev.vm_end
    ceiling = USER_PGTABLES_CEILING if following is None else following.vm_start
    memory.unmap_vmas(mm, areas, start, end)
    memory.free_pgtables(mm, areas, floor, ceiling)


def do_munmap(mm: Mm, start: int, length: int) -> int:
    """Unmap a range, mapped or not.  0 or -errno; mmap_sem is held for write
    (mm/mmap.c: do_munmap)."""
    if start & ~PAGE_MASK or start > TASK_SIZE or length > TASK_SIZE - start:
        return -EINVAL
    length = page_align(length)
    if not length:
        return -EINVAL
    vma = find_vma(mm, start)
    end = start + length
    if vma is None or vma.vm_start >= end:
        return 0

    if start > vma.vm_start:
        # Only a hole adds an area; cutting one off may exceed the limit for a moment.
        if end < vma.vm_end and mm.map_count >= sysctl_max_map_count:
            return -ENOMEM
        error = __split_vma(mm, vma, start, False)
        if error:
            return error
    last = find_vma(mm, end)
    if last is not None and end > last.vm_start:
        error = __split_vma(mm, last, end, True)
        if error:
            return error
    first = bisect_right(mm.starts, start - 1)
    beyond = bisect_right(mm.starts, end - 1)
    areas = mm.mmap[first:beyond]

    if mm.locked_vm:
        for area in areas:
            if area.vm_flags & VM_LOCKED:
                mm.locked_vm -= vma_pages(area)
                mlock.munlock_vma_pages_range(area, area.vm_start, area.vm_end)

    # From here on faults and find_vma do not see them; walks of the reverse map do, until
    # free_pgtables has unlinked them.
    del mm.mmap[first:beyond], mm.starts[first:beyond]
    mm.map_count -= len(areas)
    prev = mm.mmap[first - 1] if first else None
    following = mm.mmap[first] if first < len(mm.mmap) else None
    unmap_region(mm, areas, prev, following, start, end)
    for area in areas:
        mm.total_vm -= vma_pages(area)
        _remove_vma(area)
    return 0


def _remove_vma(vma: Vma) -> None:
    """The end of an area  (mm/mmap.c: remove_vma)."""
    if vma.vm_ops is not None and vma.vm_ops.close is not None:
        vma.vm_ops.close(vma)
    mempolicy.mpol_put(vma.vm_policy)


def vm_munmap(task: Task, start: int, length: int) -> int:
    """mm/mmap.c: vm_munmap."""
    mm = task.mm
    assert mm is not None
    with down_write(mm.mmap_sem):
        return do_munmap(mm, start, length)


def sys_munmap(task: Task, start: int, length: int) -> int:
    """The system call munmap  (mm/mmap.c: sys_munmap)."""
    return vm_munmap(task, start, length)


def exit_mmap(mm: Mm) -> None:
    """Unmap everything: the last user of @mm is gone, so mmap_sem is not needed
    (mm/mmap.c: exit_mmap)."""
    mmu_notifier.mmu_notifier_release(mm)
    areas = mm.mmap
    if mm.locked_vm:
        for vma in areas:
            if vma.vm_flags & VM_LOCKED:
                mlock.munlock_vma_pages_range(vma, vma.vm_start, vma.vm_end)
        mm.locked_vm = 0
    if not areas:
        return
    mm.mmap, mm.starts, mm.map_count = [], [], 0
    swap.lru_add_drain()
    memory.unmap_vmas(mm, areas, 0, TASK_SIZE)
    memory.free_pgtables(mm, areas, 0, USER_PGTABLES_CEILING)
    for vma in areas:
        _remove_vma(vma)
    mm.total_vm = 0


# --- the heap ---


def sys_brk(task: Task, brk: int) -> int:
    """The system call brk: where the heap ends now  (mm/mmap.c: sys_brk)."""
    mm = task.mm
    assert mm is not None
    with down_write(mm.mmap_sem):
        if brk < mm.start_brk:
            return mm.brk
        newbrk, oldbrk = page_align(brk), page_align(mm.brk)
        if newbrk < oldbrk:
            if do_munmap(mm, newbrk, oldbrk - newbrk):
                return mm.brk
        elif newbrk > oldbrk:
            if find_vma_intersection(mm, oldbrk, newbrk + PAGE_SIZE) is not None:
                return mm.brk
            if do_brk(task, oldbrk, newbrk - oldbrk) != oldbrk:
                return mm.brk
        mm.brk = brk
        populate = newbrk > oldbrk and mm.def_flags & VM_LOCKED
    if populate:
        gup.__mm_populate(oldbrk, newbrk - oldbrk, True)
    return brk


def do_brk(task: Task, addr: int, length: int) -> int:
    """Map anonymous memory, in a shorter way than mmap  (mm/mmap.c: do_brk)."""
    mm = task.mm
    assert mm is not None
    length = page_align(length)
    if not length:
        return addr
    flags = VM_DATA_DEFAULT_FLAGS | VM_ACCOUNT | mm.def_flags
    error = get_unmapped_area(None, addr, length, 0, MAP_FIXED)
    if is_error(error):
        return error
    error = mlock_future_check(task, mm, mm.def_flags, length)
    if error:
        return error
    if find_vma_intersection(mm, addr, addr + length) is not None and do_munmap(mm, addr, length):
        return -ENOMEM
    if mm.map_count > sysctl_max_map_count:
        return -ENOMEM
    pgoff = addr >> PAGE_SHIFT
    prev = area_below(mm, addr)
    vma = vma_merge(mm, prev, addr, addr + length, flags, None, None, pgoff, None)
    if vma is None:
        vma = Vma(mm, addr, addr + length, flags, vm_get_page_prot(flags), pgoff)
        vma_link(mm, vma)
    mm.total_vm += length >> PAGE_SHIFT
    if flags & VM_LOCKED:
        mm.locked_vm += length >> PAGE_SHIFT
    WRITE_ONCE(vma, "vm_flags", vma.vm_flags | VM_SOFTDIRTY)
    return addr


# --- stacks ---


def expand_stack(vma: Vma, address: int) -> int:
    """Grow a stack down to @address, unless it would touch something that is no stack.
    0 or -ENOMEM  (mm/mmap.c: expand_stack)."""
    address &= PAGE_MASK
    prev = vma_prev(vma)
    if prev is not None and prev.vm_end == address and not prev.vm_flags & VM_GROWSDOWN:
        return -ENOMEM
    return expand_downwards(vma, address)


def expand_downwards(vma: Vma, address: int) -> int:
    """mm/mmap.c: expand_downwards.  mmap_sem is held for read only: the anon_vma's lock
    keeps two faults, and the page_table_lock two areas, from growing at once."""
    error = rmap.anon_vma_prepare(vma)
    if error:
        return error
    mm = vma.vm_mm
    address &= PAGE_MASK
    with rmap.anon_vma_lock_write(rmap.owning_anon_vma(vma)):
        if address >= vma.vm_start:
            return 0  # somebody else was faster
        grow = (vma.vm_start - address) >> PAGE_SHIFT
        if grow > vma.vm_pgoff:
            return -ENOMEM
        error = _acct_stack_growth(vma, vma.vm_end - address, grow)
        if error:
            return error
        with spin_lock(mm.page_table_lock):
            position = vma_position(vma)
            anon_vma_interval_tree_pre_update_vma(vma)
            vma.vm_start = mm.starts[position] = address
            vma.vm_pgoff -= grow
            anon_vma_interval_tree_post_update_vma(vma)
    khugepaged.khugepaged_enter_vma_merge(vma, vma.vm_flags)
    return 0


def _acct_stack_growth(vma: Vma, size: int, grow: int) -> int:
    """mm/mmap.c: acct_stack_growth."""
    mm = vma.vm_mm
    if size > RLIMIT_STACK:
        return -ENOMEM
    if vma.vm_flags & VM_LOCKED:
        if not may_lock_more(sched.task, mm.locked_vm + grow):
            return -ENOMEM
        mm.locked_vm += grow
    mm.total_vm += grow
    return 0
