"""`pellucid compose`: composition in CLIP and in text-to-image models."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pellucid.core.cli import LOCATE, Address, Device, Fresh, Json, Out, Seed, Workers, finish
from pellucid.core.errors import DataError, OptionError
from pellucid.core.model_options import Cpus, Gpus

app = typer.Typer(help="Composition in CLIP and in text-to-image models.", rich_help_panel=LOCATE, no_args_is_help=True)

Model = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="A text-to-image model: a hub id, folder, zoo:NAME.")
]
Clip = Annotated[str, typer.Option("--clip", metavar="MODEL", help="open_clip:ARCH/PRETRAINED, a hub id, zoo:NAME ...")]
Captions = Annotated[
    Path,
    typer.Option("--captions", metavar="PATH", help="Captioned pictures: a folder with captions.jsonl, COCO's .json."),
]
Cases = Annotated[
    Path | None,
    typer.Option("--cases", metavar="PATH", help="Winoground's folder, ARO's .json, or cases.jsonl."),
]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Of ARO's records.")]
Classes = Annotated[
    Path | None, typer.Option("--classes", metavar="DIR", help="A folder a class, for zero-shot accuracy.")
]
Template = Annotated[str, typer.Option("--template", help="Of zero-shot prompts.")]
Prompts = Annotated[Path, typer.Option("--prompts", metavar="FILE", help="A prompt a line.")]
PromptCount = Annotated[int | None, typer.Option("-n", min=1, help="How many prompts, from the first on.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Pictures of each prompt.")]
Taus = Annotated[
    str, typer.Option("--taus", help="SWITCH-OFF points by commas: shares of the schedule, or time-steps above 1.")
]
Scorer = Annotated[str, typer.Option("--scorer", help="vqa:MODEL, clip:MODEL, or what packages offer.")]
Steps = Annotated[int, typer.Option("--sampling-steps", min=1, help="Of denoising.")]
Guidance = Annotated[float, typer.Option("--guidance", help="Classifier-free guidance.")]


@app.command()
def score(
    out: Out,
    cases: Annotated[
        Path, typer.Option("--cases", metavar="PATH", help="Winoground's folder, ARO's .json, cases.jsonl.")
    ],
    clip: Annotated[list[str] | None, typer.Option("--clip", metavar="MODEL", help="A CLIP; repeat it.")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Whose diffusion score matches; repeat it.")
    ] = None,
    images: Images = None,
    classes: Classes = None,
    template: Template = "a photo of a {}.",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Noises of the diffusion score.")] = 50,
    confidence: Annotated[
        float | None, typer.Option("--confidence", min=0.5, max=1, help="Stop sampling at it, such as 0.95.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many records, spread over those there are.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Match captions and pictures by CLIPs and by diffusion scores, on Winoground, ARO or your own records."""
    from .match_report import read_benchmark, score_report

    found = read_benchmark(cases, images)
    some = found if n is None or n >= len(found) else [found[place * len(found) // n] for place in range(n)]
    finish(
        lambda: score_report(
            clip or (), model or (), some, classes, seed, template=template, samples=samples, confidence=confidence,
            device=_placed(device),
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def distill(
    clip: Clip,
    captions: Captions,
    out: Out,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The teacher; not needed for contrastive tuning.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="sds, features, or contrastive.")] = "sds",
    trains: Annotated[str, typer.Option("--trains", help="norms, or all.")] = "norms",
    weights: Annotated[str, typer.Option("--lambda", help="Several by commas make a sweep.")] = "0.001",
    rates: Annotated[str, typer.Option("--rate", help="Adam's; several by commas make a sweep.")] = "5e-5",
    batch: Annotated[int, typer.Option("--batch", min=2, help="Pairs a step.")] = 32,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of Adam.")] = 3695,
    precision: Annotated[str, typer.Option("--precision", help="no, fp16 or bf16.")] = "no",
    cases: Cases = None,
    images: Images = None,
    classes: Classes = None,
    template: Template = "a photo of a {}.",
    device: Device = "auto",
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Teach a CLIP composition by a text-to-image model's denoising loss (SDS-CLIP); a plain CLIP comes out."""
    from .distill_config import DistillConfig
    from .match_report import distill_report, distill_sweep_report, read_benchmark

    lambdas, speeds = _numbers("--lambda", weights), _numbers("--rate", rates)
    config = DistillConfig(
        method=method, weight=lambdas[0], trains=trains, rate=speeds[0], batch=batch, steps=steps,  # type: ignore[arg-type]
        precision=precision, seed=seed,
    )  # fmt: skip
    records = [] if cases is None else read_benchmark(cases, images)
    placed = _placed(device, workers, gpus)
    running = _running(workers, cpus, gpus, address)
    if len(lambdas) * len(speeds) > 1:
        if model is None:
            raise OptionError("a sweep needs --model, the teacher")
        teacher = model
        finish(
            lambda: distill_sweep_report(
                clip, teacher, captions, records, out, seed, config=config, weights=lambdas, rates=speeds,
                running=running, device=placed,
            ),
            out, fresh, as_json,
        )  # fmt: skip
        return
    finish(
        lambda: distill_report(
            clip, model, captions, out, seed, config=config, cases=records, classes=classes, template=template,
            device=placed,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command("train-projection")
def train_projection(
    model: Model,
    captions: Captions,
    out: Out,
    methods: Annotated[
        str, typer.Option("--method", help="wiclp, clp, text-encoder, last-layers+wiclp; several make a sweep.")
    ] = "wiclp",
    windows: Annotated[str, typer.Option("--window", help="s, tokens on either side; several make a sweep.")] = "2",
    rates: Annotated[str, typer.Option("--rate", help="Adam's; several make a sweep.")] = "1e-5",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of Adam.")] = 25_000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures a step.")] = 8,
    precision: Annotated[str, typer.Option("--precision", help="no, fp16 or bf16.")] = "no",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="That a sweep is scored on, a prompt a line.")
    ] = None,
    n: PromptCount = None,
    scorer: Scorer = "",
    taus: Taus = "0.8",
    seeds: Seeds = 1,
    sampling_steps: Steps = 25,
    guidance: Guidance = 7.5,
    device: Device = "auto",
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Train a projection of a model's text embeddings (CLP, WiCLP), all else frozen; it goes on where it stopped."""
    from .generation import Sampling
    from .project_report import sweep_report, train_report
    from .train_projection import ProjectionTraining

    ways = [one.strip() for one in methods.split(",") if one.strip()]
    widths = [int(one) for one in _numbers("--window", windows, least=0)]
    speeds = _numbers("--rate", rates)
    training = ProjectionTraining(
        method=ways[0], window=widths[0], rate=speeds[0], steps=steps, batch=batch, precision=precision,  # type: ignore[arg-type]
        seed=seed,
    )  # fmt: skip
    placed = _placed(device, workers, gpus)
    if len(ways) * len(widths) * len(speeds) == 1:
        finish(lambda: train_report(model, captions, out, training=training, device=placed), out, fresh, as_json)
        return
    if prompts is None or not scorer:
        raise OptionError("a sweep needs --prompts and --scorer to choose by")
    texts = _lines(prompts, n)
    finish(
        lambda: sweep_report(
            model, captions, texts, out, training=training, methods=ways, windows=widths, rates=speeds,
            switch_offs=_numbers("--taus", taus, least=0), scorer=scorer, sampling=Sampling(sampling_steps, guidance),
            seeds=range(seed, seed + seeds), running=_running(workers, cpus, gpus, address), device=placed,
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def generate(
    model: Model,
    prompts: Prompts,
    out: Out,
    projection: Annotated[
        Path | None, typer.Option("--projection", metavar="DIR", help="What `train-projection` wrote.")
    ] = None,
    taus: Taus = "0.8",
    subset: Annotated[
        str, typer.Option("--subset", help="Tokens: nouns, nouns+adjectives, nouns+adjectives+eos, sentence or all.")
    ] = "all",
    n: PromptCount = None,
    seeds: Seeds = 1,
    sampling_steps: Steps = 25,
    guidance: Guidance = 7.5,
    device: Device = "auto",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Draw prompts as the model is, and with a projection until each SWITCH-OFF point."""
    from .generation import Sampling
    from .project_report import generate_report

    texts = _lines(prompts, n)
    finish(
        lambda: generate_report(
            model, projection, texts, range(seed, seed + seeds), out, switch_offs=_numbers("--taus", taus, least=0),
            sampling=Sampling(sampling_steps, guidance), subset=subset,  # type: ignore[arg-type]  # checked there
            device=_placed(device),
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def evaluate(
    pictures: Annotated[
        Path, typer.Option("--pictures", metavar="DIR", help="With captions.jsonl: an arm of `generate`.")
    ],
    out: Out,
    scorer: Annotated[
        list[str] | None, typer.Option("--scorer", help="vqa:MODEL, clip:MODEL, or what packages offer; repeat it.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", metavar="DIR", help="The base model's pictures of the same captions.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="DIR", help="That FID is measured from.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", metavar="MODEL", help="A CLIP for FID; the Inception network if not given."),
    ] = None,
    tifa: Annotated[Path | None, typer.Option("--tifa", metavar="FILE", help="TIFA's list of questions.")] = None,
    vqa: Annotated[
        str, typer.Option("--vqa", metavar="MODEL", help="Answers them.")
    ] = "Salesforce/blip-vqa-capfilt-large",
    device: Device = "auto",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Score pictures by BLIP-VQA, CLIP-Score or any scorer, vote between two models, and measure FID."""
    from .judge_report import evaluate_report

    finish(
        lambda: evaluate_report(
            pictures, seed, scorers=scorer or (), against=against, reference=reference, features=features,
            tifa=tifa, vqa=vqa, device=_placed(device),
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def contributions(
    model: Model,
    prompts: Prompts,
    out: Out,
    n: PromptCount = None,
    reweight: Annotated[
        float | None, typer.Option("--reweight", help="Also with attention reweighted by so much.")
    ] = None,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Last layers that are reweighted.")] = 3,
    device: Device = "auto",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Count how often a word for a thing looks at the other thing's attribute, in each text encoder of a model."""
    from .judge_report import contributions_report
    from .reweighting import Reweighting

    texts = _lines(prompts, n)
    how = None if reweight is None else Reweighting(reweight, reweight, layers)
    finish(lambda: contributions_report(model, texts, seed, how=how, device=_placed(device)), out, fresh, as_json)


@app.command("optimise-embedding")
def optimise_embedding(
    model: Model,
    captions: Captions,
    caption: Annotated[str, typer.Option("--caption", help="Whose embedding; its pictures carry it word for word.")],
    scorer: Scorer,
    out: Out,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of Adam.")] = 400,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Its learning rate.")] = 0.1,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures a step.")] = 8,
    seeds: Seeds = 8,
    sampling_steps: Steps = 25,
    guidance: Guidance = 7.5,
    device: Device = "auto",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Optimise one caption's embedding on its pictures: can the model draw it at all (figure 9.6)?"""
    from .generation import Sampling
    from .optimise_embedding import EmbeddingTraining
    from .project_report import optimise_report

    training = EmbeddingTraining(rate=rate, steps=steps, batch=batch, seed=seed)
    finish(
        lambda: optimise_report(
            model, captions, caption, out, training=training, scorer=scorer, seeds=range(seed, seed + seeds),
            sampling=Sampling(sampling_steps, guidance), device=_placed(device),
        ),
        out, fresh, as_json,
    )  # fmt: skip


@app.command()
def curate(
    prompts: Prompts,
    scorer: Scorer,
    out: Out,
    model: Annotated[list[str], typer.Option("--model", metavar="MODEL", help="A text-to-image model; repeat it.")],
    keep: Annotated[int, typer.Option("--keep", min=1, help="Of each prompt.")] = 30,
    seeds: Seeds = 70,
    n: PromptCount = None,
    sampling_steps: Steps = 25,
    guidance: Guidance = 7.5,
    device: Device = "auto",
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    address: Address = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Draw many pictures of each prompt and keep the best by a score, as data to train a projection on."""
    from .generation import Sampling
    from .judge_report import curate_report

    texts = _lines(prompts, n)
    finish(
        lambda: curate_report(
            model, texts, out, scorer=scorer, seeds=range(seed, seed + seeds), keep=keep,
            sampling=Sampling(sampling_steps, guidance), running=_running(workers, cpus, gpus, address),
            device=_placed(device, workers, gpus),
        ),
        out, fresh, as_json,
    )  # fmt: skip


def _lines(path: Path, count: int | None) -> list[str]:
    """The prompts of a file, each once."""
    try:
        found = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}): give a prompt a line") from error
    kept = list(dict.fromkeys(line for line in found if line))
    if not kept:
        raise DataError(f"{path} holds no prompt: write one a line")
    return kept[:count]


def _numbers(option: str, text: str, least: float | None = None) -> list[float]:
    try:
        found = [float(one) for one in text.split(",") if one.strip()]
    except ValueError as error:
        raise OptionError(f"{option} {text!r}: give numbers, by commas") from error
    if not found or any(not (0 if least is None else least - 1e-12) < one < float("inf") for one in found):
        raise OptionError(f"{option} {text!r}: give numbers {'above 0' if least is None else f'of {least:g} or more'}")
    return found


def _placed(device: str, workers: int = 0, gpus: float = 0) -> str:
    if device != "auto":
        if workers and device.startswith("cuda") and not gpus:
            raise OptionError("--device cuda with workers needs --gpus: give each its share")
        return device
    import torch

    return "cuda" if torch.cuda.is_available() and (gpus or not workers) else "cpu"


def _running(workers: int, cpus: int, gpus: float, address: str | None) -> dict[str, Any]:
    return {"workers": workers, "cpus": cpus, "gpus": gpus, "address": address}
