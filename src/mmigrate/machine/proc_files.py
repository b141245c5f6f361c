"""What a machine says of its memory in /proc and /sys."""

from __future__ import annotations

from mmigrate.linux.drivers import node
from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.mm import vmstat


class ProcFiles:
    """The files that have statistics, of the kernel of a machine."""

    kernel: Kernel

    @property
    def nodes(self) -> list[dict[str, int]]:
        """/sys/devices/system/node/node*/meminfo, in kB."""
        return [node.node_meminfo(self.kernel, nid) for nid in range(len(self.kernel.nodes))]

    @property
    def numastat(self) -> list[dict[str, int]]:
        """/sys/devices/system/node/node*/numastat."""
        return [node.node_numastat(self.kernel, nid) for nid in range(len(self.kernel.nodes))]

    @property
    def buddyinfo(self) -> str:
        """/proc/buddyinfo."""
        return vmstat.buddyinfo_text(self.kernel)

    @property
    def pagetypeinfo(self) -> str:
        """/proc/pagetypeinfo: free blocks by migrate type, and how many pageblocks are of each."""
        return vmstat.pagetypeinfo_text(self.kernel)

    @property
    def zoneinfo(self) -> str:
        """/proc/zoneinfo."""
        return vmstat.zoneinfo_text(self.kernel)

    @property
    def unusable_index(self) -> str:
        """/sys/kernel/debug/extfrag/unusable_index: which part of the free memory is of no use for
        a block of each order, from 0.000 to 1.000."""
        return vmstat.unusable_index_text(self.kernel)

    @property
    def extfrag_index(self) -> str:
        """/sys/kernel/debug/extfrag/extfrag_index: why a block of each order cannot be had, towards
        0.000 for lack of memory, towards 1.000 because of fragmentation; -1.000 if it can."""
        return vmstat.extfrag_index_text(self.kernel)

    @property
    def vmstat(self) -> dict[str, int]:
        """/proc/vmstat."""
        return vmstat.vmstat_values(self.kernel)
