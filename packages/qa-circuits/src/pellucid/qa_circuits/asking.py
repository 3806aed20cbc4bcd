"""Prompts of one's own wording with worked examples in front, and answers that are given rather than generated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pellucid.core.errors import DataError, OptionError

from .prompts import EXAMPLES, Style, check_style, render, render_answered
from .spans import sentences

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def sources() -> tuple[str, ...]:
    """For each of `prompts.EXAMPLES` the sentence of its context that holds the answer."""
    return tuple(
        next(text for text in (span.of(e.context) for span in sentences(e.context)) if e.answer in text)
        for e in EXAMPLES
    )


def few_shot(
    tokenizer: "PreTrainedTokenizerBase", shown: Sequence[tuple[str, str]], ask: str, style: Style = "plain"
) -> str:
    """A prompt that asks something after showing how such things were answered.

    Args:
        tokenizer: of the model that will read it.
        shown: what was asked before, and the reply to it.
        ask: what is asked now; the last line should say what is to come, such as "Answer:".
        style: "chat" makes turns of the tokenizer's chat template of it, "plain" text with blank lines between.

    Raises:
        OptionError: no such style, or chat without a chat template.
    """
    if check_style(style) == "plain":
        return "\n\n".join([*(f"{asked} {reply}" for asked, reply in shown), ask])
    if not getattr(tokenizer, "chat_template", None):
        raise OptionError("style 'chat' needs a tokenizer with a chat template, which this one lacks: take 'plain'")
    turns = []
    for asked, reply in shown:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    turns.append({"role": "user", "content": ask})
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return str(rendered)


def token_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, style: Style = "plain") -> list[int]:
    """Token ids of a prompt that goes on: a chat template has written its special tokens, and no text is ended."""
    ids = list(tokenizer(prompt, add_special_tokens=style == "plain")["input_ids"])
    while ids and style == "plain" and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def answered(
    tokenizer: "PreTrainedTokenizerBase", context: str, question: str, answer: str, style: Style = "plain"
) -> tuple[list[int], int]:
    """The prompt of `prompts.render` and a given answer to it as one sequence.

    They are tokenised together, since a tokenizer may cut an answer otherwise when it stands alone.

    Returns:
        Token ids, and how many of them come before the answer's.

    Raises:
        DataError: the answer leaves no tokens.
        OptionError: as `prompts.render`.
    """
    before = token_ids(tokenizer, render(tokenizer, context, question, style), style)
    whole = token_ids(tokenizer, render_answered(tokenizer, context, question, answer.strip(), style), style)
    shared = 0
    for one, other in zip(before, whole, strict=False):
        if one != other:
            break
        shared += 1
    if shared == len(whole) or not answer.strip():
        raise DataError(f"the answer {answer!r} leaves no tokens in this model's vocabulary: give one with words")
    return whole, shared


def check_context(context: str) -> None:
    """Raise DataError for a context without a word."""
    if not context.strip():
        raise DataError("the context is empty: give the text that the answer is to be taken from")


def check_fits(model: "PreTrainedModel", tokens: int) -> None:
    """Raise OptionError where a model cannot read so many tokens."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and tokens > limit:
        raise OptionError(f"the prompt has {tokens} tokens and the model reads {limit}: give a shorter context")


def device_of(model: "PreTrainedModel") -> "torch.device":
    """Where a model's inputs belong; offloaded models take them on the processor."""
    import torch

    return model.device if model.device.type != "meta" else torch.device("cpu")
