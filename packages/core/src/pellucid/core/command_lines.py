"""Commands of the installed packages by their words: read without being run, or run in a process of their own."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from .errors import OptionError

MAIN = "import sys; from pellucid.core.cli import main; sys.exit(main())"
"""Python code that is `pellucid`, whatever is on the path."""


def command_of(argv: Sequence[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words that are left for it.

    Args:
        argv: the words after `pellucid`.

    Raises:
        OptionError: no installed package has that command.
    """
    import typer
    from typer.core import TyperGroup

    from .cli import app

    command: Any = typer.main.get_command(app)
    left = list(argv)
    while isinstance(command, TyperGroup) and command.commands:
        name = left[0] if left else ""
        if name not in command.commands:
            known = ", ".join(command.commands)
            raise OptionError(f"pellucid {' '.join(argv)}: there is no {name!r}, only {known}")
        command, left = command.commands[name], left[1:]
    return command, left


def check(argv: Sequence[str]) -> None:
    """Read a command line as `pellucid` would, and run nothing.

    Raises:
        OptionError: the line is refused: an unknown command or option, a missing one, or a value of the wrong type.
    """
    command, left = command_of(argv)
    try:
        command.make_context(command.name, left)
    except Exception as error:
        told = error.format_message() if hasattr(error, "format_message") else str(error)
        raise OptionError(f"pellucid {' '.join(argv)}: {told}") from error


def takes(argv: Sequence[str], option: str) -> bool:
    """Whether the command of these words has an option."""
    command, _ = command_of(argv)
    return any(option in parameter.opts for parameter in command.params)


def execute(argv: Sequence[str]) -> tuple[int, str]:
    """Run a `pellucid` command in a process of its own; what it says of its progress is passed on.

    Returns:
        Its exit code, and the last line that it wrote on standard error.
    """
    last = ""
    command = [sys.executable, "-c", MAIN, *argv]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as running:
        assert running.stderr is not None
        for line in running.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
    return running.returncode, last
