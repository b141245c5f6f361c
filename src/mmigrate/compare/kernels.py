"""Answers of real kernels: the one here, one that is booted for it, and recorded ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mmigrate.compare.answers import Answer
from mmigrate.compare.cases import Case
from mmigrate.errors import UsageError
from mmigrate.linux.include.switches import release_number
from mmigrate.units import MiB

RECORDED: Final = Path(__file__).parent / "recorded"
NODES: Final = (MiB(384), MiB(384), MiB(384), 0)
PER_JOB: Final = 20  # programs of a job
GUEST_MODULES: Final = ("mmigrate.compare.answers", "mmigrate.real.scenario")
SERVER: Final = "mmigrate.real.serve"
# What of a kernel's configuration a migration can be seen to depend on.
OPTIONS: Final = (
    "CONFIG_NUMA",
    "CONFIG_NODES_SHIFT",
    "CONFIG_MIGRATION",
    "CONFIG_COMPACTION",
    "CONFIG_NUMA_BALANCING",
    "CONFIG_NUMA_BALANCING_DEFAULT_ENABLED",
    "CONFIG_CPUSETS",
    "CONFIG_KSM",
    "CONFIG_TRANSPARENT_HUGEPAGE",
    "CONFIG_ARCH_ENABLE_THP_MIGRATION",
    "CONFIG_HUGETLB_PAGE",
    "CONFIG_MEMORY_FAILURE",
    "CONFIG_MEM_SOFT_DIRTY",
    "CONFIG_LRU_GEN_ENABLED",
    "CONFIG_PREEMPT_VOLUNTARY",
)


@dataclass(frozen=True)
class Told:
    """What a kernel answered to a case: answers with how often each came, or why there is none.

    @missing: what the kernel lacks.  @error: what went wrong, which is a difference.
    """

    answers: tuple[tuple[Answer, int], ...] = ()
    missing: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, outcome: dict[str, Any]) -> Told:
        """From what a job, or a recording, has."""
        if "missing" in outcome:
            return cls(missing=outcome["missing"])
        if "error" in outcome:
            return cls(error=outcome["error"])
        result = outcome.get("result", outcome)
        return cls(tuple((answer, count) for answer, count in result["answers"]))

    def as_json(self) -> dict[str, Any]:
        if self.missing is not None:
            return {"missing": self.missing}
        if self.error is not None:
            return {"error": self.error}
        return {"answers": [list(pair) for pair in self.answers]}


def release_of(name: str) -> str:
    """ "6.1.0-56-amd64" as "v6.1", a release that the model knows."""
    parts = name.split(".")
    try:
        release = f"v{int(parts[0])}.{int(parts[1].split('-')[0])}"
        release_number(release)
    except (IndexError, ValueError):
        raise UsageError(f"{name} is not the release of a kernel") from None
    return release


def host_answers(cases: Sequence[Case], repeat: int) -> Iterator[tuple[Case, Told]]:
    """Answers of the kernel that runs here, each case in a process of its own."""
    by_name = {case.name: case for case in cases}
    for event in _host_events([_job(case, repeat) for case in cases]):
        yield by_name[event["name"]], Told.of(event)


def _host_events(jobs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The end of each job, run here one after the other."""
    with tempfile.TemporaryDirectory(prefix="mmigrate-compare-") as folder:
        wanted, results = Path(folder, "jobs.json"), Path(folder, "results")
        wanted.write_text(json.dumps(jobs))
        done = subprocess.run(
            [sys.executable, "-m", SERVER, str(wanted), str(results)],
            capture_output=True,
            check=False,
        )
        events = results.read_text().splitlines() if results.exists() else []
        found = {event["name"]: event for event in map(json.loads, events)}
    for job in jobs:
        event = found.get(job["name"], {"event": "begin"})
        if event["event"] != "end":
            text = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            event = {"error": f"was not run to its end: {''.join(text) or 'no answer'}"}
        yield {"name": job["name"], **event}


def booted_answers(
    image: Path, nodes: Sequence[int], cases: Sequence[Case], repeat: int
) -> Iterator[tuple[Case, Told]]:
    """Answers of a kernel that is booted, all in one boot unless a case takes it along.

    Raises LabError: it cannot be booted.  UsageError: it is no kernel.
    """
    from mmigrate.lab import Guest, run_jobs

    guest = Guest(image, nodes=nodes, balloon=True)
    by_name = {case.name: case for case in cases}
    jobs = [_job(case, repeat) for case in cases]
    for event in run_jobs(guest, jobs, server=SERVER, modules=GUEST_MODULES):
        yield by_name[event["name"]], Told.of(event)


def program_answers(
    image: Path | None, nodes: Sequence[int], file: Path, names: Sequence[str]
) -> Iterator[tuple[str, Told]]:
    """Answers to the programs of a file, many on one machine; @image None: of the kernel here."""
    jobs: list[dict[str, Any]] = [
        {
            "name": f"programs {first} and on",
            "call": "mmigrate.compare.answers:observe_many",
            "arguments": {"file": str(file), "names": list(names[first : first + PER_JOB])},
            "seconds": 120,
        }
        for first in range(0, len(names), PER_JOB)
    ]
    events: Iterator[dict[str, Any]]
    if image is None:
        events = _host_events(jobs)
    else:
        from mmigrate.lab import Guest, run_jobs

        guest = Guest(image, nodes=nodes)
        events = run_jobs(guest, jobs, server=SERVER, modules=GUEST_MODULES)
    asked: dict[str, list[str]] = {job["name"]: job["arguments"]["names"] for job in jobs}
    for event in events:
        for name in asked[event["name"]]:
            yield name, Told.of(event["result"][name] if "result" in event else event)


def _job(case: Case, repeat: int) -> dict[str, Any]:
    return {
        "name": case.name,
        "call": "mmigrate.compare.answers:observe",
        "arguments": {"file": str(case.file), "name": case.scenario.name, "repeat": repeat},
        "seconds": 60 + 2 * repeat,
    }


# --- recordings ---


@dataclass(frozen=True)
class Recording:
    """A file of answers.  @name: the kernel's `uname -r`; @configuration: what of it matters."""

    name: str
    nodes: tuple[int, ...]
    configuration: dict[str, str]
    told: dict[str, Told]

    def with_(self, new: Recording) -> Recording:
        """@new, with the answers to cases that only this one has if it is of the same kernel."""
        same = (self.name, self.nodes, self.configuration)
        if same != (new.name, new.nodes, new.configuration):
            return new
        return replace(new, told={**self.told, **new.told})


def read_recording(path: Path) -> Recording:
    """Raises UsageError: there is no such file, or it is no recording."""
    try:
        found = json.loads(path.read_text())
        return Recording(
            found["kernel"],
            tuple(found["nodes"]),
            found["configuration"],
            {name: Told.of(outcome) for name, outcome in found["cases"].items()},
        )
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a recording of a kernel's answers") from error


def recordings() -> list[Recording]:
    """All that are kept, oldest kernel first."""
    found = [read_recording(path) for path in RECORDED.glob("*.json")]
    return sorted(found, key=lambda recording: release_number(release_of(recording.name)))


def find_recording(name: str) -> Recording:
    """The recording of the kernel whose release begins with @name."""
    kept = recordings()
    found = [each for each in kept if each.name == name or each.name.startswith(f"{name}.")]
    if len(found) != 1:
        have = ", ".join(each.name for each in kept) or "none"
        raise UsageError(f"there is no recording of kernel {name}; there are: {have}")
    return found[0]


def write_recording(path: Path, recording: Recording) -> None:
    """One line a case, so that a change shows which."""
    head = {
        "kernel": recording.name,
        "nodes": list(recording.nodes),
        "configuration": recording.configuration,
    }
    lines = [
        f"    {json.dumps(name)}: {json.dumps(told.as_json())}"
        for name, told in sorted(recording.told.items())
    ]
    text = json.dumps(head, indent=2).removesuffix("\n}")
    path.write_text(text + ',\n  "cases": {\n' + ",\n".join(lines) + "\n  }\n}\n")


def configuration_of(image: Path, release: str) -> dict[str, str]:
    """The options that matter of an installed kernel; empty if its configuration is not there."""
    for place in (image.with_name(f"config-{release}"), Path(f"/boot/config-{release}")):
        if place.is_file():
            lines = place.read_text(errors="replace").splitlines()
            pairs = dict(line.split("=", 1) for line in lines if "=" in line)
            return {name: pairs.get(name, "n") for name in OPTIONS}
    return {}


def host_release() -> str:
    return os.uname().release
