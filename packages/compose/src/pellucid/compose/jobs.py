"""The sweeps over trainings: projections by method, window, rate and SWITCH-OFF point; SDS-CLIP by lambda and rate."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.core.clips import load_clip
from pellucid.core.errors import DataError
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.scorers import Scorer, load_scorer
from pellucid.core.sweeps import Context, Sweep, digest

from .benchmarks import MatchingCase
from .captioned import CaptionedImage
from .distill import distill
from .distill_config import DistillConfig
from .generation import Sampling
from .latents import Encoded, load_encoded, pictures_digest
from .matching import clip_matcher, hits, score_cases
from .projected_generation import projected_pictures
from .train_projection import Method, ProjectionTraining, train_projection
from .trained import Trained

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class ProjectionJob:
    """What all cells of a sweep over projections share.

    Attributes:
        model: which pipeline.
        data: digest of what is trained on, `Encoded.digest`.
        training: everything but what a cell tells.
        prompts: of the pictures that are scored.
        seeds: of these pictures.
        switch_offs: tau of each arm, as `attach` takes it.
        sampling: how pictures are made.
        scorer: see `load_scorer`.
        encoded: the folder of `encode_dataset`.
        work: folder for checkpoints, so that a killed cell goes on; None keeps none.
    """

    model: PipelineSpec
    data: str
    training: ProjectionTraining
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    switch_offs: tuple[float, ...]
    sampling: Sampling
    scorer: str
    encoded: str = field(compare=False)
    work: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ProjectionCell:
    """One training."""

    method: Method
    window: int
    rate: float


@dataclass(frozen=True)
class ProjectionRow:
    """What one training did.

    Attributes:
        losses: of each step.
        parameters: numbers that were trained.
        base: scores of the pipeline's own pictures, for each prompt those of all seeds.
        projected: the same with the projection, for each SWITCH-OFF point those of all prompts and seeds.
    """

    losses: list[float]
    parameters: int
    base: list[float]
    projected: list[float]


@dataclass(frozen=True)
class DistillJob:
    """What all cells of a sweep over SDS-CLIP's trainings share.

    Attributes:
        clip: which CLIP, as `load_clip` takes it.
        revision: of its weights, `Clip.revision`.
        teacher: which pipeline.
        data: `pictures_digest` of the pairs.
        test: `cases_digest` of the benchmark.
        config: everything but what a cell tells.
        captioned: the pairs to train on.
        cases: the benchmark's records.
        work: folder for checkpoints, so that a killed cell goes on; None keeps none.
    """

    clip: str
    revision: str
    teacher: PipelineSpec
    data: str
    test: str
    config: DistillConfig
    captioned: tuple[CaptionedImage, ...] = field(compare=False)
    cases: tuple[MatchingCase, ...] = field(compare=False)
    work: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class DistillCell:
    """One training: lambda (`DistillConfig.weight`) and the learning rate."""

    weight: float
    rate: float


@dataclass(frozen=True)
class DistillRow:
    """What one training did.

    Attributes:
        losses: of each step.
        text: for each record, whether its captions are matched right.
        image: whether its pictures are; without meaning for records of one picture.
        group: whether both are.
    """

    losses: list[float]
    text: list[bool]
    image: list[bool]
    group: list[bool]


@dataclass(frozen=True)
class _State:
    pipe: "DiffusionPipeline"
    encoded: Encoded
    scorer: Scorer
    base: list[float]


def projection_sweep(job: ProjectionJob, cells: Sequence[ProjectionCell], **options: Any) -> Sweep[Any, Any]:
    """A sweep that trains a projection a cell and scores pictures at every SWITCH-OFF point (rows: ProjectionRow)."""
    return Sweep(_projected, cells, version="1", row=ProjectionRow, shared=job, setup=_load, batch=1, **options)


def distill_sweep(job: DistillJob, cells: Sequence[DistillCell], **options: Any) -> Sweep[Any, Any]:
    """A sweep that trains an SDS-CLIP a cell and matches a benchmark's records with it (rows: DistillRow)."""
    return Sweep(_distilled, cells, version="1", row=DistillRow, shared=job, setup=_load_teacher, batch=1, **options)


def cases_digest(cases: Sequence[MatchingCase]) -> str:
    """SHA-256 over a benchmark's records and their pictures' files.

    Raises:
        DataError: a picture cannot be read.
    """
    shown = [
        CaptionedImage(image.path, "\n".join(case.captions), f"{case.id} {image.box} {case.tags}")
        for case in cases
        for image in case.images
    ]
    return pictures_digest(shown)


def _load(job: ProjectionJob) -> _State:
    encoded = load_encoded(job.encoded)
    if encoded.digest != job.data:
        raise DataError(f"{job.encoded} holds other data than the sweep was made for: encode the pictures again")
    pipe, scorer = load_pipeline(job.model), load_scorer(job.scorer, job.model.device or "cpu")
    own = projected_pictures(pipe, job.prompts, job.seeds, Trained(None), (), sampling=job.sampling)
    return _State(pipe, encoded, scorer, _scores(job, scorer, own.arms["base"]))


def _projected(cells: Sequence[ProjectionCell], context: Context) -> list[ProjectionRow]:
    job, state, found = context.shared, context.state, []
    for cell in cells:
        training = replace(job.training, method=cell.method, window=cell.window, rate=cell.rate)
        trained = train_projection(state.pipe, state.encoded, _place(job, cell), training)
        made = projected_pictures(
            state.pipe, job.prompts, job.seeds, trained, job.switch_offs, sampling=job.sampling, base=False
        )
        scores = [score for pictures in made.arms.values() for score in _scores(job, state.scorer, pictures)]
        found.append(ProjectionRow(list(trained.losses), trained.parameters, state.base, scores))
    return found


def _scores(job: ProjectionJob, scorer: Scorer, pictures: Any) -> list[float]:
    captions = [prompt for prompt in job.prompts for _ in job.seeds]
    scores: list[float] = scorer(pictures.reshape(-1, *pictures.shape[2:]), captions).tolist()
    return scores


def _load_teacher(job: DistillJob) -> "DiffusionPipeline":
    return load_pipeline(job.teacher)


def _distilled(cells: Sequence[DistillCell], context: Context) -> list[DistillRow]:
    job, found = context.shared, []
    for cell in cells:
        clip = load_clip(job.clip, job.teacher.device or "cpu")
        if clip.revision != job.revision:
            raise DataError(f"{job.clip} is not the CLIP that the sweep was made for ({job.revision}): make it anew")
        config = replace(job.config, weight=cell.weight, rate=cell.rate)
        fitted = distill(clip, job.captioned, _place(job, cell), config, context.state)
        right = [hits(scores) for scores in score_cases(job.cases, clip_matcher(clip))]
        text, image, group = (list(column) for column in zip(*right, strict=True))
        found.append(DistillRow(list(fitted.losses), text, image, group))
    return found


def _place(job: Any, cell: Any) -> Path | None:
    """A cell's own folder of checkpoints, whatever else it shares the work folder with."""
    return None if job.work is None else Path(job.work) / digest([job, cell])[:32]
