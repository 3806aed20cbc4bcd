"""How much a long answer rests on the spans attributed to it (thesis 11.7.10): its log-probability without them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean

from .asking import answered, check_context, check_fits, device_of
from .prompts import Style, batches, pad_left, pad_token
from .spans import Cut, Span, cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LongAnswer:
    """A response over a context, with the spans of the context that it is attributed to."""

    context: str
    question: str
    response: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class RelScore:
    """Rel-Score of one response (eq. 11.18), and of as many random spans.

    Attributes:
        attributed: with the attributed spans removed.
        random: with random spans removed, the mean over the draws.
        log_p: log-probability of the response over the whole context, in nats.
    """

    attributed: float
    random: float
    log_p: float


@dataclass(frozen=True)
class RelScores:
    """Means over responses: of both scores, and of their difference, response by response."""

    attributed: Estimate
    random: Estimate
    difference: Estimate


def relative_change(log_p: float, ablated: float) -> float:
    """Rel-Score of eq. 11.18: `|(log p(R | whole) - log p(R | ablated)) / log p(R | ablated)|`."""
    # A response that is certain, to float32's precision, has a log-probability of 0.
    return abs(log_p - ablated) / max(abs(ablated), 1e-6)


def without(context: str, spans: Sequence[Span]) -> str:
    """A context without some of its spans, which do not overlap; blanks stay on one side only of each."""
    for span in sorted(spans, reverse=True):
        left, right = context[: span.start], context[span.stop :]
        if not left or left[-1].isspace():
            right = right.lstrip()
        context = left + right if right else left.rstrip()
    return context


def random_spans(context: str, count: int, spans: Cut, rng: random.Random) -> tuple[Span, ...]:
    """So many spans drawn from all of a context's, the control of equal size; all of them where there are no more."""
    pieces = cut(context, spans)
    return tuple(sorted(rng.sample(pieces, min(count, len(pieces)))))


def rel_scores(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    answers: Sequence[LongAnswer],
    *,
    spans: Cut = "sentence",
    draws: int = 3,
    seed: int = 0,
    batch: int = 4,
    style: Style = "plain",
) -> list[RelScore]:
    """Score responses by what becomes of them without their spans, and without as many random ones (eq. 11.18).

    Args:
        model: a causal language model, in eval mode.
        tokenizer: its tokenizer.
        answers: what to score; the model need not have written the responses itself.
        spans: what contexts were cut into, for the random spans.
        draws: random sets of spans a response.
        seed: of the draws; a response's draws do not depend on the others.
        batch: prompts in one forward pass.
        style: how prompts are rendered, see `prompts.render`.

    Returns:
        One score a response, in order.

    Raises:
        DataError: a context or a response is empty, or a response has no spans.
        OptionError: a prompt is longer than what the model reads, or an option cannot work.
    """
    if draws < 1:
        raise OptionError(f"{draws} random draws asked for: ask for 1 or more")
    asked: list[tuple[str, str, str]] = []
    for answer in answers:
        check_context(answer.context)
        if not answer.spans:
            raise DataError(f"the response to {answer.question!r} has no attributed spans: attribute it first")
        rng = random.Random(f"{seed}\n{answer.context}\n{answer.question}\n{answer.response}")
        drawn = [random_spans(answer.context, len(answer.spans), spans, rng) for _ in range(draws)]
        contexts = [answer.context, *(without(answer.context, removed) for removed in (answer.spans, *drawn))]
        asked += [(context, answer.question, answer.response) for context in contexts]
    found = log_probabilities(model, tokenizer, asked, batch=batch, style=style)
    scores = []
    for start in range(0, len(found), draws + 2):
        whole, ablated, *others = found[start : start + draws + 2]
        chance = [relative_change(whole, other) for other in others]
        scores.append(RelScore(relative_change(whole, ablated), sum(chance) / draws, whole))
    return scores


def summarise(scores: Sequence[RelScore], seed: int = 0) -> RelScores:
    """Means with bootstrap intervals over responses; the difference is paired.

    Raises:
        DataError: there are no scores.
    """
    attributed, chance = [s.attributed for s in scores], [s.random for s in scores]
    return RelScores(
        bootstrap_mean(attributed, seed),
        bootstrap_mean(chance, seed),
        bootstrap_difference(attributed, chance, seed, paired=True),
    )


def log_probabilities(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    asked: Sequence[tuple[str, str, str]],
    *,
    batch: int = 4,
    style: Style = "plain",
) -> list[float]:
    """Log-probability of responses, teacher-forced: the sum over their tokens, in nats.

    Args:
        model: a causal language model, in eval mode.
        tokenizer: its tokenizer.
        asked: context, question and response of each; a context may be empty here.
        batch: prompts in one forward pass.
        style: how prompts are rendered, see `prompts.render`.

    Raises:
        DataError: a response leaves no tokens.
        OptionError: a prompt is longer than what the model reads.
    """
    sequences = [answered(tokenizer, *given, style) for given in asked]
    found = [0.0] * len(asked)
    for chosen in batches([len(ids) for ids, _ in sequences], max(batch, 1)):
        rows = [sequences[i] for i in chosen]
        check_fits(model, max(len(ids) for ids, _ in rows))
        longest = max(len(ids) - start for ids, start in rows)
        ids, mask = (part.to(device_of(model)) for part in pad_left([ids for ids, _ in rows], pad_token(tokenizer)))
        with torch.inference_mode():
            logits = model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=(mask[:, :-1].cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=longest,
            ).logits
        for row, i in enumerate(chosen):
            own = len(rows[row][0]) - rows[row][1]
            target = ids[row, -own:].to(logits.device)
            log_p = logits[row, -own:].float().log_softmax(-1).gather(-1, target[:, None])
            found[i] = float(log_p.double().sum())
    return found
