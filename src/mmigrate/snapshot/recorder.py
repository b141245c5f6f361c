"""Records a process that the user may read.  It is not stopped and not written to.

The areas are listed first, then their pages are read a stretch at a time, and at the end the
list is read again: what changed in between is said in `missing`, as is everything that this
user or this kernel would not show.  Page states are run-length coded as they come, so memory
grows with the number of runs, not of pages.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence

from mmigrate.errors import UsageError
from mmigrate.snapshot import procfs
from mmigrate.snapshot.cgroups import Groups, read_groups
from mmigrate.snapshot.machine_files import list_text, machine_nodes, machine_pools, thp_setting
from mmigrate.snapshot.nodeset import parse_policy
from mmigrate.snapshot.pages import PageReader, Runs
from mmigrate.snapshot.process_files import ProcessFiles
from mmigrate.snapshot.procfs import AreaText, PolicyText, printable
from mmigrate.snapshot.records import VERSION, FileRecord, VmaRecord, packed
from mmigrate.snapshot.snapshot import Snapshot

Progress = Callable[[str, int, int], None]  # what is being done, how much of it, of how much


def record(pid: int, *, progress: Progress | None = None) -> Snapshot:
    """Record process @pid.

    Raises UsageError: there is no such process (any more), it has no memory, or it may not be
    read.  EnvironmentLacks: /proc is not there.
    """
    process = ProcessFiles(pid)
    report = progress if progress is not None else _silent
    report("listing areas", 0, 1)
    status = procfs.parse_status(process.text("status"))
    areas = process.areas()
    if not areas:
        raise UsageError(
            f"process {pid} has no memory to record: it is a kernel thread, or it has ended"
        )
    policies = process.policies()
    nodes = machine_nodes()
    with PageReader(process, nodes) as pages:
        files = _Files(process.filesystems())
        total = sum(area.size("Rss") + area.size("Swap") for area in areas) // pages.page_size
        done = 0
        records: list[VmaRecord] = []
        for area in areas:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                report("reading pages", min(done, total), total)

            policy = policies.get(area.start)
            runs = pages.record(area, policy, advance)
            records.append(_area_record(area, policy, files.number(area), runs, pages.page_size))
        groups = _groups(process)
        pools = machine_pools(nodes)
        process.note_changes(areas)
        process.check_still_there()
        snapshot = Snapshot(
            version=VERSION,
            kernel=printable(platform.release(), 256),
            machine=printable(platform.machine(), 256),
            page_size=pages.page_size,
            taken_at=int(time.time()),
            pid=pid,
            command=printable(status.get("Name", ""), 256),
            cpus_allowed=list_text(status.get("Cpus_allowed_list", "")),
            nodes_allowed=list_text(status.get("Mems_allowed_list", "")),
            policy=_process_policy(records, process.missing),
            nodes=nodes,
            known=[],
            missing=[],
            files=files.records,
            states=pages.states,
            vmas=records,
            thp=thp_setting(),
            pools=pools or [],
            cgroup_version=groups.version,
            memory_groups=groups.memory,
            cpuset=groups.cpuset,
        )
        snapshot.known = pages.known(snapshot, bool(policies))
        if pools is not None:
            snapshot.known.append("huge page pools")
        elif any(snapshot.kind(vma) == "hugetlb" for vma in records):
            process.missing.append("the pools of huge pages: /sys does not show them here")
        if groups.missing:
            process.missing.append(groups.missing)
        else:
            snapshot.known.append("memory cgroup")
        snapshot.missing = [printable(sentence) for sentence in process.missing]
        return snapshot


class _Files:
    """The mapped files, numbered from 1 in the order in which they are met."""

    def __init__(self, filesystems: dict[str, str]) -> None:
        self.filesystems = filesystems
        self.records: list[FileRecord] = []
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, area: AreaText) -> int:
        if area.inode == "0":
            return 0
        identity = (area.device, area.inode)
        number = self._numbers.get(identity)
        if number is None:
            self.records.append(
                FileRecord(
                    area.device,
                    area.inode,
                    printable(area.name),
                    printable(self._filesystem(area), 64),
                )
            )
            number = self._numbers[identity] = len(self.records)
        return number

    def _filesystem(self, area: AreaText) -> str:
        if area.name.startswith("/anon_hugepage"):
            return "hugetlbfs"
        # The kernel's own mount of shared memory is in nobody's list of mounts.
        if area.name.startswith(("/dev/zero (deleted)", "/memfd:", "/SYSV")):
            return "tmpfs"
        return self.filesystems.get(area.device, "")


def _area_record(
    area: AreaText, policy: PolicyText | None, file: int, runs: Runs | None, page_size: int
) -> VmaRecord:
    text = printable(policy.policy, 256) if policy is not None else ""
    try:
        parse_policy(text)
    except ValueError:
        text = ""
    if runs is None:
        runs = Runs()
    return VmaRecord(
        start=area.start,
        end=area.end,
        perms=area.perms,
        flags=printable(area.flags, 256),
        offset=min(area.offset, (1 << 63) - page_size),
        file=file,
        name=printable(area.name),
        policy=text,
        page_size=max(area.size("KernelPageSize"), page_size),
        locked=min(area.size("Locked"), area.end - area.start),
        counts=packed(runs.counts),
        states=packed(runs.states),
        swap=packed(runs.swap),
        anon_huge=area.size("AnonHugePages"),
        file_huge=area.size("ShmemPmdMapped") + area.size("FilePmdMapped"),
        hugetlb=area.size("Private_Hugetlb") + area.size("Shared_Hugetlb"),
        merged=area.size("KSM") or sum(runs.merged_counts) * page_size,
        merged_counts=packed(runs.merged_counts),
        merged_groups=packed(runs.merged_groups),
    )


def _groups(process: ProcessFiles) -> Groups:
    text = process.optional_text("cgroup", "cgroups")
    return read_groups(text, ProcessFiles.own_mounts()) if text else Groups()


def _process_policy(records: Sequence[VmaRecord], missing: list[str]) -> str:
    """The policy of the process: what an area shows that has none of its own."""
    shown = {record.policy for record in records if record.policy}
    if "default" in shown:
        return "default"  # only an area without a policy in a process without one shows that
    if len(shown) == 1:
        return shown.pop()
    if shown:
        missing.append("the policy of the process itself: every area shows another one")
    return ""


def _silent(_what: str, _done: int, _of: int) -> None:
    pass
