"""ARO's order tasks: a caption among rearrangements of its own words (COCO-Order, Flickr30k-Order)."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pellucid.core.errors import DataError, ModelError

from .benchmarks import MatchingCase, Shown
from .captioned import read_json, text_of

Tagger = Callable[[Sequence[str]], Sequence[str]]
"""Gives each word its part of speech: tags that begin with NN are nouns, with JJ adjectives."""
_TRIES = 20


def read_order(
    path: str | Path, images: str | Path, *, tagger: Tagger | None = None, seed: int = 0
) -> list[MatchingCase]:
    """Make order tasks from captions as ARO takes them: a list of `{"image": ..., "caption": [...]}`.

    The files are `coco_karpathy_test.json` and `flickr30k_test.json`. Each caption is one task: itself, its words
    shuffled within groups of three, and the groups shuffled; with a tagger also with its nouns and its adjectives
    exchanged, and with all other words shuffled, which makes ARO's five. A rearrangement that changes nothing is left
    out, and a task without any too. The rearrangements are drawn anew: ARO's own are not published.

    Args:
        path: of the file.
        images: the folder that pictures' names start from.
        tagger: such as `spacy_tagger()`; None leaves out what needs parts of speech.
        seed: of the rearrangements.

    Raises:
        DataError: the file is malformed, or a picture is not there.
    """
    file, found = Path(path), []
    rows = read_json(file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file} is no list of records: give a file with `image` and `caption` in each")
    for number, row in enumerate(rows, 1):
        where = f"{file}, record {number}"
        picture = Path(images) / text_of(row, ("image",), where)
        if not picture.is_file():
            raise DataError(f"{where}: there is no picture {picture}: put it there")
        captions = row.get("caption")
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise DataError(f"{where}: the field 'caption' is {captions!r}: a text or a list of texts is wanted")
        for turn, caption in enumerate(captions):
            options = rearranged(caption, np.random.default_rng([seed, number, turn]), tagger)
            if len(options) > 1:
                found.append(MatchingCase(f"{number}-{turn}", (Shown(str(picture)),), tuple(options), ("order",)))
    if not found:
        raise DataError(f"{file} has no caption that can be rearranged: give a file with captions")
    return found


def rearranged(caption: str, chance: np.random.Generator, tagger: Tagger | None = None) -> list[str]:
    """A caption in small letters and without punctuation, and then what its words can be shuffled to."""
    words = re.sub(r"[^\w\s'-]", " ", caption.lower()).split()
    groups = [words[start : start + 3] for start in range(0, len(words), 3)]

    def within() -> list[str]:
        return [word for group in groups for word in chance.permutation(group)]

    def among() -> list[str]:
        return [word for place in chance.permutation(len(groups)) for word in groups[place]]

    makers = [within, among]
    if tagger is not None:
        tags = tagger(words)
        if len(tags) != len(words):
            raise DataError(f"the tagger gives {len(tags)} tags for the {len(words)} words of {caption!r}: one a word")
        nouns = [place for place, tag in enumerate(tags) if tag.startswith("NN")]
        adjectives = [place for place, tag in enumerate(tags) if tag.startswith("JJ")]
        others = [place for place in range(len(words)) if place not in nouns and place not in adjectives]
        makers = [
            lambda: _shuffled(_shuffled(words, nouns, chance), adjectives, chance),
            lambda: _shuffled(words, others, chance),
            *makers,
        ]
    options = [" ".join(words)]
    for make in makers:
        tries = (" ".join(make()) for _ in range(_TRIES))
        if (other := next((text for text in tries if text not in options), None)) is not None:
            options.append(other)
    return options


def spacy_tagger(model: str = "en_core_web_sm") -> Tagger:
    """Tag words with spaCy, as ARO does.

    Raises:
        ModelError: spaCy or its model is not installed.
    """
    try:
        import spacy

        pipeline = spacy.load(model)
    except (ImportError, OSError) as error:
        raise ModelError(
            f"tagging words needs spaCy and {model}: pip install spacy {model}, or give no tagger"
        ) from error

    def tag(words: Sequence[str]) -> list[str]:
        from spacy.tokens import Doc

        return [token.tag_ for token in pipeline(Doc(pipeline.vocab, words=list(words)))]

    return tag


def _shuffled(words: list[str], places: list[int], chance: np.random.Generator) -> list[str]:
    """The words with those at some places exchanged among themselves."""
    moved = list(words)
    for place, source in zip(places, chance.permutation(places).tolist(), strict=True):
        moved[place] = words[source]
    return moved
