"""Recording, rebuilding and migrating a real process with 1 GiB resident."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from mmigrate.cli.bench import Figure
from mmigrate.snapshot import format as snapshot_format
from mmigrate.snapshot.plan import plan_migration
from mmigrate.snapshot.rebuild import rebuild
from mmigrate.snapshot.recorder import record
from mmigrate.units import GiB

GOAL_S = 30
WORKER = """
import mmap, sys
memory = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for position in range(0, 1 << 30, 4096):
    memory[position] = 1
print("ready", flush=True)
sys.stdin.read()
"""


def run() -> list[Figure]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdout.readline()
        started = perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "worker.snap"
            snapshot_format.write(record(worker.pid), file)
            recorded = perf_counter()
            snapshot = snapshot_format.read(file)
        rebuilt = rebuild(snapshot, [GiB(4), GiB(4)])
        built = perf_counter()
        plan = plan_migration(rebuilt, [0], [1])
        ended = perf_counter()
    finally:
        worker.stdin.close()
        worker.wait()
        worker.stdout.close()
    assert plan.pages >= 262_144
    return [
        Figure(
            "plan_1g_s",
            round(ended - started, 2),
            "s",
            f"{GOAL_S} s or less",
            f"{plan.pages:,} pages; recording {recorded - started:.1f} s, rebuilding "
            f"{built - recorded:.1f} s, migrating {ended - built:.1f} s",
        )
    ]
