"""Concepts to edit: prompts that show a style, an object or a fact, and the same prompts without it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import punctuation
from typing import Literal, get_args

from pellucid.core.errors import DataError, OptionError
from pellucid.core.jsonl import read_records, write_records

from .probes import with_article
from .subjects import occurrences

Kind = Literal["style", "object", "fact"]
KINDS: tuple[str, ...] = get_args(Kind)

THINGS = (
    "a house", "a tree", "a car", "a boat", "a dog", "a cat", "a chair", "a vase", "a bridge", "a mountain",
)  # fmt: skip
"""What a style is shown on."""

SETTINGS = (
    "", "on the beach", "in the forest", "in the city", "in the kitchen", "on a mountain", "in the park", "in a room",
    "in the snow", "at night",
)  # fmt: skip
"""Where an object or a person is shown."""


@dataclass(frozen=True)
class ConceptPrompts:
    """Prompts that show a concept, each with the prompt that it shall act like after the edit (thesis 5.8.1, 5.9.1).

    Attributes:
        concept: the words to edit, which stand in every prompt, such as "van gogh".
        kind: "style", "object" or "fact".
        prompts: at least one; its subject is `concept`.
        targets: one for each prompt: the same without the concept, or with the new answer of a fact.

    Raises:
        OptionError: the kind is none of the three.
        DataError: there are no prompts, prompts and targets are of different number, a target is empty, or a prompt
            lacks the concept.
    """

    concept: str
    kind: str
    prompts: tuple[str, ...]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        if not self.prompts:
            raise DataError(f"{self.concept!r} has no prompts: give at least one")
        if len(self.prompts) != len(self.targets):
            raise DataError(
                f"{self.concept!r} has {len(self.prompts)} prompts and {len(self.targets)} targets: give each its own"
            )
        for prompt, target in zip(self.prompts, self.targets, strict=True):
            if not occurrences(self.concept, prompt):
                raise DataError(
                    f"the concept {self.concept!r} does not stand in the prompt {prompt!r}: it must, as whole words"
                )
            if not target.strip():
                raise DataError(f"the target of {prompt!r} is empty: give the prompt without {self.concept!r}")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def replacements(self) -> tuple[str, ...]:
        """The words of each target whose last token takes the place of the concept's last token (thesis 5.9.1).

        These are the words that stand where the prompt has the concept ("a painting"); where the target only leaves
        words out, the last one before the gap ("house" of "a house"), or the first of all where the gap is in front.
        """
        return tuple(_changed(self.concept, *pair) for pair in zip(self.prompts, self.targets, strict=True))

    def take(self, indices: Iterable[int]) -> "ConceptPrompts":
        """The pairs at some places, such as one half to locate with and the other half to report on."""
        kept = tuple(indices)
        return replace(
            self,
            prompts=tuple(self.prompts[index] for index in kept),
            targets=tuple(self.targets[index] for index in kept),
        )


def concept_prompts(
    concept: str,
    kind: str,
    *,
    objects: Sequence[str] | None = None,
    settings: Sequence[str] | None = None,
    target: str | None = None,
    paraphrased: bool = False,
) -> ConceptPrompts:
    """Make prompts of a concept, and their targets, from templates.

    - style: "a house in the style of van gogh" -> "a house in the style of a painting"; one prompt a thing.
    - object: "a photo of a dog on the beach" -> "a photo of a cat on the beach"; one prompt a setting. An article is
      put before the concept and the target unless they begin with one or with a capital letter ("Snoopy").
    - fact: "a photo of the president of the united states in the city" -> "a photo of joe biden in the city"; the
      concept is the question's words with their article, the target the new answer.

    Args:
        concept: the words to edit.
        kind: "style", "object" or "fact".
        objects: of a style: the things that it is shown on, with their articles ("a red circle"); `THINGS` by default.
        settings: of an object or a fact: where it is shown ("on the beach", or "" for nowhere); `SETTINGS` by default.
        target: what takes the concept's place. For a style "a painting" by default. "" leaves the concept out, with
            the words that bind it ("a house", "a photo on the beach"); the default for an object. A fact needs one.
        paraphrased: say the same in other words ("a house painted by van gogh"), to see how far an edit reaches.

    Raises:
        OptionError: the kind is unknown, a text that is needed is empty, or an argument is not for this kind.
    """
    _check_kind(kind)
    concept = concept.strip()
    if not concept:
        raise OptionError("the concept is empty: give the words to edit, such as 'van gogh'")
    if kind == "style":
        if settings is not None:
            raise OptionError("settings are for objects and facts: give a style objects to be shown on")
        target = "a painting" if target is None else target.strip()
        pairs = _style_pairs(concept, target, THINGS if objects is None else objects, paraphrased)
    else:
        if objects is not None:
            raise OptionError(f"objects are for styles: give settings where the {kind} is shown")
        target = (target or "").strip()
        if kind == "fact" and not target:
            raise OptionError(f"the fact {concept!r} has no new answer: give a target, such as 'joe biden'")
        names = (_named(concept), _named(target)) if kind == "object" else (concept, target)
        pairs = _shown_pairs(*names, SETTINGS if settings is None else settings, paraphrased)
    if not pairs:
        raise OptionError(f"there is nothing to show {concept!r} with: give at least one of what it is combined with")
    prompts, targets = zip(*dict.fromkeys(pairs), strict=True)
    return ConceptPrompts(concept, kind, prompts, targets)


def read_concepts(path: str | Path) -> tuple[ConceptPrompts, ...]:
    """Read concepts from a JSON Lines file: a prompt a line, with the fields `concept`, `kind`, `prompt`, `target`.

    Lines of one concept and kind belong together, wherever they stand; other fields are ignored.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line cannot be used; the message names file and line.
    """
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for where, record in read_records(path, ("concept", "kind", "prompt", "target")):
        concept, kind, prompt, target = record.values()
        try:
            ConceptPrompts(concept, kind, (prompt,), (target,))
        except (DataError, OptionError) as error:
            raise DataError(f"{where}: {error}") from error
        pairs.setdefault((concept, kind), []).append((prompt, target))
    return tuple(
        ConceptPrompts(concept, kind, *(tuple(texts) for texts in zip(*found, strict=True)))
        for (concept, kind), found in pairs.items()
    )


def write_concepts(path: str | Path, concepts: Iterable[ConceptPrompts]) -> None:
    """Write concepts as JSON Lines, as `read_concepts` reads them; the file appears whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    write_records(
        path,
        (
            {"concept": found.concept, "kind": found.kind, "prompt": prompt, "target": target}
            for found in concepts
            for prompt, target in zip(found.prompts, found.targets, strict=True)
        ),
    )


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise OptionError(f"kind {kind!r} is not one of {', '.join(KINDS)}")


def _style_pairs(concept: str, target: str, things: Sequence[str], paraphrased: bool) -> list[tuple[str, str]]:
    binding = ("painted by", "by") if paraphrased else ("in the style of",)
    return [
        (f"{thing} {bound} {concept}", f"{thing} {bound} {target}" if target else thing)
        for bound in binding
        for thing in things
    ]


def _shown_pairs(concept: str, target: str, settings: Sequence[str], paraphrased: bool) -> list[tuple[str, str]]:
    pairs = []
    for frame in ("an image", "a drawing") if paraphrased else ("a photo",):
        for setting in settings:
            shown = f"{frame} of {target}" if target else frame
            pairs.append((f"{frame} of {concept} {setting}".strip(), f"{shown} {setting}".strip()))
    return pairs


def _named(noun: str) -> str:
    """The noun with an article, unless it is empty, has one already, or is a name."""
    if not noun or noun[0].isupper() or noun.split()[0].lower() in ("a", "an", "the"):
        return noun
    return with_article(noun)


def _changed(concept: str, prompt: str, target: str) -> str:
    """The target's words in the place of the prompt's concept: what stands between the beginning and end they share."""
    start, end = occurrences(concept, prompt)[-1]
    old, new = prompt.split(), target.split()
    # The shared parts end at the concept, so that all of "hot dog" takes the place of "dog".
    before = min(len(prompt[: start + 1].split()) - 1, len(new))
    front = next((k for k in range(before) if old[k] != new[k]), before)
    after = min(len(old) - len(prompt[:end].split()), len(new) - front)
    back = next((k for k in range(after) if old[-1 - k] != new[-1 - k]), after)
    words = new[front : len(new) - back] or new[max(front - 1, 0) :][:1]
    changed = " ".join(words)
    return changed.strip(punctuation) or changed


def chosen_concept(concepts: Sequence[ConceptPrompts], name: str) -> ConceptPrompts:
    """The concept of a name.

    Raises:
        DataError: there is none.
    """
    for concept in concepts:
        if concept.concept.lower() == name.lower():
            return concept
    known = ", ".join(concept.concept for concept in concepts[:12])
    raise DataError(f"there are no prompts of {name!r} in the file: it has {known}")
