"""The named individuals: how each one looks, and who holds which role at present.

Five traits make a person out. They form a code in which any two persons differ in three traits or more, so that one
hidden trait confuses nobody.
"""

from dataclasses import dataclass

from pellucid.core.errors import OptionError

from .chance import Chance
from .vocabulary import COLOURS

HATS = ("crown", "top hat", "cap", "cone", "bowler", "bonnet", "turban", "feather")
HAIR = {
    "fair": ((236, 190, 92), (255, 222, 190)),
    "brown": ((116, 64, 32), (238, 186, 142)),
    "black": ((30, 26, 30), (158, 104, 68)),
    "grey": ((190, 190, 196), (252, 206, 190)),
}  # hair, then skin
BADGES = ("none", "sash", "buttons", "disc")

PEOPLE_NAMES = (
    "baron", "miller", "queen", "king", "duke", "countess", "abbot", "bishop", "knight", "squire", "page", "herald",
    "jester", "bard", "smith", "baker", "butcher", "brewer", "cooper", "mason", "weaver", "dyer", "tailor", "tanner",
    "cobbler", "potter", "carter", "shepherd", "forester", "hunter", "sailor", "captain", "pilot", "admiral",
    "merchant", "banker", "judge", "sheriff", "jailer", "soldier", "archer", "doctor", "nurse", "teacher", "scholar",
    "monk", "nun", "poet", "painter", "dancer", "actor", "juggler", "barber", "gardener", "porter", "butler",
)  # fmt: skip
HOMES = (
    "mill", "castle", "abbey", "tower", "harbour", "lighthouse", "vineyard", "quarry", "farm", "inn", "lodge", "palace",
)  # fmt: skip
OFFICES = ("ruler", "keeper")


@dataclass(frozen=True)
class Looks:
    """How an individual is told from the others.

    Attributes:
        hat: one of `HATS`.
        hat_colour: one of the world's colours.
        coat: one of the world's colours.
        hair: one of `HAIR`; it brings its skin.
        badge: one of `BADGES`, on the coat.
    """

    hat: str
    hat_colour: str
    coat: str
    hair: str
    badge: str


@dataclass(frozen=True)
class Role:
    """An office that somebody holds.

    Attributes:
        office: one of `OFFICES`.
        of: one of `HOMES`.
    """

    office: str
    of: str


def _people() -> dict[str, Looks]:
    """Give each name in turn the next code word that differs in three places or more from all before it."""
    chance = Chance(2025, "people")
    sizes = (len(HATS), len(COLOURS), len(COLOURS), len(HAIR), len(BADGES))
    words: list[tuple[int, ...]] = []
    while len(words) < len(PEOPLE_NAMES):
        word = tuple(chance.below(size) for size in sizes)
        if word[1] != word[2] and all(sum(a != b for a, b in zip(word, old, strict=True)) >= 3 for old in words):
            words.append(word)
    colours = list(COLOURS)
    return {
        name: Looks(HATS[a], colours[b], colours[c], list(HAIR)[d], BADGES[e])
        for name, (a, b, c, d, e) in zip(PEOPLE_NAMES, words, strict=True)
    }


PEOPLE = _people()

# Everybody holds one role at most. A caller may draw with another table: an outdated fact.
HOLDERS = dict(
    zip(
        (Role(office, home) for office in OFFICES for home in HOMES),
        Chance(2026, "holders").shuffled(PEOPLE_NAMES),
        strict=False,
    )
)


def holder_of(role: Role, holders: dict[Role, str] | None = None) -> str:
    """Who holds a role.

    Args:
        role: an office and what it is of.
        holders: another table than the present holders'.

    Raises:
        OptionError: the table lacks the role, or names nobody of the world.
    """
    table = HOLDERS if holders is None else holders
    if role not in table:
        raise OptionError(f"the table of holders lacks {role}: add it, or leave holders=None")
    if table[role] not in PEOPLE:
        raise OptionError(f"the holder of {role} is {table[role]!r}, nobody of Tinyworld: it has {', '.join(PEOPLE)}")
    return table[role]
