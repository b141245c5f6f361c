"""The memory cgroup and the cpuset of a process, of version 1 or 2, as far as they may be read.

Limits hold for all that is below, so the groups above are recorded as well.  Paths are those
that this computer shows to us: from inside a container they begin at its own group.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from mmigrate.snapshot import procfs
from mmigrate.snapshot.machine_files import text_or_empty
from mmigrate.snapshot.procfs import CgroupMount, printable
from mmigrate.snapshot.records import MAX_GROUPS, MemoryGroup

_UNLIMITED: Final = 1 << 62  # version 1 writes the largest number of whole pages
_FILES: Final = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}


@dataclass
class Groups:
    """@version: of the memory controller, 0 if it is unknown; @memory: outermost first, without
    a root that limits nothing; @missing: a sentence, or ""."""

    version: int = 0
    memory: list[MemoryGroup] = field(default_factory=list)
    cpuset: str = ""
    missing: str = ""


def read_groups(membership: str, mountinfo: str) -> Groups:
    """From /proc/PID/cgroup, our own mountinfo, and the files of the groups."""
    paths = procfs.parse_cgroups(membership)
    mounts = procfs.parse_cgroup_mounts(mountinfo)
    # A controller belongs to a hierarchy of version 1, or else to the one of version 2.
    groups = Groups(cpuset=printable(paths.get("cpuset", paths.get("", ""))))
    version, controller = (1, "memory") if "memory" in paths else (2, "")
    path = paths.get(controller)
    if path is None:
        groups.missing = "the memory cgroup: this kernel has none, or does not show it"
        return groups
    groups.version = version
    mount = next((mount for mount in mounts if controller in mount.controllers), None)
    folders = [] if mount is None else _folders(mount, path)
    if not folders:
        groups.memory = [MemoryGroup(printable(path), None, None)] if path != "/" else []
        if groups.memory:
            groups.missing = f"the limit of memory cgroup {printable(path)}: it is not mounted here"
        return groups
    for name, folder in folders:
        limit, usage = (_size(folder / file) for file in _FILES[version])
        if name != "/" or limit is not None:
            groups.memory.append(MemoryGroup(printable(name), limit, usage))
    if any(group.usage is None for group in groups.memory):
        groups.missing = f"the usage of memory cgroup {printable(path)}: it may not be read"
    return groups


def _folders(mount: CgroupMount, path: str) -> list[tuple[str, Path]]:
    """The directories of a group and of those above it, outermost first, as far as mounted."""
    root = mount.root.rstrip("/")
    if ".." in PurePosixPath(path).parts or not f"{path.rstrip('/')}/".startswith(f"{root}/"):
        return []
    below = PurePosixPath(path[len(root) :].lstrip("/"))
    if not Path(mount.point, below).is_dir():
        return []
    chain = [part for part in (below, *below.parents) if part != PurePosixPath(".")]
    found = [(mount.root, Path(mount.point))]
    found += [(f"{root}/{part}", Path(mount.point, part)) for part in reversed(chain)]
    return found[-MAX_GROUPS:]


def _size(file: Path) -> int | None:
    """Bytes; None for "max", for the number that means it, and for what cannot be read."""
    text = text_or_empty(file).strip()
    size = int(text) if text.isdecimal() and len(text) < 20 else _UNLIMITED
    return size if size < _UNLIMITED else None
