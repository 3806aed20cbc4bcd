"""Questions about pictures as a model's inputs, with the place of every token that matters.

Places are found by the tokenizer's offsets and by aligning the prompt as it is written with what the processor makes of
it: so the number of image tokens is read from the inputs, whatever the model and the picture's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import DataError, ModelError
from pellucid.core.loading import Loaded
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.pictures import open_picture
from torch import Tensor

from .contributions import Places
from .prompts import DEFAULT_STYLE, Prompt, Style, image_token, render
from .questions import VisualQuestion

if TYPE_CHECKING:
    from PIL.Image import Image

Answerer = LoadedMultimodal | Loaded
"""What answers: a multimodal model, or for questions in words alone a language model."""


@dataclass(frozen=True)
class Row:
    """Where the tokens of one prompt stand, counted with its padding, which is in front.

    Attributes:
        question: what is asked.
        text: the prompt as it is written, answer included, before the picture takes its tokens.
        start: position of the first token that is no padding.
        image: positions of the picture's tokens, in order; empty without one.
        visual: positions of the visual constraint's tokens, from first to last; empty if the question names none.
        textual: the same of each textual constraint.
        last: position of the prompt's last token, whose logits say the answer's first one.
        answer: positions of the answer's tokens; empty if none is appended.
        answer_ids: these tokens.
    """

    question: VisualQuestion
    text: str
    start: int
    image: tuple[int, ...]
    visual: tuple[int, ...]
    textual: tuple[tuple[int, ...], ...]
    last: int
    answer: tuple[int, ...] = ()
    answer_ids: tuple[int, ...] = ()

    @property
    def places(self) -> Places:
        """What contributions ask for."""
        return Places(self.image, self.visual, self.last)


@dataclass(frozen=True)
class Inputs:
    """A batch of prompts.

    Attributes:
        model_inputs: what the model is called with: `input_ids` and `attention_mask` `(batch, tokens)`, pixel values
            and whatever else its processor makes.
        rows: the places, one for each row of the batch.
    """

    model_inputs: dict[str, Tensor]
    rows: tuple[Row, ...]


def tokenizer_of(loaded: Answerer) -> Any:
    """The tokenizer of a model, multimodal or not."""
    return loaded.tokenizer if isinstance(loaded, Loaded) else loaded.processor.tokenizer


def prepare(
    loaded: Answerer,
    questions: Sequence[VisualQuestion],
    *,
    answers: Sequence[str] | None = None,
    images: "Sequence[Image] | None" = None,
    style: Style = DEFAULT_STYLE,
) -> Inputs:
    """Make one batch of questions.

    Args:
        loaded: the model.
        questions: what is asked; either all have a picture or none has.
        answers: appended to the prompts, one each, to be scored; None ends the prompts where the answer begins.
        images: pictures in the place of those that the questions name.
        style: how prompts are written.

    Raises:
        DataError: a constraint is not in its question, a question holds more image placeholders than there are
            pictures, an answer has no token, or a picture cannot be read or is too large.
        ModelError: the model reads no pictures, or its tokenizer does not tell which token stands where.
    """
    if not questions:
        raise DataError("there is no question: give at least one")
    for what, given in (("answers", answers), ("images", images)):
        if given is not None and len(given) != len(questions):
            raise DataError(f"there are {len(given)} {what} for {len(questions)} questions: give one for each")
    pictures = _pictures(loaded, questions, images)
    prompts = [
        render(loaded, question, None if answers is None else answers[place], style, picture=pictures is not None)
        for place, question in enumerate(questions)
    ]
    found = _processed(loaded, prompts, pictures)
    ids, mask = found["input_ids"], found["attention_mask"]
    rows = [
        _row(loaded, question, prompt, ids[place], int(mask[place].sum()), pictures is not None)
        for place, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
    ]
    return Inputs(found, tuple(rows))


def _pictures(
    loaded: Answerer, questions: Sequence[VisualQuestion], images: "Sequence[Image] | None"
) -> "list[Image] | None":
    if images is None and not any(question.image for question in questions):
        return None
    if isinstance(loaded, Loaded):
        raise ModelError(
            f"{type(loaded.model).__name__} reads no pictures: load a multimodal language model, or ask in words"
        )
    if images is not None:
        return [image.convert("RGB") for image in images]
    without = [question.question for question in questions if not question.image]
    if without:
        raise DataError(f"the question {without[0]!r} has no picture, and others of its batch have: keep them apart")
    return [open_picture(question.image) for question in questions]


def _processed(loaded: Answerer, prompts: Sequence[Prompt], pictures: "list[Image] | None") -> dict[str, Tensor]:
    texts = [prompt.text for prompt in prompts]
    options: dict[str, Any] = {
        "return_tensors": "pt", "padding": True, "padding_side": "left",
        "add_special_tokens": not _begun(tokenizer_of(loaded), texts[0]),
    }  # fmt: skip
    if pictures is None:
        made: Any = tokenizer_of(loaded)(texts, **options)
        made.pop("token_type_ids", None)
    else:
        assert not isinstance(loaded, Loaded)
        made = loaded.processor(images=pictures, text=texts, **options)
    model: Any = loaded.model
    device = "cpu" if model.device.type == "meta" else model.device
    return {
        name: value.to(device, model.dtype) if value.is_floating_point() else value.to(device)
        for name, value in made.items()
        if isinstance(value, Tensor)
    }


def _row(loaded: Answerer, question: VisualQuestion, prompt: Prompt, ids: Tensor, length: int, picture: bool) -> Row:
    tokenizer = tokenizer_of(loaded)
    if not tokenizer.is_fast:
        raise ModelError(f"{type(tokenizer).__name__} does not tell the offsets of tokens: load a fast tokenizer")
    start = len(ids) - length
    full: list[int] = ids[start:].tolist()
    plain = tokenizer(prompt.text, return_offsets_mapping=True, add_special_tokens=not _begun(tokenizer, prompt.text))
    places = aligned(plain["input_ids"], full)
    image: list[int] = []
    if picture:
        code = tokenizer.convert_tokens_to_ids(image_token(loaded))
        image = [start + place for place, token in enumerate(full) if token == code]
        if not image:
            raise ModelError(f"the processor of {type(loaded.model).__name__} puts no image token into its prompts")
    unplaced = [text for place, text in zip(places, plain["input_ids"], strict=True) if place is None]
    if len(unplaced) > int(picture):
        raise ModelError(
            f"the processor of {type(loaded.model).__name__} rewrites the text of its prompts, so that tokens cannot "
            "be told apart: take another processor"
        )

    def tokens(span: tuple[int, int]) -> tuple[int, ...]:
        """Positions of the tokens that hold a character of the span."""
        found = (places[k] for k in tokens_of(prompt.text, plain["offset_mapping"], span))
        return tuple(start + place for place in found if place is not None)

    answer = () if prompt.answer is None else tokens(prompt.answer)
    if prompt.answer is not None and not answer:
        raise DataError(f"the answer {prompt.text[slice(*prompt.answer)]!r} has no token: write it in other words")
    return Row(
        question=question,
        text=prompt.text,
        start=start,
        image=tuple(image),
        visual=() if prompt.visual is None else tokens(prompt.visual),
        textual=tuple(tokens(span) for span in prompt.textual),
        last=(answer[0] if answer else len(ids)) - 1,
        answer=answer,
        answer_ids=tuple(int(ids[place]) for place in answer),
    )


def tokens_of(text: str, offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> list[int]:
    """Which tokens make up a span of a text: those with a character of it, and the space before it.

    Most tokenizers write a space into the word after it; some make a token of it where that word is rare.
    """
    found = [k for k, (first, stop) in enumerate(offsets) if first < span[1] and stop > span[0] and stop > first]
    if found and found[0] and text[slice(*offsets[found[0] - 1])] == " ":
        found.insert(0, found[0] - 1)
    return found


def aligned(plain: Sequence[int], full: Sequence[int]) -> list[int | None]:
    """Where the tokens of a prompt as it is written stand in what the processor made of it.

    The processor puts many tokens in the place of the picture's one; what is before and after stays.

    Returns:
        For each token of `plain` its place in `full`; None for one that has gone.
    """
    shorter = min(len(plain), len(full))
    before = next((k for k in range(shorter) if plain[k] != full[k]), shorter)
    after = next((k for k in range(shorter) if plain[-1 - k] != full[-1 - k]), shorter)
    gap = len(full) - len(plain)
    return [k if k < before else k + gap if k >= len(plain) - after else None for k in range(len(plain))]


def _begun(tokenizer: Any, text: str) -> bool:
    """Tell whether a chat template has written the token that begins a text, so that no second one is added."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
