"""What same-page merging keeps: stable nodes, rmap items, scanned processes  (mm/ksm.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mmigrate.linux.include.mm_types import AnonVma, Mm

if TYPE_CHECKING:
    from mmigrate.linux.kernel.rwsem import RwSemaphore
    from mmigrate.linux.kernel.spinlock import SpinLock

KSM_RUN_STOP: Final = 0
KSM_RUN_MERGE: Final = 1
KSM_RUN_UNMERGE: Final = 2


class StableNode:
    """A merged page, named by its frame; `page->mapping` of a KSM page is one.  It has no
    reference on the page.  @kpfn: -1 for the node that stands for "none"
    (struct stable_node)."""

    __slots__ = ("anon", "gone", "hlist", "kpfn", "ksm", "migrating", "nid", "number")

    def __init__(self, kpfn: int, nid: int, number: int) -> None:
        self.anon = True  # PageAnon and PageKsm of a page whose mapping this is
        self.ksm = True
        self.number = number
        # atomic
        self.kpfn = kpfn
        # ksm_thread_mutex
        self.nid = nid  # which tree, where nodes have one each
        self.migrating = False  # on migrate_nodes: waits for a place in another tree
        self.gone = False
        # the page lock
        self.hlist: list[RmapItem] = []  # newest first

    def __repr__(self) -> str:
        return f"stable node {self.number}" if self.kpfn >= 0 else "no stable node"


NO_STABLE_NODE: Final = StableNode(-1, 0, 0)


class RmapItem:
    """An address that has been scanned  (struct rmap_item)."""

    __slots__ = ("address", "anon_vma", "head", "mm", "nid", "oldchecksum", "seqnr", "unstable")

    def __init__(self, mm: Mm, address: int) -> None:
        self.mm = mm
        self.address = address
        # ksm_thread_mutex
        self.oldchecksum: bytes | None = None
        self.unstable = False  # UNSTABLE_FLAG: in the unstable tree of scan @seqnr
        self.seqnr = 0
        self.nid = 0
        # the page lock
        self.head: StableNode | None = None  # STABLE_FLAG
        self.anon_vma: AnonVma | None = None

    def __repr__(self) -> str:
        return f"rmap item of {self.mm!r} at {self.address:#x}"


class MmSlot:
    """A process that may have mergeable memory  (struct mm_slot)."""

    __slots__ = ("mm", "rmap_list")

    def __init__(self, mm: Mm) -> None:
        self.mm = mm
        self.rmap_list: list[RmapItem] = []  # by address


class KsmState:
    """The globals of mm/ksm.c; @mm_list begins with the next process after the head.

    Differs: the trees are lists in the order of contents, searched by halves.
    """

    __slots__ = (
        "address",
        "full_scans",
        "ksm_run",
        "merge_across_nodes",
        "migrate_nodes",
        "mm_list",
        "mm_slot",
        "mmlist_lock",
        "numbers",
        "pages_shared",
        "pages_sharing",
        "pages_unshared",
        "position",
        "rmap_items",
        "root_stable_tree",
        "root_unstable_tree",
        "seqnr",
        "thread_mutex",
    )

    def __init__(self, nodes: int, thread_mutex: RwSemaphore, mmlist_lock: SpinLock) -> None:
        self.thread_mutex = thread_mutex
        self.mmlist_lock = mmlist_lock
        # ksm_mmlist_lock
        self.mm_list: list[MmSlot] = []
        self.mm_slot: MmSlot | None = None  # None: the head of the list
        # ksm_thread_mutex
        self.root_stable_tree: list[list[StableNode]] = [[] for _ in range(nodes)]
        self.root_unstable_tree: list[list[RmapItem]] = [[] for _ in range(nodes)]
        self.migrate_nodes: list[StableNode] = []
        self.address = 0
        self.position = 0  # in rmap_list of the slot
        self.seqnr = 0
        self.full_scans = 0
        self.ksm_run = KSM_RUN_STOP
        self.merge_across_nodes = True
        self.pages_shared = 0
        self.pages_sharing = 0
        self.pages_unshared = 0
        self.rmap_items = 0
        self.numbers = 0
