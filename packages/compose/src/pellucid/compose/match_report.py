"""Reports of matching (figure 9.1, table 9.1) and of SDS-CLIP (9.1.3)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.clips import Clip, load_clip
from pellucid.core.errors import DataError, OptionError
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import Estimate, bootstrap_mean

from .benchmarks import MatchingCase, read_aro, read_cases, read_winoground
from .captioned import read_captions
from .distill import distill
from .distill_config import DistillConfig
from .figures import matching_figure, zero_shot_figure
from .jobs import DistillCell, DistillJob, cases_digest, distill_sweep
from .latents import pictures_digest
from .matching import MatchingRow, clip_matcher, diffusion_matcher, hits, matching_results, score_cases
from .zero_shot import TEMPLATE, LabelledImages, read_labelled, zero_shot


def read_benchmark(path: Path, images: Path | None = None) -> list[MatchingCase]:
    """Records of a benchmark by what lies there: Winoground's folder, ARO's file, or JSON Lines of `write_cases`.

    Raises:
        DataError: nothing known lies there.
    """
    if path.is_dir():
        return read_winoground(path)
    if path.suffix == ".jsonl":
        return read_cases(path)
    if path.suffix == ".json":
        return read_aro(path, images)
    raise DataError(f"{path} is no benchmark: give Winoground's folder, ARO's .json, or cases.jsonl")


def score_report(
    names: Sequence[str],
    models: Sequence[str],
    cases: Sequence[MatchingCase],
    classes: Path | None,
    seed: int,
    *,
    template: str = TEMPLATE,
    samples: int = 50,
    confidence: float | None = None,
    device: str = "cpu",
) -> Report:
    """Match pictures and captions by CLIPs and by diffusion scores; zero-shot accuracy of the CLIPs.

    Args:
        names: CLIPs, as `load_clip` takes them.
        models: text-to-image models, whose diffusion scores match (eq. 9.1, 9.2).
        cases: the benchmark.
        classes: a folder of labelled pictures, for zero-shot classification.
        seed: of noise and intervals.
        template: of zero-shot prompts.
        samples: noises of the diffusion score.
        confidence: at which it stops early; None never.
        device: where models run.

    Raises:
        OptionError: there is no model.
    """
    if not names and not models:
        raise OptionError("there is nothing to match with: give --clip or --model")
    rows: dict[str, list[MatchingRow]] = {}
    named: dict[str, Estimate] = {}
    labelled = None if classes is None else read_labelled(classes)
    for name in names:
        clip = load_clip(name, device)
        rows[name] = matching_results(cases, score_cases(cases, clip_matcher(clip)), seed)
        if labelled is not None:
            named[name] = zero_shot(clip, labelled, (template,), seed=seed).accuracy
    for name in models:
        pipe = load_pipeline(PipelineSpec(name, device=device).resolved())
        matcher = diffusion_matcher(pipe, samples=samples, seed=seed, confidence=confidence)
        rows[f"{name} (diffusion score)"] = matching_results(cases, score_cases(cases, matcher), seed)
    scores = {name: found[0].text for name, found in rows.items()}
    told = "; ".join(f"{name} {value}" for name, value in scores.items())
    summary = f"Captions matched right in {len(cases)} records: {told}."
    lines: list[list[Any]] = [
        [name, row.tag, row.records, *(None if one is None else str(one) for one in (row.text, row.image, row.group))]
        for name, found in rows.items()
        for row in found
    ]
    columns = ["model", "tag", "records", "text", "image", "group"]
    figures = [Figure("matching", matching_figure(scores), "Text scores of all records, 95 % intervals.", summary)]
    if named:
        figures.append(
            Figure(
                "zero-shot",
                zero_shot_figure(
                    {name: {"" if classes is None else classes.name: value} for name, value in named.items()}
                ),
                "Zero-shot accuracy.",
                "; ".join(f"{name} {value}" for name, value in named.items()),
            )
        )
    return Report(
        title="Which caption goes with which picture?",
        command="compose score",
        config={"clips": list(names), "models": list(models), "records": len(cases), "samples": samples,
                "confidence": confidence},
        seed=seed,
        device=device,
        summary=summary,
        sections=[Section("Matching", [summary], figures, [Table("matching", columns, lines, "By tag.")])],
        results={"matching": rows, "zero_shot": named},
    )  # fmt: skip


def distill_report(
    name: str,
    model: str | None,
    captions: Path,
    out: Path,
    seed: int,
    *,
    config: DistillConfig,
    cases: Sequence[MatchingCase] = (),
    classes: Path | None = None,
    template: str = TEMPLATE,
    device: str = "cpu",
) -> Report:
    """Fine-tune a CLIP with the contrastive loss and lambda times SDS, and measure it before and after.

    `out/clip` gets the plain CLIP; a run that was cut goes on from its checkpoint.
    """
    clip = load_clip(name, device)
    labelled = None if classes is None else read_labelled(classes)
    before = _measured(clip, cases, labelled, template, seed)
    pipe = None if model is None else load_pipeline(PipelineSpec(model, device=device).resolved())
    done = distill(clip, read_captions(captions), out, replace(config, seed=seed), pipe)
    after = _measured(clip, cases, labelled, template, seed)
    gains = {
        kind: bootstrap_mean(np.array(after[kind]) - np.array(before[kind]), seed) for kind in before if before[kind]
    }
    told = "; ".join(
        f"{kind} {np.mean(before[kind]):.3f} to {np.mean(after[kind]):.3f} ({gains[kind]})" for kind in gains
    )
    summary = (
        f"{config.steps} steps of {config.method} (lambda {config.weight:g}) on {name}: the loss went from "
        f"{np.mean(done.losses[:20]):.4g} to {np.mean(done.losses[-20:]):.4g}. {told or 'Nothing was measured'}."
    )
    rows: list[list[Any]] = [
        [kind, float(np.mean(before[kind])), float(np.mean(after[kind])), str(gains[kind])] for kind in gains
    ]
    return Report(
        title=f"{name} after {config.method}",
        command="compose distill",
        config={"clip": name, "model": model, "captions": str(captions), "training": config},
        seed=seed,
        device=device,
        summary=summary,
        sections=[
            Section("Before and after", [summary, "The CLIP lies in the folder clip."], [],
                    [Table("gains", ["what", "before", "after", "gain"], rows, "Paired, 95 % intervals.")])
        ],
        results={"gains": gains, "before": {kind: float(np.mean(value)) for kind, value in before.items() if value},
                 "after": {kind: float(np.mean(value)) for kind, value in after.items() if value},
                 "losses": list(done.losses), "trained": list(done.trained)},
    )  # fmt: skip


def distill_sweep_report(
    name: str,
    model: str,
    captions: Path,
    cases: Sequence[MatchingCase],
    out: Path,
    seed: int,
    *,
    config: DistillConfig,
    weights: Sequence[float],
    rates: Sequence[float],
    running: dict[str, Any],
    device: str = "cpu",
) -> Report:
    """The same for each lambda and learning rate, as cells of a sweep."""
    if not cases:
        raise OptionError("a sweep needs --cases to choose by")
    pairs = read_captions(captions)
    clip = load_clip(name, device)
    job = DistillJob(
        name, clip.revision, PipelineSpec(model, device=device).resolved(), pictures_digest(pairs), cases_digest(cases),
        replace(config, seed=seed), tuple(pairs), tuple(cases), str(out / "work"),
    )  # fmt: skip
    cells = [DistillCell(weight, rate) for weight in weights for rate in rates]
    sweep = distill_sweep(job, cells, cpus=running["cpus"], gpus=running["gpus"])
    summary = sweep.run(out / "ledger", running["workers"], address=running["address"])
    if summary.failed:
        cell, text = sweep.failures(out / "ledger")[0]
        reason = text.strip().splitlines()[-1].partition("Error: ")[2]
        raise DataError(f"lambda {cell.weight:g}, rate {cell.rate:g} ({summary.failed} such) failed: {reason}")
    base = _measured(clip, cases, None, TEMPLATE, seed)["text"]
    rows: list[list[Any]] = []
    for cell, row in sweep.pairs(out / "ledger"):
        gain = bootstrap_mean(np.array(row.text, float) - np.array(base), seed)
        rows.append([cell.weight, cell.rate, float(np.mean(row.text)), gain.value, gain.low, gain.high])
    best = max(rows, key=lambda row: row[3])
    told = (
        f"{len(rows)} trainings of {name}: the text score rises most, by {best[3]:+.3f} [{best[4]:+.3f}, "
        f"{best[5]:+.3f}], with lambda {best[0]:g} and rate {best[1]:g} (chosen on these records)."
    )
    columns = ["lambda", "rate", "text", "gain", "low", "high"]
    return Report(
        title=f"SDS-CLIP of {name} by lambda and learning rate",
        command="compose distill",
        config={"clip": name, "model": model, "captions": str(captions), "training": config},
        seed=seed,
        device=device,
        summary=told,
        sections=[Section("Trainings", [told], [], [Table("trainings", columns, rows, "95 % intervals.")])],
        results={"trainings": [dict(zip(columns, row, strict=True)) for row in rows]},
    )


def _measured(
    clip: Clip, cases: Sequence[MatchingCase], labelled: LabelledImages | None, template: str, seed: int
) -> dict[str, list[float]]:
    """Hits of each record by kind, and of each labelled picture."""
    found: dict[str, list[float]] = {"text": [], "image": [], "group": [], "zero-shot": []}
    if cases:
        right = [hits(table) for table in score_cases(cases, clip_matcher(clip))]
        for place, kind in enumerate(("text", "image", "group")):
            found[kind] = [float(one[place]) for one in right]
    if labelled is not None:
        named = zero_shot(clip, labelled, (template,), seed=seed).predictions
        found["zero-shot"] = (named == labelled.labels).astype(float).tolist()
    return found
