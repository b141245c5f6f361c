"""Translation lookaside buffers, and the hardware that walks page tables  (arch/x86/mm/tlb.c).

A user access goes through the TLB of its CPU until the translation is flushed. An
instruction is atomic against the flush of another CPU, because that arrives as an
interrupt: `irqs_off` of the CPU is raised for its duration.

Differs: a TLB has 1536 places and gives up the oldest; the kernel cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_RW,
    _PAGE_USER,
    PAGE_SHIFT,
    PTE_PFN_MASK,
)
from mmigrate.linux.include.sched import Cpu, Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import WRITE
from mmigrate.linux.kernel.straight import hot

TLB_PLACES: Final = 1536


def switch_mm(cpu: Cpu, mm: Mm | None) -> None:
    """The CPU changes its address space: all translations go (no PCIDs in v3.19)."""
    previous = cpu.active_mm
    if previous is mm:
        return
    if previous is not None:
        previous.cpu_vm_mask &= ~(1 << cpu.number)
    cpu.tlb.clear()
    cpu.active_mm = mm
    if mm is not None:
        mm.cpu_vm_mask |= 1 << cpu.number


def user_access(task: Task, addr: int, write: bool, touch: Callable[[Page], None]) -> bool:
    """One load or store of the running task at @addr: translate, then touch(page).

    False if the hardware faults; nothing has been touched then.
    """
    cpu, mm = task.cpu, task.mm
    assert mm is not None
    sched.local_irq_disable()
    try:
        switch_mm(cpu, mm)  # another task may have had the CPU
        pte = _translate(cpu, mm, addr, write)
        if pte is None:
            return False
        page = mm.kernel.page_of((pte & PTE_PFN_MASK) >> PAGE_SHIFT)
        if sched.hook is not None:
            sched.hook.announce(page, "data", WRITE if write else sched.READ)
        touch(page)
        return True
    finally:
        sched.local_irq_enable()


def _translate(cpu: Cpu, mm: Mm, addr: int, write: bool) -> int | None:
    vpn = addr >> PAGE_SHIFT
    tlb = cpu.tlb
    pte = tlb.get(vpn)
    needed = _PAGE_RW | _PAGE_DIRTY if write else 0
    if pte is not None and pte & needed == needed:
        return pte
    table = mm.pgd.entries[(addr >> 39) & 511]
    table = table and table.entries[(addr >> 30) & 511]
    leaf = table and table.entries[(addr >> 21) & 511]
    if type(leaf) is not PageTable:
        return None
    index = vpn & 511
    if sched.hook is not None:
        sched.hook.announce(leaf, index, WRITE)  # the walk sets accessed and dirty
    pte = leaf.entries[index]
    assert isinstance(pte, int)
    wanted = _PAGE_PRESENT | _PAGE_USER | (_PAGE_RW if write else 0)
    if pte & wanted != wanted:
        tlb.pop(vpn, None)  # a fault drops the translation of its address
        return None
    pte |= _PAGE_ACCESSED | (_PAGE_DIRTY if write else 0)
    leaf.entries[index] = pte
    if len(tlb) >= TLB_PLACES:
        del tlb[next(iter(tlb))]
    tlb[vpn] = pte
    return pte


@hot
def flush_tlb_page(vma: Vma, addr: int) -> None:
    """Drop one translation on every CPU that runs the mm, and wait until that is done."""
    mm = vma.vm_mm
    mask = mm.cpu_vm_mask
    if mask:
        vpn = addr >> PAGE_SHIFT
        for cpu in mm.kernel.cpus:
            if mask >> cpu.number & 1:
                _interrupt(cpu)
                cpu.tlb.pop(vpn, None)


def flush_tlb_range(vma: Vma, start: int, end: int) -> None:
    mm = vma.vm_mm
    if mm.cpu_vm_mask:
        first, last = start >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT
        if last - first >= 33:
            flush_tlb_mm(mm)
            return
        for cpu in mm.kernel.cpus:
            if mm.cpu_vm_mask >> cpu.number & 1:
                _interrupt(cpu)
                for vpn in range(first, last + 1):
                    cpu.tlb.pop(vpn, None)


def flush_tlb_mm(mm: Mm) -> None:
    for cpu in mm.kernel.cpus:
        if mm.cpu_vm_mask >> cpu.number & 1:
            _interrupt(cpu)
            cpu.tlb.clear()


def _interrupt(cpu: Cpu) -> None:
    """Reach a CPU: it must have its interrupts on, or be the caller's own."""
    if sched.hook is not None:
        mine = sched.task.cpu is cpu and sched.task.preempt_count
        sched.block(
            cpu,
            "tlb",
            WRITE,
            lambda: bool(mine) or not cpu.irqs_off,
            f"{cpu!r} to take an interrupt",
        )
