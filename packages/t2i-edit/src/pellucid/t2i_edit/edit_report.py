"""Reports on changing a concept: edits, what they do, and neurons that are dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.edits import WeightEdit
from pellucid.core.errors import OptionError
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.scorers import load_scorer

from .concepts import ConceptPrompts
from .drawing import drawing
from .evaluation import concept_groups, draw_both, evaluate
from .figures import changes_figure, grid_figure
from .jobs import Sampling
from .locoedit import edit_all_layers, locoedit
from .neurons import dropped, neuron_scores, top_neurons
from .quickfix import diff_quickfix

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

METHODS = ("locoedit", "quickfix", "all-layers")
_SHOWN = 6  # pictures in a row of a grid


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
        device=spec.device or "cpu",
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
        device=spec.device or "cpu",
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
        device=spec.device or "cpu",
        summary=summary,
        sections=[Section("Dropping neurons", [summary], [figure])],
        results={
            "concept": concept.concept,
            "scores": means,
            "neurons": {name: found.tolist() for name, found in top_neurons(scores, max(counts)).items()},
            "prompts": [len(select), len(report)],
        },
    )
