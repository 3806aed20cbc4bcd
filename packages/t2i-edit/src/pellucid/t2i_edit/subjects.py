"""Where the words of a subject stand among a prompt's tokens: read from the tokenizer's offsets, never counted."""

import re
from typing import TYPE_CHECKING, Any

from pellucid.core.errors import DataError, ModelError, OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def occurrences(phrase: str, text: str) -> list[tuple[int, int]]:
    """Where a phrase stands in a text as whole words, in any case of letters and with any space between its words.

    Returns:
        (start, end) in characters of each place, from the left; empty where it does not stand, as "dog" in "dogs".
    """
    words = phrase.split()
    if not words:
        return []
    # Not \b: a phrase may begin or end with a sign, as "r2-d2!" does.
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)"
    return [found.span() for found in re.finditer(pattern, text, re.IGNORECASE)]


def subject_positions(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, subject: str, *, length: int | None = None
) -> list[int]:
    """Return the positions of all tokens that carry a subject, in the sequence that the text encoder reads.

    Special tokens in front count: CLIP's first word stands at 1, T5's at 0. Where the subject stands several times,
    the tokens of all places are returned. A token that the subject shares with its surroundings belongs to it.
    The prompt must be what the tokenizer is given: some pipelines of T5 make it lower-case first.

    Args:
        tokenizer: of CLIP, T5 or another text encoder, fast or slow; padding must be on the right.
        prompt: the text.
        subject: words of the prompt; case does not matter.
        length: how many tokens the text encoder reads; by default the tokenizer's `model_max_length` (77 for CLIP).
            Pipelines with T5 set their own: 77 in DeepFloyd IF, 256 in SD3, 512 in Flux.

    Returns:
        Ascending positions, at least one.

    Raises:
        DataError: the subject does not stand in the prompt, has no token, or is cut off by the length.
        OptionError: the length leaves no room for any word.
        ModelError: the tokenizer gives no offsets, and splits the prompt's beginning in another way than the whole.
    """
    spans = occurrences(subject, prompt)
    if not spans:
        raise DataError(f"the subject {subject!r} does not stand in the prompt {prompt!r}: give words of the prompt")
    if getattr(tokenizer, "is_fast", False):
        positions, total, closing = _from_offsets(tokenizer, prompt, spans)
    else:
        positions, total, closing = _from_prefixes(tokenizer, prompt, spans)
    if not positions:
        raise DataError(f"the tokenizer makes no token of {subject!r} in {prompt!r}: name other words")
    limit = int(tokenizer.model_max_length) if length is None else length
    if limit <= closing:
        raise OptionError(f"a length of {limit} leaves no room for any word: give more than {closing}")
    # A prompt that is too long is cut such that the closing tokens still fit.
    kept = total if total <= limit else limit - closing
    if positions[-1] >= kept:
        raise DataError(
            f"the subject {subject!r} reaches token {positions[-1]} of {prompt!r}, but only the first {kept} of its "
            f"{total} are read (length {limit}): shorten the prompt, or put the subject further to the front"
        )
    return positions


def last_subject_position(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, subject: str, *, length: int | None = None
) -> int:
    """Return the position of the subject's last token, which edits and text-encoder tracing use (thesis 5.3, 5.9.1).

    Arguments and errors are those of `subject_positions`; of several places the last one counts.
    """
    return subject_positions(tokenizer, prompt, subject, length=length)[-1]


def _from_offsets(tokenizer: Any, prompt: str, spans: list[tuple[int, int]]) -> tuple[list[int], int, int]:
    """Positions, number of tokens, and number of special tokens at the end."""
    found = tokenizer(prompt, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    special, offsets = found["special_tokens_mask"], found["offset_mapping"]
    positions = [
        place
        for place, (start, end) in enumerate(offsets)
        if not special[place] and any(start < last and end > first for first, last in spans)
    ]
    closing = next((count for count, mark in enumerate(reversed(special)) if not mark), len(special))
    return positions, len(special), closing


def _from_prefixes(tokenizer: Any, prompt: str, spans: list[tuple[int, int]]) -> tuple[list[int], int, int]:
    """The same for a slow tokenizer: how many tokens the prompt has up to the subject, and through it."""
    whole = tokenizer.encode(prompt, add_special_tokens=True, verbose=False)
    plain = tokenizer.encode(prompt, add_special_tokens=False, verbose=False)
    shift = next((k for k in range(len(whole) - len(plain) + 1) if whole[k : k + len(plain)] == plain), None)
    if shift is None:
        raise ModelError(f"{type(tokenizer).__name__} does not only add special tokens at both ends: use a fast one")

    def count(end: int) -> int:
        beginning = prompt[:end].rstrip()
        part = tokenizer.encode(beginning, add_special_tokens=False, verbose=False)
        if part != plain[: len(part)]:
            raise ModelError(
                f"{type(tokenizer).__name__} splits {beginning!r} in another way within {prompt!r}: "
                "use its fast kind, which gives offsets"
            )
        return len(part)

    places = {place for start, end in spans for place in range(count(start), count(end))}
    return sorted(shift + place for place in places), len(whole), len(whole) - shift - len(plain)
