"""Reports of projections of text embeddings: trained, used with SWITCH-OFF, and embeddings optimised one by one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pellucid.core.errors import DataError
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import Estimate, bootstrap_mean

from .blip_vqa import load_judge
from .captioned import read_captions
from .figures import embeddings_figure, pictures_figure
from .generation import Sampling
from .jobs import ProjectionCell, ProjectionJob, projection_sweep
from .latents import encode_dataset
from .optimise_embedding import EmbeddingTraining, optimise_embedding
from .projected_generation import BASE, embedding_pictures, projected_pictures
from .prompts_data import parse_two_objects
from .token_subsets import TokenSubset, token_subset
from .train_projection import ProjectionTraining, train_projection
from .trained import Trained, load_trained

SHOWN = 6


def train_report(model: str, captions: Path, out: Path, *, training: ProjectionTraining, device: str = "cpu") -> Report:
    """Train CLP, WiCLP or one of the alternatives (9.2.4, 9.2.8) on captioned pictures; `out` keeps it."""
    pipe = load_pipeline(PipelineSpec(model, device=device).resolved())
    encoded = encode_dataset(pipe, read_captions(captions), out / "encoded")
    trained = train_projection(pipe, encoded, out, training)
    first, last = _ends(trained.losses)
    summary = (
        f"{training.method} of {model}: {trained.parameters:,} numbers trained in {training.steps} steps on "
        f"{len(encoded)} pictures; the loss went from {first:.4g} to {last:.4g}."
    )
    return Report(
        title=f"{training.method} for {model}",
        command="compose train-projection",
        config={"model": model, "captions": str(captions), "training": training},
        seed=training.seed,
        device=device,
        summary=summary,
        sections=[Section("Training", [summary, "Give this folder to `compose generate --projection`."])],
        results={"parameters": trained.parameters, "losses": list(trained.losses), "seconds": trained.seconds},
    )


def sweep_report(
    model: str,
    captions: Path,
    prompts: Sequence[str],
    out: Path,
    *,
    training: ProjectionTraining,
    methods: Sequence[str],
    windows: Sequence[int],
    rates: Sequence[float],
    switch_offs: Sequence[float],
    scorer: str,
    sampling: Sampling,
    seeds: Sequence[int],
    running: dict[str, Any],
    device: str = "cpu",
) -> Report:
    """The same for each method, window and rate, as cells of a sweep, scored at every SWITCH-OFF point."""
    spec = PipelineSpec(model, device=device).resolved()
    encoded = encode_dataset(load_pipeline(spec), read_captions(captions), out / "encoded")
    job = ProjectionJob(
        spec, encoded.digest, training, tuple(prompts), tuple(seeds), tuple(switch_offs), sampling, scorer,
        str(out / "encoded"), str(out / "work"),
    )  # fmt: skip
    cells = [
        ProjectionCell(method, 0 if method == "clp" else window, rate)  # type: ignore[arg-type]  # checked in training
        for method in methods
        for window in (windows if method != "clp" else windows[:1])
        for rate in rates
    ]
    sweep = projection_sweep(job, cells, cpus=running["cpus"], gpus=running["gpus"])
    summary = sweep.run(out / "ledger", running["workers"], address=running["address"])
    if summary.failed:
        cell, text = sweep.failures(out / "ledger")[0]
        reason = text.strip().splitlines()[-1].partition("Error: ")[2]
        raise DataError(f"{cell.method}, rate {cell.rate:g} ({summary.failed} such) failed: {reason}")
    rows: list[list[Any]] = []
    for cell, row in sweep.pairs(out / "ledger"):
        base = np.array(row.base).reshape(len(prompts), -1).mean(1)
        arms = np.array(row.projected).reshape(len(switch_offs), len(prompts), -1).mean(2)
        for tau, scores in zip(switch_offs, arms, strict=True):
            gain = bootstrap_mean(scores - base, training.seed)
            rows.append([cell.method, cell.window, cell.rate, tau, float(base.mean()), float(scores.mean()), gain.value,
                         gain.low, gain.high])  # fmt: skip
    best = max(rows, key=lambda row: row[6])
    told = (
        f"{len(cells)} trainings for {model}: {scorer} rises most, by {best[6]:+.3f} [{best[7]:+.3f}, {best[8]:+.3f}], "
        f"with {best[0]}, window {best[1]}, rate {best[2]:g}, tau {best[3]:g} (chosen on these prompts)."
    )
    columns = ["method", "window", "rate", "tau", "base", "projected", "gain", "low", "high"]
    return Report(
        title=f"Projections for {model}",
        command="compose train-projection",
        config={"model": model, "captions": str(captions), "training": training, "scorer": scorer},
        seed=training.seed,
        device=device,
        summary=told,
        sections=[Section("Trainings", [told], [], [Table("trainings", columns, rows, "Over prompts, 95 %.")])],
        results={"trainings": [dict(zip(columns, row, strict=True)) for row in rows]},
    )


def generate_report(
    model: str,
    projection: Path | None,
    prompts: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    switch_offs: Sequence[float],
    sampling: Sampling,
    subset: TokenSubset = "all",
    device: str = "cpu",
) -> Report:
    """Pictures of every prompt and seed, as the model is and with the projection at each tau; a folder an arm."""
    pipe = load_pipeline(PipelineSpec(model, device=device).resolved())
    trained = Trained(None) if projection is None else load_trained(projection)
    taus = [] if projection is None else list(switch_offs)
    tokens = None if subset == "all" else torch.stack([_tokens(pipe, prompt, subset) for prompt in prompts])
    made = projected_pictures(pipe, prompts, seeds, trained, taus, sampling=sampling, tokens=tokens)
    made.save(out / "pictures")
    count = min(SHOWN, len(prompts))
    figure = Figure(
        "pictures",
        pictures_figure({name: arm[:count, 0] for name, arm in made.arms.items()}, list(prompts)[:count]),
        "The first prompts with the first seed; each row has the same noise.",
        f"{len(made.arms)} rows of pictures.",
    )
    summary = f"{len(prompts)} prompts by {len(seeds)} seeds, drawn by {model}: {', '.join(made.arms)}."
    return Report(
        title=f"Pictures by {model}",
        command="compose generate",
        config={"model": model, "projection": None if projection is None else str(projection), "taus": taus,
                "prompts": len(prompts), "seeds": list(seeds), "sampling": sampling, "subset": subset},
        seed=seeds[0],
        device=device,
        summary=summary,
        sections=[Section("Pictures", [summary, "They lie in the folder pictures, an arm each."], [figure])],
        results={"arms": {name: f"pictures/{name}" for name in made.arms}},
    )  # fmt: skip


def optimise_report(
    model: str,
    captions: Path,
    caption: str,
    out: Path,
    *,
    training: EmbeddingTraining,
    scorer: str,
    seeds: Sequence[int],
    sampling: Sampling,
    device: str = "cpu",
) -> Report:
    """Optimise a caption's embedding (c*, figure 9.6) on its pictures, and score what is drawn with it."""
    pipe = load_pipeline(PipelineSpec(model, device=device).resolved())
    own = [one for one in read_captions(captions) if one.caption == caption]
    if not own:
        raise DataError(f"{captions} has no picture with the caption {caption!r}: give one that is there")
    encoded = encode_dataset(pipe, own, out / "encoded")
    found = optimise_embedding(pipe, encoded, caption, out / "embedding", training)
    judge = load_judge(scorer, device)
    base = projected_pictures(pipe, [caption], seeds, Trained(None), (), sampling=sampling).arms[BASE][0]
    after = embedding_pictures(pipe, caption, found.embeds.to(device), seeds, sampling)
    scores: dict[str, Estimate] = {}
    drawn = {"c": base, "c*": after}
    for name, pictures in drawn.items():
        scores[name] = bootstrap_mean(judge(pictures, [caption] * len(seeds)), training.seed)
    gain = bootstrap_mean(judge(after, [caption] * len(seeds)) - judge(base, [caption] * len(seeds)), training.seed)
    summary = f"“{caption}” by {model}: {scorer} {scores['c']} with its embedding, {scores['c*']} with c* ({gain})."
    count = min(SHOWN, len(seeds))
    figures = [
        Figure("scores", embeddings_figure({name: {caption: one} for name, one in scores.items()}), "Means.", summary),
        Figure(
            "pictures",
            pictures_figure({name: one[:count] for name, one in drawn.items()}, [caption] * count),
            "The same noise in each column.",
            "Pictures before and after.",
        ),
    ]
    return Report(
        title="An optimised embedding",
        command="compose optimise-embedding",
        config={"model": model, "caption": caption, "pictures": len(own), "training": training, "scorer": scorer},
        seed=training.seed,
        device=device,
        summary=summary,
        sections=[Section("c and c*", [summary], figures)],
        results={"scores": scores, "gain": gain, "losses": list(found.losses), "embedding": "embedding"},
    )


def _tokens(pipe: Any, prompt: str, subset: TokenSubset) -> torch.Tensor:
    """Which tokens of a prompt are projected; nouns and adjectives are told by the form “a red car and a blue bag”."""
    found = parse_two_objects(prompt)
    if found is None and subset.startswith("nouns"):
        raise DataError(f"the nouns of {prompt!r} are not known: give prompts such as “a red car and a blue bag”")
    nouns, adjectives = ((), ()) if found is None else (found.object_words, found.attribute_words)
    return token_subset(pipe, prompt, subset, nouns, adjectives)


def _ends(losses: Sequence[float]) -> tuple[float, float]:
    some = max(1, len(losses) // 10)
    return float(np.mean(losses[:some])), float(np.mean(losses[-some:]))
