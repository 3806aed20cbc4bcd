"""MultEdit (thesis 6.4.1): a closed-form edit of one MLP's down-projection that gives a model new answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from pellucid.core.edits import WeightEdit, solve
from pellucid.core.errors import DataError

from .inputs import Answerer
from .prompts import DEFAULT_STYLE, Style
from .questions import VisualQuestion
from .values import DEFAULT_SEARCH, Search, Values, optimise_values

if TYPE_CHECKING:
    from PIL.Image import Image

LAYER = 2
"""That of the published code: early in LLaVA-7B's 32, where its traces found facts."""

RIDGE = 0.01
"""Lambda of the published code."""


@dataclass(frozen=True, eq=False)
class MultEdit:
    """An edit, not yet applied, and what it was solved from.

    Attributes:
        edit: apply, revert, save it, or write it as LoRA.
        values: keys and values; with other ridges they can be solved again at no cost, see `solve_values`.
    """

    edit: WeightEdit
    values: Values


def multedit(
    loaded: Answerer,
    questions: Sequence[VisualQuestion],
    answers: Sequence[str] | None = None,
    *,
    layer: int = LAYER,
    ridge: float = RIDGE,
    search: Search = DEFAULT_SEARCH,
    images: "Sequence[Image] | None" = None,
    style: Style = DEFAULT_STYLE,
) -> MultEdit:
    """Solve for the weights with which a model gives new answers to some questions, all at once (thesis eq. 6.3-6.5).

    The down-projection W of one layer's MLP becomes the minimiser of `sum_i |W k_i - z_i*|^2 + ridge |W - W0|^2`: each
    question's key k_i is what W reads at the last token of the visual constraint, and z_i* the value found for its
    answer. (Models that look at the picture again where they answer are better edited there: with `search.token` the
    keys and values are those of the tokens that say the answer.) The same question about other pictures, or in other
    words, may be among them: that makes the edit hold for more of these. The model itself is not changed: apply the
    edit. On a model that carries edits of this module, values are found with these, and applying solves all together.

    Args:
        loaded: the model, which may be offloaded or quantised.
        questions: each with a visual constraint, if its token is edited.
        answers: one each; None takes each question's first answer.
        layer: counted from 0; `causal_layer` chooses one from traces.
        ridge: lambda of eq. 6.5; small ones edit fully, large ones keep the weights.
        search: how values are looked for.
        images: pictures in the place of those that the questions name.
        style: how prompts are written.

    Raises:
        DataError: as `optimise_values`; or a question has no answer.
        OptionError: the ridge is not above 0, or too small for keys that depend on each other.
        SiteError: the model has no such layer.
    """
    said = wanted_answers(questions) if answers is None else answers
    found = optimise_values(loaded, questions, said, layer, search=search, images=images, style=style)
    return MultEdit(solve_values(loaded, found, ridge), found)


def solve_values(loaded: Answerer, found: Values, ridge: float) -> WeightEdit:
    """Solve eq. 6.5 for keys and values, in float64.

    Raises:
        OptionError: the ridge is not above 0, or too small for keys that depend on each other.
    """
    return WeightEdit.of(loaded.model, [solve(loaded.model, found.module, found.keys, found.values, ridge)])


def causal_layer(effects: ArrayLike) -> int:
    """The layer to edit: where restoring the constraint's MLP outputs brings most of the answer back (6.2.2).

    Args:
        effects: indirect estimation effects of the visual constraint by window, `(questions, windows)` or `(windows,)`;
            a window counts for the layer in its middle.

    Raises:
        DataError: there are no effects.
    """
    table = np.asarray(effects, dtype=np.float64)
    if table.ndim not in (1, 2) or not table.size:
        raise DataError(f"effects have shape {table.shape}: give one for each layer, or a row of these a question")
    return int(np.atleast_2d(table).mean(axis=0).argmax())


def wanted_answers(questions: Sequence[VisualQuestion]) -> list[str]:
    """Each question's first answer.

    Raises:
        DataError: a question has none.
    """
    for question in questions:
        if not question.answers:
            raise DataError(f"the question {question.question!r} has no answer to teach: give one")
    return [question.answers[0] for question in questions]
