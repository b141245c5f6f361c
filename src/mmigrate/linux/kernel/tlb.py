"""Translation lookaside buffers, and the hardware that walks page tables  (arch/x86/mm/tlb.c).

A user access goes through the TLB of its CPU until the translation is flushed. An
instruction is atomic against the flush of another CPU, because that arrives as an
interrupt: `irqs_off` of the CPU is raised for its duration. A huge page takes one
translation, in a part of the TLB of its own.

Differs: a TLB has 1536 places for pages and gives up the oldest; the kernel cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmigrate.linux.include.mm_types import Mm, Page, PageTable, Vma
from mmigrate.linux.include.pgtable import (
    _PAGE_ACCESSED,
    _PAGE_DIRTY,
    _PAGE_PRESENT,
    _PAGE_PSE,
    _PAGE_RW,
    _PAGE_USER,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SHIFT,
    PTE_PFN_MASK,
    PUD_SIZE,
    huge_part,
)
from mmigrate.linux.include.sched import Cpu, Task
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.sched import READ, WRITE
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
    cpu.huge_tlb.clear()
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
            sched.hook.announce(page, "data", WRITE if write else READ)
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
    if cpu.huge_tlb:
        pmd = cpu.huge_tlb.get(addr >> PMD_SHIFT)
        if pmd is not None and pmd & needed == needed:
            return huge_part(pmd, addr)
    table = mm.pgd.entries[(addr >> 39) & 511]
    table = table and table.entries[(addr >> 30) & 511]
    if type(table) is not PageTable:
        return None if table is None else _translate_gigantic(mm, addr, table, write)
    index = (addr >> PMD_SHIFT) & 511
    if sched.hook is not None:
        sched.hook.announce(table, index, WRITE if type(table.entries[index]) is int else READ)
    leaf = table.entries[index]
    if type(leaf) is not PageTable:
        return None if leaf is None else _translate_huge(cpu, table, index, addr, write)
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


def _translate_huge(cpu: Cpu, table: PageTable, index: int, addr: int, write: bool) -> int | None:
    pmd: int = table.entries[index]
    wanted = _PAGE_PRESENT | _PAGE_USER | (_PAGE_RW if write else 0)
    if pmd & wanted != wanted:
        cpu.huge_tlb.pop(addr >> PMD_SHIFT, None)
        return None
    pmd |= _PAGE_ACCESSED | (_PAGE_DIRTY if write else 0)
    table.entries[index] = pmd
    cpu.huge_tlb[addr >> PMD_SHIFT] = pmd
    return huge_part(pmd, addr)


def _translate_gigantic(mm: Mm, addr: int, pud: int, write: bool) -> int | None:
    """Differs: a translation of a page of 1 GiB is not kept; such pages never move."""
    puds: PageTable = mm.pgd.entries[(addr >> 39) & 511]
    index = (addr >> 30) & 511
    if sched.hook is not None:
        sched.hook.announce(puds, index, WRITE)
    wanted = _PAGE_PRESENT | _PAGE_USER | (_PAGE_RW if write else 0)
    if pud & wanted != wanted:
        return None
    pud |= _PAGE_ACCESSED | (_PAGE_DIRTY if write else 0)
    puds.entries[index] = pud
    return (pud & ~_PAGE_PSE) + (addr & (PUD_SIZE - PAGE_SIZE))


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
                if cpu.huge_tlb:  # one that covers the address goes too
                    cpu.huge_tlb.pop(addr >> PMD_SHIFT, None)


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
                    if cpu.huge_tlb:
                        cpu.huge_tlb.pop(vpn >> 9, None)


def flush_tlb_mm(mm: Mm) -> None:
    for cpu in mm.kernel.cpus:
        if mm.cpu_vm_mask >> cpu.number & 1:
            _interrupt(cpu)
            cpu.tlb.clear()
            cpu.huge_tlb.clear()


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
