"""A small Stable Diffusion of a drawn world: what it can draw, where a style is controlled, and the style taken out."""

from functools import partial
from typing import Any

import numpy as np
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.edits import WeightEdit
from pellucid.core.pipelines import PipelineSpec, load_pipeline
from pellucid.core.report import Figure, Section, Table
from pellucid.core.scorers import load_scorer
from pellucid.t2i_edit.concepts import ConceptPrompts, read_concepts
from pellucid.t2i_edit.drawing import drawing
from pellucid.t2i_edit.evaluation import Change, concept_groups, evaluate
from pellucid.t2i_edit.figures import changes_figure, effects_figure, grid_figure, windows_figure
from pellucid.t2i_edit.jobs import LocateJob, Sampling, TraceJob
from pellucid.t2i_edit.locoedit import locoedit
from pellucid.t2i_edit.probes import read_probes
from pellucid.t2i_edit.studies import locate, trace
from pellucid.zoo import resolve
from pellucid.zoo.tinyworld.measuring import judged
from pellucid.zoo.tinyworld.prompts import held_out_scenes
from pellucid.zoo.world import caption

from ..chapter import Chapter, Setting

MODEL, STYLE, SPARED, SCORER = "zoo:tinyworld-sd", "van gogh", "mondrian", "tinyworld:style"
STEPS = (12, 25)  # of denoising: in the tour, and with --full
JUDGED = (48, 200)  # held-out prompts
PROBES = (6, 16)  # captions traced
LEFT = 0.4  # share of pictures that may still show a style where its layers are altered
NOISE = 10.0  # of the corruption; the rarer words of this world need more than the usual 3
RIDGE = 16.0  # of the edit: enough to take the style out, and to spare the others
EDITED = (12, 16)  # prompts of each style before and after the edit


def run(setting: Setting) -> Chapter:
    """Judge the model on prompts it has not seen, trace a style, find its layers, edit them, see what else changed."""
    spec = PipelineSpec(MODEL).resolved()
    pipe = load_pipeline(spec)
    sampling = Sampling(steps=setting.of(STEPS), guidance=4.0, chunk=40)
    judged_count, probe_count, held_count = setting.of(JUDGED), setting.of(PROBES), setting.of(EDITED)
    draw = drawing(pipe, sampling)
    scenes = held_out_scenes("several attributes", judged_count, setting.seed)
    prompts = [caption(scene) for scene in scenes]
    pictures = draw(prompts, list(range(judged_count)))
    right = judged(pictures, scenes)

    probes = [probe for probe in read_probes(resolve("tinyworld-probes")) if probe.subject == STYLE]
    job = TraceJob(spec, SCORER, sampling, "unet", NOISE, False, 1)
    traced = trace(
        job, probes[:: len(probes) // probe_count][:probe_count], [setting.seed], setting.out, workers=setting.workers
    )
    best = max(traced.layers, key=lambda layer: layer.effect.value)

    concepts = {concept.concept: concept for concept in read_concepts(resolve("tinyworld-concepts"))}
    edited = concepts[STYLE]
    known = edited.take(range(0, len(edited), 2))
    layers = len(denoiser_anatomy(pipe).cross_attentions)
    # In this process: three short sweeps one after the other, each of which would wait for workers to start.
    located = locate(
        LocateJob(spec, SCORER, sampling, "style", False), known, [setting.seed], LEFT, layers, setting.out / "located",
        seed=setting.seed, workers=0,
    )  # fmt: skip
    window = located.search.located.window
    edit = locoedit(pipe, [known], window.layers, ridge=RIDGE, following=True)
    held = edited.take(range(1, len(edited), 2)).take(range(held_count))
    changes = _changes(pipe, edit, held, concepts[SPARED].take(range(held_count)), setting.seed, sampling)
    with edit.applied(pipe):
        after = draw(held.prompts[:6], list(range(6)))
    before = draw(held.prompts[:6], list(range(6)))

    (own, spared), (thing, _) = changes[SCORER], changes["tinyworld:object"]
    controls = "control" if located.search.located.reached else "come nearest to controlling"
    finding = (
        f"{window.size} of {layers} cross-attention layers {controls} the style of {STYLE}; a closed-form edit of "
        f"these alone takes it from {own.before.value:.0%} of pictures to {own.after.value:.0%}, and leaves "
        f"{SPARED}'s in {spared.after.value:.0%} (it was in {spared.before.value:.0%}) and the right object in "
        f"{thing.after.value:.0%} ({thing.before.value:.0%})."
    )
    rows = [[name, found["accuracy"], *found["interval"], found["n"]] for name, found in right.items()]
    section = Section(
        "Pictures: where is a style kept, and can it be taken out?",
        [
            finding,
            f"A Stable Diffusion of {_millions(pipe)} million weights draws the object right in "
            f"{_share(right['object'])} of prompts that it never saw. Its world is drawn by a program, so that a small "
            f"network that reads attributes off pictures can judge what it makes, here in {sampling.steps} denoising "
            "steps.",
            f"Noise on the words “{STYLE}” takes the style away; each layer of the UNet is then restored from the "
            f"clean run, one at a time (thesis 5.2). {best.label} brings most of it back: {best.effect}.",
            "Cross-attention layers are where the text comes in. Windows of them are given the text without the style "
            f"(LocoGen, 5.8): of the pictures, {located.original} show it as asked, {located.found} with the window "
            f"found altered, layers {window.layers.start} to {window.layers.stop - 1}, and {located.random} with other "
            "windows of that size.",
            "The edit maps the style's text to that of the same prompt without it, in the key and value projections "
            "of the layers found (LocoEdit, 5.9); half of the prompts found and made it, the others are shown.",
        ],
        [
            Figure(
                "held-out",
                grid_figure([pictures[:8], pictures[8:16]], ["", ""], prompts[:8]),
                "Prompts of combinations held out of the training; names stand above the first row.",
                "Sixteen generated pictures.",
            ),
            Figure(
                "effects",
                effects_figure(traced, f"{STYLE}: what restoring each layer does"),
                f"Average indirect effect on the judge's rate for the style, {traced.probes} captions.",
                f"The longest bar is {best.label}.",
            ),
            Figure(
                "windows",
                windows_figure(located, f"{STYLE}: altering adjacent cross-attention layers"),
                "Share of pictures that show the style, by the first layer of the window altered; the star is the one "
                "found.",
                f"The window found begins at layer {window.start} and has {window.size} layers.",
            ),
            Figure(
                "edit",
                grid_figure([before, after], ["before", "after"], held.prompts[:6]),
                f"Prompts that the edit of {STYLE} has not seen, before and after it.",
                "Six prompts in two rows.",
            ),
            Figure("changes", changes_figure(changes), "The judge's rates before and after the edit.", finding),
        ],
        [
            Table(
                "judged", ["attribute", "share", "low", "high", "n"], rows, "What the judge found in held-out prompts."
            )
        ],
    )
    return Chapter(
        finding,
        section,
        {
            "judged": right,
            "best": best,
            "layers": list(window.layers),
            "changes": [change for some in changes.values() for change in some],
        },
    )


def _changes(
    pipe: Any, edit: WeightEdit, concept: ConceptPrompts, spared: ConceptPrompts, seed: int, sampling: Sampling
) -> dict[str, tuple[Change, ...]]:
    groups = concept_groups(concept, surrounding=[spared], against="prompt")
    scorers = {SCORER: load_scorer(SCORER), "tinyworld:object": load_scorer("tinyworld:object")}
    return evaluate(groups, drawing(pipe, sampling), partial(edit.applied, pipe), scorers, seeds=[seed], seed=seed)


def _share(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['accuracy']:.0%} [{low:.0%}, {high:.0%}]"


def _millions(pipe: Any) -> int:
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    return round(sum(int(np.prod(weight.shape)) for part in parts for weight in part.parameters()) / 1e6)
