"""`pellucid`: one command whose sub-commands every installed package adds through an entry point.

A package declares `NAME = "module:app"` in the group `pellucid.commands`, where `app` is a `typer.Typer`. An app of one
command is called as `pellucid NAME --out DIR`; an app of several, or of one besides a callback, as `pellucid NAME
COMMAND`. The module is imported when the sub-command is named, or for its one line in the root's help, so it must
not import torch at its top. Options that several commands share are the aliases below: `def run(out: Out, seed: Seed
= 0)` gives every command the same `--out` and `--seed`.
"""

import importlib.metadata
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from .errors import OptionError, PellucidError
from .outfolder import prepare_out
from .quiet import hush_bitsandbytes
from .report import RESULT, Report, versions

GROUP = "pellucid.commands"

# What a command is for, as the root's help groups them: `typer.Typer(rich_help_panel=LOCATE, ...)`.
LOCATE = "Where a model keeps what it knows, and how to change it"
DATA = "What in the data is behind it"
TRY = "To try it, and to check it"
RUN = "To run it elsewhere, and to see what is missing"
_OTHER = "More"
_DTYPES = ("auto", "float32", "float16", "bfloat16")


def _known_dtype(name: str) -> str:
    if name not in _DTYPES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(_DTYPES)}")
    return name


Model = Annotated[str, typer.Option("--model", metavar="MODEL", help="A hub id, a local folder, or zoo:NAME.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", file_okay=False, help="Folder for result.json, report.html, tables and figures."
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides every random choice.")]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[
    str, typer.Option("--dtype", metavar="DTYPE", callback=_known_dtype, help=f"One of {', '.join(_DTYPES)}.")
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Ray tasks at a time; 0 runs in this process, without Ray.")
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDRESS", help="A running Ray cluster: auto, or ray://HOST:10001."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh/--resume", help="Clear what an earlier run left in DIR, or go on from it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print result.json instead of a summary.")]


def show(report: Report, out: Path, as_json: bool) -> None:
    """End a command: print the finding and where the report is, or all of result.json.

    Args:
        report: what was written.
        out: the folder it was written to.
        as_json: the command's `--json`.
    """
    if as_json:
        typer.echo((out / RESULT).read_text(encoding="utf-8"), nl=False)
    else:
        typer.echo(f"{report.summary}\n\nReport: {out / 'report.html'}")


def finish(make: Callable[[], Report], out: Path, fresh: bool, as_json: bool) -> None:
    """Run a command that gives a report: check the folder, do the work, write the report, say what was found.

    Args:
        make: does the work.
        out: the command's `--out`.
        fresh: its `--fresh`.
        as_json: its `--json`.
    """
    started = time.monotonic()
    prepare_out(out, fresh)
    report = make()
    report.write(out, time.monotonic() - started)
    show(report, out, as_json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `pellucid` and return its exit code; nothing but the code ever leaves this function.

    Exit codes: 0 done; 1 a defect of ours (or an aborted prompt, or a reader that went away); 2 a mistake that the
    user can mend; 130 stopped by Ctrl-C.

    Args:
        arguments: the words after `pellucid`; by default those of this process.
    """
    hush_bitsandbytes()
    debug, words = _debug_first(list(sys.argv[1:] if arguments is None else arguments))
    code = _run(words, debug)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Else the interpreter tries once more at exit and complains. Nobody reads standard output any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or 1
    return code


def _debug_first(words: list[str]) -> tuple[bool, list[str]]:
    """Move `--debug` from anywhere before a `--` to the front, where the root command knows it."""
    end = words.index("--") if "--" in words else len(words)
    if "--debug" not in words[:end]:
        return False, words
    return True, ["--debug", *(word for word in words[:end] if word != "--debug"), *words[end:]]


def _run(words: list[str], debug: bool) -> int:
    try:
        typer.main.get_command(app)(words, prog_name="pellucid")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as raised:
        error = raised.error if isinstance(raised, _CarriedError) else raised
        if _is_lost_reader(error):
            return 1
        if debug:
            traceback.print_exception(error)
        code, message = _verdict(error, words)
        print(f"pellucid: {' '.join(message.split())}", file=sys.stderr)
        return code
    return 0


def _verdict(error: BaseException, words: list[str]) -> tuple[int, str]:
    """Return the exit code and the line for an error."""
    if isinstance(error, PellucidError):
        return 2, str(error)
    if isinstance(error, KeyboardInterrupt):
        # The same command with --fresh would throw away what is finished.
        how = "the same command without --fresh" if "--fresh" in words else "the same command again"
        return 130, f"stopped; what a ledger holds is kept, run {how} to go on"
    return 1, f"{type(error).__name__}: {error} (a defect; run again with --debug for the traceback)"


def _is_lost_reader(error: BaseException) -> bool:
    """Tell whether the reader of our output went away (`pellucid ... | head`), not some other pipe or socket."""
    if not isinstance(error, BrokenPipeError):
        return False
    if not hasattr(select, "poll"):  # Windows: the likeliest by far
        return True
    # Asked of the system: what could not be written may be gone from Python's buffer, so that a flush would pass.
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except OSError:
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


class _CarriedError(Exception):
    """Carries an exception out of typer, which would end the process silently on its own account."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class _Root(TyperGroup):
    """The root command: its sub-commands are plugins, loaded when they are asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = cast(Any, _Plugins())  # only ever read

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one row a plugin, by question; unlike typer's own, it never cuts why one cannot be loaded."""
        rows: dict[str, list[tuple[str, str]]] = {question: [] for question in (LOCATE, DATA, TRY, RUN, _OTHER)}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None)
            question = panel if isinstance(panel, str) else _OTHER
            rows.setdefault(question, []).append((name, _one_line_help(command)))
        if not self.commands:
            rows[_OTHER].append(("(none)", "Install a package such as pellucid-qa-circuits."))
        widest = max(len(name) for some in rows.values() for name, _ in some)
        for question, some in rows.items():
            if some:
                with formatter.section(question):
                    formatter.write_dl([(name.ljust(widest), told) for name, told in some])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError, EOFError) as error:
            raise _CarriedError(error) from error


class _Plugins(Mapping[str, Any]):
    """Sub-commands by name; looking one up imports its module, listing the names does not."""

    def __init__(self) -> None:
        found = importlib.metadata.entry_points(group=GROUP)
        self._points = {point.name: point for point in sorted(found, key=lambda point: (point.name, point.value))}
        self._loaded: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def __contains__(self, name: object) -> bool:
        return name in self._points

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(self._points[name])
        return self._loaded[name]


def _load(point: importlib.metadata.EntryPoint) -> Any:
    """Return the plugin's command, or one that only says why there is none."""
    try:
        plugin = point.load()
        if not isinstance(plugin, typer.Typer):
            raise TypeError(f"{point.value} is a {type(plugin).__name__}, not a typer.Typer")
        command: Any = typer.main.get_command(plugin)
        command.rich_help_panel = plugin.rich_help_panel
    except Exception as error:
        command = _broken(point.name, error)
    command.name = point.name
    _plain(command)
    return command


def _plain(command: Any) -> None:
    """Give a command and all below it plain help; an app of a callback alone runs that callback."""
    command.rich_markup_mode = None
    if isinstance(command, TyperGroup):
        if not command.commands:
            command.invoke_without_command, command.subcommand_metavar = True, ""
        for child in command.commands.values():
            _plain(child)
    # Typer's completion options belong to a program of its own, not to a sub-command.
    completion = {"install_completion", "show_completion"}
    command.params = [parameter for parameter in command.params if parameter.name not in completion]


def _broken(name: str, error: Exception) -> Any:
    reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())
    stub = typer.Typer(add_completion=False)

    @stub.command(
        help=f"(cannot be loaded: {reason})",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def refuse(context: typer.Context) -> NoReturn:
        raise OptionError(f"{name} cannot be loaded: {reason}") from error

    return typer.main.get_command(stub)


def _one_line_help(command: Any) -> str:
    paragraphs = (command.short_help or command.help or "").strip().split("\n\n")
    return " ".join(paragraphs[0].split())


def _print_versions(wanted: bool) -> None:
    if wanted:
        for name, version in versions().items():
            if name.startswith("pellucid"):
                typer.echo(f"{name} {version}")
        raise typer.Exit()


app = typer.Typer(
    cls=_Root,
    help="Find where a trained model keeps what it knows, and change it there.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_versions, help="Print the installed packages."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None:
    """Hold the options of the root; `main` acts on `--debug` before the words get here."""
