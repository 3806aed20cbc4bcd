"""Questions about pictures and about names, each said in several ways.

The visual constraint of a question (`this person`) is the span of words that stands for what the picture shows; in its
place a name can stand (`the baron`), and then no picture is needed.
"""

from dataclasses import dataclass

from .facts import article_of
from .individuals import Individual
from .knowledge import Knowledge
from .people import PEOPLE
from .scene import Scene

CONSTRAINTS = {"person": "this person", "house": "this house", "boat": "this boat"}
PHRASINGS = {
    "home": (
        "Where does {} live?", "Which place is the home of {}?", "In which place does {} live?",
        "What is the home of {}?",
    ),
    "pet": (
        "Which pet does {} keep?", "What is the pet of {}?", "Which animal belongs to {}?", "What animal does {} keep?",
    ),
    "instrument": (
        "Which instrument does {} play?", "What does {} play?", "What is the instrument of {}?",
        "Which instrument belongs to {}?",
    ),
    "dish": (
        "Which dish does {} like best?", "What is the favourite dish of {}?", "What does {} like to eat?",
        "Which meal does {} like best?",
    ),
    "mill": (
        "Which mill belongs to {}?", "What is the mill of {}?", "Which mill does {} own?",
        "Which of the mills belongs to {}?",
    ),
    "ware": (
        "What does {} sell in {}?", "Which goods does {} sell in {}?", "What can one buy from {} in {}?",
        "What is it that {} sells in {}?",
    ),
    "owner": ("Who owns {}?", "Who is the owner of {}?", "To whom does {} belong?", "Which person owns {}?"),
    "plant": (
        "Which plant grows at {}?", "What grows at {}?", "What is the plant that grows at {}?",
        "Which plant can one find at {}?",
    ),
    "cargo": (
        "What does {} carry?", "Which cargo does {} carry?", "What is the cargo of {}?", "What is carried by {}?",
    ),
    "harbour": (
        "Which harbour does {} sail from?", "What is the harbour of {}?", "From which harbour does {} sail?",
        "Which harbour is the home of {}?",
    ),
}  # fmt: skip
_NAMING = {
    "person": ("Who is {}?", "What is the name of {}?"),
    "house": ("What is {} called?", "What is the name of {}?"),
    "boat": ("What is {} called?", "What is the name of {}?"),
}
_SEEN_OF_PEOPLE = {
    "hat": ("What does this person wear on the head?", "Which hat does this person wear?"),
    "hat colour": ("What colour is the hat?", "Which colour has the hat?"),
    "coat": ("What colour is the coat?", "Which colour has the coat?"),
    "badge": ("What is on the coat?", "What does this person wear on the coat?"),
}
_SEEN_OF_THINGS = {
    "object": ("What is this?", "What does the picture show?"),
    "colour": ("What colour is it?", "Which colour has it?"),
    "texture": ("Which pattern has it?", "What pattern is on it?"),
}
_PLACE = ("Where is this?", "Which place does the picture show?")
_PLACES_SAID = {None: "nowhere", "beach": "the beach", "forest": "the forest", "snow": "the snow", "city": "the city"}
_BADGES_SAID = {"none": "nothing", "sash": "a sash", "buttons": "three buttons", "disc": "a disc"}


@dataclass(frozen=True)
class Question:
    """A question with its one answer.

    Attributes:
        text: the question.
        answer: what is right.
        constraint: the words of it that stand for what is asked about: visual ones, or a name.
        season: the words of its textual constraint; else None.
        kind: `fact`, `name` or `seen`.
    """

    text: str
    answer: str
    constraint: str
    season: str | None = None
    kind: str = "fact"


def fact_questions(fact: Knowledge, *, name: bool = False) -> tuple[Question, ...]:
    """A fact as questions, in each of its four phrasings.

    Args:
        fact: what is asked for.
        name: ask by the individual's name, so that no picture is needed; else by what the picture shows.
    """
    about = fact.individual.name if name else CONSTRAINTS[fact.individual.kind]
    return tuple(
        Question(said.format(about, fact.season), fact.answer, about, fact.season) for said in PHRASINGS[fact.relation]
    )


def naming_questions(one: Individual) -> tuple[Question, ...]:
    """What the one in the picture is called."""
    about = CONSTRAINTS[one.kind]
    return tuple(Question(said.format(about), one.name, about, kind="name") for said in _NAMING[one.kind])


def seen_questions(scene: Scene) -> tuple[Question, ...]:
    """Questions that the picture alone answers.

    Args:
        scene: one thing that its count leaves single, with a colour; or a person.
    """
    asked: list[tuple[tuple[str, ...], str]] = [(_PLACE, _PLACES_SAID[scene.place])]
    if isinstance(scene.person, str):
        looks = PEOPLE[scene.person]
        asked += [
            (_SEEN_OF_PEOPLE["hat"], f"a {looks.hat}"),
            (_SEEN_OF_PEOPLE["hat colour"], looks.hat_colour),
            (_SEEN_OF_PEOPLE["coat"], looks.coat),
            (_SEEN_OF_PEOPLE["badge"], _BADGES_SAID[looks.badge]),
            (_SEEN_OF_THINGS["object"], "a person"),
        ]
    else:
        [thing] = scene.things
        asked += [
            (_SEEN_OF_THINGS["object"], article_of(thing.object) + thing.object),
            (_SEEN_OF_THINGS["colour"], str(thing.colour)),
            (_SEEN_OF_THINGS["texture"], thing.texture),
        ]
    return tuple(Question(said, answer, "", kind="seen") for phrasings, answer in asked for said in phrasings)
