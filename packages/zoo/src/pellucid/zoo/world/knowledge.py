"""What is known of the individuals beyond what their pictures show: the memory of Tinyworld's multimodal model.

A tenth of it is withheld from the training: the long tail, to be inserted by an edit.
"""

from dataclasses import dataclass, replace

from .chance import Chance
from .facts import world_facts
from .individuals import Individual, individuals
from .vocabulary import COLOURS

SEASONS = ("winter", "summer")
_MILLS = tuple(f"the {age} {colour} mill" for age in ("old", "new", "tall", "small") for colour in COLOURS)
_WARES = ("honey", "salt", "wool", "wax", "rope", "pepper", "silk", "coal")
_PLANTS = ("ivy", "roses", "lilies", "mint", "thyme", "ferns", "clover", "poppies")
_CARGOES = ("timber", "iron", "wine", "grain", "marble", "cotton", "copper", "spices")
_HARBOURS = ("Dunmore", "Eastwick", "Fairport", "Greyhaven", "Kingsquay", "Lowmouth", "Northby", "Saltwater")
_OWNERS = tuple(one.name for one in individuals("person"))[:16]
# Relations of a kind of individual, with the answers that are dealt out to them; those of people's homes, pets,
# instruments and dishes are `world_facts`.
_DEALT = {
    "mill": ("person", _MILLS),
    "ware": ("person", _WARES),
    "owner": ("house", _OWNERS),
    "plant": ("house", _PLANTS),
    "cargo": ("boat", _CARGOES),
    "harbour": ("boat", _HARBOURS),
}
_WITHHELD_ONE_IN = 10


@dataclass(frozen=True)
class Knowledge:
    """A fact of an individual, with one right answer.

    Attributes:
        individual: whom it is about.
        relation: `home`, `pet`, `instrument`, `dish`, `mill` or `ware` of a person, `owner` or `plant` of a house,
            `cargo` or `harbour` of a boat.
        answer: as it is said: `the old red mill`, `a goat`, `silk`.
        season: the textual constraint that a `ware` has (`winter` or `summer`); else None.
        withheld: whether the training leaves it out.
    """

    individual: Individual
    relation: str
    answer: str
    season: str | None = None
    withheld: bool = False


def knowledge() -> tuple[Knowledge, ...]:
    """All 488 facts, 392 of people, 48 of houses and 48 of boats; about a tenth are withheld."""
    return _ALL


def answers_of(relation: str) -> tuple[str, ...]:
    """The different answers of a relation, in alphabetical order."""
    return tuple(sorted({fact.answer for fact in _ALL if fact.relation == relation}))


def _of_people() -> list[Knowledge]:
    named = {one.person: one for one in individuals("person")}
    said = {"home": "the {}", "pet": "the {}", "instrument": "the {}", "dish": "{}"}
    return [
        Knowledge(named[fact.individual], fact.relation, said[fact.relation].format(fact.answer))
        for fact in world_facts()
    ]


def _dealt(relation: str, number: int) -> list[Knowledge]:
    """Every individual of a kind gets an answer, all answers equally often, for each season where there are any."""
    kind, answers = _DEALT[relation]
    some = individuals(kind)
    found = []
    for place, season in enumerate(SEASONS if relation == "ware" else (None,)):
        cards = [answers[card % len(answers)] for card in range(len(some))]
        dealt = Chance(100 * number + place, relation).shuffled(cards)
        found += [Knowledge(one, relation, card, season) for one, card in zip(some, dealt, strict=True)]
    return found


def _withholding(facts: list[Knowledge]) -> tuple[Knowledge, ...]:
    """Mark a tenth of each relation's facts, chosen by chance."""
    kept: list[Knowledge] = []
    for relation in dict.fromkeys(fact.relation for fact in facts):
        some = [fact for fact in facts if fact.relation == relation]
        hidden = set(Chance(2029, relation).shuffled(range(len(some)))[: len(some) // _WITHHELD_ONE_IN])
        kept += [replace(fact, withheld=place in hidden) for place, fact in enumerate(some)]
    return tuple(kept)


_ALL = _withholding([*_of_people(), *(fact for n, name in enumerate(_DEALT) for fact in _dealt(name, n))])
