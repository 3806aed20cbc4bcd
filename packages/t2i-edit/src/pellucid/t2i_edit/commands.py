"""What the commands do: each function makes one report out of options that are checked already."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.conditioning import encode
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.edits import WeightEdit
from pellucid.core.errors import DataError, OptionError
from pellucid.core.generation import generate
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.scorers import Pictures, load_scorer

from .concepts import ConceptPrompts
from .evaluation import concept_groups, draw_both, evaluate
from .figures import changes_figure, effects_figure, grid_figure, windows_figure
from .jobs import LocateJob, Sampling, TraceJob
from .locoedit import edit_all_layers, locoedit
from .locogen import locogen_images
from .neurons import dropped, neuron_scores, top_neurons
from .positions import encoder_positions
from .probes import Probe
from .quickfix import diff_quickfix
from .studies import locate, trace
from .text_tracing import trace_text
from .unet_tracing import trace_unet

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

METHODS = ("locoedit", "quickfix", "all-layers")
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
        device=_device(job.model),
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
        device=_device(job.model),
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


def make_edit(
    pipe: "DiffusionPipeline",
    concepts: Sequence[ConceptPrompts],
    method: str,
    layers: Sequence[int],
    ridge: float,
    following: bool,
) -> WeightEdit:
    """Make an edit by its method's name.

    Raises:
        OptionError: there is no such method, or LocoEdit is given no layers.
    """
    if method == "locoedit":
        if not layers:
            raise OptionError("locoedit needs layers: give --layers 3,4 or --located DIR of `pellucid t2i locate`")
        return locoedit(pipe, concepts, layers, ridge=ridge, following=following)
    if method == "quickfix":
        return diff_quickfix(pipe, concepts, layer=layers[0] if layers else 0, ridge=ridge)
    if method == "all-layers":
        return edit_all_layers(pipe, concepts, ridge=ridge, following=following)
    raise OptionError(f"there is no method {method!r}: choose among {', '.join(METHODS)}")


def edit_report(
    spec: PipelineSpec,
    concepts: Sequence[ConceptPrompts],
    method: str,
    layers: Sequence[int],
    ridge: float,
    following: bool,
    sampling: Sampling,
    seed: int,
    out: Path,
) -> Report:
    """Make an edit, write it as a file and as a LoRA, and show the pictures before and after."""
    import time

    pipe = load_pipeline(spec)
    began = time.monotonic()
    edit = make_edit(pipe, concepts, method, layers, ridge, following)
    seconds = time.monotonic() - began
    edit.save(out / "edit.safetensors")
    files = [str(path.relative_to(out)) for path in edit.to_lora(pipe, out / "lora")]
    prompts = [prompt for concept in concepts for prompt in concept.prompts[: max(1, _SHOWN // len(concepts))]]
    before, after = draw_both(drawing(pipe, sampling), lambda: edit.applied(pipe), prompts, [seed])
    touched = sum(int(np.prod(found.shape)) for found in edit.base.values())
    names = ", ".join(concept.concept for concept in concepts)
    summary = (
        f"{method} changed {len(edit.updates)} matrices ({touched:,} weights) for {names} in {seconds:.2f} s; "
        f"edit.safetensors undoes and combines, lora/ is for other tools."
    )
    figure = Figure(
        "pictures",
        grid_figure([before, after], ["before", "after"], prompts),
        "The same prompts and seeds before and after the edit.",
        f"{len(prompts)} prompts in two rows.",
    )
    return Report(
        title=f"Edit: {names}",
        command="t2i edit",
        config={
            "model": asdict(spec),
            "method": method,
            "layers": list(layers),
            "ridge": ridge,
            "following": following,
        },
        seed=seed,
        device=_device(spec),
        summary=summary,
        sections=[Section("Before and after", [summary], [figure])],
        results={
            "concepts": [concept.concept for concept in concepts],
            "modules": [update.module for update in edit.updates],
            "ranks": [len(update.keys) for update in edit.updates],
            "weights": touched,
            "seconds": seconds,
            "files": ["edit.safetensors", *files],
        },
    )


def evaluate_report(
    spec: PipelineSpec,
    edits: Mapping[str, WeightEdit],
    concept: ConceptPrompts,
    surrounding: Sequence[ConceptPrompts],
    scorer: str,
    sampling: Sampling,
    seeds: Sequence[int],
    seed: int,
    against: str,
) -> Report:
    """Score pictures before and after edits: of the concept, and of others that should stay (thesis 5.4.3, 5.9.2)."""
    pipe, score = load_pipeline(spec), load_scorer(scorer)
    whole: Any = against
    groups = concept_groups(concept, surrounding=surrounding, against=whole)
    draw, found = drawing(pipe, sampling), {}
    for name, edit in edits.items():
        applied = partial(edit.applied, pipe)
        found[name] = evaluate(groups, draw, applied, {scorer: score}, seeds=seeds, seed=seed)[scorer]
    first, changes = next(iter(found.items()))
    spared = [change for change in changes if change.wanted == "same"]
    lost = np.mean([change.difference.value for change in spared]) if spared else None
    rest = "" if lost is None else f"; others change by {lost:.3g} on average"
    summary = f"{first}: {concept.concept} goes from {changes[0].before} to {changes[0].after}{rest}."
    rows = [
        [
            name, change.group, change.wanted, change.count, change.before.value, change.after.value,
            change.difference.value, change.difference.low, change.difference.high,
        ]
        for name, some in found.items()
        for change in some
    ]  # fmt: skip
    columns = ["edit", "group", "wanted", "pictures", "before", "after", "difference", "low", "high"]
    return Report(
        title=f"What the edit of {concept.concept} does",
        command="t2i evaluate",
        config={
            "model": asdict(spec),
            "edits": list(edits),
            "scorer": scorer,
            "seeds": list(seeds),
            "against": against,
        },
        seed=seed,
        device=_device(spec),
        summary=summary,
        sections=[
            Section(
                "Before and after",
                [summary],
                [
                    Figure(
                        "changes",
                        changes_figure(found),
                        "Mean score of each group before and after the edit, with 95 % intervals over prompts.",
                        summary,
                    )
                ],
                [Table("changes", columns, rows, "Every group; the difference is over pairs of one prompt and seed.")],
            )
        ],
        results={name: [asdict(change) for change in some] for name, some in found.items()},
    )


def neurons_report(
    spec: PipelineSpec,
    concept: ConceptPrompts,
    layers: Sequence[int],
    counts: Sequence[int],
    scorer: str,
    sampling: Sampling,
    seed: int,
) -> Report:
    """Drop the channels that a concept moves most, and score what is left of it (thesis 5.10, figures 5.14, 5.15)."""
    pipe, score = load_pipeline(spec), load_scorer(scorer)
    select, report = concept.take(range(0, len(concept), 2)), concept.take(range(1, len(concept), 2))
    scores = neuron_scores(pipe, select, layers)
    draw = drawing(pipe, sampling)
    seeds = [seed + number for number in range(len(report))]
    rows = {"as it is": draw(report.prompts, seeds)}
    for count in counts:
        with dropped(pipe, top_neurons(scores, count)):
            rows[f"{count} dropped"] = draw(report.prompts, seeds)
    rows["target"] = draw(report.targets, seeds)
    means = {name: float(np.mean(score(pictures, report.prompts))) for name, pictures in rows.items()}
    summary = f"{concept.concept}: " + ", ".join(f"{name} {value:.3g}" for name, value in means.items()) + "."
    grid = [pictures[:_SHOWN] for pictures in rows.values()]
    figure = Figure(
        "pictures",
        grid_figure(grid, list(rows), list(report.prompts[:_SHOWN])),
        "Prompts that did not select the channels: as it is, with channels dropped, and of the target.",
        summary,
    )
    return Report(
        title=f"Neurons of {concept.concept}",
        command="t2i neurons",
        config={"model": asdict(spec), "layers": list(layers), "counts": list(counts), "scorer": scorer},
        seed=seed,
        device=_device(spec),
        summary=summary,
        sections=[Section("Dropping neurons", [summary], [figure])],
        results={
            "concept": concept.concept,
            "scores": means,
            "neurons": {name: found.tolist() for name, found in top_neurons(scores, max(counts)).items()},
            "prompts": [len(select), len(report)],
        },
    )


def generate_files(
    spec: PipelineSpec, prompts: Sequence[str], edits: Sequence[WeightEdit], sampling: Sampling, seed: int, out: Path
) -> list[Path]:
    """Draw each prompt, with edits applied together, and write `0000.png` and so on, and `captions.csv`."""
    import csv
    import io

    from pellucid.core.outfolder import write_file
    from PIL import Image

    pipe = load_pipeline(spec)
    draw, seeds = drawing(pipe, sampling), [seed + number for number in range(len(prompts))]
    if edits:
        together = edits[0]
        for other in edits[1:]:
            together = together + other
        with together.applied(pipe):
            pictures = draw(prompts, seeds)
    else:
        pictures = draw(prompts, seeds)
    paths, lines = [], io.StringIO()
    table = csv.writer(lines)
    table.writerow(["file", "caption"])
    for number, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        held = io.BytesIO()
        Image.fromarray(picture).save(held, "PNG")
        paths.append(out / f"{number:04d}.png")
        write_file(paths[-1], held.getvalue())
        table.writerow([paths[-1].name, prompt])
    write_file(out / "captions.csv", lines.getvalue().encode())
    return paths


def drawing(pipe: "DiffusionPipeline", sampling: Sampling) -> Any:
    """From prompts and seeds to pictures, with the model as it is at the time of the call."""

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> Pictures:
        found: Pictures = generate(
            pipe, encode(pipe, prompts), seeds, steps=sampling.steps, guidance=sampling.guidance, chunk=sampling.chunk
        )
        return found

    return draw


def chosen_concept(concepts: Sequence[ConceptPrompts], name: str) -> ConceptPrompts:
    """The concept of a name.

    Raises:
        DataError: there is none.
    """
    for concept in concepts:
        if concept.concept.lower() == name.lower():
            return concept
    known = ", ".join(concept.concept for concept in concepts[:12])
    raise DataError(f"there are no prompts of {name!r} in the file: it has {known}")


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


def _device(spec: PipelineSpec) -> str:
    return spec.device or "cpu"
