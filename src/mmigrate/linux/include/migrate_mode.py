"""How hard a migration may try, and why it was started  (include/linux/migrate_mode.h)."""

from enum import IntEnum
from typing import Final


class MigrateMode(IntEnum):
    """What the core may block on; compared, never combined."""

    ASYNC = 0
    SYNC_LIGHT = 1
    SYNC = 2


MIGRATE_ASYNC: Final = MigrateMode.ASYNC
MIGRATE_SYNC_LIGHT: Final = MigrateMode.SYNC_LIGHT
MIGRATE_SYNC: Final = MigrateMode.SYNC


class MigrateReason(IntEnum):
    """Who asked; only traced  (include/linux/migrate.h)."""

    COMPACTION = 0
    MEMORY_FAILURE = 1
    MEMORY_HOTPLUG = 2
    SYSCALL = 3
    MEMPOLICY_MBIND = 4
    NUMA_MISPLACED = 5
    CMA = 6


MR_COMPACTION: Final = MigrateReason.COMPACTION
MR_MEMORY_FAILURE: Final = MigrateReason.MEMORY_FAILURE
MR_MEMORY_HOTPLUG: Final = MigrateReason.MEMORY_HOTPLUG
MR_SYSCALL: Final = MigrateReason.SYSCALL
MR_MEMPOLICY_MBIND: Final = MigrateReason.MEMPOLICY_MBIND
MR_NUMA_MISPLACED: Final = MigrateReason.NUMA_MISPLACED
MR_CMA: Final = MigrateReason.CMA

MIGRATE_REASON_NAMES: Final = (
    "compaction",
    "memory_failure",
    "memory_hotplug",
    "syscall_or_cpuset",
    "mempolicy_mbind",
    "numa_misplaced",
    "cma",
)

MIGRATEPAGE_SUCCESS: Final = 0
