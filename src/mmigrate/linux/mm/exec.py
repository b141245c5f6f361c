"""The stack of a new program  (fs/exec.c).

execve writes the arguments into a stack at the very top of the new address space, before
it knows where the stack will be, and then moves it down. While it moves, an address
computed from a page's offset leads to where the pte is not yet. Therefore migration leaves
such an area alone as long as it has VM_STACK_INCOMPLETE_SETUP.

Differs: only the stack; no program is loaded.
"""

from __future__ import annotations

from errno import E2BIG, EFAULT, ENOMEM
from typing import Final

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.mm import (
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_READ,
    VM_SOFTDIRTY,
    VM_STACK_INCOMPLETE_SETUP,
    VM_WRITE,
)
from mmigrate.linux.include.mm_types import Mm, Page, Vma
from mmigrate.linux.include.pgtable import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, TASK_SIZE
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.atomic import WRITE_ONCE
from mmigrate.linux.kernel.bug import BUG_ON
from mmigrate.linux.kernel.highmem import copy_to_page
from mmigrate.linux.kernel.rwsem import down_read, down_write
from mmigrate.linux.mm import fork, gup, memory, mmap, mprotect, mremap, swap

STACK_TOP: Final = TASK_SIZE
STACK_EXPAND: Final = 131072  # how far it is grown in advance
ARG_MAX: Final = 131072  # what is always allowed
VM_STACK_FLAGS: Final = (
    VM_GROWSDOWN | VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT
)


class LinuxBinprm:
    """What execve knows of the new program  (struct linux_binprm).

    @p: the address below which the next string goes.
    """

    __slots__ = ("mm", "p", "vma")

    def __init__(self, mm: Mm, vma: Vma) -> None:
        self.mm = mm
        self.vma = vma
        self.p = vma.vm_end - 8


def bprm_mm_init(kernel: Kernel, name: str) -> LinuxBinprm:
    """A new address space with a temporary stack of one page at its top
    (fs/exec.c: bprm_mm_init)."""
    mm = fork.mm_alloc(kernel, name)
    flags = VM_SOFTDIRTY | VM_STACK_FLAGS | VM_STACK_INCOMPLETE_SETUP
    start = STACK_TOP - PAGE_SIZE
    vma = Vma(mm, start, STACK_TOP, flags, mmap.vm_get_page_prot(flags), start >> PAGE_SHIFT)
    with down_write(mm.mmap_sem):
        error = mmap.insert_vm_struct(mm, vma)
        BUG_ON(error != 0, "no room for a stack in an empty address space", mm)
        mm.total_vm = 1
    return LinuxBinprm(mm, vma)


def get_arg_page(bprm: LinuxBinprm, pos: int) -> Page | None:
    """The page at @pos of the temporary stack, with a reference; the stack grows to it
    (fs/exec.c: get_arg_page).

    Differs: mmap_sem is taken, though nobody else has the mm: the model's locks are checked.
    """
    with down_read(bprm.mm.mmap_sem):
        if mmap.expand_downwards(bprm.vma, pos):
            return None
        found = gup.get_user_pages(sched.task, bprm.mm, pos, 1, True, True)
    if isinstance(found, int) or not found:
        return None
    size = bprm.vma.vm_end - bprm.vma.vm_start
    if size > ARG_MAX and size > mmap.RLIMIT_STACK // 4:
        swap.put_page(found[0])  # the program wants some stack, too
        return None
    return found[0]


def copy_strings(bprm: LinuxBinprm, data: bytes) -> int:
    """Push bytes onto the temporary stack.  0 or -E2BIG  (fs/exec.c: copy_strings)."""
    remaining = data
    while remaining:
        offset = bprm.p & ~PAGE_MASK or PAGE_SIZE
        part = remaining[-offset:]
        bprm.p -= len(part)
        page = get_arg_page(bprm, bprm.p & PAGE_MASK)
        if page is None:
            return -E2BIG
        copy_to_page(page, bprm.p & ~PAGE_MASK, part)
        swap.put_page(page)
        remaining = remaining[: -len(part)]
    return 0


def setup_arg_pages(bprm: LinuxBinprm, stack_top: int) -> int:
    """Move the stack so that it ends at @stack_top, and make it an ordinary one.
    0 or -errno  (fs/exec.c: setup_arg_pages)."""
    mm, vma = bprm.mm, bprm.vma
    stack_top = mmap.page_align(stack_top)
    room = stack_top - mmap.mmap_min_addr
    if room < 0 or vma.vm_end - vma.vm_start >= room:
        return -ENOMEM
    stack_shift = vma.vm_end - stack_top
    bprm.p -= stack_shift
    with down_write(mm.mmap_sem):
        vm_flags = VM_STACK_FLAGS | mm.def_flags | VM_STACK_INCOMPLETE_SETUP
        error, prev = mprotect.mprotect_fixup(vma, None, vma.vm_start, vma.vm_end, vm_flags)
        if error:
            return error
        BUG_ON(prev is not vma, "a stack alone in its address space was merged", vma)
        if stack_shift:
            error = shift_arg_pages(vma, stack_shift)
            if error:
                return error
        WRITE_ONCE(vma, "vm_flags", vma.vm_flags & ~VM_STACK_INCOMPLETE_SETUP)
        limit = mmap.RLIMIT_STACK & PAGE_MASK
        if vma.vm_end - vma.vm_start + STACK_EXPAND > limit:
            stack_base = vma.vm_end - limit
        else:
            stack_base = vma.vm_start - STACK_EXPAND
        mm.start_stack = bprm.p
        return -EFAULT if mmap.expand_stack(vma, stack_base) else 0


def shift_arg_pages(vma: Vma, shift: int) -> int:
    """Move a temporary stack down by @shift bytes: first the area covers both places, then
    the ptes move, then it shrinks.  The offsets of the pages stay
    (fs/exec.c: shift_arg_pages)."""
    mm = vma.vm_mm
    old_start, old_end = vma.vm_start, vma.vm_end
    length = old_end - old_start
    new_start, new_end = old_start - shift, old_end - shift
    BUG_ON(new_start > new_end, "a stack is moved down only", vma)
    if mmap.find_vma(mm, new_start) is not vma:
        return -EFAULT
    # From here on addresses computed from offsets lead to the new place.
    if mmap.vma_adjust(vma, new_start, old_end, vma.vm_pgoff, None):
        return -ENOMEM
    if mremap.move_page_tables(vma, old_start, vma, new_start, length, False) != length:
        return -ENOMEM
    swap.lru_add_drain()
    above = mmap.vma_next(vma)
    ceiling = mmap.USER_PGTABLES_CEILING if above is None else above.vm_start
    memory.free_pgd_range(mm, max(new_end, old_start), old_end, new_end, ceiling)
    mmap.vma_adjust(vma, new_start, new_end, vma.vm_pgoff, None)
    return 0
