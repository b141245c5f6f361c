"""The commands run, plan, demo: what they print and how they end."""

import json
import os

import pytest

from mmigrate.cli.main import run
from mmigrate.cli.sizes import parse_size, parse_sizes
from mmigrate.errors import UsageError

GOOD = "def moves(machine):\n    app = machine.process()\n    app.touch(app.mmap(pages=1))\n"


def scenario(folder, text):
    path = folder / "scenario.py"
    path.write_text(text)
    return str(path)


def test_run_prints_a_line_for_each_scenario(tmp_path, capsys):
    assert run(["run", scenario(tmp_path, GOOD)]) == 0
    assert capsys.readouterr().out.startswith("ok   moves")


def test_run_json(tmp_path, capsys):
    assert run(["run", scenario(tmp_path, GOOD), "--json", "--nodes", "8M,8M"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"] == [{"name": "moves", "clean": True, "failed": None}]
    assert found["violations"] == []
    assert found["vmstat"]["moves"]["pgfault"] == 1


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("def s(machine):\n    assert 1 == 2\n", 1, "AssertionError"),
        (
            "def s(machine):\n    1 / 0\n",
            2,
            "s raised ZeroDivisionError: division by zero (line",
        ),
        ("def s(machine):\n    while True: pass\n", 2, "s: did not end within 0.2 s"),
        ("x = 1\n", 2, "has no function that takes a machine"),
        ("def s(machine:\n", 2, "cannot be loaded: SyntaxError"),
        ("MACHINE = 5\ndef s(machine): pass\n", 2, "MACHINE must be a dict"),
        (
            (
                "from mmigrate.linux.kernel import sched\n"
                "def s(machine):\n"
                "    with machine.process().running():\n"
                "        sched.warn('odd')\n"
            ),
            1,
            "warnings: kernel log: odd",
        ),
        (
            "from mmigrate.linux.kernel.bug import BUG\ndef s(machine):\n    BUG('broken')\n",
            1,
            "BUG: s: broken",
        ),
    ],
)
def test_scenarios_that_go_wrong(tmp_path, capsys, text, code, told):
    assert run(["run", scenario(tmp_path, text), "--seconds", "0.2"]) == code
    printed = capsys.readouterr()
    assert told in printed.out + printed.err
    assert "Traceback" not in printed.out + printed.err


def test_one_scenario_of_a_file(tmp_path, capsys):
    path = scenario(tmp_path, GOOD + "\ndef other(machine): pass\n")
    assert run(["run", f"{path}:other"]) == 0
    assert "moves" not in capsys.readouterr().out
    assert run(["run", f"{path}:third"]) == 2


def test_snapshot_and_plan_of_this_process(tmp_path, capsys):
    file = str(tmp_path / "me.snap")
    assert run(["snapshot", str(os.getpid()), "-o", file, "--json"]) == 0
    recorded = json.loads(capsys.readouterr().out)
    assert recorded["pages"] > 0
    command = ["plan", file, "--from", "all", "--to", "1", "--nodes", "1G,1G", "--json"]
    assert run(command) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["moved"] + planned["stayed"] == planned["pages"]
    assert planned["violations"] == []


def test_plan_of_what_is_no_snapshot(tmp_path, capsys):
    assert run(["plan", str(tmp_path / "none"), "--from", "0", "--to", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_demo(capsys):
    assert run(["demo", "--size", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["race"]["verified"]
    assert found["race"]["without"]["violation"].startswith("always: mprotect_meets_restore")
    assert (found["race"]["with"]["violation"], found["race"]["with"]["exhausted"]) == (None, True)
    assert found["plan"]["moved"] > 0
    assert found["violations"] == []
    assert run(["demo", "--size", "8"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Every oracle was asked afterwards: no violation." in told
    assert "The order of these accesses mattered: " in told


def test_sizes():
    assert parse_size("64M") == 64 << 20
    assert parse_size("1.5GiB") == 3 << 29
    assert parse_sizes("16k,0") == [16384, 0]
    for text in ("", "12x", "-4M", "9999999T"):
        with pytest.raises(UsageError):
            parse_size(text)
    with pytest.raises(UsageError, match="at least one node needs memory"):
        parse_sizes("0,0")
    with pytest.raises(UsageError, match="more than the 1024"):
        parse_sizes(",".join(["4M"] * 1025))
