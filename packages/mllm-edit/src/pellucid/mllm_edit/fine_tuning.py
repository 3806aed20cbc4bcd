"""The baselines of MultEdit (thesis 6.4.2): fine-tuning, and fine-tuning with a bound on the weights' change."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.fine_tuned import FineTuned
from pellucid.core.multimodal_anatomy import language_anatomy, language_inputs
from pellucid.core.progress import progress
from torch import Tensor, nn

from .inputs import Answerer, prepare
from .multedit import wanted_answers
from .prompts import DEFAULT_STYLE, Style
from .questions import VisualQuestion
from .values import answer_losses

if TYPE_CHECKING:
    from PIL.Image import Image

STEPS = 25
RATE = 5e-4


def fine_tune(
    loaded: Answerer,
    questions: Sequence[VisualQuestion],
    answers: Sequence[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    bound: float | None = None,
    steps: int = STEPS,
    rate: float = RATE,
    images: "Sequence[Image] | None" = None,
    style: Style = DEFAULT_STYLE,
) -> FineTuned:
    """Train a language model's layers to give new answers, all of them in each step.

    The loss is the mean of -log P(O* | picture, question) over the questions, for whole answers. The thesis's first
    baseline trains all layers; its second one (Zhu et al. 2020) also keeps every weight within `bound` of what it was:
    after each step of Adam it is put back onto that box, the projection for the largest-number norm. The vision tower,
    the projector, embeddings and unembedding stay as they are. The model itself is not changed: see
    `FineTuned.applied`.

    Args:
        loaded: the model; one that is offloaded or quantised has no weights that can be trained.
        questions: what is asked.
        answers: one each; None takes each question's first answer.
        layers: whose weights are trained, counted from 0; None trains all.
        bound: most that any weight may change, in its own unit; None lets them change freely.
        steps: of Adam.
        rate: its learning rate.
        images: pictures in the place of those that the questions name.
        style: how prompts are written.

    Raises:
        DataError: as `prepare`; a question has no answer; the loss is no number any more.
        OptionError: fewer than one step, a bound or rate not above 0, no layer.
        ModelError: the weights cannot be trained where they are.
        SiteError: the model has no such layer.
    """
    if steps < 1:
        raise OptionError(f"steps={steps}: give 1 or more")
    if not all(math.isfinite(number) and number > 0 for number in (rate, 1.0 if bound is None else bound)):
        raise OptionError(f"rate={rate}, bound={bound}: give numbers above 0, or None for no bound")
    model = loaded.model
    parameters = _trained(model, layers)
    said = wanted_answers(questions) if answers is None else answers
    inputs = prepare(loaded, questions, answers=said, images=images, style=style)
    anatomy = language_anatomy(model)
    given = language_inputs(anatomy, inputs.model_inputs)
    old = {name: part.data for name, part in parameters.items()}
    asked = {name: part.requires_grad for name, part in parameters.items()}
    began, seen = time.monotonic(), []
    try:
        for name, part in parameters.items():
            part.data = old[name].clone()
            part.requires_grad_(True)
        optimiser = torch.optim.Adam(parameters.values(), rate)
        with torch.enable_grad(), progress("fine-tuning", steps) as advance:
            for step in range(steps):
                loss = answer_losses(anatomy, anatomy.hidden(given), inputs.rows).mean()
                seen.append(_finite(loss, step, rate))
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()
                if bound is not None:
                    for name, part in parameters.items():
                        part.data.clamp_(old[name] - bound, old[name] + bound)
                advance(1)
        with torch.no_grad():
            loss = answer_losses(anatomy, anatomy.hidden(given), inputs.rows).mean()
        seen.append(_finite(loss, steps, rate))
        new = {name: part.data for name, part in parameters.items()}
    finally:
        for name, part in parameters.items():
            part.data, part.grad = old[name], None
            part.requires_grad_(asked[name])
    return FineTuned(new, tuple(seen), time.monotonic() - began)


def _trained(model: Any, layers: Sequence[int] | None) -> dict[str, nn.Parameter]:
    """The parameters of some layers of the language model, or of all."""
    anatomy = language_anatomy(model)
    chosen = range(anatomy.layers) if layers is None else layers
    if not len(chosen):
        raise OptionError("no layer is to be trained: name one or more, or None for all")
    prefixes = tuple(f"{anatomy.mlp_block(layer).rpartition('.')[0]}." for layer in chosen)
    parameters = {name: part for name, part in model.named_parameters() if name.startswith(prefixes)}
    for name, part in parameters.items():
        if part.is_meta or not part.is_floating_point():
            where = "offloaded" if part.is_meta else "quantised"
            raise ModelError(f"{name} is {where} and cannot be trained: load the model in whole, or use multedit")
    return parameters


def _finite(loss: Tensor, step: int, rate: float) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DataError(f"the loss is {value} at step {step}: give a lower rate than {rate}")
    return value
