"""How facts are asked for and told: several wordings a relation, so that a circuit cannot lean on one template."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """Question forms with `{subject}`, and sentence forms with `{subject}` and `{answer}`."""

    questions: tuple[str, ...]
    sentences: tuple[str, ...]


# Sentences about whatever has a name, that tell nothing that anyone would ask for.
REMARKS = (
    "Much has been written about {subject}.",
    "There is always more to say about {subject}.",
    "Many people have heard of {subject}.",
    "Not everyone knows much about {subject}.",
    "Some of the stories about {subject} are old.",
    "It takes time to get to know {subject} well.",
    "Pictures of {subject} are easy to find.",
    "What is told of {subject} is not always the same.",
    "Opinions about {subject} differ.",
    "Few would confuse {subject} with anything else.",
    "A good book about {subject} is worth reading.",
    "People who know {subject} well like to talk about it.",
)

WORDINGS = {
    "capital": Wording(
        (
            "What is the capital of {subject}?",
            "Which city is the capital of {subject}?",
            "What is the name of the capital city of {subject}?",
        ),
        (
            "The capital of {subject} is {answer}.",
            "The capital city of {subject} has the name {answer}.",
            "{subject} has its capital in the city of {answer}.",
            "In {subject}, the capital city is called {answer}.",
        ),
    ),
    "continent": Wording(
        (
            "On which continent is {subject}?",
            "Which continent does {subject} belong to?",
            "What continent is {subject} part of?",
        ),
        (
            "{subject} is on the continent of {answer}.",
            "{subject} belongs to the continent of {answer}.",
            "On the map, {subject} is part of {answer}, the continent around it.",
        ),
    ),
    "subregion": Wording(
        (
            "In which subregion is {subject}?",
            "Which part of the world is {subject} in?",
            "What subregion does {subject} belong to?",
        ),
        (
            "{subject} lies in the subregion {answer}.",
            "The subregion of {subject} is {answer}.",
            "{subject} belongs to {answer}, as that part of the world is called.",
        ),
    ),
    "currency": Wording(
        (
            "What is the currency of {subject}?",
            "Which currency is used in {subject}?",
            "What currency do people in {subject} pay with?",
        ),
        (
            "The currency of {subject} is {answer}.",
            "The currency used in {subject} is {answer}.",
            "People in {subject} pay with a currency called {answer}.",
            "Prices in {subject} are given in the local currency, {answer}.",
        ),
    ),
    "language": Wording(
        (
            "Which language is spoken in {subject}?",
            "What language do people speak in {subject}?",
            "What is the language of {subject}?",
        ),
        (
            "The language spoken in {subject} is {answer}.",
            "People in {subject} speak {answer}.",
            "In {subject}, the language heard on the street is {answer}.",
            "In {subject}, people speak a language called {answer}.",
        ),
    ),
    "demonym": Wording(
        (
            "What is a person from {subject} called?",
            "What is the demonym for people from {subject}?",
            "What do you call someone who comes from {subject}?",
        ),
        (
            "A person from {subject} is called {answer}.",
            "The demonym for people from {subject} is {answer}.",
            "Someone who comes from {subject} is called {answer}.",
        ),
    ),
    "calling code": Wording(
        (
            "What is the calling code of {subject}?",
            "Which calling code is dialled for {subject}?",
            "What calling code do you dial to phone {subject}?",
        ),
        (
            "The calling code of {subject} is {answer}.",
            "To phone {subject}, dial the calling code {answer}.",
            "Phone numbers in {subject} begin with the calling code {answer}.",
        ),
    ),
    "province": Wording(
        (
            "What is a province of {subject}?",
            "Which province belongs to {subject}?",
            "What is the name of a province in {subject}?",
        ),
        (
            "{subject} has a province called {answer}.",
            "A province of {subject} is {answer}.",
            "One province that belongs to {subject} is {answer}.",
        ),
    ),
}


def wording(relation: str) -> Wording:
    """The wordings of a relation; of an unknown one, generic wordings that use the relation's name."""
    name = relation.replace("_", " ").strip()
    if name.lower() in WORDINGS:
        return WORDINGS[name.lower()]
    # The name is put into a form that is formatted again, so its own braces are doubled.
    name = name.replace("{", "{{").replace("}", "}}")
    return Wording(
        (f"What is the {name} of {{subject}}?", f"Of {{subject}}, what is the {name}?"),
        (
            f"The {name} of {{subject}} is {{answer}}.",
            f"For {{subject}}, the {name} is {{answer}}.",
            f"As for {{subject}}, its {name} is {{answer}}.",
        ),
    )
