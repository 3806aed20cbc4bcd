"""Scenes into words and back: one small grammar, written once and read in both directions.

A caption is lower-case words without stops. It says all that its scene fixes: what a scene leaves open (a colour, the
relation) or leaves at its default (a plain texture, the front) goes unsaid.
"""

import re
from itertools import product

from pellucid.core.errors import DataError

from .facts import ANSWERS, article_of
from .people import HOMES, OFFICES, PEOPLE, Role
from .scene import Scene, Thing
from .vocabulary import COLOURS, COUNTS, OBJECTS, PLACES, PLURALS, STYLES, TEXTURES, VIEWS

FRAMES = ("", "a picture of ", "a photo of ", "an image of ", "a drawing of ")
BLURRED_FRAMES = ("a blurred picture of ", "a blurred photo of ", "a blurred image of ")
VIEW_PHRASES = (" from the {}", " seen from the {}")
HIDDEN_PHRASES = (" behind a bar", " hidden by a bar")
RELATION_PHRASES = {
    "left of": (" left of ", " to the left of ", " on the left of "),
    "right of": (" right of ", " to the right of ", " on the right of "),
    "above": (" above ", " over "),
    "below": (" below ", " under "),
}
PLACE_PHRASES = {
    "beach": (" on the beach", " on a beach", " at the beach"),
    "forest": (" in the forest", " in a forest"),
    "snow": (" in the snow",),
    "city": (" in the city", " in a city"),
}
STYLE_PHRASES = (" in the style of {}", " painted by {}", " by {}")


def captions(scene: Scene) -> tuple[str, ...]:
    """Every way of saying a scene; the first is the plainest.

    A scene with a person is said by the person's name, or by the role where the scene names one.

    Returns:
        Lower-case captions, all different; `parse` reads each of them back.
    """
    frames = BLURRED_FRAMES if scene.blur else FRAMES
    places = PLACE_PHRASES[scene.place] if scene.place else ("",)
    styles = tuple(phrase.format(scene.style) for phrase in STYLE_PHRASES) if scene.style else ("",)
    said = [frame + subject + place + style
            for subject, place, style, frame in product(_subjects(scene), places, styles, frames)]  # fmt: skip
    return tuple(dict.fromkeys(said))


def caption(scene: Scene) -> str:
    """The plainest way of saying a scene."""
    return captions(scene)[0]


def parse(text: str, seed: int = 0) -> Scene:
    """Read a caption as a scene.

    Args:
        text: in the words of `captions`; capitals and a full stop at the end do not matter.
        seed: of the scene.

    Raises:
        DataError: a word is not Tinyworld's, or the words do not make a caption of its grammar.
        OptionError: they do, but the scene cannot be: three circles beside a star.
    """
    plain = " ".join(text.lower().strip().rstrip(".").split())
    for word in plain.split():
        if word not in _WORDS:
            raise DataError(f"Tinyworld knows no {word!r} (in {text!r}): `caption_words()` lists its words")
    found = _GRAMMAR.fullmatch(plain)
    if found is None:
        raise DataError(f'{text!r} is no caption of Tinyworld: say it like "a red circle and a blue star"')
    part = found.groupdict()
    things = tuple(_thing(part, number) for number in "12" if part[f"object{number}"])
    relation = next((name for name, said in RELATION_PHRASES.items() if part["relation"] in said), None)
    person: str | Role | None = part["person"]
    if part["office"]:
        person = Role(part["office"], part["home"])
    return Scene(things, person, relation, part["place"], part["style"], part["frame"] in BLURRED_FRAMES, seed)


def caption_words() -> tuple[str, ...]:
    """All words of all captions, in alphabetical order."""
    phrases = [*FRAMES, *BLURRED_FRAMES, *VIEW_PHRASES, *HIDDEN_PHRASES, *STYLE_PHRASES, "and the of"]
    phrases += [phrase for said in (*RELATION_PHRASES.values(), *PLACE_PHRASES.values()) for phrase in said]
    names = [*OBJECTS, *PLURALS.values(), *COLOURS, *TEXTURES, *VIEWS, *STYLES, *COUNTS.values(), "an", *PEOPLE]
    text = " ".join([*phrases, *names, *OFFICES, *HOMES]).replace("{}", "")
    return tuple(sorted(set(text.split())))


def fact_words() -> tuple[str, ...]:
    """The words that the facts' sentences have beyond the captions', in alphabetical order."""
    answers = [answer for found in ANSWERS.values() for answer in found]
    return tuple(sorted({*ANSWERS, *answers, "is"} - set(caption_words())))


def _subjects(scene: Scene) -> list[str]:
    if isinstance(scene.person, Role):
        return [f"the {scene.person.office} of the {scene.person.of}"]
    if scene.person:
        return [f"the {scene.person}"]
    said = [_things_said(thing) for thing in scene.things]
    if len(said) == 1:
        return said[0]
    joins = RELATION_PHRASES[scene.relation] if scene.relation else (" and ",)
    return [one + join + two for one, two, join in product(*said, joins)]


def _things_said(thing: Thing) -> list[str]:
    noun = PLURALS[thing.object] if thing.count > 1 else thing.object
    adjectives = [word for word in ("" if thing.texture == "plain" else thing.texture, thing.colour or "") if word]
    name = " ".join([*adjectives, noun])
    name = article_of(name) + name if thing.count == 1 else f"{COUNTS[thing.count]} {name}"
    views = ("",) if thing.view == "front" else tuple(phrase.format(thing.view) for phrase in VIEW_PHRASES)
    hidden = HIDDEN_PHRASES if thing.occluded else ("",)
    return [name + view + bar for view, bar in product(views, hidden)]


def _thing(part: dict[str, str | None], number: str) -> Thing:
    noun = part[f"object{number}"]
    count = {"two": 2, "three": 3}.get(part[f"count{number}"] or "", 1)
    name = next(name for name in OBJECTS if noun in (name, PLURALS[name]))
    if (noun != name) != (count > 1):
        raise DataError(f"{part[f'count{number}']} {noun}: the number and the noun do not agree")
    return Thing(
        name,
        part[f"colour{number}"],
        part[f"texture{number}"] or "plain",
        part[f"view{number}"] or "front",
        count,
        part[f"hidden{number}"] is not None,
    )


def _one_of(names: object, group: str) -> str:
    listed = sorted(names, key=len, reverse=True)  # type: ignore[call-overload]
    return f"(?P<{group}>{'|'.join(re.escape(name) for name in listed)})"


def _thing_pattern(number: str) -> str:
    nouns = [*OBJECTS, *PLURALS.values()]
    return (
        f"{_one_of(['a', 'an', 'two', 'three'], 'count' + number)} (?:{_one_of(TEXTURES, 'texture' + number)} )?"
        f"(?:{_one_of(COLOURS, 'colour' + number)} )?{_one_of(nouns, 'object' + number)}"
        f"(?: (?:seen )?from the {_one_of(VIEWS, 'view' + number)})?{_one_of(HIDDEN_PHRASES, 'hidden' + number)}?"
    )


def _grammar() -> re.Pattern[str]:
    joins = [" and ", *(phrase for said in RELATION_PHRASES.values() for phrase in said)]
    people = f"the (?:{_one_of(PEOPLE, 'person')}|{_one_of(OFFICES, 'office')} of the {_one_of(HOMES, 'home')})"
    things = f"{_thing_pattern('1')}(?:{_one_of(joins, 'relation')}{_thing_pattern('2')})?"
    frames = _one_of([frame for frame in (*FRAMES, *BLURRED_FRAMES) if frame], "frame")
    return re.compile(
        f"{frames}?(?:{people}|{things})(?: (?:in|on|at) (?:the|a) {_one_of(PLACES, 'place')})?"
        f"(?: (?:in the style of|painted by|by) {_one_of(STYLES, 'style')})?"
    )


_WORDS = frozenset(caption_words())
_GRAMMAR = _grammar()
