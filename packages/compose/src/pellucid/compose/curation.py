"""Pictures to train on, chosen from many: sample, score, keep the best of each prompt (section 9.2.6: 210 -> 30).

What is chosen by a scorer looks better to the same scorer than it is: judge what was trained on it by another one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.errors import DataError, OptionError
from pellucid.core.outfolder import write_file
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.scorers import Scorer
from pellucid.core.sweeps import Context, Sweep, digest

from .blip_vqa import load_judge
from .captioned import CaptionedImage
from .generation import Sampling, encode_prompts, generate
from .projected_generation import write_pictures

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class CurationJob:
    """What all cells of a curation by one generator share.

    Attributes:
        model: which pipeline makes the pictures.
        scorer: see `load_judge`; the thesis's is `vqa:` with BLIP.
        sampling: how pictures are made.
        seeds: one for each candidate of a prompt.
        keep: how many candidates of a prompt are kept.
        out: folder where kept pictures are written.

    Raises:
        OptionError: there are fewer candidates than are to be kept, or a seed stands twice.
    """

    model: PipelineSpec
    scorer: str
    sampling: Sampling
    seeds: tuple[int, ...]
    keep: int
    out: str = field(compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= len(self.seeds) or len(set(self.seeds)) < len(self.seeds):
            raise OptionError(
                f"keep={self.keep} of {len(self.seeds)} seeds, {len(set(self.seeds))} of them different: keep 1 or "
                "more, and give each seed once"
            )


@dataclass(frozen=True)
class CurationCell:
    """One prompt."""

    prompt: str


@dataclass(frozen=True)
class CurationRow:
    """What was kept of a prompt's candidates.

    Attributes:
        seeds: of the kept pictures, the best first.
        scores: of these.
        mean: score of all candidates.
        folder: under the job's `out`, where the kept pictures lie.
    """

    seeds: list[int]
    scores: list[float]
    mean: float
    folder: str


@dataclass(frozen=True)
class _State:
    pipe: "DiffusionPipeline"
    scorer: Scorer


def curation_sweep(job: CurationJob, prompts: Sequence[str], **options: Any) -> Sweep[Any, Any]:
    """A sweep that makes, scores and keeps pictures of every prompt (rows: CurationRow).

    Workers write what they keep into the job's `out`, so that no picture passes through the ledger.
    """
    cells = [CurationCell(prompt) for prompt in prompts]
    return Sweep(_curated, cells, version="1", row=CurationRow, shared=job, setup=_load, batch=1, **options)


def write_curated(
    out: str | Path, runs: Sequence[Sequence[tuple[CurationCell, CurationRow]]], keep: int
) -> list[CaptionedImage]:
    """Choose the best pictures of each prompt over all generators, and list them in `captions.jsonl`.

    Args:
        out: the folder that the jobs wrote into; `read_captions` then reads it.
        runs: for each generator its sweep's `pairs(ledger)`.
        keep: how many of each prompt, at most what each job kept.

    Returns:
        The pictures, prompt by prompt, the best first; equal scores go in the order of the runs and of their seeds.

    Raises:
        DataError: nothing was kept, or a kept picture is not in the folder.
        OptionError: a job kept fewer than `keep`.
    """
    place = Path(out)
    candidates: dict[str, list[tuple[float, str]]] = {}
    for pairs in runs:
        for cell, row in pairs:
            if len(row.seeds) < keep:
                raise OptionError(f"{len(row.seeds)} pictures of {cell.prompt!r} were kept, and {keep} are wanted")
            files = [f"{row.folder}/{_name(seed)}" for seed in row.seeds]
            candidates.setdefault(cell.prompt, []).extend(zip(row.scores, files, strict=True))
    lines, found = [], []
    for prompt, offered in candidates.items():
        for score, file in sorted(offered, key=lambda pair: -pair[0])[:keep]:
            if not (place / file).is_file():
                raise DataError(f"{place / file} is not there, though it was kept: run the curation again with --fresh")
            lines.append(json.dumps({"image": file, "caption": prompt, "id": file, "score": score}, ensure_ascii=False))
            found.append(CaptionedImage(str(place / file), prompt, file))
    if not found:
        raise DataError(f"no prompt's pictures were kept in {out}: see the sweep's failures")
    write_file(place / "captions.jsonl", ("\n".join(lines) + "\n").encode())
    return found


def _load(job: CurationJob) -> _State:
    return _State(load_pipeline(job.model), load_judge(job.scorer, job.model.device or "cpu"))


def _curated(cells: Sequence[CurationCell], context: Context) -> list[CurationRow]:
    return [_kept(context.shared, context.state, cell) for cell in cells]


def _kept(job: CurationJob, state: _State, cell: CurationCell) -> CurationRow:
    encoded = encode_prompts(state.pipe, [cell.prompt])
    # Some at a time, of which only the best so far stay: 210 large pictures are much memory.
    best: list[tuple[float, int, np.ndarray]] = []
    total = 0.0
    for start in range(0, len(job.seeds), job.sampling.chunk):
        seeds = job.seeds[start : start + job.sampling.chunk]
        arguments = {name: value[[0] * len(seeds)] for name, value in encoded.items()}
        pictures = generate(state.pipe, arguments, seeds, job.sampling)
        scores = np.asarray(state.scorer(pictures, [cell.prompt] * len(seeds)), dtype=np.float64)
        if not np.isfinite(scores).all():
            raise DataError(f"{job.scorer} gives {cell.prompt!r} a score that is not finite: take another scorer")
        total += float(scores.sum())
        best += zip(scores.tolist(), seeds, pictures, strict=True)
        best = sorted(best, key=lambda one: -one[0])[: job.keep]
    folder = digest([job, cell])[:16]
    kept = np.stack([picture for _, _, picture in best])[None]
    write_pictures(Path(job.out) / folder, kept, [cell.prompt], [seed for _, seed, _ in best])
    return CurationRow([seed for _, seed, _ in best], [score for score, _, _ in best], total / len(job.seeds), folder)


def _name(seed: int) -> str:
    """The file of a seed's picture, as `write_pictures` names it where there is one prompt."""
    return f"0000-{seed}.png"
