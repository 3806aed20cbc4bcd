"""What a layer should write for a model to give new answers: the optimised values of MultEdit (thesis 6.4.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.multimodal_anatomy import LanguageAnatomy, language_anatomy, language_inputs
from pellucid.core.progress import progress
from pellucid.core.tracing import capture, patch
from torch import Tensor

from .inputs import Answerer, Row, prepare
from .prompts import DEFAULT_STYLE, Style
from .questions import VisualQuestion

if TYPE_CHECKING:
    from PIL.Image import Image

Token = Literal["constraint", "answer"]


@dataclass(frozen=True)
class Search:
    """How values are looked for.

    Attributes:
        token: where: "constraint" is the last token of the visual constraint (the thesis); "answer" are the tokens that
            say the answer's tokens: the prompt's last one, and the answer's own but its last. The latter serve models
            that look at the picture again where they answer, which what stands at the constraint does not change.
        steps: of Adam.
        rate: its learning rate, in the unit of the values.
        decay: Adam's weight decay on how far a value has moved.
        clamp: most that a value may move, as a share of its length before; None lets it move freely. The published
            code has 1e-4, which keeps answers as they are.
        batch: questions at once; it does not change results beyond rounding.
    """

    token: Token = "constraint"
    steps: int = 25
    rate: float = 0.1
    decay: float = 1e-3
    clamp: float | None = None
    batch: int = 16

    def __post_init__(self) -> None:
        if self.token not in ("constraint", "answer"):
            raise OptionError(f"token={self.token!r}: give constraint or answer")
        for name, least in (("steps", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"{name}={getattr(self, name)}: give {least} or more")
        if not (math.isfinite(self.rate) and self.rate > 0) or not (math.isfinite(self.decay) and self.decay >= 0):
            raise OptionError(f"rate={self.rate}, decay={self.decay}: give a rate above 0 and a decay of 0 or more")
        if self.clamp is not None and not (math.isfinite(self.clamp) and self.clamp > 0):
            raise OptionError(f"clamp={self.clamp}: give a number above 0, or None for no clamp")


@dataclass(frozen=True, eq=False)
class Values:
    """Keys of one layer's down-projection, and the values found for them; one key a question at the constraint.

    Attributes:
        layer: counted from 0.
        module: name of the down-projection.
        question: which question each key belongs to, `(keys,)`.
        keys: k, what it reads at the edited tokens, `(keys, inner width)`, float32.
        before: z, what it writes there, `(keys, width)`, float32.
        values: z*, what it should write there, `(keys, width)`, float32.
        losses: -log P(O*) with what it wrote at each step and at the end, `(steps + 1, questions)`.
    """

    layer: int
    module: str
    question: Tensor
    keys: Tensor
    before: Tensor
    values: Tensor
    losses: Tensor


DEFAULT_SEARCH = Search()


def optimise_values(
    loaded: Answerer,
    questions: Sequence[VisualQuestion],
    answers: Sequence[str],
    layer: int,
    *,
    search: Search = DEFAULT_SEARCH,
    images: "Sequence[Image] | None" = None,
    style: Style = DEFAULT_STYLE,
) -> Values:
    """Find for each question what a layer has to write for its new answer (thesis eq. 6.3, 6.4).

    z* minimises -log P(O* | picture, question), where z is the output of the layer's down-projection at the last
    token of the visual constraint, or where `search.token` says. P is that of the WHOLE answer, the product over its
    tokens, teacher-forced. The model's weights stay as they are; the picture is encoded once, not at each step.

    Args:
        loaded: the model, which may be offloaded, quantised, or carry edits.
        questions: each with a visual constraint, if its token is edited.
        answers: O*, one each.
        layer: counted from 0.
        search: how.
        images: pictures in the place of those that the questions name.
        style: how prompts are written.

    Raises:
        DataError: as `prepare`; a question names no visual constraint; the loss is no number.
        SiteError: the model has no such layer.
    """
    if len(answers) != len(questions):
        raise DataError(f"there are {len(answers)} answers for {len(questions)} questions: give one for each")
    for question in questions:
        if search.token == "constraint" and not question.visual:
            raise DataError(
                f"the question {question.question!r} names no visual constraint, whose token is edited: give one, or "
                "edit the answer's tokens"
            )
    anatomy = language_anatomy(loaded.model)
    module = anatomy.down_projection(layer)
    found: list[tuple[Tensor, ...]] = []
    with progress("values", len(questions)) as advance:
        for start in range(0, len(questions), search.batch):
            at = slice(start, start + search.batch)
            shown = None if images is None else images[at]
            inputs = prepare(loaded, questions[at], answers=answers[at], images=shown, style=style)
            which, *rest = _optimised(anatomy, inputs.model_inputs, inputs.rows, layer, search)
            found.append((start + which, *rest))
            advance(len(inputs.rows))
    which, keys, before, values, losses = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Values(layer, module, which, keys, before, values, losses.T.contiguous())


def answer_losses(anatomy: LanguageAnatomy, hidden: Tensor, rows: Sequence[Row]) -> Tensor:
    """-log P(O*) of each row's whole answer, `(rows,)` in float32, differentiable (thesis eq. 6.4).

    Only the logits before answers' tokens are computed.

    Args:
        anatomy: of the language model.
        hidden: its last hidden states, `(rows, tokens, width)`.
        rows: places of prompts with answers.
    """
    numbers = torch.tensor([number for number, row in enumerate(rows) for _ in row.answer])
    before = torch.tensor([place - 1 for row in rows for place in row.answer])
    ids = torch.tensor([token for row in rows for token in row.answer_ids])
    chances = anatomy.unembed(hidden[numbers.to(hidden.device), before.to(hidden.device)]).log_softmax(-1)
    each = chances.gather(-1, ids.to(chances.device)[:, None])[:, 0]
    return -torch.zeros(len(rows), device=each.device).index_add(0, numbers.to(each.device), each)


def _optimised(
    anatomy: LanguageAnatomy, model_inputs: dict[str, Tensor], rows: Sequence[Row], layer: int, search: Search
) -> tuple[Tensor, ...]:
    """Of one batch: each key's row, keys, values before and after, and losses `(rows, steps + 1)`."""
    given = language_inputs(anatomy, model_inputs)
    edited = [(number, place) for number, row in enumerate(rows) for place in _tokens(row, search.token)]
    places = torch.tensor(edited).unbind(1)
    keys, before = _read(anatomy, given, places, layer)

    def losses(value: Tensor) -> Tensor:
        def written(output: Tensor, _: int) -> Tensor:
            where = tuple(place.to(output.device) for place in places)
            return output.index_put(where, value.to(output))

        with patch(anatomy.model, {anatomy.values(layer): written}):
            hidden = anatomy.hidden(given)
        return answer_losses(anatomy, hidden, rows)

    # Each row's loss depends on its own values alone, and Adam treats each number alone: a batch is many searches.
    moved = torch.zeros_like(before, requires_grad=True)
    optimiser = torch.optim.Adam([moved], search.rate, weight_decay=search.decay)
    seen: list[Tensor] = []
    with torch.enable_grad():
        for step in range(search.steps):
            each = losses(before + moved)
            seen.append(_finite(each.detach().cpu(), rows, step, search))
            [moved.grad] = torch.autograd.grad(each.sum(), [moved])
            optimiser.step()
            if search.clamp is not None:
                _clamp(moved, before, search.clamp)
    with torch.no_grad():
        values = before + moved
        seen.append(_finite(losses(values).cpu(), rows, search.steps, search))
    return places[0], keys.cpu(), before.cpu(), values.cpu(), torch.stack(seen, dim=1)


def _tokens(row: Row, token: Token) -> tuple[int, ...]:
    """Positions of the tokens at which a row is edited."""
    return row.visual[-1:] if token == "constraint" else (row.last, *row.answer[:-1])


@torch.no_grad()
def _read(
    anatomy: LanguageAnatomy, given: dict[str, Any], places: tuple[Tensor, ...], layer: int
) -> tuple[Tensor, Tensor]:
    """What the down-projection reads and writes at some places, `(rows, positions)`, in float32."""
    sites = anatomy.keys(layer), anatomy.values(layer)
    with capture(anatomy.model, sites) as seen:
        anatomy.hidden(given)
    read, written = (seen[site][0] for site in sites)
    at = tuple(place.to(read.device) for place in places)
    return read[at].float(), written[at].float()


@torch.no_grad()
def _clamp(moved: Tensor, before: Tensor, clamp: float) -> None:
    most = clamp * before.norm(dim=1, keepdim=True)
    moved.mul_((most / moved.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1))


def _finite(losses: Tensor, rows: Sequence[Row], step: int, search: Search) -> Tensor:
    if not torch.isfinite(losses).all():
        bad = rows[int((~torch.isfinite(losses)).nonzero()[0])].question.question
        raise DataError(
            f"the loss of {bad!r} is no number at step {step}: give a lower rate than {search.rate}, or load the model "
            "in another precision"
        )
    return losses
