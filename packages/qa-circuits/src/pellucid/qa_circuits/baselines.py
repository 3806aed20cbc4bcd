"""Other ways to find an answer's source in the context (thesis 8.4.2): what one attention head is compared with.

All return spans of the context ranked as `attribution.attribute` ranks them, best first. The two prompting baselines
make the model write the source; a span scores by how many words it shares with what was written.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pellucid.core.errors import OptionError
from torch import Tensor

from .asking import answered, check_context, check_fits, device_of, few_shot, sources, token_ids
from .prompts import EXAMPLES, Style, complete, render_located
from .sentence_encoder import SentenceEncoder
from .spans import Cut, ScoredSpan, Span, cut, rank_spans, span_scores, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST_QUOTE = 96  # tokens a model may write to tell the source


def self_attribution(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    context: str,
    question: str,
    *,
    spans: Cut = "sentence",
    k: int = 3,
    style: Style = "plain",
    max_new_tokens: int = LONGEST_QUOTE,
) -> tuple[ScoredSpan, ...]:
    """Ask the model for the part of the context that is needed to answer the question (thesis 8.4.2, i).

    Args:
        model: a causal language model, in eval mode.
        tokenizer: its tokenizer.
        context: the text.
        question: what is asked of it.
        spans: what the context is cut into, see `spans.cut`.
        k: how many spans to return.
        style: how the prompt is rendered, see `prompts.render`.
        max_new_tokens: most tokens that the model may write.

    Returns:
        Ranked spans; a score is the F1 of the words of span and quotation, in [0, 1].

    Raises:
        DataError: the context is empty.
        OptionError: the prompt is longer than what the model reads, or an option cannot work.
    """
    check_context(context)
    ask = "Context: {}\nQuestion: {}\nSentence of the context that answers it:"
    shown = [(ask.format(e.context, e.question), source) for e, source in zip(EXAMPLES, sources(), strict=True)]
    prompt = few_shot(tokenizer, shown, ask.format(context, question), style)
    return ranked_by_quote(context, _quote(model, tokenizer, prompt, style, max_new_tokens), spans, k)


def iterative_prompt(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    context: str,
    question: str,
    answer: str,
    *,
    spans: Cut = "sentence",
    k: int = 3,
    style: Style = "plain",
    max_new_tokens: int = LONGEST_QUOTE,
) -> tuple[ScoredSpan, ...]:
    """Ask the model, once it has answered, for the part of the context that its answer is from (thesis 8.4.2, ii).

    Args:
        model: see `self_attribution`.
        tokenizer: see `self_attribution`.
        context: see `self_attribution`.
        question: see `self_attribution`.
        answer: what the model answered.
        spans: see `self_attribution`.
        k: see `self_attribution`.
        style: see `self_attribution`.
        max_new_tokens: see `self_attribution`.

    Returns:
        As `self_attribution`.

    Raises:
        DataError: as `self_attribution`.
        OptionError: as `self_attribution`.
    """
    check_context(context)
    ask = "Context: {}\nQuestion: {}\nAnswer: {}\nSentence of the context that says so:"
    shown = [
        (ask.format(e.context, e.question, e.answer), source) for e, source in zip(EXAMPLES, sources(), strict=True)
    ]
    prompt = few_shot(tokenizer, shown, ask.format(context, question, answer.strip()), style)
    return ranked_by_quote(context, _quote(model, tokenizer, prompt, style, max_new_tokens), spans, k)


def sentence_similarity(
    encoder: SentenceEncoder, context: str, answer: str, *, spans: Cut = "sentence", k: int = 3
) -> tuple[ScoredSpan, ...]:
    """Rank spans by how alike they are to the answer, in a sentence encoder's eyes (thesis 8.4.2, iii).

    Args:
        encoder: such as `SentenceEncoder.load()`.
        context: the text.
        answer: what the model answered.
        spans: see `self_attribution`.
        k: see `self_attribution`.

    Returns:
        Ranked spans; a score is the cosine of the embeddings, in [-1, 1].

    Raises:
        DataError: the context is empty.
    """
    check_context(context)
    pieces = cut(context, spans)
    vectors = encoder.encode([answer, *(piece.of(context) for piece in pieces)])
    return rank_spans(pieces, (vectors[1:] @ vectors[0]).tolist(), k)


def gradient(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    context: str,
    question: str,
    answer: str,
    *,
    spans: Cut = "sentence",
    k: int = 3,
    style: Style = "plain",
) -> tuple[ScoredSpan, ...]:
    """Rank spans by how steeply the answer's loss changes with their tokens' embeddings (thesis 8.4.2, iv).

    The loss is that of all the answer's tokens, teacher-forced, so that one backward pass serves them all; a token
    scores the Euclidean norm of the gradient with respect to its embedding, a span its highest token.

    Args:
        model: see `self_attribution`; quantised is fine, offloaded is not.
        tokenizer: a fast one, see `spans.tokens_of`.
        context: see `self_attribution`.
        question: see `self_attribution`.
        answer: what the model answered.
        spans: see `self_attribution`.
        k: see `self_attribution`.
        style: see `self_attribution`.

    Returns:
        Ranked spans; a score is in nats per unit of embedding.

    Raises:
        DataError: the context is empty, or the answer leaves no tokens.
        OptionError: as `self_attribution`, or part of the model is offloaded.
    """
    check_context(context)
    prompt, place = render_located(tokenizer, context, question, style)
    located = tokens_of(tokenizer, prompt, place, special=style == "plain")
    ids, start = answered(tokenizer, context, question, answer, style)
    check_fits(model, len(ids))
    norms = embedding_gradients(model, ids, start)[located.first : located.stop]
    pieces = cut(context, spans)
    return rank_spans(pieces, span_scores(norms[None], located.offsets, pieces)[0].tolist(), k)


def embedding_gradients(model: "PreTrainedModel", ids: Sequence[int], start: int) -> Tensor:
    """Norms of the gradient of `-log P(ids[start:] | ids[:start])` with respect to each token's input embedding.

    Args:
        model: a causal language model whose weights are all in memory.
        ids: the prompt's tokens and the answer's.
        start: how many of them are the prompt's.

    Returns:
        `(len(ids),)`, float32, on the processor.

    Raises:
        OptionError: part of the model is offloaded.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise OptionError("the gradient needs all weights in memory, and some are offloaded: allow more memory")
    embedded: list[Tensor] = []

    def leaf(_: torch.nn.Module, __: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = model.get_input_embeddings().register_forward_hook(leaf)
    try:
        with torch.enable_grad():
            sequence = torch.tensor([list(ids)], device=device_of(model))
            logits = model(input_ids=sequence[:, :-1], use_cache=False, logits_to_keep=len(ids) - start).logits[0]
            loss = torch.nn.functional.cross_entropy(logits.float(), sequence[0, start:].to(logits.device))
            (slope,) = torch.autograd.grad(loss * (len(ids) - start), embedded)
    finally:
        hook.remove()
    norms = slope[0].float().norm(dim=-1).cpu()
    return torch.cat([norms, norms.new_zeros(1)])  # nothing follows the last token, so no loss depends on it


def ranked_by_quote(context: str, quote: str, spans: Cut = "sentence", k: int = 3) -> tuple[ScoredSpan, ...]:
    """Rank spans of a context by the words they share with a text that should quote from it.

    The score is the F1 of the two bags of words, without regard to case and signs: 1 for an exact quotation.
    """
    pieces = cut(context, spans)
    return rank_spans(pieces, [_word_f1(piece, context, quote) for piece in pieces], k)


def _word_f1(piece: Span, context: str, quote: str) -> float:
    ours, theirs = _words(piece.of(context)), _words(quote)
    common = sum((ours & theirs).values())
    return 2 * common / (sum(ours.values()) + sum(theirs.values())) if common else 0.0


def _words(text: str) -> Counter[str]:
    bare = "".join(letter if letter.isalnum() or letter.isspace() else " " for letter in text.casefold())
    # A quotation may be of signs alone.
    return Counter(bare.split() or text.split())


def _quote(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, style: Style, max_new_tokens: int
) -> str:
    ids = token_ids(tokenizer, prompt, style)
    check_fits(model, len(ids) + max_new_tokens)
    (text,) = complete(model, tokenizer, [ids], max_new_tokens)
    # The reply ends where a further worked example would begin; a quotation itself may hold line breaks.
    return text.strip().split("\n\n", 1)[0].split("\nContext:", 1)[0].strip()
