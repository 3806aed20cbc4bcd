"""Contexts longer than a model's window: told of, or cut into overlapping pieces."""

from typing import TYPE_CHECKING

from pellucid.core.errors import OptionError

from .spans import PromptTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SLACK = 8  # tokens by which a piece of a context may be longer when it is tokenised by itself


def pieces(model: "PreTrainedModel", prompt: PromptTokens, new: int) -> list[tuple[int, int]]:
    """Characters of the context to read at a time, each piece overlapping the next by half; none if it fits whole.

    Args:
        model: whose window counts.
        prompt: the whole context within its prompt.
        new: tokens to leave room for.

    Raises:
        OptionError: the window has no room for a context at all.
    """
    limit = _limit(model)
    if limit is None or len(prompt.ids) + new <= limit:
        return []
    count = len(prompt.offsets)
    size = limit - (len(prompt.ids) - count) - new - _SLACK
    if size < 2:
        raise OptionError(
            f"the model's window of {limit} tokens has no room for a context beside the question and "
            f"{new} tokens of answer: ask for a shorter answer"
        )
    found = []
    for start in range(0, max(count - size, 0) + size // 2, size // 2):
        inside = [place for place in prompt.offsets[start : start + size] if place[0] < place[1]]
        if inside:
            found.append((inside[0][0], inside[-1][1]))
    return found


def check_length(model: "PreTrainedModel", prompt: PromptTokens, new: int) -> None:
    """Raise OptionError where a prompt and `new` further tokens do not fit the model's window."""
    limit = _limit(model)
    if limit is not None and len(prompt.ids) + new > limit:
        answer = f" and up to {new} of answer" if new else ""
        raise OptionError(
            f"the prompt has {len(prompt.ids)} tokens ({len(prompt.offsets)} of context){answer}, but the model's "
            f"window is {limit}: give a shorter context, or let `attribute` read it in windows (window=True)"
        )


def _limit(model: "PreTrainedModel") -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
