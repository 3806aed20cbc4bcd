"""The sweeps of this package: what restoring a layer does to one prompt and seed, and what altering a window does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.scorers import Scorer, load_scorer
from pellucid.core.sweeps import Context, Sweep

from .locogen import Kind, altered_scores, locogen_images, windows_of
from .positions import encoder_positions
from .probes import Probe
from .text_tracing import trace_text
from .unet_tracing import trace_unet

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Sampling:
    """How pictures are made.

    Attributes:
        steps: of denoising.
        guidance: diffusers' `guidance_scale`.
        chunk: rows at once; it does not change results beyond rounding.
    """

    steps: int = 25
    guidance: float = 7.5
    chunk: int = 16


@dataclass(frozen=True)
class TraceJob:
    """What all cells of a tracing sweep share.

    Attributes:
        model: which pipeline.
        scorer: see `load_scorer`.
        sampling: how pictures are made.
        where: "unet" or "text".
        noise: of the corruption, in standard deviations of the embeddings.
        whole: corrupt the whole text embedding (with "unet").
        window: layers restored together (with "unet").
    """

    model: PipelineSpec
    scorer: str
    sampling: Sampling
    where: str
    noise: float
    whole: bool
    window: int


@dataclass(frozen=True)
class TraceCell:
    """One prompt, the words to corrupt, and a seed."""

    caption: str
    subject: str
    seed: int


@dataclass(frozen=True)
class TraceRow:
    """Scores against the caption: of the clean and the corrupted picture, and one for each thing restored."""

    clean: float
    corrupted: float
    labels: list[str]
    restored: list[float]


@dataclass(frozen=True)
class LocateJob:
    """What all cells of a LocoGen sweep share; see `TraceJob` and `locogen_images`."""

    model: PipelineSpec
    scorer: str
    sampling: Sampling
    kind: Kind
    pooled: bool


@dataclass(frozen=True)
class LocateCell:
    """One prompt with its target, a seed, and the number of adjacent layers altered."""

    prompt: str
    target: str
    seed: int
    size: int


@dataclass(frozen=True)
class LocateRow:
    """Scores of the pictures of the prompt and of the target, and of each window's, by the window's first layer."""

    original: float
    replaced: float
    altered: list[float]


@dataclass(frozen=True)
class _State:
    pipe: "DiffusionPipeline"
    scorer: Scorer


def trace_sweep(job: TraceJob, probes: Sequence[Probe], seeds: Sequence[int], **options: Any) -> Sweep[Any, Any]:
    """A sweep that traces every probe with every seed (rows: TraceRow)."""
    cells = [TraceCell(probe.caption, probe.subject, seed) for probe in probes for seed in seeds]
    return Sweep(_trace, cells, version="1", row=TraceRow, shared=job, setup=_load, batch=1, **options)


def locate_sweep(
    job: LocateJob, pairs: Sequence[tuple[str, str]], seeds: Sequence[int], size: int, **options: Any
) -> Sweep[Any, Any]:
    """A sweep that alters every window of a size for every prompt and seed (rows: LocateRow)."""
    cells = [LocateCell(prompt, target, seed, size) for prompt, target in pairs for seed in seeds]
    return Sweep(_locate, cells, version="1", row=LocateRow, shared=job, setup=_load, batch=1, **options)


def _load(shared: Any) -> _State:
    return _State(load_pipeline(shared.model), load_scorer(shared.scorer))


def _trace(cells: Sequence[TraceCell], context: Context) -> list[TraceRow]:
    return [_traced(context.shared, context.state, cell) for cell in cells]


def _traced(job: TraceJob, state: _State, cell: TraceCell) -> TraceRow:
    made: dict[str, Any] = {
        "steps": job.sampling.steps,
        "guidance": job.sampling.guidance,
        "chunk": job.sampling.chunk,
        "noise": job.noise,
    }
    subject = encoder_positions(state.pipe, cell.caption, cell.subject)
    run: Any
    if job.where == "text":
        run = trace_text(state.pipe, cell.caption, subject, cell.seed, **made)
        labels = [f"{_place(found.encoder)}{found.label}" for found in run.states]
        labels, pictures = _last_tokens(labels, run.restored)
    else:
        run = trace_unet(state.pipe, cell.caption, subject, cell.seed, whole=job.whole, window=job.window, **made)
        labels, pictures = list(run.layers), run.restored
    scores = [float(state.scorer(shown[None], [cell.caption])[0]) for shown in (run.clean, run.corrupted, *pictures)]
    return TraceRow(scores[0], scores[1], labels, scores[2:])


def _last_tokens(labels: list[str], pictures: Any) -> tuple[list[str], list[Any]]:
    """Of several tokens' states the last one's: the thesis's last subject token."""
    last = dict(zip(labels, pictures, strict=True))
    return list(last), list(last.values())


def _place(encoder: str) -> str:
    """A second or third text encoder's mark before its states' names."""
    number = encoder.removeprefix("text_encoder")
    return f"encoder{number} ".replace("_", " ") if number else ""


def _locate(cells: Sequence[LocateCell], context: Context) -> list[LocateRow]:
    job, state, found = context.shared, context.state, []
    layers = len(denoiser_anatomy(state.pipe).cross_attentions)
    for cell in cells:
        images = locogen_images(
            state.pipe,
            cell.prompt,
            cell.target,
            cell.seed,
            windows_of(layers, cell.size),
            steps=job.sampling.steps,
            guidance=job.sampling.guidance,
            pooled=job.pooled,
            chunk=job.sampling.chunk,
        )
        text = cell.target if job.kind == "fact" else cell.prompt
        original, replaced = (float(state.scorer(shown[None], [text])[0]) for shown in (images.original, images.target))
        altered = altered_scores(images, state.scorer, cell.prompt, cell.target, job.kind)
        found.append(LocateRow(original, replaced, altered.tolist()))
    return found
