"""Many jobs in few boots: what kills or hangs the guest is reported, the rest goes on in another.

The guest runs a server, a Python module that is called as

    python -m MODULE JOBS.json RESULTS.jsonl

and appends a line {"name": …, "event": "begin"} and then one with "event": "end" for each job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from mmigrate.errors import LabError
from mmigrate.lab.accelerator import cache_folder
from mmigrate.lab.boot import Boot
from mmigrate.lab.guest import Guest

Job = Mapping[str, Any]

# Emulation is slow, and it can be that others need the CPUs too.
BOOT_SECONDS: Final = 180
GRACE: Final = 30  # beyond the time limit of a job, which the server keeps


def run_jobs(
    guest: Guest,
    jobs: Sequence[Job],
    *,
    server: str,
    modules: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Run jobs in guests of one kind; the event that ends each, as soon as it is known.

    @server: the module that runs them.  @modules: what it will import besides, so that it can be
    compiled before.  A job that takes the guest along ends with an "error" and the "console".
    Raises LabError: a guest did not even begin with a job.
    """
    left = list(jobs)
    compiled = compile_modules([server, *modules])
    program = 'exec "$0" -m "$1" "$MMIGRATE_SHARE/jobs.json" "$MMIGRATE_SHARE/results"'
    while left:
        with Boot(
            guest,
            ["/bin/sh", "-c", program, sys.executable, server],
            files={"jobs.json": json.dumps(left)},
            environment={**compiled, **(environment or {})},
        ) as boot:
            begun = False
            for event in _events(boot, left):
                begun = True
                if event["event"] == "end":
                    left = [job for job in left if job["name"] != event["name"]]
                    yield event
            if not begun:
                raise LabError(
                    "the guest did not begin; its command said:\n"
                    f"{boot.output or '  nothing'}\nits console ends:\n{boot.tail()}"
                )


def _events(boot: Boot, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """The lines of the file of results as they come, and one more if the guest ends before."""
    limits = {job["name"]: float(job.get("seconds", 60)) + GRACE for job in jobs}
    current: str | None = None
    deadline = boot.begun + BOOT_SECONDS
    position = 0
    ended = 0
    while True:
        running = boot.running
        text = ""
        with suppress(OSError), open(boot.share / "results") as file:
            file.seek(position)
            text = file.read()
        complete = text[: text.rfind("\n") + 1]
        position += len(complete.encode())
        for line in complete.splitlines():
            event: dict[str, Any] = json.loads(line)
            current = event["name"] if event["event"] == "begin" else None
            ended += event["event"] == "end"
            deadline = time.monotonic() + (limits.get(current, GRACE) if current else GRACE)
            yield event
        late = time.monotonic() > deadline
        if not running or late:
            break
        boot.answer_requests()
        time.sleep(0.02)
    if current is not None:
        how = "the guest hung" if late else "the guest ended"
        yield {"name": current, "event": "end", "error": how, "console": boot.tail()}
    elif ended < len(jobs) and ended:
        how = "hung" if late else "ended"
        raise LabError(f"the guest {how} between two jobs; its console ends:\n{boot.tail()}")


def compile_modules(modules: Sequence[str]) -> dict[str, str]:
    """Compile what @modules import, for the guest, to which the installed files are read-only and
    far away; the environment that makes Python look there.  It is kept for the next guest."""
    folder = cache_folder()
    if folder is None:
        return {}
    environment = {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(
        [sys.executable, "-c", "; ".join(f"import {module}" for module in modules)],
        env={**usual, **environment},
        capture_output=True,
        check=False,
    )
    return environment
