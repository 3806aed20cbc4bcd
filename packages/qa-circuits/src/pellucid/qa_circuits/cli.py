"""`pellucid circuits`: probes, and the circuit by which a model answers them."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pellucid.core.cli import LOCATE, Fresh, Json, Out, Seed, show
from pellucid.core.errors import OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running, takes_model

from . import circuit_cli, source_cli

app = typer.Typer(
    rich_help_panel=LOCATE, help="How a language model answers a question from its context.", no_args_is_help=True
)

Style = Annotated[str, typer.Option("--style", metavar="STYLE", help="How prompts are rendered: plain text, or chat.")]
Facts = Annotated[
    str, typer.Option("--facts", metavar="FILE", help="JSON Lines of subject, relation, answer; or zoo:countries.")
]
Writer = Annotated[
    str | None, typer.Option("--writer", metavar="MODEL", help="A chat model that writes the contexts, instead of us.")
]


@app.command()
@takes_model
def probes(
    spec: ModelSpec,
    running: Running,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="JSON Lines file to write.")],
    kind: Annotated[
        str, typer.Option("--kind", help="copy swaps the answer in the context; memory strikes it out.")
    ] = "copy",
    n: Annotated[int, typer.Option("-n", min=1, help="How many probes to keep.")] = 200,
    facts: Facts = "zoo:countries",
    writer: Writer = None,
    longest: Annotated[int, typer.Option("--longest", min=1, help="Sentences in a context at most.")] = 12,
    style: Style = "plain",
    seed: Seed = 0,
) -> None:
    """Make probes out of facts, and keep those that the model really answers from the context, or remembers.

    Replies are remembered in FILE.ledger: the same command run again asks nothing twice.
    """
    from pellucid.core.assets import resolve_asset
    from pellucid.core.outfolder import prepare_out

    from .facts import read_facts, stream_copy_probes
    from .making import keep_answered
    from .memory import stream_memory_probes
    from .probes import write_probes
    from .prompts import check_style
    from .writing import stream_written_probes

    if kind not in ("copy", "memory"):
        raise OptionError(f"no kind of probes {kind!r}: choose copy or memory")
    if kind == "memory" and writer is not None:
        raise OptionError("--writer writes contexts for copy probes only: leave it out")
    style = check_style(style)
    known = read_facts(resolve_asset(facts))
    memory = Path(f"{out}.ledger")
    prepare_out(memory, fresh=False)
    if kind == "memory":
        stream = stream_memory_probes(known, seed, longest)
    else:
        stream = (
            stream_copy_probes(known, seed, longest) if writer is None else stream_written_probes(writer, known, seed)
        )
    made = keep_answered(spec, stream, n, memory / "ledger", style=style, **asdict(running))
    write_probes(out, made.probes)
    how = "from their context" if kind == "copy" else "from memory"
    typer.echo(f"{spec.name} answers {len(made.probes)} of {made.offered} probes {how}; kept in {out}")
    if len(made.probes) < n:
        typer.echo(f"{n} were asked for, but the facts gave out: give more of them with --facts", err=True)


@app.command()
@takes_model
def extract(
    spec: ModelSpec,
    running: Running,
    probes: Annotated[Path, typer.Option("--probes", metavar="FILE", help="JSON Lines file of probes.")],
    out: Out,
    delta: Annotated[float, typer.Option("--delta", help="Score that the circuit should reach, in (0, 1].")] = 0.95,
    kinds: Annotated[str, typer.Option("--kinds", help="Which components, by commas.")] = "head,attention,mlp",
    definition: Annotated[
        str, typer.Option("--definition", help="direct: all else held clean; through_mlps: later MLPs recompute.")
    ] = "direct",
    below: Annotated[
        list[Path] | None,
        typer.Option(
            "--into", metavar="DIR", help="Find what feeds the heads of this circuit (hierarchy 1; repeat: 2)."
        ),
    ] = None,
    style: Style = "plain",
    seed: Seed = 0,
    fresh: Fresh = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again the probes that failed.")] = False,
    as_json: Json = False,
) -> None:
    """Find the heads, attention layers and MLPs by which the model copies answers from its context.

    What is finished is kept in DIR/ledger: the same command run again computes only what is missing.
    """
    from pellucid.core.outfolder import prepare_out

    from .circuit import check_delta
    from .components import check_kinds
    from .effects import check_definition
    from .extract import extract_circuit
    from .figures import extraction_report
    from .probes import read_probes
    from .prompts import check_style
    from .validation_report import members_of

    started = time.monotonic()
    check_delta(delta)
    chosen = check_kinds([name.strip() for name in kinds.split(",") if name.strip()])
    wanted = check_definition(definition)
    style = check_style(style)
    known = read_probes(probes)
    receivers = [members_of(folder, "head") for folder in below or ()]
    prepare_out(out, fresh)
    found = extract_circuit(
        spec,
        known,
        out,
        delta=delta,
        kinds=chosen,
        definition=wanted,
        receivers=receivers,
        style=style,
        seed=seed,
        **asdict(running),
        retry_failed=retry_failed,
    )
    report = extraction_report(found, probes=str(probes), seed=seed, workers=running.workers)
    report.write(out, time.monotonic() - started)
    show(report, out, as_json)


for command in (
    circuit_cli.compare,
    circuit_cli.parts,
    circuit_cli.validate,
    source_cli.heads,
    source_cli.attribute,
    source_cli.evaluate,
    circuit_cli.steer,
):
    app.command()(command)
