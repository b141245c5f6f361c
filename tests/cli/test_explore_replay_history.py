"""The commands that explore, repeat, and verify the catalogue."""

import json
from pathlib import Path

import pytest

from mmigrate.cli import explore
from mmigrate.cli.main import run

SCENARIOS = '''
from mmigrate import MiB
from mmigrate.machine.conditions import always, sometimes

MACHINE = {"nodes": (MiB(4), MiB(4))}

def clean(machine):
    """Two threads, one page."""
    app = machine.process("app")
    page = app.mmap(pages=1)
    app.write(page.start, b"hello")
    machine.start(app.move_pages, page, 1)
    machine.start(app.munmap, page)

def moved(machine):
    return machine.vmstat["pgmigrate_success"] == 0

@always(moved)
def broken(machine):
    """It moves, though it says that it never does."""
    app = machine.process("app")
    page = app.mmap(pages=1)
    app.write(page.start, b"hello")
    machine.start(app.move_pages, page, 1)
    machine.start(app.write, page.start, b"world")

def never(machine):
    return False

@sometimes(never)
def shows_nothing(machine):
    clean(machine)
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Path("mine.py").write_text(SCENARIOS)
    return "mine.py"


def test_a_clean_scenario(file, capsys):
    assert run(["explore", f"{file}:clean"]) == 0
    out = capsys.readouterr().out
    assert "exhausted, clean" in out


def test_the_example_of_the_help_is_exhausted_soon(capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert explore.command.__doc__ is not None
    example = explore.command.__doc__.split("Example:", 1)[1].split("\n", 1)[0].split()
    assert example[:2] == ["mmigrate", "explore"]
    assert run([*example[1:], "--max-seconds", "20"]) == 0
    assert "exhausted, clean" in capsys.readouterr().out


def test_a_finding_is_shown_kept_and_repeated(file, capsys):
    assert run(["explore", f"{file}:broken"]) == 1
    out = capsys.readouterr().out
    assert "always: broken: moved does not hold" in out
    assert "repeat with: mmigrate replay findings/broken-1.schedule" in out
    assert "app:write" in out
    assert run(["replay", "findings/broken-1.schedule"]) == 1
    again = capsys.readouterr().out
    assert out.splitlines()[-3:] == again.splitlines()[-3:]
    assert run(["replay", "findings/broken-1.schedule", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["violation"] == "always: broken: moved does not hold"
    assert len(told["steps"]) > 100


def test_a_schedule_that_does_not_fit_any_more(file, capsys):
    assert run(["explore", f"{file}:broken"]) == 1
    changed = SCENARIOS.replace("pages=1", "pages=2")
    Path("mine.py").write_text(changed)
    assert run(["replay", "findings/broken-1.schedule"]) == 2
    assert "does not fit broken any more" in capsys.readouterr().err
    Path("mine.py").unlink()
    assert run(["replay", "findings/broken-1.schedule"]) == 2
    assert "the scenario of the schedule is gone" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "something else", "mmigrate schedule 1\nscenario: x\n\n"])
def test_a_file_that_is_no_schedule(file, capsys, text):
    Path("odd").write_text(text)
    assert run(["replay", "odd"]) == 2
    assert run(["replay", "missing"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_search_that_was_cut_off_is_no_pass(file, capsys):
    assert run(["explore", f"{file}:clean", "--max-executions", "2", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["found"], told["exhausted"]) == (False, False)
    assert told["bounds"] == {"max_executions": 2}


def test_what_a_search_was_not_able_to_say(file, capsys):
    assert run(["explore", f"{file}:clean", "--max-executions", "2"]) == 1
    assert "no finding in 2 executions, NOT exhausted (2 max executions)" in capsys.readouterr().out
    assert run(["explore", f"{file}:clean", "--strategy", "random", "--max-executions", "3"]) == 1
    assert "NOT exhausted" in capsys.readouterr().out
    assert run(["explore", f"{file}:clean", "--strategy", "nope"]) == 2
    assert "there is no strategy nope" in capsys.readouterr().err


def test_a_bound_that_was_asked_for_is_a_pass_within_it(file, capsys):
    assert run(["explore", f"{file}:clean", "--preemptions", "0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["exhausted"], told["bounds"]) == (True, {"preemptions": 0})


def test_a_search_is_left_off_and_resumed(file, capsys):
    assert run(["explore", f"{file}:clean", "--resume", "missing.json"]) == 2
    assert "no search that was left off" in capsys.readouterr().err


def test_a_sometimes_that_was_never_met_is_no_pass(file, capsys):
    assert run(["explore", f"{file}:shows_nothing"]) == 1
    assert "shows nothing: never met never" in capsys.readouterr().out


def test_an_unknown_commit(file, capsys):
    assert run(["explore", f"{file}:clean", "--without", "0123456789ab"]) == 2
    assert "there is no switch for commit" in capsys.readouterr().err
    assert run(["history", "0123456789ab"]) == 2


def test_a_row_of_the_catalogue(capsys):
    assert run(["history", "d3cb8bf6081b"]) == 0
    out = capsys.readouterr().out
    assert "verified" in out
    assert "problem: Migration entries remember" in out
    assert run(["history", "d3cb8bf", "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert told["without"]["right"]
    assert told["with"]["exhausted"]


INTERRUPTED = """
import os, signal
from mmigrate.explore import Shared
from mmigrate.machine.conditions import always

seen = []

MACHINE = {"cpus": (0, 0, 0)}

def interrupt(machine):
    if os.path.exists("press"):
        seen.append(1)
        if len(seen) == 100:
            os.kill(os.getpid(), signal.SIGINT)
    return True

@always(interrupt)
def increments(machine):
    counter = Shared(0, "counter")

    def increment(times):
        for _ in range(times):
            counter.store(counter.load() + 1)

    for times in (2, 1, 1):
        machine.start(increment, times)
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [(), ("--jobs", "2")])
def test_interrupted_and_gone_on_with(tmp_path, monkeypatch, capsys, jobs):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(INTERRUPTED)
    search = ["explore", "mine.py:increments", "--json"]
    assert run(search) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["estimate"] == whole["executions"] == whole["classes"] > 100
    assert whole["expected"] > 100
    Path("press").touch()
    assert run([*search, "--save", "left.json"]) == 1
    first = json.loads(capsys.readouterr().out)
    assert (first["interrupted"], first["exhausted"], first["found"]) == (True, False, False)
    assert first["executions"] in (98, 99)
    Path("press").unlink()
    assert run([*search, "--resume", "left.json", *jobs]) == 0
    rest = json.loads(capsys.readouterr().out)
    assert (rest["classes"], rest["exhausted"]) == (whole["classes"], True)


def test_an_executor_that_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(SCENARIOS)
    assert run(["explore", "mine.py:clean", "--executor", "ray://here"]) == 2
    assert "names no executor" in capsys.readouterr().err
