"""ATTNATTRIB: where in the context an answer comes from, read off ONE attention head while the model generates.

Thesis section 8.4.1, algorithm 4: for every token of the answer the spans of the context are ranked by the largest
attention of the head within them; the answer's own ranking sorts the spans of all its tokens, each span once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import torch
from pellucid.core.errors import DataError, OptionError
from torch import Tensor

from .answers import AnswerText
from .attention_rows import AttentionRows, Head, attention_rows
from .long_contexts import check_length, pieces
from .prompts import GREEDY, Style, batches, pad_left, pad_token, render_answered, render_located
from .spans import Cut, PromptTokens, ScoredSpan, SpanIndex, cut, rank_spans, tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenAttribution:
    """One token of an answer and the spans of the context that the head looked at for it, best first.

    Attributes:
        text: what the token adds to the answer; empty where a letter takes several tokens and is not whole yet.
        spans: with the head's largest attention within each, in [0, 1].
    """

    text: str
    spans: tuple[ScoredSpan, ...]


@dataclass(frozen=True)
class Attribution:
    """An answer and where it comes from.

    Attributes:
        answer: without blanks around it.
        tokens: the tokens' texts side by side are the answer, but for blanks around it.
        spans: the best spans of all tokens, each once, best first; characters are counted in the context.
    """

    answer: str
    tokens: tuple[TokenAttribution, ...]
    spans: tuple[ScoredSpan, ...]


def attribute(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    context: str,
    question: str,
    *,
    head: Head,
    spans: Cut = "sentence",
    k: int = 3,
    style: Style = "plain",
    max_new_tokens: int = 64,
    window: bool = False,
) -> Attribution:
    """Answer a question over a context, and tell which spans of the context each token comes from (algorithm 4).

    The answer is generated greedily by `model.generate`, with the model's own attention; only the head's last row
    is computed besides. In plain style the answer is one line, as in the worked examples of the prompt.

    Args:
        model: a decoder-only model in eval mode; ordinary, offloaded or quantised.
        tokenizer: its fast tokenizer.
        context: what the answer is to be taken from.
        question: what is asked.
        head: (layer, head), counted from 0, such as `choose_head` finds.
        spans: "sentence", or a number of words in a window.
        k: how many spans to give for a token and for the answer.
        style: see `prompts.render`.
        max_new_tokens: longest answer.
        window: read a context that is too long for the model in pieces, each overlapping the next by half, and keep
            the answer whose best span scores highest.

    Raises:
        DataError: the context is empty.
        OptionError: the head does not exist, the model lacks the attention interface, the tokenizer is a slow one,
            the context is too long for the model (the message tells the lengths), or an option cannot work.
    """
    options = {"spans": spans, "k": k, "style": style, "max_new_tokens": max_new_tokens, "window": window}
    return attribute_batch(model, tokenizer, [(context, question)], head=head, batch=1, **options)[0]  # type: ignore[arg-type]


def attribute_batch(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    items: Sequence[tuple[str, str]],
    *,
    head: Head,
    spans: Cut = "sentence",
    k: int = 3,
    style: Style = "plain",
    max_new_tokens: int = 64,
    window: bool = False,
    batch: int = 8,
) -> list[Attribution]:
    """Do `attribute` for several pairs of context and question, `batch` of them in one forward pass.

    Raises:
        DataError: as `attribute`.
        OptionError: as `attribute`.
    """
    readings = [
        (item, reading)
        for item, (context, question) in enumerate(items)
        for reading in _readings(model, tokenizer, context, question, spans, k, style, max_new_tokens, window)
    ]
    found: list[list[Attribution]] = [[] for _ in items]
    for chosen in batches([len(reading.prompt.ids) for _, reading in readings], max(batch, 1)):
        group = [readings[i][1] for i in chosen]
        _generate(model, tokenizer, group, head, max_new_tokens)
        for i, reading in zip(chosen, group, strict=True):
            found[readings[i][0]].append(reading.attribution())
    return [max(answers, key=lambda a: a.spans[0].score if a.spans else -1.0) for answers in found]


def stream_attributions(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    context: str,
    question: str,
    *,
    head: Head,
    spans: Cut = "sentence",
    k: int = 3,
    style: Style = "plain",
    max_new_tokens: int = 64,
) -> Iterator[tuple[str, tuple[ScoredSpan, ...]]]:
    """Yield what `attribute` gives for each token, its text and spans, as soon as the model has made it.

    The model generates in a thread of its own; leaving the iteration stops it after the token under way.

    Raises:
        DataError: as `attribute`; at once, not at the first token.
        OptionError: as `attribute`.
    """
    (reading,) = _readings(model, tokenizer, context, question, spans, k, style, max_new_tokens, False)
    with attention_rows(model, [head]):  # what cannot work is told here
        pass
    return _streamed(model, tokenizer, reading, head, max_new_tokens)


@torch.inference_mode()
def attribute_response(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    context: str,
    question: str,
    response: str,
    *,
    head: Head,
    spans: Cut = "sentence",
    k: int = 3,
    style: Style = "plain",
) -> Attribution:
    """Attribute a response that is given, such as another method's or a reference, in one forward pass.

    The response is teacher-forced: each of its tokens has the row of the token before it, as in generation.

    Raises:
        DataError: the context or the response is empty.
        OptionError: as `attribute`.
    """
    if not response.strip():
        raise DataError("the response is empty: there is nothing to attribute")
    (reading,) = _readings(model, tokenizer, context, question, spans, k, style, 1, False)
    text = render_answered(tokenizer, context, question, response.strip(), style)
    _, place = render_located(tokenizer, context, question, style)
    whole = tokens_of(tokenizer, text, place, special=style == "plain")
    pairs = zip(whole.ids, reading.prompt.ids, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(whole.ids), len(reading.prompt.ids)))
    answer = whole.ids[shared:]
    check_length(model, whole, 0)
    with attention_rows(model, [head], queries=len(answer), keys=slice(whole.first, whole.stop)) as recorder:
        ids = torch.tensor([whole.ids[:-1]], device=_device(model))
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=1)
    reading = replace(reading, answer=AnswerText(tokenizer, (), len(answer), one_line=False))
    for token, row in zip(answer, recorder.rows[0][0, 0].cpu(), strict=True):
        reading.add(token, row)
    return reading.attribution()


@dataclass(frozen=True)
class _Reading:
    """A prompt being answered: its tokens, its spans, and the answer's tokens so far.

    Attributes:
        prompt: the prompt's tokens, their characters counted in the whole context.
        index: which of the context's tokens lie in which span.
        k: spans wanted.
        answer: the text so far.
        tokens: the tokens so far.
    """

    prompt: PromptTokens
    index: SpanIndex
    k: int
    answer: AnswerText
    tokens: list[TokenAttribution]

    def add(self, token: int, weights: Tensor) -> TokenAttribution | None:
        """Take in a token and the head's row over the context's tokens; None where it is no part of the answer."""
        text = self.answer.add(token)
        if text is None:
            return None
        spans = self.index.spans
        self.tokens.append(
            TokenAttribution(text, rank_spans(spans, self.index.scores(weights[None])[0].tolist(), self.k))
        )
        return self.tokens[-1]

    def attribution(self) -> Attribution:
        every = [scored for token in self.tokens for scored in token.spans]
        ranked = rank_spans([s.span for s in every], [s.score for s in every], self.k)
        return Attribution("".join(token.text for token in self.tokens).strip(), tuple(self.tokens), ranked)


def _readings(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    context: str,
    question: str,
    spans: Cut,
    k: int,
    style: Style,
    max_new_tokens: int,
    window: bool,
) -> list[_Reading]:
    """The prompts in which a context is read: one, or several where it is too long and `window` is set."""
    if not context.strip():
        raise DataError("the context is empty: give a text from which the question can be answered")
    if max_new_tokens < 1:
        raise OptionError(f"an answer of {max_new_tokens} tokens: ask for 1 or more")
    if k < 1:
        raise OptionError(f"the best {k} spans asked for: ask for 1 or more")
    places = cut(context, spans)

    def reading(start: int, stop: int) -> _Reading:
        prompt, place = render_located(tokenizer, context[start:stop], question, style)
        tokens = tokens_of(tokenizer, prompt, place, special=style == "plain")
        tokens = replace(tokens, offsets=[(a + start, b + start) for a, b in tokens.offsets])
        text = AnswerText(tokenizer, _ends(model), max_new_tokens, one_line=style == "plain")
        return _Reading(tokens, SpanIndex.of(tokens.offsets, places), k, text, [])

    whole = reading(0, len(context))
    if not window:
        check_length(model, whole.prompt, max_new_tokens)
        return [whole]
    return [reading(*piece) for piece in pieces(model, whole.prompt, max_new_tokens)] or [whole]


def _ends(model: "PreTrainedModel") -> frozenset[int]:
    """Tokens at which the model's `generate` stops."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _device(model: "PreTrainedModel") -> torch.device:
    return model.device if model.device.type != "meta" else torch.device("cpu")


def _generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    readings: Sequence[_Reading],
    head: Head,
    max_new_tokens: int,
    on_token: Callable[[TokenAttribution], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Generate the answers of one batch into the readings."""
    from transformers import StoppingCriteriaList

    pad = pad_token(tokenizer)
    ids, mask = pad_left([reading.prompt.ids for reading in readings], pad)
    width = ids.shape[1]
    places = [(width - len(r.prompt.ids) + r.prompt.first, width - len(r.prompt.ids) + r.prompt.stop) for r in readings]
    first = min(place[0] for place in places)
    keys = slice(first, max(place[1] for place in places))

    def step(sequences: Tensor, recorder: AttentionRows) -> Tensor:
        row = recorder.rows[-1].cpu()
        recorder.rows.clear()
        for i, (reading, token) in enumerate(zip(readings, sequences[:, -1].tolist(), strict=True)):
            if not reading.answer.done:
                got = reading.add(token, row[i, 0, places[i][0] - first : places[i][1] - first])
                if got is not None and on_token is not None:
                    on_token(got)
        return torch.tensor([r.answer.done or stop() for r in readings], device=sequences.device)

    with torch.inference_mode(), attention_rows(model, [head], keys=keys) as recorder:
        # What stops the generation sees every token as it comes, right after the pass that made its row.
        watch: Any = StoppingCriteriaList([lambda sequences, _, **__: step(sequences, recorder)])
        model.generate(
            input_ids=ids.to(_device(model)),
            attention_mask=mask.to(_device(model)),
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            stopping_criteria=watch,
            disable_compile=True,
            **GREEDY,
        )


def _streamed(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    reading: _Reading,
    head: Head,
    max_new_tokens: int,
) -> Iterator[tuple[str, tuple[ScoredSpan, ...]]]:
    arrivals: Queue[TokenAttribution | BaseException | None] = Queue()
    left = Event()

    def work() -> None:
        try:
            _generate(model, tokenizer, [reading], head, max_new_tokens, arrivals.put, left.is_set)
        except BaseException as error:
            arrivals.put(error)
        else:
            arrivals.put(None)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while (got := arrivals.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            yield got.text, got.spans
    finally:
        left.set()
        thread.join()
