"""The examples of README.md and docs/ are tests.

Blocks of `python` are run, those of one page in one namespace. Blocks of `console` that begin
with `$ mmigrate` are typed, and what is printed must be what the page shows, in which `...`
stands for anything; if it shows nothing, the command must only succeed. Both see the folder
`examples`, and write into a folder of their own. `<!--- skip: next "reason" -->` before a block
keeps it from being run.
"""

from __future__ import annotations

import doctest
import io
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parent
PROMPT = "$ mmigrate"


class ConsoleBlockParser(CodeBlockParser):
    """What is typed, and what comes back."""

    language = "console"

    def evaluate(self, example: Example) -> str | None:
        if not example.parsed.startswith(PROMPT):
            return None
        for command, shown in _transcript(example.parsed):
            code, printed = _type(command)
            if shown and not _checker.check_output(shown, printed, doctest.ELLIPSIS):
                return f"$ {command}\nthe page shows:\n{shown}\nit prints:\n{printed}"
            if not shown and code != 0:
                return f"$ {command}\nexit code {code}:\n{printed}"
        return None


_checker = doctest.OutputChecker()


def _transcript(text: str) -> Iterator[tuple[str, str]]:
    """Each command, and what stands below it."""
    for part in text.removeprefix("$ ").split("\n$ "):
        command, _, shown = part.partition("\n")
        yield command, _trimmed(shown)


def _type(command: str) -> tuple[int, str]:
    """The exit code, and what a terminal would show."""
    from mmigrate.cli.main import run

    program, *arguments = shlex.split(command, comments=True)
    assert program == "mmigrate", f"cannot type {command}"
    screen = io.StringIO()
    with redirect_stdout(screen), redirect_stderr(screen):
        code = run(arguments)
    return code, _trimmed(screen.getvalue())


def _trimmed(text: str) -> str:
    """No blanks at the ends of lines, no empty lines at the end."""
    return "".join(f"{line.rstrip()}\n" for line in text.rstrip().splitlines())


def _enter_page(namespace: dict[str, Any]) -> None:
    folder = tempfile.TemporaryDirectory(prefix="mmigrate-docs-")
    Path(folder.name, "examples").symlink_to(ROOT / "examples")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder.name)
    patch.setenv("COLUMNS", "100")
    patch.setenv("NO_COLOR", "1")
    patch.delenv("FORCE_COLOR", raising=False)
    namespace["_leave"] = [patch.undo, folder.cleanup]


def _leave_page(namespace: dict[str, Any]) -> None:
    for step in namespace["_leave"]:
        step()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), ConsoleBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    setup=_enter_page,
    teardown=_leave_page,
).pytest()
