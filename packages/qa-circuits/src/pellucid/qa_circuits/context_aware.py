r"""Context-aware decoding (Shi et al. 2023), the baseline of thesis 8.5: what the context changes counts more.

Each next token is drawn from `softmax((1 + alpha) logits(with context) - alpha logits(without))`. The prompts without
the context run beside the generation, over a cache of their own: two forward passes a token instead of one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import DataError, OptionError
from torch import Tensor

from .asking import check_context, check_fits, device_of, few_shot, token_ids
from .prompts import EXAMPLES, GREEDY, Style, pad_left, pad_token, render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ContextAware:
    """A logits processor for one call of `model.generate`, greedy or sampling.

    Args:
        model: the model that generates.
        without: the same prompts without their contexts, as token ids; one a row of the batch.
        pad_id: a token to pad them with.
        alpha: how much more the context counts, 0 or more; 0 is plain decoding.

    Raises:
        OptionError: `alpha` is negative.
    """

    def __init__(
        self, model: "PreTrainedModel", without: Sequence[Sequence[int]], pad_id: int, alpha: float = 0.5
    ) -> None:
        if alpha < 0:
            raise OptionError(f"alpha is {alpha}, which would heed the context less: take 0 or more, such as 0.5")
        self.model, self.alpha = model, alpha
        ids, mask = pad_left(without, pad_id)
        self._ids, self._mask = ids.to(device_of(model)), mask.to(device_of(model))
        self._cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mix the logits of the next token: `(batch, tokens so far)` and `(batch, vocabulary)`."""
        if len(input_ids) != len(self._ids):
            raise OptionError(
                f"{len(input_ids)} sequences are generated for {len(self._ids)} prompts: "
                "context-aware decoding goes without beams and returns one sequence a prompt"
            )
        if self._cache is not None:
            self._ids = input_ids[:, -1:].to(self._mask.device)
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]
        output = self.model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        plain = output.logits[:, -1].to(scores)
        return (1 + self.alpha) * scores - self.alpha * plain


def render_without(tokenizer: "PreTrainedTokenizerBase", question: str, style: Style = "plain") -> str:
    """The prompt of `prompts.render` without any context: the same questions and answers, nothing to take them from.

    Raises:
        OptionError: as `prompts.render`.
    """
    ask = "Question: {}\nAnswer:"
    return few_shot(tokenizer, [(ask.format(e.question), e.answer) for e in EXAMPLES], ask.format(question), style)


def complete_context_aware(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    asked: Sequence[tuple[str, str]],
    length: int,
    *,
    alpha: float = 0.5,
    style: Style = "plain",
) -> list[str]:
    """Answer questions over contexts by context-aware decoding, greedily; one batch.

    Args:
        model: a causal language model, in eval mode.
        tokenizer: its tokenizer.
        asked: contexts with their questions.
        length: most tokens to add to each prompt.
        alpha: see `ContextAware`; the paper takes 0.5, and 1 where context and memory are at odds.
        style: how prompts are rendered, see `prompts.render`.

    Returns:
        The added text of each, without special tokens.

    Raises:
        DataError: nothing is asked, or a context is empty.
        OptionError: a prompt is longer than what the model reads, or an option cannot work.
    """
    if not asked:
        raise DataError("nothing is asked: give one context with its question, or more")
    for context, _ in asked:
        check_context(context)
    prompts = [token_ids(tokenizer, render(tokenizer, *pair, style), style) for pair in asked]
    without = [token_ids(tokenizer, render_without(tokenizer, question, style), style) for _, question in asked]
    check_fits(model, max(map(len, prompts)) + length)
    pad = pad_token(tokenizer)
    ids, mask = pad_left(prompts, pad)
    with torch.inference_mode():
        processor: Any = ContextAware(model, without, pad, alpha)
        got = model.generate(
            input_ids=ids.to(device_of(model)),
            attention_mask=mask.to(device_of(model)),
            max_new_tokens=length,
            pad_token_id=pad,
            logits_processor=[processor],
            **GREEDY,
        )
    return list(tokenizer.batch_decode(got[:, ids.shape[1] :], skip_special_tokens=True))
