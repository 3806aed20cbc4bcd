"""Reports on where a concept is: traced (5.2), and located in windows of cross-attention layers (5.8)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.pipelines import load_pipeline
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.scorers import Pictures

from .concepts import ConceptPrompts
from .figures import effects_figure, grid_figure, windows_figure
from .jobs import LocateJob, TraceJob
from .locogen import locogen_images
from .positions import encoder_positions
from .probes import Probe
from .studies import locate, trace
from .text_tracing import trace_text
from .unet_tracing import trace_unet

_SHOWN = 6  # pictures in a row of a grid


def trace_report(
    job: TraceJob, probes: Sequence[Probe], seeds: Sequence[int], out: Path, seed: int, **running: Any
) -> Report:
    """Trace an attribute, and show the first probe's pictures (thesis figures 5.2 and 5.3)."""
    found = trace(job, probes, seeds, out, seed=seed, **running)
    attribute, place = probes[0].attribute, "text encoder" if job.where == "text" else "denoiser"
    order = sorted(found.layers, key=lambda layer: -layer.effect.value)
    best, last = order[0], order[-1]
    summary = (
        f"Of {len(found.layers)} states of the {place}, restoring {best.label} brings {attribute} back most: "
        f"{best.effect} of {found.clean.value - found.corrupted.value:.3g} lost by the corruption "
        f"({found.probes} probes, {len(seeds)} seeds each)."
    )
    picked = list(dict.fromkeys([*(layer.label for layer in order[:3]), last.label]))
    pictures = _first_trace(job, probes[0], seeds[0], picked)
    figures = [
        Figure(
            "effects",
            effects_figure(found, f"{attribute}: what restoring a state of the {place} does"),
            "Average indirect effect of each state with 95 % intervals over probes; dotted: what there is to restore.",
            f"Bars for {len(found.layers)} states; the longest is {best.label} with {best.effect}.",
        ),
        Figure(
            "pictures",
            grid_figure([pictures], [probes[0].caption], ["clean", "corrupted", *picked]),
            "One probe: clean, corrupted, the three strongest states restored, and the weakest.",
            f"{len(pictures)} pictures of “{probes[0].caption}”.",
        ),
    ]
    rows = [
        [layer.label, layer.score.value, layer.effect.value, layer.effect.low, layer.effect.high]
        for layer in found.layers
    ]
    table = Table(
        "effects", ["state", "score", "effect", "low", "high"], rows, "Every state, in the order of execution."
    )
    return Report(
        title=f"Causal tracing of the {place}: {attribute}",
        command="t2i trace",
        config={"job": asdict(job), "probes": len(probes), "seeds": list(seeds)},
        seed=seed,
        device=job.model.device or "cpu",
        summary=summary,
        sections=[Section("Effects", [summary], figures, [table])],
        results=asdict(found) | {"attribute": attribute},
    )


def locate_report(
    job: LocateJob,
    concept: ConceptPrompts,
    seeds: Sequence[int],
    threshold: float,
    largest: int | None,
    out: Path,
    seed: int,
    **running: Any,
) -> Report:
    """Find the cross-attention layers that control a concept (LocoGen, thesis 5.8), and show them at work."""
    pipe = load_pipeline(job.model)
    layers = len(denoiser_anatomy(pipe).cross_attentions)
    found = locate(job, concept, seeds, threshold, layers, out, largest=largest, seed=seed, **running)
    window, located = found.search.located.window, found.search.located
    met = "meets" if located.reached else "does NOT meet"
    summary = (
        f"{concept.concept}: {window.size} of {layers} cross-attention layers, from {window.start} on, control it; "
        f"the selecting half's score {located.score:.3g} {met} the threshold {threshold:.3g}. On other prompts: "
        f"{found.original} as asked, {found.found} with these layers altered, {found.random} with other windows of "
        f"the same size, {found.replaced} with the target prompt."
    )
    prompts = list(zip(concept.prompts, concept.targets, strict=True))[1 : 2 * _SHOWN : 2]
    shown = [
        locogen_images(
            pipe,
            prompt,
            target,
            seeds[0],
            [window],
            steps=job.sampling.steps,
            guidance=job.sampling.guidance,
            pooled=job.pooled,
            chunk=job.sampling.chunk,
        )
        for prompt, target in prompts
    ]
    grid = [[run.original for run in shown], [run.altered[0] for run in shown], [run.target for run in shown]]
    figures = [
        Figure(
            "windows",
            windows_figure(found, f"{concept.concept}: altering adjacent cross-attention layers"),
            "Mean score on the selecting prompts by the window's first layer; the star is the window found.",
            f"The best window of each size; found is layer {window.start}, size {window.size}.",
        ),
        Figure(
            "pictures",
            grid_figure(
                [np.stack(row) for row in grid], ["as asked", "window altered", "target"], [p for p, _ in prompts]
            ),
            "Prompts that did not select: as asked, with the target's text in the window found, and of the target.",
            f"{len(prompts)} prompts in three rows.",
        ),
    ]
    rows = [
        [size, start, float(mean)]
        for size, scores in found.search.scores.items()
        for start, mean in enumerate(scores.mean(axis=1))
    ]
    tables = [Table("windows", ["size", "first layer", "score"], rows, "Every window tried, on the selecting prompts.")]
    own = [[p, at.window.start, at.window.size, at.score, at.reached] for p, at in found.each.items()]
    if own:
        columns = ["prompt", "first layer", "size", "score", "reached"]
        tables.append(Table("prompts", columns, own, "Each selecting prompt's own window, among those tried."))
    scores = {str(size): values.tolist() for size, values in found.search.scores.items()}
    return Report(
        title=f"Where {concept.concept} is controlled",
        command="t2i locate",
        config={"job": asdict(job), "concept": concept.concept, "seeds": list(seeds), "threshold": threshold},
        seed=seed,
        device=job.model.device or "cpu",
        summary=summary,
        sections=[Section("Windows", [summary], figures, tables)],
        results={
            "concept": concept.concept,
            "kind": concept.kind,
            "located": {"start": window.start, "m": window.size, "score": located.score, "reached": located.reached},
            "layers": list(window.layers),
            **{name: asdict(getattr(found, name)) for name in ("original", "replaced", "found", "random", "gain")},
            "prompts": list(found.prompts),
            "each": {
                prompt: {"start": at.window.start, "m": at.window.size, "score": at.score, "reached": at.reached}
                for prompt, at in found.each.items()
            },
            "scores": scores,
        },
    )


def _first_trace(job: TraceJob, probe: Probe, seed: int, labels: Sequence[str]) -> Pictures:
    """The pictures of one probe: clean, corrupted, and with each of some states restored."""
    pipe = load_pipeline(job.model)
    subject = encoder_positions(pipe, probe.caption, probe.subject)
    made: dict[str, Any] = {"steps": job.sampling.steps, "guidance": job.sampling.guidance, "noise": job.noise}
    run: Any
    if job.where == "text":
        run = trace_text(pipe, probe.caption, subject, seed, chunk=job.sampling.chunk, **made)
        names = [state.label for state in run.states]
    else:
        run = trace_unet(
            pipe, probe.caption, subject, seed, chunk=job.sampling.chunk, whole=job.whole, window=job.window, **made
        )
        names = list(run.layers)
    places = {name: place for place, name in enumerate(names)}
    restored = [run.restored[places[label]] for label in labels if label in places]
    found: Pictures = np.stack([run.clean, run.corrupted, *restored])
    return found
