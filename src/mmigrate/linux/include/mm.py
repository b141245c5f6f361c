"""Flags of memory areas, faults and lookups  (include/linux/mm.h, mman.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mmigrate.linux.include.mm_types import Page, PageTable

VM_READ: Final = 0x1
VM_WRITE: Final = 0x2
VM_EXEC: Final = 0x4
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_PFNMAP: Final = 0x400
VM_LOCKED: Final = 0x2000
VM_IO: Final = 0x4000
VM_SEQ_READ: Final = 0x8000
VM_RAND_READ: Final = 0x10000
VM_DONTCOPY: Final = 0x20000
VM_DONTEXPAND: Final = 0x40000
VM_ACCOUNT: Final = 0x100000
VM_NORESERVE: Final = 0x200000
VM_HUGETLB: Final = 0x400000
VM_NONLINEAR: Final = 0x800000
VM_DONTDUMP: Final = 0x04000000
VM_SOFTDIRTY: Final = 0x08000000
VM_MIXEDMAP: Final = 0x10000000
VM_HUGEPAGE: Final = 0x20000000
VM_NOHUGEPAGE: Final = 0x40000000
VM_MERGEABLE: Final = 0x80000000
VM_SPECIAL: Final = VM_IO | VM_DONTEXPAND | VM_PFNMAP
VM_STACK_INCOMPLETE_SETUP: Final = VM_RAND_READ | VM_SEQ_READ

PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_GROWSDOWN: Final = 0x100
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_HUGETLB: Final = 0x40000
MAP_HUGE_SHIFT: Final = 26  # log2 of the size stands above it; 0: the default size
MAP_HUGE_MASK: Final = 0x3F

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2

MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2

MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_DONTDUMP: Final = 16
MADV_DODUMP: Final = 17
MADV_HWPOISON: Final = 100
MADV_SOFT_OFFLINE: Final = 101

FAULT_FLAG_WRITE: Final = 0x01
FAULT_FLAG_NONLINEAR: Final = 0x02
FAULT_FLAG_ALLOW_RETRY: Final = 0x04
FAULT_FLAG_RETRY_NOWAIT: Final = 0x08
FAULT_FLAG_TRIED: Final = 0x20
FAULT_FLAG_USER: Final = 0x40

VM_FAULT_MINOR: Final = 0
VM_FAULT_OOM: Final = 0x0001
VM_FAULT_SIGBUS: Final = 0x0002
VM_FAULT_MAJOR: Final = 0x0004
VM_FAULT_WRITE: Final = 0x0008
VM_FAULT_HWPOISON: Final = 0x0010
VM_FAULT_SIGSEGV: Final = 0x0040
VM_FAULT_NOPAGE: Final = 0x0100
VM_FAULT_LOCKED: Final = 0x0200
VM_FAULT_RETRY: Final = 0x0400
VM_FAULT_FALLBACK: Final = 0x0800
VM_FAULT_ERROR: Final = VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV | VM_FAULT_HWPOISON

FOLL_WRITE: Final = 0x01
FOLL_TOUCH: Final = 0x02
FOLL_GET: Final = 0x04
FOLL_DUMP: Final = 0x08
FOLL_FORCE: Final = 0x10
FOLL_NOWAIT: Final = 0x20
FOLL_MLOCK: Final = 0x40
FOLL_SPLIT: Final = 0x80
FOLL_HWPOISON: Final = 0x100
FOLL_NUMA: Final = 0x200
FOLL_MIGRATION: Final = 0x400

# try_to_unmap()  (include/linux/rmap.h)
TTU_UNMAP: Final = 1
TTU_MIGRATION: Final = 2
TTU_MUNLOCK: Final = 4
TTU_IGNORE_MLOCK: Final = 0x100
TTU_IGNORE_ACCESS: Final = 0x200
TTU_IGNORE_HWPOISON: Final = 0x400
SWAP_SUCCESS: Final = 0
SWAP_AGAIN: Final = 1
SWAP_FAIL: Final = 2
SWAP_MLOCK: Final = 3

AOP_WRITEPAGE_ACTIVATE: Final = 0x80000

PAGECACHE_TAG_DIRTY: Final = 0
PAGECACHE_TAG_WRITEBACK: Final = 1
PAGECACHE_TAG_TOWRITE: Final = 2

# address_space->flags
AS_EIO: Final = 1 << 0
AS_ENOSPC: Final = 1 << 1
AS_MM_ALL_LOCKS: Final = 1 << 2
AS_UNEVICTABLE: Final = 1 << 3
AS_EXITING: Final = 1 << 4

# task->flags
PF_EXITING: Final = 0x4
PF_MEMALLOC: Final = 0x800
PF_KSWAPD: Final = 0x40000
PF_SWAPWRITE: Final = 0x800000
PF_KTHREAD: Final = 0x200000

# __isolate_lru_page()
ISOLATE_CLEAN: Final = 0x1
ISOLATE_UNMAPPED: Final = 0x2
ISOLATE_ASYNC_MIGRATE: Final = 0x4
ISOLATE_UNEVICTABLE: Final = 0x8

SWAP_CLUSTER_MAX: Final = 32
PAGEVEC_SIZE: Final = 14


class VmFault:
    """What a fault method is told and what it answers  (struct vm_fault).

    @page: the answer of `fault`.  @cow_page: where a copy will go.  @max_pgoff, @pt: for
    `map_pages`, the last offset of the window, and its table of ptes.
    """

    __slots__ = ("cow_page", "flags", "max_pgoff", "page", "pgoff", "pt", "virtual_address")

    def __init__(self, flags: int, pgoff: int, virtual_address: int) -> None:
        self.flags = flags
        self.pgoff = pgoff
        self.virtual_address = virtual_address
        self.page: Page | None = None
        self.cow_page: Page | None = None
        self.max_pgoff = pgoff
        self.pt: PageTable | None = None
