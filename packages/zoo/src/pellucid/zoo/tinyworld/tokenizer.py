"""CLIP's tokenizer over Tinyworld's words: each of them is one token, all else is spelt out in bytes."""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..world.captioning import caption_words, fact_words
from .words import Merges, merges_of

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

LENGTH = 44  # the longest caption has 41 words; two tokens stand around them
START, END = "<|startoftext|>", "<|endoftext|>"
_STOP = "</w>"


def build_tokenizer() -> "CLIPTokenizer":
    """The tokenizer, made from the world's words alone.

    As in OpenAI's CLIP the vocabulary is the 256 bytes, the same at the end of a word, the merges, the start, and the
    end as the highest id, which also pads. No text has an unknown token.
    """
    from transformers import CLIPTokenizer

    vocab, merges = vocabulary()
    return CLIPTokenizer(vocab=dict(vocab), merges=list(merges), model_max_length=LENGTH)


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer as `from_pretrained` reads it, with the `vocab.json` and `merges.txt` of the slow kind."""
    vocab, merges = vocabulary()
    build_tokenizer().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@cache
def vocabulary() -> tuple[dict[str, int], Merges]:
    """The tokens with their ids, and the merges in their order.

    The merges are byte-pair encoding's on the list of words, until each word is one token; pairs that are equally
    frequent are taken in alphabetical order, so that every machine finds the same.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    words = sorted({*caption_words(), *fact_words()})
    merges = merges_of((*word[:-1], word[-1] + _STOP) for word in words)
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + _STOP for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges
