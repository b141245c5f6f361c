"""Runs many jobs one after the other, each in a process of its own:

    python -m mmigrate.real.serve JOBS.json RESULTS.jsonl

JOBS.json is a list of objects:

    name        of the job
    call        "package.module:function", which is called in the process of its own
    arguments   its keyword arguments, an object
    seconds     the longest it may take, by default 60

RESULTS.jsonl gets two lines a job, each as soon as it is known, so that a kernel that dies takes
nothing along but the job that killed it:

    {"name": …, "event": "begin"}
    {"name": …, "event": "end", "seconds": …, and one of
         "result": what the function returned
         "missing": why this kernel cannot run it
         "error": what it raised, or how it ended without an answer}

A module may have a function `prepare(**arguments)`, which is called before each of its jobs is
forked, with the arguments of the job: to import, once, what several jobs share.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from mmigrate.errors import Missing, MmigrateError
from mmigrate.real import undo
from mmigrate.real.machine import RealMachine
from mmigrate.real.process import RealProcess

_PR_SET_CHILD_SUBREAPER: Final = 36


def serve(jobs: list[dict[str, Any]], results: str) -> None:
    """Run the jobs; append to the file @results."""
    # A scenario file that imports Machine means the one it is given; the model would take longer
    # to load here than a scenario takes.
    vars(sys.modules["mmigrate"]).update(Machine=RealMachine, Process=RealProcess)
    # Children of a job that was killed become ours, and are waited for.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with open(results, "a") as file:

        def tell(job: dict[str, Any], event: str, **facts: Any) -> None:
            print(json.dumps({"name": job["name"], "event": event, **facts}), file=file, flush=True)

        for job in jobs:
            tell(job, "begin")
            begun = time.monotonic()
            _prepare(job)
            outcome = _in_a_child(job)
            tell(job, "end", seconds=round(time.monotonic() - begun, 3), **outcome)


def _prepare(job: dict[str, Any]) -> None:
    """What goes wrong here goes wrong again in the job, where it is told."""
    with suppress(Exception):
        prepare = getattr(import_module(job["call"].partition(":")[0]), "prepare", None)
        if prepare is not None:
            prepare(**job.get("arguments", {}))


def _in_a_child(job: dict[str, Any]) -> dict[str, Any]:
    """What came of a job."""
    answers, answer = os.pipe()
    steps, step = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        os.close(steps)
        _child(job, answer, step)
    os.close(answer)
    os.close(step)
    seconds = float(job.get("seconds", 60))
    try:
        received = {answers: bytearray(), steps: bytearray()}
        late = not _receive(received, answers, time.monotonic() + seconds)
        if late:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        _receive(received, steps, time.monotonic() + 1)
    finally:
        os.close(answers)
        os.close(steps)
    for left in undo.left_over(received[steps].decode().splitlines()):
        with suppress(OSError):
            undo.carry_out(left)
    _reap()
    if late:
        return {"error": f"did not end within {seconds:g} s"}
    if received[answers]:
        outcome: dict[str, Any] = json.loads(received[answers])
        return outcome
    if os.WIFSIGNALED(status):
        return {"error": f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"}
    return {"error": f"ended with exit code {os.waitstatus_to_exitcode(status)} and no answer"}


def _receive(received: dict[int, bytearray], until: int, end: float) -> bool:
    """Read from all pipes until @until is closed by its writers; whether it was by @end."""
    waiting = list(received)
    while until in waiting:
        ready, _, _ = select.select(waiting, [], [], max(0, end - time.monotonic()))
        if not ready:
            return False
        for pipe in ready:
            data = os.read(pipe, 1 << 16)
            received[pipe] += data
            if not data:
                waiting.remove(pipe)
    return True


def _child(job: dict[str, Any], answer: int, step: int) -> None:
    """The process of a job; does not return."""
    os.environ[undo.WITNESS] = str(step)
    try:
        module, _, name = job["call"].partition(":")
        function = getattr(import_module(module), name)
        outcome = {"result": function(**job.get("arguments", {}))}
        text = json.dumps(outcome)
    except Missing as error:
        text = json.dumps({"missing": str(error)})
    except MmigrateError as error:
        text = json.dumps({"error": str(error)})
    except BaseException as error:
        place = "".join(traceback.format_exception(error)[-3:])
        text = json.dumps({"error": f"{type(error).__name__}: {error}", "traceback": place})
    data = text.encode()
    while data:
        data = data[os.write(answer, data) :]
    os._exit(0)


def _reap() -> None:
    """Wait for the processes that a job left behind, which end when its sockets close."""
    end = time.monotonic() + 1
    with suppress(ChildProcessError):
        while time.monotonic() < end:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.002)


def results_of(lines: Iterator[str]) -> dict[str, dict[str, Any]]:
    """The last event of each job in a file of results; a last line that was cut off is none."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        with suppress(ValueError):
            event = json.loads(line)
            found[event["name"]] = event
    return found


if __name__ == "__main__":
    with open(sys.argv[1]) as jobs_file:
        serve(json.load(jobs_file), sys.argv[2])
