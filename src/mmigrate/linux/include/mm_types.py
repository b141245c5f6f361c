"""Pages, address spaces and memory areas  (include/linux/mm_types.h, fs.h, rmap.h).

Fields stand in groups, each headed by the lock that guards it. Locks are created by the
code that initialises an object, as in C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mmigrate.errors import KernelBug
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PAGE_SIZE, PTRS_PER_PTE
from mmigrate.linux.lib.interval_tree import IntervalTree
from mmigrate.linux.lib.list import ListHead
from mmigrate.linux.lib.radix_tree import RadixTree

if TYPE_CHECKING:
    from mmigrate.linux.include.kernel import Kernel
    from mmigrate.linux.include.mempolicy import Mempolicy
    from mmigrate.linux.include.mmzone import Zone
    from mmigrate.linux.kernel.rwsem import RwSemaphore
    from mmigrate.linux.kernel.spinlock import SpinLock

ZERO_BYTES: Final = bytes(PAGE_SIZE)


class Poison:
    """What stands in the fields of a freed object: any use is a finding."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "POISON"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise KernelBug(f"use of a freed object: read {name} of what is not there any more")


POISON: Final = Poison()


class Page(ListHead):
    """One page frame.  Exists from the first allocation of the frame on.

    `next` and `prev` are the kernel's `page->lru`.
    """

    __slots__ = (
        "_count",
        "_last_cpupid",
        "_mapcount",
        "data",
        "first_page",
        "flags",
        "index",
        "mapping",
        "mem_cgroup",
        "pfn",
        "private",
        "zone",
    )

    pfn: Final[int]
    zone: Final[Zone]

    def __init__(self, pfn: int, zone: Zone) -> None:
        self.next = self
        self.prev = self
        # fixed at boot
        self.pfn = pfn
        self.zone = zone
        # atomic
        self.flags = 0
        self._count = 0
        self._mapcount = -1
        self._last_cpupid = -1
        # the page lock
        self.mapping: Any = None  # AddressSpace, AnonVma, a KSM stable node, None
        self.index: Any = 0
        self.private: Any = 0  # buffer ring, swap entry value, order of a free block, device
        self.mem_cgroup: Any = None
        # compound pages
        self.first_page: Page | None = None
        # contents: immutable bytes may be shared; None while the frame is free
        self.data: bytes | bytearray | None = None

    def __repr__(self) -> str:
        return f"pfn {self.pfn}"


class AddressSpace:
    """The pages of a file, or of a swap area  (struct address_space)."""

    __slots__ = (
        "a_ops",
        "anon",
        "backing_dev_info",
        "flags",
        "gfp_mask",
        "host",
        "i_mmap",
        "i_mmap_nonlinear",
        "i_mmap_rwsem",
        "i_mmap_writable",
        "ksm",
        "name",
        "nrpages",
        "nrshadows",
        "page_tree",
        "private_data",
        "private_list",
        "private_lock",
        "tree_lock",
        "writeback_index",
    )

    def __init__(
        self,
        name: str,
        host: Inode | None,
        a_ops: AddressSpaceOperations,
        tree_lock: SpinLock,
        private_lock: SpinLock,
        i_mmap_rwsem: RwSemaphore,
        *,
        gfp_mask: int,
        accounts_dirty: bool,
    ) -> None:
        # fixed
        self.anon = False  # PageAnon of a page whose mapping this is
        self.ksm = False
        self.name = name
        self.host = host
        self.a_ops = a_ops
        self.gfp_mask = gfp_mask
        self.backing_dev_info = BackingDevInfo(accounts_dirty)
        self.tree_lock = tree_lock
        self.private_lock = private_lock
        self.i_mmap_rwsem = i_mmap_rwsem
        # tree_lock for change, RCU for lookup
        self.page_tree = RadixTree(f"{name} pages")
        self.nrpages = 0
        self.nrshadows = 0
        # i_mmap_rwsem
        self.i_mmap: IntervalTree[Vma] = IntervalTree()
        self.i_mmap_nonlinear: list[Vma] = []
        # atomic
        self.i_mmap_writable = 0
        self.flags = 0
        self.writeback_index = 0
        # private_lock
        self.private_list: list[Any] = []
        self.private_data: Any = None

    def __repr__(self) -> str:
        return f"mapping {self.name}"


class BackingDevInfo:
    """Counters and abilities of the device behind a mapping."""

    __slots__ = (
        "accounts_dirty",
        "dirtied",
        "reclaimable",
        "stable_pages",
        "write_congested",
        "writeback",
        "written",
    )

    def __init__(self, accounts_dirty: bool) -> None:
        self.accounts_dirty = accounts_dirty  # and writeback
        self.stable_pages = False  # a page must not change while it is written
        self.write_congested = False  # reclaim had better not add to its queue
        self.writeback = 0
        self.reclaimable = 0
        self.dirtied = 0
        self.written = 0


class AddressSpaceOperations:
    """The methods of a mapping; None where a filesystem has none  (struct a_ops)."""

    __slots__ = (
        "invalidatepage",
        "is_dirty_writeback",
        "migratepage",
        "name",
        "readpage",
        "releasepage",
        "set_page_dirty",
        "write_begin",
        "write_end",
        "writepage",
    )

    def __init__(
        self,
        name: str,
        *,
        readpage: Callable[..., int] | None = None,
        writepage: Callable[..., int] | None = None,
        set_page_dirty: Callable[[Page], int] | None = None,
        releasepage: Callable[[Page, int], int] | None = None,
        invalidatepage: Callable[[Page, int, int], None] | None = None,
        migratepage: Callable[..., int] | None = None,
        write_begin: Callable[..., Any] | None = None,
        write_end: Callable[..., Any] | None = None,
        is_dirty_writeback: Callable[..., Any] | None = None,
    ) -> None:
        self.name = name
        self.readpage = readpage
        self.writepage = writepage
        self.set_page_dirty = set_page_dirty
        self.releasepage = releasepage
        self.invalidatepage = invalidatepage
        self.migratepage = migratepage
        self.write_begin = write_begin
        self.write_end = write_end
        self.is_dirty_writeback = is_dirty_writeback


class Inode:
    """A file of a modelled filesystem.  @blocks: what the disk holds, by page index."""

    __slots__ = (
        "blocks",
        "fs",
        "i_mapping",
        "i_mutex",
        "i_size",
        "i_state",
        "kernel",
        "name",
        "policy",
    )

    def __init__(self, kernel: Kernel, name: str, fs: Any, size: int) -> None:
        self.kernel = kernel
        self.name = name
        self.fs = fs  # the filesystem object: a room of linux/fs
        self.i_size = size  # bytes
        self.i_state = 0
        self.i_mapping: AddressSpace = None  # type: ignore[assignment]  # set by new_inode()
        self.i_mutex: RwSemaphore = None  # type: ignore[assignment]
        self.blocks: dict[int, bytes] = {}
        self.policy: Any = None  # shmem: the shared policy of the file

    def __repr__(self) -> str:
        return f"file {self.name}"


class FileOperations:
    """The methods of an open file that memory management uses  (struct file_operations)."""

    __slots__ = ("fallocate", "mmap")

    def __init__(
        self,
        *,
        mmap: Callable[[File, Vma], int],
        fallocate: Callable[[Inode, int, int], int] | None = None,
    ) -> None:
        self.mmap = mmap
        self.fallocate = fallocate  # punch a hole: (inode, start, length) in bytes


class File:
    """An open file  (struct file)."""

    __slots__ = ("f_inode", "f_mode", "f_op", "f_pos")

    def __init__(self, inode: Inode, f_mode: int, f_op: Any = None) -> None:
        self.f_inode = inode
        self.f_mode = f_mode  # VM_READ | VM_WRITE
        self.f_op = f_op
        self.f_pos = 0

    @property
    def f_mapping(self) -> AddressSpace:
        return self.f_inode.i_mapping


class AnonVma:
    """The root of a reverse map of anonymous memory  (struct anon_vma)."""

    __slots__ = (
        "anon",
        "degree",
        "ksm",
        "number",
        "parent",
        "rb_root",
        "refcount",
        "root",
        "rwsem",
    )

    def __init__(self, number: int, rwsem: RwSemaphore) -> None:
        self.anon = True  # PageAnon of a page whose mapping this is
        self.ksm = False
        self.number = number
        self.root: AnonVma = self
        self.parent: AnonVma = self
        self.rwsem = rwsem  # only the root's is ever taken
        # atomic
        self.refcount = 1
        # the root's rwsem
        self.degree = 1
        self.rb_root: IntervalTree[AnonVmaChain] = IntervalTree()

    def __repr__(self) -> str:
        return f"anon_vma {self.number}"


class AnonVmaChain:
    """Links one area with one anon_vma  (struct anon_vma_chain)."""

    __slots__ = ("anon_vma", "vma")

    def __init__(self, vma: Vma, anon_vma: AnonVma) -> None:
        self.vma = vma
        self.anon_vma = anon_vma

    def interval(self) -> tuple[int, int]:
        return self.vma.interval()


class VmOperations:
    """The methods of an area; None where it has none  (struct vm_operations_struct)."""

    __slots__ = (
        "close",
        "fault",
        "get_policy",
        "map_pages",
        "migrate",
        "name",
        "open",
        "page_mkwrite",
        "set_policy",
    )

    def __init__(
        self,
        name: str,
        *,
        open: Callable[[Vma], None] | None = None,
        close: Callable[[Vma], None] | None = None,
        fault: Callable[..., int] | None = None,
        map_pages: Callable[..., None] | None = None,
        page_mkwrite: Callable[..., int] | None = None,
        set_policy: Callable[[Vma, Mempolicy | None], int] | None = None,
        get_policy: Callable[[Vma, int], Mempolicy | None] | None = None,
        migrate: Callable[..., int] | None = None,
    ) -> None:
        self.name = name
        self.open = open
        self.close = close
        self.fault = fault
        self.map_pages = map_pages
        self.page_mkwrite = page_mkwrite
        self.set_policy = set_policy
        self.get_policy = get_policy
        self.migrate = migrate  # only looked at without commit 50062175ffc8


class Vma:
    """A range of addresses with one set of properties  (struct vm_area_struct)."""

    __slots__ = (
        "anon_vma",
        "anon_vma_chain",
        "number",
        "vm_end",
        "vm_file",
        "vm_flags",
        "vm_mm",
        "vm_ops",
        "vm_page_prot",
        "vm_pgoff",
        "vm_policy",
        "vm_private_data",
        "vm_start",
    )

    def __init__(
        self, mm: Mm, start: int, end: int, flags: int, page_prot: int, pgoff: int
    ) -> None:
        self.number = mm.next_vma_number()
        self.vm_mm = mm
        # mmap_sem for write, and the rmap locks
        self.vm_start = start
        self.vm_end = end
        self.vm_pgoff = pgoff
        # mmap_sem for write; read by rmap walks without it
        self.vm_flags = flags
        self.vm_page_prot = page_prot
        self.vm_ops: VmOperations | None = None
        self.vm_file: File | None = None
        self.vm_policy: Mempolicy | None = None
        self.vm_private_data: Any = None
        # page_table_lock to set, mmap_sem
        self.anon_vma: AnonVma | None = None
        # mmap_sem and the page_table_lock; newest first
        self.anon_vma_chain: list[AnonVmaChain] = []

    def __repr__(self) -> str:
        return f"{self.vm_mm!r} vma {self.number}"

    def interval(self) -> tuple[int, int]:
        """First and last page offset, the key of both reverse maps."""
        pgoff = self.vm_pgoff
        return pgoff, pgoff + ((self.vm_end - self.vm_start) >> PAGE_SHIFT) - 1


class PageTable:
    """One table of any level.  A leaf holds ptes; the others None, tables, or a huge entry.

    Differs: page tables take no page frames.
    """

    __slots__ = ("entries", "level", "number", "pmd_huge_pte", "ptl")

    level: Final[int]
    number: Final[int]
    ptl: Final[SpinLock]
    entries: Final[list[Any]]
    pmd_huge_pte: Final[list[PageTable]]

    def __init__(self, level: int, number: int, ptl: SpinLock) -> None:
        self.level = level  # 1: holds ptes, 2: pmds, 3: puds, 4: pgds
        self.number = number
        self.ptl = ptl
        # ptl
        self.entries = [0 if level == 1 else None] * PTRS_PER_PTE
        # level 2: tables of ptes kept for the day when a huge page is split, newest last
        self.pmd_huge_pte = []

    def __repr__(self) -> str:
        return f"table {self.number}"


class Mm:
    """An address space of a process  (struct mm_struct)."""

    __slots__ = (
        "_vma_numbers",
        "brk",
        "context",
        "cpu_vm_mask",
        "def_flags",
        "flags",
        "hiwater_rss",
        "kernel",
        "locked_vm",
        "map_count",
        "memcg",
        "mm_count",
        "mm_users",
        "mmap",
        "mmap_base",
        "mmap_sem",
        "mmu_notifiers",
        "name",
        "numa_next_scan",
        "numa_scan_offset",
        "numa_scan_seq",
        "on_swapoff_list",
        "page_table_lock",
        "pgd",
        "rss_stat",
        "start_brk",
        "start_stack",
        "starts",
        "tlb_flush_pending",
        "total_vm",
    )

    name: Final[str]
    mmap_sem: Final[RwSemaphore]
    page_table_lock: Final[SpinLock]
    pgd: Final[PageTable]
    rss_stat: Final[list[int]]
    mmu_notifiers: Final[list[Any]]

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        mmap_sem: RwSemaphore,
        page_table_lock: SpinLock,
        pgd: PageTable,
    ) -> None:
        self.kernel = kernel
        self.name = name
        self.mmap_sem = mmap_sem
        self.page_table_lock = page_table_lock
        self.pgd = pgd
        # mmap_sem
        self.mmap: list[Vma] = []  # sorted by address
        self.starts: list[int] = []  # vm_start of each, for bisection
        self.map_count = 0
        self.total_vm = 0
        self.locked_vm = 0
        self.def_flags = 0
        self.mmap_base = 0
        self.start_brk = 0
        self.brk = 0
        self.start_stack = 0
        self._vma_numbers = 0
        # page-table locks
        self.rss_stat = [0, 0, 0]  # MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS
        self.hiwater_rss = 0
        # atomic
        self.cpu_vm_mask = 0
        self.mm_users = 1
        self.mm_count = 1
        self.flags = 0  # MMF_*: whether khugepaged scans it
        self.tlb_flush_pending = False
        # NUMA balancing: when the next scan is due, where it begins, and how often all areas
        # have been scanned
        self.numa_next_scan = 0
        self.numa_scan_offset = 0
        self.numa_scan_seq = 0
        # mmlist_lock
        self.on_swapoff_list = False
        self.mmu_notifiers = []
        self.context: Any = None
        # the memory cgroup of the task that owns it; None: the root
        self.memcg: Any = None

    def __repr__(self) -> str:
        return f"mm {self.name}"

    def next_vma_number(self) -> int:
        self._vma_numbers += 1
        return self._vma_numbers
