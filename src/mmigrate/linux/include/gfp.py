"""Allocation flags  (include/linux/gfp.h)."""

from typing import Final

__GFP_DMA: Final = 0x01
__GFP_HIGHMEM: Final = 0x02
__GFP_DMA32: Final = 0x04
__GFP_MOVABLE: Final = 0x08
__GFP_WAIT: Final = 0x10
__GFP_HIGH: Final = 0x20
__GFP_IO: Final = 0x40
__GFP_FS: Final = 0x80
__GFP_COLD: Final = 0x100
__GFP_NOWARN: Final = 0x200
__GFP_REPEAT: Final = 0x400
__GFP_NOFAIL: Final = 0x800
__GFP_NORETRY: Final = 0x1000
__GFP_MEMALLOC: Final = 0x2000
__GFP_COMP: Final = 0x4000
__GFP_ZERO: Final = 0x8000
__GFP_NOMEMALLOC: Final = 0x10000
__GFP_HARDWALL: Final = 0x20000
__GFP_THISNODE: Final = 0x40000
__GFP_RECLAIMABLE: Final = 0x80000
__GFP_NO_KSWAPD: Final = 0x400000
__GFP_OTHER_NODE: Final = 0x800000
__GFP_WRITE: Final = 0x1000000

GFP_ATOMIC: Final = __GFP_HIGH
GFP_NOIO: Final = __GFP_WAIT
GFP_NOFS: Final = __GFP_WAIT | __GFP_IO
GFP_KERNEL: Final = __GFP_WAIT | __GFP_IO | __GFP_FS
GFP_USER: Final = GFP_KERNEL | __GFP_HARDWALL
GFP_HIGHUSER: Final = GFP_USER | __GFP_HIGHMEM
GFP_HIGHUSER_MOVABLE: Final = GFP_HIGHUSER | __GFP_MOVABLE
GFP_IOFS: Final = __GFP_IO | __GFP_FS
GFP_TRANSHUGE: Final = (
    GFP_HIGHUSER_MOVABLE
    | __GFP_COMP
    | __GFP_NOMEMALLOC
    | __GFP_NORETRY
    | __GFP_NOWARN
    | __GFP_NO_KSWAPD
)
# of one node only, without reclaim
GFP_THISNODE: Final = __GFP_THISNODE | __GFP_NORETRY | __GFP_NOWARN
# what tells how hard reclaim may work
GFP_RECLAIM_MASK: Final = (
    __GFP_WAIT
    | __GFP_HIGH
    | __GFP_IO
    | __GFP_FS
    | __GFP_NOWARN
    | __GFP_REPEAT
    | __GFP_NOFAIL
    | __GFP_NORETRY
    | __GFP_MEMALLOC
    | __GFP_NOMEMALLOC
)
GFP_MOVABLE_MASK: Final = __GFP_RECLAIMABLE | __GFP_MOVABLE

MIGRATE_UNMOVABLE: Final = 0
MIGRATE_RECLAIMABLE: Final = 1
MIGRATE_MOVABLE: Final = 2
MIGRATE_PCPTYPES: Final = 3
MIGRATE_RESERVE: Final = 3
MIGRATE_CMA: Final = 4
MIGRATE_ISOLATE: Final = 5
MIGRATE_TYPES: Final = 6
MIGRATETYPE_NAMES: Final = (
    "Unmovable",
    "Reclaimable",
    "Movable",
    "Reserve",
    "CMA",
    "Isolate",
)
