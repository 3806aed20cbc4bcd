"""Spans of a context: its sentences or windows of words, the tokens that lie in each, and how high each scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pellucid.core.errors import OptionError
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Cut = Literal["sentence"] | int


@dataclass(frozen=True, order=True)
class Span:
    """A piece of a text: its characters from `start` up to, not with, `stop`."""

    start: int
    stop: int

    def of(self, text: str) -> str:
        """The piece itself."""
        return text[self.start : self.stop]


@dataclass(frozen=True)
class ScoredSpan:
    """A span and what it scores: for an attention head the largest weight of a token within it, in [0, 1]."""

    span: Span
    score: float


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as token ids, and where in the context its tokens lie.

    Attributes:
        ids: token ids of the whole prompt.
        first: index of the first token that touches the context; the others follow without a gap.
        offsets: for each of those tokens its characters in the context, `(start, stop)`, without blanks around
            them; empty (`start == stop`) for a token of blanks only.
    """

    ids: list[int]
    first: int
    offsets: list[tuple[int, int]]

    @property
    def stop(self) -> int:
        """Index after the last token that touches the context."""
        return self.first + len(self.offsets)


_ABBREVIATIONS = (
    "mr mrs ms dr prof rev hon gen col sgt capt lt maj st mt ft fig figs eq eqs sec ch vol nos pp ed eds trans "
    "vs cf e.g i.e viz approx ca resp gov sen rep pres"
)
_PERHAPS_LAST = (
    "no inc ltd co corp jr sr etc al dept est bros assn univ ave blvd rd jan feb mar apr jun jul aug sep sept oct nov "
    "dec a.m p.m ph.d b.c a.d"
)
_BEGINNINGS = (
    "the a an it its he she his her they their we our you your i this that these those there here in on at by for "
    "from with after before during since when while where who what which why how as although though however but and "
    "or if because also many most some both each all no not then thus so such today later"
)
# A sentence does not end after the first, nor after the second unless one of the third follows.
_NEVER_LAST = frozenset(_ABBREVIATIONS.split())
_SELDOM_LAST = frozenset(_PERHAPS_LAST.split())
_STARTERS = frozenset(_BEGINNINGS.split())
_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*")
_BREAK = re.compile(r"[ \t\r\f\v]*\n[ \t\r\f\v]*(?:\n\s*|(?=[-*•–]\s))")
_OPENING = "\"'“‘«([¿¡"
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")


def sentences(text: str) -> list[Span]:
    """Cut a text into sentences, in order.

    Every character that is not blank lies in exactly one of them; blanks between sentences lie in none. A sentence
    ends at a full stop, question or exclamation mark (with closing quotes and brackets) before a blank and something
    that does not begin with a small letter, at a blank line, and before a line that begins with a list's dash. Titles,
    abbreviations, initials, decimals and the number of a list's item end none.
    """
    stops = {found.end() for found in _BREAK.finditer(text)} | {len(text)}
    spans, start = [], 0
    for stop in sorted(stops | {found.end() for found in _END.finditer(text)}):
        if stop in stops or _ends(text, start, stop):
            spans += _trimmed(text, start, stop)
            start = stop
    return spans


def windows(text: str, words: int) -> list[Span]:
    """Cut a text into pieces of so many words, the last one perhaps shorter; a word ends at a blank.

    Raises:
        OptionError: `words` is less than 1.
    """
    if words < 1:
        raise OptionError(f"windows of {words} words: take 1 word or more")
    places = [found.span() for found in re.finditer(r"\S+", text)]
    groups = [places[i : i + words] for i in range(0, len(places), words)]
    return [Span(group[0][0], group[-1][1]) for group in groups]


def cut(text: str, how: Cut = "sentence") -> list[Span]:
    """The sentences of a text, or its windows of `how` words.

    Raises:
        OptionError: `how` is neither "sentence" nor a number of words.
    """
    if how == "sentence":
        return sentences(text)
    if isinstance(how, bool) or not isinstance(how, int):
        raise OptionError(f"no spans {how!r}: choose 'sentence', or a number of words")
    return windows(text, how)


def tokens_of(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, place: tuple[int, int], *, special: bool = True
) -> PromptTokens:
    """Tokenise a prompt and tell where in the context its tokens lie.

    Args:
        tokenizer: a fast one, since only those tell which characters a token stands for.
        prompt: the whole text.
        place: the characters of the context within it, `(start, stop)`.
        special: whether the tokenizer adds its special tokens; a chat template has written them already. What it
            adds at the end is left out, because the prompt goes on.

    Raises:
        OptionError: the tokenizer is a slow one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise OptionError(
            f"{type(tokenizer).__name__} does not tell which characters a token stands for: "
            "load the model's fast tokenizer (one with a tokenizer.json)"
        )
    encoded = tokenizer(prompt, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    ids, places = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    while ids and special and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
        places.pop()
    touching = [i for i, (start, stop) in enumerate(places) if start < place[1] and stop > place[0]]
    if not touching:
        return PromptTokens(ids, 0, [])
    context = prompt[place[0] : place[1]]
    offsets = []
    for start, stop in places[touching[0] : touching[-1] + 1]:
        kept = _trimmed(context, max(start - place[0], 0), max(min(stop, place[1]) - place[0], 0))
        offsets.append((kept[0].start, kept[0].stop) if kept else (0, 0))
    return PromptTokens(ids, touching[0], offsets)


@dataclass(frozen=True)
class SpanIndex:
    """Which tokens lie in which spans, so that many rows of weights can be scored quickly.

    Attributes:
        spans: in order and without overlaps.
        token: index of a token, `(pairs,)`; `span`: index of a span that it lies in, `(pairs,)`.
    """

    spans: tuple[Span, ...]
    token: Tensor
    span: Tensor

    @classmethod
    def of(cls, offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> "SpanIndex":
        """Place tokens in spans by their characters, as in `PromptTokens.offsets`.

        A token of blanks only lies in no span; one that reaches into several lies in each.
        """
        pairs, at = [], 0
        for token, (start, stop) in enumerate(offsets):
            if start == stop:
                continue
            while at < len(spans) and spans[at].stop <= start:
                at += 1
            other = at
            while other < len(spans) and spans[other].start < stop:
                pairs.append((token, other))
                other += 1
        table = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
        return cls(tuple(spans), table[:, 0], table[:, 1])

    def scores(self, weights: Tensor) -> Tensor:
        """The largest weight within each span (the value that GetMaxSpan of algorithm 4 compares).

        Args:
            weights: `(rows, tokens)`, not negative, such as one head's attention over the context, a row a token of
                the answer.

        Returns:
            `(rows, spans)`, 0 where no token lies in a span.
        """
        chosen = weights[:, self.token.to(weights.device)]
        scores = weights.new_zeros(len(weights), len(self.spans))
        return scores.scatter_reduce(1, self.span.to(weights.device).expand_as(chosen), chosen, "amax")


def span_scores(weights: Tensor, offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> Tensor:
    """Score spans once: `SpanIndex.of(offsets, spans).scores(weights)`, `(rows, tokens)` -> `(rows, spans)`."""
    return SpanIndex.of(offsets, spans).scores(weights)


def rank_spans(spans: Sequence[Span], scores: Sequence[float], k: int) -> tuple[ScoredSpan, ...]:
    """The `k` spans that score highest, best first; of equal ones the earlier in the text. A span comes once.

    Raises:
        OptionError: `k` is less than 1.
    """
    if k < 1:
        raise OptionError(f"the best {k} spans asked for: ask for 1 or more")
    best: dict[Span, float] = {}
    for span, score in zip(spans, scores, strict=True):
        best[span] = max(score, best.get(span, score))
    order = sorted(best, key=lambda span: (-best[span], span))
    return tuple(ScoredSpan(span, best[span]) for span in order[:k])


def max_span(weights: Tensor, offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> ScoredSpan:
    """GetMaxSpan of algorithm 4: the span that holds the largest weight, with that weight.

    Args:
        weights: `(tokens,)`, one row of a head's attention over the context.
        offsets: of each token its characters in the context, as in `PromptTokens`.
        spans: in order and without overlaps, one or more.
    """
    return rank_spans(spans, span_scores(weights[None], offsets, spans)[0].tolist(), 1)[0]


def _trimmed(text: str, start: int, stop: int) -> list[Span]:
    """The piece without blanks around it, or nothing where it is all blank."""
    piece = text[start:stop]
    kept = piece.strip()
    first = start + len(piece) - len(piece.lstrip())
    return [Span(first, first + len(kept))] if kept else []


def _ends(text: str, start: int, stop: int) -> bool:
    """Whether a sentence that began at `start` ends at `stop`, where a mark stands."""
    follows = text[stop : stop + 200].lstrip().lstrip(_OPENING)
    if follows[:1].islower():
        return False
    marked = re.search(r"(\S*?)([.!?…。！？]+)\S*$", text[start:stop])
    assert marked is not None
    word, mark = marked.group(1).lstrip(_OPENING), marked.group(2)
    if mark != ".":
        return True
    if text[start : start + marked.start(2)].strip().rstrip(")").isdigit():
        return False  # the number of a list's item
    name = word.casefold()
    if name in _NEVER_LAST:
        return False
    if name in _SELDOM_LAST or _INITIALS.fullmatch(word):
        return (re.match(r"\w+", follows) or [""])[0].casefold() in _STARTERS
    return True
