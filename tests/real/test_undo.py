"""Steps that are carried out in the end, by ourselves or by a witness."""

import json
import os
import subprocess
import sys

import pytest

from mmigrate.real import undo


def test_the_last_step_first(tmp_path):
    path = tmp_path / "setting"
    steps = undo.Undo()
    steps.add("write", str(path), "first")
    steps.add("write", str(path), "second")
    steps.add("remove", str(tmp_path / "never there"))
    assert steps.carry_out() == []
    assert path.read_text() == "first"
    assert steps.carry_out() == []


def test_what_cannot_be_done_is_told_and_the_rest_is_done(tmp_path):
    path = tmp_path / "setting"
    steps = undo.Undo()
    steps.add("write", str(path), "done")
    steps.add("write", str(tmp_path), "a folder")
    assert steps.carry_out() == [f"write {tmp_path} a folder: Is a directory"]
    assert path.read_text() == "done"


def test_what_was_undone_already_is_forgotten(tmp_path):
    path = tmp_path / "setting"
    steps = undo.Undo()
    steps.add("write", str(path), "value")
    steps.forget("write", str(path), "value")
    steps.forget("write", str(path), "value")
    steps.carry_out()
    assert not path.exists()


@pytest.mark.parametrize(
    "step",
    [["unmount", "/nonexistent"], ["swapoff", "/nonexistent"], ["rmdir", "/nonexistent"]],
)
def test_what_is_gone_is_no_error(step):
    undo.carry_out(step)


def test_what_a_witness_has_to_do():
    told = [["add", ["a"]], ["add", ["b"]], ["done", ["b"]], ["add", ["c"]], ["done", ["x"]]]
    lines = [json.dumps(each) for each in told] + ["cut o"]
    assert undo.left_over(lines) == [["c"], ["a"]]


KILLED = """
import os, signal, sys
from mmigrate.real.undo import Undo
steps = Undo()
steps.add("write", sys.argv[1], "by the witness")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_witness_does_it_if_we_are_killed(tmp_path):
    path = tmp_path / "setting"
    reading, writing = os.pipe()  # closed when the witness ends, which inherits its stderr
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, stderr=writing)
    os.close(writing)
    assert os.read(reading, 1000) == b""
    os.close(reading)
    assert path.read_text() == "by the witness"


def test_another_witness_can_be_named(tmp_path, monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setenv(undo.WITNESS, str(writing))
    steps = undo.Undo()
    steps.add("write", str(tmp_path / "file"), "text")
    steps.carry_out()
    os.close(writing)
    with os.fdopen(reading) as file:
        told = [json.loads(line)[0] for line in file]
    assert told == ["add", "done"]
