"""`pellucid circuits`: probes, and the circuit by which a model answers them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pellucid.core.cli import Address, Device, Dtype, Fresh, Json, Model, Out, Seed, Workers, show
from pellucid.core.errors import OptionError

if TYPE_CHECKING:
    from pellucid.core.loading import ModelSpec

app = typer.Typer(help="How a language model answers a question from its context.", no_args_is_help=True)

Quantize = Annotated[str | None, typer.Option("--quantize", metavar="KIND", help="nf4 or int8, by bitsandbytes.")]
DeviceMap = Annotated[str | None, typer.Option("--device-map", metavar="MAP", help="auto spreads a large model.")]
MaxMemory = Annotated[
    list[str] | None, typer.Option("--max-memory", metavar="DEVICE=SIZE", help="Such as cpu=8GB or 0=20GB; repeat it.")
]
Offload = Annotated[
    Path | None, typer.Option("--offload-folder", metavar="DIR", help="Where weights go that fit no memory.")
]
Cpus = Annotated[int, typer.Option("--cpus", min=1, help="Processor threads of each worker.")]
Gpus = Annotated[float, typer.Option("--gpus", min=0, help="Graphics processors of each worker; a fraction shares one.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model's authors ship.")]
Style = Annotated[str, typer.Option("--style", metavar="STYLE", help="How prompts are rendered: auto, chat or plain.")]


@app.command()
def probes(
    model: Model,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="JSON Lines file to write.")],
    kind: Annotated[str, typer.Option("--kind", help="copy: the answer in the context is swapped for another.")] = "copy",
    n: Annotated[int, typer.Option("-n", min=1, help="How many probes to keep.")] = 200,
    facts: Annotated[
        str, typer.Option("--facts", metavar="FILE", help="JSON Lines of subject, relation, answer; or zoo:countries.")
    ] = "zoo:countries",
    writer: Annotated[
        str | None,
        typer.Option("--writer", metavar="MODEL", help="A chat model that writes the contexts, in place of sentences of ours."),
    ] = None,
    style: Style = "auto",
    seed: Seed = 0,
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    max_memory: MaxMemory = None,
    offload_folder: Offload = None,
    trust_remote_code: Trust = False,
) -> None:
    """Make probes out of facts, and keep those that the model really answers from the context.

    Replies are remembered in FILE.ledger: the same command run again asks nothing twice.
    """
    from .facts import read_facts, stream_copy_probes
    from .making import keep_answered
    from .probes import write_probes
    from .prompts import check_style
    from .writing import stream_written_probes

    if kind != "copy":
        raise OptionError(f"no kind of probes {kind!r}: choose copy")
    from pellucid.core.assets import resolve_asset
    from pellucid.core.outfolder import check_writable

    check_writable(out)
    spec = _spec(model, dtype, device, quantize, device_map, max_memory, offload_folder, trust_remote_code)
    known = read_facts(resolve_asset(facts))
    stream = stream_copy_probes(known, seed) if writer is None else stream_written_probes(writer, known, seed)
    made = keep_answered(
        spec, stream, n, f"{out}.ledger", style=check_style(style), workers=workers, cpus=cpus, gpus=gpus, address=address
    )
    write_probes(out, made.probes)
    typer.echo(f"{spec.name} answers {len(made.probes)} of {made.offered} probes from their context; kept in {out}")
    if len(made.probes) < n:
        typer.echo(f"{n} were asked for, but the facts gave out: give more of them with --facts", err=True)


@app.command()
def extract(
    model: Model,
    probes: Annotated[Path, typer.Option("--probes", metavar="FILE", help="JSON Lines file of probes.")],
    out: Out,
    delta: Annotated[float, typer.Option("--delta", help="Score that the circuit should reach, in (0, 1].")] = 0.95,
    kinds: Annotated[str, typer.Option("--kinds", help="Which components, by commas.")] = "head,attention,mlp",
    definition: Annotated[
        str, typer.Option("--definition", help="direct: all else held clean; through_mlps: later MLPs recompute.")
    ] = "direct",
    style: Style = "auto",
    seed: Seed = 0,
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    max_memory: MaxMemory = None,
    offload_folder: Offload = None,
    trust_remote_code: Trust = False,
    fresh: Fresh = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again the probes that failed.")] = False,
    as_json: Json = False,
) -> None:
    """Find the heads, attention layers and MLPs by which the model copies answers from its context.

    What is finished is kept in DIR/ledger: the same command run again computes only what is missing.
    """
    from pellucid.core.outfolder import prepare_out

    from .circuit import check_delta
    from .components import all_components
    from .effects import check_definition
    from .extract import extract_circuit
    from .figures import extraction_report
    from .probes import read_probes
    from .prompts import check_style

    started = time.monotonic()
    check_delta(delta)
    names = tuple(name.strip() for name in kinds.split(",") if name.strip())
    all_components(0, 0, names)  # type: ignore[arg-type] - it refuses what is not a kind
    known = read_probes(probes)
    spec = _spec(model, dtype, device, quantize, device_map, max_memory, offload_folder, trust_remote_code)
    prepare_out(out, fresh)
    found = extract_circuit(
        spec, known, out, delta=delta, kinds=names, definition=check_definition(definition),  # type: ignore[arg-type]
        style=check_style(style), seed=seed, workers=workers, cpus=cpus, gpus=gpus, address=address,
        retry_failed=retry_failed,
    )  # fmt: skip
    report = extraction_report(found, probes=str(probes), seed=seed, workers=workers)
    report.write(out, time.monotonic() - started)
    show(report, out, as_json)


def _spec(
    model: str,
    dtype: str,
    device: str,
    quantize: str | None,
    device_map: str | None,
    max_memory: list[str] | None,
    offload_folder: Path | None,
    trust_remote_code: bool,
) -> "ModelSpec":
    """The model options as a ModelSpec, which checks them."""
    from pellucid.core.loading import ModelSpec

    limits: dict[int | str, int | str] = {}
    for pair in max_memory or []:
        name, equals, size = pair.partition("=")
        if not equals:
            raise OptionError(f"--max-memory {pair!r}: write DEVICE=SIZE, such as cpu=8GB")
        limits[name] = size
    return ModelSpec(
        model, dtype=dtype, quantize=quantize, trust_remote_code=trust_remote_code,  # type: ignore[arg-type]
        device=None if device == "auto" else device, device_map=device_map, max_memory=limits or None,
        offload_folder=None if offload_folder is None else str(offload_folder),
    )  # fmt: skip
