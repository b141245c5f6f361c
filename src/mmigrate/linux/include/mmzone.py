"""Nodes, zones and the lists in them  (include/linux/mmzone.h)."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from mmigrate.linux.include.gfp import MIGRATE_PCPTYPES
from mmigrate.linux.include.vmstat import NR_LRU_LISTS, NR_VM_ZONE_STAT_ITEMS
from mmigrate.linux.lib.list import ListHead

if TYPE_CHECKING:
    from mmigrate.linux.include.kernel import Kernel
    from mmigrate.linux.kernel.spinlock import SpinLock

MAX_ORDER: Final = 11
PAGEBLOCK_ORDER: Final = 9
PAGEBLOCK_NR_PAGES: Final = 1 << PAGEBLOCK_ORDER
SECTION_SHIFT: Final = 9  # the memory map comes in pieces of 512 pages
SECTION_SIZE: Final = 1 << SECTION_SHIFT

ZONE_DMA: Final = 0
ZONE_DMA32: Final = 1
ZONE_NORMAL: Final = 2
ZONE_MOVABLE: Final = 3
MAX_NR_ZONES: Final = 4
ZONE_NAMES: Final = ("DMA", "DMA32", "Normal", "Movable")

WMARK_MIN: Final = 0
WMARK_LOW: Final = 1
WMARK_HIGH: Final = 2

# zone->flags: what kswapd found at the end of the LRU lists
ZONE_CONGESTED: Final = 1 << 2  # pages of a congested device
ZONE_DIRTY: Final = 1 << 3  # dirty ones that nobody writes
ZONE_WRITEBACK: Final = 1 << 4  # only such that are being written

# kswapd_wait of a node: whether its kswapd is on its wait queue
KSWAPD_AWAKE: Final = 0  # it is not
KSWAPD_WAITS: Final = 1  # it is, or is about to sleep
KSWAPD_ASLEEP: Final = 2  # it is, and has no task until it is woken


class FreeArea:
    """The free blocks of one order."""

    __slots__ = ("free_list", "nr_free")

    # by migrate type, from the first block on  (explore_kernel_per_s: most are never used)
    free_list: Final[defaultdict[int, ListHead]]

    def __init__(self) -> None:
        self.free_list = defaultdict(ListHead)
        self.nr_free = 0


class PerCpuPages:
    """Free order-0 pages of one CPU in one zone."""

    __slots__ = ("batch", "count", "high", "lists")

    high: Final[int]
    lists: Final[list[ListHead]]

    def __init__(self, batch: int) -> None:
        self.count = 0
        self.batch = batch
        self.high = 6 * batch
        self.lists = [ListHead() for _ in range(MIGRATE_PCPTYPES)]


class Lruvec:
    """The five LRU lists of a zone (and memory cgroup)."""

    __slots__ = ("lists", "lru_size", "recent_rotated", "recent_scanned", "zone")

    zone: Final[Zone]
    lists: Final[list[ListHead]]
    lru_size: Final[list[int]]
    recent_scanned: Final[list[int]]
    recent_rotated: Final[list[int]]

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.lists = [ListHead() for _ in range(NR_LRU_LISTS)]
        self.lru_size = [0] * NR_LRU_LISTS  # of a memory cgroup's; the root's is what is left
        # [anonymous, file]: how many were looked at lately, and how many of them were in use
        self.recent_scanned = [0, 0]
        self.recent_rotated = [0, 0]


class Zone:
    """A range of frames of one node  (struct zone)."""

    __slots__ = (
        "compact_blockskip_flush",
        "compact_cached_free_pfn",
        "compact_cached_migrate_pfn",
        "compact_considered",
        "compact_defer_shift",
        "compact_order_failed",
        "flags",
        "free_area",
        "kernel",
        "lock",
        "lowmem_reserve",
        "lru_lock",
        "lruvec",
        "managed_pages",
        "name",
        "nid",
        "nr_isolate_pageblock",
        "nr_migrate_reserve_block",
        "offline",
        "pageblock_skip",
        "pageblock_type",
        "pageset",
        "present_pages",
        "spanned_pages",
        "untouched",
        "vm_stat",
        "watermark",
        "zone_idx",
        "zone_pgdat",
        "zone_start_pfn",
    )

    zone_pgdat: Final[PglistData]
    zone_idx: Final[int]
    name: Final[str]
    zone_start_pfn: Final[int]
    pageset: Final[list[PerCpuPages]]
    lock: Final[SpinLock]
    free_area: Final[list[FreeArea]]
    pageblock_type: Final[dict[int, int]]
    offline: Final[list[tuple[int, int]]]
    untouched: Final[list[tuple[int, int]]]
    pageblock_skip: Final[set[int]]
    lru_lock: Final[SpinLock]
    lruvec: Final[Lruvec]
    vm_stat: Final[list[int]]

    def __init__(
        self,
        pgdat: PglistData,
        zone_idx: int,
        start_pfn: int,
        nr_pages: int,
        lock: SpinLock,
        lru_lock: SpinLock,
    ) -> None:
        # fixed at boot
        self.kernel = pgdat.kernel
        self.zone_pgdat = pgdat
        self.nid = pgdat.node_id
        self.zone_idx = zone_idx
        self.name = ZONE_NAMES[zone_idx]
        self.zone_start_pfn = start_pfn
        self.spanned_pages = nr_pages  # with the holes that memory leaves which is taken away
        self.present_pages = nr_pages
        self.managed_pages = nr_pages
        self.watermark = [0, 0, 0]
        self.lowmem_reserve = [0] * MAX_NR_ZONES
        self.pageset = []  # by CPU number; each only used on its CPU
        # zone->lock
        self.lock = lock
        self.free_area = [FreeArea() for _ in range(MAX_ORDER)]
        self.pageblock_type = {}  # pageblock number; MOVABLE if absent
        self.nr_isolate_pageblock = 0  # how many are MIGRATE_ISOLATE
        self.nr_migrate_reserve_block = 0  # how many were made MIGRATE_RESERVE
        self.offline = []  # ranges out of use: (first pfn, last pfn + 1)
        # Largest blocks nobody has asked for yet, as (first pfn, last pfn + 1): they are
        # free and counted, but have no Page. The allocator turns one into a real block
        # when the lists are empty.
        self.untouched = []
        # hints of compaction, under no lock: where the scanners go on (migration: [0]
        # asynchronously, [1] otherwise), blocks to pass over, and how often to pass over requests
        self.compact_cached_free_pfn = start_pfn + nr_pages
        self.compact_cached_migrate_pfn = [start_pfn, start_pfn]
        self.pageblock_skip = set()
        self.compact_blockskip_flush = False
        self.compact_considered = 0
        self.compact_defer_shift = 0
        self.compact_order_failed = 0
        # lru_lock
        self.lru_lock = lru_lock
        self.lruvec = Lruvec(self)
        # atomic
        self.flags = 0
        self.vm_stat = [0] * NR_VM_ZONE_STAT_ITEMS

    @property
    def end_pfn(self) -> int:
        return self.zone_start_pfn + self.spanned_pages

    def __repr__(self) -> str:
        return f"node {self.nid} zone {self.name}"


class PglistData:
    """A memory node  (struct pglist_data)."""

    __slots__ = (
        "classzone_idx",
        "empty_zones",
        "kernel",
        "kswapd_failures",
        "kswapd_max_order",
        "kswapd_wait",
        "node_id",
        "node_present_pages",
        "node_start_pfn",
        "node_zonelists",
        "node_zones",
        "numabalancing_migrate_lock",
        "numabalancing_migrate_next_window",
        "numabalancing_migrate_nr_pages",
        "pfmemalloc_wait",
        "pfmemalloc_woken",
    )

    node_id: Final[int]
    node_start_pfn: Final[int]
    node_zones: Final[list[Zone]]
    empty_zones: Final[list[Zone]]

    def __init__(self, kernel: Kernel, node_id: int, start_pfn: int, nr_pages: int) -> None:
        self.kernel = kernel
        self.node_id = node_id
        self.node_start_pfn = start_pfn
        self.node_present_pages = nr_pages
        self.node_zones = []  # populated zones only, ascending
        self.empty_zones = []  # those whose memory is out of use
        # [0]: all nodes by distance, [1]: this node only (__GFP_THISNODE)
        self.node_zonelists: tuple[list[Zone], list[Zone]] = ([], [])
        # numabalancing_migrate_lock: how many pages hinting faults have moved here, until when
        self.numabalancing_migrate_lock: SpinLock = None  # type: ignore[assignment]  # page_boot
        self.numabalancing_migrate_next_window = 0
        self.numabalancing_migrate_nr_pages = 0
        # what kswapd is asked for, under no lock
        self.kswapd_max_order = 0
        self.classzone_idx = 0
        self.kswapd_failures = 0  # kswapd's: how many rounds have freed nothing
        # wait queues: kswapd's own, and of those whom it lets go on (how many, how often woken)
        self.kswapd_wait = KSWAPD_AWAKE
        self.pfmemalloc_wait = 0
        self.pfmemalloc_woken = 0

    def __repr__(self) -> str:
        return f"node {self.node_id}"
