"""Jobs in processes of their own, on the kernel that runs the tests."""

import json
import subprocess
import sys

import pytest

from mmigrate.real.serve import results_of

FILE = """
import os, signal, time
from pathlib import Path
from mmigrate import Machine, MiB
MACHINE = {"nodes": (MiB(1),)}
FOLDER = Path(__file__).parent

def good(machine):
    assert isinstance(machine, Machine), "Machine means the real one here"
    machine.process().mmap(pages=1)

def wrong(machine):
    assert False, "as it should"

def raises(machine):
    raise KeyError("no such thing")

def needs_more(machine):
    Machine(nodes=(MiB(1),) * 99)

def exits(machine):
    os._exit(7)

def _with_a_file(machine):
    app = machine.process()
    file = machine.shmem("file", 4096)
    (FOLDER / "path").write_text(f"{file.path} {app.pid}")

def is_killed(machine):
    _with_a_file(machine)
    os.kill(os.getpid(), signal.SIGKILL)

def never_ends(machine):
    _with_a_file(machine)
    time.sleep(60)

def is_clean(machine):
    path, pid = (FOLDER / "path").read_text().split()
    assert not Path(path).parent.exists()
    assert not Path(f"/proc/{pid}").exists()
"""


@pytest.mark.slow
def test_serve(tmp_path):
    file = tmp_path / "scenarios.py"
    file.write_text(FILE)
    names = [
        *("good", "wrong", "raises", "needs_more", "exits"),
        *("is_killed", "is_clean", "never_ends", "is_clean"),
    ]
    jobs = [
        {
            "name": f"{number} {name}",
            "call": "mmigrate.real.scenario:run",
            "arguments": {"file": str(file), "name": name},
            "seconds": 0.3 if name == "never_ends" else 30,
        }
        for number, name in enumerate([*names, "nothing"])
    ]
    jobs.append({"name": "10 no module", "call": "no_such_module:run"})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run(
        [sys.executable, "-m", "mmigrate.real.serve", "jobs.json", "results.jsonl"],
        cwd=tmp_path,
        check=True,
    )
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["begin", "end"] * len(jobs)
    ends = list(results_of(iter([*lines, '{"cut o'])).values())
    found = [
        end.get("error") or end.get("missing") or end["result"]["failed"] or "ok" for end in ends
    ]
    assert found[3].startswith("the scenario needs 99 nodes; this kernel has")
    assert found[9] == f"{file} has no scenario nothing"
    assert found[10] == "ModuleNotFoundError: No module named 'no_such_module'"
    del found[9:], found[3]
    assert found == [
        "ok",
        "AssertionError: as it should (line 13)",
        "KeyError: 'no such thing'",
        "ended with exit code 7 and no answer",
        "was killed by SIGKILL",
        "ok",
        "did not end within 0.3 s",
        "ok",
    ]
