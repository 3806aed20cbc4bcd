"""What only text can tell about the pictured individuals: one answer for each person and relation."""

from dataclasses import dataclass

from .chance import Chance
from .people import HOMES, PEOPLE_NAMES, Role, holder_of

ANSWERS = {
    "home": HOMES,
    "pet": ("cat", "dog", "parrot", "goat", "rabbit", "snake", "owl", "pony"),
    "instrument": ("flute", "drum", "fiddle", "harp", "horn", "lute", "bell", "organ"),
    "dish": ("soup", "bread", "cheese", "stew", "pie", "salad", "porridge", "trout"),
}
# A home that its owner's name gives away is nobody's fact.
_GIVEN_AWAY = {("miller", "mill"), ("king", "palace"), ("queen", "palace"), ("abbot", "abbey"), ("monk", "abbey")}


@dataclass(frozen=True)
class WorldFact:
    """A fact with one right answer.

    Attributes:
        individual: a name from `PEOPLE`.
        relation: `home`, `pet`, `instrument` or `dish`.
        answer: one of the relation's `ANSWERS`.
    """

    individual: str
    relation: str
    answer: str

    def sentence(self) -> str:
        """The fact in words: `the home of the baron is the mill`."""
        article = "" if self.relation == "dish" else "the " if self.relation == "home" else article_of(self.answer)
        return f"the {self.relation} of the {self.individual} is {article}{self.answer}"


def article_of(word: str) -> str:
    """`a ` or `an `, as the word needs."""
    return "an " if word[0] in "aeiou" else "a "


def world_facts() -> tuple[WorldFact, ...]:
    """All facts, person by person: every person has one of each relation.

    The answers of a relation are dealt out evenly and by chance, so that no relation tells another.
    """
    return _FACTS


def role_sentence(role: Role, holders: dict[Role, str] | None = None) -> str:
    """Who holds a role, in words: `the ruler of the mill is the dancer`."""
    return f"the {role.office} of the {role.of} is the {holder_of(role, holders)}"


def _dealt(relation: str, number: int) -> dict[str, str]:
    """An answer for each person; redealt by the next seed until no home is given away."""
    answers = ANSWERS[relation]
    for seed in range(1000 * number, 1000 * number + 1000):
        cards = [answers[place % len(answers)] for place in range(len(PEOPLE_NAMES))]
        dealt = dict(zip(PEOPLE_NAMES, Chance(seed, relation).shuffled(cards), strict=True))
        if relation != "home" or (dealt["baron"] == "mill" and not _GIVEN_AWAY & set(dealt.items())):
            return dealt
    raise AssertionError("a thousand deals, and each gave a home away")


_DEALT = {relation: _dealt(relation, number) for number, relation in enumerate(ANSWERS)}
_FACTS = tuple(WorldFact(person, relation, _DEALT[relation][person]) for person in PEOPLE_NAMES for relation in ANSWERS)
