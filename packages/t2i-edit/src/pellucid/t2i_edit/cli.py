"""`pellucid t2i`: find where a text-to-image model keeps a concept, and take it out or change it there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pellucid.core.cli import LOCATE, Address, Device, Dtype, Fresh, Json, Model, Out, Seed, Workers, finish
from pellucid.core.errors import OptionError
from pellucid.core.model_options import Cpus, Gpus

if TYPE_CHECKING:
    from pellucid.core.pipelines import PipelineSpec

    from .concepts import ConceptPrompts
    from .jobs import Sampling

app = typer.Typer(
    rich_help_panel=LOCATE,
    help="Where a text-to-image model keeps a concept, and its edits.",
    no_args_is_help=True,
)

Scorer = Annotated[
    str, typer.Option("--scorer", metavar="NAME", help="clip:MODEL, or what a package offers: tinyworld:style.")
]
Concepts = Annotated[
    str | None,
    typer.Option("--concepts", metavar="FILE", help="JSON Lines of concept, kind, prompt, target; or zoo:NAME."),
]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Denoising steps.")]
Guidance = Annotated[float, typer.Option("--guidance", help="diffusers' guidance_scale.")]
Chunk = Annotated[int, typer.Option("--chunk", min=3, help="Pictures at a time.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Noises for each prompt: --seed and those after it.")]
Prompts = Annotated[int, typer.Option("-n", min=1, help="How many prompts, spread over those there are.")]
Kind = Annotated[str, typer.Option("--kind", help="style, object or fact.")]
Layers = Annotated[str, typer.Option("--layers", metavar="NUMBERS", help="Layers by commas, counted from 0.")]
Located = Annotated[
    Path | None, typer.Option("--located", metavar="DIR", help="Take the layers that `pellucid t2i locate` found.")
]
Target = Annotated[str | None, typer.Option("--to", metavar="WORDS", help="What takes the concept's place.")]


@app.command()
def trace(
    model: Model,
    out: Out,
    scorer: Scorer,
    attribute: Annotated[str, typer.Option("--attribute", help="objects, style, colour, action, ... or the file's.")],
    probes: Annotated[
        str | None,
        typer.Option("--probes", metavar="FILE", help="JSON Lines of caption, subject, attribute."),
    ] = None,
    where: Annotated[str, typer.Option("--where", help="unet (any denoiser) or text (its text encoders).")] = "unet",
    n: Prompts = 8,
    seeds: Seeds = 1,
    noise: Annotated[float, typer.Option("--noise", help="In standard deviations of the word embeddings.")] = 3.0,
    whole: Annotated[bool, typer.Option("--whole", help="Corrupt the whole text embedding.")] = False,
    window: Annotated[int, typer.Option("--window", min=1, help="Layers restored together.")] = 1,
    steps: Steps = 25,
    guidance: Guidance = 7.5,
    chunk: Chunk = 16,
    seed: Seed = 0,
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find the layers that, restored in a model whose prompt was corrupted, bring the attribute back."""
    from .jobs import TraceJob
    from .probes import probes as of_the_thesis
    from .probes import read_probes
    from .where_report import trace_report

    if where not in ("unet", "text"):
        raise OptionError(f"--where {where!r}: choose unet or text")
    if where == "text" and (whole or window > 1):
        raise OptionError("--whole and --window are for --where unet: leave them out")
    known = of_the_thesis(attribute) if probes is None else read_probes(_file(probes))
    of_it = [probe for probe in known if probe.attribute == attribute]
    if not of_it:
        has = ", ".join(sorted({probe.attribute for probe in known}))
        raise OptionError(f"--attribute {attribute!r}: {probes} has {has}")
    job = TraceJob(_spec(model, dtype, device), scorer, _sampling(steps, guidance, chunk), where, noise, whole, window)
    running = {"workers": workers, "address": address, "cpus": cpus, "gpus": gpus}
    finish(
        lambda: trace_report(job, _spread(of_it, n), _following(seed, seeds), out, seed, **running), out, fresh, as_json
    )


@app.command()
def locate(
    model: Model,
    out: Out,
    scorer: Scorer,
    concept: Annotated[str, typer.Option("--concept", metavar="WORDS", help="Such as: van gogh.")],
    threshold: Annotated[float, typer.Option("--threshold", help="Score to meet: at most; for facts at least.")],
    kind: Kind = "style",
    concepts: Concepts = None,
    target: Target = None,
    n: Prompts = 16,
    seeds: Seeds = 1,
    largest: Annotated[int | None, typer.Option("--largest", min=1, help="The largest window to try.")] = None,
    pooled: Annotated[bool, typer.Option("--pooled", help="Alter the text's pooled path, too (SDXL, SD3).")] = False,
    steps: Steps = 25,
    guidance: Guidance = 7.5,
    chunk: Chunk = 16,
    seed: Seed = 0,
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find the smallest window of cross-attention layers that controls a concept (LocoGen)."""
    from .jobs import LocateJob
    from .where_report import locate_report

    (found,) = _concepts([concept], kind, concepts, target)
    wanted: Any = found.kind
    job = LocateJob(_spec(model, dtype, device), scorer, _sampling(steps, guidance, chunk), wanted, pooled)
    running = {"workers": workers, "address": address, "cpus": cpus, "gpus": gpus}
    some, noises = found.take(_spread(range(len(found)), n)), _following(seed, seeds)
    finish(lambda: locate_report(job, some, noises, threshold, largest, out, seed, **running), out, fresh, as_json)


@app.command()
def edit(
    model: Model,
    out: Out,
    erase: Annotated[list[str], typer.Option("--erase", metavar="WORDS", help="A concept; repeat it for several.")],
    kind: Kind = "style",
    target: Target = None,
    concepts: Concepts = None,
    method: Annotated[str, typer.Option("--method", help="locoedit, quickfix or all-layers.")] = "locoedit",
    layers: Layers = "",
    located: Located = None,
    ridge: Annotated[float, typer.Option("--ridge", help="Lambda: small edits fully, large spares the rest.")] = 1.0,
    following: Annotated[
        bool, typer.Option("--following", help="Map the tokens after the concept's, too (not with quickfix).")
    ] = False,
    n: Prompts = 16,
    steps: Steps = 25,
    guidance: Guidance = 7.5,
    chunk: Chunk = 16,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Take concepts out, or with --to change them, by a closed form; writes edit.safetensors and a LoRA."""
    from .edit_report import edit_report

    some = [found.take(_spread(range(len(found)), n)) for found in _concepts(erase, kind, concepts, target)]
    chosen = _layers(layers, located)
    spec, sampling = _spec(model, dtype, device), _sampling(steps, guidance, chunk)
    finish(lambda: edit_report(spec, some, method, chosen, ridge, following, sampling, seed, out), out, fresh, as_json)


@app.command()
def generate(
    model: Model,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Folder for the pictures.")],
    prompts: Annotated[list[str], typer.Option("--prompt", metavar="TEXT", help="Repeat it for several pictures.")],
    edits: Annotated[
        list[Path] | None, typer.Option("--edit", metavar="FILE", help="Of `pellucid t2i edit`; repeat it.")
    ] = None,
    steps: Steps = 25,
    guidance: Guidance = 7.5,
    chunk: Chunk = 16,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Draw prompts, with edits applied together: PNG files and captions.csv."""
    from pellucid.core.edits import WeightEdit

    from .drawing import generate_files

    known = [WeightEdit.load(path) for path in edits or []]
    made = generate_files(_spec(model, dtype, device), prompts, known, _sampling(steps, guidance, chunk), seed, out)
    typer.echo(f"{len(made)} pictures in {out}")


@app.command()
def neurons(
    model: Model,
    out: Out,
    scorer: Scorer,
    concept: Annotated[str, typer.Option("--concept", metavar="WORDS", help="Such as: van gogh.")],
    kind: Kind = "style",
    concepts: Concepts = None,
    target: Target = None,
    layers: Layers = "",
    located: Located = None,
    counts: Annotated[
        str, typer.Option("--counts", metavar="NUMBERS", help="Channels to drop, by commas.")
    ] = "30,50,100",
    n: Prompts = 16,
    steps: Steps = 25,
    guidance: Guidance = 7.5,
    chunk: Chunk = 16,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Drop the channels of keys and values that a concept moves most, and see what is left of it."""
    from .edit_report import neurons_report

    (found,) = _concepts([concept], kind, concepts, target)
    some, chosen = found.take(_spread(range(len(found)), n)), _layers(layers, located)
    spec, sampling = _spec(model, dtype, device), _sampling(steps, guidance, chunk)
    finish(
        lambda: neurons_report(spec, some, chosen, _numbers("--counts", counts), scorer, sampling, seed),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def evaluate(
    model: Model,
    out: Out,
    scorer: Scorer,
    concept: Annotated[str, typer.Option("--concept", metavar="WORDS", help="The concept that was edited.")],
    edits: Annotated[list[Path], typer.Option("--edit", metavar="FILE", help="Of `pellucid t2i edit`; repeat it.")],
    surrounding: Annotated[
        list[str] | None, typer.Option("--surrounding", metavar="WORDS", help="A concept to be spared; repeat it.")
    ] = None,
    kind: Kind = "style",
    concepts: Concepts = None,
    target: Target = None,
    against: Annotated[str, typer.Option("--against", help="Score against the concept, or the prompt.")] = "concept",
    n: Prompts = 16,
    seeds: Seeds = 1,
    steps: Steps = 25,
    guidance: Guidance = 7.5,
    chunk: Chunk = 16,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Score pictures before and after edits: of the concept, and of concepts that should stay."""
    from pellucid.core.edits import WeightEdit

    from .edit_report import evaluate_report

    if against not in ("concept", "prompt"):
        raise OptionError(f"--against {against!r}: choose concept or prompt")
    known = {str(path): WeightEdit.load(path) for path in edits}
    found, *others = (
        one.take(_spread(range(len(one)), n))
        for one in _concepts([concept, *(surrounding or [])], kind, concepts, target)
    )
    spec, sampling, noises = _spec(model, dtype, device), _sampling(steps, guidance, chunk), _following(seed, seeds)
    finish(
        lambda: evaluate_report(spec, known, found, others, scorer, sampling, noises, seed, against),
        out, fresh, as_json,
    )  # fmt: skip


def _spec(model: str, dtype: str, device: str) -> "PipelineSpec":
    import torch
    from pellucid.core.pipelines import PipelineSpec

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return PipelineSpec(model, dtype=dtype, device=device).resolved()


def _sampling(steps: int, guidance: float, chunk: int) -> "Sampling":
    from .jobs import Sampling

    return Sampling(steps, guidance, chunk)


def _concepts(names: list[str], kind: str, file: str | None, target: str | None) -> "list[ConceptPrompts]":
    from .concepts import chosen_concept, concept_prompts, read_concepts

    if file is None:
        return [concept_prompts(name, kind, target=target) for name in names]
    if target is not None:
        raise OptionError("--to and --concepts exclude each other: the file has the targets")
    known = read_concepts(_file(file))
    return [chosen_concept(known, name) for name in names]


def _file(name: str) -> Path:
    from pellucid.core.assets import resolve_asset

    return resolve_asset(name) if name.startswith("zoo:") else Path(name)


def _layers(layers: str, located: Path | None) -> list[int]:
    import json

    if located is None:
        return _numbers("--layers", layers) if layers else []
    if layers:
        raise OptionError("--layers and --located exclude each other: give one")
    try:
        found = json.loads((located / "result.json").read_text(encoding="utf-8"))["results"]["layers"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OptionError(f"--located {located}: no result.json of `pellucid t2i locate` there") from error
    return [int(layer) for layer in found]


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise OptionError(f"{option} {text!r}: write whole numbers with commas between") from error


def _spread(items: Any, count: int) -> list[Any]:
    """So many of the items, evenly spread over all."""
    known = list(items)
    return [known[place * len(known) // count] for place in range(count)] if count < len(known) else known


def _following(seed: int, count: int) -> list[int]:
    return list(range(seed, seed + count))
