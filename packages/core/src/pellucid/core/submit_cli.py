"""`pellucid submit` and `pellucid jobs`: commands as jobs of a Ray cluster."""

import dataclasses
import json
import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .cli import RUN
from .errors import OptionError

if TYPE_CHECKING:
    from .submitting import Job

submit_app = typer.Typer(help="Run any pellucid command as a job of a Ray cluster.", rich_help_panel=RUN)
jobs_app = typer.Typer(help="List a cluster's jobs, or show one and its log.", rich_help_panel=RUN)

_PAUSE = 1.0  # seconds between two looks at a job

Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", help="The cluster's dashboard, http://HOST:8265; this machine's if not given."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@submit_app.command()
def submit(
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="Such as: -- circuits extract --model ...")],
    address: Address = None,
    cpus: Annotated[float, typer.Option("--cpus", min=0, help="CPUs for the command itself.")] = 1,
    gpus: Annotated[float, typer.Option("--gpus", min=0, help="GPUs for the command itself.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", help="Show what it prints; Ctrl-C lets it go on alone.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; exit with 1 where it fails.")] = False,
    image_ready: Annotated[
        bool, typer.Option("--image-ready", help="Send no package: the cluster's image has them.")
    ] = False,
    pass_env: Annotated[
        list[str] | None, typer.Option("--pass-env", metavar="NAME", help="Give the job this variable; repeatable.")
    ] = None,
) -> None:
    """Run any pellucid command as a job of a Ray cluster.

    The packages it needs travel as they are installed here, and so do files that COMMAND names by a relative path.
    """
    from . import submitting

    environment = {}
    for name in pass_env or ():
        if name not in os.environ:
            raise OptionError(f"--pass-env {name}: there is no such variable here; export it first")
        environment[name] = os.environ[name]
    ident = submitting.submit(words, address, cpus=cpus, gpus=gpus, image_ready=image_ready, environment=environment)
    typer.echo(f"Submitted as {ident}. Its log: pellucid jobs {ident} --follow{_at(address)}")
    if follow:
        _follow(ident, address)
    if wait:
        _end(ident, address, told=follow)


@jobs_app.command()
def jobs(
    ident: Annotated[str | None, typer.Argument(metavar="ID", help="Of one job.")] = None,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show what the job prints until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """List a cluster's jobs, or show one and its log."""
    from . import submitting

    if ident is None:
        if follow:
            raise OptionError("--follow needs the ID of a job: `pellucid jobs` lists them")
        found = submitting.jobs(address)
        if as_json:
            typer.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=1))
            return
        for one in found:
            typer.echo(_line(one))
        if not found:
            typer.echo("The cluster has had no job yet: pellucid submit -- COMMAND")
        return
    one = submitting.job(ident, address)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(one), indent=1))
        return
    typer.echo(_line(one))
    if follow:
        _follow(ident, address)
        return
    typer.echo(submitting.log(ident, address), nl=False)


def _follow(ident: str, address: str | None) -> None:
    from . import submitting

    try:
        for piece in submitting.follow(ident, address):
            typer.echo(piece, nl=False)
    except KeyboardInterrupt:
        typer.echo(f"\nThe job goes on. Its log: pellucid jobs {ident} --follow{_at(address)}")
        raise typer.Exit() from None


def _end(ident: str, address: str | None, told: bool) -> None:
    """Wait for a job's end; where it failed and its log was not shown, tell the log's last line: what went wrong."""
    from . import submitting

    while not (one := submitting.job(ident, address)).over:
        time.sleep(_PAUSE)
    typer.echo(_line(one))
    if one.status == "SUCCEEDED":
        return
    if not told and (said := submitting.log(ident, address).strip()):
        typer.echo(said.splitlines()[-1], err=True)
    raise typer.Exit(1)


def _line(one: "Job") -> str:
    took = "" if one.seconds is None else f"  {one.seconds:.0f} s"
    return f"{one.id}  {one.status}{took}  {one.command or '(not of pellucid submit)'}"


def _at(address: str | None) -> str:
    return "" if address is None else f" --address {address}"
