"""The face of all commands: help, exit codes, and one sentence for whatever goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable

import pytest

from mmigrate.cli import main
from mmigrate.errors import (
    EnvironmentLacks,
    InternalError,
    KernelBug,
    ReplayMismatch,
    ScenarioError,
    SnapshotError,
    UsageError,
)

PROGRAM = [sys.executable, "-c", "from mmigrate.cli.main import main; main()"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """Runs a function as the command `probe`; the exit code."""

    def run(function: Callable[[], object]) -> int:
        module = types.ModuleType("mmigrate.cli.probe")
        module.__dict__["command"] = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(main.COMMANDS, "probe", "For this test.")
        return main.run(["probe"])

    return run


def raising(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}  " in shown for name in main.COMMANDS)
    assert "Exit codes" in shown


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert "Exit code" in shown
    assert "--json" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mmigrate 0.")


def test_nothing_to_do_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([]) == 2
    assert capsys.readouterr().out.startswith("Usage: mmigrate")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["benhc"], "No such command 'benhc'. Did you mean 'bench'? (see mmigrate --help)"),
        (["bench", "--jsom"], "No such option: --jsom (Possible options: --json)"),
        (["bench", "nothing"], "there is no benchmark nothing"),
    ],
)
def test_bad_usage(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"mmigrate: {sentence}")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UsageError("no such node"), 2, "no such node"),
        (ScenarioError("it deadlocks"), 2, "it deadlocks"),
        (SnapshotError("x is truncated"), 2, "x is truncated"),
        (ReplayMismatch("step 3 does not fit"), 2, "step 3 does not fit"),
        (EnvironmentLacks("install qemu"), 3, "install qemu"),
        (InternalError("a wrong step"), 70, "a defect of mmigrate: a wrong step"),
        (KernelBug("pfn 3"), 1, "BUG in the modelled kernel: pfn 3"),
        (FileNotFoundError(2, "No such file or directory", "a.py"), 2, "a.py: No such file"),
        (PermissionError(1, "Operation not permitted"), 2, "[Errno 1] Operation not permitted"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_a_sentence_and_a_code(
    command: Callable[[Callable[[], object]], int],
    error: BaseException,
    code: int,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(raising(error)) == code
    shown = capsys.readouterr()
    assert shown.err.startswith(f"mmigrate: {sentence}")
    assert shown.err.count("\n") == 1


def test_a_defect_names_its_place(
    command: Callable[[Callable[[], object]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(lambda: int("pfn 3")) == 70
    shown = capsys.readouterr().err
    assert shown.startswith("mmigrate: a defect of mmigrate: ValueError: invalid literal")
    assert " (main.py:" in shown
    assert "MMIGRATE_DEBUG=1" in shown
    assert "Traceback" not in shown


def test_the_traceback_can_be_had(
    command: Callable[[Callable[[], object]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MMIGRATE_DEBUG", "1")
    assert command(raising(UsageError("no such node"))) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("mmigrate: no such node\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PROGRAM, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "mmigrate: [Errno 28] No space left on device\n")


def test_help_loads_no_command_and_no_model() -> None:
    code = (
        "import sys; from mmigrate.cli.main import run; run(['--help']); "
        "sys.exit(any(name.startswith(('mmigrate.cli.', 'mmigrate.linux', 'rich')) "
        "and name != 'mmigrate.cli.main' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    assert done.returncode == 0
