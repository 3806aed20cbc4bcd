"""How likely a model finds an answer, as a whole, and what it answers by itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import DataError
from torch import Tensor

from .inputs import Answerer, Inputs, prepare, tokenizer_of
from .prompts import DEFAULT_STYLE, Style
from .questions import VisualQuestion

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 16


@dataclass(frozen=True)
class Answer:
    """What a model answers.

    Attributes:
        text: the answer, word by word the likeliest, up to the end of its first line.
        confidence: probability of its first token, in [0, 1].
    """

    text: str
    confidence: float


def answer_log_probability(loaded: Answerer, inputs: Inputs) -> Tensor:
    """The log-probability of each row's whole answer, `(batch,)` in float32, differentiable.

    That is the sum over the answer's tokens of log p(token | all before it): one pass with the answer written out.

    Raises:
        DataError: a row has no answer.
    """
    rows = inputs.rows
    without = next((row for row in rows if not row.answer), None)
    if without is not None:
        raise DataError(f"the question {without.question.question!r} was prepared without an answer: give answers")
    ids = inputs.model_inputs["input_ids"]
    # Padding is in front, so that all answers end with the batch: the logits before its last tokens are enough.
    kept = ids.shape[1] - min(row.last for row in rows)
    logits = loaded.model(**inputs.model_inputs, use_cache=False, logits_to_keep=kept).logits
    first = ids.shape[1] - logits.shape[1]
    chances = logits.float().log_softmax(-1)
    scores = []
    for place, row in enumerate(rows):
        tokens = torch.tensor(row.answer_ids, device=chances.device)
        scores.append(chances[place, row.last - first : row.answer[-1] - first].gather(-1, tokens[:, None]).sum())
    return torch.stack(scores)


@torch.no_grad()
def answer_probability(loaded: Answerer, inputs: Inputs) -> Tensor:
    """P(O) of each row's whole answer O, `(batch,)` in float32: the product over all its tokens (thesis 6.2.2).

    Raises:
        DataError: a row has no answer.
    """
    return answer_log_probability(loaded, inputs).exp()


def answer_probabilities(
    loaded: Answerer,
    questions: Sequence[VisualQuestion],
    answers: Sequence[str],
    *,
    images: "Sequence[Image] | None" = None,
    style: Style = DEFAULT_STYLE,
    batch: int = BATCH,
) -> Tensor:
    """P(O) of any number of answers, `(questions,)` in float32 on the processor, some at a time.

    Raises:
        DataError: as `prepare`.
        ModelError: as `prepare`.
    """
    found = [
        answer_probability(loaded, prepare(loaded, part, answers=answers[at], images=_part(images, at), style=style))
        for part, at in _parts(questions, batch)
    ]
    return torch.cat([part.cpu() for part in found])


@torch.no_grad()
def generate_answers(
    loaded: Answerer,
    questions: Sequence[VisualQuestion],
    *,
    images: "Sequence[Image] | None" = None,
    style: Style = DEFAULT_STYLE,
    max_new_tokens: int = 16,
    batch: int = BATCH,
) -> list[Answer]:
    """What the model answers, some questions at a time, with nothing drawn at random.

    Raises:
        DataError: as `prepare`.
        ModelError: as `prepare`.
    """
    found: list[Answer] = []
    for part, at in _parts(questions, batch):
        inputs = prepare(loaded, part, images=_part(images, at), style=style)
        found += _generated(loaded, inputs.model_inputs, max_new_tokens)
    return found


def _generated(loaded: Answerer, model_inputs: Mapping[str, Tensor], max_new_tokens: int) -> list[Answer]:
    tokenizer, model = tokenizer_of(loaded), loaded.model
    made: Any = model.generate(
        **model_inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    new = made.sequences[:, model_inputs["input_ids"].shape[1] :]
    chances = made.logits[0].float().softmax(-1).amax(-1).tolist()
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    return [Answer(text.strip().split("\n")[0].strip(), chance) for text, chance in zip(texts, chances, strict=True)]


def _parts(questions: Sequence[VisualQuestion], batch: int) -> Iterator[tuple[Sequence[VisualQuestion], slice]]:
    for start in range(0, len(questions), batch):
        at = slice(start, start + batch)
        yield questions[at], at


def _part(images: "Sequence[Image] | None", at: slice) -> "Sequence[Image] | None":
    return None if images is None else images[at]
