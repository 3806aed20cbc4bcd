"""How a question is put to a model: by its own chat template, or by a plain one."""

from dataclasses import dataclass
from typing import Any

from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import Loaded
from pellucid.core.multimodal import LoadedMultimodal

from .questions import VisualQuestion

PLAIN = "USER: {image}{question} ASSISTANT:"
"""For models without a chat template: LLaVA's words."""


@dataclass(frozen=True)
class Style:
    """How prompts are written.

    Attributes:
        instruction: put behind the question on a line of its own, such as "Answer in a few words.".
        template: in the place of the model's chat template: a text with {image} and {question}; empty for the
            model's own, or `PLAIN` where it has none.

    Raises:
        OptionError: the template holds no {question}.
    """

    instruction: str = ""
    template: str = ""

    def __post_init__(self) -> None:
        if self.template and self.template.count("{question}") != 1:
            raise OptionError(f"the template {self.template!r} needs {{question}} once, where the question goes")


DEFAULT_STYLE = Style()


@dataclass(frozen=True)
class Prompt:
    """A prompt as it is written, and where in it the parts of the question stand, as `(first, stop)` characters."""

    text: str
    visual: tuple[int, int] | None
    textual: tuple[tuple[int, int], ...]
    answer: tuple[int, int] | None


def render(
    loaded: LoadedMultimodal | Loaded, question: VisualQuestion, answer: str | None, style: Style, *, picture: bool
) -> Prompt:
    """Write a question, and an answer behind it, as the model expects them.

    Args:
        loaded: the model.
        question: what is asked.
        answer: appended where the model's own answer would begin; None appends nothing.
        style: how.
        picture: whether a picture goes with it.

    Raises:
        DataError: a constraint is not in the question, the answer is empty, or there are more placeholders than
            pictures.
        OptionError: the chat template leaves the question or the picture out.
    """
    if answer is not None and not answer.strip():
        raise DataError(f"the answer {answer!r} to {question.question!r} has no tokens: give at least a word")
    asked = question.question if not style.instruction else f"{question.question}\n{style.instruction}"
    text = _written(loaded, asked, None, style, picture)
    token = image_token(loaded)
    count = text.count(token) if token else 0
    if count != int(picture) and token in asked:
        raise DataError(
            f"the question {question.question!r} makes {count} image placeholders ({token}) for {int(picture)} "
            "pictures: leave them out, the picture is put in front"
        )
    start = text.rfind(asked)
    if start < 0 or count != int(picture):
        what = "question" if start < 0 else "picture"
        raise OptionError(f"the prompt {text!r} does not hold the {what} as it is: give a template of your own")
    end = None
    if answer is not None:
        answer = answer.strip()
        text += _gap(loaded, asked, answer, style, picture, text)
        end = (len(text), len(text) + len(answer))
        text += answer
    return Prompt(
        text=text,
        visual=_span(question.question, question.visual, start, "visual") if question.visual else None,
        textual=tuple(_span(question.question, one, start, "textual") for one in question.textual),
        answer=end,
    )


def image_token(loaded: LoadedMultimodal | Loaded) -> str:
    """The text that stands for a picture in a prompt; empty for a language model alone."""
    if isinstance(loaded, Loaded):
        return ""
    processor: Any = loaded.processor
    token = getattr(processor, "image_token", None)
    if token is None:
        config: Any = loaded.model.config
        code = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        token = "" if code is None else processor.tokenizer.convert_ids_to_tokens(code)
    return str(getattr(token, "content", token))


def _written(loaded: LoadedMultimodal | Loaded, asked: str, answer: str | None, style: Style, picture: bool) -> str:
    """A whole prompt; with an answer as the template itself would close it."""
    writer: Any = loaded.tokenizer if isinstance(loaded, Loaded) else loaded.processor
    if style.template or not getattr(writer, "chat_template", None):
        image = f"{image_token(loaded)}\n" if picture else ""
        template = style.template or PLAIN
        # No str.format: a question may hold braces of its own.
        before, after = template.split("{question}")
        return before.replace("{image}", image) + asked + after.replace("{image}", image)
    parts: Any = [{"type": "text", "text": asked}]
    if picture:
        parts.insert(0, {"type": "image"})
    said: Any = [] if answer is None else [{"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    turns: Any = [{"role": "user", "content": parts}, *said]
    if isinstance(loaded, Loaded):  # templates of language models take texts
        turns = [{"role": turn["role"], "content": turn["content"][0]["text"]} for turn in turns]
    return str(writer.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False))


def _gap(loaded: LoadedMultimodal | Loaded, asked: str, answer: str, style: Style, picture: bool, prompt: str) -> str:
    """What the model's template puts between the prompt and an answer."""
    whole = _written(loaded, asked, answer, style, picture)
    rest = whole.removeprefix(prompt)
    if len(rest) < len(whole) and answer in rest and not rest[: rest.find(answer)].strip():
        return rest[: rest.find(answer)]
    return "" if prompt[-1:].isspace() else " "


def _span(question: str, constraint: str, start: int, kind: str) -> tuple[int, int]:
    found = question.find(constraint)
    if found < 0 or not constraint:
        raise DataError(f"the {kind} constraint {constraint!r} is not in the question {question!r}: write it as there")
    return start + found, start + found + len(constraint)
