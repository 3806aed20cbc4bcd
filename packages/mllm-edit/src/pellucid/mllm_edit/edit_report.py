"""Reports of MultEdit: one edit that is kept as a file, and the study of methods, layers and strengths (6.4)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pellucid.core.edit_files import EDIT
from pellucid.core.edits import WeightEdit
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running
from pellucid.core.multimodal import LoadedMultimodal, load_multimodal
from pellucid.core.multimodal_anatomy import language_anatomy
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import bootstrap_difference, bootstrap_mean

from .answering import answer_probabilities, generate_answers
from .edit_metrics import KINDS, EditCase, accuracies, edit_cases, wrongly_answered
from .edit_study import (
    METHODS,
    Method,
    Order,
    Outcome,
    Plan,
    bars,
    curves,
    depth_layers,
    edit_job,
    edit_sweep,
    outcomes,
)
from .figures import curves_figure, edits_figure
from .multedit import multedit
from .questions import VisualQuestion
from .values import DEFAULT_SEARCH, Search

AIM = (2.0, 0.9)  # points of specificity lost, efficacy: the issue's


def edit_report(
    spec: ModelSpec,
    questions: Sequence[VisualQuestion],
    out: Path,
    seed: int,
    *,
    layer: int | None = None,
    ridge: float = 0.01,
    search: Search = DEFAULT_SEARCH,
    lora: bool = False,
    before: Path | None = None,
    unrelated: Sequence[VisualQuestion] = (),
) -> Report:
    """Give a model new answers to some questions, all at once; `out` gets edit.safetensors, and a LoRA if wished.

    Args:
        spec: the model.
        questions: with a visual constraint and the answer that is wanted first.
        out: for the files.
        seed: of intervals.
        layer: whose MLP is edited; an early one if not given.
        ridge: lambda of eq. 6.5.
        search: how values are looked for, and at which token.
        lora: also write it as PEFT reads it.
        before: an edit that the model carries already; what is written holds both.
        unrelated: questions that should stay as they are.

    Raises:
        DataError: as `multedit`.
    """
    loaded = load_multimodal(spec)
    place = layer if layer is not None else depth_layers(language_anatomy(loaded.model).layers)["early"]
    earlier = None if before is None else WeightEdit.load(before)
    if earlier is not None:
        earlier.apply(loaded.model)
    asked, kinds = _asked(questions)
    wanted = [one.answers[0] for one in asked]
    first, said = _answers(loaded, asked, wanted)
    kept = accuracies(loaded, unrelated) if unrelated else np.zeros(0)
    found = multedit(loaded, questions, layer=place, ridge=ridge, search=search)
    with found.edit.applied(loaded.model):
        then, after = _answers(loaded, asked, wanted)
        left = accuracies(loaded, unrelated) if unrelated else np.zeros(0)
    whole = found.edit
    if earlier is not None:
        earlier.revert(loaded.model)
        whole = earlier + found.edit
    written = [whole.save(out / EDIT)]
    written += whole.to_lora(loaded.model, out / "lora") if lora else ()
    rows: list[list[Any]] = [
        [one.question, kind, goal, old, new, float(p), float(q)]
        for one, kind, goal, old, new, p, q in zip(asked, kinds, wanted, said, after, first, then, strict=True)
    ]
    told = {
        kind: {
            "before": bootstrap_mean([row[5] for row in rows if row[1] == kind], seed),
            "after": bootstrap_mean([row[6] for row in rows if row[1] == kind], seed),
        }
        for kind in dict.fromkeys(kinds)
    }
    summary = (
        f"{len(questions)} new answer{'s' if len(questions) > 1 else ''} in the MLP of layer {place} of {spec.name}: "
        f"P(answer) goes from {told['edited']['before']} to {told['edited']['after']}"
    )
    if "paraphrase" in told:
        summary += f", in other words from {told['paraphrase']['before']} to {told['paraphrase']['after']}"
    lost = None
    if unrelated:
        lost = bootstrap_difference(100 * kept, 100 * left, seed, paired=True)
        summary += f"; {len(unrelated)} unrelated questions lose {lost} points"
    columns = ["question", "kind", "wanted", "before", "after", "P before", "P after"]
    return Report(
        title=f"An edit of {spec.name}",
        command="mllm edit",
        config={"model": spec.name, "layer": place, "ridge": ridge, "search": search, "questions": len(questions),
                "edit": None if before is None else str(before)},
        seed=seed,
        device=spec.device or "cpu",
        summary=f"{summary}.",
        sections=[
            Section("Edit", [f"{summary}.", f"Written: {', '.join(path.name for path in written)}."], [],
                    [Table("answers", columns, rows[:200], "Answers before and after; the first 200.")])
        ],
        results={"layer": place, "probability": told, "lost": lost, "files": [path.name for path in written],
                 "answers": [dict(zip(columns, row, strict=True)) for row in rows]},
    )  # fmt: skip


def evaluate_report(
    spec: ModelSpec,
    questions: Sequence[VisualQuestion],
    unrelated: Sequence[VisualQuestion],
    out: Path,
    seed: int,
    *,
    layers: Sequence[str] = ("early",),
    ridges: Sequence[float] = (0.01,),
    rates: Sequence[float] = (),
    bounds: Sequence[float] = (),
    sizes: Sequence[int] = (1,),
    order: str = "together",
    wrong: bool = False,
    search: Search = DEFAULT_SEARCH,
    running: Running,
) -> Report:
    """Teach facts by each method, and measure efficacy, generalisation and specificity (6.4.2, 6.4.3).

    Args:
        spec: the model.
        questions: the facts; the same fact about several pictures is one, whose other pictures measure generalisation.
        unrelated: questions that an edit should leave alone.
        out: for the ledger.
        seed: of intervals.
        layers: `early`, `middle`, `late`, or numbers.
        ridges: lambdas of MultEdit.
        rates: of fine-tuning, of all layers; none leaves it out.
        bounds: of fine-tuning with a bound on the weights' change.
        sizes: facts taught to one model: 1, 10, 50.
        order: `together`, or `one by one`.
        wrong: teach only what the model answers wrongly: errors to correct.
        search: how values are looked for, and at which token.
        running: how the sweep runs.

    Raises:
        DataError: fewer facts than the largest set wants.
    """
    if order not in get_args(Order):
        raise OptionError(f"order {order!r}: give {' or '.join(get_args(Order))}")
    loaded = load_multimodal(spec)
    anatomy = language_anatomy(loaded.model)
    if wrong:
        questions = wrongly_answered(loaded, questions)
        if not questions:
            raise DataError(f"{spec.name} answers all of these questions rightly: there is nothing to correct")
    places = [_layer(name, anatomy.layers) for name in layers]
    plans = [Plan("multedit", place, ridge, order) for place in places for ridge in ridges]  # type: ignore[arg-type]
    plans += [Plan("fine-tuning", None, rate, order) for rate in rates]  # type: ignore[arg-type]
    plans += [Plan("bounded fine-tuning", None, bound, order) for bound in bounds]  # type: ignore[arg-type]
    facts = edit_cases(questions)
    sets: list[list[EditCase]] = []
    for size in sizes:
        if size > len(facts):
            raise DataError(f"a set of {size} facts, and there are {len(facts)}: give more questions")
        sets += [facts[start : start + size] for start in range(0, len(facts) - size + 1, size)]
    job = edit_job(spec.resolved(), unrelated, search=search)
    sweep = edit_sweep(job, sets, plans, cpus=running.cpus, gpus=running.gpus)
    summary = sweep.run(out / "ledger", running.workers, address=running.address)
    if summary.failed:
        cell, text = sweep.failures(out / "ledger")[0]
        reason = text.strip().splitlines()[-1].partition("Error: ")[2]
        raise DataError(f"{cell.plan.method} ({summary.failed} such cells) failed: {reason}")
    found = outcomes(sweep.pairs(out / "ledger"), seed)
    told = _told(spec, found)
    lines = {"efficacy": curves(found, "edited"), "paraphrases": curves(found, "paraphrase")}
    figures = [
        Figure(name, curves_figure(line, name, AIM if name == "efficacy" else None),
               f"P(answer) against specificity lost: {name}; numbers are lambda, rate or bound.", told)
        for name, line in lines.items() if line
    ]  # fmt: skip
    groups: dict[str, dict[str, Any]] = {}
    for size in sizes:
        groups[f"{size} fact{'s' if size > 1 else ''}"] = {
            _label(one): bars(one) for one in found if one.size == size and _shown(one, plans)
        }
    figures.append(Figure("edits", edits_figure(groups), "Methods beside each other, at their first strengths.", told))
    rows: list[list[Any]] = [
        [one.plan.method, one.plan.layer, one.plan.strength, one.plan.order, one.size, one.facts,
         *(str(one.probability[kind]) if kind in one.probability else None for kind in KINDS),
         str(one.exact["edited"]), str(one.specificity), str(one.lost)]
        for one in found
    ]  # fmt: skip
    columns = ["method", "layer", "strength", "order", "facts a model", "facts", "efficacy", "paraphrases",
               "other pictures", "exact", "specificity", "points lost"]  # fmt: skip
    return Report(
        title=f"Edits of {spec.name} compared",
        command="mllm evaluate",
        config={"model": spec.name, "facts": len(facts), "unrelated": len(unrelated), "layers": places,
                "sizes": list(sizes), "order": order, "search": search},
        seed=seed,
        device=spec.device or "cpu",
        summary=told,
        sections=[Section("Edits", [told], figures, [Table("edits", columns, rows, "95 % intervals.")])],
        results={"outcomes": found},
    )  # fmt: skip


def _asked(questions: Sequence[VisualQuestion]) -> tuple[list[VisualQuestion], list[str]]:
    """Questions, and their paraphrases, in which no constraint has to stand."""
    asked, kinds = [], []
    for one in questions:
        asked.append(one)
        kinds.append("edited")
        for text in one.paraphrases:
            asked.append(replace(one, question=text, visual="", textual=(), paraphrases=()))
            kinds.append("paraphrase")
    return asked, kinds


def _answers(
    loaded: LoadedMultimodal, asked: Sequence[VisualQuestion], wanted: Sequence[str]
) -> tuple[list[float], list[str]]:
    chances: list[float] = answer_probabilities(loaded, asked, wanted).tolist()
    return chances, [one.text for one in generate_answers(loaded, asked)]


def _layer(name: str, layers: int) -> int:
    named = depth_layers(layers)
    if name in named:
        return named[name]
    if not name.isdigit() or int(name) >= layers:
        raise OptionError(f"layer {name!r}: give early, middle, late, or a number up to {layers - 1}")
    return int(name)


def _label(one: Outcome) -> str:
    return one.plan.method if one.plan.layer is None else f"{one.plan.method}, layer {one.plan.layer}"


def _shown(one: Outcome, plans: Sequence[Plan]) -> bool:
    """The untouched model, and of each method and layer the first strength."""
    if one.plan.method == METHODS[0]:
        return True
    kinds: dict[tuple[Method, int | None], Plan] = {}
    for plan in plans:
        kinds.setdefault((plan.method, plan.layer), plan)
    return one.plan in kinds.values()


def _told(spec: ModelSpec, found: Sequence[Outcome]) -> str:
    edits = [one for one in found if one.plan.method == "multedit"]
    untouched = next(one for one in found if one.plan.method == METHODS[0])
    if not edits:
        return f"{spec.name} as it is: P(answer) {untouched.probability['edited']}."
    best = max(edits, key=lambda one: one.probability["edited"].value - one.lost.value / 100)
    words = best.probability.get("paraphrase")
    return (
        f"MultEdit of layer {best.plan.layer} of {spec.name} (lambda {best.plan.strength:g}, {best.size} facts a "
        f"model) takes P(answer) from {untouched.probability['edited']} to {best.probability['edited']}"
        + (f", in other words to {words}" if words is not None else "")
        + f"; unrelated questions lose {best.lost} points."
    )
