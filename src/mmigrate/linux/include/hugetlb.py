"""What hugetlb knows of a page size, a file and a mapping  (include/linux/hugetlb.h).

All counts are in huge pages of the size in question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mmigrate.linux.include.mm_types import File, Inode, Vma
from mmigrate.linux.include.pgtable import PAGE_SHIFT, PMD_SHIFT, PUD_SHIFT
from mmigrate.linux.lib.list import ListHead

if TYPE_CHECKING:
    from mmigrate.linux.include.kernel import Kernel
    from mmigrate.linux.kernel.rwsem import RwSemaphore
    from mmigrate.linux.kernel.spinlock import SpinLock

HPAGE_RESV_OWNER: Final = 1  # the area holds the reservations of its mapping
HPAGE_RESV_UNMAPPED: Final = 2  # a page was taken away for the owner of the reservation
MAX_ORDER: Final = 11


class Hstate:
    """One size of huge pages and its pool  (struct hstate)."""

    __slots__ = (
        "free_huge_pages",
        "free_huge_pages_node",
        "hugepage_activelist",
        "hugepage_freelists",
        "isolated",
        "next_nid_to_alloc",
        "next_nid_to_free",
        "nr_huge_pages",
        "nr_huge_pages_node",
        "nr_overcommit_huge_pages",
        "order",
        "resv_huge_pages",
        "surplus_huge_pages",
        "surplus_huge_pages_node",
    )

    nr_huge_pages_node: Final[list[int]]
    free_huge_pages_node: Final[list[int]]
    surplus_huge_pages_node: Final[list[int]]
    hugepage_activelist: Final[ListHead]
    hugepage_freelists: Final[list[ListHead]]
    isolated: Final[dict[object, None]]

    def __init__(self, order: int, nodes: int) -> None:
        self.order = order  # fixed
        # hugetlb_lock
        self.nr_huge_pages = 0
        self.free_huge_pages = 0
        self.resv_huge_pages = 0  # promised, not yet taken
        self.surplus_huge_pages = 0
        self.nr_overcommit_huge_pages = 0
        self.nr_huge_pages_node = [0] * nodes
        self.free_huge_pages_node = [0] * nodes
        self.surplus_huge_pages_node = [0] * nodes
        self.next_nid_to_alloc = 0
        self.next_nid_to_free = 0
        self.hugepage_activelist = ListHead()
        self.isolated = {}  # kept with ACTIVE_HUGE_PAGES only
        self.hugepage_freelists = [ListHead() for _ in range(nodes)]

    def __repr__(self) -> str:
        return f"huge pages of {self.size >> 10} kB"

    @property
    def shift(self) -> int:
        return PAGE_SHIFT + self.order

    @property
    def size(self) -> int:
        """Bytes."""
        return 1 << (PAGE_SHIFT + self.order)

    @property
    def mask(self) -> int:
        return -(1 << (PAGE_SHIFT + self.order))

    @property
    def pages(self) -> int:
        """Base pages in a huge page."""
        return 1 << self.order

    @property
    def gigantic(self) -> bool:
        """Larger than what the buddy allocator has."""
        return self.order >= MAX_ORDER


class ResvMap:
    """Ranges of a file or private mapping: reserved ones of a file, used ones of a private
    mapping  (struct resv_map).  `regions` are (from, to), ascending and apart."""

    __slots__ = ("lock", "refs", "regions")

    def __init__(self, lock: SpinLock) -> None:
        self.lock = lock
        self.refs = 1  # atomic
        self.regions: list[tuple[int, int]] = []  # lock


class Subpool:
    """What a mount of hugetlbfs may use at most  (struct hugepage_subpool)."""

    __slots__ = ("lock", "max_hpages", "used_hpages")

    def __init__(self, lock: SpinLock, max_hpages: int) -> None:
        self.lock = lock
        self.max_hpages = max_hpages
        self.used_hpages = 0  # lock


class VmaReservation:
    """What C keeps in vm_private_data of a private area: a map and the flags HPAGE_RESV_*."""

    __slots__ = ("flags", "map")

    def __init__(self, map: ResvMap | None, flags: int) -> None:
        self.map = map
        self.flags = flags


class HugetlbState:
    """The globals of mm/hugetlb.c.  @mutexes: a mutex for each huge page that is being faulted
    in; Differs: no two share one by chance, as they can in the kernel's table."""

    __slots__ = (
        "file_setup",
        "files",
        "hstates",
        "lock",
        "mutexes",
        "subpools",
        "treat_as_movable",
    )

    def __init__(
        self,
        kernel: Kernel,
        lock: SpinLock,
        file_setup: Callable[[Kernel, int, Hstate], Inode],
    ) -> None:
        nodes = len(kernel.nodes)
        self.file_setup = file_setup  # fs/hugetlbfs.py
        self.lock = lock
        self.hstates = [
            Hstate(PMD_SHIFT - PAGE_SHIFT, nodes),
            Hstate(PUD_SHIFT - PAGE_SHIFT, nodes),
        ]
        self.mutexes: dict[tuple[Any, int], RwSemaphore] = {}
        self.treat_as_movable = False  # /proc/sys/vm/hugepages_treat_as_movable
        self.files = 0  # a number for each anonymous file
        self.subpools: list[Subpool] = []  # of the mounts that have a limit, for observers


def hstate_of(kernel: Kernel, size: int) -> Hstate | None:
    """The pool of pages of @size bytes; None if the hardware has no such pages."""
    hstates: list[Hstate] = kernel.hugetlb.hstates
    return next((h for h in hstates if h.size == size), None)


def hstate_file(file: File | None) -> Hstate | None:
    """The pool of a file of hugetlbfs; None for all others  (include/linux/hugetlb.h:
    is_file_hugepages, hstate_file)."""
    if file is None:
        return None
    h: Hstate | None = file.f_inode.fs.hstate
    return h


def hstate_vma(vma: Vma) -> Hstate:
    assert vma.vm_file is not None
    h: Hstate = vma.vm_file.f_inode.fs.hstate
    return h
