"""Edits compared: methods, layers and strengths over many facts, as a sweep (thesis 6.4.2, 6.4.3)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import LoadedMultimodal, load_multimodal
from pellucid.core.pictures import PictureFile, picture_file
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean
from pellucid.core.sweeps import Context, Sweep
from pellucid.core.sweeps.keys import digest

from .edit_metrics import KINDS, EditCase, EditScores, Kind, accuracies, edit_scores
from .figures import Strength
from .fine_tuning import RATE, STEPS, fine_tune
from .multedit import multedit, solve_values
from .prompts import DEFAULT_STYLE, Style
from .questions import VisualQuestion
from .values import DEFAULT_SEARCH, Search, Values
from .vqa_accuracy import NORMALISATION

Method = Literal["untouched", "multedit", "fine-tuning", "bounded fine-tuning"]
Order = Literal["together", "one by one"]
METHODS = ("untouched", "multedit", "fine-tuning", "bounded fine-tuning")


@dataclass(frozen=True)
class Plan:
    """One way to edit.

    Attributes:
        method: one of `METHODS`.
        layer: which one is changed, counted from 0; None for all, which fine-tuning can.
        strength: of MultEdit lambda, of fine-tuning the rate, of bounded fine-tuning the bound.
        order: whether the facts of a set are taught together, or one after another, each to the model as it is then.

    Raises:
        OptionError: there is no such method or order, or MultEdit is given no layer.
    """

    method: Method
    layer: int | None = None
    strength: float = 0.0
    order: Order = "together"

    def __post_init__(self) -> None:
        if self.method not in METHODS or self.order not in ("together", "one by one"):
            raise OptionError(
                f"method {self.method!r}, order {self.order!r}: give one of {', '.join(METHODS)}, and together or one "
                "by one"
            )
        if self.method == "multedit" and self.layer is None:
            raise OptionError("multedit changes one layer: say which")


UNTOUCHED = Plan("untouched")


@dataclass(frozen=True)
class EditJob:
    """What all cells of a study share.

    Attributes:
        model: which model.
        unrelated: questions that an edit should leave alone, for specificity.
        search: how MultEdit's values are looked for.
        steps: of fine-tuning.
        rate: of bounded fine-tuning.
        style: how prompts are written.
        content: SHA-256 of the unrelated questions and their pictures' files; see `edit_job`.
        normalisation: of answers; see `vqa_accuracy`.
        batch: questions at once; it does not change results beyond rounding.
    """

    model: ModelSpec
    unrelated: tuple[VisualQuestion, ...] = field(compare=False)
    search: Search = DEFAULT_SEARCH
    steps: int = STEPS
    rate: float = RATE
    style: Style = DEFAULT_STYLE
    content: str = ""
    normalisation: str = NORMALISATION
    batch: int = field(default=32, compare=False)


@dataclass(frozen=True)
class EditCell:
    """A set of facts that are taught to one model, and how; `content` is SHA-256 of the facts and pictures' files."""

    cases: tuple[EditCase, ...] = field(compare=False)
    plan: Plan
    content: str


@dataclass(frozen=True)
class EditRow:
    """What the model makes of it: lists as in `EditScores`, and the VQA accuracy of each unrelated question."""

    case: list[int]
    kind: list[str]
    probability: list[float]
    exact: list[bool]
    unrelated: list[float]

    @property
    def scores(self) -> EditScores:
        """The lists on the facts' questions."""
        return EditScores(tuple(self.case), tuple(self.kind), tuple(self.probability), tuple(self.exact))


@dataclass(frozen=True)
class Outcome:
    """What one plan does, over all sets of one size.

    Attributes:
        plan: the way to edit.
        size: facts taught to one model.
        facts: over which intervals of probability and exact are drawn.
        probability: mean P(O*) by kind of question: "edited" is the efficacy, the others the generalisation. A kind
            that no fact has is not there.
        exact: the same for the share of answers that are O*.
        specificity: mean VQA accuracy on unrelated questions, over which the interval is drawn.
        lost: how many points of 100 of it the untouched model has more.
    """

    plan: Plan
    size: int
    facts: int
    probability: Mapping[Kind, Estimate]
    exact: Mapping[Kind, Estimate]
    specificity: Estimate
    lost: Estimate


@dataclass
class _State:
    """The model of a process, and what the next cell may need again."""

    loaded: LoadedMultimodal
    untouched: list[float] | None = None
    values: tuple[tuple[EditCase, ...], int, Values] | None = None


def edit_job(model: ModelSpec, unrelated: Sequence[VisualQuestion], **fields: Any) -> EditJob:
    """A job with its unrelated questions' pictures hashed.

    Raises:
        DataError: there is no unrelated question, or a picture cannot be read.
    """
    if not unrelated:
        raise DataError("there is no unrelated question to measure specificity by: give some")
    return EditJob(model, tuple(unrelated), content=digest([_by_content(one) for one in unrelated]), **fields)


def edit_sweep(
    job: EditJob, sets: Sequence[Sequence[EditCase]], plans: Sequence[Plan], **options: Any
) -> Sweep[Any, Any]:
    """A sweep that edits a fresh model for every set of facts and every plan, and the untouched model beside them.

    Args:
        job: what all share.
        sets: facts taught to one model: of one each to judge single edits, of 10 or 50 to judge many.
        plans: ways to edit.
        options: of `Sweep`.

    Raises:
        DataError: a set is empty or one of its pictures cannot be read.
        OptionError: two sets or two plans are alike.
    """
    if not sets or not all(len(cases) for cases in sets):
        raise DataError("there is a set of no facts: give at least one in each")
    ways = (UNTOUCHED, *plans)
    cells = []
    for cases in sets:
        content = digest(
            [(_by_content(case.question), [picture_file(name) for name in case.pictures]) for case in cases]
        )
        cells += [EditCell(tuple(cases), plan, content) for plan in ways]
    # One set a batch: its values are found once a layer, whatever the strengths.
    return Sweep(_edit, cells, version="2", row=EditRow, shared=job, setup=_load, batch=len(ways), **options)


def outcomes(pairs: Sequence[tuple[EditCell, EditRow]], seed: int = 0) -> list[Outcome]:
    """Bring a sweep's rows together: one outcome a plan and size of set, in the order of the sweep.

    Args:
        pairs: of `Sweep.pairs`.
        seed: of the intervals.

    Raises:
        DataError: there are no rows, or none of the untouched model.
    """
    held: dict[tuple[int, Plan], list[EditRow]] = {}
    for cell, row in pairs:
        held.setdefault((len(cell.cases), cell.plan), []).append(row)
    if not any(plan == UNTOUCHED for _, plan in held):
        raise DataError("there is no row of the untouched model to compare edits with: run the sweep first")
    before = np.array(next(rows[0].unrelated for (_, plan), rows in held.items() if plan == UNTOUCHED))
    found = []
    for (size, plan), rows in held.items():
        after = np.mean([row.unrelated for row in rows], axis=0)
        found.append(
            Outcome(
                plan=plan,
                size=size,
                facts=size * len(rows),
                probability=_by_kind(rows, seed, exact=False),
                exact=_by_kind(rows, seed, exact=True),
                specificity=bootstrap_mean(after, seed),
                lost=bootstrap_difference(100 * before, 100 * after, seed, paired=True),
            )
        )
    return found


def curves(found: Sequence[Outcome], kind: Kind = "edited") -> dict[str, list[Strength]]:
    """What each method gains against what it loses, over its strengths, for `figures.curves_figure`.

    A method is named with its layer, the size of its sets and its order, where they differ between outcomes.
    """
    lines: dict[str, list[Strength]] = {}
    edits = [one for one in found if one.plan != UNTOUCHED and kind in one.probability]
    for one in sorted(edits, key=lambda one: one.plan.strength):
        lines.setdefault(_name(one, edits), []).append(
            Strength(f"{one.plan.strength:g}", one.probability[kind], one.lost)
        )
    return lines


def bars(outcome: Outcome) -> dict[str, Estimate]:
    """The metrics of one method in figure 6.6, for `figures.edits_figure`."""
    names: dict[Kind, str] = {"edited": "efficacy", "paraphrase": "paraphrases", "picture": "other pictures"}
    return {names[kind]: value for kind, value in outcome.probability.items()} | {"specificity": outcome.specificity}


def depth_layers(layers: int) -> dict[str, int]:
    """An early, a middle and a late layer to edit for comparison (thesis 6.4.3); of 32 these are 4, 16 and 27."""
    return {"early": layers // 8, "middle": layers // 2, "late": layers - 1 - layers // 8}


def _by_kind(rows: Sequence[EditRow], seed: int, *, exact: bool) -> dict[Kind, Estimate]:
    tables = {kind: np.concatenate([row.scores.by_case(kind, exact=exact) for row in rows]) for kind in KINDS}
    return {kind: bootstrap_mean(table, seed) for kind, table in tables.items() if len(table)}


def _name(one: Outcome, among: Sequence[Outcome]) -> str:
    said: list[str] = [one.plan.method]
    if len({other.plan.layer for other in among if other.plan.method == one.plan.method}) > 1:
        said.append("all layers" if one.plan.layer is None else f"layer {one.plan.layer}")
    if len({other.size for other in among}) > 1:
        said.append(f"{one.size} facts")
    if len({other.plan.order for other in among}) > 1:
        said.append(one.plan.order)
    return ", ".join(said)


def _load(job: EditJob) -> _State:
    return _State(load_multimodal(job.model))


def _edit(cells: Sequence[EditCell], context: Context) -> list[EditRow]:
    return [_edited(context.shared, context.state, cell) for cell in cells]


def _edited(job: EditJob, state: _State, cell: EditCell) -> EditRow:
    with _taught(job, state, cell):
        scores = edit_scores(state.loaded, cell.cases, style=job.style, batch=job.batch)
        if cell.plan == UNTOUCHED:
            if state.untouched is None:
                state.untouched = _unrelated(job, state)
            unrelated = state.untouched
        else:
            unrelated = _unrelated(job, state)
    return EditRow(list(scores.case), list(scores.kind), list(scores.probability), list(scores.exact), unrelated)


def _unrelated(job: EditJob, state: _State) -> list[float]:
    found: list[float] = accuracies(state.loaded, job.unrelated, style=job.style, batch=job.batch).tolist()
    return found


@contextmanager
def _taught(job: EditJob, state: _State, cell: EditCell) -> Iterator[None]:
    """The model with the cell's facts taught to it; afterwards it is as it was, to the bit."""
    plan, model = cell.plan, state.loaded.model
    lessons = [cell.cases] if plan.order == "together" else [(case,) for case in cell.cases]
    with ExitStack() as stack:
        for cases in () if plan == UNTOUCHED else lessons:
            questions, answers = [case.question for case in cases], [case.answer for case in cases]
            if plan.layer is not None and plan.method == "multedit":
                edit = solve_values(state.loaded, _values(job, state, cases, plan), plan.strength)
                stack.enter_context(edit.applied(model))
                continue
            bounded = plan.method == "bounded fine-tuning"
            tuned = fine_tune(
                state.loaded,
                questions,
                answers,
                layers=None if plan.layer is None else [plan.layer],
                bound=plan.strength if bounded else None,
                steps=job.steps,
                rate=job.rate if bounded else plan.strength,
                style=job.style,
            )
            stack.enter_context(tuned.applied(model))
        yield


def _values(job: EditJob, state: _State, cases: tuple[EditCase, ...], plan: Plan) -> Values:
    """MultEdit's values, kept for the next strength; one by one they depend on the edits before, and are not kept."""
    assert plan.layer is not None
    if plan.order == "together" and state.values is not None and state.values[:2] == (cases, plan.layer):
        return state.values[2]
    questions, answers = [case.question for case in cases], [case.answer for case in cases]
    found = multedit(
        state.loaded, questions, answers, layer=plan.layer, ridge=plan.strength, search=job.search, style=job.style
    ).values
    if plan.order == "together":
        state.values = (cases, plan.layer, found)
    return found


def _by_content(question: VisualQuestion) -> tuple[VisualQuestion, PictureFile]:
    return replace(question, image=""), picture_file(question.image)
