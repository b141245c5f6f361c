"""`mmigrate`: finds the command, and turns every error into one sentence and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, Exit, TyperException

from mmigrate.errors import KernelBug, MmigrateError

# Command to its one-line help; the module is loaded when the command is used.
COMMANDS: Final = {
    "demo": "Record a real process, rebuild it on two nodes, and move it.",
    "run": "Run the scenarios of a file on the model.",
    "snapshot": "Record a real process: areas, policies, the state and node of every page.",
    "plan": "Rebuild a recorded process in the model and migrate it.",
    "bench": "Run the benchmarks.",
}

EXIT_CODES: Final = """\b
Exit codes: 0 clean; 1 a finding or a failed assertion; 2 bad usage or input;
            3 the computer lacks something (the message says what);
            70 a defect of mmigrate itself; 130 interrupted.
"""


class LazyGroup(TyperGroup):
    """Knows all commands by name and loads the one that is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"mmigrate.cli.{cmd_name}")
        # Two commands, so that typer makes a group of which we take one.
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(cmd_name, help=module.command.__doc__)(module.command)
        app.command("_")(lambda: None)
        group: Any = typer.main.get_command(app)
        return group.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    """Linux page migration (v3.19): run it, pause it, break it, check it."""
    if version:
        from mmigrate import __version__

        typer.echo(f"mmigrate {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """The program.  No traceback reaches a user unless MMIGRATE_DEBUG is set."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of a command line."""
    try:
        result = app(args=arguments, prog_name="mmigrate", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, Abort):
        complain("interrupted")
        return 130
    except TyperException as error:
        told = getattr(error, "format_message", None)
        complain(str(error) if told is None else told())
        return 2
    except BrokenPipeError:
        # who read our output has gone: not our fault, and nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MmigrateError as error:
        complain(str(error))
        return error.exit_code
    except KernelBug as bug:
        complain(f"BUG in the modelled kernel: {bug}")
        return 1
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 2
    except Exception as error:
        if os.environ.get("MMIGRATE_DEBUG"):
            traceback.print_exc()
            return 70
        frame = traceback.extract_tb(error.__traceback__)[-1]
        complain(
            f"a defect of mmigrate: {type(error).__name__}: {error} "
            f"(in {os.path.basename(frame.filename)}, line {frame.lineno}); "
            "set MMIGRATE_DEBUG=1 for details"
        )
        return 70


def complain(sentence: str) -> None:
    print(f"mmigrate: {sentence}", file=sys.stderr)
