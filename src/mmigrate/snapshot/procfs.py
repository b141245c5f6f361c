"""What /proc and /sys say, as records: plain functions from text or numbers.

Kernels add fields; whatever is not known here is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mmigrate.snapshot import records as bits
from mmigrate.snapshot.nodeset import parse_list

# An entry of /proc/PID/pagemap.
PM_FRAME: Final = (1 << 55) - 1
PM_SOFT_DIRTY: Final = 1 << 55
PM_EXCLUSIVE: Final = 1 << 56  # Linux kernel commit 77bb499bb60f (in v4.2)
PM_FILE: Final = 1 << 61
PM_SWAP: Final = 1 << 62
PM_PRESENT: Final = 1 << 63
PM_SWAP_TYPE_BITS: Final = 5

# A word of /proc/kpageflags: (its bit, ours).  Frames without a page count as device memory.
KPAGEFLAGS: Final = (
    (0, bits.LOCKED),
    (2, bits.REFERENCED),
    (4, bits.DIRTY),
    (5, bits.LRU),
    (6, bits.ACTIVE),
    (8, bits.WRITEBACK),
    (12, bits.ANON),
    (13, bits.SWAPCACHE),
    (14, bits.SWAPBACKED),
    (17, bits.HUGETLB | bits.HUGE),
    (18, bits.UNEVICTABLE),
    (19, bits.HWPOISON),
    (20, bits.NO_PAGE),
    (21, bits.KSM),
    (22, bits.THP),
    (24, bits.ZERO),
    (32, bits.RESERVED),
    (33, bits.MLOCKED),
    (35, bits.PRIVATE),
)
KPAGEFLAGS_MASK: Final = sum(1 << position for position, _ours in KPAGEFLAGS)

_AREA = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) ([0-9]+)"
    r"(?: +(.*))?",
    re.ASCII,
)
_FIELD = re.compile(r"([A-Za-z_]+):\s*(.*)", re.ASCII)
# Two policies have a space in their name: "weighted interleave" and "prefer (many)".
_POLICY = re.compile(r"([0-9a-f]+) ((?:weighted )?\S+(?: \(many\)\S*)?)(?: (.*))?", re.ASCII)
_NODE_PAGES = re.compile(r"N([0-9]{1,4})=([0-9]{1,18})", re.ASCII)


@dataclass
class AreaText:
    """An area as maps shows it, with what smaps adds; sizes in bytes."""

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: str
    name: str
    flags: str = ""
    sizes: dict[str, int] = field(default_factory=dict)

    def size(self, name: str) -> int:
        """A number of smaps, such as "Rss"; 0 if this kernel does not show it."""
        return self.sizes.get(name, 0)


@dataclass(frozen=True)
class PolicyText:
    """A line of numa_maps.  @nodes: pages on each node, in pages of the area."""

    start: int
    policy: str
    nodes: Mapping[int, int]


def parse_maps(text: str) -> Iterator[AreaText]:
    """The areas of /proc/PID/maps or smaps.  Those beyond user space are left out."""
    area: AreaText | None = None
    for line in text.split("\n"):
        match = _AREA.fullmatch(line)
        if match is not None:
            if area is not None:
                yield area
            start, end, perms, offset, device, inode, name = match.groups()
            area = AreaText(
                int(start, 16), int(end, 16), perms, int(offset, 16), device, inode, name or ""
            )
            if area.end >= 1 << 63:
                area = None  # vsyscall: a page of the kernel
            continue
        if area is None:
            continue
        other = _FIELD.fullmatch(line)
        if other is None:
            continue
        name, value = other.groups()
        if name == "VmFlags":
            area.flags = " ".join(value.split())
        elif value.endswith(" kB") and value[:-3].isdecimal():
            area.sizes[name] = int(value[:-3]) << 10
    if area is not None:
        yield area


def parse_numa_maps(text: str) -> Iterator[PolicyText]:
    """The areas of /proc/PID/numa_maps."""
    for line in text.split("\n"):
        match = _POLICY.fullmatch(line)
        if match is not None:
            rest = (match[3] or "").split(" ")
            pairs = [_NODE_PAGES.fullmatch(word) for word in rest]
            nodes = {int(pair[1]): int(pair[2]) for pair in pairs if pair is not None}
            yield PolicyText(int(match[1], 16), match[2], nodes)


def parse_status(text: str) -> dict[str, str]:
    """/proc/PID/status, or any file of "Name: value" lines."""
    fields = (_FIELD.fullmatch(line) for line in text.split("\n"))
    return {match[1]: match[2].strip() for match in fields if match is not None}


def parse_start_time(stat: str) -> str:
    """When a process began, from /proc/PID/stat: with its pid, who it is.  "" if not there."""
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[19] if len(fields) > 19 else ""


def parse_filesystems(mountinfo: str) -> dict[str, str]:
    """Device to type of filesystem, from /proc/PID/mountinfo; devices as maps writes them."""
    types: dict[str, str] = {}
    for line in mountinfo.split("\n"):
        before, separator, after = line.partition(" - ")
        words = before.split(" ")
        if not separator or len(words) < 3:
            continue
        major, _, minor = words[2].partition(":")
        if major.isdecimal() and minor.isdecimal():
            types[f"{int(major):02x}:{int(minor):02x}"] = after.split(" ")[0]
    return types


@dataclass(frozen=True)
class CgroupMount:
    """Where a hierarchy of cgroups is mounted.  @controllers: of version 1; "" means version 2.
    @root: the group that is at the mount @point."""

    controllers: tuple[str, ...]
    root: str
    point: str


def parse_cgroups(text: str) -> dict[str, str]:
    """Controller to path of the group, from /proc/PID/cgroup; "" is the hierarchy of version 2."""
    paths: dict[str, str] = {}
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number.isdecimal() and path.startswith("/"):
            for controller in controllers.split(","):
                paths[controller] = path
    return paths


def parse_cgroup_mounts(mountinfo: str) -> list[CgroupMount]:
    """The mounted hierarchies of cgroups, from /proc/PID/mountinfo."""
    mounts = []
    for line in mountinfo.split("\n"):
        before, separator, after = line.partition(" - ")
        words, kind = before.split(" "), after.split(" ")
        if separator and len(words) > 4 and kind[0] in ("cgroup", "cgroup2"):
            controllers = tuple(kind[-1].split(",")) if kind[0] == "cgroup" else ("",)
            mounts.append(CgroupMount(controllers, _unescaped(words[3]), _unescaped(words[4])))
    return mounts


def _unescaped(path: str) -> str:
    """Of mountinfo: a space is written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def parse_pool_size(name: str) -> int:
    """Bytes of a huge page, from a name such as "hugepages-2048kB"; 0 for other names."""
    match = re.fullmatch(r"hugepages-([0-9]{1,12})kB", name, re.ASCII)
    return int(match[1]) << 10 if match is not None else 0


def parse_choice(text: str) -> str:
    """The chosen word of a file such as "always [madvise] never"; "" if there is none."""
    match = re.search(r"\[([a-z]{1,20})\]", text, re.ASCII)
    return match[1] if match is not None else ""


def parse_node_sizes(meminfo: str) -> tuple[int, int]:
    """(bytes of memory, bytes free) from a node's meminfo, or from /proc/meminfo."""
    found = dict(re.findall(r"(MemTotal|MemFree):\s*([0-9]{1,15}) kB", meminfo))
    return int(found.get("MemTotal", 0)) << 10, int(found.get("MemFree", 0)) << 10


def parse_distances(text: str) -> list[int]:
    """A node's distance file: numbers, one for each node that is online."""
    return [min(int(word), 255) for word in text.split() if word.isdecimal()]


def parse_number_list(text: str) -> tuple[int, ...]:
    """A list such as "0-3,7"; empty where it makes no sense."""
    try:
        return parse_list(text.strip())
    except ValueError:
        return ()


def pagemap_bits(entry: int) -> int:
    """Our bits for an entry of pagemap."""
    found = 0
    if entry & PM_PRESENT:
        found |= bits.PRESENT
        if entry & PM_EXCLUSIVE:
            found |= bits.EXCLUSIVE
        if entry & PM_FILE:
            found |= bits.FILE
    elif entry & PM_SWAP:
        found |= bits.SWAPPED
    # Kernels set the bit for untouched pages of a new area, too; that says nothing of a page.
    if found and entry & PM_SOFT_DIRTY:
        found |= bits.SOFT_DIRTY
    return found


def kpageflags_bits(word: int) -> int:
    """Our bits for a word of kpageflags."""
    return sum_of(ours for position, ours in KPAGEFLAGS if word >> position & 1)


def sum_of(parts: Iterable[int]) -> int:
    """All the bits of @parts."""
    total = 0
    for part in parts:
        total |= part
    return total


def swap_position(entry: int) -> tuple[int, int]:
    """(swap area, offset in it) of an entry of pagemap; both 0 where the kernel hides them."""
    frame = entry & PM_FRAME
    return frame & (1 << PM_SWAP_TYPE_BITS) - 1, frame >> PM_SWAP_TYPE_BITS


def printable(text: str, limit: int = bits.MAX_NAME) -> str:
    """@text with everything escaped that could steer a terminal, and of bounded length."""
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in text
        )
    return text if len(text) <= limit else text[: limit - 1] + "…"
