"""Noun chunks of prompts: what disentangled BLIP-VQA asks about, one chunk a question."""

import re
from collections.abc import Callable
from typing import TypeAlias

from pellucid.core.errors import ModelError

Chunker: TypeAlias = Callable[[str], list[str]]
"""From a prompt to its noun chunks, in their order, as they stand in it."""

_DETERMINERS_TEXT = """
    a an the this that these those its his her their my your our some many several each every both all another
    one two three four five six seven eight nine ten
"""
_DETERMINERS = frozenset(_DETERMINERS_TEXT.split())
_COLOURS = """red orange yellow green blue purple violet pink black white grey gray brown gold golden silver beige tan
    cyan magenta turquoise teal maroon navy cream ivory light dark bright pale"""
_TEXTURES = """wooden metallic metal plastic rubber leather glass fabric fluffy furry woolen ceramic stone shiny matte
    rough smooth soft striped dotted checked plain"""
_SHAPES = """round square circular triangular rectangular oval oblong cubic cylindrical conical spherical pyramidal
    pentagonal hexagonal teardrop crescent diamond big small tall short long large little tiny huge narrow wide"""
_BARE_TEXT = "red yellow green blue purple pink black white grey gray brown beige tan"
_BARE = frozenset(_BARE_TEXT.split())
_ADJECTIVES = frozenset(f"{_COLOURS} {_TEXTURES} {_SHAPES}".split())
# Closed classes, which no noun chunk holds, and forms that are hardly ever nouns of the verbs of such captions.
_BREAKS_TEXT = """
    in on at by to from into onto over under of with without near above below between behind beside inside outside
    around across through along against for as while where when which who that's than up down off out during beneath
    is are was were be been being has have had do does did can could will would may might must should not
    and or but nor if then so because although there here it they he she we i you them him us next
    sits sat sitting stood standing lies lay lying hangs hung hanging rested resting holds held holding
    wears wore wearing rode riding walked walking ran running plays played playing eats ate eating
    looks looked looking featured keeps kept displayed provides provided mixes mixed parked filled
    surrounded covered placed mounted attached arranged made topped shining reads boils boiled bakes baked
    cooks cooked stirs stirred serves served illuminates illuminated decorates decorated releases released
    attracts attracted writes wrote measured naps napped perches perched pounds pounded supported
    contains contained shines shone stacked neatly nearby
"""
_BREAKS = frozenset(_BREAKS_TEXT.split())
# The same verbs in forms that are nouns as well: what stands around them decides.
_PERHAPS_VERBS_TEXT = """
    sit stand lie hang rest hold wear ride walk run play eat look feature keep display provide mix hit flash read
    slice boil bake cook stir serve cut illuminate decorate release attract write measure shape nap perch pound beat
    support contain features displays stands rests cuts measures supports flashes runs walks rides
"""
_PERHAPS_VERBS = frozenset(_PERHAPS_VERBS_TEXT.split())
_TOKEN = re.compile(r"[\w'-]+|[^\w\s]")


def noun_chunks(prompt: str) -> list[str]:
    """Noun chunks by a few rules, made for the templates of T2I-CompBench and captions like them.

    A chunk is a run of words, with its determiner, between verbs, prepositions, conjunctions and stops. "and" joins
    adjectives to the same noun ("a black and white cat"), and otherwise begins a new chunk ("a red book and a vase").
    A chunk begins anew at each article. For free sentences a parser is better: `spacy_chunks`.

    Returns:
        The chunks as they stand in the prompt, blanks made single.
    """
    tokens = _TOKEN.findall(prompt)
    chunks: list[list[str]] = [[]]
    for place, token in enumerate(tokens):
        word = token.lower()
        if word == "and" and _joins_adjectives(chunks[-1], tokens[place + 1 :]):
            chunks[-1].append(token)
        elif word in _BREAKS or not re.match(r"\w", word) or _is_verb(tokens, place):
            if word == "," and _joins_adjectives(chunks[-1], tokens[place + 1 :]):
                chunks[-1].append(token)
            else:
                chunks.append([])
        else:
            if word in _DETERMINERS and any(other.lower() not in _DETERMINERS for other in chunks[-1]):
                chunks.append([])
            chunks[-1].append(token)
    return [" ".join(chunk).replace(" ,", ",") for chunk in chunks if _is_chunk(chunk)]


def spacy_chunks(model: str = "en_core_web_sm") -> Chunker:
    """The chunker of T2I-CompBench: spaCy's `noun_chunks`.

    Args:
        model: a spaCy pipeline that is installed; it is not fetched.

    Raises:
        ModelError: spaCy or the pipeline is not installed.
    """
    try:
        import spacy  # type: ignore[import-not-found,unused-ignore]

        parse = spacy.load(model)
    except (ImportError, OSError) as error:
        raise ModelError(
            f"spaCy's {model!r} is not installed ({type(error).__name__}): install spacy and its pipeline {model}, or "
            "use the rules of `noun_chunks`"
        ) from error
    return lambda prompt: [chunk.text for chunk in parse(prompt).noun_chunks]


def _joins_adjectives(before: list[str], after: list[str]) -> bool:
    """Whether a conjunction stands between adjectives of one noun: only adjectives before it, and one after it."""
    words = [word.lower() for word in before if word.lower() not in _DETERMINERS and re.match(r"\w", word)]
    if not words or not after or after[0].lower() not in _ADJECTIVES:
        return False
    if len(words) > 1 and words[-1] == "orange" and words[-2] != "and":  # the fruit
        return False
    plain = all(word in _ADJECTIVES or word == "and" for word in words)
    return plain and len(after) > 1 and bool(re.match(r"\w", after[1])) and after[1].lower() not in _BREAKS


def _is_verb(tokens: list[str], place: int) -> bool:
    """Whether a word that may be a noun is a verb: after a noun, and before an object or an adverbial."""
    if tokens[place].lower() not in _PERHAPS_VERBS or not place:
        return False
    before = tokens[place - 1].lower()
    after = tokens[place + 1].lower() if place + 1 < len(tokens) else "."
    if before in _DETERMINERS | _ADJECTIVES | _BREAKS:
        return False
    return after in _DETERMINERS | _ADJECTIVES or (after in _BREAKS and after not in ("and", "of", "or"))


def _is_chunk(words: list[str]) -> bool:
    """Whether there is a noun among the words: a colour alone ("flash yellow") is none."""
    nouns = [word.lower() for word in words if re.match(r"\w", word) and word.lower() not in _DETERMINERS | {"and"}]
    return bool(nouns) and not (len(words) == 1 and nouns[0] in _BARE)
