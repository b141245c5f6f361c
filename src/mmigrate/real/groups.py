"""Cpusets and memory cgroups: of version 1, as v3.19 had them, where they are to be had; else 2."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mmigrate.errors import Missing, ScenarioError
from mmigrate.real.libc import failure, libc
from mmigrate.real.nodes import nodes_with_memory
from mmigrate.real.settings import disposable
from mmigrate.real.undo import Undo

_NODE: Final = re.compile(r"\bN(\d+)=")
_LASTING: Final = Path("/run/mmigrate")


class Cpuset:
    """A cpuset.  `process.join(cpuset)` puts a process into it.

    @moves_unasked: memory that it does not allow follows its processes, though nobody asked for
    that: with cgroups of version 2 it always does.
    """

    def __init__(self, folder: Path, moves_unasked: bool) -> None:
        self.folder = folder
        self.moves_unasked = moves_unasked
        self.members: list[Any] = []  # processes that have joined
        self.nodes: Collection[int] = ()

    @property
    def mems(self) -> str:
        return (self.folder / "cpuset.mems").read_text().strip()

    def set_mems(self, nodes: Collection[int]) -> None:
        for process in self.members:
            self.check_nothing_follows(process, nodes)
        (self.folder / "cpuset.mems").write_text(",".join(str(node) for node in sorted(nodes)))
        self.nodes = nodes

    def attach(self, process: Any) -> None:
        self.check_nothing_follows(process, self.nodes)
        (self.folder / "cgroup.procs").write_text(str(process.pid))
        self.members.append(process)

    def check_nothing_follows(self, process: Any, nodes: Collection[int]) -> None:
        """Raises Missing: memory of @process would move to @nodes, which nobody asked for."""
        if not self.moves_unasked or process.exited:
            return
        if {int(node) for node in _NODE.findall(process.numa_maps())} - set(nodes):
            raise Missing("with cgroups of version 2 memory always follows the cpuset")


class Cgroup:
    """A memory cgroup.  `process.join(cgroup)` puts a process into it."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self.version = version

    @property
    def usage(self) -> int:
        """Bytes charged."""
        name = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        return int((self.folder / name).read_text())

    @property
    def limit(self) -> int | None:
        """Bytes, None for no limit."""
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        text = (self.folder / name).read_text().strip()
        return None if text == "max" or int(text) >= 1 << 60 else int(text)

    @limit.setter
    def limit(self, size: int | None) -> None:
        if self.version == 1:
            (self.folder / "memory.limit_in_bytes").write_text(str(-1 if size is None else size))
        else:
            (self.folder / "memory.max").write_text("max" if size is None else str(size))

    @property
    def memsw_usage(self) -> int:
        """Bytes charged, with what is in swap."""
        if self.version == 1:
            return self._number("memory.memsw.usage_in_bytes")
        return self.usage + self._number("memory.swap.current")

    @property
    def move_charge(self) -> bool:
        """Whether what a process has comes along when it joins (version 1)."""
        return bool(self._number("memory.move_charge_at_immigrate"))

    @move_charge.setter
    def move_charge(self, value: bool) -> None:
        path = self.folder / "memory.move_charge_at_immigrate"
        if not path.exists():
            raise Missing("this kernel does not move charges with a process")
        path.write_text("3" if value else "0")

    @property
    def failcnt(self) -> int:
        """How often the limit was met."""
        if self.version == 1:
            return self._number("memory.failcnt")
        return self._table("memory.events").get("max", 0)

    @property
    def stat(self) -> dict[str, int]:
        """memory.stat."""
        return self._table("memory.stat")

    def remove(self) -> None:
        """Remove it; OSError EBUSY if it has processes or children."""
        self.folder.rmdir()

    def attach(self, process: Any) -> None:
        (self.folder / "cgroup.procs").write_text(str(process.pid))

    def _number(self, name: str) -> int:
        path = self.folder / name
        if not path.exists():
            raise Missing(f"the cgroups of this kernel have no {name}")
        return int(path.read_text())

    def _table(self, name: str) -> dict[str, int]:
        lines = (self.folder / name).read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}


class Groups:
    """Makes them, below a folder of this machine's own."""

    def __init__(self, undo: Undo) -> None:
        self._undo = undo
        self._tops: dict[str, tuple[Path, int]] = {}

    def cpuset(self, name: str, nodes: Collection[int], memory_migrate: bool) -> Cpuset:
        """Raises Missing: there are none here.  OSError: these nodes are not allowed."""
        top, version = self._top("cpuset")
        cpuset = Cpuset(self._make(top, name), version == 2 and not memory_migrate)
        cpus = "cpuset.effective_cpus" if version == 1 else "cpuset.cpus.effective"
        (cpuset.folder / "cpuset.cpus").write_text((top / cpus).read_text())
        cpuset.set_mems(nodes)
        if version == 1:
            (cpuset.folder / "cpuset.memory_migrate").write_text(str(int(memory_migrate)))
        return cpuset

    def cgroup(self, name: str, limit: int | None, parent: Cgroup | None) -> Cgroup:
        """Raises Missing: there are none here."""
        top, version = self._top("memory") if parent is None else (parent.folder, parent.version)
        if version == 2 and parent is not None:
            with suppress(OSError):
                (top / "cgroup.subtree_control").write_text("+memory")
        cgroup = Cgroup(self._make(top, name), version)
        if limit is not None:
            cgroup.limit = limit
        return cgroup

    def _make(self, top: Path, name: str) -> Path:
        folder = top / os.path.basename(name)
        if folder.exists():
            raise ScenarioError(f"there is a group {name} already")
        self._undo.add("rmdir", str(folder))
        folder.mkdir()
        return folder

    def _top(self, controller: str) -> tuple[Path, int]:
        """This machine's own folder in the hierarchy of a controller, and the version."""
        if controller not in self._tops:
            if os.geteuid() != 0:
                raise Missing(f"only root can make a group of the {controller} controller")
            self._tops[controller] = self._find(controller)
        return self._tops[controller]

    def _find(self, controller: str) -> tuple[Path, int]:
        version_2: Path | None = None
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, kind, options, *_ = line.split()
            if kind == "cgroup" and controller in options.split(","):
                return self._own(Path(place), controller, 1), 1
            if kind == "cgroup2":
                version_2 = Path(place)
        mounted = self._mount(controller)
        if mounted is not None:
            return self._own(mounted, controller, 1), 1
        if version_2 is not None and controller in _controllers(version_2):
            control = version_2 / "cgroup.subtree_control"
            if controller not in control.read_text().split():
                self._undo.add("write", str(control), f"-{controller}")
                control.write_text(f"+{controller}")
            own = self._own(version_2, controller, 2)
            (own / "cgroup.subtree_control").write_text(f"+{controller}")
            return own, 2
        raise Missing(f"this kernel has no {controller} controller for us")

    def _mount(self, controller: str) -> Path | None:
        """Mount the controller alone, as version 1; None if that is not to be had."""
        if disposable():
            place = _LASTING / f"cgroup-{controller}"
            place.mkdir(parents=True, exist_ok=True)
        else:
            place = Path(tempfile.mkdtemp(prefix="mmigrate-cgroup-"))
            self._undo.add("remove", str(place))
            self._undo.add("unmount", str(place))
        if libc.mount(b"none", os.fsencode(place), b"cgroup", 0, controller.encode()):
            return None
        return place

    def _own(self, hierarchy: Path, controller: str, version: int) -> Path:
        folder = hierarchy / f"mmigrate-{os.getpid()}-{len(self._tops)}"
        self._undo.add("rmdir", str(folder))
        try:
            folder.mkdir()
        except OSError as error:
            raise Missing(f"no group can be made in {hierarchy}: {error.strerror}") from error
        if controller == "cpuset" and version == 1:
            (folder / "cpuset.cpus").write_text((hierarchy / "cpuset.cpus").read_text())
            nodes = ",".join(str(node) for node in nodes_with_memory())
            (folder / "cpuset.mems").write_text(nodes)
        return folder


def _controllers(hierarchy: Path) -> list[str]:
    try:
        return (hierarchy / "cgroup.controllers").read_text().split()
    except OSError as error:
        raise failure(str(hierarchy)) from error
