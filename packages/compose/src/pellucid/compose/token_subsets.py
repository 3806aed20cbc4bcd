"""Which tokens a projection is applied to: nouns, adjectives, the end of the sentence, or all (thesis 9.2.7)."""

import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from pellucid.core.errors import DataError, ModelError, OptionError
from torch import Tensor

from .embedding_parts import embedding_parts

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

TokenSubset = Literal["nouns", "nouns+adjectives", "nouns+adjectives+eos", "sentence", "all"]


def token_subset(
    pipe: "DiffusionPipeline",
    prompt: str,
    subset: TokenSubset,
    nouns: Sequence[str] = (),
    adjectives: Sequence[str] = (),
) -> Tensor:
    """Mark a subset of a prompt's tokens, as `attach` and `TextProjection.forward` take it.

    Args:
        pipe: the pipeline; its tokenizers tell where words stand.
        prompt: the text.
        subset: "nouns", "nouns+adjectives", "nouns+adjectives+eos" (with the token that ends the sentence), "sentence"
            (all but padding), or "all".
        nouns: words or phrases of the prompt that are nouns.
        adjectives: words or phrases of the prompt that are adjectives.

    Returns:
        (tokens,) bool, over all tokens that the denoiser reads (SD3: CLIP's, then T5's).

    Raises:
        OptionError: an unknown subset, or no nouns where the subset needs them.
        DataError: a word does not stand in the prompt.
        ModelError: a tokenizer tells no offsets.
    """
    if subset not in get_args(TokenSubset):
        raise OptionError(f"subset {subset!r} is not one of {', '.join(get_args(TokenSubset))}")
    words = [*nouns, *(adjectives if "adjectives" in subset else ())]
    if subset.startswith("nouns") and not nouns:
        raise OptionError(f"the subset {subset!r} of {prompt!r} needs the prompt's nouns: give them")
    segments = {part.tokens[0]: part.encoder for part in reversed(embedding_parts(pipe))}
    marks = [_marked(pipe, segments[start], prompt, subset, words) for start in sorted(segments)]
    return torch.cat(marks)


def _place(word: str, prompt: str) -> tuple[int, int]:
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, word.split())) + r"(?!\w)"
    found = re.search(pattern, prompt, re.IGNORECASE)
    if found is None or not word.strip():
        raise DataError(f"the word {word!r} does not stand in the prompt {prompt!r}: give words of the prompt")
    return found.span()


def _marked(pipe: Any, encoder: str, prompt: str, subset: str, words: Sequence[str]) -> Tensor:
    tokenizer = getattr(pipe, encoder.replace("text_encoder", "tokenizer"))
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"the tokenizer of the {encoder} tells no offsets: load the pipeline with its fast kind")
    if hasattr(pipe, "_text_preprocessing"):  # IF and PixArt read prompts in small letters
        prompt = pipe._text_preprocessing(prompt, clean_caption=False)[0]
    length = _length(pipe, encoder)
    found = tokenizer(
        prompt,
        max_length=length,
        truncation=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    special, offsets = found["special_tokens_mask"], found["offset_mapping"]
    marks = torch.zeros(length, dtype=torch.bool)
    if subset in ("sentence", "all"):
        marks[: length if subset == "all" else len(special)] = True
        return marks
    spans = [_place(word, prompt) for word in words]
    for place, (start, end) in enumerate(offsets):
        marks[place] = not special[place] and any(start < last and end > first for first, last in spans)
    if subset.endswith("+eos"):
        marks[len(special) - 1] = True  # CLIP's and T5's sequences both close with one token
    return marks


def _length(pipe: Any, encoder: str) -> int:
    """How many tokens of an encoder the denoiser reads: T5's are told by `encode_prompt`, and are 77 in IF."""
    asked = inspect.signature(pipe.encode_prompt).parameters.get("max_sequence_length")
    if type(getattr(pipe, encoder)).__name__ != "T5EncoderModel":
        return int(getattr(pipe, encoder.replace("text_encoder", "tokenizer")).model_max_length)
    return 77 if asked is None else int(asked.default)
