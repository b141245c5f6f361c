"""How long a guest takes to its first result, and for 120 scenarios more in the same boot."""

from __future__ import annotations

import inspect
import platform
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from mmigrate import MiB
from mmigrate.cli.bench import Figure
from mmigrate.errors import MmigrateError
from mmigrate.lab import Guest, find_tools, installed_kernels, run_jobs
from mmigrate.machine.scenario import load

FIRST_GOAL_S = 20
COLLECTION_GOAL_S = 90
COLLECTION = 120
EXAMPLES = Path(__file__).parents[1] / "examples"


def run() -> list[Figure]:
    try:
        find_tools()
        kernels = installed_kernels()
    except MmigrateError as error:
        print(f"lab: no kernel is booted: {error}", file=sys.stderr)
        return []
    figures = []
    for kernel in kernels:
        guest = Guest(kernel.path, nodes=(MiB(768),) * 2)
        begun = time.monotonic()
        events = run_jobs(
            guest,
            _jobs(2 * COLLECTION),  # some of them need more than this kernel has
            server="mmigrate.real.serve",
            modules=["mmigrate.real.scenario"],
        )
        ends = (time.monotonic() - begun for event in events if "result" in event)
        times = list(islice(ends, COLLECTION + 1))
        events.close()
        conditions = f"{kernel}, two nodes, Python {platform.python_version()}"
        suffix = "" if kernel is kernels[0] else f"_{kernel.release.split('-')[0]}"
        figures += [
            Figure(
                f"guest_first_result_s{suffix}",
                round(times[0], 1),
                "s",
                f"{FIRST_GOAL_S} s or less",
                conditions,
            ),
            Figure(
                f"guest_collection_s{suffix}",
                round(times[-1] - times[0], 1),
                "s",
                f"{COLLECTION_GOAL_S} s or less",
                f"{len(times) - 1} scenarios after the first; {conditions}",
            ),
        ]
    return figures


def _jobs(count: int) -> list[dict[str, Any]]:
    """So many scenarios of the examples that run on two nodes of a real kernel, in turn."""
    scenarios = [
        (path, scenario.name)
        for path in sorted(EXAMPLES.glob("*.py"))
        for scenario in load(path)
        if len(scenario.options.get("nodes", ())) == 2
        and min(scenario.options["nodes"]) > MiB(16)
        # What looks inside the model, or needs a filesystem that is no more, is no scenario here.
        and not any(word in inspect.getsource(scenario.function) for word in ("page_of", "exofs"))
    ]
    return [
        {
            "name": f"{number}: {name}",
            "call": "mmigrate.real.scenario:run",
            "arguments": {"file": str(path), "name": name},
        }
        for number, (path, name) in enumerate(islice(cycle(scenarios), count))
    ]
