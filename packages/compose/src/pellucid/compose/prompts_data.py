"""Prompts to compose pictures from: T2I-CompBench's and MS-COCO's, and the template "a_1 o_1 and a_2 o_2" in them."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError, OptionError

from .captioned import read_json, read_table, text_of

CATEGORIES = ("color", "texture", "shape", "spatial", "3d_spatial", "non_spatial", "numeracy", "complex")
SPLITS = ("train", "val", "val_seen", "val_unseen", "all")

# Words that no "attribute object" phrase holds: a text with one of them is a sentence, not the template.
_SENTENCE_TEXT = """
    a an the this that these those its his her their my your our and or but with without in on at by to from into
    onto over under near next above below between behind beside for as while which who where is are was were be been
    has have had sits sit sitting stands stand standing hangs hang holds hold made left right
"""
_SENTENCE = frozenset(_SENTENCE_TEXT.split())
_ARTICLE = re.compile(r"(?:a|an|the)\s+", re.IGNORECASE)
_PHRASE = re.compile(r"(?P<attribute>[\w'-]+)\s+(?P<object>[\w'-]+(?:\s+[\w'-]+){0,3})")

Span = tuple[int, int]


@dataclass(frozen=True)
class BenchmarkPrompt:
    """A prompt of T2I-CompBench.

    Attributes:
        text: the prompt.
        category: one of `CATEGORIES`.
        split: one of `SPLITS`.
    """

    text: str
    category: str
    split: str


@dataclass(frozen=True)
class TwoObjects:
    """A prompt of the form "a_1 o_1 and a_2 o_2" (section 9.2.3), as places in its text.

    Attributes:
        prompt: the text.
        attributes: characters `(first, stop)` of a_1 and of a_2.
        objects: likewise of o_1 and of o_2; an object may have several words.
    """

    prompt: str
    attributes: tuple[Span, Span]
    objects: tuple[Span, Span]

    @property
    def attribute_words(self) -> tuple[str, str]:
        """a_1 and a_2."""
        first, second = (self.prompt[slice(*span)] for span in self.attributes)
        return first, second

    @property
    def object_words(self) -> tuple[str, str]:
        """o_1 and o_2."""
        first, second = (self.prompt[slice(*span)] for span in self.objects)
        return first, second


def parse_two_objects(prompt: str) -> TwoObjects | None:
    """Read a prompt as "a_1 o_1 and a_2 o_2", each with an article or without; None where it is of another form.

    An attribute is one word, an object one to four. Anything with a verb, a preposition or a second "and" is of
    another form ("of" may stand in an object: "a square piece of toast").
    """
    parts = re.split(r"\s+and\s+", prompt, flags=re.IGNORECASE)
    if len(parts) != 2:
        return None
    second = prompt.rstrip().rstrip(".")
    starts = (0, len(prompt) - len(parts[1]))
    stops = (len(parts[0]), len(second))
    found = []
    for start, stop in zip(starts, stops, strict=True):
        article = _ARTICLE.match(prompt, start, stop)
        place = start if article is None else article.end()
        phrase = _PHRASE.fullmatch(prompt, place + _blanks(prompt[place:stop]), stop)
        if phrase is None or _SENTENCE & set(phrase.group().lower().split()):
            return None
        found.append(phrase)
    one, two = found
    return TwoObjects(
        prompt,
        (one.span("attribute"), two.span("attribute")),
        (one.span("object"), two.span("object")),
    )


def read_t2i_compbench(path: str | Path, category: str, split: str = "val") -> list[BenchmarkPrompt]:
    """Read prompts of T2I-CompBench in their order.

    Args:
        path: the benchmark's folder, its `examples/dataset` folder, or one of the files in it, which is read whole.
        category: one of `CATEGORIES`; the thesis uses color, texture and shape.
        split: "train", "val", "val_seen", "val_unseen", or "all" (train and val: 1,000 prompts a category).

    Raises:
        OptionError: an unknown category or split.
        DataError: the file is not there, or is empty.
    """
    if category not in CATEGORIES or split not in SPLITS:
        raise OptionError(
            f"category {category!r}, split {split!r}: give one of {', '.join(CATEGORIES)}, and of {', '.join(SPLITS)}"
        )
    place = Path(path)
    if split == "all" and not place.is_file():
        return [found for part in ("train", "val") for found in read_t2i_compbench(path, category, part)]
    if not place.is_file():
        inner = place / "examples" / "dataset"
        place = (inner if inner.is_dir() else place) / f"{category}_{split}.txt"
    return [BenchmarkPrompt(text, category, split) for text in _lines(place)]


def read_prompts(path: str | Path) -> list[str]:
    """Read prompts from a text file, one a line, or from a table with a column `prompt` (or `caption`, `text`).

    Raises:
        DataError: there is no such file, or it holds no prompts.
    """
    place = Path(path)
    if place.suffix not in (".jsonl", ".csv", ".parquet"):
        return list(_lines(place))
    found = [text_of(row, ("prompt", "caption", "text"), where) for where, row in read_table(place)]
    if not found:
        raise DataError(f"{path} holds no prompts: give one a row")
    return found


def read_coco_prompts(path: str | Path, count: int | None = None, seed: int = 0) -> list[str]:
    """Read MS-COCO's captions as prompts: one caption of each picture, the one with the least id.

    The pictures need not be there.

    Args:
        path: a captions file of COCO, such as `captions_val2014.json`.
        count: how many to draw, without repetition; all by default. The draw depends on the seed and on the ids alone.
        seed: of the draw.

    Raises:
        DataError: the file is no such file, or has fewer pictures than are asked for.
    """
    content = read_json(Path(path))
    try:
        entries = [(_id(entry["image_id"]), _id(entry["id"]), str(entry["caption"]).strip()) for entry in
                   content["annotations"]]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no captions file of COCO ({error!r}): it needs `annotations`") from error
    first = {image: caption for image, _, caption in sorted(entries, reverse=True) if caption}
    prompts = [first[image] for image in sorted(first)]
    if not prompts or (count is not None and not 0 < count <= len(prompts)):
        raise DataError(f"{path} has captions of {len(prompts)} pictures, and {count} are wanted: ask for 1 or more")
    return prompts if count is None else random.Random(seed).sample(prompts, count)


def templated(prompts: Sequence[str]) -> list[TwoObjects]:
    """Those of some prompts that have the form "a_1 o_1 and a_2 o_2", in their order."""
    return [found for prompt in prompts if (found := parse_two_objects(prompt)) is not None]


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    found = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if not found:
        raise DataError(f"{path} is empty: give one prompt a line")
    yield from found


def _blanks(text: str) -> int:
    return len(text) - len(text.lstrip())


def _id(value: Any) -> int:
    return int(value)
