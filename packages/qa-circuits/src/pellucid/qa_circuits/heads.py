"""Which head of a circuit to read attributions from: entropy over the context, and accuracy (thesis fig. 8.3, 11.10).

A head that looks at one place of the context has a low entropy there; whether that place is the answer's is what the
accuracy tells. Choose on some probes, and report on others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.statistics import Estimate, bootstrap_mean
from torch import Tensor

from .attention_rows import Head, attention_rows
from .probes import Probe
from .prompts import Style, batches, pad_left, pad_token, render_located
from .spans import PromptTokens, Span, SpanIndex, sentences, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Choice = Literal["entropy", "accuracy"]


@dataclass(frozen=True)
class HeadSummary:
    """One head over all probes.

    Attributes:
        head: (layer, head).
        entropy: of its attention over the context, in nats.
        sentence: how often the sentence it looks at most holds the answer.
        token: how often the token it looks at most lies in the answer.
    """

    head: Head
    entropy: Estimate
    sentence: Estimate
    token: Estimate


@dataclass(frozen=True)
class HeadStatistics:
    """How some heads look at the contexts of some probes, where the answer's first token is predicted.

    Attributes:
        heads: (layer, head) pairs, one a column.
        entropy: of the attention over the context's tokens, normalised to sum 1 there, in nats, `(probes, heads)`.
        sentence: whether the sentence with the largest attention holds the answer, `(probes, heads)`.
        token: whether the token with the largest attention lies in the answer, `(probes, heads)`.
        sentence_chance: share of the context's sentences that hold the answer, `(probes,)`.
        token_chance: share of the context's tokens that lie in it, `(probes,)`.
    """

    heads: tuple[Head, ...]
    entropy: np.ndarray
    sentence: np.ndarray
    token: np.ndarray
    sentence_chance: np.ndarray
    token_chance: np.ndarray

    def summary(self, seed: int = 0) -> list[HeadSummary]:
        """Means over the probes with bootstrap intervals, head by head."""
        return [
            HeadSummary(
                head,
                bootstrap_mean(self.entropy[:, i], seed),
                bootstrap_mean(self.sentence[:, i], seed),
                bootstrap_mean(self.token[:, i], seed),
            )
            for i, head in enumerate(self.heads)
        ]


@torch.inference_mode()
def head_statistics(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    probes: Sequence[Probe],
    heads: Sequence[Head],
    style: Style = "plain",
    batch: int = 8,
    *,
    sought: Sequence[str] | None = None,
) -> HeadStatistics:
    """Measure how heads look at the probes' modified contexts: one forward pass a probe for all heads together.

    Args:
        model: a decoder-only model in eval mode.
        tokenizer: its fast tokenizer.
        probes: what to ask.
        heads: (layer, head) pairs, such as a circuit's.
        style: see `prompts.render`.
        batch: probes in one forward pass.
        sought: for each probe the phrase of its modified context that a head should look at; the probe's answer
            by default. For probes of D_memory it is what stands in the answer's place (fig. 8.6a).

    Raises:
        DataError: there are no probes, or a phrase does not stand in its context.
        OptionError: as `attribute`.
    """
    if not probes:
        raise DataError("there are no probes to measure heads on")
    phrases = [probe.answer for probe in probes] if sought is None else list(sought)
    targets = [_target(tokenizer, probe, phrase, style) for probe, phrase in zip(probes, phrases, strict=True)]
    entropy = np.zeros((len(probes), len(heads)))
    sentence, token = np.zeros(entropy.shape, bool), np.zeros(entropy.shape, bool)
    for chosen in batches([len(target.prompt.ids) for target in targets], max(batch, 1)):
        rows = _rows(model, tokenizer, [targets[i].prompt for i in chosen], heads)
        for i, row in zip(chosen, rows, strict=True):
            entropy[i] = _entropy(row).numpy()
            sentence[i] = targets[i].right_span[targets[i].index.scores(row).argmax(-1)].numpy()
            token[i] = targets[i].right_token[row.argmax(-1)].numpy()
    return HeadStatistics(
        tuple(heads),
        entropy,
        sentence,
        token,
        np.array([float(target.right_span.float().mean()) for target in targets]),
        np.array([float(target.right_token.float().mean()) for target in targets]),
    )


def choose_head(statistics: HeadStatistics, by: Choice = "entropy") -> Head:
    """The head to attribute with: of lowest mean entropy (as in the thesis), or of highest accuracy by sentence.

    Measure a circuit's heads only: outside of it there are heads of very low entropy that look at nothing of use, and
    heads that look at the right sentence's full stop on a few probes.

    Equal accuracies are settled by the accuracy by token, and then by entropy; the first of equal heads wins.

    Raises:
        OptionError: `by` is neither.
    """
    if by not in get_args(Choice):
        raise OptionError(f"no way {by!r} to choose a head: choose {', '.join(get_args(Choice))}")
    entropy = statistics.entropy.mean(0)
    keys = [entropy] if by == "entropy" else [entropy, -statistics.token.mean(0), -statistics.sentence.mean(0)]
    return statistics.heads[int(np.lexsort(keys)[0])]


@dataclass(frozen=True)
class _Target:
    """A probe's prompt, its sentences, and which of them and of the context's tokens hold what is sought."""

    prompt: PromptTokens
    index: SpanIndex
    right_span: Tensor
    right_token: Tensor


def _target(tokenizer: "PreTrainedTokenizerBase", probe: Probe, phrase: str, style: Style) -> _Target:
    context = probe.modified_context
    places = _occurrences(phrase, context)
    if not places:
        raise DataError(
            f"{phrase!r} does not stand in the context of {probe.question!r}: name what a head should look at there"
        )
    prompt, place = render_located(tokenizer, context, probe.question, style)
    tokens = tokens_of(tokenizer, prompt, place, special=style == "plain")
    spans = sentences(context)
    return _Target(
        tokens,
        SpanIndex.of(tokens.offsets, spans),
        _touching([(span.start, span.stop) for span in spans], places),
        _touching(tokens.offsets, places),
    )


def _occurrences(phrase: str, text: str) -> list[Span]:
    found = re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) if phrase else iter(())
    return [Span(*match.span()) for match in found]


def _touching(pieces: Sequence[tuple[int, int]], places: Sequence[Span]) -> Tensor:
    return torch.tensor([any(a < place.stop and b > place.start for place in places) for a, b in pieces])


def _rows(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[PromptTokens],
    heads: Sequence[Head],
) -> list[Tensor]:
    """Each prompt's last attention rows over its context, `(heads, tokens of the context)`."""
    ids, mask = pad_left([prompt.ids for prompt in prompts], pad_token(tokenizer))
    device = model.device if model.device.type != "meta" else torch.device("cpu")
    with attention_rows(model, heads) as recorder:
        model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(device),
            use_cache=False,
            logits_to_keep=1,
        )
    row = recorder.rows[0].cpu()
    shifts = [ids.shape[1] - len(prompt.ids) for prompt in prompts]
    return [row[i, :, s + p.first : s + p.stop] for i, (p, s) in enumerate(zip(prompts, shifts, strict=True))]


def _entropy(row: Tensor) -> Tensor:
    """Entropy of attention normalised over the context, `(heads, tokens)` -> `(heads,)`, in nats.

    A head that sees nothing of the context (beyond a sliding window) has the largest there is.
    """
    total = row.sum(-1, keepdim=True)
    share = torch.where(total > 0, row / total, 1 / row.shape[-1])
    return torch.special.entr(share.double()).sum(-1)
