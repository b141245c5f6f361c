"""What /sys/devices/system/node tells of a node  (drivers/base/node.c)."""

from __future__ import annotations

from mmigrate.linux.include.kernel import Kernel
from mmigrate.linux.include.pgtable import HPAGE_PMD_NR
from mmigrate.linux.include.vmstat import (
    NR_ACTIVE_ANON,
    NR_ACTIVE_FILE,
    NR_ANON_PAGES,
    NR_ANON_TRANSPARENT_HUGEPAGES,
    NR_FILE_DIRTY,
    NR_FILE_MAPPED,
    NR_FILE_PAGES,
    NR_FREE_PAGES,
    NR_INACTIVE_ANON,
    NR_INACTIVE_FILE,
    NR_MLOCK,
    NR_SHMEM,
    NR_UNEVICTABLE,
    NR_WRITEBACK,
    NUMA_FOREIGN,
    NUMA_HIT,
    NUMA_INTERLEAVE_HIT,
    NUMA_LOCAL,
    NUMA_MISS,
    NUMA_OTHER,
)
from mmigrate.linux.mm.vmstat import node_page_state

_MEMINFO = {
    "MemFree": (NR_FREE_PAGES,),
    "Active": (NR_ACTIVE_ANON, NR_ACTIVE_FILE),
    "Inactive": (NR_INACTIVE_ANON, NR_INACTIVE_FILE),
    "Active(anon)": (NR_ACTIVE_ANON,),
    "Inactive(anon)": (NR_INACTIVE_ANON,),
    "Active(file)": (NR_ACTIVE_FILE,),
    "Inactive(file)": (NR_INACTIVE_FILE,),
    "Unevictable": (NR_UNEVICTABLE,),
    "Mlocked": (NR_MLOCK,),
    "Dirty": (NR_FILE_DIRTY,),
    "Writeback": (NR_WRITEBACK,),
    "FilePages": (NR_FILE_PAGES,),
    "Mapped": (NR_FILE_MAPPED,),
    "AnonPages": (NR_ANON_PAGES,),
    "Shmem": (NR_SHMEM,),
}
_NUMASTAT = {
    "numa_hit": NUMA_HIT,
    "numa_miss": NUMA_MISS,
    "numa_foreign": NUMA_FOREIGN,
    "interleave_hit": NUMA_INTERLEAVE_HIT,
    "local_node": NUMA_LOCAL,
    "other_node": NUMA_OTHER,
}


def node_meminfo(kernel: Kernel, nid: int) -> dict[str, int]:
    """nodeN/meminfo, in kB."""
    total = sum(zone.managed_pages for zone in kernel.nodes[nid].node_zones)
    values = {
        name: sum(node_page_state(kernel, nid, item) for item in items) * 4
        for name, items in _MEMINFO.items()
    }
    free = values["MemFree"]
    huge = node_page_state(kernel, nid, NR_ANON_TRANSPARENT_HUGEPAGES)
    values["AnonHugePages"] = huge * HPAGE_PMD_NR * 4
    h = kernel.hugetlb.hstates[0]
    pools = {  # numbers of pages, of the default size
        "HugePages_Total": h.nr_huge_pages_node[nid],
        "HugePages_Free": h.free_huge_pages_node[nid],
        "HugePages_Surp": h.surplus_huge_pages_node[nid],
    }
    return {"MemTotal": total * 4, "MemFree": free, "MemUsed": total * 4 - free} | values | pools


def node_meminfo_text(kernel: Kernel, nid: int) -> str:
    return "".join(
        f"Node {nid} {name + ':':<16}{value:8d}{'' if name.startswith('HugePages') else ' kB'}\n"
        for name, value in node_meminfo(kernel, nid).items()
    )


def node_numastat(kernel: Kernel, nid: int) -> dict[str, int]:
    """nodeN/numastat."""
    return {name: node_page_state(kernel, nid, item) for name, item in _NUMASTAT.items()}
