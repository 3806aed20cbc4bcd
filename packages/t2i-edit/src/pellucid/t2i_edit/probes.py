"""The probe captions of the thesis (appendix 11.4.1): six visual attributes, and files of the same schema."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pellucid.core.errors import DataError, OptionError
from pellucid.core.jsonl import read_records, write_records

from .subjects import occurrences

COCO_OBJECTS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
OBJECTS = (
    "dog", "cat", "bicycle", "oven", "tv", "bowl", "banana", "bottle", "cup", "fork", "knife", "apple",
    "sandwich", "pizza", "bed", "tv", "laptop", "microwave", "book", "clock", "vase", "toothbrush", "donut", "handbag",
)  # fmt: skip
"""The thesis's 24 objects, among which "tv" stands twice."""

LOCATIONS = ("beach", "forest", "city", "kitchen", "mountain", "park", "room")
STYLES = ("monet", "pablo picasso", "salvador dali", "van gogh", "baroque", "leonardo da vinci", "michelangelo")
COLOURS = ("blue", "red", "yellow", "brown", "black", "pink", "green")
ANIMALS = (
    "bear", "cat", "deer", "dog", "giraffe", "goat", "horse", "lion", "monkey", "mouse", "ostrich", "sheep", "tiger",
    "wolf",
)  # fmt: skip
ACTIONS = ("eating", "running", "sitting", "sprinting")
VIEWPOINTS = ("front", "back", "top", "bottom")
COUNTS = ("2", "4", "6", "8")

_PLURALS = {"knife": "knives", "sandwich": "sandwiches", "toothbrush": "toothbrushes"}


@dataclass(frozen=True)
class Probe:
    """One caption to localise with.

    Attributes:
        caption: the prompt.
        subject: the words to corrupt, which stand in the caption (the italics of thesis table 11.2).
        attribute: what the subject tells, such as "style".

    Raises:
        DataError: the subject does not stand in the caption as whole words.
    """

    caption: str
    subject: str
    attribute: str

    def __post_init__(self) -> None:
        if not occurrences(self.subject, self.caption):
            raise DataError(
                f"the subject {self.subject!r} does not stand in the caption {self.caption!r}: give words of it"
            )


def nominal_probes(attribute: str) -> tuple[Probe, ...]:
    """The captions of an attribute, as many as thesis appendix 11.4.1 counts.

    objects 168, style 560, colour 560, action 56, viewpoint 96, count 96. Because "tv" stands twice among the objects,
    7, 4 and 4 captions of objects, viewpoint and count are there twice: `probes` leaves them out. Articles are put
    as in the examples of table 11.2, "an" before a vowel, where the templates have none or a wrong one.

    Args:
        attribute: one of `ATTRIBUTES`.

    Raises:
        OptionError: there is no such attribute.
    """
    if attribute not in _CAPTIONS:
        raise OptionError(f"no attribute {attribute!r} among the thesis's probes: choose from {', '.join(ATTRIBUTES)}")
    return tuple(Probe(caption, subject, attribute) for caption, subject in _CAPTIONS[attribute]())


def probes(attribute: str) -> tuple[Probe, ...]:
    """The unique captions of an attribute: 161, 560, 560, 56, 92 and 92 in the order of `ATTRIBUTES`.

    Arguments and errors are those of `nominal_probes`.
    """
    return tuple(dict.fromkeys(nominal_probes(attribute)))


def read_probes(path: str | Path) -> tuple[Probe, ...]:
    """Read probes from a JSON Lines file: one object a line with the fields of `Probe`; other fields are ignored.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line is no probe; the message names file and line.
    """
    found = []
    for where, record in read_records(path, ("caption", "subject", "attribute")):
        try:
            found.append(Probe(**record))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    return tuple(found)


def write_probes(path: str | Path, probes: Iterable[Probe]) -> None:
    """Write probes as JSON Lines, as `read_probes` reads them; the file appears whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    write_records(path, (asdict(probe) for probe in probes))


def with_article(noun: str) -> str:
    """The noun with "a" or, before a vowel, "an"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _objects() -> list[tuple[str, str]]:
    return [(f"A photo of {with_article(thing)} in a {place}.", thing) for thing in OBJECTS for place in LOCATIONS]


def _style() -> list[tuple[str, str]]:
    return [
        (_sentence(f"{with_article(thing)} in the style of {style}"), style)
        for thing in COCO_OBJECTS
        for style in STYLES
    ]


def _colour() -> list[tuple[str, str]]:
    return [(f"A {colour} {thing}", colour) for thing in COCO_OBJECTS for colour in COLOURS]


def _action() -> list[tuple[str, str]]:
    return [(_sentence(f"{with_article(animal)} {action}"), action) for animal in ANIMALS for action in ACTIONS]


def _viewpoint() -> list[tuple[str, str]]:
    return [(_sentence(f"{with_article(thing)} from the {side}"), side) for thing in OBJECTS for side in VIEWPOINTS]


def _count() -> list[tuple[str, str]]:
    return [
        (f"A photo of {count} {_PLURALS.get(thing, thing + 's')} in a room.", count)
        for thing in OBJECTS
        for count in COUNTS
    ]


_CAPTIONS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "objects": _objects,
    "style": _style,
    "colour": _colour,
    "action": _action,
    "viewpoint": _viewpoint,
    "count": _count,
}
ATTRIBUTES = tuple(_CAPTIONS)
