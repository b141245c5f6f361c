"""What a guest looks like: nodes, memory, CPUs, distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mmigrate.errors import UsageError
from mmigrate.lab.tools import KernelImage, kernel_image
from mmigrate.units import GiB, MiB

MAX_NODES: Final = 8
LEAST_MEMORY: Final = MiB(256)


@dataclass(frozen=True)
class Guest:
    """A computer to boot.

    @image: the file of the kernel.  @nodes: bytes of memory on each node, whole MiB; 0 for one
    without.  @cpus: the node of each CPU, by default one CPU a node.  @distances: rows of the
    distance table.  @balloon: whether it has a virtio balloon.  @append: further arguments of the
    kernel.  Raises UsageError: that is no computer, or no kernel.
    """

    image: Path
    nodes: Sequence[int] = (GiB(1), GiB(1))
    cpus: Sequence[int] | None = None
    distances: Sequence[Sequence[int]] | None = None
    balloon: bool = False
    append: Sequence[str] = ()
    kernel: KernelImage = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", kernel_image(Path(self.image)))
        if not 1 <= len(self.nodes) <= MAX_NODES:
            raise UsageError(f"a guest has 1 to {MAX_NODES} nodes, not {len(self.nodes)}")
        for number, size in enumerate(self.nodes):
            if size < 0 or size % MiB(1):
                raise UsageError(f"node {number} has {size} bytes, not a number of whole MiB")
        if sum(self.nodes) < LEAST_MEMORY:
            raise UsageError(
                f"a guest needs {LEAST_MEMORY >> 20} MiB of memory; "
                f"its nodes have {sum(self.nodes) >> 20} MiB"
            )
        for node in self.node_of_cpu:
            if not 0 <= node < len(self.nodes):
                raise UsageError(f"a CPU is on node {node}; there are nodes 0 to {self.last_node}")
        if not self.node_of_cpu:
            raise UsageError("a guest needs a CPU")
        self._check_order()
        self._check_distances()

    def _check_order(self) -> None:
        """Linux numbers nodes in the order of its table of CPUs, then in that of memory."""
        seen = list(dict.fromkeys(self.node_of_cpu))
        expected = [*seen, *(node for node in range(len(self.nodes)) if node not in seen)]
        for number, node in enumerate(expected):
            if number != node:
                raise UsageError(
                    f"Linux would call node {node} node {number}: nodes with CPUs come first, "
                    "in the order of the CPUs"
                )

    def _check_distances(self) -> None:
        if self.distances is None:
            return
        size = len(self.nodes)
        if len(self.distances) != size or any(len(row) != size for row in self.distances):
            raise UsageError(f"distances must be {size} rows of {size} numbers")
        for one, row in enumerate(self.distances):
            for other, distance in enumerate(row):
                if (distance != 10) if one == other else not 10 < distance < 255:
                    raise UsageError(
                        f"the distance from node {one} to node {other} is {distance}; "
                        "a node is 10 from itself, and 11 to 254 from another"
                    )

    @property
    def last_node(self) -> int:
        return len(self.nodes) - 1

    @property
    def node_of_cpu(self) -> Sequence[int]:
        return range(len(self.nodes)) if self.cpus is None else self.cpus

    def arguments(self) -> list[str]:
        """For QEMU."""
        found = [
            *("-smp", str(len(self.node_of_cpu))),
            *("-m", f"{sum(self.nodes) >> 20}M"),
        ]
        for number, size in enumerate(self.nodes):
            node = f"node,nodeid={number}"
            if size:
                found += ["-object", f"memory-backend-ram,id=memory{number},size={size >> 20}M"]
                node += f",memdev=memory{number}"
            for cpu, its_node in enumerate(self.node_of_cpu):
                node += f",cpus={cpu}" if its_node == number else ""
            found += ["-numa", node]
        for one, row in enumerate(self.distances or ()):
            for other, distance in enumerate(row):
                found += ["-numa", f"dist,src={one},dst={other},val={distance}"]
        if self.balloon:
            found += ["-device", "virtio-balloon-pci"]
        return found
