"""`mmigrate`: finds the command, and turns every error into one sentence and an exit code.

A command is a module of this package with a function `command`, and a line in COMMANDS.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mmigrate.errors import InternalError, KernelBug, MmigrateError

# What `mmigrate --help` says of each; the module is loaded when its command is typed.
COMMANDS: Final = {
    "demo": "Record a real process, rebuild it on two nodes, and move it.",
    "run": "Run the scenarios of a file on the model.",
    "snapshot": "Record a real process: areas, policies, its pages and nodes.",
    "plan": "Rebuild a recorded process in the model and migrate it.",
    "explore": "Run a scenario in all interleavings that can differ.",
    "replay": "Repeat a recorded schedule, step by step.",
    "history": "The catalogue: commits, each shown without and with it.",
    "compare": "Run scenarios on the model and on a real kernel, and compare.",
    "fuzz": "Run generated programs on the model and on a real kernel.",
    "bench": "Run the benchmarks.",
}

CLEAN: Final = 0
FINDING: Final = 1
USAGE: Final = 2
DEFECT: Final = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130  # what a shell says of SIGINT
UNREAD: Final = 141  # what a shell says of SIGPIPE

EXIT_CODES: Final = """\b
Exit codes
    0  clean
    1  a finding or a difference
    2  bad usage or input
    3  the computer lacks something; the message says how to get it
   70  a defect of mmigrate; MMIGRATE_DEBUG=1 shows the traceback
  130  interrupted
  141  whoever read the output has gone
"""


def main() -> None:
    """The program."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of a command line; whatever goes wrong is told on stderr in a sentence."""
    try:
        code = application(arguments)(arguments, prog_name="mmigrate", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        if os.environ.get("MMIGRATE_DEBUG"):
            traceback.print_exc()
        code, sentence = explain(error)
        _give_up_output()
    else:
        # typer turns Ctrl-C into this code, and typer.Exit(n) into n.
        sentence = "interrupted" if code == INTERRUPTED else ""
    if sentence:
        with suppress(OSError):
            print(f"mmigrate: {sentence}", file=sys.stderr)
    return code or CLEAN


def application(arguments: list[str]) -> typer.Typer:
    """All commands by name; those that @arguments do not name stay unloaded."""
    program = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EXIT_CODES,
    )
    program.callback(invoke_without_command=True)(_mmigrate)
    for name, summary in COMMANDS.items():
        function: Callable[..., Any] = _not_typed
        if name in arguments:
            function = import_module(f"mmigrate.cli.{name}").command
        program.command(name, short_help=summary)(function)
    return program


def _mmigrate(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Linux page migration (v3.19): run it, pause it, break it, check it.

    \b
    Example:  mmigrate demo
    """
    if version:
        from mmigrate import __version__

        typer.echo(f"mmigrate {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def _not_typed() -> None:
    """Stands for a command that this command line does not name."""


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code for an error, and a sentence for the user, empty for silence."""
    match error:
        case InternalError():
            return DEFECT, f"a defect of mmigrate: {error}"
        case MmigrateError():
            return error.exit_code, str(error)
        case KernelBug():
            return FINDING, f"BUG in the modelled kernel: {error}"
        case typer.TyperException():
            return USAGE, error.format_message() + _hint(error)
        case KeyboardInterrupt() | typer.Abort():
            return INTERRUPTED, "interrupted"
        case BrokenPipeError():
            return UNREAD, ""
        case SystemExit() if isinstance(error.__context__, BrokenPipeError):
            return UNREAD, ""
        case OSError(filename=str() as file, strerror=str() as reason):
            return USAGE, f"{file}: {reason}"
        case OSError():
            return USAGE, str(error)
        case _:
            return DEFECT, (
                f"a defect of mmigrate: {type(error).__name__}: {error} ({_place(error)}); "
                "with MMIGRATE_DEBUG=1 it shows the traceback"
            )


def _hint(error: typer.TyperException) -> str:
    """Where the right usage stands."""
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _place(error: BaseException) -> str:
    """The innermost line of mmigrate that the error passed, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parents[1])
    ours = [frame for frame in frames if frame.filename.startswith(package)]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _give_up_output() -> None:
    """If what stdout still holds cannot be written, keep Python from trying again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
